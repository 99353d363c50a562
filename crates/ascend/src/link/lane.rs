//! The initiator's half of a link, as a machine without threads: what is queued, in flight, confirmed, fenced, given up.
//!
//! Fed by events and by [`Lane::turn`] on the posting thread; what has to be done is put into [`Effects`]. It calls the
//! mover's `post` and `poll`, and nothing else that could block.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_core::{GrantId, Op, Quiet, RegionId, Run, Status, StatusKind, TransferId};
use ropeway_transport::{Completer, Memory};

use super::flight::{Blank, Flight, SCRATCH_RUNS};
use super::mover::{Desc, Failure, Mover, MoverLimits, Polled, PostError, Request};
use super::wire::{CONFIRM_MAX, Malformed, Message};
use crate::curves::Cuts;

/// Questions to the owner that may be under way at a time.
const ASKS_MAX: usize = 4;
/// One of so many requests is of a large batch even when small ones are there.
const LARGE_TURN: u32 = 4;
/// First pause after back-pressure; doubled up to [`BUSY_MAX`].
const BUSY_MIN: Duration = Duration::from_micros(20);
const BUSY_MAX: Duration = Duration::from_millis(1);

/// See the module.
pub(super) struct Lane {
    limits: MoverLimits,
    /// Grants whose fence the owner closed: the newest generation of each slot. As many as the owner may have leases.
    fenced: HashMap<u32, u32>,
    fenced_max: usize,
    /// Grants whose last write the owner waits for.
    fencing: Vec<GrantId>,
    /// Imports that nobody may use any more, and that wait for their last flight.
    leaving: Vec<RegionId>,
    /// The same for regions of ours.
    leaving_ours: Vec<(RegionId, Arc<Memory>)>,
    flights: HashMap<TransferId, Flight>,
    small: VecDeque<TransferId>,
    large: VecDeque<TransferId>,
    turns: u32,
    out: Vec<Out>,
    to_confirm: VecDeque<TransferId>,
    asked: VecDeque<(u64, Vec<TransferId>)>,
    next_ask: u64,
    busy: Option<(Instant, Duration)>,
    /// How long requests take, about.
    typical: Duration,
    /// Those in flight go on only when they are polled.
    driven: bool,
    /// The registrations that the connection knows of.
    connected_epoch: Option<u64>,
    connecting: bool,
    /// Paused, and whether the end of the connection was asked for.
    paused: Option<(u64, bool)>,
    stopping: Option<(Status, Instant)>,
    over: bool,
    /// Into which pieces the connection wants runs cut.
    cuts: Box<Cuts>,
    descs: Vec<Desc>,
    scratch: Box<[Run; SCRATCH_RUNS]>,
}

/// A native request in flight.
struct Out {
    request: Request,
    flight: TransferId,
    first_run: u32,
    posted: Instant,
}

/// What happens to a lane from outside.
pub(super) enum Event {
    Post(Box<Flight>),
    Cancel(TransferId),
    /// The owner closed a grant.
    Fence(GrantId),
    Confirmed {
        sequence: u64,
        open: Vec<bool>,
    },
    /// The owner withdrew a region, and no new flight uses it.
    Leave(RegionId),
    /// A region of ours is to be registered no longer.
    LeaveOurs(RegionId, Arc<Memory>),
    /// A connect ended well; registrations up to `epoch` are known to it.
    Connected {
        epoch: u64,
        cuts: Box<Cuts>,
    },
    /// Nothing is posted until [`Event::GoOn`], and the connection is ended once nothing is in flight.
    Pause(u64),
    GoOn,
    /// Nothing new is started; what is in flight has until then to end by itself.
    Stop {
        why: Status,
        until: Instant,
    },
}

/// What a turn asks for.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) ended: Vec<(Completer, Status)>,
    pub(super) blank: Vec<Blank>,
    pub(super) say: Vec<Message>,
    /// Imports that nothing uses any more.
    pub(super) released: Vec<RegionId>,
    /// Regions of ours that nothing of ours uses any more.
    pub(super) freed: Vec<RegionId>,
    /// The connection has to be made (anew); nothing is in flight.
    pub(super) connect: bool,
    /// The connection is to be ended; nothing is in flight.
    pub(super) part: Option<u64>,
    pub(super) over: Option<Over>,
}

/// The lane has nothing in flight any more, or gave it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Over {
    /// Something native may still touch memory.
    pub(super) dirty: bool,
    /// Why the link cannot go on, with the library's number, when the lane says so and not its owner.
    pub(super) cause: Option<(StatusKind, i32)>,
}

/// When a lane wants its next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Next {
    /// Something moved: look again at once.
    pub(super) progress: bool,
    /// Requests are in flight, or room is waited for.
    pub(super) at: Option<Instant>,
    /// The next end is so near that sleeping would miss it.
    pub(super) soon: bool,
}

impl Next {
    /// Whether its time has come.
    pub(super) fn is_due(self, now: Instant) -> bool {
        self.progress || self.soon || self.at.is_some_and(|at| at <= now)
    }
}

impl Lane {
    pub(super) fn new(limits: MoverLimits, fenced_max: usize) -> Self {
        Self {
            limits,
            fenced: HashMap::new(),
            fenced_max,
            fencing: Vec::new(),
            leaving: Vec::new(),
            leaving_ours: Vec::new(),
            flights: HashMap::new(),
            small: VecDeque::new(),
            large: VecDeque::new(),
            turns: 0,
            out: Vec::with_capacity(limits.requests),
            to_confirm: VecDeque::new(),
            asked: VecDeque::new(),
            next_ask: 0,
            busy: None,
            typical: Duration::ZERO,
            driven: false,
            connected_epoch: None,
            connecting: false,
            paused: None,
            stopping: None,
            over: false,
            cuts: Box::new(Cuts::WHOLE),
            descs: Vec::with_capacity(limits.descs),
            scratch: Box::new([Run::default(); SCRATCH_RUNS]),
        }
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub(super) fn handle(&mut self, event: Event, fx: &mut Effects) -> Result<(), Malformed> {
        match event {
            Event::Post(flight) => self.begin(*flight, fx),
            Event::Cancel(id) => self.stop_flight(id, Status::quiet(StatusKind::Cancelled), fx),
            Event::Fence(grant) => return self.fence(grant, fx),
            Event::Confirmed { sequence, open } => return self.confirmed(sequence, &open, fx),
            Event::Leave(region) => self.leaving.push(region),
            Event::LeaveOurs(region, memory) => self.leaving_ours.push((region, memory)),
            Event::Connected { epoch, cuts } => {
                self.cuts = cuts;
                self.connecting = false;
                self.connected_epoch = Some(epoch);
            }
            Event::Pause(number) => self.paused = Some((number, false)),
            Event::GoOn => self.paused = None,
            Event::Stop { why, until } => self.stop(why, until, fx),
        }
        Ok(())
    }

    /// Looks at everything once. `epoch` counts registrations; `mover` is missing while a slow call has it.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        epoch: u64,
        mover: Option<&mut (dyn Mover + 'static)>,
        fx: &mut Effects,
    ) -> Next {
        let mut progress = false;
        let had_mover = mover.is_some();
        if let (Some(mover), false) = (mover, self.over) {
            progress |= self.poll(now, mover, fx);
            self.expire(now, fx);
            progress |= self.post(now, epoch, mover, fx);
            self.driven = mover.is_driven();
            self.part(fx);
        } else {
            self.expire(now, fx);
        }
        self.ask(fx);
        self.answer_fences(fx);
        self.let_regions_go(fx);
        if self.stopping.is_some() && !self.over && self.flights.is_empty() {
            self.over = true;
            fx.over = Some(Over { dirty: false, cause: None });
        }
        self.next(now, progress, had_mover)
    }

    /// Ends the connection of a lane that is paused; it is made anew with the next request.
    fn part(&mut self, fx: &mut Effects) {
        let Some((number, false)) = self.paused else { return };
        if !self.connecting && self.out.is_empty() && !self.over {
            (self.paused, self.connected_epoch) = (Some((number, true)), None);
            fx.part = Some(number);
        }
    }

    fn begin(&mut self, flight: Flight, fx: &mut Effects) {
        if self.over || self.stopping.is_some() {
            let why = self.stopping.map_or(Status::quiet(StatusKind::LinkLost), |(why, _)| why);
            fx.ended.push(flight.into_end(why));
        } else if flight.op == Op::Write && self.is_fenced(flight.grant) {
            fx.ended.push(flight.into_end(Status::quiet(StatusKind::StaleLease)));
        } else if !flight.has_more() {
            let status = flight.completed();
            fx.ended.push(flight.into_end(status));
        } else {
            let id = flight.id;
            let queue = if flight.is_small() { &mut self.small } else { &mut self.large };
            queue.push_back(id);
            self.flights.insert(id, flight);
        }
    }

    /// Nothing more of a flight is posted; it ends when what is in flight is over.
    fn stop_flight(&mut self, id: TransferId, why: Status, fx: &mut Effects) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        // All its bytes are there, and the owner has been asked: too late to cancel, but not to give up.
        let asked = flight.confirming;
        if asked && why.kind == StatusKind::Cancelled {
            return;
        }
        let end = *flight.end.get_or_insert(why.with_run(flight.handed()));
        if !asked {
            self.settle(id, fx);
        } else if let Some(flight) = self.flights.remove(&id) {
            end_quietly(flight, end, fx);
        }
    }

    fn is_fenced(&self, grant: GrantId) -> bool {
        self.fenced.get(&grant.slot).is_some_and(|generation| grant.generation <= *generation)
    }

    fn fence(&mut self, grant: GrantId, fx: &mut Effects) -> Result<(), Malformed> {
        let newest = self.fenced.entry(grant.slot).or_insert(0);
        *newest = grant.generation.max(*newest);
        if self.fenced.len() > self.fenced_max {
            return Err(Malformed("more leases were fenced than an engine can have"));
        }
        let under = |flight: &&Flight| flight.op == Op::Write && flight.grant == grant && !flight.probe;
        let ids: Vec<_> = self.flights.values().filter(under).map(|flight| flight.id).collect();
        for id in ids {
            self.stop_flight(id, Status::quiet(StatusKind::StaleLease), fx);
        }
        if !self.fencing.contains(&grant) {
            self.fencing.push(grant);
        }
        Ok(())
    }

    fn answer_fences(&mut self, fx: &mut Effects) {
        if self.over {
            // What is under way under them ends with the link, and so does the owner's waiting.
            self.fencing.clear();
            return;
        }
        let flights = &self.flights;
        let over = |grant: &mut GrantId| {
            !flights.values().any(|flight| flight.op == Op::Write && flight.grant == *grant && !flight.probe)
        };
        fx.say.extend(self.fencing.extract_if(.., over).map(|grant| Message::Fenced { grant }));
    }

    fn let_regions_go(&mut self, fx: &mut Effects) {
        if self.over {
            // What was given up may still be under way; the end of the link lets go of all of them.
            return;
        }
        let flights = &self.flights;
        let unused = |region: &mut RegionId| !flights.values().any(|flight| flight.uses(*region));
        fx.released.extend(self.leaving.extract_if(.., unused));
        let unused = |(_, memory): &mut (RegionId, Arc<Memory>)| {
            !flights.values().any(|flight| flight.is_local(memory))
        };
        fx.freed.extend(self.leaving_ours.extract_if(.., unused).map(|(region, _)| region));
    }

    fn confirmed(&mut self, sequence: u64, open: &[bool], fx: &mut Effects) -> Result<(), Malformed> {
        let Some((asked, ids)) = self.asked.pop_front() else {
            // Given up meanwhile, with the link.
            return if self.over { Ok(()) } else { Err(Malformed("an answer without a question")) };
        };
        if asked != sequence || ids.len() != open.len() {
            return Err(Malformed("an answer to another question"));
        }
        for (id, open) in ids.into_iter().zip(open) {
            // Cancelled or given up meanwhile: it has ended.
            let Some(flight) = self.flights.remove(&id) else { continue };
            if *open {
                let status = flight.end.unwrap_or_else(|| flight.completed());
                fx.ended.push(flight.into_end(status));
            } else {
                let status = flight.end.unwrap_or(Status::quiet(StatusKind::StaleLease));
                fx.blank.push(flight.into_blank(status));
            }
        }
        Ok(())
    }

    fn ask(&mut self, fx: &mut Effects) {
        while !self.to_confirm.is_empty() && self.asked.len() < ASKS_MAX && !self.over {
            let count = self.to_confirm.len().min(CONFIRM_MAX);
            let mut ids: Vec<_> = self.to_confirm.drain(..count).collect();
            ids.retain(|id| self.flights.contains_key(id));
            if ids.is_empty() {
                continue;
            }
            let grants = ids.iter().map(|id| self.flights[id].grant).collect();
            let sequence = self.next_ask;
            self.next_ask += 1;
            self.asked.push_back((sequence, ids));
            fx.say.push(Message::Confirm { sequence, grants });
        }
    }

    /// Ends a flight of which nothing is in flight, if it has come to an end.
    fn settle(&mut self, id: TransferId, fx: &mut Effects) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if flight.outstanding > 0 || flight.has_more() {
            return;
        }
        if flight.op == Op::Read && !flight.probe && flight.wants_word() {
            if !std::mem::replace(&mut flight.confirming, true) {
                self.to_confirm.push_back(id);
            }
            return;
        }
        let Some(flight) = self.flights.remove(&id) else { return };
        match flight.end {
            None => {
                let status = flight.completed();
                fx.ended.push(flight.into_end(status));
            }
            Some(status) => end_quietly(flight, status, fx),
        }
    }

    fn poll(&mut self, now: Instant, mover: &mut dyn Mover, fx: &mut Effects) -> bool {
        let mut progress = false;
        let mut at = 0;
        while let Some(out) = self.out.get(at) {
            let polled = mover.poll(out.request);
            if polled == Polled::Waiting {
                at += 1;
                continue;
            }
            progress = true;
            self.busy = None;
            let Out { flight: id, first_run, posted, .. } = self.out.swap_remove(at);
            self.typical = (self.typical * 3 + now.saturating_duration_since(posted)) / 4;
            if let Polled::Failed(Failure::Latched { code }) = polled {
                self.latch(Some((StatusKind::LinkLost, code)), now, fx);
                return true;
            }
            let Some(flight) = self.flights.get_mut(&id) else { continue };
            flight.outstanding -= 1;
            if let Polled::Failed(Failure::Over { code }) = polled
                && flight.end.is_none()
            {
                flight.end = Some(Status::quiet(StatusKind::Native).with_native(code).with_run(first_run));
            }
            self.settle(id, fx);
        }
        progress
    }

    /// Gives up what is overdue: quietly where nothing is in flight, else with the link.
    fn expire(&mut self, now: Instant, fx: &mut Effects) {
        let overdue: Vec<_> =
            self.flights.values().filter(|flight| flight.abandon_at <= now).map(|flight| flight.id).collect();
        let drained = self.stopping.is_some_and(|(_, until)| until <= now);
        let in_flight = |id: &TransferId| self.flights.get(id).is_some_and(|flight| flight.outstanding > 0);
        if overdue.iter().any(in_flight) || (drained && !self.out.is_empty()) {
            self.latch(None, now, fx);
            return;
        }
        for id in overdue {
            tracing::warn!(transfer = %id, "given up: abandon_after has passed before it was in flight");
            self.stop_flight(id, Status::quiet(StatusKind::Abandoned), fx);
        }
    }

    /// The link is at its end, and what is in flight on it is beyond recall.
    fn latch(&mut self, native: Option<(StatusKind, i32)>, now: Instant, fx: &mut Effects) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let stopping = self.stopping.map(|(why, _)| why.kind);
        let code = native.map_or(0, |(_, code)| code);
        for (_, flight) in self.flights.drain() {
            let late = flight.abandon_at <= now;
            let kind = match (flight.end, late, stopping) {
                (Some(end), ..) => end.kind,
                (None, true, _) => StatusKind::Abandoned,
                (None, false, Some(kind)) => kind,
                (None, false, None) => StatusKind::LinkLost,
            };
            let status = Status::quiet(kind).with_native(code).with_run(flight.end.map_or(0, |end| end.run));
            if flight.outstanding > 0 {
                let held = Status { local: Quiet::AfterClose, remote: Quiet::AfterClose, ..status };
                fx.ended.push(flight.into_end(held));
            } else {
                end_quietly(flight, status, fx);
            }
        }
        self.out.clear();
        self.small.clear();
        self.large.clear();
        self.to_confirm.clear();
        self.asked.clear();
        let cause = match (native, stopping) {
            (_, Some(_)) => None,
            (None, None) => Some((StatusKind::Abandoned, 0)),
            (native, None) => native,
        };
        fx.over = Some(Over { dirty: true, cause });
    }

    fn stop(&mut self, why: Status, until: Instant, fx: &mut Effects) {
        if self.stopping.is_some() || self.over {
            return;
        }
        self.stopping = Some((why, until));
        let ids: Vec<_> = self.flights.keys().copied().collect();
        for id in ids {
            self.stop_flight(id, why, fx);
        }
    }

    /// The flight whose turn it is, at the head of its queue.
    fn choose(&mut self) -> Option<TransferId> {
        self.turns = self.turns.wrapping_add(1);
        let large_first = self.turns.is_multiple_of(LARGE_TURN);
        let queues =
            if large_first { [&mut self.large, &mut self.small] } else { [&mut self.small, &mut self.large] };
        for queue in queues {
            while let Some(id) = queue.front() {
                if self.flights.get(id).is_some_and(Flight::has_more) {
                    return Some(*id);
                }
                queue.pop_front();
            }
        }
        None
    }

    fn post(&mut self, now: Instant, epoch: u64, mover: &mut dyn Mover, fx: &mut Effects) -> bool {
        if self.over || self.connecting || self.paused.is_some() || self.out.len() >= self.limits.requests {
            return false;
        }
        if self.busy.is_some_and(|(until, _)| now < until) {
            return false;
        }
        let Some(id) = self.choose() else { return false };
        let connected = match self.connected_epoch {
            Some(known) => known == epoch || !self.limits.reconnect_for_regions,
            None => false,
        };
        if !connected {
            // What is in flight has to end first; nothing more is posted until then.
            if self.out.is_empty() {
                self.connecting = true;
                fx.connect = true;
            }
            return false;
        }
        let flight = self.flights.get_mut(&id).expect("chosen among the flights");
        let piece = match flight.expand(&self.limits, &self.cuts, &mut self.scratch, &mut self.descs) {
            Ok(piece) => piece,
            Err(kind) => {
                self.stop_flight(id, Status::quiet(kind), fx);
                return true;
            }
        };
        match mover.post(flight.op, &self.descs) {
            Ok(request) => {
                let first_run = flight.take(&piece);
                if !flight.has_more() {
                    // Taken from its queue with the next choice.
                    tracing::trace!(transfer = %id, bytes = piece.bytes(), "the last request is posted");
                }
                self.out.push(Out { request, flight: id, first_run, posted: now });
                self.rotate(id);
                self.busy = None;
                true
            }
            Err(PostError::Busy(_)) => {
                let pause = self.busy.map_or(BUSY_MIN, |(_, pause)| (pause * 2).min(BUSY_MAX));
                self.busy = Some((now + pause, pause));
                false
            }
            Err(PostError::Failed(Failure::Over { code })) => {
                let first = flight.handed();
                flight.end = Some(Status::quiet(StatusKind::Native).with_native(code).with_run(first));
                self.settle(id, fx);
                true
            }
            Err(PostError::Cut { code }) => {
                self.latch(Some((StatusKind::LinkLost, code)), now, fx);
                true
            }
            Err(PostError::Failed(Failure::Latched { code })) => {
                // It may have been started in part.
                flight.outstanding += 1;
                flight.posted = true;
                self.latch(Some((StatusKind::LinkLost, code)), now, fx);
                true
            }
        }
    }

    /// Behind the others of its size: large batches take turns.
    fn rotate(&mut self, id: TransferId) {
        for queue in [&mut self.small, &mut self.large] {
            if queue.front() == Some(&id) {
                queue.rotate_left(1);
            }
        }
    }

    fn next(&self, now: Instant, progress: bool, had_mover: bool) -> Next {
        let deadlines = self.flights.values().map(|flight| flight.abandon_at);
        let drained = self.stopping.filter(|_| !self.over).map(|(_, until)| until);
        let busy = self.busy.filter(|_| !self.small.is_empty() || !self.large.is_empty()).map(|(at, _)| at);
        let oldest = self.out.iter().map(|out| out.posted).min();
        let most = if self.driven { DRIVEN_MAX } else { POLL_MAX };
        let poll =
            oldest.map(|posted| now + pause(now.saturating_duration_since(posted), self.typical).min(most));
        // The end of the slow call that has the mover rings.
        let native = busy.into_iter().chain(poll).filter(|_| had_mover);
        let soon = oldest.is_some_and(|posted| {
            had_mover && self.typical <= SPIN_MAX && now.saturating_duration_since(posted) < SPIN_MAX * 2
        });
        Next { progress, at: deadlines.chain(drained).chain(native).min(), soon }
    }
}

/// Ends below this are spun for.
const SPIN_MAX: Duration = Duration::from_micros(50);
const POLL_MIN: Duration = Duration::from_micros(20);
const POLL_MAX: Duration = Duration::from_millis(1);
/// Of requests that go on by being polled: about what a step of theirs takes.
const DRIVEN_MAX: Duration = Duration::from_micros(50);

/// How long to sleep before requests are asked for again: until shortly before the end is expected; then for an eighth
/// of what it took so far, so that an end is seen at most an eighth too late.
fn pause(age: Duration, typical: Duration) -> Duration {
    let expected = typical.saturating_sub(typical / 8).saturating_sub(age);
    expected.max(age / 8).clamp(POLL_MIN, POLL_MAX)
}

/// Nothing of it is in flight. A destination that may hold bytes of nobody's word is cleared first.
fn end_quietly(flight: Flight, status: Status, fx: &mut Effects) {
    if flight.is_tainted() {
        fx.blank.push(flight.into_blank(status));
    } else {
        fx.ended.push(flight.into_end(status));
    }
}
