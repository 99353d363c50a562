//! The one link to a peer's engine, and the movers of several sessions that use it together: a machine that calls the
//! library through [`Line`] and knows nothing else of it.
//!
//! # Threads
//! Slow threads connect and disconnect; the posting thread posts and polls. The lock is held for a few instructions only and
//! never while the library is called, so the posting thread never waits for a slow call: a mover that may not post now is
//! told so.
//!
//! # Making it anew
//! The library fetches both sides' lists of regions at a connect, so a newer region asks for a new one. For that nothing may
//! be in flight: new posts of every mover are refused as back-pressure, until what is in flight has ended by itself.
//! Requests keep being polled meanwhile, since the thread that waits holds no mover but its own, which has none in flight.
//!
//! # Losing it
//! A mover with requests that did not end takes the link from everybody. [`State::era`] counts such ends: a seat of an older
//! era may neither post nor poll, and what it has in flight is not proven to be over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::region::Description;
use super::shim::{Code, code};
use crate::link::{Busy, Connected, Failure, Polled, PostError, Teardown};

/// How long requests to a peer's former life may end by themselves.
const FORMER_LIFE: Duration = Duration::from_secs(1);

/// What the library does for one peer. Never called with the lock held.
pub(super) trait Line {
    /// Makes the link; `Already` if one stays in the way.
    fn connect(&self, until: Instant) -> Result<Connected, Code>;

    /// Ends it, as well as it can.
    fn disconnect(&self, timeout: Duration);
}

/// Why a mover has no link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unlinked {
    /// The library did not make it.
    Refused(Code),
    /// Another mover has been at it too long, or what others have in flight does not end.
    InUse,
}

/// Orders registrations and connects of one engine.
#[derive(Default, Debug)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// The time of something that is done: a connect that begins from now on knows of it.
    pub(super) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// See the module.
pub(super) struct Bond {
    clock: Arc<Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// How often the link was taken from its users.
    era: u64,
    /// The era up to which the library has ended the links.
    torn: u64,
    /// What was registered up to here is known to the link.
    made: u64,
    /// The peer's life that it leads to.
    life: u64,
    users: u32,
    /// Requests of this era, of all users, that did not end.
    outstanding: u32,
    /// Calls of the posting thread that are in the library now.
    inside: u32,
    turns: u64,
    /// The peer's regions that movers have imported, by its life.
    known: HashMap<(u64, Description), Known>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Phase {
    #[default]
    Down,
    /// The library is at a connect. Nobody posts.
    Making,
    Up,
    /// It is to be made anew, once nothing is in flight. Nobody posts.
    Draining(u64),
    /// The library is at a disconnect; the era is over.
    Ending,
}

struct Known {
    since: u64,
    uses: u32,
}

/// One mover's part in a bond.
pub(super) struct Seat {
    bond: Arc<Bond>,
    /// The peer's life that this mover is for.
    life: u64,
    era: Option<u64>,
    /// Our requests that did not end.
    outstanding: u32,
    /// A post was refused since a side has lost its regions: the link is of no use to anybody.
    cut: bool,
}

impl Bond {
    pub(super) fn new(clock: &Arc<Clock>) -> Self {
        Self { clock: Arc::clone(clock), state: Mutex::default(), changed: Condvar::new() }
    }

    /// The library has no link, as far as is known.
    pub(super) fn is_down(&self) -> bool {
        self.lock().phase == Phase::Down
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the time has passed.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> (MutexGuard<'a, State>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (state, false);
        }
        let (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        (state, true)
    }

    /// Takes the link from everybody and ends it.
    fn end<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        timeout: Duration,
        line: &dyn Line,
    ) -> MutexGuard<'a, State> {
        state.phase = Phase::Ending;
        state.lose();
        self.changed.notify_all();
        // The posting thread may be in a call that names the link or a request of it. It never waits long in one.
        let until = Instant::now() + timeout / 2;
        loop {
            if state.inside == 0 {
                break;
            }
            let in_time;
            (state, in_time) = self.wait(state, until);
            if !in_time {
                tracing::warn!("a link is ended while a call of it does not return");
                break;
            }
        }
        drop(state);
        line.disconnect(timeout);
        let mut state = self.lock();
        state.phase = Phase::Down;
        state.torn = state.era;
        self.changed.notify_all();
        state
    }
}

impl State {
    /// Whoever used the link has it no longer.
    fn lose(&mut self) {
        self.era += 1;
        self.users = 0;
        self.outstanding = 0;
    }

    fn is_quiet(&self) -> bool {
        self.outstanding == 0 && self.inside == 0
    }
}

/// Slow threads.
impl Seat {
    pub(super) fn new(bond: Arc<Bond>, life: u64) -> Self {
        Self { bond, life, era: None, outstanding: 0, cut: false }
    }

    /// Whether the link is there, and this mover one of its users.
    pub(super) fn is_taken(&self) -> bool {
        self.era.is_some_and(|era| era == self.bond.lock().era)
    }

    /// The peer said that it has registered a region. Gives since when it has, at the latest.
    pub(super) fn learn(&self, region: Description) -> u64 {
        let mut state = self.bond.lock();
        let clock = &self.bond.clock;
        let known =
            state.known.entry((self.life, region)).or_insert_with(|| Known { since: clock.tick(), uses: 0 });
        known.uses += 1;
        known.since
    }

    /// The peer may deregister it as far as this mover goes: what comes at that address later is another region.
    pub(super) fn forget(&self, region: Description) {
        let mut state = self.bond.lock();
        let key = (self.life, region);
        if let Some(known) = state.known.get_mut(&key) {
            known.uses -= 1;
            if known.uses == 0 {
                state.known.remove(&key);
            }
        }
    }

    /// Takes part in a link that knows of all that was registered at `need`: one that is there, or a new one. Nothing of
    /// this mover is in flight.
    pub(super) fn connect(
        &mut self,
        need: u64,
        until: Instant,
        line: &dyn Line,
    ) -> Result<Connected, Unlinked> {
        let bond = Arc::clone(&self.bond);
        let mut state = bond.lock();
        loop {
            if self.era != Some(state.era) {
                (self.era, self.outstanding) = (None, 0);
            }
            match state.phase {
                Phase::Down => return self.make(state, until, line),
                Phase::Up if state.life == self.life && state.made >= need => {
                    self.sit(&mut state);
                    return Ok(Connected::New);
                }
                Phase::Up => {
                    let turn;
                    (state, turn) = self.drain(&bond, state, until);
                    if state.phase != Phase::Draining(turn) {
                        // Taken from everybody meanwhile.
                        continue;
                    }
                    let former = state.life != self.life;
                    if former {
                        // Its process is gone, and so are its users' ends.
                        state = bond.end(state, until.saturating_duration_since(Instant::now()) / 2, line);
                        continue;
                    }
                    if state.is_quiet() {
                        return self.make(state, until, line);
                    }
                    state.phase = Phase::Up;
                    bond.changed.notify_all();
                    return Err(Unlinked::InUse);
                }
                Phase::Making | Phase::Draining(_) | Phase::Ending => {
                    let in_time;
                    (state, in_time) = bond.wait(state, until);
                    if !in_time {
                        return Err(Unlinked::InUse);
                    }
                }
            }
        }
    }

    /// Keeps everybody from posting until nothing is in flight, or for half of the time that is left.
    fn drain<'a>(
        &self,
        bond: &'a Bond,
        mut state: MutexGuard<'a, State>,
        until: Instant,
    ) -> (MutexGuard<'a, State>, u64) {
        state.turns += 1;
        let turn = state.turns;
        state.phase = Phase::Draining(turn);
        let now = Instant::now();
        let mut patience = until.saturating_duration_since(now) / 2;
        if state.life != self.life {
            patience = patience.min(FORMER_LIFE);
        }
        while state.phase == Phase::Draining(turn) && !state.is_quiet() {
            let in_time;
            (state, in_time) = bond.wait(state, now + patience);
            if !in_time {
                break;
            }
        }
        (state, turn)
    }

    /// Makes the link, or makes it anew: nothing of it is in flight, and nobody else is at it.
    fn make(
        &mut self,
        mut state: MutexGuard<'_, State>,
        until: Instant,
        line: &dyn Line,
    ) -> Result<Connected, Unlinked> {
        let bond = Arc::clone(&self.bond);
        let anew = state.phase != Phase::Down;
        state.phase = Phase::Making;
        let known = bond.clock.now();
        drop(state);
        if anew {
            line.disconnect(until.saturating_duration_since(Instant::now()) / 2);
        }
        let answer = line.connect(until);
        let mut state = bond.lock();
        match answer {
            Ok(connected) => {
                state.phase = Phase::Up;
                state.life = self.life;
                // Of a link that stays in the way nothing is known.
                state.made = if connected == Connected::New { known } else { 0 };
                self.sit(&mut state);
            }
            Err(_) => {
                state.phase = Phase::Down;
                state.lose();
                state.torn = state.era;
                self.era = None;
            }
        }
        bond.changed.notify_all();
        answer.map_err(Unlinked::Refused)
    }

    fn sit(&mut self, state: &mut State) {
        if self.era != Some(state.era) {
            state.users += 1;
            self.cut = false;
            (self.era, self.outstanding) = (Some(state.era), 0);
        }
    }

    /// Takes part no longer. The last one ends the link; one whose requests did not end, or to whom it was of no use, does so
    /// for everybody.
    pub(super) fn disconnect(&mut self, timeout: Duration, line: &dyn Line) -> Teardown {
        let proof = if self.outstanding == 0 { Teardown::Proven } else { Teardown::Unproven };
        // What is outstanding is left to the hardware's retry window, which the link engine waits out, and stays counted: a
        // second call proves no more than this one.
        let Some(era) = self.era.take() else { return proof };
        let until = Instant::now() + timeout;
        let bond = &self.bond;
        let mut state = bond.lock();
        let mut in_time = true;
        // Nothing is in flight during a connect: a user's requests, if any, ended before it.
        while proof == Teardown::Unproven && in_time && state.phase == Phase::Making && state.era == era {
            (state, in_time) = bond.wait(state, until);
        }
        // Whoever took the link may still be ending it, and only then does the hardware's window begin.
        while proof == Teardown::Unproven && in_time && state.era != era && state.torn <= era {
            (state, in_time) = bond.wait(state, until);
        }
        if state.era != era {
            return proof;
        }
        // Anew, it knows the regions again: who is making it does what is wanted.
        let useless = state.phase == Phase::Up && (state.users == 1 || self.cut);
        if proof == Teardown::Unproven || useless {
            drop(bond.end(state, timeout, line));
        } else {
            state.users = state.users.saturating_sub(1);
        }
        proof
    }
}

/// What a seat whose link was taken is told.
const LOST: Failure = Failure::Latched { code: code::NOT_CONNECTED.cast_signed() };

/// The posting thread.
impl Seat {
    /// Posts by `call`, unless the link is blocked or gone.
    #[inline]
    pub(super) fn post<T>(&mut self, call: impl FnOnce() -> Result<T, PostError>) -> Result<T, PostError> {
        {
            let mut state = self.bond.lock();
            match state.phase {
                _ if self.era != Some(state.era) => return Err(PostError::Failed(LOST)),
                Phase::Up => {}
                _ => return Err(PostError::Busy(Busy { code: 0 })),
            }
            state.inside += 1;
            // Before the call, so that a request is never in flight uncounted.
            state.outstanding += 1;
        }
        let answer = call();
        // A failure that latches may have started a part.
        let cut = matches!(answer, Err(PostError::Cut { .. }));
        self.cut |= cut;
        let nothing =
            cut || matches!(answer, Err(PostError::Busy(_) | PostError::Failed(Failure::Over { .. })));
        self.outstanding += u32::from(!nothing);
        self.came_out(nothing);
        answer
    }

    /// Polls by `call`, unless the link was taken: the library does not know the request any more then.
    #[inline]
    pub(super) fn poll(&mut self, call: impl FnOnce() -> Polled) -> Polled {
        {
            let mut state = self.bond.lock();
            if self.era != Some(state.era) {
                return Polled::Failed(LOST);
            }
            state.inside += 1;
        }
        let polled = call();
        let over = matches!(polled, Polled::Done | Polled::Failed(Failure::Over { .. }));
        self.outstanding -= u32::from(over).min(self.outstanding);
        self.came_out(over);
        polled
    }

    /// A call has returned; `over`: one request less is in flight.
    fn came_out(&self, over: bool) {
        let mut state = self.bond.lock();
        state.inside -= 1;
        // Of an older era nothing is counted any more.
        if over && self.era == Some(state.era) {
            state.outstanding -= 1;
        }
        if state.phase != Phase::Up && state.inside == 0 {
            self.bond.changed.notify_all();
        }
    }
}
