//! The thread behind one link: runs its jobs in order, at their pace, and can be told to end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Move, Request};

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    /// All bytes move.
    Well,
    /// This part of the bytes moves; then the request fails.
    Broken(f64),
    /// Nobody is there: nothing moves, and the request fails when its time is over.
    Unanswered,
}

/// A batch on its way.
pub(crate) struct Job {
    /// Copies, in order.
    pub(crate) moves: Vec<Move>,
    /// From its start to its end; zero is as fast as it goes.
    pub(crate) takes: Duration,
    /// What becomes of it.
    pub(crate) ending: Ending,
    /// Told at the end.
    pub(crate) request: Arc<Request>,
}

/// What taking a link down does to what is under way on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiesce {
    /// Nothing moves once the call has returned.
    Yes,
    /// It goes on for so long at most.
    Late(Duration),
    /// It goes on until it is done.
    No,
}

/// The DMA engine of one link.
pub(crate) struct Mover {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// A job failed: the link takes no more.
    latched: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Instant, Job)>,
    /// A thread runs.
    thread: bool,
    /// A job is being run.
    busy: bool,
    /// No more jobs come; what there is may go on until then, or to its end.
    over: Option<Option<Instant>>,
}

/// The most that is copied between two looks at whether to end.
const STEP: u64 = 1 << 20;

impl Mover {
    /// One without a thread: that starts with the first job.
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Whether a job has failed here, or the link was given up.
    pub(crate) fn is_latched(&self) -> bool {
        self.shared.latched.load(Ordering::Acquire)
    }

    /// Gives the link up: it takes no more jobs. What is under way goes on.
    pub(crate) fn latch(&self) {
        self.shared.latched.store(true, Ordering::Release);
    }

    /// Jobs that are not over.
    pub(crate) fn load(&self) -> usize {
        let queue = self.shared.lock();
        queue.jobs.len() + usize::from(queue.busy)
    }

    /// Takes a job; false when no thread can be had.
    pub(crate) fn post(&self, job: Job) -> bool {
        let mut queue = self.shared.lock();
        if queue.over.is_some() {
            job.request.finish(false);
            return true;
        }
        if !queue.thread {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("sim-dma".to_owned());
            if thread.spawn(move || shared.serve()).is_err() {
                return false;
            }
            queue.thread = true;
        }
        queue.jobs.push_back((Instant::now(), job));
        drop(queue);
        self.shared.bell.notify_all();
        true
    }

    /// Ends it. No request of it completes well from now on.
    pub(crate) fn end(&self, how: Quiesce) {
        let mut queue = self.shared.lock();
        self.latch();
        for (_, job) in &queue.jobs {
            job.request.finish(false);
        }
        let until = match how {
            Quiesce::Yes => Some(Instant::now()),
            Quiesce::Late(more) => Some(Instant::now() + more),
            Quiesce::No => None,
        };
        let first = queue.over.is_none();
        queue.over.get_or_insert(until);
        self.shared.bell.notify_all();
        while first && how == Quiesce::Yes && queue.busy {
            queue = self.shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.end(Quiesce::Yes);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        // Where the job before ended: the next does not start earlier.
        let mut free = Instant::now();
        let mut queue = self.lock();
        loop {
            let Some((posted, job)) = queue.jobs.pop_front() else {
                if queue.over.is_some() {
                    queue.thread = false;
                    return;
                }
                queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy = true;
            drop(queue);
            let start = posted.max(free);
            let well = self.run(&job, start);
            free = start + job.takes;
            if !well {
                self.latched.store(true, Ordering::Release);
            }
            queue = self.lock();
            queue.busy = false;
            // Under the lock: once `end` has returned no request of it completes.
            job.request.finish(well);
            self.bell.notify_all();
        }
    }

    fn run(&self, job: &Job, start: Instant) -> bool {
        let due = |part: f64| start + job.takes.mul_f64(part);
        let (fraction, well) = match job.ending {
            Ending::Well => (1.0, true),
            Ending::Broken(fraction) => (fraction, false),
            Ending::Unanswered => {
                self.sleep_until(due(1.0));
                return false;
            }
        };
        let total: u64 = job.moves.iter().map(|one| one.length).sum();
        let limit = (total as f64 * fraction) as u64;
        let mut done = 0;
        for one in &job.moves {
            let mut offset = 0;
            while offset < one.length && done < limit {
                let length = (one.length - offset).min(STEP).min(limit - done);
                if !self.sleep_until(due((done + length) as f64 / total as f64)) {
                    return false;
                }
                // SAFETY: mapped spots lie in devices' memory, which is mapped for as long as the process runs.
                if let Err(error) = unsafe { one.part(offset, length).run() } {
                    tracing::debug!(%error, "a copy failed");
                    return false;
                }
                offset += length;
                done += length;
            }
        }
        self.sleep_until(due(1.0)) && well
    }

    /// Sleeps until then; false when the link is to end before.
    fn sleep_until(&self, due: Instant) -> bool {
        let mut queue = self.lock();
        loop {
            let now = Instant::now();
            if matches!(queue.over, Some(Some(end)) if end <= now) {
                return false;
            }
            if due <= now {
                return true;
            }
            let wake = match queue.over {
                Some(Some(end)) => due.min(end),
                _ => due,
            };
            let left = wake.saturating_duration_since(now);
            queue = self.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
