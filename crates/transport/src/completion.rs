//! How a batch ends: a linear [`Completer`], the [`State`] that it writes, and the ways to wait for it.

use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ropeway_core::{Quiet, Status, TransferId};

use crate::Memory;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Told once of each end; the engine's tables. Called outside all locks, on the thread that ended the batch.
pub trait Watcher: Send + Sync {
    /// The batch has ended. `pins` is the local memory that must stay in quarantine, when `status.local` is not quiet;
    /// otherwise it is empty and the memory was let go.
    fn finished(&self, state: &State, status: Status, pins: Option<Arc<[Arc<Memory>]>>);
}

/// What is shared between whoever waits for a batch and whoever moves it.
pub struct State {
    id: TransferId,
    user_data: u64,
    done: AtomicBool,
    inner: Mutex<Inner>,
    ended: Condvar,
    watcher: Arc<dyn Watcher>,
}

struct Inner {
    status: Option<Status>,
    waker: Option<Waker>,
    pins: Option<Arc<[Arc<Memory>]>>,
    sleepers: u32,
}

impl State {
    /// A state that is not terminal, and the one completer that can end it. `pins` is let go when the batch is quiet.
    pub fn new(
        id: TransferId,
        user_data: u64,
        pins: Arc<[Arc<Memory>]>,
        watcher: Arc<dyn Watcher>,
    ) -> (Arc<Self>, Completer) {
        let state = Arc::new(Self {
            id,
            user_data,
            done: AtomicBool::new(false),
            inner: Mutex::new(Inner { status: None, waker: None, pins: Some(pins), sleepers: 0 }),
            ended: Condvar::new(),
            watcher,
        });
        (Arc::clone(&state), Completer(Some(state)))
    }

    /// The transfer's id.
    pub fn id(&self) -> TransferId {
        self.id
    }

    /// The number that the submitter gave along.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// Whether the batch has ended: one load, fit for a loop. Acquire: what the batch wrote is visible after `true`.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<Status> {
        if self.is_done() { self.lock().status } else { None }
    }

    /// Sleeps until the batch ends or `until` passes. Moves nothing; see `Link::drive` for that.
    pub fn park(&self, until: Option<Instant>) -> Option<Status> {
        let mut inner = self.lock();
        loop {
            if let Some(status) = inner.status {
                return Some(status);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            inner.sleepers += 1;
            inner = match left {
                None => self.ended.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.ended.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            inner.sleepers -= 1;
        }
    }

    /// `Future::poll`: keeps the waker, never moves bytes.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Status> {
        let mut inner = self.lock();
        match inner.status {
            Some(status) => Poll::Ready(status),
            None => {
                match &mut inner.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, status: Status) {
        let pins = self.lock().pins.take();
        let quarantined = match status.local {
            Quiet::Yes => None,
            Quiet::AfterClose => pins,
        };
        // The tables first: whoever sees the end may submit again, and finds the room that it gave back.
        self.watcher.finished(self, status, quarantined);
        let waker = {
            let mut inner = self.lock();
            debug_assert!(inner.status.is_none(), "a completer is used once");
            inner.status = Some(status);
            self.done.store(true, Ordering::Release);
            // Waking nobody costs a system call.
            if inner.sleepers > 0 {
                self.ended.notify_all();
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            // A waker is the caller's code: it may re-enter the engine, and it may panic.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// The one way to end a batch. Not `Clone`. Dropped unfinished (a panic in a worker), it ends the batch as
/// indeterminate: both sides' memory is quarantined until the link is closed.
pub struct Completer(Option<Arc<State>>);

impl Completer {
    /// The state that this completer will end.
    pub fn state(&self) -> &Arc<State> {
        self.0.as_ref().expect("a completer holds its state until it is used up")
    }

    /// Ends the batch.
    ///
    /// # Safety
    /// From here on nothing that the link started for this batch touches memory of a side that `status` calls
    /// [`Quiet::Yes`]: that memory may be freed or reused the moment this is called.
    pub unsafe fn finish(mut self, status: Status) {
        if let Some(state) = self.0.take() {
            state.finish(status);
        }
    }

    /// Takes the batch back before anything was started: no status, the pins are let go, nobody is told.
    pub fn disarm(mut self) {
        if let Some(state) = self.0.take() {
            state.lock().pins = None;
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            state.finish(Status::INDETERMINATE);
        }
    }
}
