//! An NPU of the software CANN.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_ascend::{Npu, NpuConfig};
use ropeway_core::Limits;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::Janitor;

/// How long something may take before it counts as hanging.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// The simulator, or a note why `test` cannot run.
pub(crate) fn simulator(test: &str) -> Option<&'static Simulator> {
    match Simulator::start(&SimCann::default()) {
        Ok(simulator) => Some(simulator),
        Err(why) => {
            cannot_run(test, &why);
            None
        }
    }
}

/// A device of the simulator.
pub(crate) fn npu(simulator: &Simulator, device: u32) -> Arc<Npu> {
    let janitor = Janitor::start().unwrap();
    let config = NpuConfig::new(device).with_cann_path(simulator.root()).with_node("node0");
    Npu::open(config, &Limits::default(), &janitor).unwrap()
}

/// Bytes that differ from their neighbours.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

/// Waits until something holds that nobody tells of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "{what}: not so after {WAIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
