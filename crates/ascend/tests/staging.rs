//! Staged copies that fail: what is said about memory, and what is kept from being touched again; on the software CANN.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{WAIT, npu, simulator};
use ropeway_ascend::staging::{Piece, Staging};
use ropeway_ascend::{HbmMemory, Npu, Work};
use ropeway_core::{Error, ErrorKind, Quiet, Result};
use ropeway_transport::Memory;

const LEN: u64 = 64 << 10;

struct Rig {
    npu: Arc<Npu>,
    hbm: Arc<Memory>,
    host: Arc<Memory>,
    staging: Option<Staging>,
}

impl Rig {
    fn new(npu: Arc<Npu>) -> Self {
        let hbm = npu.alloc(LEN).unwrap();
        let host = npu.alloc_pinned(LEN).unwrap();
        hbm.fill(0, LEN, 0).unwrap();
        host.fill(0, LEN, 7).unwrap();
        let (device, janitor) = (npu.device().clone(), npu.janitor().clone());
        let staging =
            npu.device().call(Work::Slow, "test", move |on| Staging::new(&device, on, LEN / 8, &janitor));
        Self { npu, hbm, host, staging: Some(staging.unwrap().unwrap()) }
    }

    fn up(&mut self, timeout: Duration) -> Result<()> {
        let (mut staging, host) = (self.staging.take().unwrap(), self.host.clone());
        let base = HbmMemory::of(&self.hbm).unwrap().begin();
        let piece = Piece { host: 0, device: 0, len: LEN };
        let (staging, outcome) = self
            .npu
            .device()
            .call(Work::Slow, "test", move |on| {
                // SAFETY: the piece lies in `hbm`, which the rig holds, and leaks where it must.
                let outcome = unsafe { staging.to_device(on, &host, base, [piece], timeout) };
                (staging, outcome)
            })
            .unwrap();
        self.staging = Some(staging);
        outcome
    }
}

#[test]
fn a_staged_copy_that_times_out_is_over_when_it_says_so() {
    let Some(simulator) = simulator("timed out") else { return };
    let alone = simulator.alone();
    let mut rig = Rig::new(npu(simulator, 0));
    alone.faults("slow op=aclrtMemcpyAsync ms=200 count=1");
    let error = rig.up(Duration::from_millis(5)).unwrap_err();
    assert_eq!((error.kind(), error.local()), (ErrorKind::TimedOut, Quiet::Yes), "{error}");
    rig.hbm.fill(0, LEN, 9).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let mut bytes = vec![0; LEN as usize];
    rig.hbm.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 9), "the copy that was over wrote once more");
    rig.up(WAIT).unwrap();
    rig.hbm.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7), "the staging works on after an abort that was proven");
}

#[test]
fn a_staged_copy_that_cannot_be_ended_leaves_its_memory_unquiet_and_takes_no_more() {
    let Some(simulator) = simulator("unquiet") else { return };
    let alone = simulator.alone();
    let mut rig = Rig::new(npu(simulator, 0));
    alone.faults("refuse op=aclrtSynchronizeStreamWithTimeout code=507010");
    let error = rig.up(WAIT).unwrap_err();
    assert_eq!((error.native(), error.local()), (Some(507_010), Quiet::AfterClose), "{error}");
    alone.faults("");
    assert_eq!(rig.up(WAIT).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_copy_that_the_device_reports_broken_fails_with_its_code() {
    let Some(simulator) = simulator("broken copy") else { return };
    let alone = simulator.alone();
    let mut rig = Rig::new(npu(simulator, 0));
    alone.faults("ecc op=aclrtMemcpyAsync count=1");
    let error = rig.up(WAIT).unwrap_err();
    assert_eq!((error.kind(), error.native()), (ErrorKind::Resource, Some(507_054)), "{error}");
}

#[test]
fn no_stream_for_a_staging_is_back_pressure_and_nothing_leaks() {
    let Some(simulator) = simulator("no stream") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 0);
    alone.faults("out_of_streams after=1 count=1");
    let (device, janitor) = (npu.device().clone(), npu.janitor().clone());
    let make = move || {
        let (owner, janitor) = (device.clone(), janitor.clone());
        device.call(Work::Slow, "test", move |on| Staging::new(&owner, on, 4096, &janitor).map(drop)).unwrap()
    };
    let error: Error = make().unwrap_err();
    assert_eq!((error.kind(), error.native()), (ErrorKind::Full, Some(207_008)));
    make().unwrap();
}
