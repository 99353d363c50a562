//! How a link ends, so that `closed` is said when nothing of it touches our memory any more and not before.
//!
//! Our own half: nothing new is posted, what is in flight may end by itself for a moment, then the mover disconnects on a slow
//! thread. What was in flight then, and is not proven over, is waited for as long as the hardware may go on. Imports are
//! released, and the peer is told `Quiet`. The peer's half: its `Quiet`, or proof of its death. A peer that may only have read
//! is waited for as long as its own half can take at most, for no late read is ever shown. One that may write is waited for
//! without end: it may be stopped or cut off, and write when it goes on. Only then are our exports deregistered: importers
//! let go before the exporter.

use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind, Status, StatusKind};

use super::core::{LinkCore, Stage};
use super::lane::{Event, Over};
use super::mover::Teardown;
use super::wire::Message;

/// How often the peer's process is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// The same when it can take for ever.
const LOOK_LATER: Duration = Duration::from_millis(250);

/// The times of a link's end.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long after a disconnect that proves nothing the hardware may still read and write: the retry window of RDMA, 30 s
    /// with the defaults of CANN (HCCL_RDMA_TIMEOUT 20, HCCL_RDMA_RETRY_CNT 7).
    pub window: Duration,
    /// What a disconnect is given.
    pub disconnect: Duration,
    /// What a connect is given, when a link that is there is connected anew.
    pub connect: Duration,
    /// How long requests in flight may end by themselves when a link is closed.
    pub drain: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            disconnect: Duration::from_secs(10),
            connect: Duration::from_secs(20),
            drain: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// How long a peer of whom nothing is heard can go on touching our memory, from when our side ended.
    fn of_the_peer(&self) -> Duration {
        self.drain + self.disconnect + self.window
    }

    /// How long a session is kept for the words of both sides: either half may take all its time.
    pub(super) fn of_both(&self) -> Duration {
        self.of_the_peer() + self.drain + self.disconnect
    }
}

/// How far the end is.
#[derive(Default)]
pub(super) struct Ending {
    step: Step,
    began: Option<Instant>,
    /// Nobody has heard of this link: `closed` is not said.
    silent: bool,
    /// The log knows that memory is withheld.
    warned: bool,
}

impl Ending {
    /// The end has begun. The lane may have come to its own end first, and been seen.
    fn begin(&mut self, now: Instant) {
        if matches!(self.step, Step::Not) {
            self.step = Step::Draining;
        }
        self.began.get_or_insert(now);
    }

    /// Whether the native link was disconnected.
    pub(super) fn is_torn_down(&self) -> bool {
        matches!(self.step, Step::Holding { .. } | Step::Waiting { .. } | Step::Stuck | Step::Done)
    }

    /// Nothing more is posted.
    fn drained(&mut self, dirty: bool) {
        if matches!(self.step, Step::Not | Step::Draining) {
            self.step = Step::Drained { dirty };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Step {
    #[default]
    Not,
    /// Requests may end by themselves.
    Draining,
    /// They did, or were given up: to be disconnected.
    Drained {
        dirty: bool,
    },
    /// A slow call is at it.
    Busy,
    /// Disconnected, and what was in flight may go on for ever: never quiet.
    Stuck,
    /// Disconnected; the hardware may go on until then.
    Holding {
        until: Instant,
    },
    /// Our half is over, and said to be. After `until` a peer can no longer be reading.
    Waiting {
        until: Instant,
    },
    Done,
}

impl LinkCore {
    /// The engine wants no more of it.
    pub(super) fn close(&self) {
        self.begin_end(Status::quiet(StatusKind::Closed));
    }

    /// The link can no longer be used.
    pub(super) fn lose(&self, error: Error) {
        let why = Status::quiet(StatusKind::LinkLost).with_native(error.native().unwrap_or(0));
        match self.begin_end(why) {
            Some(Stage::Open) => self.sink.lost(error),
            // Nothing is lost that was never there: the session takes another way.
            Some(_) => tracing::info!(kind = self.kind().name(), %error, "no link"),
            None => {}
        }
    }

    /// The link never was, and its maker says so.
    pub(super) fn discard(&self) {
        self.tables().ending.silent = true;
        self.begin_end(Status::quiet(StatusKind::Closed));
    }

    /// Gives the stage before; `None` when it was ending already.
    fn begin_end(&self, why: Status) -> Option<Stage> {
        // The stages only go up: who finds it no longer waiting finds it open, or ended by another.
        let before =
            [Stage::Waiting, Stage::Open].into_iter().find(|from| self.step(*from, Stage::Ending))?;
        let now = Instant::now();
        self.tables().ending.begin(now);
        self.say(&Message::Closing);
        self.changed.notify_all();
        self.tell_lane(Event::Stop { why, until: now + self.shared.timing.drain });
        Some(before)
    }

    /// Nothing of ours is posted any more. On the posting thread.
    pub(super) fn lane_is_over(&self, over: Over) {
        if let Some((kind, code)) = over.cause {
            self.lose(self.why(kind, code));
        }
        self.tables().ending.drained(over.dirty);
    }

    fn why(&self, kind: StatusKind, code: i32) -> Error {
        if kind == StatusKind::Abandoned {
            let text =
                "a transfer did not end in its time; the link is torn down, which is the only way to stop it";
            return Error::new(ErrorKind::LinkLost, "link", text);
        }
        let mover = self.try_mover();
        let native = mover.as_ref().and_then(|mover| Some(mover.as_ref()?.explain(code)));
        let text =
            native.map_or_else(|| "the native link failed".to_owned(), |error| error.message().to_owned());
        Error::new(ErrorKind::LinkLost, "link", text).with_native(code)
    }

    /// Takes the next step if its time has come; says when to look again. On the posting thread.
    pub(super) fn watch_ending(&self, now: Instant) -> Option<Instant> {
        if self.stage() != Stage::Ending {
            return None;
        }
        let step = self.tables().ending.step;
        let started = match step {
            Step::Drained { dirty } => self.take_step(move |me| me.tear_down(dirty)),
            Step::Holding { until } if now < until => return Some(until),
            Step::Holding { .. } => self.take_step(|me| me.fall_quiet()),
            Step::Waiting { until } => {
                let gone = self.is_peer_gone();
                let word = !self.holds_exports() || self.tables().peer_quiet || gone;
                let late = until <= now;
                if !(word || late && !self.peer_may_write()) || !self.ends_are_told() {
                    return Some(now + if late { LOOK_LATER } else { LOOK });
                }
                self.take_step(move |me| me.finish_end(gone))
            }
            Step::Not | Step::Draining | Step::Busy | Step::Stuck | Step::Done => return None,
        };
        if started {
            return None;
        }
        // No thread is to be had: again, later.
        self.tables().ending.step = step;
        Some(now + LOOK)
    }

    fn take_step(&self, step: impl FnOnce(&LinkCore) + Send + 'static) -> bool {
        self.tables().ending.step = Step::Busy;
        self.slowly_surely(move |me| step(me))
    }

    fn is_peer_gone(&self) -> bool {
        let mut mover = self.try_mover();
        let mover = mover.as_mut().and_then(|mover| mover.as_mut());
        mover.is_some_and(|mover| mover.is_peer_gone())
    }

    /// Whether the peer holds a lease to write that is not proven over: then no time that passes ends its accesses.
    fn peer_may_write(&self) -> bool {
        let may_write = !self.tables().fencing.is_empty() || self.sink.peer_may_write();
        if may_write && !std::mem::replace(&mut self.tables().ending.warned, true) {
            tracing::error!(
                kind = self.kind().name(),
                "a silent peer may still write: the blocks under its leases are withheld until it speaks or is proven dead"
            );
        }
        may_write
    }

    fn tear_down(&self, dirty: bool) {
        let disconnect = self.shared.timing.disconnect;
        let proof = self.mover().as_mut().map_or(Teardown::Proven, |mover| mover.disconnect(disconnect));
        if proof == Teardown::Never {
            tracing::error!(
                kind = self.kind().name(),
                "what was in flight on a link neither ended nor let itself be stopped: its memory stays withheld until this \
                 process ends"
            );
            self.tables().ending.step = Step::Stuck;
            return;
        }
        let now = Instant::now();
        let until = match proof {
            Teardown::Unproven if dirty => now + self.shared.timing.window,
            // All that was posted has ended by itself before, or is proven over now.
            _ => now,
        };
        if until > now {
            let window = self.shared.timing.window;
            tracing::warn!(kind = self.kind().name(), ?window, "memory of a lost link is held");
        }
        self.tables().ending.step = Step::Holding { until };
    }

    fn fall_quiet(&self) {
        self.release_all();
        self.say(&Message::Quiet);
        let mut tables = self.tables();
        let began = tables.ending.began.unwrap_or_else(Instant::now);
        tables.ending.step = Step::Waiting { until: began + self.shared.timing.of_the_peer() };
    }

    fn finish_end(&self, peer_gone: bool) {
        self.deregister_all();
        self.let_probe_go();
        drop(self.mover().take());
        self.shared.link_ended();
        // Before the fences that wait are taken: one that comes later is answered by the stage.
        self.step(Stage::Ending, Stage::Closed);
        let (fencing, silent) = {
            let mut tables = self.tables();
            tables.ending.step = Step::Done;
            (std::mem::take(&mut tables.fencing), tables.ending.silent)
        };
        for grant in fencing {
            self.sink.fenced(grant);
        }
        if !silent {
            self.sink.closed(peer_gone);
        }
    }

    fn let_probe_go(&self) {
        let slot = self.tables().probe_slot.take();
        let Some(probe) = self.shared.probe_if_any() else { return };
        if let Some(slot) = slot {
            probe.give_slot(slot);
        }
        if let Some(mover) = self.mover().as_mut()
            && let Err(error) = mover.deregister(super::opening::PROBE)
        {
            tracing::debug!(%error, "the probe memory stays registered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_seen_first_is_not_begun_again() {
        let now = Instant::now();
        for seen in [Step::Drained { dirty: true }, Step::Busy, Step::Holding { until: now }, Step::Done] {
            let mut ending = Ending { step: seen, ..Ending::default() };
            ending.begin(now);
            assert_eq!((ending.step, ending.began), (seen, Some(now)));
        }
        let mut ending = Ending::default();
        ending.begin(now);
        assert_eq!(ending.step, Step::Draining);
        ending.drained(true);
        assert_eq!(ending.step, Step::Drained { dirty: true });
    }
}
