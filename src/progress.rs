//! One place where closing code sleeps until something has ended.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Counts ends. Whoever waits looks at the tables, then sleeps only if nothing has ended since it looked.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    inner: Mutex<Inner>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    sleepers: u32,
}

impl Progress {
    pub(crate) fn observe(&self) -> u64 {
        self.lock().count
    }

    pub(crate) fn moved(&self) {
        let mut inner = self.lock();
        inner.count += 1;
        // Waking nobody costs a system call.
        if inner.sleepers > 0 {
            self.moved.notify_all();
        }
    }

    /// Sleeps until something has ended since `seen`; `false` when `until` passed first.
    pub(crate) fn wait(&self, seen: u64, until: Instant) -> bool {
        let mut inner = self.lock();
        while inner.count == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner.sleepers += 1;
            inner = self.moved.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            inner.sleepers -= 1;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
