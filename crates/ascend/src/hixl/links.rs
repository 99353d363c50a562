//! Links of the class: one for each peer's engine, shared by all sessions with it.
//!
//! The library knows a peer by its engine's name alone, so two sessions with one peer (each side has connected to the other)
//! have one link. Whoever connects last has regions that the link does not know yet: it is made anew when nothing is in flight
//! on it. Who gives a request up takes the link from the others, too.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests in flight, in the word's lower half.
const COUNT: u64 = (1 << 31) - 1;
/// Nothing may be posted: the link is being made anew.
const SHUT: u64 = 1 << 31;
/// One life of the link, in the upper half.
const LIFE: u64 = 1 << 32;

/// How often a slow thread looks whether the last request has ended.
const LOOK: Duration = Duration::from_micros(200);

/// All links of one HIXL engine.
#[derive(Default)]
pub(super) struct Links(Mutex<HashMap<SocketAddr, Arc<Line>>>);

/// The link to one peer's engine.
#[derive(Default)]
pub(super) struct Line {
    /// Life, shut, requests in flight.
    word: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The library has it.
    up: bool,
    /// A slow thread makes or ends it.
    changing: bool,
    /// Sessions that use it.
    users: u32,
}

/// Why nothing was posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shut {
    /// It is being made anew.
    ForNow,
    /// Its life is over.
    ForGood,
}

/// A slow thread's right to make or end the link. Others wait until it is [settled](Self::settle).
pub(super) struct Change<'a>(&'a Line);

impl Links {
    pub(super) fn line(&self, peer: SocketAddr) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has any more are forgotten on the way.
        lines.retain(|known, line| *known == peer || Arc::strong_count(line) > 1 || line.is_up());
        Arc::clone(lines.entry(peer).or_default())
    }

    /// Whether the library has no link, as far as we know.
    pub(super) fn is_empty(&self) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !lines.values().any(|line| line.is_up())
    }
}

impl Line {
    /// A request is about to be posted in this life of the link.
    #[inline]
    pub(super) fn begin(&self, life: u64) -> Result<(), Shut> {
        let begun = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word / LIFE == life && word & SHUT == 0).then_some(word + 1)
        });
        match begun {
            Ok(_) => Ok(()),
            Err(word) if word / LIFE == life => Err(Shut::ForNow),
            Err(_) => Err(Shut::ForGood),
        }
    }

    /// It has ended, or was not posted.
    #[inline]
    pub(super) fn end(&self, life: u64) {
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word / LIFE == life && word & COUNT > 0).then(|| word - 1)
        });
    }

    /// Whether this life goes on.
    #[inline]
    pub(super) fn lives(&self, life: u64) -> bool {
        self.word.load(Ordering::Acquire) / LIFE == life
    }

    /// Waits for its turn to make the link, with nothing in flight on it. `None`: not in time.
    pub(super) fn change(&self, until: Instant) -> Option<Change<'_>> {
        let mut state = self.lock();
        while state.changing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.changing = true;
        let change = Change(self);
        drop(state);
        self.word.fetch_or(SHUT, Ordering::AcqRel);
        while self.word.load(Ordering::Acquire) & COUNT > 0 {
            if Instant::now() >= until {
                change.give_up();
                return None;
            }
            std::thread::sleep(LOOK);
        }
        Some(change)
    }

    /// A session lets go of the link, `quiet` when nothing of its own is in flight. Gives the right to end it, if it is to
    /// be ended: nobody else uses it, or something is in flight that must not go on.
    pub(super) fn leave(&self, life: u64, quiet: bool) -> Option<Change<'_>> {
        let mut state = self.lock();
        while state.changing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !self.lives(life) {
            return None;
        }
        state.users = state.users.saturating_sub(1);
        if !state.up || (quiet && state.users > 0) {
            return None;
        }
        state.changing = true;
        self.word.fetch_or(SHUT, Ordering::AcqRel);
        Some(Change(self))
    }

    fn is_up(&self) -> bool {
        let state = self.lock();
        state.up || state.changing
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change<'_> {
    /// It is made: gives its life, in which one session more uses it when `joins`.
    pub(super) fn made(self, joins: bool) -> u64 {
        let mut state = self.0.lock();
        state.users += u32::from(joins);
        state.up = true;
        state.changing = false;
        let word = self.0.word.fetch_and(!SHUT, Ordering::AcqRel);
        self.0.changed.notify_all();
        word / LIFE
    }

    /// It is gone, for all sessions.
    pub(super) fn gone(self) {
        let mut state = self.0.lock();
        *state = State::default();
        let life = self.0.word.load(Ordering::Acquire) / LIFE;
        // Who still has requests of the life that ended touches the count no more.
        self.0.word.store(life.wrapping_add(1) * LIFE, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Nothing was changed.
    fn give_up(self) {
        let mut state = self.0.lock();
        state.changing = false;
        self.0.word.fetch_and(!SHUT, Ordering::AcqRel);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    #[test]
    fn a_link_is_made_anew_only_when_nothing_is_in_flight() {
        let line = Line::default();
        let life = line.change(soon()).unwrap().made(true);
        line.begin(life).unwrap();
        assert!(line.change(soon()).is_none(), "a request is in flight");
        line.begin(life).unwrap();
        line.end(life);
        line.end(life);
        let change = line.change(soon()).unwrap();
        assert_eq!(line.begin(life), Err(Shut::ForNow));
        assert_eq!(change.made(true), life, "for the others it is the same link");
        line.begin(life).unwrap();
        line.end(life);
    }

    #[test]
    fn a_session_that_leaves_quietly_leaves_the_link_to_the_others() {
        let line = Line::default();
        let life = line.change(soon()).unwrap().made(true);
        line.change(soon()).unwrap().made(true);
        assert!(line.leave(life, true).is_none());
        line.begin(life).unwrap();
        line.end(life);
        line.leave(life, true).unwrap().gone();
        assert_eq!(line.begin(life), Err(Shut::ForGood));
    }

    #[test]
    fn a_session_that_gives_up_takes_the_link_from_the_others() {
        let line = Line::default();
        let life = line.change(soon()).unwrap().made(true);
        line.change(soon()).unwrap().made(true);
        line.begin(life).unwrap();
        line.leave(life, false).unwrap().gone();
        assert_eq!(line.begin(life), Err(Shut::ForGood));
        assert!(!line.lives(life));
        assert!(line.leave(life, true).is_none(), "it has gone already");
        // What was in flight then is not counted in the next life.
        line.end(life);
        let next = line.change(soon()).unwrap().made(true);
        line.begin(next).unwrap();
        line.end(life);
        assert!(line.change(soon()).is_none());
    }

    #[test]
    fn lines_that_nobody_has_are_forgotten() {
        let links = Links::default();
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        drop(links.line(peer(1)));
        let two = links.line(peer(2));
        two.change(soon()).unwrap().made(true);
        assert!(!links.is_empty());
        drop(two);
        drop(links.line(peer(3)));
        assert_eq!(links.0.lock().unwrap().len(), 2, "one that is up is kept");
    }
}
