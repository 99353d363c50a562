//! The copy threads that the links of one engine share.
//!
//! Waking a parked thread costs the one who wakes about 8 µs, so `post` wakes one and that one the next, while there is
//! work.
//!
//! A crew of size 0 still has one thread, that stands by, so that a transfer that is only polled, or detached, makes
//! progress too. It leaves a batch to the thread that may come to wait for it: where callers wait, `post` does not even
//! wake it, but relies on its next look, at most [`LOOK`] away; where nobody came for the last batch, it starts at once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claims::Chunk;
use super::job::Job;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, PoisonError, lock};

/// How long a standby thread leaves a batch to the thread that may come to wait for it.
const GRACE: Duration = Duration::from_micros(150);
/// How often a standby thread looks while batches are posted now and then.
const LOOK: Duration = Duration::from_millis(1);
/// How long after the last batch it goes on looking.
const LOOK_ON: Duration = Duration::from_millis(5);
/// One of so many claims goes to a large batch even when small ones are there.
const LARGE_TURN: u32 = 4;

/// Copy threads, parked when idle.
pub struct Crew {
    size: usize,
    queue: Mutex<Queue>,
    work: Condvar,
    /// The last batch found a thread that waited for it.
    waited_for: AtomicBool,
    spinners: AtomicUsize,
    spinners_max: usize,
}

#[derive(Default)]
struct Queue {
    small: VecDeque<Arc<Job>>,
    large: VecDeque<Arc<Job>>,
    turn: u32,
    parked: usize,
    /// When a standby thread looks next without being woken.
    next_look: Option<Instant>,
    last_post: Option<Instant>,
    started: bool,
    stopping: bool,
}

impl Crew {
    pub(super) fn open(size: usize) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            size,
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            waited_for: AtomicBool::new(true),
            spinners: AtomicUsize::new(0),
            spinners_max: cores - 1,
        })
    }

    /// Threads that take part in every large batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Starts the threads, once.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let mut queue = lock(&self.queue);
        if queue.started {
            return Ok(());
        }
        for number in 0..self.size.max(1) {
            let crew = Arc::clone(self);
            std::thread::Builder::new().name(format!("ropeway-copy{number}")).spawn(move || crew.work())?;
        }
        queue.started = true;
        Ok(())
    }

    /// Lets the threads end when the queue is empty.
    pub(super) fn stop(&self) {
        lock(&self.queue).stopping = true;
        self.work.notify_all();
    }

    pub(super) fn post(&self, job: Arc<Job>) {
        let now = job.posted();
        let mut queue = lock(&self.queue);
        let list = if job.is_small() { &mut queue.small } else { &mut queue.large };
        list.push_back(job);
        queue.last_post = Some(now);
        let looks_soon = self.size == 0
            && self.waited_for.load(Ordering::Relaxed)
            && queue.next_look.is_some_and(|next| next <= now + LOOK);
        let wake = queue.parked != 0 && !looks_soon;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }

    /// Takes an ended job out, so that it does not hold memory.
    pub(super) fn forget(&self, job: &Job) {
        let mut queue = lock(&self.queue);
        let list = if job.is_small() { &mut queue.small } else { &mut queue.large };
        let found = list.iter().position(|queued| std::ptr::eq(&**queued, job));
        let taken = found.and_then(|index| list.remove(index));
        drop(queue);
        drop(taken);
    }

    /// A thread came to wait for a job.
    pub(super) fn driven(&self) {
        if !self.waited_for.load(Ordering::Relaxed) {
            self.waited_for.store(true, Ordering::Relaxed);
        }
    }

    /// A thread stopped waiting for a job that is not over: somebody has to look after it.
    pub(super) fn left_alone(&self) {
        self.work.notify_one();
    }

    /// A place among the threads that may spin: fewer than there are cores. `None`: park.
    pub(super) fn spin(&self) -> Option<Spinning<'_>> {
        let mut now = self.spinners.load(Ordering::Relaxed);
        while now < self.spinners_max {
            match self.spinners.compare_exchange_weak(now, now + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Spinning(self)),
                Err(other) => now = other,
            }
        }
        None
    }

    fn work(&self) {
        let mut chunk = Chunk::new();
        while let Some(job) = self.next() {
            // A job guards its chunks itself. What can still panic here is the engine's watcher of its end.
            let turn = catch_unwind(AssertUnwindSafe(|| {
                if job.claim(&mut chunk, Instant::now()) {
                    // Only this thread had the job in hand: it goes back for others before the bytes move.
                    if job.has_more() {
                        self.put_back(Arc::clone(&job));
                    }
                    job.run(&chunk);
                }
            }));
            if turn.is_err() {
                tracing::error!("a panic at the end of a batch; the copy thread goes on");
            }
        }
    }

    /// The next job to take a chunk of, taken out of the queue. `None`: the crew ends.
    fn next(&self) -> Option<Arc<Job>> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = self.take(&mut queue) {
                let wake = self.size > 1 && queue.parked != 0 && !queue.is_empty();
                drop(queue);
                if wake {
                    self.work.notify_one();
                }
                return Some(job);
            }
            if queue.stopping && queue.is_empty() {
                return None;
            }
            let pause = if self.size == 0 { queue.pause() } else { None };
            queue.parked += 1;
            queue.next_look = pause.map(|pause| Instant::now() + pause);
            queue = match pause {
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => self.work.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner).0,
            };
            queue.next_look = None;
            queue.parked -= 1;
        }
    }

    fn take(&self, queue: &mut Queue) -> Option<Arc<Job>> {
        if self.size != 0 {
            return queue.take(|_| true);
        }
        let waited_for = self.waited_for.load(Ordering::Relaxed);
        let alone = |job: &Job| !job.is_driven() && (!waited_for || job.posted().elapsed() >= GRACE);
        let job = queue.take(alone)?;
        self.waited_for.store(false, Ordering::Relaxed);
        Some(job)
    }

    fn put_back(&self, job: Arc<Job>) {
        let mut queue = lock(&self.queue);
        if job.is_small() {
            queue.small.push_front(job)
        } else {
            queue.large.push_back(job)
        }
        let wake = queue.parked != 0 && self.size > 1;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// How long a standby thread may sleep unless it is woken. While callers wait for their batches it looks seldom: on a
    /// busy machine each look takes the core from a thread that copies.
    fn pause(&self) -> Option<Duration> {
        let posted = self.last_post.is_some_and(|last| last.elapsed() < LOOK_ON);
        let alone = || self.small.iter().chain(&self.large).any(|job| !job.is_driven());
        (posted || alone()).then_some(LOOK)
    }

    /// Small first, but for every fourth turn.
    fn take(&mut self, fit: impl Fn(&Job) -> bool) -> Option<Arc<Job>> {
        self.turn = self.turn.wrapping_add(1);
        let lists = if self.turn.is_multiple_of(LARGE_TURN) {
            [&mut self.large, &mut self.small]
        } else {
            [&mut self.small, &mut self.large]
        };
        for list in lists {
            let found = list.iter().position(|job| fit(job));
            if let Some(job) = found.and_then(|index| list.remove(index)) {
                return Some(job);
            }
        }
        None
    }
}

/// See [`Crew::spin`].
pub(super) struct Spinning<'a>(&'a Crew);

impl Drop for Spinning<'_> {
    fn drop(&mut self) {
        self.0.spinners.fetch_sub(1, Ordering::Relaxed);
    }
}
