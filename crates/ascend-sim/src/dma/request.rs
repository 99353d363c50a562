//! What was posted, until its end was told.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A posted batch.
#[derive(Debug, Default)]
pub(crate) struct Request {
    end: Mutex<Option<bool>>,
    told: Condvar,
}

impl Request {
    /// One that is over already, well or not.
    pub(crate) fn ended(well: bool) -> Self {
        Self { end: Mutex::new(Some(well)), told: Condvar::new() }
    }

    /// Whether it is over, and then whether all went well.
    pub(crate) fn end(&self) -> Option<bool> {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; a second end changes nothing.
    pub(crate) fn finish(&self, well: bool) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert(well);
        drop(end);
        self.told.notify_all();
    }

    /// Waits for the end; nothing when the time is over before.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<bool> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if end.is_some() {
                return *end;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            end = self.told.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
