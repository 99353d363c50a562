//! An NPU of the software CANN.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ascend_sys::acl;
use ropeway_ascend::{Event, Npu, NpuConfig, Stream, Work};
use ropeway_core::{Error, Limits};
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

/// A compute stream of the test's, and an event of it.
pub(crate) fn stream_and_event(npu: &Npu) -> (Stream, Event) {
    let device = npu.device().clone();
    npu.device()
        .call(Work::Slow, "test", move |on| {
            Ok::<_, Error>((Stream::create(&device, on)?, Event::create(&device, on)?))
        })
        .unwrap()
        .unwrap()
}

/// A notify that holds streams until it is opened.
pub(crate) struct Gate {
    notify: usize,
    opener: Stream,
}

impl Gate {
    pub(crate) fn new(npu: &Npu) -> Self {
        let functions = npu.device().acl().notify.unwrap();
        let notify = npu
            .device()
            .call(Work::Slow, "test", move |_| {
                let mut notify: acl::aclrtNotify = null_mut();
                // SAFETY: writes one pointer to a local.
                let code = unsafe { (functions.aclrtCreateNotify)(&mut notify, 0) };
                assert_eq!(code, 0);
                notify as usize
            })
            .unwrap();
        Self { notify, opener: stream_and_event(npu).0 }
    }

    /// What follows on `stream` waits.
    pub(crate) fn close(&self, npu: &Npu, stream: &Stream) {
        let functions = npu.device().acl().notify.unwrap();
        let (notify, stream) = (self.notify, stream.raw() as usize);
        npu.device()
            .call(Work::Slow, "test", move |_| {
                // SAFETY: both live as long as the test.
                let code = unsafe {
                    (functions.aclrtWaitAndResetNotify)(notify as _, stream as acl::aclrtStream, 0)
                };
                assert_eq!(code, 0);
            })
            .unwrap();
    }

    pub(crate) fn open(&self, npu: &Npu) {
        let functions = npu.device().acl().notify.unwrap();
        let (notify, stream) = (self.notify, self.opener.raw() as usize);
        npu.device()
            .call(Work::Slow, "test", move |_| {
                // SAFETY: both live as long as the test.
                let code = unsafe { (functions.aclrtRecordNotify)(notify as _, stream as acl::aclrtStream) };
                assert_eq!(code, 0);
            })
            .unwrap();
    }
}
