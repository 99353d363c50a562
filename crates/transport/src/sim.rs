//! A simulated link between engines of one process: bytes move in virtual time, and go wrong when told to.
//!
//! It behaves like a NIC that cannot be recalled: a batch that is given up keeps its copy under way, which lands late, or
//! when the link is closed never. That is what quarantine is for, and what no software transport of this crate does by
//! itself. Everything happens inside [`Fabric::advance`], on the thread that calls it, in an order drawn from a seed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::{
    Cursor, Error, ErrorKind, GrantId, Op, RegionId, Result, Run, Status, StatusKind, TransferId,
};

use crate::copy::{self, Routine};
use crate::{
    Batch, Capabilities, Completer, Fenced, Link, LinkConfig, LinkKey, LinkSink, Memory, Refusal, Rejected,
    Role, State, Transport, TransportKind,
};

/// What becomes of the batches that are posted from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Weather {
    /// They complete.
    #[default]
    Fair,
    /// They are given up half way: the end is `Abandoned`, nothing is quiet, the rest of the copy is under way still.
    Torn,
    /// Their completer is lost, as when a worker panics; the copy is under way still.
    Lost,
}

/// The network that simulated links run over. Cheap to clone.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<World>>);

struct World {
    now: u64,
    random: u64,
    weather: Weather,
    /// Ends that wait for their other half, by key.
    waiting: HashMap<LinkKey, Arc<End>>,
    under_way: Vec<Copying>,
}

/// One copy that has left the initiator's hands.
struct Copying {
    due: u64,
    batch: Cargo,
    done: Option<Completer>,
    weather: Weather,
    end: Weak<End>,
}

/// What of a batch outlives its completer.
struct Cargo {
    id: TransferId,
    op: Op,
    grant: GrantId,
    runs: Arc<dyn ropeway_core::Runs>,
    local: Arc<[Arc<Memory>]>,
    remote: Vec<Arc<Memory>>,
    moved: u64,
}

impl Fabric {
    /// A network whose delays are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let world = World {
            now: 0,
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
            weather: Weather::Fair,
            waiting: HashMap::new(),
            under_way: Vec::new(),
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// One engine's transport on this network.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Sim { fabric: self.clone(), capabilities: Capabilities::of(TransportKind::Sim) })
    }

    /// Sets what becomes of batches posted from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Copies that are under way, also those of transfers that have ended.
    pub fn under_way(&self) -> usize {
        self.lock().under_way.len()
    }

    /// Moves virtual time on; what is due happens, in order of time.
    pub fn advance(&self, ticks: u64) {
        let until = {
            let mut world = self.lock();
            world.now += ticks;
            world.now
        };
        while let Some(copying) = self.next_due(until) {
            self.land(copying);
        }
    }

    fn next_due(&self, until: u64) -> Option<Copying> {
        let mut world = self.lock();
        let due = world.under_way.iter().enumerate().filter(|(_, copying)| copying.due <= until);
        let (at, _) = due.min_by_key(|(_, copying)| copying.due)?;
        Some(world.under_way.swap_remove(at))
    }

    /// A copy's time has come. One whose batch went wrong half way comes twice: half of it now, the rest later.
    fn land(&self, mut copying: Copying) {
        let total = copying.batch.runs.total_bytes();
        let Some(end) = copying.end.upgrade() else { return };
        let bad = copying.done.is_some() && copying.weather != Weather::Fair;
        let until = if bad { total / 2 } else { total };
        copying.batch.copy_until(until);
        match (copying.done.take(), copying.weather) {
            (Some(done), Weather::Fair) => {
                // SAFETY: every byte has been copied, on this thread; nothing of the batch is under way.
                unsafe { done.finish(Status::COMPLETED.with_run(copying.batch.runs.total_runs() as u32)) };
            }
            (Some(done), Weather::Torn) => {
                let status = Status { kind: StatusKind::Abandoned, ..Status::INDETERMINATE };
                // SAFETY: neither side is called quiet.
                unsafe { done.finish(status) };
            }
            (Some(done), Weather::Lost) => drop(done),
            // The late rest of a batch whose end was told before.
            (None, _) => {}
        }
        let grant = copying.batch.grant;
        if bad {
            self.delay(copying);
        } else {
            drop(copying);
            end.answer_fence(grant, self);
        }
    }

    fn delay(&self, mut copying: Copying) {
        let mut world = self.lock();
        copying.due = world.now + 1 + world.draw(16);
        world.under_way.push(copying);
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// splitmix64, below `below`.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % below
    }
}

impl Cargo {
    /// Copies the bytes of the plan's order up to `until`.
    fn copy_until(&mut self, until: u64) {
        let mut cursor: Cursor = self.runs.seek(self.moved);
        let mut runs = [Run::default(); 64];
        while self.moved < until {
            let count = self.runs.fill(&mut cursor, &mut runs, until - self.moved);
            if count == 0 {
                return;
            }
            for run in &runs[..count] {
                self.copy(run);
                self.moved += u64::from(run.len);
            }
        }
        copy::store_fence();
    }

    fn copy(&self, run: &Run) {
        let local = &self.local[usize::from(run.local_region)];
        let remote = &self.remote[usize::from(run.remote_region)];
        let (Some(ours), Some(theirs)) =
            (local.range(run.local, run.len.into()), remote.range(run.remote, run.len.into()))
        else {
            // A plan is checked; a region of the peer that is shorter than it said is a test's mistake to see.
            tracing::error!(?run, "a run passes the end of its region");
            return;
        };
        let (to, from) = match self.op {
            Op::Read => (ours, theirs),
            Op::Write => (theirs, ours),
        };
        // SAFETY: both ranges lie inside live mappings, which the `Arc`s in this batch keep; memory that peers may write
        // is only moved by these routines.
        unsafe { copy::copy(to.as_ptr(), from.as_ptr(), run.len as usize, Routine::Plain) };
    }
}

struct Sim {
    fabric: Fabric,
    capabilities: Capabilities,
}

impl Transport for Sim {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        Bytes::from_static(b"sim")
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        let end = Arc::new(End {
            fabric: self.fabric.clone(),
            sink: Arc::clone(&config.sink),
            state: Mutex::default(),
        });
        let mut world = self.fabric.lock();
        match config.role {
            Role::Passive => {
                world.waiting.insert(config.key, Arc::clone(&end));
            }
            Role::Active => {
                let other = world.waiting.remove(&config.key).ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, "connect", "the peer is not on this simulated network")
                })?;
                drop(world);
                end.lock().other = Some(Arc::downgrade(&other));
                other.lock().other = Some(Arc::downgrade(&end));
                other.sink.attached();
            }
        }
        Ok(end)
    }

    fn close(&self) {}
}

/// One engine's end of a link.
struct End {
    fabric: Fabric,
    sink: Arc<dyn LinkSink>,
    state: Mutex<EndState>,
}

#[derive(Default)]
struct EndState {
    other: Option<Weak<End>>,
    imports: HashMap<RegionId, Arc<Memory>>,
    /// Grants of this end's engine whose last copies are waited for.
    fencing: Vec<GrantId>,
    closed: bool,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, EndState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn other(&self) -> Option<Arc<End>> {
        self.lock().other.as_ref()?.upgrade()
    }

    /// A copy of this (initiating) end under `grant` is over: the owner may be waiting for that.
    fn answer_fence(&self, grant: GrantId, fabric: &Fabric) {
        let Some(owner) = self.other() else { return };
        let busy = fabric.lock().under_way.iter().any(|copying| {
            copying.batch.grant == grant && copying.end.upgrade().is_some_and(|end| std::ptr::eq(&*end, self))
        });
        let waited = {
            let mut state = owner.lock();
            let at = state.fencing.iter().position(|waiting| *waiting == grant);
            if busy { None } else { at.map(|at| state.fencing.swap_remove(at)) }
        };
        if waited.is_some() {
            owner.sink.fenced(grant);
        }
    }
}

impl Link for End {
    fn kind(&self) -> TransportKind {
        TransportKind::Sim
    }

    fn import(&self, region: RegionId, _deadline: Instant) -> Result<u64> {
        if let Some(known) = self.lock().imports.get(&region) {
            return Ok(known.len());
        }
        let gone = || Error::new(ErrorKind::LinkLost, "import", "the simulated link is closed");
        let memory = self.other().ok_or_else(gone)?.sink.export(region)?;
        let len = memory.len();
        self.lock().imports.insert(region, memory);
        Ok(len)
    }

    fn post(&self, batch: Batch) -> Result<(), Rejected> {
        let refuse = |batch, why| Err(Rejected { batch: Box::new(batch), why });
        let remote = {
            let state = self.lock();
            if state.closed {
                return refuse(batch, Refusal::Closed);
            }
            let found: Result<Vec<_>, RegionId> =
                batch.remote.iter().map(|id| state.imports.get(id).cloned().ok_or(*id)).collect();
            found
        };
        let remote = match remote {
            Ok(remote) => remote,
            Err(region) => return refuse(batch, Refusal::RegionGone(region)),
        };
        let Some(me) = self.other().and_then(|other| other.other()) else {
            return refuse(batch, Refusal::Closed);
        };
        let Batch { id, op, grant, runs, local, done, .. } = batch;
        let mut world = self.fabric.lock();
        let (due, weather) = (world.now + 1 + world.draw(8), world.weather);
        let batch = Cargo { id, op, grant, runs, local, remote, moved: 0 };
        world.under_way.push(Copying { due, batch, done: Some(done), weather, end: Arc::downgrade(&me) });
        Ok(())
    }

    fn cancel(&self, id: TransferId) {
        // The caller gets its end now; what the wire has is not recalled.
        let done = {
            let mut world = self.fabric.lock();
            world.under_way.iter_mut().find(|copying| copying.batch.id == id).and_then(|c| c.done.take())
        };
        if let Some(done) = done {
            let status = Status { kind: StatusKind::Cancelled, ..Status::INDETERMINATE };
            // SAFETY: neither side is called quiet.
            unsafe { done.finish(status) };
        }
    }

    fn drive(&self, state: &State, until: Option<Instant>) {
        // Time is virtual: only `advance` moves it, on another thread. The bound keeps a test from waiting for ever.
        let bound = Instant::now() + Duration::from_secs(60);
        state.park(Some(until.map_or(bound, |until| until.min(bound))));
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        let Some(other) = self.other() else { return Fenced::Now };
        let world = self.fabric.lock();
        let busy = world.under_way.iter().any(|copying| {
            copying.batch.grant == grant && copying.end.upgrade().is_some_and(|end| Arc::ptr_eq(&end, &other))
        });
        if busy {
            self.lock().fencing.push(grant);
            Fenced::Pending
        } else {
            Fenced::Now
        }
    }

    fn withdraw(&self, region: RegionId) -> Fenced {
        if let Some(other) = self.other() {
            other.lock().imports.remove(&region);
        }
        // A copy under way keeps its own hold on the memory, and the lease that it runs under is fenced besides.
        Fenced::Now
    }

    fn close(&self) {
        let other = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.imports.clear();
            state.other.as_ref().and_then(Weak::upgrade)
        };
        // Closing is what recalls copies: those of this end land never, and their transfers end.
        let recalled: Vec<Copying> = {
            let mut world = self.fabric.lock();
            let mine =
                |copying: &mut Copying| copying.end.upgrade().is_none_or(|end| std::ptr::eq(&*end, self));
            world.under_way.extract_if(.., mine).collect()
        };
        for Copying { batch, done, .. } in recalled {
            if let Some(done) = done {
                // SAFETY: the copy was taken off the wire before; nothing touches either side on its behalf.
                unsafe { done.finish(Status::quiet(StatusKind::LinkLost)) };
            }
            drop(batch);
        }
        if let Some(other) = other {
            other.sink.lost(Error::new(ErrorKind::LinkLost, "sim", "the other end was closed"));
            Link::close(&*other);
        }
        self.sink.closed(false);
    }
}
