//! Times, which are seconds in Python.

use std::time::Duration;

use crate::fault::{Result, misuse};

/// The time that `seconds` of the argument `name` are.
pub(crate) fn duration(name: &str, seconds: f64) -> Result<Duration> {
    if seconds == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        misuse("time", format!("{name} is {seconds}; it must be a number of seconds, at least 0"))
    })
}

/// As [`duration`], where None says nothing.
pub(crate) fn optional(name: &str, seconds: Option<f64>) -> Result<Option<Duration>> {
    seconds.map(|seconds| duration(name, seconds)).transpose()
}
