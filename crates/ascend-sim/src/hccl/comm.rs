//! A communicator.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Outcome;
use super::abi::{Config, RootInfo};
use super::matching::{Matcher, Op};
use super::rendezvous::{Member, join};
use super::result::*;
use crate::anchor::{self, Anchor};
use crate::hbm::Page;
use crate::net::Server;
use crate::topology::DeviceKey;

/// A communicator of this process.
pub(super) struct Comm {
    /// The context that it was made in.
    pub(super) anchor: Anchor,
    /// This rank.
    pub(super) rank: u32,
    /// All of them.
    pub(super) members: Vec<Member>,
    /// Its name.
    pub(super) name: String,
    /// Matches sends with receives.
    pub(super) matcher: Arc<Matcher>,
    /// Takes no operations for now.
    pub(super) suspended: AtomicBool,
    buffer_bytes: u64,
    inner: Mutex<Inner>,
    _server: Server,
}

#[derive(Default)]
struct Inner {
    /// Numbers of the last send to, and receive from, each rank.
    sent: HashMap<u32, u64>,
    received: HashMap<u32, u64>,
    ops: Vec<Arc<Op>>,
    /// Its buffers in device memory, made when they are first needed.
    buffer: Option<u64>,
}

/// Devices on which a communicator is being made: calls of one NPU must not overlap.
static BUSY: Mutex<Option<HashSet<DeviceKey>>> = Mutex::new(None);

struct Busy(DeviceKey);

impl Busy {
    fn claim(device: DeviceKey) -> Outcome<Self> {
        let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = busy.get_or_insert_default().insert(device);
        if fresh { Ok(Self(device)) } else { Err(UNAVAIL) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        busy.get_or_insert_default().remove(&self.0);
    }
}

/// A number from the environment, if it is in range.
fn variable(name: &str, low: u64, high: u64) -> Option<u64> {
    let value = std::env::var(name).ok()?.parse().ok()?;
    (low..=high).contains(&value).then_some(value)
}

impl Comm {
    /// `HcclCommInitRootInfoConfig`: waits for all ranks.
    pub(super) fn open(ranks: u32, info: &RootInfo, rank: u32, config: Config) -> Outcome<Self> {
        let anchor = Anchor::of_thread().ok_or(RUNTIME)?;
        if ranks == 0 || rank >= ranks {
            return Err(PARA);
        }
        let device = anchor.device();
        let _busy = Busy::claim(device)?;
        // It makes streams of its own.
        if anchor::fault("out_of_streams", anchor.site("HcclCommInitRootInfoConfig", None)).is_some() {
            return Err(RUNTIME);
        }
        let exec = config.exec_timeout_s.map(u64::from).or_else(|| variable("HCCL_EXEC_TIMEOUT", 0, 1 << 31));
        let exec = Duration::from_secs(exec.unwrap_or(1836));
        let matcher = Arc::new(Matcher::new(rank, exec));
        let server = Server::open((Ipv4Addr::LOCALHOST, 0).into(), Arc::<Matcher>::clone(&matcher));
        let server = server.map_err(|_| INTERNAL)?;
        let limit = Duration::from_secs(variable("HCCL_CONNECT_TIMEOUT", 120, 7200).unwrap_or(120) + 20);
        if let Some(hit) = anchor::fault("blackhole_connect", anchor.site("connect", None)) {
            std::thread::sleep(hit.ms(limit.as_millis() as u64));
            return Err(TIMEOUT);
        }
        let members = join(info, ranks, &Member { rank, at: server.at(), device }, limit)?;
        let machines = anchor.machines();
        let apart = |other: &Member| {
            let reach = machines.reach(device, other.device);
            other.device != device && !reach.hccs && !reach.roce
        };
        if members.iter().any(apart) {
            return Err(NETWORK);
        }
        let peers: Vec<SocketAddr> = members.iter().map(|member| member.at).collect();
        let thread = std::thread::Builder::new().name("sim-hccl".to_owned());
        let inner = Arc::clone(&matcher);
        thread.spawn(move || inner.serve(&peers)).map_err(|_| INTERNAL)?;
        let buffer_mb = config.buffer_mb.map(u64::from).or_else(|| variable("HCCL_BUFFSIZE", 1, 1 << 20));
        Ok(Self {
            name: config.name.unwrap_or_else(|| format!("simulated_{}", server.at().port())),
            anchor,
            rank,
            members,
            matcher,
            suspended: AtomicBool::new(false),
            buffer_bytes: buffer_mb.unwrap_or(200) << 21,
            inner: Mutex::default(),
            _server: server,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the two buffers' memory when it is first needed.
    pub(super) fn buffers(&self) -> Outcome {
        let mut inner = self.lock();
        if inner.buffer.is_none() {
            if anchor::fault("alloc_fail", self.anchor.site("buffers", None)).is_some() {
                return Err(MEMORY);
            }
            let bytes = self.buffer_bytes;
            let range = self.anchor.hbm().alloc(self.anchor.device(), bytes, bytes, Page::Huge);
            inner.buffer = Some(range.map_err(|_| MEMORY)?.va);
        }
        Ok(())
    }

    /// The number of the next operation with a rank, and the operation.
    pub(super) fn next(&self, rank: u32, send: bool) -> (u64, Arc<Op>) {
        let mut inner = self.lock();
        let numbers = if send { &mut inner.sent } else { &mut inner.received };
        let number = numbers.entry(rank).and_modify(|last| *last += 1).or_insert(1);
        let number = *number;
        let op = Op::new();
        inner.ops.retain(|op| op.is_open());
        inner.ops.push(Arc::clone(&op));
        (number, op)
    }

    /// Whether operations are under way.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().ops.iter().any(|op| op.is_open())
    }

    /// Takes operations again, or none.
    pub(super) fn suspend(&self, on: bool) {
        self.suspended.store(on, Ordering::Release);
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.matcher.end();
        if let Some(buffer) = self.lock().buffer.take()
            && let Err(fail) = self.anchor.hbm().free(buffer)
        {
            tracing::error!(%fail, "free of a communicator's buffers");
        }
    }
}
