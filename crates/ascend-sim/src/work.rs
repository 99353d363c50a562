//! Asynchronous work: ordered queues whose steps complete at their time, on a few threads that sleep when idle.
//!
//! A step is a *job* (runs on a worker once its delay has passed since it reached the head), a *mark* (runs at once
//! when it reaches the head; cheap) or a *gate* (holds the queue until it opens). Bytes move when a job runs, that
//! is at the end of its delay: a late write is a job with a delay.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fail::code;

/// What a gate says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Go on.
    Open,
    /// Ask again after some mark or job of this process, or a [`Work::kick`].
    Shut,
    /// Ask again after this long at the latest: what it waits for is in another process.
    Poll(Duration),
    /// Go on with this error.
    Fail(i32),
}

type Job = Box<dyn FnOnce() -> i32 + Send>;

enum Step {
    Job(Duration, Job),
    Mark(Box<dyn FnOnce() + Send>),
    Gate(Box<dyn FnMut() -> Gate + Send>),
}

/// The workers of this process and all their queues.
#[derive(Clone)]
pub struct Work(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Something to run, or an earlier time to wake at.
    wake: Condvar,
    /// Some step was finished.
    done: Condvar,
    workers_max: usize,
}

#[derive(Default)]
struct Inner {
    queues: HashMap<u64, State>,
    ready: VecDeque<u64>,
    timed: BTreeSet<(Instant, u64)>,
    gated: Vec<u64>,
    next: u64,
    workers: usize,
    sleeping: usize,
    waiting: usize,
    marked: bool,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    place: Place,
    /// When the job at the head is due.
    due: Option<Instant>,
    submitted: u64,
    finished: u64,
    error: i32,
    stop_on_failure: bool,
    detached: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Nowhere,
    Ready,
    Timed(Instant),
    Gated,
    Running,
}

/// An ordered queue. Dropping it lets what was submitted run to its end.
pub struct Queue {
    id: u64,
    work: Arc<Shared>,
}

impl Work {
    /// Work on up to `workers` threads, started when there is something to do.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            workers_max: workers.max(1),
        }))
    }

    /// A new, empty queue.
    #[must_use]
    pub fn queue(&self) -> Queue {
        let mut inner = self.0.lock();
        inner.next += 1;
        let id = inner.next;
        inner.queues.insert(id, State::default());
        Queue { id, work: self.0.clone() }
    }

    /// Runs a job after `delay`, in no order with anything else.
    pub fn later(&self, delay: Duration, job: impl FnOnce() -> i32 + Send + 'static) {
        let _ = self.queue().push(delay, job);
    }

    /// Asks every shut gate again.
    pub fn kick(&self) {
        let mut inner = self.0.lock();
        inner.marked = true;
        self.0.recheck(&mut inner);
    }
}

impl Queue {
    /// Appends a job: it runs `delay` after it reached the head. Returns the step's number, for [`Queue::wait`].
    /// What it returns other than 0 becomes the queue's error.
    pub fn push(&self, delay: Duration, job: impl FnOnce() -> i32 + Send + 'static) -> u64 {
        self.append(Step::Job(delay, Box::new(job)))
    }

    /// Appends something cheap that runs at once when it reaches the head, maybe on this thread, under the
    /// scheduler's lock: it must not call into this module.
    pub fn mark(&self, mark: impl FnOnce() + Send + 'static) -> u64 {
        self.append(Step::Mark(Box::new(mark)))
    }

    /// Holds what comes after it until the gate opens. Asked under the scheduler's lock: it must not call into this
    /// module.
    pub fn gate(&self, gate: impl FnMut() -> Gate + Send + 'static) -> u64 {
        self.append(Step::Gate(Box::new(gate)))
    }

    fn append(&self, step: Step) -> u64 {
        let mut inner = self.work.lock();
        let Some(state) = inner.queues.get_mut(&self.id) else { return 0 };
        state.submitted += 1;
        state.steps.push_back(step);
        let (number, place) = (state.submitted, state.place);
        if place == Place::Nowhere {
            self.work.settle(&mut inner, self.id);
            self.work.recheck(&mut inner);
        }
        self.work.start_workers(&mut inner);
        number
    }

    /// Number of the last step submitted.
    #[must_use]
    pub fn submitted(&self) -> u64 {
        self.work.lock().queues.get(&self.id).map_or(0, |state| state.submitted)
    }

    /// Whether a step, and with it all before, is finished.
    #[must_use]
    pub fn is_done(&self, step: u64) -> bool {
        self.work.lock().queues.get(&self.id).is_none_or(|state| state.finished >= step)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.work.lock().queues.get(&self.id).is_none_or(|state| state.finished == state.submitted)
    }

    /// Waits until a step is finished; for ever without a timeout. Returns whether it is.
    pub fn wait(&self, step: u64, timeout: Option<Duration>) -> bool {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.work
            .wait_for(until, |inner| inner.queues.get(&self.id).is_none_or(|state| state.finished >= step))
    }

    /// Takes all that has not begun away; what runs now ends. The queue's error becomes `code`.
    pub fn abort(&self, code: i32) {
        let mut inner = self.work.lock();
        let Some(state) = inner.queues.get_mut(&self.id) else { return };
        let running = u64::from(state.place == Place::Running);
        let dropped = std::mem::take(&mut state.steps);
        state.finished = state.submitted - running;
        state.error = code;
        state.due = None;
        self.work.displace(&mut inner, self.id);
        self.work.settle(&mut inner, self.id);
        self.work.done.notify_all();
        drop(inner);
        drop(dropped);
    }

    /// The first error since the last call; in stop-on-failure mode it stays.
    #[must_use]
    pub fn error(&self) -> i32 {
        let mut inner = self.work.lock();
        let Some(state) = inner.queues.get_mut(&self.id) else { return 0 };
        if state.stop_on_failure { state.error } else { std::mem::take(&mut state.error) }
    }

    /// The first error, which stays for [`Queue::error`].
    #[must_use]
    pub fn peek_error(&self) -> i32 {
        self.work.lock().queues.get(&self.id).map_or(0, |state| state.error)
    }

    /// Whether jobs and marks after a failed one are left out.
    pub fn stop_on_failure(&self, stop: bool) {
        if let Some(state) = self.work.lock().queues.get_mut(&self.id) {
            state.stop_on_failure = stop;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut inner = self.work.lock();
        if let Some(state) = inner.queues.get_mut(&self.id) {
            state.detached = true;
            if state.steps.is_empty() && state.place == Place::Nowhere {
                inner.queues.remove(&self.id);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, until: Option<Instant>, holds: impl Fn(&Inner) -> bool) -> bool {
        let mut inner = self.lock();
        loop {
            if holds(&inner) {
                return true;
            }
            inner.waiting += 1;
            inner = match until {
                None => self.done.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        inner.waiting -= 1;
                        return false;
                    }
                    self.done.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            inner.waiting -= 1;
        }
    }

    /// Goes on with a queue that is nowhere: runs marks and open gates, and puts it where its head belongs.
    fn settle(&self, inner: &mut Inner, id: u64) {
        let now = Instant::now();
        loop {
            let Some(state) = inner.queues.get_mut(&id) else { return };
            if state.place != Place::Nowhere {
                return;
            }
            let stopped = state.error != 0 && state.stop_on_failure;
            let verdict = match state.steps.front_mut() {
                None => {
                    if state.detached {
                        inner.queues.remove(&id);
                    }
                    return;
                }
                Some(_) if stopped => Gate::Open,
                Some(Step::Mark(_)) => Gate::Open,
                Some(Step::Job(delay, _)) => {
                    let due = *state.due.get_or_insert(now + *delay);
                    if due <= now {
                        state.place = Place::Ready;
                        inner.ready.push_back(id);
                    } else {
                        state.place = Place::Timed(due);
                        inner.timed.insert((due, id));
                    }
                    self.wake.notify_one();
                    return;
                }
                Some(Step::Gate(gate)) => gate(),
            };
            match verdict {
                Gate::Shut => {
                    state.place = Place::Gated;
                    inner.gated.push(id);
                    return;
                }
                Gate::Poll(after) => {
                    let at = now + after;
                    state.place = Place::Timed(at);
                    inner.timed.insert((at, id));
                    self.wake.notify_one();
                    return;
                }
                Gate::Fail(code) if state.error == 0 => state.error = code,
                Gate::Fail(_) | Gate::Open => {}
            }
            let step = state.steps.pop_front();
            state.due = None;
            if let Some(Step::Mark(mark)) = step
                && !stopped
            {
                mark();
                inner.marked = true;
            }
            finish(inner, id);
            self.announce(inner);
        }
    }

    /// Takes a queue out of the list that it stands in.
    fn displace(&self, inner: &mut Inner, id: u64) {
        let Some(state) = inner.queues.get_mut(&id) else { return };
        match state.place {
            Place::Nowhere | Place::Running => return,
            Place::Ready => inner.ready.retain(|other| *other != id),
            Place::Timed(at) => drop(inner.timed.remove(&(at, id))),
            Place::Gated => inner.gated.retain(|other| *other != id),
        }
        state.place = Place::Nowhere;
    }

    /// Asks shut gates again for as long as marks run.
    fn recheck(&self, inner: &mut Inner) {
        while std::mem::take(&mut inner.marked) {
            for id in std::mem::take(&mut inner.gated) {
                if let Some(state) = inner.queues.get_mut(&id) {
                    state.place = Place::Nowhere;
                }
                self.settle(inner, id);
            }
        }
    }

    fn announce(&self, inner: &Inner) {
        if inner.waiting > 0 {
            self.done.notify_all();
        }
    }

    fn start_workers(self: &Arc<Self>, inner: &mut Inner) {
        let needed = !inner.ready.is_empty() || !inner.timed.is_empty();
        if needed && inner.sleeping == 0 && inner.workers < self.workers_max {
            let shared = self.clone();
            let spawned =
                std::thread::Builder::new().name("ropeway-sim".into()).spawn(move || shared.serve());
            inner.workers += usize::from(spawned.is_ok());
        }
    }

    fn serve(&self) {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            while let Some(&(at, id)) = inner.timed.first().filter(|(at, _)| *at <= now) {
                inner.timed.remove(&(at, id));
                if let Some(state) = inner.queues.get_mut(&id) {
                    state.place = Place::Nowhere;
                }
                self.settle(&mut inner, id);
            }
            self.recheck(&mut inner);
            let Some(id) = inner.ready.pop_front() else {
                let next = inner.timed.first().map(|(at, _)| *at);
                inner.sleeping += 1;
                inner = match next {
                    None => self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
                    Some(at) => {
                        let left = at.saturating_duration_since(now);
                        self.wake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                inner.sleeping -= 1;
                continue;
            };
            let Some(state) = inner.queues.get_mut(&id) else { continue };
            state.due = None;
            let Some(Step::Job(_, job)) = state.steps.pop_front() else {
                state.place = Place::Nowhere;
                continue;
            };
            state.place = Place::Running;
            drop(inner);
            let result = catch_unwind(AssertUnwindSafe(job)).unwrap_or(code::INTERNAL);
            inner = self.lock();
            if let Some(state) = inner.queues.get_mut(&id) {
                state.place = Place::Nowhere;
                if state.error == 0 {
                    state.error = result;
                }
            }
            finish(&mut inner, id);
            self.announce(&inner);
            inner.marked = true;
            self.settle(&mut inner, id);
            self.recheck(&mut inner);
        }
    }
}

fn finish(inner: &mut Inner, id: u64) {
    if let Some(state) = inner.queues.get_mut(&id) {
        state.finished += 1;
    }
}

#[cfg(test)]
mod tests;
