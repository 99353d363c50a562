//! Deadlines from durations that a caller may have chosen as large as it likes.

use std::time::{Duration, Instant};

/// Later than any program runs, and far from the end of the clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `at + by`, or a century later where the clock cannot tell.
pub(crate) fn add(at: Instant, by: Duration) -> Instant {
    at.checked_add(by.min(FAR)).unwrap_or(at)
}

/// From now.
pub(crate) fn after(by: Duration) -> Instant {
    add(Instant::now(), by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_is_a_deadline_too() {
        assert!(after(Duration::MAX) > Instant::now() + Duration::from_secs(3600));
    }
}
