//! A native library in this process: host memory, copies that land when a script says so.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result};
use ropeway_transport::{Memory, Role, TransportKind};

use super::rig::{WATCHDOG, janitor};
use crate::curves::Cuts;
use crate::link::{
    Busy, Connected, Desc, Failure, Holds, Imported, Mover, MoverLimits, Native, Polled, PostError, Request,
    Teardown,
};

/// What becomes of the next requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It lands with the first poll.
    Lands,
    /// It is under way until [`Hardware::land`].
    Hangs,
    /// `post` has no room.
    Busy,
    /// `post` refuses.
    Refused(i32),
    /// Under way; the first poll says that the link is latched. It lands later all the same.
    Latches(i32),
    /// Half of it lands, then it ends with an error, over.
    Torn(i32),
}

/// One side's library and the device under it.
#[derive(Clone)]
pub(super) struct Hardware(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    fate: Fate,
    /// The fates of the next requests, before `fate`.
    script: Vec<Fate>,
    limits: MoverLimits,
    cuts: Cuts,
    teardown: Teardown,
    /// Connects wait until this is false.
    connect_hangs: bool,
    connect_fails: bool,
    probe_lies: bool,
    peer_gone: bool,
    next: u64,
    requests: HashMap<u64, Under>,
    calls: Vec<Call>,
    posting_thread: Option<std::thread::ThreadId>,
    registered: HashMap<RegionId, Arc<Memory>>,
    /// Deregistered by the movers, kept by the library until none is connected.
    kept: Vec<Arc<Memory>>,
    connections: usize,
    /// Run inside of the next registration.
    registering: Option<Box<dyn FnOnce() + Send>>,
    releasing: Option<Box<dyn FnOnce() + Send>>,
}

/// A request that the hardware has.
struct Under {
    op: Op,
    descs: Vec<Desc>,
    fate: Fate,
    landed: bool,
}

/// What was asked of the library.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Register(RegionId),
    Deregister(RegionId),
    Import(RegionId),
    Release(RegionId),
    Connect,
    Disconnect,
    Post { op: Op, descs: usize, bytes: u64 },
}

pub(super) const LIMITS: MoverLimits = MoverLimits {
    descs: 16,
    request_bytes: 1 << 20,
    requests: 4,
    regions: Some(64),
    links: Some(8),
    alignment: 1,
    reconnect_for_regions: false,
    host_memory: true,
};

impl Hardware {
    pub(super) fn new() -> Self {
        let state = State {
            fate: Fate::Lands,
            script: Vec::new(),
            limits: LIMITS,
            cuts: Cuts::WHOLE,
            teardown: Teardown::Unproven,
            connect_hangs: false,
            connect_fails: false,
            probe_lies: false,
            peer_gone: false,
            next: 0,
            requests: HashMap::new(),
            calls: Vec::new(),
            posting_thread: None,
            registered: HashMap::new(),
            kept: Vec::new(),
            connections: 0,
            registering: None,
            releasing: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Who has the library: this handle among them.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(super) fn limit(&self, change: impl FnOnce(&mut MoverLimits)) {
        change(&mut self.lock().limits);
    }

    /// How runs are to be cut on links from now on.
    pub(super) fn cut(&self, cuts: Cuts) {
        self.lock().cuts = cuts;
    }

    /// The fate of all requests from now on.
    pub(super) fn fate(&self, fate: Fate) {
        self.lock().fate = fate;
        self.0.changed.notify_all();
    }

    /// The fates of the next requests, in order.
    pub(super) fn script(&self, fates: &[Fate]) {
        self.lock().script.extend(fates.iter().rev());
    }

    pub(super) fn teardown(&self, teardown: Teardown) {
        self.lock().teardown = teardown;
    }

    pub(super) fn hang_connects(&self, hang: bool) {
        self.lock().connect_hangs = hang;
        self.0.changed.notify_all();
    }

    pub(super) fn fail_connects(&self) {
        self.lock().connect_fails = true;
    }

    pub(super) fn lie_in_probes(&self) {
        self.lock().probe_lies = true;
    }

    /// Runs `call` inside of the next registration.
    pub(super) fn while_registering(&self, call: impl FnOnce() + Send + 'static) {
        self.lock().registering = Some(Box::new(call));
    }

    /// Runs `call` inside of the next release of an import.
    pub(super) fn while_releasing(&self, call: impl FnOnce() + Send + 'static) {
        self.lock().releasing = Some(Box::new(call));
    }

    pub(super) fn kill_peer(&self) {
        self.lock().peer_gone = true;
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    pub(super) fn count(&self, what: impl Fn(&Call) -> bool) -> usize {
        self.lock().calls.iter().filter(|call| what(call)).count()
    }

    pub(super) fn await_call(&self, what: impl Fn(&Call) -> bool) {
        let until = Instant::now() + WATCHDOG;
        let mut state = self.lock();
        while !state.calls.iter().any(&what) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "watchdog: only {:?}", state.calls);
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Requests that can still write.
    pub(super) fn under_way(&self) -> usize {
        self.lock().requests.values().filter(|under| !under.landed).count()
    }

    pub(super) fn await_under_way(&self, count: usize) {
        super::rig::eventually("requests are under way", || self.under_way() >= count);
    }

    /// Everything under way lands now, whatever the link was told of it.
    pub(super) fn land(&self) {
        let mut state = self.lock();
        for under in state.requests.values_mut() {
            under.land(1, 1);
            under.fate = Fate::Lands;
        }
    }

    /// Whether the library keeps memory that was deregistered.
    pub(super) fn keeps(&self, memory: &Arc<Memory>) -> bool {
        self.lock().kept.iter().any(|kept| Arc::ptr_eq(kept, memory))
    }

    pub(super) fn holds(&self, region: RegionId) -> bool {
        self.lock().registered.contains_key(&region)
    }
}

impl State {
    fn call(&mut self, call: Call) {
        self.calls.push(call);
    }
}

impl Under {
    /// The first `part` of `parts` of its descriptors.
    fn land(&mut self, part: usize, parts: usize) {
        if std::mem::replace(&mut self.landed, true) {
            return;
        }
        for desc in &self.descs[..self.descs.len() * part / parts] {
            let (from, to) = match self.op {
                Op::Read => (desc.remote, desc.local),
                Op::Write => (desc.local, desc.remote),
            };
            let from = std::ptr::with_exposed_provenance::<u8>(from as usize);
            let to = std::ptr::with_exposed_provenance_mut::<u8>(to as usize);
            // SAFETY: both are addresses in memory that the test keeps for as long as requests may land; the engine has
            // checked the bounds. Nobody else touches the bytes meanwhile.
            unsafe { std::ptr::copy(from, to, desc.len as usize) };
        }
    }
}

pub(super) struct FakeNative {
    pub(super) hardware: Hardware,
    pub(super) kind: TransportKind,
}

impl Native for FakeNative {
    fn kind(&self) -> TransportKind {
        self.kind
    }

    fn offer(&self) -> Bytes {
        Bytes::from_static(b"fake")
    }

    fn enter(&self) -> Result<()> {
        Ok(())
    }

    fn open(&self, offer: &[u8], _: Role) -> Result<Box<dyn Mover>> {
        if offer != b"fake" {
            return Err(Error::new(ErrorKind::Unsupported, "link", "another library"));
        }
        Ok(Box::new(FakeMover { hardware: self.hardware.clone(), connected: false }))
    }

    fn probe_memory(&self) -> Result<Arc<Memory>> {
        Memory::anonymous(1 << 16, &janitor())
    }

    fn limits(&self) -> MoverLimits {
        self.hardware.lock().limits
    }

    fn holds(&self, memory: &Arc<Memory>) -> Holds {
        if self.hardware.keeps(memory) { Holds::WhileConnected } else { Holds::No }
    }

    fn holds_apart(&self, memory: &Arc<Memory>) -> Holds {
        self.holds(memory)
    }
}

struct FakeMover {
    hardware: Hardware,
    connected: bool,
}

// SAFETY: `Done`, `Over`, `Busy` and a proven teardown are said of requests that have landed or were never taken.
unsafe impl Mover for FakeMover {
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        let meanwhile = self.hardware.lock().registering.take();
        if let Some(call) = meanwhile {
            call();
        }
        let mut state = self.hardware.lock();
        state.call(Call::Register(region));
        // The same memory is one registration, whatever regions it is.
        let mut distinct: Vec<_> =
            state.registered.values().map(Arc::as_ptr).chain([Arc::as_ptr(memory)]).collect();
        distinct.sort();
        distinct.dedup();
        if state.limits.regions.is_some_and(|most| distinct.len() > most as usize) {
            return Err(Error::new(ErrorKind::Full, "register", "the fake library has no room"));
        }
        state.registered.insert(region, Arc::clone(memory));
        let address = memory.base().expect("host memory").as_ptr().expose_provenance() as u64;
        let address = if state.probe_lies { address + 128 } else { address };
        Ok(Bytes::copy_from_slice(&address.to_le_bytes()))
    }

    fn deregister(&mut self, region: RegionId) -> Result<()> {
        let mut state = self.hardware.lock();
        state.call(Call::Deregister(region));
        self.hardware.0.changed.notify_all();
        let memory = state.registered.remove(&region);
        if state.limits.reconnect_for_regions && state.connections > 0 {
            state.kept.extend(memory);
        }
        Ok(())
    }

    fn import(&mut self, region: RegionId, _: u64, description: &[u8]) -> Result<Imported> {
        self.hardware.lock().call(Call::Import(region));
        let bytes = description
            .try_into()
            .map_err(|_| Error::new(ErrorKind::Protocol, "import", "not a description of this library"))?;
        Ok(Imported { base: u64::from_le_bytes(bytes) })
    }

    fn release(&mut self, region: RegionId) -> Result<()> {
        let meanwhile = self.hardware.lock().releasing.take();
        if let Some(call) = meanwhile {
            call();
        }
        self.hardware.lock().call(Call::Release(region));
        Ok(())
    }

    fn cuts(&self) -> Cuts {
        self.hardware.lock().cuts
    }

    fn connect(&mut self, timeout: Duration) -> Result<Connected> {
        let until = Instant::now() + timeout;
        let mut state = self.hardware.lock();
        state.call(Call::Connect);
        self.hardware.0.changed.notify_all();
        while state.connect_hangs {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(ErrorKind::TimedOut, "connect", "black hole").with_native(103_901));
            }
            state = self.hardware.0.changed.wait_timeout(state, left).unwrap().0;
        }
        if state.connect_fails {
            return Err(Error::new(ErrorKind::LinkLost, "connect", "refused").with_native(503_900));
        }
        state.connections += usize::from(!self.connected);
        self.connected = true;
        Ok(Connected::New)
    }

    fn disconnect(&mut self, _: Duration) -> Teardown {
        let mut state = self.hardware.lock();
        state.call(Call::Disconnect);
        self.hardware.0.changed.notify_all();
        state.connections -= usize::from(self.connected);
        self.connected = false;
        if state.connections == 0 {
            state.kept.clear();
        }
        if state.teardown == Teardown::Proven {
            // What is proven over lands never.
            state.requests.values_mut().for_each(|under| under.landed = true);
        }
        state.teardown
    }

    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        assert!(self.connected, "posted without a connection");
        let mut state = self.hardware.lock();
        let here = std::thread::current().id();
        let thread = *state.posting_thread.get_or_insert(here);
        assert_eq!(thread, here, "posts come from one thread");
        assert!(!descs.is_empty() && descs.len() <= state.limits.descs, "{} descriptors", descs.len());
        assert!(descs.iter().all(|desc| desc.len > 0), "a descriptor without bytes");
        let fate = state.script.pop().unwrap_or(state.fate);
        match fate {
            Fate::Busy => return Err(PostError::Busy(Busy { code: 203_900 })),
            Fate::Refused(code) => return Err(PostError::Failed(Failure::Over { code })),
            _ => {}
        }
        let bytes = descs.iter().map(|desc| desc.len).sum();
        state.call(Call::Post { op, descs: descs.len(), bytes });
        self.hardware.0.changed.notify_all();
        let id = state.next;
        state.next += 1;
        state.requests.insert(id, Under { op, descs: descs.to_vec(), fate, landed: false });
        Ok(Request(id))
    }

    fn poll(&mut self, request: Request) -> Polled {
        let mut state = self.hardware.lock();
        let under =
            state.requests.get_mut(&request.0).expect("a request is polled until it is over, and not after");
        let polled = match under.fate {
            Fate::Hangs => return Polled::Waiting,
            // It stays under way.
            Fate::Latches(code) => return Polled::Failed(Failure::Latched { code }),
            Fate::Torn(code) => {
                under.land(1, 2);
                Polled::Failed(Failure::Over { code })
            }
            _ => {
                under.land(1, 1);
                Polled::Done
            }
        };
        state.requests.remove(&request.0);
        polled
    }

    fn is_peer_gone(&mut self) -> bool {
        self.hardware.lock().peer_gone
    }

    fn explain(&self, code: i32) -> Error {
        Error::new(ErrorKind::LinkLost, "fake", format!("the fake library said {code}"))
    }
}
