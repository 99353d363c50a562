//! The thread of one link: it alone has the library called, and knows what is under way.
//!
//! A round is under way on the stream at a time. Rank 0 decides the order of rounds by posting first and saying so; rank 1
//! posts in the order in which it is told. Each side asks the other to serve one round of its own at a time.

mod ending;
mod serving;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::RecvTimeoutError;
use ropeway_core::{Cursor, Error, ErrorKind, GrantId, Op, Result, Runs, Status, StatusKind, TransferId};
use ropeway_transport::{Completer, LinkSink, Memory, Served};

use super::comm::{Communicator, failed};
use super::hand::{Hand, Hung};
use super::mailbox::{HEARD_MAX, Told};
use super::pins::{Pins, Ticket};
use super::plans::Plans;
use super::rounds::{Piece, next};
use super::setup::POST;
use super::wire::{Message, PLAN_PIECE};
use super::{Ends, Shared};
use crate::device::Bound;
pub(super) use ending::Ended;

/// How long the thread sleeps between two looks at the stream, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));

/// How often the library is asked whether the network failed.
const ASK_ERRORS: Duration = Duration::from_millis(200);

/// How long what is under way may end by itself when the link is closed.
const DRAIN: Duration = Duration::from_secs(2);

/// What the thread is told.
pub(super) enum Command {
    Heard(Message),
    /// The peer broke the protocol: it said too much at a time, or what no one understands.
    Violated(String),
    Start(Box<Ours>),
    Cancel(TransferId),
    Close,
}

/// A batch of ours.
pub(super) struct Ours {
    pub(super) id: TransferId,
    pub(super) op: Op,
    pub(super) grant: GrantId,
    pub(super) runs: Arc<dyn Runs>,
    pub(super) local: Arc<[Arc<Memory>]>,
    pub(super) abandon_at: Instant,
    pub(super) done: Completer,
    pub(super) plan: Bytes,
    pub(super) cancelled: bool,
}

/// Our batch that the peer was asked for, and its round under way.
struct Asked {
    number: u64,
    ours: Ours,
    at: Cursor,
    moved: u64,
    pieces: Vec<Piece>,
    state: Round,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// The peer has not said yet that it may begin.
    Unanswered,
    /// Rank 0 alone: the peer has it ready.
    Accepted,
    /// Posted on our side; what has ended of it.
    Posted { here: bool, there: bool },
}

/// A round of the peer's that passed the checks.
struct Theirs {
    batch: u64,
    op: Op,
    pieces: Vec<Piece>,
    served: Served,
    ticket: Ticket,
}

/// What is on the stream.
enum OnStream {
    Ours,
    Theirs(Theirs),
}

struct Flight {
    what: OnStream,
    until: Instant,
    error_asked: Instant,
}

/// What came of a post: the library's number, or nothing.
type Posted = Result<Result<(), i32>, Hung>;

/// Why the thread ends.
pub(super) enum End {
    /// Asked for, nothing under way.
    Closed,
    /// The peer ended it, nothing under way.
    PeerClosed,
    /// Something went wrong while copies may be under way.
    Broken(Error),
}

/// What the library is used by.
pub(super) struct Native<'a> {
    pub(super) comm: &'a Arc<Communicator>,
    pub(super) hand: &'a Hand,
    pub(super) on: &'a Bound<'a>,
}

pub(super) struct Worker<'a> {
    pub(super) shared: &'a Arc<Shared>,
    ends: &'a Ends,
    sink: &'a dyn LinkSink,
    pins: &'a Pins,
    open: &'a AtomicUsize,
    native: Native<'a>,
    /// A native call has not returned.
    hangs: bool,
    queue: VecDeque<Ours>,
    asked: Option<Asked>,
    plans: Plans,
    served: VecDeque<Theirs>,
    posts: VecDeque<(u64, bool)>,
    flight: Option<Flight>,
    next_number: u64,
    theirs_first: bool,
    closing: Option<Instant>,
    peer_closing: bool,
    look: Duration,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        ends: &'a Ends,
        sink: &'a dyn LinkSink,
        pins: &'a Pins,
        open: &'a AtomicUsize,
        native: Native<'a>,
    ) -> Self {
        Self {
            shared,
            ends,
            sink,
            pins,
            open,
            native,
            hangs: false,
            queue: VecDeque::new(),
            asked: None,
            plans: Plans::default(),
            served: VecDeque::new(),
            posts: VecDeque::new(),
            flight: None,
            next_number: 1,
            theirs_first: false,
            closing: None,
            peer_closing: false,
            look: LOOK.0,
        }
    }

    /// Works until the link ends. Gives why, with everything that is not under way on the stream ended.
    pub(super) fn run(mut self, commands: &Told, early: Vec<Command>) -> Ended {
        let mut end = None;
        for command in early {
            end = end.or(self.obey(command).err());
        }
        while end.is_none() {
            end = self.step(commands).err();
        }
        self.finish(end.unwrap_or(End::Closed))
    }

    fn step(&mut self, commands: &Told) -> Result<(), End> {
        let told = match self.wait() {
            None => commands.recv(),
            Some(wait) => commands.recv_timeout(wait),
        };
        match told {
            Ok(command) => {
                self.look = LOOK.0;
                self.obey(command)?;
                // Not for ever: the stream and the clock are to be looked at, however fast the peer talks.
                for _ in 0..HEARD_MAX {
                    let Ok(command) = commands.try_recv() else { break };
                    self.obey(command)?;
                }
            }
            Err(RecvTimeoutError::Timeout) => self.look = (self.look * 2).min(LOOK.1),
            Err(RecvTimeoutError::Disconnected) => self.obey(Command::Close)?,
        }
        self.look_at_stream()?;
        self.expire()?;
        self.begin()?;
        self.may_end()
    }

    /// How long nothing has to be done.
    fn wait(&self) -> Option<Duration> {
        if self.flight.is_some() {
            return Some(self.look);
        }
        let batches = self.queue.iter().map(|ours| ours.abandon_at);
        let asked = self.asked.iter().map(|asked| asked.ours.abandon_at);
        let soonest = batches.chain(asked).chain(self.closing).min()?;
        Some(soonest.saturating_duration_since(Instant::now()))
    }

    fn obey(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Heard(message) => self.hear(message),
            Command::Violated(why) => Err(violated(&format!("the peer's side: {why}"))),
            Command::Start(ours) => {
                if self.closing.is_some() || self.peer_closing {
                    self.end(*ours, Status::quiet(StatusKind::Closed));
                } else {
                    self.queue.push_back(*ours);
                }
                Ok(())
            }
            Command::Cancel(id) => {
                if let Some(at) = self.queue.iter().position(|ours| ours.id == id)
                    && let Some(ours) = self.queue.remove(at)
                {
                    self.end(ours, Status::quiet(StatusKind::Cancelled));
                } else if let Some(asked) = self.asked.as_mut().filter(|asked| asked.ours.id == id) {
                    asked.ours.cancelled = true;
                }
                Ok(())
            }
            Command::Close => {
                self.closing.get_or_insert(Instant::now() + DRAIN);
                self.end_queue(StatusKind::Closed);
                Ok(())
            }
        }
    }

    fn hear(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Plan { batch, total, piece } => self.plans.add(batch, total, &piece).map_err(violated),
            Message::Ask { batch, op, grant, start, lens } => self.serve(batch, op, grant, start, &lens),
            Message::Declined { batch, why } => {
                let mut asked = self.take_asked(batch, "declined a round")?;
                if asked.state != Round::Unanswered {
                    self.asked = Some(asked);
                    return Err(broken("the peer declined a round that was posted"));
                }
                asked.pieces.clear();
                // Earlier rounds ended on both sides.
                self.end(asked.ours, Status::quiet(why));
                Ok(())
            }
            Message::Accept { batch } if self.ends.rank == 0 => {
                let mut asked = self.take_asked(batch, "accepted a round")?;
                if asked.state == Round::Unanswered {
                    asked.state = Round::Accepted;
                }
                self.asked = Some(asked);
                Ok(())
            }
            Message::Post { batch, mine } if self.ends.rank == 1 && self.posts.len() < 2 => {
                self.posts.push_back((batch, mine));
                Ok(())
            }
            Message::Ended { batch } => {
                let mut asked = self.take_asked(batch, "ended a round")?;
                let Round::Posted { here, .. } = asked.state else {
                    self.asked = Some(asked);
                    return Err(broken("the peer ended a round that was not posted"));
                };
                asked.state = Round::Posted { here, there: true };
                self.asked = Some(asked);
                self.advance()
            }
            Message::Forget { batch } => {
                self.plans.forget(batch);
                Ok(())
            }
            Message::Broken(why) => Err(broken(&format!("the peer: {why}"))),
            Message::Closing => {
                self.peer_closing = true;
                self.end_queue(StatusKind::LinkLost);
                // Asked for after the peer's end: what it has posted, it has said before.
                if let Some(asked) = self.asked.take_if(|asked| asked.state == Round::Unanswered) {
                    if self.posts.contains(&(asked.number, false)) {
                        self.asked = Some(asked);
                    } else {
                        self.end(asked.ours, Status::quiet(StatusKind::LinkLost));
                    }
                }
                Ok(())
            }
            other => Err(broken(&format!("the peer said {other:.40?} out of turn"))),
        }
    }

    fn take_asked(&mut self, batch: u64, what: &str) -> Result<Asked, End> {
        match self.asked.take() {
            Some(asked) if asked.number == batch => Ok(asked),
            other => {
                self.asked = other;
                Err(broken(&format!("the peer {what} of batch {batch}, which was not asked for")))
            }
        }
    }

    /// Starts what can be started.
    fn begin(&mut self) -> Result<(), End> {
        self.ask()?;
        if self.flight.is_some() {
            return Ok(());
        }
        if self.ends.rank == 1 {
            return match self.posts.pop_front() {
                Some((batch, true)) => self.post_theirs(batch),
                Some((batch, false)) => self.post_ours(Some(batch)),
                None => Ok(()),
            };
        }
        let ours = self.asked.as_ref().is_some_and(|asked| asked.state == Round::Accepted);
        match self.served.front().map(|theirs| theirs.batch) {
            Some(batch) if !ours || self.theirs_first => {
                self.theirs_first = false;
                self.post_theirs(batch)
            }
            _ if ours => {
                self.theirs_first = true;
                self.post_ours(None)
            }
            _ => Ok(()),
        }
    }

    /// Asks the peer for the next batch, if none is asked for.
    fn ask(&mut self) -> Result<(), End> {
        while self.asked.is_none() {
            let Some(ours) = self.queue.pop_front() else { return Ok(()) };
            let mut at = ours.runs.seek(0);
            // Before the plan is said: otherwise one plan after the other would go out that nobody has answered.
            let Some(pieces) = next(&*ours.runs, &mut at, &ours.local) else {
                self.end(ours, Status::quiet(StatusKind::Closed));
                continue;
            };
            let number = self.next_number;
            self.next_number += 1;
            let total = ours.plan.len() as u32;
            for piece in ours.plan.chunks(PLAN_PIECE) {
                self.say(Message::Plan { batch: number, total, piece: Bytes::copy_from_slice(piece) })?;
            }
            self.ask_pieces(Asked { number, ours, at, moved: 0, pieces, state: Round::Unanswered })?;
        }
        Ok(())
    }

    fn ask_round(&mut self, mut asked: Asked) -> Result<(), End> {
        let Some(pieces) = next(&*asked.ours.runs, &mut asked.at, &asked.ours.local) else {
            self.say(Message::Forget { batch: asked.number })?;
            self.end(asked.ours, Status::quiet(StatusKind::Closed));
            return Ok(());
        };
        asked.pieces = pieces;
        asked.state = Round::Unanswered;
        self.ask_pieces(asked)
    }

    fn ask_pieces(&mut self, asked: Asked) -> Result<(), End> {
        let message = Message::Ask {
            batch: asked.number,
            op: asked.ours.op,
            grant: asked.ours.grant,
            start: asked.moved,
            lens: asked.pieces.iter().map(|piece| piece.len).collect(),
        };
        self.asked = Some(asked);
        self.say(message)
    }

    fn post_ours(&mut self, batch: Option<u64>) -> Result<(), End> {
        let Some(asked) = &mut self.asked else {
            return Err(broken("the peer posted what was not asked for"));
        };
        let ready = matches!(asked.state, Round::Unanswered | Round::Accepted);
        if !ready || batch.is_some_and(|batch| batch != asked.number) {
            return Err(broken("the peer posted another round than the one asked for"));
        }
        asked.state = Round::Posted { here: false, there: false };
        let batch = asked.number;
        let (send, receive): (&[Piece], &[Piece]) = match asked.ours.op {
            Op::Read => (&[], &asked.pieces),
            Op::Write => (&asked.pieces, &[]),
        };
        let (send, receive) = (send.to_vec(), receive.to_vec());
        // SAFETY: the batch pins its memory until it is finished, which says that it is quiet only once the stream was seen
        // idle.
        let posted = unsafe { self.post(send, receive) };
        self.posted(posted, OnStream::Ours, batch, true)
    }

    /// Posts by the hand, in the time that a round may take.
    ///
    /// # Safety
    /// As of [`Communicator::post`]; for ever when it hangs.
    unsafe fn post(&self, send: Vec<Piece>, receive: Vec<Piece>) -> Result<Result<(), i32>, Hung> {
        let comm = Arc::clone(self.native.comm);
        let until = Instant::now() + self.shared.transfer_timeout;
        // SAFETY: the caller's word.
        let post = move |_: &Bound<'_>| unsafe { comm.post(&send, &receive) };
        self.native.hand.call(POST, until, post, |_, _| ())
    }

    fn posted(&mut self, posted: Posted, what: OnStream, batch: u64, mine: bool) -> Result<(), End> {
        let now = Instant::now();
        let until = now + self.shared.transfer_timeout;
        self.flight = Some(Flight { what, until, error_asked: now });
        self.look = LOOK.0;
        let posted = posted.map_err(|hung| self.hung(hung))?;
        // Part of the list may have been taken, and the other side waits for the rest: nothing goes on from here.
        posted.map_err(|code| {
            End::Broken(failed(self.shared.api, code, "transfer over HCCL", "copies could not be posted"))
        })?;
        if self.ends.rank == 0 { self.say(Message::Post { batch, mine }) } else { Ok(()) }
    }

    fn look_at_stream(&mut self) -> Result<(), End> {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        if self.native.comm.stream().is_idle(self.native.on).map_err(End::Broken)? {
            let what = self.flight.take().map(|flight| flight.what);
            return match what {
                Some(OnStream::Theirs(theirs)) => self.theirs_ended(theirs),
                _ => self.ours_ended(),
            };
        }
        let now = Instant::now();
        if now >= flight.until {
            return Err(broken("copies do not end: HCCL hangs, restart both processes if it does so again"));
        }
        if now >= flight.error_asked + ASK_ERRORS {
            flight.error_asked = now;
            let comm = Arc::clone(self.native.comm);
            let until = now + self.shared.transfer_timeout;
            let asked =
                self.native.hand.call("HcclGetCommAsyncError", until, move |_| comm.async_error(), |_, _| ());
            if let Some(code) = asked.map_err(|hung| self.hung(hung))? {
                let what = "the network failed under it";
                return Err(End::Broken(failed(self.shared.api, code, "transfer over HCCL", what)));
            }
        }
        Ok(())
    }

    /// Nothing more is asked of this communicator.
    fn hung(&mut self, hung: Hung) -> End {
        self.hangs = true;
        End::Broken(hung.error("transfer over HCCL"))
    }

    fn ours_ended(&mut self) -> Result<(), End> {
        if let Some(asked) = &mut self.asked
            && let Round::Posted { there, .. } = asked.state
        {
            asked.state = Round::Posted { here: true, there };
        }
        self.advance()
    }

    /// Our round has ended on both sides: the next one, or the batch's end.
    fn advance(&mut self) -> Result<(), End> {
        let over = Round::Posted { here: true, there: true };
        let Some(mut asked) = self.asked.take_if(|asked| asked.state == over) else { return Ok(()) };
        asked.moved += asked.pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>();
        let whole = asked.moved >= asked.ours.runs.total_bytes();
        if !whole && !asked.ours.cancelled && self.closing.is_none() && !self.peer_closing {
            return self.ask_round(asked);
        }
        let kind = match whole {
            true => StatusKind::Completed,
            false if asked.ours.cancelled => StatusKind::Cancelled,
            false if self.closing.is_some() => StatusKind::Closed,
            false => StatusKind::LinkLost,
        };
        let forgotten = self.say(Message::Forget { batch: asked.number });
        self.end(asked.ours, Status::quiet(kind));
        forgotten
    }

    /// Gives up what is overdue.
    fn expire(&mut self) -> Result<(), End> {
        let now = Instant::now();
        while let Some(at) = self.queue.iter().position(|ours| ours.abandon_at <= now) {
            if let Some(ours) = self.queue.remove(at) {
                self.end(ours, Status::quiet(StatusKind::Abandoned));
            }
        }
        if self.asked.as_ref().is_some_and(|asked| asked.ours.abandon_at <= now) {
            return Err(broken("a transfer was given up, which ends its communicator"));
        }
        if self.closing.is_some_and(|until| until <= now) && !self.is_idle() {
            return Err(broken("copies did not end in time for the link's end"));
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.flight.is_none() && self.asked.is_none() && self.served.is_empty() && self.posts.is_empty()
    }

    fn may_end(&mut self) -> Result<(), End> {
        match self.is_idle() {
            true if self.closing.is_some() => Err(End::Closed),
            true if self.peer_closing => Err(End::PeerClosed),
            _ => Ok(()),
        }
    }

    fn say(&self, message: Message) -> Result<(), End> {
        self.sink.say(message.encode()).map_err(End::Broken)
    }

    fn leave(&self, ticket: Ticket) {
        let over = self.pins.leave(ticket);
        over.fenced.into_iter().for_each(|grant| self.sink.fenced(grant));
        over.withdrawn.into_iter().for_each(|region| self.sink.withdrawn(region));
    }

    fn end_queue(&mut self, kind: StatusKind) {
        for ours in std::mem::take(&mut self.queue) {
            self.end(ours, Status::quiet(kind));
        }
    }

    fn end(&self, ours: Ours, status: Status) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        // SAFETY: a side that the status calls quiet is quiet: the batch was never posted, or its last round ended on both
        // sides' streams.
        unsafe { ours.done.finish(status) };
    }
}

fn broken(why: &str) -> End {
    End::Broken(Error::new(ErrorKind::LinkLost, "transfer over HCCL", why))
}

fn violated(why: &str) -> End {
    End::Broken(Error::new(ErrorKind::Protocol, "transfer over HCCL", why))
}
