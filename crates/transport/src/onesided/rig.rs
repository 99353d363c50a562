//! Two engines of tests, and what a batch needs.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use ropeway_core::{
    Error, ErrorKind, GrantId, Limits, Op, PeerId, RegionId, Result, Rights, Runs, Status, StatusKind,
    TransferId,
};

pub(crate) use ropeway_testkit::links::{List, WATCHDOG, eventually, grant, region, soon};

use super::{OneSided, OneSidedConfig, pause};
use crate::copy::Routine;
use crate::{
    Batch, Calibration, Cma, Declined, Janitor, Link, LinkConfig, LinkKey, LinkSink, Loopback, Memory,
    Rejected, Role, ServeRequest, Served, Shm, State, Transport, TransportKind, Watcher,
};

pub(crate) const KINDS: [TransportKind; 3] =
    [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma];
/// What a link told its engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Attached,
    Withdrawn(RegionId),
    Fenced(GrantId),
    Lost(ErrorKind),
    Closed { peer_gone: bool },
}

#[derive(Default)]
pub(crate) struct Sink {
    /// Called when the peer asks for a region, before it is had.
    pub(crate) asked: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    regions: Mutex<HashMap<RegionId, Arc<Memory>>>,
    told: Mutex<Vec<Told>>,
    news: Condvar,
}

impl Sink {
    pub(crate) fn offer(&self, region: RegionId, memory: &Arc<Memory>) {
        self.regions.lock().unwrap().insert(region, Arc::clone(memory));
    }

    pub(crate) fn retract(&self, region: RegionId) {
        self.regions.lock().unwrap().remove(&region);
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(crate) fn has(&self, what: &Told) -> bool {
        self.told().contains(what)
    }

    pub(crate) fn await_told(&self, what: &Told) {
        let until = soon();
        let mut told = self.told.lock().unwrap();
        while !told.contains(what) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "watchdog: {what:?} was not told; only {told:?}");
            told = self.news.wait_timeout(told, left).unwrap().0;
        }
    }

    fn tell(&self, what: Told) {
        self.told.lock().unwrap().push(what);
        self.news.notify_all();
    }
}

impl LinkSink for Sink {
    fn attached(&self) {
        self.tell(Told::Attached);
    }

    fn say(&self, _: Bytes) -> Result<()> {
        Ok(())
    }

    fn is_open(&self, _: GrantId, _: Op) -> bool {
        true
    }

    fn export(&self, region: RegionId) -> Result<Arc<Memory>> {
        let unknown = || Error::new(ErrorKind::Closed, "export", format!("region {region} is not known"));
        let found = self.regions.lock().unwrap().get(&region).cloned().ok_or_else(unknown);
        let asked = self.asked.lock().unwrap().take();
        if let Some(asked) = asked {
            asked();
        }
        found
    }

    fn withdrawn(&self, region: RegionId) {
        self.tell(Told::Withdrawn(region));
    }

    fn serve(&self, _: &ServeRequest<'_>) -> Result<Served, Declined> {
        Err(StatusKind::Denied.into())
    }

    fn fenced(&self, grant: GrantId) {
        self.tell(Told::Fenced(grant));
    }

    fn lost(&self, error: Error) {
        self.tell(Told::Lost(error.kind()));
    }

    fn closed(&self, peer_gone: bool) {
        self.tell(Told::Closed { peer_gone });
    }
}

pub(crate) fn engine(copy_threads: usize) -> Arc<OneSided> {
    engine_with(copy_threads, Calibration::of_this_machine().with_routine(Routine::Plain))
}

pub(crate) fn engine_with(copy_threads: usize, calibration: Calibration) -> Arc<OneSided> {
    OneSided::open(OneSidedConfig {
        limits: Limits::default().with_peers(8).with_leases(64),
        copy_threads,
        calibration,
        janitor: janitor(),
        same_host: true,
    })
    .unwrap()
}

pub(crate) fn janitor() -> Janitor {
    static JANITOR: std::sync::OnceLock<Janitor> = std::sync::OnceLock::new();
    JANITOR.get_or_init(|| Janitor::start().unwrap()).clone()
}

pub(crate) fn transport(kind: TransportKind, engine: &Arc<OneSided>) -> Box<dyn Transport> {
    match kind {
        TransportKind::Loopback => Box::new(Loopback::new(engine)),
        TransportKind::Shm => Box::new(Shm::new(engine)),
        TransportKind::Cma => Box::new(Cma::new(engine)),
        other => panic!("{other} is not one-sided"),
    }
}

pub(crate) fn config(role: Role, offer: Bytes, key: u8, sink: &Arc<Sink>) -> LinkConfig {
    LinkConfig {
        peer: PeerId { slot: 0, generation: 1 },
        key: LinkKey([key; 32]),
        role,
        offer,
        sink: Arc::clone(sink) as Arc<dyn LinkSink>,
        inbox: crate::Inbox::default(),
        deadline: soon(),
    }
}

/// One end of a link.
pub(crate) struct End {
    pub(crate) engine: Arc<OneSided>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) link: Arc<dyn Link>,
}

/// Both ends, in this process.
pub(crate) fn pair(kind: TransportKind) -> (End, End) {
    pair_of(kind, engine(1), engine(1))
}

pub(crate) fn pair_of(kind: TransportKind, near: Arc<OneSided>, far: Arc<OneSided>) -> (End, End) {
    let (near_sink, far_sink) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
    let (ours, theirs) = (transport(kind, &near), transport(kind, &far));
    let passive = theirs.link(config(Role::Passive, ours.offer(), 7, &far_sink)).unwrap();
    let active = ours.link(config(Role::Active, theirs.offer(), 7, &near_sink)).unwrap();
    far_sink.await_told(&Told::Attached);
    (End { engine: near, sink: near_sink, link: active }, End { engine: far, sink: far_sink, link: passive })
}

impl End {
    /// A region of this end's memory, that the other end has imported.
    pub(crate) fn lend(&self, slot: u32, len: u64, to: &End) -> Arc<Memory> {
        let memory = Memory::shared(len, &janitor()).unwrap();
        self.sink.offer(region(slot), &memory);
        assert_eq!(to.link.import(region(slot), soon()).unwrap(), len);
        memory
    }

    pub(crate) fn open(&self, slot: u32, rights: Rights) -> GrantId {
        self.engine.fence().open(grant(slot), rights).unwrap();
        grant(slot)
    }
}

/// Counts the ends.
#[derive(Default)]
pub(crate) struct Ends(pub(crate) Mutex<Vec<(TransferId, Status, bool)>>);

impl Watcher for Ends {
    fn finished(&self, state: &State, status: Status, pins: Option<Arc<[Arc<Memory>]>>) {
        self.0.lock().unwrap().push((state.id(), status, pins.is_some()));
    }
}

/// A batch of tests.
pub(crate) struct Order {
    pub(crate) op: Op,
    pub(crate) grant: GrantId,
    pub(crate) runs: Arc<dyn Runs>,
    pub(crate) local: Arc<Memory>,
    pub(crate) remote: RegionId,
    pub(crate) abandon_at: Instant,
}

impl Order {
    pub(crate) fn new(
        op: Op,
        grant: GrantId,
        runs: Arc<dyn Runs>,
        local: &Arc<Memory>,
        remote: RegionId,
    ) -> Self {
        Self { op, grant, runs, local: Arc::clone(local), remote, abandon_at: soon() }
    }

    pub(crate) fn batch(self, id: u64, ends: &Arc<Ends>) -> (Arc<State>, Batch) {
        let local: Arc<[Arc<Memory>]> = Arc::new([self.local]);
        let id = TransferId(id);
        let (state, done) = State::new(id, 0, Arc::clone(&local), Arc::clone(ends) as Arc<dyn Watcher>);
        let batch = Batch {
            id,
            op: self.op,
            grant: self.grant,
            runs: self.runs,
            local,
            remote: Arc::new([self.remote]),
            abandon_at: self.abandon_at,
            done,
        };
        (state, batch)
    }

    pub(crate) fn post(self, link: &dyn Link) -> (Arc<State>, Arc<Ends>) {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let ends = Arc::new(Ends::default());
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (state, batch) = self.batch(id, &ends);
        if let Err(Rejected { batch, why }) = link.post(batch) {
            batch.done.disarm();
            panic!("rejected: {why:?}");
        }
        (state, ends)
    }

    /// Posts and drives to the end.
    pub(crate) fn run(self, link: &dyn Link) -> Status {
        let (state, ends) = self.post(link);
        link.drive(&state, Some(soon()));
        let status = state.status().expect("watchdog: the batch did not end");
        eventually("the watcher is told", || !ends.0.lock().unwrap().is_empty());
        assert_eq!(ends.0.lock().unwrap().len(), 1, "ended once");
        status
    }
}

/// Holds the threads that move chunks under a grant at a point, until dropped. One at a time in this process.
pub(crate) struct Held(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'static, ()>);

impl Held {
    pub(crate) fn at(point: pause::Point, grant: GrantId) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(|poison| poison.into_inner());
        pause::hold(point, grant);
        Self(one)
    }

    pub(crate) fn await_first(&self) {
        eventually("a thread comes to the pause point", || pause::held() > 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        pause::release();
    }
}

/// Fills memory with a pattern that tells every 8 bytes apart.
pub(crate) fn stamp(memory: &Memory, seed: u64) {
    let mut block = vec![0; 64 << 10];
    for at in (0..memory.len()).step_by(block.len()) {
        for (i, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(seed ^ (at + i as u64 * 8)).to_le_bytes());
        }
        let len = (memory.len() - at).min(block.len() as u64) as usize;
        memory.write(at, &block[..len]).unwrap();
    }
}

pub(crate) fn bytes_of(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len() as usize];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

/// Whether every byte is 0.
pub(crate) fn is_blank(memory: &Memory) -> bool {
    let (mut block, zeros) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    (0..memory.len()).step_by(block.len()).all(|at| {
        let len = (memory.len() - at).min(block.len() as u64) as usize;
        memory.read(at, &mut block[..len]).unwrap();
        block[..len] == zeros[..len]
    })
}

pub(crate) fn private(len: u64) -> Arc<Memory> {
    Memory::anonymous(len, &janitor()).unwrap()
}
