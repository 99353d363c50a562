//! The oldest CANN that is supported, in a process where someone else was there first: functions that later releases added
//! are missing, and AscendCL is initialised.

use ropeway_ascend::{HbmMemory, Npu, NpuConfig};
use ropeway_core::Limits;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::Janitor;

#[test]
fn an_npu_of_cann_8_5_works_without_what_came_later_and_beside_torch_npu() {
    let simulator = match Simulator::start(&SimCann::default().release("8.5.0").chip("a2")) {
        Ok(simulator) => simulator,
        Err(why) => return cannot_run("CANN 8.5", &why),
    };
    let found = ascend_sys::Cann::load(&ascend_sys::Search::at(simulator.root())).unwrap();
    // SAFETY: null stands for no configuration.
    let code = unsafe { (found.acl.aclInit)(std::ptr::null()) };
    assert_eq!(code, 0, "what torch_npu does at its import");
    let config = NpuConfig::new(1).with_cann_path(simulator.root()).with_node("node0");
    let npu = Npu::open(config, &Limits::default(), &Janitor::start().unwrap()).unwrap();
    let acl = npu.device().acl();
    assert!(acl.user_device_ids.is_none() && acl.address_range.is_none(), "8.5.0 has neither");
    let ids = npu.device().ids();
    assert!(ids.physical.is_some(), "the older function tells it: {ids:?}");
    assert_eq!(ids.super_pod, None, "A2 has no super-pods");
    let memory = npu.alloc(4096).unwrap();
    let begin = HbmMemory::of(&memory).unwrap().begin();
    // SAFETY: `memory` is the keep-alive.
    let again = unsafe { npu.register(begin, 4096, Box::new(memory)) }.unwrap();
    assert_eq!(HbmMemory::of(&again).unwrap().found().containing, None, "8.5.0 cannot tell");
    again.write(0, b"8.5").unwrap();
    let mut back = [0; 3];
    again.read(0, &mut back).unwrap();
    assert_eq!(&back, b"8.5");
}
