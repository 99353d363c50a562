//! One link, both roles: initiator of our batches through a [`Lane`], owner of the memory that the peer's batches touch.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, GrantId, Op, PeerId, RegionId, Result, Status, TransferId};
use ropeway_transport::{
    Batch, Completer, Fenced, Link, LinkConfig, LinkSink, Memory, Refusal, Rejected, Role, State,
    TransportKind,
};

use super::ending::Ending;
use super::flight::{Flight, Remote};
use super::lane::{Effects, Event, Lane, Next};
use super::mover::Mover;
use super::opening::Opening;
use super::regions::{Import, Ours};
use super::slow::Slow;
use super::transport::Shared;
use super::wire::{Malformed, Message};

/// Events that wait for the posting thread. A peer that causes more at a time breaks the protocol.
const EVENTS_MAX: usize = 1 << 16;

/// A link's inside; the engine holds it as [`DeviceLink`].
pub(super) struct LinkCore {
    pub(super) me: Weak<Self>,
    number: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) role: Role,
    pub(super) peer: PeerId,
    /// Until when the link must be there.
    pub(super) deadline: Instant,
    pub(super) offer: Bytes,
    pub(super) sink: Arc<dyn LinkSink>,
    stage: AtomicU8,
    mover: Mutex<Option<Box<dyn Mover>>>,
    lane: Mutex<Lane>,
    events: Mutex<Vec<Event>>,
    rung: AtomicBool,
    /// Batches that hold a place.
    places: AtomicUsize,
    /// Batches whose end is not told yet: `closed` comes after them.
    ends: AtomicUsize,
    /// Counts what was registered or imported since the link was made.
    epoch: AtomicU64,
    pub(super) tables: Mutex<Tables>,
    pub(super) changed: Condvar,
    slow: Arc<Slow>,
    /// Clears destinations: never behind a connect.
    blanks: Arc<Slow>,
}

/// What the threads of a link share. Never held while the sink or the mover is called.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) imports: HashMap<RegionId, Import>,
    /// Our regions that are registered on this link.
    pub(super) ours: HashMap<RegionId, Ours>,
    /// Our grants whose last write we wait for.
    pub(super) fencing: HashSet<GrantId>,
    pub(super) opening: Opening,
    pub(super) ending: Ending,
    /// The peer said that nothing of it touches our memory any more.
    pub(super) peer_quiet: bool,
    /// A place in the probe memory.
    pub(super) probe_slot: Option<u64>,
    /// Regions of ours that are being lent, and whether they were withdrawn meanwhile.
    pub(super) lending: HashMap<RegionId, bool>,
    /// The pause for which it was disconnected last; 0 for none.
    pub(super) apart: u64,
}

/// A link's life, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Stage {
    /// Is being made.
    Waiting = 0,
    Open = 1,
    /// Takes no batch; not all is proven over.
    Ending = 2,
    /// `closed` was told.
    Closed = 3,
}

impl LinkCore {
    pub(super) fn new(shared: &Arc<Shared>, config: &LinkConfig) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let native = Arc::clone(&shared.native);
        let enter: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if let Err(error) = native.enter() {
                tracing::error!(%error, "the device's context cannot be installed; calls on this thread will fail");
            }
        });
        let lane = Lane::new(shared.native.limits(), shared.fenced_max);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            shared: Arc::clone(shared),
            role: config.role,
            peer: config.peer,
            deadline: config.deadline,
            offer: config.offer.clone(),
            sink: Arc::clone(&config.sink),
            stage: AtomicU8::new(Stage::Waiting as u8),
            mover: Mutex::new(None),
            lane: Mutex::new(lane),
            events: Mutex::default(),
            rung: AtomicBool::new(false),
            places: AtomicUsize::new(0),
            ends: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            tables: Mutex::default(),
            changed: Condvar::new(),
            slow: Slow::new("ropeway-npu-slow", Arc::clone(&enter)),
            blanks: Slow::new("ropeway-npu-blank", enter),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn me(&self) -> Arc<Self> {
        self.me.upgrade().expect("a link is used through its Arc")
    }

    pub(super) fn kind(&self) -> TransportKind {
        self.shared.native.kind()
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Waiting,
            1 => Stage::Open,
            2 => Stage::Ending,
            _ => Stage::Closed,
        }
    }

    /// True for the one caller that takes the link from one stage to another.
    pub(super) fn step(&self, from: Stage, to: Stage) -> bool {
        self.stage.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Waits for the mover; on slow threads only. `None` before it was opened and after it was dropped.
    pub(super) fn mover(&self) -> MutexGuard<'_, Option<Box<dyn Mover>>> {
        self.mover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mover, unless a slow call has it.
    pub(super) fn try_mover(&self) -> Option<MutexGuard<'_, Option<Box<dyn Mover>>>> {
        match self.mover.try_lock() {
            Ok(mover) => Some(mover),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs a slow call after those that wait; then the posting thread looks.
    pub(super) fn slowly(&self, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let me = self.me();
        let run = self.slow.run(move || {
            job(&me);
            me.ring();
        });
        if run.is_err() {
            self.lose(Error::new(ErrorKind::Protocol, "link", "more slow calls wait than a link may have"));
        }
    }

    /// The same for a step of the ending. False when no thread is to be had: to be tried again.
    pub(super) fn slowly_surely(&self, job: impl FnOnce(&Arc<Self>) + Send + 'static) -> bool {
        let me = self.me();
        let run = self.slow.run_surely(move || {
            job(&me);
            me.ring();
        });
        run.is_ok()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Something was registered or imported: a connection that is older may not know it.
    pub(super) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The posting thread is to look.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.shared.poster.ring(self.me());
        }
    }

    pub(super) fn heard_the_bell(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    pub(super) fn tell_lane(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // A batch holds a place, and an end must come: only what a peer can cause without limit is refused.
        let flood = events.len() >= EVENTS_MAX && !matches!(event, Event::Post(_) | Event::Stop { .. });
        if !flood {
            events.push(event);
        }
        drop(events);
        if flood {
            self.lose(Error::new(ErrorKind::Protocol, "link", "more events wait than a link may have"));
        }
        self.ring();
    }

    /// Says something to the peer's side. A session that is over says nothing; the engine closes the link then.
    pub(super) fn say(&self, message: &Message) {
        if let Err(error) = self.sink.say(message.encode()) {
            tracing::debug!(%error, "not said");
        }
    }

    /// A batch whose end will be told.
    pub(super) fn count_in(&self) {
        self.ends.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn ends_are_told(&self) -> bool {
        self.ends.load(Ordering::SeqCst) == 0
    }

    /// On the posting thread: whatever there is to do.
    pub(super) fn turn(&self, now: Instant) -> Next {
        let mut fx = Effects::default();
        let (mut next, broken) = self.turn_lane(now, &mut fx);
        self.apply(fx);
        if let Some(malformed) = broken {
            self.broke_protocol(malformed);
        }
        let later = [self.watch_opening(now), self.watch_ending(now)];
        next.at = next.at.into_iter().chain(later.into_iter().flatten()).min();
        next
    }

    fn turn_lane(&self, now: Instant, fx: &mut Effects) -> (Next, Option<Malformed>) {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        let mut broken = None;
        for event in events {
            broken = lane.handle(event, fx).err().or(broken);
        }
        let mut mover = self.try_mover();
        let mover = mover.as_mut().and_then(|mover| mover.as_deref_mut());
        (lane.turn(now, self.epoch(), mover, fx), broken)
    }

    fn apply(&self, fx: Effects) {
        for (done, status) in fx.ended {
            self.finish(done, status);
        }
        for blank in fx.blank {
            let me = self.me();
            let cleared = self.blanks.run(move || {
                blank.fill();
                me.finish(blank.done, blank.status);
                me.ring();
            });
            // Dropped with the job: indeterminate, so quarantined until the link is closed. It was counted in.
            if cleared.is_err() {
                self.places.fetch_sub(1, Ordering::SeqCst);
                self.ends.fetch_sub(1, Ordering::SeqCst);
            }
        }
        fx.say.iter().for_each(|message| self.say(message));
        for region in fx.released {
            self.slowly(move |me| me.release_import(region));
        }
        for region in fx.freed {
            self.slowly(move |me| me.deregister(region));
        }
        if fx.connect {
            self.slowly(|me| me.connect());
        }
        if let Some(number) = fx.part {
            self.slowly(move |me| me.part(number));
        }
        if let Some(over) = fx.over {
            self.lane_is_over(over);
        }
    }

    /// Ends a batch.
    fn finish(&self, done: Completer, status: Status) {
        let _telling = Telling(&self.ends);
        // Room first: whoever sees the end may post again.
        self.places.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: the lane ends a batch in one of three ways. Nothing of it was ever posted. Or the mover has reported each
        // of its requests as over, with which it promises (`Mover`'s contract) that nothing of them touches memory on either
        // side. Or something is outstanding: then the lane calls neither side quiet.
        let told = catch_unwind(AssertUnwindSafe(|| unsafe { done.finish(status) }));
        if told.is_err() {
            // What else the turn asks for, other ends among it, is done all the same.
            tracing::error!("a panic at the end of a batch; the link goes on");
        }
    }

    pub(super) fn broke_protocol(&self, malformed: Malformed) {
        self.lose(Error::new(ErrorKind::Protocol, "link", format!("the peer's link sent {}", malformed.0)));
    }

    fn resolve(&self, regions: &[RegionId]) -> Result<Box<[Remote]>, RegionId> {
        let tables = self.tables();
        let find = |region: &RegionId| match tables.imports.get(region) {
            Some(Import::Ready { base, len }) => Ok(Remote { region: *region, base: *base, len: *len }),
            _ => Err(*region),
        };
        regions.iter().map(find).collect()
    }

    pub(super) fn post(&self, batch: Batch) -> Result<(), Rejected> {
        let reject = |batch, why| Err(Rejected { batch: Box::new(batch), why });
        if self.stage() != Stage::Open {
            return reject(batch, Refusal::Closed);
        }
        let remotes = match self.resolve(&batch.remote) {
            Ok(remotes) => remotes,
            Err(region) => return reject(batch, Refusal::RegionGone(region)),
        };
        if self.places.fetch_add(1, Ordering::SeqCst) >= self.shared.transfers_max {
            self.places.fetch_sub(1, Ordering::SeqCst);
            return reject(batch, Refusal::Full { limit: "transfers_per_peer" });
        }
        // Counted before the look at the stage that the ending takes after it has set it: `closed` waits for this batch, or
        // it is refused here.
        self.count_in();
        if self.stage() != Stage::Open {
            self.places.fetch_sub(1, Ordering::SeqCst);
            self.ends.fetch_sub(1, Ordering::SeqCst);
            self.ring();
            return reject(batch, Refusal::Closed);
        }
        self.tell_lane(Event::Post(Box::new(Flight::new(batch, remotes, false))));
        Ok(())
    }

    /// The probe's batch, past the checks of the stage.
    pub(super) fn post_probe(&self, batch: Batch, remote: Remote) {
        self.places.fetch_add(1, Ordering::SeqCst);
        self.count_in();
        self.tell_lane(Event::Post(Box::new(Flight::new(batch, Box::new([remote]), true))));
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        // A peer that never had a link has touched nothing. A late read is never surfaced: its owner's word is missing.
        if matches!(self.stage(), Stage::Waiting | Stage::Closed) || !self.sink.may_write(grant) {
            return Fenced::Now;
        }
        self.tables().fencing.insert(grant);
        self.say(&Message::Fence { grant });
        // Closed meanwhile: what waited has been told, or is told here.
        if self.stage() == Stage::Closed && self.tables().fencing.remove(&grant) {
            return Fenced::Now;
        }
        Fenced::Pending
    }

    /// A message of the peer's side, on the session's thread.
    pub(super) fn hear(&self, message: &[u8]) {
        match Message::decode(message) {
            Ok(message) => self.act(message),
            Err(malformed) => self.broke_protocol(malformed),
        }
    }

    fn act(&self, message: Message) {
        match message {
            Message::Open { probe, nonce } => self.opened_by_peer(probe, nonce),
            Message::Opened { probe, nonce } => self.answered_by_peer(probe, nonce),
            Message::Ready => self.peer_is_ready(),
            Message::Refused { text } => self.refused_by_peer(text),
            Message::Ask { region } => self.slowly(move |me| me.export(region)),
            Message::Answer(offered) => self.answered(offered),
            Message::Deny { region, kind, text } => self.denied(region, kind, text),
            Message::Withdraw { region } => self.withdrawn_by_owner(region),
            Message::Withdrawn { region } => self.returned(region),
            Message::Confirm { sequence, grants } => {
                let open = grants.iter().map(|grant| self.sink.is_open(*grant, Op::Read)).collect();
                self.say(&Message::Confirmed { sequence, open });
            }
            Message::Confirmed { sequence, open } => self.tell_lane(Event::Confirmed { sequence, open }),
            Message::Fence { grant } => self.tell_lane(Event::Fence(grant)),
            Message::Fenced { grant } => {
                let awaited = self.tables().fencing.remove(&grant);
                if awaited {
                    self.sink.fenced(grant);
                }
            }
            Message::Closing => {
                self.lose(Error::new(ErrorKind::LinkLost, "link", "the peer's side of the link ended"));
            }
            Message::Quiet => {
                self.tables().peer_quiet = true;
                self.lose(Error::new(ErrorKind::LinkLost, "link", "the peer's side of the link ended"));
                self.ring();
            }
        }
    }
}

/// What the engine holds.
pub(super) struct DeviceLink(pub(super) Arc<LinkCore>);

impl Link for DeviceLink {
    fn kind(&self) -> TransportKind {
        self.0.kind()
    }

    fn import(&self, region: RegionId, deadline: Instant) -> Result<u64> {
        self.0.import(region, deadline)
    }

    fn adopt(&self, region: RegionId, memory: &Arc<Memory>, deadline: Instant) -> Result<()> {
        self.0.adopt(region, memory, deadline)
    }

    fn stages(&self, local: &[RegionId], _: &[RegionId]) -> bool {
        local.iter().any(|region| self.0.stages(*region))
    }

    fn post(&self, batch: Batch) -> Result<(), Rejected> {
        self.0.post(batch)
    }

    fn cancel(&self, id: TransferId) {
        self.0.tell_lane(Event::Cancel(id));
    }

    fn drive(&self, state: &State, until: Option<Instant>) {
        // The posting thread works; a caller cannot, for it has not the device's context.
        state.park(until);
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        self.0.fence(grant)
    }

    fn withdraw(&self, region: RegionId) -> Fenced {
        self.0.withdraw(region)
    }

    fn parts_within(&self) -> Option<Duration> {
        Some(self.0.shared.timing.of_both())
    }

    fn close(&self) {
        self.0.close();
    }
}

impl Drop for DeviceLink {
    fn drop(&mut self) {
        if !self.0.shared.origin.is_foreign() {
            self.0.close();
        }
    }
}

/// Counts an end out when it was told, also when a watcher panics.
struct Telling<'a>(&'a AtomicUsize);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A deadline as a time that is left, at least a moment.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
