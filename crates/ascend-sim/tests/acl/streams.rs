use ascend_sim::acl::context::{sim_aclrtCreateContext, sim_aclrtDestroyContext};
use ascend_sim::acl::kernel::{
    pattern, ropeway_sim_kernel_copy, ropeway_sim_kernel_copy2d, ropeway_sim_kernel_late_write,
};
use ascend_sim::acl::recovery::sim_aclrtDeviceTaskAbort;
use ascend_sim::acl::stream::*;
use ascend_sim::ffi::Out;

use crate::rig::*;

fn query(stream: usize) -> u32 {
    let mut status = 9;
    assert_eq!(sim_aclrtStreamQuery(stream, Out::from(&mut status)), OK);
    status
}

#[test]
fn work_on_a_stream_is_asynchronous_and_in_order() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    let held = hold(stream);
    late_fill(stream, at, 64, 1, 20);
    late_fill(stream, at, 32, 2, 0);
    assert_eq!(query(stream), 1);
    assert_eq!(get_bytes(at, 64), [0; 64], "nothing was written yet");
    held.let_go();
    assert_eq!(sync(stream), OK);
    assert_eq!(query(stream), 0);
    assert_eq!((get_bytes(at, 32), get_bytes(at + 32, 32)), (vec![2; 32], vec![1; 32]));
    assert_eq!(free(at), OK);
}

#[test]
fn a_late_write_puts_its_pattern_at_the_end_of_its_delay() {
    on(0);
    let (at, to, stream) = (malloc(4096, NORMAL_ONLY).unwrap(), malloc(4096, NORMAL_ONLY).unwrap(), stream());
    let held = hold(stream);
    assert_eq!(ropeway_sim_kernel_late_write(stream, at, 200, 42, 5), OK);
    assert_eq!(get_bytes(at, 200), [0; 200]);
    held.let_go();
    assert_eq!(ropeway_sim_kernel_copy(stream, to, at, 200, 0), OK);
    assert_eq!(ropeway_sim_kernel_copy2d(stream, to + 1000, 8, at, 100, 8, 2, 0), OK);
    assert_eq!(sync(stream), OK);
    let want: Vec<u8> = (0..200).map(|offset| pattern(42, offset)).collect();
    assert_eq!((get_bytes(at, 200), get_bytes(to, 200)), (want.clone(), want.clone()));
    assert_eq!(get_bytes(to + 1000, 16), [&want[..8], &want[100..108]].concat());
    assert_eq!((free(at), free(to)), (OK, OK));
}

#[test]
fn a_synchronize_that_times_out_leaves_the_work_going() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    let held = hold(stream);
    late_fill(stream, at, 64, 3, 0);
    assert_eq!(sim_aclrtSynchronizeStreamWithTimeout(stream, 1), 507_046);
    assert_eq!(sim_aclrtSynchronizeStreamWithTimeout(stream, -2), 107_000);
    held.let_go();
    assert_eq!(sync(stream), OK);
    assert_eq!(get_bytes(at, 64), [3; 64]);
    assert_eq!(free(at), OK);
}

#[test]
fn after_an_abort_what_had_not_begun_never_happens_and_synchronize_says_so() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    late_fill(stream, at, 64, 3, 3_600_000);
    assert_eq!(sim_aclrtStreamAbort(stream), OK);
    assert_eq!(sync(stream), 107_023);
    assert_eq!(get_bytes(at, 64), [0; 64]);
    assert_eq!(free(at), OK);
}

#[test]
fn aborting_a_devices_tasks_aborts_all_its_streams() {
    on(7);
    let (at, one, two) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), stream());
    late_fill(one, at, 64, 3, 3_600_000);
    late_fill(two, at, 64, 3, 3_600_000);
    assert_eq!(sim_aclrtDeviceTaskAbort(7, 0), OK);
    assert_eq!((sync(one), sync(two)), (107_022, 107_022));
    assert_eq!(free(at), OK);
}

#[test]
fn a_device_has_1984_streams() {
    on(6);
    let mut left = 0;
    assert_eq!(sim_aclrtGetStreamAvailableNum(Out::from(&mut left)), OK);
    assert!(left <= 1984);
    let all: Vec<usize> = (0..left).map(|_| stream()).collect();
    let mut handle = 0;
    assert_eq!(sim_aclrtCreateStreamWithConfig(Out::from(&mut handle), 0, 3), 207_008);
    for stream in all {
        assert_eq!(sim_aclrtDestroyStream(stream), OK);
    }
    assert_eq!(sim_aclrtCreateStreamWithConfig(Out::from(&mut handle), 0, 3), OK);
    assert_eq!(sim_aclrtDestroyStream(handle), OK);
    assert_eq!(sim_aclrtDestroyStream(handle), 107_017);
}

#[test]
fn a_stream_of_another_context_is_refused() {
    on(5);
    let (mut context, mine) = (0, stream());
    std::thread::spawn(move || {
        assert_eq!(sim_aclrtCreateContext(Out::from(&mut context), 5), OK);
        assert_eq!(sync(mine), 107_003);
        assert_eq!(sim_aclrtSynchronizeStream(0), OK, "null is the default stream of one's own");
        assert_eq!(sim_aclrtDestroyContext(context), OK);
    })
    .join()
    .unwrap();
    assert_eq!(sim_aclrtDestroyStream(mine), OK);
}

#[test]
fn a_forced_destroy_leaves_work_out_and_a_plain_one_waits_for_it() {
    on(0);
    let (at, forced, plain) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), stream());
    late_fill(forced, at, 64, 3, 3_600_000);
    late_fill(plain, at, 32, 4, 40);
    assert_eq!(sim_aclrtDestroyStreamForce(forced), OK);
    assert_eq!(sim_aclrtDestroyStream(plain), OK);
    assert_eq!((get_bytes(at, 32), get_bytes(at + 32, 32)), (vec![4; 32], vec![0; 32]));
    assert_eq!(free(at), OK);
}
