//! Threads that hold a device's context: jobs in, one after the other, nobody awake when there are none.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ropeway_core::{Error, ErrorKind, Result};

use super::bound::{Bound, Core};

/// What a thread of a lane is given to do.
pub(super) type Job = Box<dyn FnOnce(&Bound<'_>) + Send>;

/// A thread that was started on demand and finds nothing to do for this long ends.
const ENDS_AFTER_IDLE: Duration = Duration::from_secs(20);

/// How a lane is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneConfig {
    /// The threads' name.
    pub(super) name: &'static str,
    /// Threads at most. They are started when there is work that no other thread is free for.
    pub(super) threads_max: usize,
    /// Jobs that may wait.
    pub(super) queue_max: usize,
    /// Whether threads stay when they have nothing to do.
    pub(super) stays: bool,
}

/// A bounded queue and the threads that empty it. When it is dropped, what waits is still done.
pub(super) struct Lane(Arc<Shared>);

struct Shared {
    config: LaneConfig,
    core: Arc<Core>,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Lane {
    pub(super) fn new(config: LaneConfig, core: Arc<Core>) -> Self {
        let state = State { queue: VecDeque::new(), threads: 0, idle: 0, closed: false };
        Self(Arc::new(Shared { config, core, state: Mutex::new(state), work: Condvar::new() }))
    }

    /// Queues a job.
    ///
    /// # Errors
    /// `Full`: too many wait. `Resource`: there is no thread, and none could be started.
    pub(super) fn push(&self, operation: &'static str, job: Job) -> Result<()> {
        let waiting = self.0.lock().queue.len();
        if waiting >= self.0.config.queue_max {
            return Err(Error::new(
                ErrorKind::Full,
                operation,
                format!(
                    "{waiting} calls wait for the device's {} threads already; try later",
                    self.0.config.name
                ),
            ));
        }
        self.push_unbounded(operation, job)
    }

    /// Queues a job whatever waits: for what ends something, of which there is only so much.
    ///
    /// # Errors
    /// `Resource`: there is no thread, and none could be started.
    pub(super) fn push_unbounded(&self, operation: &'static str, job: Job) -> Result<()> {
        let mut state = self.0.lock();
        if state.idle <= state.queue.len() && state.threads < self.0.config.threads_max {
            match self.spawn() {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    return Err(Error::os(
                        operation,
                        "cannot start a thread for the device; check RLIMIT_NPROC and pids.max",
                        error,
                    ));
                }
                Err(error) => tracing::debug!(%error, "no further thread for the device; the others do it"),
            }
        }
        state.queue.push_back(job);
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<()> {
        let shared = self.0.clone();
        let name = format!("npu{}-{}", shared.core.user_id(), shared.config.name);
        std::thread::Builder::new().name(name).spawn(move || shared.work()).map(drop)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under it, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // Again for each job: a library that ran before may have changed the thread's context.
            let bound = self.core.bind_thread();
            if catch_unwind(AssertUnwindSafe(|| job(&bound))).is_err() {
                tracing::error!(lane = self.config.name, "a call on the device's thread panicked");
            }
        }
    }

    /// The next job; `None` when the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let late;
            (state, late) = if self.config.stays {
                (self.work.wait(state).unwrap_or_else(PoisonError::into_inner), false)
            } else {
                let waited = self.work.wait_timeout(state, ENDS_AFTER_IDLE);
                let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                (state, waited.timed_out())
            };
            state.idle -= 1;
            if late && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}
