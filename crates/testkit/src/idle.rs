//! What doing nothing costs.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU seconds that this process uses while the calling thread sleeps for `time`. For benchmarks: no test judges it.
pub fn cpu_seconds_while_idle(time: Duration) -> f64 {
    let before = cpu_seconds();
    std::thread::sleep(time);
    cpu_seconds() - before
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
