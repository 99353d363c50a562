//! One place where closing code sleeps until something has ended.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Counts ends. Whoever waits looks at the tables, then sleeps only if nothing has ended since it looked.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    count: Mutex<u64>,
    moved: Condvar,
}

impl Progress {
    pub(crate) fn observe(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moved(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.moved.notify_all();
    }

    /// Sleeps until something has ended since `seen`; `false` when `until` passed first.
    pub(crate) fn wait(&self, seen: u64, until: Instant) -> bool {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            count = self.moved.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
