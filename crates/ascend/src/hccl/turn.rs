//! Turns: communicators of one NPU are made one after the other.
//!
//! Two sides hold a turn each while they make theirs. They take them in one order, that of their names, so that no circle
//! of engines waits for each other.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

static TAKEN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
static FREED: Condvar = Condvar::new();

/// The right to make a communicator on an NPU of this process. Given back when dropped.
#[must_use]
pub(super) struct Turn(u32);

impl Turn {
    /// Waits for the NPU's turn; `None` when it does not come in time.
    pub(super) fn take(physical: u32, until: Instant) -> Option<Self> {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(physical) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            taken = FREED.wait_timeout(taken, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Self(physical))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        FREED.notify_all();
    }
}
