//! A link: its streams, the batches in flight on them, and the engine's side of it.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use bytes::BytesMut;
use ropeway_core::{Error, ErrorKind, GrantId, RegionId, Status, StatusKind, TransferId};

use super::drive;
use super::flight::{Flight, Part};
use super::gate::{Fencing, Gate};
use super::io::Shared;
use super::lane::{Conn, Effects, Lane, Order, Watch, Who};
use super::served::Pins;
use super::socket;
use super::staged::{Stage, is_staged};
use super::wire::{OPEN_REQUESTS_MAX, REQUEST_FIXED_BYTES, RequestBody};
use super::{SMALL_BYTES, STRIPE_BYTES};
use crate::{Batch, Fenced, Link, LinkSink, Memory, Refusal, Rejected, State, TransportKind};

/// One link. The first stream carries small batches only, so that they never wait behind bulk bytes in the kernel's
/// buffers; the others carry the rest.
pub(super) struct LinkCore {
    me: Weak<Self>,
    pub(super) shared: Arc<Shared>,
    pub(super) sink: Arc<dyn LinkSink>,
    pub(super) gate: Arc<dyn Gate>,
    /// Set once, when all streams are attached.
    lanes: OnceLock<Box<[Lane]>>,
    first_token: AtomicU64,
    flights: Mutex<HashMap<TransferId, Arc<Flight>>>,
    pub(super) fencing: Fencing,
    pub(super) pins: Pins,
    pub(super) stage: Stage,
    turn: AtomicUsize,
    /// All streams are there. A link that never came so far is not lost, but closed alone.
    attached: AtomicBool,
    dying: AtomicBool,
    closing: AtomicBool,
    why: Mutex<Option<Error>>,
}

/// The engine's handle on a link.
pub(super) struct TcpLink(pub(super) Arc<LinkCore>);

impl LinkCore {
    pub(super) fn new(shared: Arc<Shared>, sink: Arc<dyn LinkSink>) -> Arc<Self> {
        let gate = Arc::clone(&shared.gate);
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            shared,
            sink,
            gate,
            lanes: OnceLock::new(),
            first_token: AtomicU64::new(0),
            flights: Mutex::default(),
            fencing: Fencing::default(),
            pins: Pins::default(),
            stage: Stage::default(),
            turn: AtomicUsize::new(0),
            attached: AtomicBool::new(false),
            dying: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            why: Mutex::new(None),
        })
    }

    /// The streams; none before all of them are attached.
    pub(super) fn lanes(&self) -> &[Lane] {
        self.lanes.get().map_or(&[], |lanes| lanes)
    }

    /// All streams are there: from here on the I/O thread looks after them.
    pub(super) fn attach(self: &Arc<Self>, lanes: Vec<Lane>) -> Result<(), Error> {
        for lane in &lanes {
            let nonblocking = lane.stream.set_nonblocking(true);
            nonblocking
                .map_err(|error| Error::os("link", "a data stream cannot be made non-blocking", error))?;
        }
        let first = self.shared.enter(self, lanes.len());
        self.first_token.store(first, Ordering::Relaxed);
        let _ = self.lanes.set(lanes.into());
        // Before the first stream is watched: the I/O thread may find it broken at once.
        self.attached.store(true, Ordering::SeqCst);
        for lane in self.lanes() {
            let mut conn = lane.lock();
            conn.watched = Watch { readable: true, writable: false };
            let watched = self.shared.watch_new(lane.fd(), self.token(lane), conn.watched);
            watched.inspect_err(|_| self.attached.store(false, Ordering::SeqCst))?;
        }
        Ok(())
    }

    fn token(&self, lane: &Lane) -> u64 {
        self.first_token.load(Ordering::Relaxed) + u64::from(lane.index)
    }

    pub(super) fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    pub(super) fn flights(&self) -> MutexGuard<'_, HashMap<TransferId, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells epoll what to wake the I/O thread for, or the driving thread that there is more to do.
    pub(super) fn watch(&self, lane: &Lane, conn: &mut Conn, who: Who) {
        let wants_to_send = conn.sender.has_work();
        if lane.driven.load(Ordering::SeqCst) {
            if wants_to_send && who != Who::Driver {
                lane.bell.ring();
            }
            return;
        }
        self.set_watched(lane, conn, Watch { readable: true, writable: wants_to_send });
    }

    pub(super) fn set_watched(&self, lane: &Lane, conn: &mut Conn, watch: Watch) {
        if conn.watched != watch && !conn.over {
            conn.watched = watch;
            self.shared.watch_again(lane.fd(), self.token(lane), watch);
        }
    }

    /// Tells everyone concerned. No lock is held.
    pub(super) fn tell(&self, lane: &Lane, effects: Effects, who: Who) {
        for released in effects.released {
            for region in self.pins.release(released) {
                self.sink.withdrawn(region);
            }
        }
        let ended = !effects.ended.is_empty();
        for (done, status) in effects.ended {
            self.flights().remove(&done.state().id());
            // SAFETY: a side that the status calls quiet is quiet. Ours: the part was taken out of `asked`, or marked,
            // under the stream's lock, with its segment cut, so no call names its memory again. The peer's: it said so
            // (end, ack, cancel-ack), or never heard of the request.
            unsafe { done.finish(status) };
        }
        // Pairs with the fence in `drive`: either it sees the end, or we see that it drives.
        fence(Ordering::SeqCst);
        if ended && who != Who::Driver && lane.driven.load(Ordering::SeqCst) {
            lane.bell.ring();
        }
        for flight in effects.failed {
            self.order_all(&flight, Order::Cancel, |lane| lane.try_work(self));
        }
        if effects.left && self.fencing.is_awaited() {
            while let Some(grant) = self.fencing.take_over(|| self.lanes().iter().map(|lane| &lane.using)) {
                self.sink.fenced(grant);
            }
        }
        if let Some(error) = effects.lost {
            self.die(error);
        }
    }

    fn order_all(&self, flight: &Flight, order: fn(u64) -> Order, then: impl Fn(&Lane)) {
        for lane in self.lanes() {
            if flight.lanes & 1 << lane.index != 0 {
                lane.order(order(flight.id.0));
                then(lane);
            }
        }
    }

    /// Ends the link; the I/O thread tears it down.
    pub(super) fn die(&self, error: Error) {
        if self.dying.swap(true, Ordering::SeqCst) {
            return;
        }
        if !self.closing.load(Ordering::SeqCst) {
            tracing::info!(%error, attached = self.attached.load(Ordering::SeqCst), "tcp link lost");
        }
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        for lane in self.lanes() {
            let _ = lane.stream.shutdown(Shutdown::Both);
            lane.bell.ring();
        }
        if let Some(me) = self.me.upgrade() {
            self.shared.bury(me);
        }
    }

    /// Ends what is in flight and served, and tells the engine that this side touches nothing any more.
    pub(super) fn tear_down(&self) {
        let closing = self.closing.load(Ordering::SeqCst);
        let kind = if closing { StatusKind::Closed } else { StatusKind::LinkLost };
        for lane in self.lanes() {
            self.shared.unwatch(lane.fd());
            lane.tear_down(self, kind);
            if !closing {
                socket::abort(&lane.stream);
            }
        }
        self.shared.leave(self.first_token.load(Ordering::Relaxed), self.lanes().len());
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = why.filter(|_| !closing && self.attached.load(Ordering::SeqCst)) {
            self.sink.lost(error);
        }
        // What a staged batch has under way with its device comes first.
        if self.stage.end() {
            self.sink.closed(false);
        }
    }

    /// Gives up what is overdue; gives the next limit.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let flights: Vec<_> = self.flights().values().cloned().collect();
        let (overdue, running): (Vec<_>, Vec<_>) =
            flights.into_iter().partition(|flight| flight.abandon_at <= now);
        for flight in overdue {
            tracing::warn!(transfer = %flight.id, "tcp transfer given up: abandon_after has passed");
            self.order_all(&flight, Order::Abandon, |lane| lane.try_work(self));
        }
        running.iter().map(|flight| flight.abandon_at).min()
    }

    /// The streams for a batch, one bit each.
    fn choose(&self, bytes: u64) -> u128 {
        let bulk = self.lanes().len() as u64 - 1;
        if bytes <= SMALL_BYTES {
            return 1;
        }
        match (bytes / STRIPE_BYTES).clamp(1, bulk) {
            1 => 2 << (self.turn.fetch_add(1, Ordering::Relaxed) as u64 % bulk),
            parts => ((1 << parts) - 1) << 1,
        }
    }

    pub(super) fn cancel(self: &Arc<Self>, id: TransferId) {
        let flight = self.flights().get(&id).cloned();
        if let Some(flight) = flight {
            self.order_all(&flight, Order::Cancel, |_| {});
            self.shared.nudge(self);
        }
    }

    fn refusal(&self, lanes: u128) -> Option<Refusal> {
        if self.lanes().is_empty() || self.is_dying() {
            return Some(Refusal::Closed);
        }
        let full = self
            .lanes()
            .iter()
            .filter(|lane| lanes & 1 << lane.index != 0)
            .any(|lane| lane.open.load(Ordering::Relaxed) >= OPEN_REQUESTS_MAX);
        full.then_some(Refusal::Full { limit: "transfers_per_peer" })
    }

    /// Starts a batch whose first byte is byte `base` of its plan's order.
    pub(super) fn post_from(&self, batch: Batch, base: u64) -> Result<(), Rejected> {
        let bytes = batch.runs.total_bytes();
        let lanes = if self.lanes().is_empty() { 0 } else { self.choose(bytes) };
        if let Some(why) = self.refusal(lanes) {
            return Err(Rejected { batch: Box::new(batch), why });
        }
        let Batch { id, op, grant, runs, local, abandon_at, done, .. } = batch;
        if bytes == 0 {
            // SAFETY: nothing was started.
            unsafe { done.finish(Status::COMPLETED) };
            return Ok(());
        }
        let mut plan = BytesMut::new();
        runs.encode(&mut plan);
        let flight = Flight::new(id, op, runs, local, abandon_at, lanes, done);
        self.flights().insert(id, Arc::clone(&flight));
        self.shared.wake_at(abandon_at);
        let parts = u64::from(lanes.count_ones());
        let chosen = || self.lanes().iter().filter(|lane| lanes & 1 << lane.index != 0);
        for (part, lane) in (0..parts).zip(chosen()) {
            let (start, end) = (cut(bytes, parts, part), cut(bytes, parts, part + 1));
            let mut request = BytesMut::with_capacity(REQUEST_FIXED_BYTES + plan.len());
            request.extend_from_slice(&RequestBody::fixed(grant, base + start, end - start));
            request.extend_from_slice(&plan);
            lane.open.fetch_add(1, Ordering::Relaxed);
            let part = Part::new(Arc::clone(&flight), request.freeze(), start, end - start);
            lane.order(Order::Start(Box::new(part)));
        }
        drop(flight);
        for lane in chosen() {
            lane.try_work(self);
        }
        Ok(())
    }
}

/// Where the `part`th of `parts` pieces begins; on page bounds of the byte order, so that streams share few pages.
fn cut(bytes: u64, parts: u64, part: u64) -> u64 {
    if part == parts { bytes } else { (bytes / parts * part) & !4095 }
}

impl Link for TcpLink {
    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    /// Nothing to map: the peer checks each request. Any length; bounds are known from the directory.
    fn import(&self, _: RegionId, _: Instant) -> Result<u64, Error> {
        if self.0.is_dying() {
            return Err(Error::new(ErrorKind::LinkLost, "import", "the tcp link is down; connect anew"));
        }
        Ok(u64::MAX)
    }

    /// A device's memory goes through host buffers.
    fn adopt(&self, _: RegionId, memory: &Arc<Memory>, _: Instant) -> Result<(), Error> {
        if memory.device().is_some() { self.0.stage.start(&self.0) } else { Ok(()) }
    }

    fn post(&self, batch: Batch) -> Result<(), Rejected> {
        if is_staged(&batch) { self.0.stage.post(batch) } else { self.0.post_from(batch, 0) }
    }

    fn cancel(&self, id: TransferId) {
        match self.0.stage.cancel(id) {
            None => self.0.cancel(id),
            Some(pieces) => pieces.into_iter().for_each(|piece| self.0.cancel(piece)),
        }
    }

    fn drive(&self, state: &State, until: Option<Instant>) {
        drive::drive(&self.0, state, until);
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        let fenced = self.0.fencing.fence(grant, self.0.lanes().iter().map(|lane| &lane.using));
        if !self.0.pins.is_idle() {
            // What is served under it lets go of its memory now, not when the peer next reads.
            for lane in self.0.lanes() {
                lane.order(Order::Revoke(grant));
            }
            self.0.shared.nudge(&self.0);
        }
        fenced
    }

    fn withdraw(&self, region: RegionId) -> Fenced {
        self.0.pins.withdraw(region)
    }

    fn close(&self) {
        self.0.closing.store(true, Ordering::SeqCst);
        self.0.die(Error::new(ErrorKind::Closed, "link", "the link was closed"));
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.close();
    }
}
