//! The memory of a device as the local end: staged through host buffers.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind, Limits, Op, Quiet, RegionId, Result, Status, StatusKind};

use super::engine::{WATCHDOG, link_up};
use super::{Engine, copies, eventually, pair, wait};
use crate::memory::DeviceMemory;
use crate::{Janitor, Memory, State};

/// Called with the number of the copy, in the copy.
type Hook = Box<dyn Fn(usize) -> Result<()> + Send + Sync>;

/// A device in this process.
struct Fake {
    bytes: Mutex<Vec<u8>>,
    copies: AtomicUsize,
    hook: OnceLock<Hook>,
}

impl Fake {
    fn copy(&self) -> Result<()> {
        let number = self.copies.fetch_add(1, Ordering::SeqCst);
        self.hook.get().map_or(Ok(()), |hook| hook(number))
    }
}

struct Device(Arc<Fake>);

impl DeviceMemory for Device {
    fn device(&self) -> u32 {
        0
    }

    fn address(&self) -> u64 {
        0x1000
    }

    fn bytes(&self) -> u64 {
        self.0.bytes.lock().unwrap().len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.0.copy()?;
        into.copy_from_slice(&self.0.bytes.lock().unwrap()[at as usize..][..into.len()]);
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.0.copy()?;
        self.0.bytes.lock().unwrap()[at as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        self.0.bytes.lock().unwrap()[at as usize..][..len as usize].fill(byte);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn device(bytes: usize, janitor: &Janitor) -> (Arc<Fake>, Arc<Memory>) {
    let fake =
        Arc::new(Fake { bytes: vec![0; bytes].into(), copies: AtomicUsize::new(0), hook: OnceLock::new() });
    let memory = Memory::of_device(Arc::new(Device(Arc::clone(&fake))), janitor).unwrap();
    (fake, memory)
}

/// Two engines, and a device's memory at the first one.
struct Rig {
    a: Engine,
    b: Engine,
    fake: Arc<Fake>,
    memory: Arc<Memory>,
}

const BYTES: usize = 24 << 20;
const REGION: RegionId = RegionId { slot: 9, generation: 1 };

impl Rig {
    fn new() -> Self {
        let (a, b) = pair(BYTES);
        let (fake, memory) = device(BYTES, &a.janitor);
        a.link().adopt(REGION, &memory, Instant::now() + WATCHDOG).unwrap();
        Self { a, b, fake, memory }
    }

    fn post(&self, op: Op, count: u64, len: u32) -> Arc<State> {
        let (batch, state) = self.a.batch_of(&self.memory, op, copies(count, len), WATCHDOG);
        assert!(self.a.link().post(batch).is_ok());
        state
    }

    fn hook(&self, hook: impl Fn(usize) -> Result<()> + Send + Sync + 'static) {
        assert!(self.fake.hook.set(Box::new(hook)).is_ok());
    }

    fn ended_once(&self, state: &State) -> Status {
        let status = wait(&self.a, state);
        assert_eq!(self.a.ends.of(state.id()), [status], "exactly one end");
        status
    }

    /// Nothing more happens to the device's memory.
    fn stays(&self) {
        let before = (self.fake.copies.load(Ordering::SeqCst), self.fake.bytes.lock().unwrap().clone());
        std::thread::sleep(Duration::from_millis(100));
        let after = (self.fake.copies.load(Ordering::SeqCst), self.fake.bytes.lock().unwrap().clone());
        assert!(before == after, "the device's memory was touched after the end");
    }
}

fn reversed(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.rchunks(len).collect::<Vec<_>>().concat()
}

#[test]
fn a_devices_memory_is_read_into_and_written_from_to_the_last_byte() {
    let rig = Rig::new();
    for (count, len) in [(1, 1u32), (3, 1000), (4000, 4096), (5, (4 << 20) - 7), (2, 9 << 20), (17, 65_536)] {
        let moved = count as usize * len as usize;
        let theirs = rig.b.pattern();
        rig.fake.bytes.lock().unwrap().fill(0);
        let status = rig.ended_once(&rig.post(Op::Read, count, len));
        assert_eq!(status, Status::COMPLETED.with_run(count as u32));
        let ours = rig.fake.bytes.lock().unwrap().clone();
        assert!(ours[..moved] == reversed(&theirs[..moved], len as usize), "read {count} x {len}");
        assert!(ours[moved..].iter().all(|byte| *byte == 0), "a byte beyond the blocks");
        rig.b.memory.fill(0, BYTES as u64, 0).unwrap();
        assert!(rig.ended_once(&rig.post(Op::Write, count, len)).is_completed());
        assert!(rig.b.bytes()[..moved] == theirs[..moved], "write {count} x {len}");
    }
}

#[test]
fn a_staged_transfer_cancelled_on_its_way_ends_once_and_is_quiet() {
    for op in [Op::Read, Op::Write] {
        let rig = Rig::new();
        let link = Arc::clone(rig.a.link());
        let id = Arc::new(OnceLock::new());
        let known = Arc::clone(&id);
        // In its third copy; the id is known by then.
        rig.hook(move |number| {
            if number == 2 {
                link.cancel(*known.wait());
            }
            Ok(())
        });
        let state = rig.post(op, 20, 1 << 20);
        id.set(state.id()).unwrap();
        let status = rig.ended_once(&state);
        assert_eq!(
            (status.kind, status.local, status.remote),
            (StatusKind::Cancelled, Quiet::Yes, Quiet::Yes)
        );
        rig.stays();
    }
}

#[test]
fn a_device_that_fails_ends_its_transfer_with_its_number_and_the_link_goes_on() {
    for op in [Op::Read, Op::Write] {
        let rig = Rig::new();
        rig.hook(|number| match number {
            5 => Err(Error::new(ErrorKind::Resource, "copy", "broken").with_native(507_054)),
            _ => Ok(()),
        });
        let status = rig.ended_once(&rig.post(op, 20, 1 << 20));
        assert_eq!((status.kind, status.native, status.local), (StatusKind::Native, 507_054, Quiet::Yes));
        rig.stays();
        assert!(rig.ended_once(&rig.post(op, 20, 1 << 20)).is_completed());
    }
}

#[test]
fn a_copy_that_failed_without_being_over_leaves_the_devices_memory_unquiet() {
    let rig = Rig::new();
    rig.hook(|_| {
        Err(Error::new(ErrorKind::TimedOut, "copy", "late").with_quiet(Quiet::AfterClose, Quiet::Yes))
    });
    let status = rig.ended_once(&rig.post(Op::Read, 1, 1 << 20));
    assert_eq!(
        (status.kind, status.local, status.remote),
        (StatusKind::Native, Quiet::AfterClose, Quiet::Yes)
    );
}

#[test]
fn a_lease_revoked_under_a_staged_transfer_ends_it_and_no_later_byte_comes() {
    for op in [Op::Read, Op::Write] {
        let rig = Rig::new();
        let leases = Arc::clone(&rig.b.leases);
        rig.hook(move |number| {
            if number == 2 {
                leases.closed.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        let status = rig.ended_once(&rig.post(op, 20, 1 << 20));
        assert_eq!((status.kind, status.local), (StatusKind::StaleLease, Quiet::Yes));
        let theirs = rig.b.bytes();
        rig.stays();
        assert!(rig.b.bytes() == theirs, "a byte of a revoked write came late");
    }
}

#[test]
fn a_link_is_closed_only_after_the_copy_that_is_under_way() {
    let rig = Rig::new();
    let (entered, inside) = std::sync::mpsc::channel();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (entered, gate) = (Mutex::new(entered), Mutex::new(gate));
    rig.hook(move |number| {
        if number == 0 {
            entered.lock().unwrap().send(()).unwrap();
            gate.lock().unwrap().recv_timeout(WATCHDOG).unwrap();
        }
        Ok(())
    });
    let state = rig.post(Op::Read, 20, 1 << 20);
    inside.recv_timeout(WATCHDOG).unwrap();
    rig.a.link().close();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.a.sink.closed.load(Ordering::SeqCst), 0, "closed while the device is written");
    assert!(state.status().is_none(), "ended while the device is written");
    open.send(()).unwrap();
    let status = rig.ended_once(&state);
    assert!(!status.is_completed() && status.local == Quiet::Yes, "{status:?}");
    eventually(|| rig.a.sink.closed.load(Ordering::SeqCst) == 1);
    rig.stays();
    let (batch, _state) = rig.a.batch_of(&rig.memory, Op::Read, copies(1, 8), WATCHDOG);
    let rejected = rig.a.link().post(batch).expect_err("the link is closed");
    rejected.batch.done.disarm();
}

#[test]
fn a_peer_whose_blocks_are_a_devices_declines_and_the_link_goes_on() {
    let a = Engine::new(1 << 20, Limits::default());
    let janitor = Janitor::start().unwrap();
    let (_, memory) = device(1 << 20, &janitor);
    let (a, b) = link_up(a, Engine::over(memory, janitor, Limits::default()));
    b.sink.unchecked.store(true, Ordering::SeqCst);
    for op in [Op::Read, Op::Write] {
        let status = wait(&a, &a.post(op, copies(4, 4096)));
        assert_eq!((status.kind, status.local, status.remote), (StatusKind::Denied, Quiet::Yes, Quiet::Yes));
    }
    assert!(a.sink.lost.lock().unwrap().is_empty());
}
