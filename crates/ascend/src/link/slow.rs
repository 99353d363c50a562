//! A queue of calls that may take long, run one after another on a thread that is there only while there are some.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Calls that may wait. A peer that asks for more at a time breaks the protocol.
const WAITING_MAX: usize = 1_024;
/// How long a thread stays for the next call.
const LINGER: Duration = Duration::from_millis(200);

type Job = Box<dyn FnOnce() + Send>;

/// See the module. One per link and purpose, so that one peer's slow call keeps no other waiting.
pub(super) struct Slow {
    name: &'static str,
    enter: Arc<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    running: bool,
    parked: bool,
}

/// Too many calls wait, or no thread is to be had.
#[derive(Debug)]
pub(super) struct Overrun;

impl Slow {
    /// `enter` is called first on each thread.
    pub(super) fn new(name: &'static str, enter: Arc<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { name, enter, state: Mutex::default(), work: Condvar::new() })
    }

    /// Runs `job` after those that wait. Never blocks.
    ///
    /// # Errors
    /// The job was dropped.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), Overrun> {
        self.run_among(WAITING_MAX, job)
    }

    /// The same for what must be done, however many calls wait.
    ///
    /// # Errors
    /// No thread is to be had; the job was dropped.
    pub(super) fn run_surely(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), Overrun> {
        self.run_among(usize::MAX, job)
    }

    fn run_among(self: &Arc<Self>, max: usize, job: impl FnOnce() + Send + 'static) -> Result<(), Overrun> {
        let mut state = self.lock();
        if state.jobs.len() >= max {
            return Err(Overrun);
        }
        state.jobs.push_back(Box::new(job));
        if state.running {
            let parked = state.parked;
            drop(state);
            if parked {
                self.work.notify_one();
            }
            return Ok(());
        }
        state.running = true;
        // Under the lock: the call at the back is this one until the thread is there.
        let me = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(self.name.into()).spawn(move || me.work());
        spawned.map(drop).map_err(|error| {
            tracing::error!(%error, name = self.name, "no thread is to be had; check RLIMIT_NPROC and pids.max");
            state.running = false;
            state.jobs.pop_back();
            Overrun
        })
    }

    fn work(&self) {
        (self.enter)();
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!(name = self.name, "a panic in a slow call of a link");
                }
                state = self.lock();
                continue;
            }
            state.parked = true;
            let (after, timeout) =
                self.work.wait_timeout(state, LINGER).unwrap_or_else(PoisonError::into_inner);
            state = after;
            state.parked = false;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.running = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    #[test]
    fn calls_run_in_their_order_and_a_panic_ends_only_its_own() {
        let slow = Slow::new("slow-test", Arc::new(|| {}));
        let (sender, done) = mpsc::channel();
        for number in 0..20 {
            let sender = sender.clone();
            slow.run(move || {
                assert_ne!(number, 3, "the call that panics");
                sender.send(number).unwrap();
            })
            .unwrap();
        }
        let seen: Vec<i32> = (0..19).map(|_| done.recv_timeout(WATCHDOG).unwrap()).collect();
        let all: Vec<i32> = (0..20).filter(|number| *number != 3).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_flood_of_calls_is_refused() {
        let slow = Slow::new("slow-test", Arc::new(|| {}));
        let (release, gate) = mpsc::channel::<()>();
        slow.run(move || gate.recv().unwrap()).unwrap();
        let taken = (0..2 * WAITING_MAX).take_while(|_| slow.run(|| {}).is_ok()).count();
        // The first may or may not be off the queue already.
        assert!((WAITING_MAX - 1..=WAITING_MAX).contains(&taken), "{taken}");
        release.send(()).unwrap();
    }

    #[test]
    fn the_thread_goes_when_idle_and_comes_back() {
        let slow = Slow::new("slow-test", Arc::new(|| {}));
        let (sender, done) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            slow.run(move || sender.send(()).unwrap()).unwrap();
            done.recv_timeout(WATCHDOG).unwrap();
            let until = std::time::Instant::now() + WATCHDOG;
            while slow.lock().running {
                assert!(std::time::Instant::now() < until, "watchdog: the thread stays");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
