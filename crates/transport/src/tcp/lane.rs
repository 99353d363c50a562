//! One stream of a link: its lock, its orders, and what is to be told once the lock is let go.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropeway_core::{Error, ErrorKind, GrantId, Quiet, Status, StatusKind};

use super::drive::Habit;
use super::flight::{Flight, Part};
use super::gate::Using;
use super::link::LinkCore;
use super::receive::Receiver;
use super::send::Sender;
use super::served::{Released, Serving};
use super::socket::Bell;
use super::wire::Seal;
use crate::Completer;

/// Bytes moved before the thread looks at its other streams: a small request waits for so many of its neighbours' at most.
/// Tests end the turn after each call, so that nothing rests on a turn being long.
const TURN_BYTES: usize = if cfg!(test) { 1 } else { 256 << 10 };

/// One stream. Whoever holds `conn` moves its bytes; nobody waits for it but the thread that drives.
pub(super) struct Lane {
    pub(super) index: u16,
    pub(super) stream: TcpStream,
    /// What our serving thread touches memory for.
    pub(super) using: Using,
    orders: Mutex<Vec<Order>>,
    ordered: AtomicBool,
    conn: Mutex<Conn>,
    /// Wakes the thread that drives this stream.
    pub(super) bell: Bell,
    pub(super) habit: Habit,
    /// Requests of ours that the peer may still answer.
    pub(super) open: AtomicUsize,
    /// Something waits to be sent.
    pub(super) wants_to_send: AtomicBool,
    /// A waiting thread moves this stream's bytes; the I/O thread leaves it alone.
    pub(super) driven: AtomicBool,
}

/// Which thread moves bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// One that waits for a batch of the stream.
    Driver,
    /// The I/O thread.
    Io,
    /// One that came by with an order. It only sends.
    Passer,
}

/// What other threads want of a stream; taken up by whoever holds it.
pub(super) enum Order {
    Start(Box<Part>),
    Cancel(u64),
    Abandon(u64),
    Revoke(GrantId),
}

/// What is known of a stream, under its lock.
pub(super) struct Conn {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Requests that we made.
    pub(super) asked: HashMap<u64, Part>,
    /// Requests of the peer.
    pub(super) serving: HashMap<u64, Serving>,
    /// What epoll watches now.
    pub(super) watched: Watch,
    pub(super) over: bool,
}

/// What to wake up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Watch {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// What to tell, once no lock is held.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) ended: Vec<(Completer, Status)>,
    /// Batches of which a part failed: their other parts are to stop.
    pub(super) failed: Vec<Arc<Flight>>,
    pub(super) released: Vec<Released>,
    pub(super) lost: Option<Error>,
    /// A gate was left.
    pub(super) left: bool,
    /// Requests of ours that are over.
    pub(super) closed: usize,
}

impl Effects {
    pub(super) fn part_ended(&mut self, part: &Part, status: Status) {
        match part.flight.part_ended(status) {
            Some(end) => self.ended.push(end),
            None if !status.is_completed() => self.failed.push(Arc::clone(&part.flight)),
            None => {}
        }
    }
}

/// Why a stream cannot go on.
#[derive(Debug)]
pub(super) enum Broken {
    Ended,
    Native(i32),
    /// The peer broke the protocol.
    Protocol(&'static str),
    /// We did.
    Internal(&'static str),
}

impl Broken {
    fn error(&self, lane: u16) -> Error {
        let of = |kind, why: String| Error::new(kind, "link", format!("tcp data stream {lane}: {why}"));
        match self {
            Self::Ended => of(ErrorKind::LinkLost, "the peer closed the connection".into()),
            Self::Native(code) => {
                let source = std::io::Error::from_raw_os_error(*code);
                of(ErrorKind::LinkLost, format!("the connection broke: {source}")).with_native(*code)
            }
            Self::Protocol(why) => of(ErrorKind::Protocol, format!("the peer broke the protocol: {why}")),
            Self::Internal(why) => of(ErrorKind::Internal, (*why).into()),
        }
    }
}

/// What one call came to.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) bytes: usize,
    /// Another call may move more.
    pub(super) again: bool,
}

/// What a turn came to.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Turn {
    /// Bytes moved, both ways.
    pub(super) bytes: usize,
    /// More is to be done now, without waiting.
    pub(super) more: bool,
}

impl Lane {
    pub(super) fn new(index: u16, stream: TcpStream, ours: Seal, theirs: Seal) -> Result<Self, Error> {
        let bell = Bell::new().map_err(|error| Error::os("link", "no eventfd for a data stream", error))?;
        let conn = Conn {
            sender: Sender::new(ours),
            receiver: Receiver::new(theirs),
            asked: HashMap::new(),
            serving: HashMap::new(),
            watched: Watch { readable: false, writable: false },
            over: false,
        };
        Ok(Self {
            index,
            bell,
            habit: Habit::default(),
            stream,
            using: Using::default(),
            orders: Mutex::default(),
            ordered: AtomicBool::new(false),
            conn: Mutex::new(conn),
            open: AtomicUsize::new(0),
            wants_to_send: AtomicBool::new(false),
            driven: AtomicBool::new(false),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Leaves an order; `work` or `try_work` takes it up.
    pub(super) fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.ordered.store(true, Ordering::SeqCst);
    }

    /// Waits for the stream's lock. Only for threads that move its bytes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Conn> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Conn>> {
        match self.conn.try_lock() {
            Ok(conn) => Some(conn),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// Moves bytes for one turn, as the thread that is in charge of the stream. `readable`: something may be there.
    pub(super) fn work(&self, link: &LinkCore, who: Who, readable: bool) -> Turn {
        let turn = self.turn(link, self.lock(), who, readable);
        self.look_again(link);
        turn
    }

    /// Takes up orders and sends what can be sent, without waiting for anything. When another thread holds the stream,
    /// it takes up the orders before it lets go.
    pub(super) fn try_work(&self, link: &LinkCore) {
        if let Some(conn) = self.try_lock() {
            self.turn(link, conn, Who::Passer, false);
        }
        self.look_again(link);
    }

    /// An order may have come between the last look and the unlocking, from a thread that then found us inside.
    pub(super) fn look_again(&self, link: &LinkCore) {
        while self.ordered.load(Ordering::SeqCst) {
            match self.try_lock() {
                Some(conn) => self.turn(link, conn, Who::Passer, false),
                None => return,
            };
        }
    }

    fn turn(&self, link: &LinkCore, mut conn: MutexGuard<'_, Conn>, who: Who, readable: bool) -> Turn {
        let mut effects = Effects::default();
        let turn = self.pump(link, &mut conn, &mut effects, who, readable);
        if effects.lost.is_none() && !conn.over {
            link.watch(self, &mut conn, who);
        }
        self.wants_to_send.store(conn.sender.has_work(), Ordering::Relaxed);
        drop(conn);
        self.open.fetch_sub(effects.closed, Ordering::Relaxed);
        link.tell(self, effects, who);
        turn
    }

    /// The link is over: see [`Conn::tear_down`].
    pub(super) fn tear_down(&self, link: &LinkCore, kind: StatusKind) {
        let mut effects = Effects::default();
        {
            let mut conn = self.lock();
            conn.tear_down(kind, &mut effects);
            // A thread that panicked may have left its grant published.
            self.using.leave();
            effects.left = true;
        }
        self.open.fetch_sub(effects.closed, Ordering::Relaxed);
        link.tell(self, effects, Who::Io);
        self.look_again(link);
    }

    fn pump(
        &self,
        link: &LinkCore,
        conn: &mut Conn,
        effects: &mut Effects,
        who: Who,
        readable: bool,
    ) -> Turn {
        let mut turn = Turn::default();
        if self.ordered.swap(false, Ordering::SeqCst) {
            let orders = std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner));
            for order in orders {
                if let Err(broken) = conn.take_up(order, effects) {
                    effects.lost = Some(broken.error(self.index));
                }
            }
        }
        if conn.over || effects.lost.is_some() {
            return turn;
        }
        match self.move_bytes(link, conn, effects, (who, readable), &mut turn) {
            Ok(()) => {}
            Err(broken) => effects.lost = Some(broken.error(self.index)),
        }
        turn
    }

    fn move_bytes(
        &self,
        link: &LinkCore,
        conn: &mut Conn,
        effects: &mut Effects,
        (who, readable): (Who, bool),
        turn: &mut Turn,
    ) -> Result<(), Broken> {
        // Small answers first: sending comes before more of a bulk read is taken in, and goes by segments.
        let (mut can_send, mut can_receive) = (true, readable);
        // A thread that only submits does not move bulk bytes: that is for whoever waits, or the I/O thread.
        let limit = if who == Who::Passer { super::SMALL_BYTES as usize } else { TURN_BYTES };
        // What was read ahead is looked at before the turn ends: no poll would tell that it is there.
        while (can_send || can_receive) && (turn.bytes < limit || conn.receiver.has_ahead()) {
            if can_send {
                let step = conn.send_some(link, self, effects)?;
                turn.bytes += step.bytes;
                can_send = step.again;
            }
            if can_receive {
                let step = conn.receive_some(link, self, effects)?;
                turn.bytes += step.bytes;
                can_receive = step.again;
                // What came may have made an answer.
                can_send |= step.bytes > 0 && !conn.sender.blocked;
            }
        }
        turn.more = can_send || can_receive;
        Ok(())
    }
}

impl Conn {
    fn take_up(&mut self, order: Order, effects: &mut Effects) -> Result<(), Broken> {
        match order {
            Order::Start(part) if self.over => {
                effects.closed += 1;
                effects.part_ended(&part, Status::quiet(StatusKind::LinkLost));
            }
            Order::Start(part) => {
                let id = part.flight.id.0;
                self.sender.queue_asked(id, part.bytes);
                self.asked.insert(id, *part);
            }
            Order::Cancel(id) => self.stop_asked(id, StatusKind::Cancelled, effects)?,
            Order::Abandon(id) => self.stop_asked(id, StatusKind::Abandoned, effects)?,
            Order::Revoke(grant) => {
                let ids = self.serving.iter().filter(|(_, serving)| serving.grant == grant);
                for id in ids.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.stop_serving(id, effects)?;
                }
            }
        }
        Ok(())
    }

    /// The link is over: every batch of ours ends, nothing more is served.
    pub(super) fn tear_down(&mut self, kind: StatusKind, effects: &mut Effects) {
        self.over = true;
        self.sender.clear();
        self.receiver.clear();
        effects.closed += self.asked.len();
        for (_, part) in self.asked.drain() {
            if !part.told {
                let remote = if part.is_unsent() { Quiet::Yes } else { Quiet::AfterClose };
                effects.part_ended(&part, Status { remote, ..Status::quiet(kind) });
            }
        }
        effects.released.extend(self.serving.drain().filter_map(|(_, serving)| serving.over()));
    }
}
