//! Answers that come later: a future without a runtime behind it, or a blocking wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use ropeway_core::{Error, ErrorKind, Result};

use ropeway_transport::memory::fork::Origin;

/// The answer to a control call. Every one is bounded by the timeout given to the call that made it.
///
/// Await it, or `wait()` for it. Dropping it drops the answer, not what was asked for.
#[must_use = "a pending answer does nothing until it is waited for"]
pub struct Pending<T>(Arc<Slot<T>>);

/// The side that answers. Dropped without an answer, it answers that the engine was closed.
pub(crate) struct Answer<T>(Option<Arc<Slot<T>>>);

struct Slot<T> {
    /// Who answers; in a forked child nobody does.
    origin: Option<Origin>,
    inner: Mutex<Inner<T>>,
    ready: Condvar,
}

struct Inner<T> {
    value: Option<Result<T>>,
    taken: bool,
    waker: Option<Waker>,
}

pub(crate) fn pending<T>() -> (Answer<T>, Pending<T>) {
    let slot = Arc::new(Slot {
        origin: Origin::here().ok(),
        inner: Mutex::new(Inner { value: None, taken: false, waker: None }),
        ready: Condvar::new(),
    });
    (Answer(Some(Arc::clone(&slot))), Pending(slot))
}

impl<T> Answer<T> {
    pub(crate) fn give(mut self, value: Result<T>) {
        if let Some(slot) = self.0.take() {
            slot.give(value);
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.give(Err(Error::new(
                ErrorKind::Closed,
                "control",
                "the engine or the session ended before it answered",
            )));
        }
    }
}

impl<T> Slot<T> {
    fn give(&self, value: Result<T>) {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.value = Some(value);
            self.ready.notify_all();
            inner.waker.take()
        };
        if let Some(waker) = waker {
            // The caller's code: it may panic, and the control thread must live on.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
    }
}

impl<T> Pending<T> {
    /// Blocks until the answer is there. Not for async code: await it there.
    ///
    /// # Errors
    /// The failure of the call; `TimedOut` when its timeout passed.
    pub fn wait(self) -> Result<T> {
        self.check()?;
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = inner.value.take() {
                return value;
            }
            if inner.taken {
                return Err(taken());
            }
            inner = self.0.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Pending<T> {
    fn check(&self) -> Result<()> {
        self.0.origin.map_or(Ok(()), |origin| origin.check("pending"))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Err(forked) = self.check() {
            return Poll::Ready(Err(forked));
        }
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = inner.value.take() {
            inner.taken = true;
            return Poll::Ready(value);
        }
        if inner.taken {
            return Poll::Ready(Err(taken()));
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn taken() -> Error {
    Error::new(
        ErrorKind::ApiMisuse,
        "pending",
        "the answer was already taken; do not poll after it was ready",
    )
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_answer_says_closed_instead_of_hanging() {
        let (answer, pending) = pending::<()>();
        drop(answer);
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn a_waker_that_panics_does_not_reach_the_answering_thread() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a caller's waker");
            }
        }
        let (answer, mut pending) = pending::<u32>();
        let waker = Arc::new(Panics).into();
        assert!(Pin::new(&mut pending).poll(&mut Context::from_waker(&waker)).is_pending());
        answer.give(Ok(7));
        assert_eq!(pending.wait().unwrap(), 7);
    }
}
