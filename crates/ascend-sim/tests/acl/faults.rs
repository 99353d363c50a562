use ascend_sim::acl::device::{sim_aclrtQueryDeviceStatus, sim_aclrtSetDevice};
use ascend_sim::acl::event::sim_aclrtCreateEventExWithFlag;
use ascend_sim::acl::host::sim_aclrtMallocHost;
use ascend_sim::acl::stream::{
    sim_aclrtCreateStream, sim_aclrtSetStreamFailureMode, sim_aclrtStreamGetId,
    sim_aclrtSynchronizeStreamWithTimeout,
};
use ascend_sim::ffi::Out;

use crate::rig::*;

#[test]
fn a_device_is_out_of_streams_when_the_script_says_so() {
    let script = script("");
    on(3);
    script.put("out_of_streams device=3 count=1; out_of_events device=3 count=1");
    let mut handle = 0;
    assert_eq!(sim_aclrtCreateStream(Out::from(&mut handle)), 207_008);
    assert_eq!(sim_aclrtCreateStream(Out::from(&mut handle)), OK);
    assert_eq!(sim_aclrtCreateEventExWithFlag(Out::from(&mut handle), 0), 207_007);
    assert_eq!(sim_aclrtCreateEventExWithFlag(Out::from(&mut handle), 0), OK);
}

#[test]
fn an_allocation_fails_when_the_script_says_so() {
    let script = script("");
    on(3);
    script.put(
        "alloc_fail op=aclrtMalloc device=3 after=1 count=1; alloc_fail op=aclrtMallocHost device=3 count=1",
    );
    let first = malloc(64, NORMAL_ONLY).unwrap();
    assert_eq!(malloc(64, NORMAL_ONLY), Err(207_001));
    assert_eq!(free(malloc(64, NORMAL_ONLY).unwrap()), OK);
    let mut host = 0;
    assert_eq!(sim_aclrtMallocHost(Out::from(&mut host), 64), 207_001);
    assert_eq!(free(first), OK);
}

#[test]
fn a_lost_device_fails_every_call_and_reads_as_abnormal() {
    let script = script("");
    on(4);
    let at = malloc(64, NORMAL_ONLY).unwrap();
    let queried = || {
        let mut status = 9;
        assert_eq!(sim_aclrtQueryDeviceStatus(4, Out::from(&mut status)), OK);
        status
    };
    assert_eq!(queried(), 0);
    script.put("device_lost device=4 code=507901");
    assert_eq!(malloc(64, NORMAL_ONLY), Err(507_901));
    assert_eq!(memcpy(at, 8, [0_u8; 8].as_ptr() as usize, 8, H2D), 507_901);
    assert_eq!(sim_aclrtSetDevice(4), 507_901);
    assert_eq!(queried(), 1);
    on(5);
    assert_eq!(free(malloc(64, NORMAL_ONLY).unwrap()), OK, "another device is well");
    on(5);
    script.put("");
    assert_eq!(sim_aclrtSetDevice(4), OK);
    assert_eq!(free(at), OK);
}

#[test]
fn work_under_way_on_a_lost_device_ends_with_its_code() {
    let script = script("");
    on(4);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    let held = hold(stream);
    assert_eq!(memcpy_async(at + 8, at, 8, D2D, stream), OK);
    script.put("device_lost device=4 op=aclrtMemcpyAsync");
    held.let_go();
    assert_eq!(sync(stream), 507_010);
    assert_eq!(free(at), OK);
}

#[test]
fn an_ecc_error_is_the_copys_result() {
    let script = script("");
    on(3);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    script.put("ecc device=3 op=aclrtMemcpyAsync count=1; ecc device=3 op=aclrtMemcpy count=1");
    assert_eq!(memcpy_async(at + 32, at, 32, D2D, stream), OK);
    assert_eq!((sync(stream), sync(stream)), (507_054, OK));
    assert_eq!(memcpy(at, 8, [0_u8; 8].as_ptr() as usize, 8, H2D), 507_054);
    assert_eq!(free(at), OK);
}

#[test]
fn a_partial_write_leaves_the_rest_as_it_was_and_fails() {
    let script = script("");
    on(3);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    put_bytes(at, &[7; 32]);
    script.put("partial_write device=3 op=aclrtMemcpyAsync fraction=0.25 count=1");
    assert_eq!(memcpy_async(at + 32, at, 32, D2D, stream), OK);
    assert_eq!(sync(stream), 507_052);
    assert_eq!((get_bytes(at + 32, 8), get_bytes(at + 40, 24)), (vec![7; 8], vec![0; 24]));
    assert_eq!(free(at), OK);
}

#[test]
fn a_late_completion_still_writes_after_the_timeout() {
    let script = script("");
    on(3);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    put_bytes(at, &[7; 32]);
    script.put("late_completion device=3 ms=2000 count=1");
    assert_eq!(memcpy_async(at + 32, at, 32, D2D, stream), OK);
    assert_eq!(sim_aclrtSynchronizeStreamWithTimeout(stream, 1), 507_046);
    assert_eq!(get_bytes(at + 32, 32), [0; 32]);
    assert_eq!(sync(stream), OK);
    assert_eq!(get_bytes(at + 32, 32), [7; 32]);
    assert_eq!(free(at), OK);
}

#[test]
fn a_stream_that_stops_on_failure_does_no_more_and_stays_failed() {
    let script = script("");
    on(3);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    put_bytes(at, &[7; 16]);
    assert_eq!(sim_aclrtSetStreamFailureMode(stream, 1), OK);
    script.put("ecc device=3 op=aclrtMemcpyAsync count=1");
    assert_eq!(memcpy_async(at + 16, at, 16, D2D, stream), OK);
    assert_eq!(memcpy_async(at + 32, at, 16, D2D, stream), OK);
    assert_eq!((sync(stream), sync(stream)), (507_054, 507_054));
    assert_eq!(get_bytes(at + 32, 16), [0; 16]);
    assert_eq!(free(at), OK);
}

#[test]
fn any_call_can_be_held_up_and_refused_with_any_code() {
    let script = script("");
    on(3);
    let (stream, mut id) = (stream(), 0);
    // A function that no other test calls: these faults know no device.
    script.put("stall op=aclrtStreamGetId ms=30; refuse op=aclrtStreamGetId code=207018 count=1");
    let start = std::time::Instant::now();
    assert_eq!(sim_aclrtStreamGetId(stream, Out::from(&mut id)), 207_018);
    assert_eq!(sim_aclrtStreamGetId(stream, Out::from(&mut id)), OK);
    assert!(start.elapsed().as_millis() >= 60);
}
