//! Sends and receives of one communicator, matched: the receiver copies, then tells the sender.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::dma::{Backing, Reach, plan};
use crate::fail::code;
use crate::hixl::wire::{decode, encode};
use crate::net::{Channel, Handler};
use crate::runtime::runtime;

/// A piece of device memory to send from or receive into.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Buffer {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) backing: Backing,
}

/// The n-th operation between this rank and another, in one direction.
type Key = (u32, u64);

#[derive(Serialize, Deserialize)]
enum Ask {
    /// I am at my n-th send to you.
    Offer { from: u32, number: u64, buffer: Buffer },
    /// Your n-th send to me is over.
    Done { from: u32, number: u64, well: bool },
}

const PENDING: i32 = -1;

/// One send or receive.
#[derive(Debug)]
pub(super) struct Op {
    end: AtomicI32,
    /// The stream that waited for it was aborted.
    abandoned: AtomicBool,
}

impl Op {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { end: AtomicI32::new(PENDING), abandoned: AtomicBool::new(false) })
    }

    /// Nothing while it is under way, else 0 or an error.
    pub(super) fn end(&self) -> Option<i32> {
        Some(self.end.load(Ordering::Acquire)).filter(|end| *end != PENDING)
    }

    /// Nobody waits for it any more.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Somebody waits for it.
    pub(super) fn is_open(&self) -> bool {
        self.end().is_none() && !self.abandoned.load(Ordering::Acquire)
    }

    /// It is over.
    pub(super) fn finish(&self, end: i32) {
        self.end.store(end, Ordering::Release);
    }
}

/// How much of a receive's bytes come, and the error that it ends with then; 0 for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Torn(pub(super) f64, pub(super) i32);

impl Torn {
    /// All of it comes.
    pub(super) const NOT: Self = Self(1.0, 0);
}

/// A thread and what waits for it.
pub(super) struct Matcher {
    own: u32,
    limit: Duration,
    inner: Mutex<Inner>,
    bell: Condvar,
}

#[derive(Default)]
struct Inner {
    sends: HashMap<Key, Arc<Op>>,
    receives: HashMap<Key, (Arc<Op>, Buffer, Torn)>,
    offers: HashMap<Key, Buffer>,
    work: VecDeque<Step>,
    /// By when an operation fails that the other rank does not answer.
    limits: VecDeque<(Instant, Arc<Op>)>,
    over: bool,
    lost: bool,
}

enum Step {
    Tell(u32, Ask),
    Copy(Key, Arc<Op>, Buffer, Buffer, Torn),
}

impl Matcher {
    /// One without work; [`Matcher::serve`] is its thread.
    pub(super) fn new(own: u32, limit: Duration) -> Self {
        Self { own, limit, inner: Mutex::default(), bell: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A send's turn in its stream has come.
    pub(super) fn send(&self, to: u32, number: u64, op: &Arc<Op>, buffer: Buffer) {
        let mut inner = self.lock();
        inner.limits.push_back((Instant::now() + self.limit, Arc::clone(op)));
        inner.sends.insert((to, number), Arc::clone(op));
        inner.work.push_back(Step::Tell(to, Ask::Offer { from: self.own, number, buffer }));
        drop(inner);
        self.bell.notify_all();
    }

    /// A receive's turn in its stream has come.
    pub(super) fn receive(&self, from: u32, number: u64, op: &Arc<Op>, buffer: Buffer, torn: Torn) {
        let mut inner = self.lock();
        inner.limits.push_back((Instant::now() + self.limit, Arc::clone(op)));
        inner.receives.insert((from, number), (Arc::clone(op), buffer, torn));
        inner.pair((from, number));
        drop(inner);
        self.bell.notify_all();
    }

    /// An operation whose turn has come and that never ends.
    pub(super) fn hang(&self) {
        tracing::debug!(rank = self.own, "an operation hangs, as the fault script says");
    }

    /// An operation whose turn has come and that never ends, since the other rank is out of reach.
    pub(super) fn lose(&self) {
        self.lock().lost = true;
    }

    /// Whether a message to another rank could not be brought.
    pub(super) fn has_lost(&self) -> bool {
        self.lock().lost
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.bell.notify_all();
    }

    /// The thread: tells other ranks and copies, in order.
    pub(super) fn serve(&self, peers: &[SocketAddr]) {
        let mut channels: HashMap<u32, Channel> = HashMap::new();
        let mut inner = self.lock();
        while !inner.over {
            let expired = inner.expire();
            if let Some(step) = inner.work.pop_front() {
                drop(inner);
                let told = self.step(step, peers, &mut channels);
                inner = self.lock();
                inner.lost |= !told;
                continue;
            }
            if expired {
                drop(inner);
                kick();
                inner = self.lock();
                continue;
            }
            let next = inner.limits.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            inner = match next {
                None => self.bell.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let left = left.max(Duration::from_millis(1));
                    self.bell.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn step(&self, step: Step, peers: &[SocketAddr], channels: &mut HashMap<u32, Channel>) -> bool {
        match step {
            Step::Tell(to, ask) => tell(to, &ask, peers, channels),
            Step::Copy((from, number), op, source, target, Torn(fraction, torn)) => {
                // The stream may have been aborted: its memory is no longer to be written.
                let moved = op.is_open() && copy(&source, &target, fraction);
                let well = moved && torn == 0;
                op.finish(if moved { torn } else { code::RT_DRV_INTERNAL });
                kick();
                tell(from, &Ask::Done { from: self.own, number, well }, peers, channels)
            }
        }
    }
}

impl Inner {
    /// Sets a copy going when both sides of it are here.
    fn pair(&mut self, key: Key) {
        if !self.receives.contains_key(&key) {
            return;
        }
        let Some(source) = self.offers.remove(&key) else { return };
        if let Some((op, target, torn)) = self.receives.remove(&key) {
            self.work.push_back(Step::Copy(key, op, source, target, torn));
        }
    }

    /// Fails what took too long; whether there was any.
    fn expire(&mut self) -> bool {
        let now = Instant::now();
        let mut any = false;
        while self.limits.front().is_some_and(|(at, op)| *at <= now || !op.is_open()) {
            if let Some((_, op)) = self.limits.pop_front().filter(|(_, op)| op.is_open()) {
                op.finish(code::RT_WAIT_TIMEOUT);
                any = true;
            }
        }
        any
    }
}

impl Handler for Matcher {
    fn answer(&self, _: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let mut ended = None;
        match decode(frame)? {
            Ask::Offer { from, number, buffer } => {
                inner.offers.insert((from, number), buffer);
                inner.pair((from, number));
            }
            Ask::Done { from, number, well } => {
                if let Some(op) = inner.sends.remove(&(from, number)) {
                    ended = Some((op, well));
                }
            }
        }
        drop(inner);
        self.bell.notify_all();
        if let Some((op, well)) = ended {
            op.finish(if well { 0 } else { code::RT_DRV_INTERNAL });
            kick();
        }
        Some(Vec::new())
    }

    fn closed(&self, _: u64) {}
}

/// Streams look again whether they may go on.
fn kick() {
    if let Ok(runtime) = runtime() {
        runtime.work.kick();
    }
}

fn tell(to: u32, ask: &Ask, peers: &[SocketAddr], channels: &mut HashMap<u32, Channel>) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    let channel = match channels.entry(to) {
        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::hash_map::Entry::Vacant(room) => {
            let Some(at) = peers.get(to as usize) else { return false };
            match Channel::open(*at, deadline) {
                Ok(channel) => room.insert(channel),
                Err(_) => return false,
            }
        }
    };
    channel.ask(&encode(ask), deadline).is_ok()
}

/// Copies between devices' memories, as much as the fraction says; both ends must be of one length.
fn copy(source: &Buffer, target: &Buffer, fraction: f64) -> bool {
    let Ok(runtime) = runtime() else { return false };
    let reach = |buffer: &Buffer| Reach::open(&runtime.hbm, buffer.start, &buffer.backing, buffer.length);
    let (Ok(from), Ok(to)) = (reach(source), reach(target)) else { return false };
    let mut moves = Vec::new();
    let part = (source.length as f64 * fraction) as u64;
    source.length == target.length
        && plan(&mut moves, (&from, source.start), (&to, target.start), part)
        // SAFETY: mapped spots lie in devices' memory, which is mapped for as long as the process runs.
        && moves.iter().all(|one| unsafe { one.run() }.is_ok())
}
