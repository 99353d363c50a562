//! One link, both roles: initiator of our batches, owner of the memory that the peer's batches touch.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use ropeway_core::{Error, GrantId, PeerId, RegionId, Result, Run, Runs, Status, StatusKind, TransferId};

use super::OneSided;
use super::chunk::Parts;
use super::claims::Chunk;
use super::crew::Crew;
use super::import::{Export, Import};
use super::job::Job;
use crate::Calibration;
use crate::cma::Kernel;
use crate::copy::Routine;
use crate::fence::{Cells, CellsView, Fence, FenceView, GateId};
use crate::rendezvous::{Host, Process, Wire};
use crate::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, lock};
use crate::{Batch, Fenced, Link, LinkConfig, LinkSink, Refusal, Rejected, State, TransportKind};

/// Batches up to here are moved inside `post`.
const INLINE_BYTES: u64 = 64 << 10;
/// Runs of an inline batch that fit a small array.
const FEW_RUNS: usize = 16;
/// The longest that a waiter spins for chunks that others are moving.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// A link of any of the three kinds.
pub(crate) struct LinkCore {
    me: Weak<Self>,
    kind: TransportKind,
    peer: PeerId,
    sink: Arc<dyn LinkSink>,
    pub(super) fence: Arc<Fence>,
    pub(super) gate: GateId,
    cells: Cells,
    pub(super) crew: Arc<Crew>,
    pub(super) host: Arc<Host>,
    calibration: Calibration,
    jobs_max: usize,
    stage: AtomicU8,
    /// Why it ends; known before the stage says that it does.
    end_kind: OnceLock<StatusKind>,
    /// Ends that are being told: `closed` comes after them, or what they put into quarantine would stay there.
    ends: AtomicUsize,
    far: OnceLock<Far>,
    pub(super) tables: Mutex<Tables>,
    pub(super) imported: Condvar,
}

/// What is known of the other side, once the rendezvous succeeded.
pub(crate) struct Far {
    /// The peer's words, and our gate among them.
    pub(crate) fence: FenceView,
    pub(crate) gate: GateId,
    /// The peer's cells: what it is touching of ours.
    pub(crate) cells: CellsView,
    pub(crate) way: Way,
    pub(crate) path: Path,
}

/// How bytes get across.
pub(crate) enum Way {
    /// The peer's memory is mapped here.
    Mapped,
    /// The kernel copies between address spaces.
    Kernel(Kernel),
}

/// How the two sides talk about imports.
pub(crate) enum Path {
    /// By calls, within this process.
    Neighbour(Weak<LinkCore>),
    /// By messages to another process, whose death the pidfd tells.
    Socket { wire: Arc<Wire>, process: Arc<Process> },
}

#[derive(Default)]
pub(super) struct Tables {
    /// Sorted by id.
    pub(super) imports: Vec<(RegionId, Arc<Import>)>,
    pub(super) importing: Option<RegionId>,
    /// The region that is being imported was withdrawn meanwhile.
    pub(super) import_withdrawn: bool,
    pub(super) exports: HashMap<RegionId, Export>,
    pub(super) jobs: HashMap<TransferId, Arc<Job>>,
    /// Grants whose proof the sink waits for.
    pub(super) fencing: Vec<GrantId>,
}

/// A link's life, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Waits for the peer.
    Waiting = 0,
    Open = 1,
    /// Takes no batch; its last accesses are not yet proven over.
    Ending = 2,
    /// `closed` was told.
    Closed = 3,
}

impl LinkCore {
    pub(crate) fn new(
        engine: &OneSided,
        kind: TransportKind,
        cells: Cells,
        config: &LinkConfig,
    ) -> Result<Arc<Self>> {
        engine.crew.start().map_err(|error| Error::os("link", "starting the copy threads", error))?;
        engine.host.start()?;
        let gate = engine.fence.open_gate()?;
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kind,
            peer: config.peer,
            sink: Arc::clone(&config.sink),
            fence: Arc::clone(&engine.fence),
            gate,
            cells,
            crew: Arc::clone(&engine.crew),
            host: Arc::clone(&engine.host),
            calibration: engine.config.calibration,
            jobs_max: engine.config.limits.transfers_per_peer() as usize,
            stage: AtomicU8::new(Stage::Waiting as u8),
            end_kind: OnceLock::new(),
            ends: AtomicUsize::new(0),
            far: OnceLock::new(),
            tables: Mutex::new(Tables::default()),
            imported: Condvar::new(),
        }))
    }

    /// Both sides have met: the link is usable from here on. False when it was closed meanwhile.
    pub(crate) fn attach(&self, far: Far) -> bool {
        let fresh = self.far.set(far).is_ok();
        fresh
            && self
                .stage
                .compare_exchange(Stage::Waiting as u8, Stage::Open as u8, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    pub(crate) fn far(&self) -> Option<&Far> {
        self.far.get()
    }

    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(crate) fn gate(&self) -> GateId {
        self.gate
    }

    pub(crate) fn kind(&self) -> TransportKind {
        self.kind
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn sink(&self) -> &Arc<dyn LinkSink> {
        &self.sink
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Our own words, for a neighbour.
    pub(crate) fn fence_view(&self) -> &FenceView {
        self.fence.view()
    }

    pub(super) fn me(&self) -> Arc<Self> {
        self.me.upgrade().expect("a link is used through its Arc")
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// What a batch ends as that finds the link ended.
    pub(super) fn end_kind(&self) -> StatusKind {
        self.end_kind.get().copied().unwrap_or(StatusKind::Closed)
    }

    /// The link is about to end, for this reason; the first one counts.
    pub(super) fn note_end(&self, kind: StatusKind) {
        let _ = self.end_kind.set(kind);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == Stage::Open as u8
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == Stage::Closed as u8
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == Stage::Waiting as u8
    }

    pub(super) fn is_ending(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == Stage::Ending as u8
    }

    /// For the one caller that ends the link: whether it was open, or never attached.
    pub(super) fn begin_end(&self) -> Option<Stage> {
        let from = |stage: &Stage| {
            self.stage
                .compare_exchange(*stage as u8, Stage::Ending as u8, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        };
        // The stages only go up: who finds it no longer waiting finds it open, or ended by another.
        [Stage::Waiting, Stage::Open].into_iter().find(from)
    }

    /// True for the one caller that tells `closed`.
    pub(super) fn begin_closed(&self) -> bool {
        self.stage
            .compare_exchange(Stage::Ending as u8, Stage::Closed as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn routine(&self, runs: &dyn Runs) -> Routine {
        let bytes = runs.total_bytes();
        self.calibration.routine(bytes, bytes / runs.total_runs().max(1))
    }

    fn resolve(&self, regions: &[RegionId]) -> Result<Box<[Arc<Import>]>, RegionId> {
        let tables = lock(&self.tables);
        let find = |region: &RegionId| match tables.imports.binary_search_by_key(region, |(id, _)| *id) {
            Ok(index) => Ok(Arc::clone(&tables.imports[index].1)),
            Err(_) => Err(*region),
        };
        regions.iter().map(find).collect()
    }

    /// Moves a small batch on the caller's thread. Gives it back when no cell is free.
    fn post_inline<const N: usize>(
        &self,
        batch: Batch,
        remote: Box<[Arc<Import>]>,
    ) -> Option<(Batch, Box<[Arc<Import>]>)> {
        let parts = Parts {
            op: batch.op,
            grant: batch.grant,
            local: &batch.local,
            remote: &remote,
            routine: self.routine(&*batch.runs),
        };
        // Before the first cell is taken: after a panic no cell speaks for the batch.
        let _telling = self.telling();
        let mut moved_runs = 0;
        let moved = catch_unwind(AssertUnwindSafe(|| {
            let mut runs = [Run::default(); N];
            let mut at = ropeway_core::Cursor::default();
            loop {
                let count = batch.runs.fill(&mut at, &mut runs, u64::MAX);
                if count == 0 {
                    return Some(Ok(()));
                }
                let moved = loop {
                    match self.move_chunk(&parts, &runs[..count]) {
                        Some(moved) => break moved,
                        None if moved_runs == 0 => return None,
                        None => std::thread::yield_now(),
                    }
                };
                if let Err(failed) = moved {
                    return Some(Err(failed));
                }
                moved_runs += count as u32;
            }
        }));
        let status = match moved {
            Ok(None) => return Some((batch, remote)),
            Ok(Some(Ok(()))) => Status::COMPLETED.with_run(moved_runs),
            Ok(Some(Err(failed))) => failed.status(moved_runs),
            Err(_) => {
                // Dropped unfinished: indeterminate. Here, before the guard; a parameter would outlive it.
                drop(batch);
                return None;
            }
        };
        let Batch { done, local, .. } = batch;
        drop((remote, local));
        // SAFETY: every chunk was moved on this thread and ended with a store fence; the target takes no part.
        unsafe { done.finish(status) };
        None
    }

    /// The link does not tell that it is closed until the guard is dropped.
    pub(super) fn telling(&self) -> Telling<'_> {
        self.ends.fetch_add(1, Ordering::SeqCst);
        Telling(&self.ends)
    }

    /// Whether a batch is in flight, or its end is not yet told.
    pub(super) fn has_batches(&self) -> bool {
        // In this order: a job leaves the table when its end is counted already.
        !lock(&self.tables).jobs.is_empty() || self.ends.load(Ordering::SeqCst) != 0
    }

    /// An ended job holds no place any more.
    pub(super) fn forget(&self, job: &Job) {
        let taken = lock(&self.tables).jobs.remove(&job.id());
        self.crew.forget(job);
        drop(taken);
    }

    pub(super) fn each_job(&self, act: impl Fn(&Job)) {
        let jobs: Vec<_> = lock(&self.tables).jobs.values().cloned().collect();
        jobs.iter().for_each(|job| act(job));
    }

    /// Sleeps, or spins when the rest is short, until the chunks that others are moving have ended.
    fn await_end(&self, state: &State, until: Option<Instant>, last_chunk: Duration) {
        // On average half a chunk is left.
        if last_chunk / 2 < SPIN_MAX
            && let Some(_place) = self.crew.spin()
        {
            let start = Instant::now();
            while !state.is_done() && start.elapsed() < SPIN_MAX {
                std::hint::spin_loop();
            }
        }
        state.park(until);
    }

    fn drive_job(&self, job: &Arc<Job>, state: &State, until: Option<Instant>) {
        let driven = job.driven();
        self.crew.driven();
        let mut chunk = Chunk::new();
        let mut last_chunk = Duration::MAX;
        let mut now = Instant::now();
        while !state.is_done() && until.is_none_or(|until| now < until) {
            if !job.claim(&mut chunk, now) {
                self.await_end(state, until, last_chunk);
                break;
            }
            job.run(&chunk);
            let start = std::mem::replace(&mut now, Instant::now());
            last_chunk = now - start;
        }
        drop(driven);
        if !state.is_done() {
            self.crew.left_alone();
        }
    }
}

/// See [`LinkCore::telling`].
pub(super) struct Telling<'a>(&'a AtomicUsize);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Link for LinkCore {
    fn kind(&self) -> TransportKind {
        self.kind
    }

    fn import(&self, region: RegionId, deadline: Instant) -> Result<u64> {
        if let Some(len) = self.begin_import(region, deadline)? {
            return Ok(len);
        }
        let import = self.fetch(region, deadline);
        self.end_import(region, import)
    }

    fn post(&self, batch: Batch) -> Result<(), Rejected> {
        let reject = |batch, why| Err(Rejected { batch: Box::new(batch), why });
        if !self.is_open() {
            return reject(batch, Refusal::Closed);
        }
        let mut remote = match self.resolve(&batch.remote) {
            Ok(remote) => remote,
            Err(region) => return reject(batch, Refusal::RegionGone(region)),
        };
        let bytes = batch.runs.total_bytes();
        let mut batch = batch;
        if bytes <= INLINE_BYTES {
            let few = batch.runs.total_runs() <= FEW_RUNS as u64;
            let left = if few {
                self.post_inline::<FEW_RUNS>(batch, remote)
            } else {
                self.post_inline::<{ super::claims::CHUNK_RUNS }>(batch, remote)
            };
            match left {
                None => return Ok(()),
                Some(back) => (batch, remote) = back,
            }
        }
        let routine = self.routine(&*batch.runs);
        let mut tables = lock(&self.tables);
        // Asked under the lock that `end` takes to stop the jobs.
        if !self.is_open() {
            drop(tables);
            return reject(batch, Refusal::Closed);
        }
        if tables.jobs.len() >= self.jobs_max {
            drop(tables);
            return reject(batch, Refusal::Full { limit: "transfers_per_peer" });
        }
        let job = Job::new(self.me(), batch, remote, routine);
        tables.jobs.insert(job.id(), Arc::clone(&job));
        drop(tables);
        self.crew.post(job);
        Ok(())
    }

    fn cancel(&self, id: TransferId) {
        let job = lock(&self.tables).jobs.get(&id).cloned();
        if let Some(job) = job {
            job.cancel();
        }
    }

    fn drive(&self, state: &State, until: Option<Instant>) {
        if state.is_done() {
            return;
        }
        let job = lock(&self.tables).jobs.get(&state.id()).cloned();
        match job {
            Some(job) => self.drive_job(&job, state, until),
            None => {
                state.park(until);
            }
        }
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        self.fence_grant(grant)
    }

    fn withdraw(&self, region: RegionId) -> Fenced {
        self.withdraw_region(region)
    }

    fn close(&self) {
        self.end(StatusKind::Closed);
    }
}
