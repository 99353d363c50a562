use ascend_sim::acl::Location;
use ascend_sim::acl::batch::{Attribute, sim_aclrtMemcpyBatch, sim_aclrtMemcpyBatchAsync};
use ascend_sim::acl::copy::{sim_aclrtMemset, sim_aclrtMemsetAsync};
use ascend_sim::acl::host::{sim_aclrtFreeHost, sim_aclrtMallocHost};
use ascend_sim::acl::peer::{
    sim_aclrtDeviceCanAccessPeer, sim_aclrtDeviceDisablePeerAccess, sim_aclrtDeviceEnablePeerAccess,
    sim_aclrtDevicePeerAccessStatus,
};
use ascend_sim::acl::plane::{sim_aclrtMemcpy2d, sim_aclrtMemcpy2dAsync};
use ascend_sim::acl::stream::sim_aclrtStreamQuery;
use ascend_sim::ffi::{In, Out};

use crate::rig::*;

fn idle(stream: usize) -> bool {
    let mut status = 9;
    assert_eq!(sim_aclrtStreamQuery(stream, Out::from(&mut status)), OK);
    status == 0
}

#[test]
fn a_synchronous_copy_ignores_its_kind_and_an_asynchronous_one_does_not() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    let bytes = [3_u8; 64];
    assert_eq!(memcpy(at, 64, bytes.as_ptr() as usize, 64, D2D), OK);
    assert_eq!(get_bytes(at, 64), bytes);
    assert_eq!(memcpy_async(at, bytes.as_ptr() as usize, 64, D2D, stream), 107_000);
    assert_eq!(memcpy_async(at, bytes.as_ptr() as usize, 64, H2D, stream), OK);
    assert_eq!(memcpy_async(at, bytes.as_ptr() as usize, 64, 4, stream), OK, "DEFAULT finds it out");
    assert_eq!(sync(stream), OK);
    assert_eq!(free(at), OK);
}

#[test]
fn an_asynchronous_copy_from_host_to_host_is_refused() {
    on(0);
    let (from, mut to) = ([1_u8; 8], [0_u8; 8]);
    let stream = stream();
    assert_eq!(memcpy_async(to.as_mut_ptr() as usize, from.as_ptr() as usize, 8, H2H, stream), 207_000);
    assert_eq!(memcpy(to.as_mut_ptr() as usize, 8, from.as_ptr() as usize, 8, H2H), OK);
    assert_eq!(to, from);
}

#[test]
fn a_copy_that_does_not_fit_the_destination_is_refused() {
    on(0);
    let at = malloc(64, NORMAL_ONLY).unwrap();
    assert_eq!(memcpy(at, 63, [0_u8; 64].as_ptr() as usize, 64, H2D), 107_000);
    assert_eq!(memcpy(at, 0, [0_u8; 64].as_ptr() as usize, 0, H2D), 107_000);
    assert_eq!(free(at), OK);
}

#[test]
fn an_asynchronous_copy_is_so_only_with_pinned_host_memory() {
    on(0);
    let (at, stream) = (malloc(4096, NORMAL_ONLY).unwrap(), stream());
    let mut pinned = 0_usize;
    assert_eq!(sim_aclrtMallocHost(Out::from(&mut pinned), 64), OK);
    let held = hold(stream);
    late_fill(stream, at, 64, 7, 0);
    assert_eq!(memcpy_async(pinned, at, 64, D2H, stream), OK);
    assert!(!idle(stream), "with pinned memory the call does not wait");
    held.let_go();
    let mut pageable = [0_u8; 64];
    assert_eq!(memcpy_async(pageable.as_mut_ptr() as usize, at, 64, D2H, stream), OK);
    assert!(idle(stream), "with pageable memory it waits for the copy and all before it");
    assert_eq!(pageable, [7; 64]);
    assert_eq!(sync(stream), OK);
    // SAFETY: the copies are done.
    assert_eq!(unsafe { sim_aclrtFreeHost(pinned) }, OK);
    assert_eq!(free(at), OK);
}

#[test]
fn memset_fills_device_memory_now_or_in_its_streams_order() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    assert_eq!(sim_aclrtMemset(at, 64, 0x1FF, 64), OK);
    assert_eq!(get_bytes(at, 64), [0xFF; 64]);
    late_fill(stream, at, 64, 1, 30);
    assert_eq!(sim_aclrtMemsetAsync(at, 64, 2, 32, stream), OK);
    assert_eq!(sync(stream), OK);
    assert_eq!((get_bytes(at, 32), get_bytes(at + 32, 32)), (vec![2; 32], vec![1; 32]));
    assert_eq!(sim_aclrtMemset(at, 63, 0, 64), 107_000);
    assert_eq!(sim_aclrtMemset([0_u8; 8].as_ptr() as usize, 8, 0, 8), 107_000);
    assert_eq!(free(at), OK);
}

#[test]
fn rows_are_copied_between_two_pitches() {
    on(0);
    let (a, b, stream) = (malloc(4096, NORMAL_ONLY).unwrap(), malloc(4096, NORMAL_ONLY).unwrap(), stream());
    let rows: Vec<u8> = (0..48).collect();
    // SAFETY: `rows` has three rows of 16 bytes; the other end is device memory.
    let code = unsafe { sim_aclrtMemcpy2d(a, 100, rows.as_ptr() as usize, 16, 16, 3, H2D) };
    assert_eq!(code, OK);
    assert_eq!(
        (get_bytes(a, 16), get_bytes(a + 100, 16), get_bytes(a + 16, 4)),
        (rows[..16].to_vec(), rows[16..32].to_vec(), vec![0; 4])
    );
    // SAFETY: both ends are device memory.
    let code = unsafe { sim_aclrtMemcpy2dAsync(b, 16, a, 100, 16, 3, D2D, stream) };
    assert_eq!((code, sync(stream)), (OK, OK));
    assert_eq!(get_bytes(b, 48), rows);
    // SAFETY: refused before anything is touched.
    let code = unsafe { sim_aclrtMemcpy2d(a, 15, b, 16, 16, 3, D2D) };
    assert_eq!(code, 107_000, "a row is wider than its pitch");
    assert_eq!((free(a), free(b)), (OK, OK));
}

const DEVICE_0: Location = Location { id: 0, kind: 1 };
const ON_HOST: Location = Location { id: 0, kind: 0 };

fn batch(
    dsts: &[usize],
    srcs: &[usize],
    size: usize,
    attributes: &[Attribute],
    starts: &[usize],
) -> (i32, usize) {
    let sizes = vec![size; dsts.len()];
    let mut fail = 77;
    let (d, s, n) = (In::from(dsts), In::from(srcs), In::from(&sizes[..]));
    let (a, i) = (In::from(attributes), In::from(starts));
    // SAFETY: the tests pass device addresses and memory of their own.
    let code =
        unsafe { sim_aclrtMemcpyBatch(d, n, s, n, dsts.len(), a, i, attributes.len(), Out::from(&mut fail)) };
    (code, fail)
}

#[test]
fn a_batch_copies_between_host_and_device_either_way_and_names_what_it_refuses() {
    on(0);
    let at = malloc(4096, NORMAL_ONLY).unwrap();
    let (from, mut to) = ([5_u8; 32], [0_u8; 32]);
    let up = Attribute { dst: DEVICE_0, src: ON_HOST, ..Attribute::default() };
    let down = Attribute { dst: ON_HOST, src: DEVICE_0, ..Attribute::default() };
    let (host, back) = (from.as_ptr() as usize, to.as_mut_ptr() as usize);
    assert_eq!(batch(&[at, at + 64], &[host, host], 32, &[up], &[0]), (OK, usize::MAX));
    assert_eq!(batch(&[at + 128, back], &[host, at + 64], 32, &[up, down], &[0, 1]), (OK, usize::MAX));
    assert_eq!((to, get_bytes(at + 128, 32)), (from, from.to_vec()));
    assert_eq!(batch(&[at, at + 64], &[host, at], 32, &[up], &[0]), (207_000, 1), "device to device");
    assert_eq!(batch(&[at, back], &[host, at], 32, &[up], &[0]), (107_000, 1), "against its attribute");
    for starts in [&[1, 2][..], &[0, 0], &[0, 2]] {
        assert_eq!(
            batch(&[at, at], &[host, host], 32, &[up, up], starts),
            (107_000, usize::MAX),
            "{starts:?}"
        );
    }
    let _script = script("refuse op=aclrtMemcpyBatch");
    assert_eq!(batch(&[at], &[host], 32, &[up], &[0]).0, 207_000, "as where it is not supported");
    assert_eq!(free(at), OK);
}

#[test]
fn a_batch_on_a_stream_keeps_its_order() {
    on(0);
    let (at, stream) = (malloc(4096, NORMAL_ONLY).unwrap(), stream());
    late_fill(stream, at, 32, 9, 30);
    let mut to = [0_u8; 32];
    let (dsts, srcs, sizes, starts) = ([to.as_mut_ptr() as usize], [at], [32_usize], [0_usize]);
    let down = [Attribute { dst: ON_HOST, src: DEVICE_0, ..Attribute::default() }];
    let mut fail = 0;
    // SAFETY: `to` lives until the stream was synchronized.
    let code = unsafe {
        let (sizes, attributes) = (In::from(&sizes[..]), In::from(&down[..]));
        let (dsts, srcs, starts) = (In::from(&dsts[..]), In::from(&srcs[..]), In::from(&starts[..]));
        sim_aclrtMemcpyBatchAsync(
            dsts,
            sizes,
            srcs,
            sizes,
            1,
            attributes,
            starts,
            1,
            Out::from(&mut fail),
            stream,
        )
    };
    assert_eq!((code, sync(stream), to), (OK, OK, [9; 32]));
    assert_eq!(free(at), OK);
}

#[test]
fn another_devices_memory_is_reached_only_with_peer_access_which_is_one_directional() {
    on(7);
    let near = malloc(64, HUGE_ONLY).unwrap();
    on(1);
    let far = malloc(64, HUGE_ONLY).unwrap();
    on(7);
    let mut can = 0;
    assert_eq!((sim_aclrtDeviceCanAccessPeer(Out::from(&mut can), 7, 1), can), (OK, 1));
    assert_eq!(sim_aclrtDeviceCanAccessPeer(Out::from(&mut can), 7, 7), 107_001);
    assert_eq!(memcpy(far, 64, near, 64, D2D), 207_006);
    assert_eq!(sim_aclrtDeviceEnablePeerAccess(1, 1), 107_000, "flags must be 0");
    assert_eq!(sim_aclrtDeviceEnablePeerAccess(1, 0), OK);
    let mut status = [9, 9];
    assert_eq!(sim_aclrtDevicePeerAccessStatus(7, 1, Out::from(&mut status[0])), OK);
    assert_eq!(sim_aclrtDevicePeerAccessStatus(1, 7, Out::from(&mut status[1])), OK);
    assert_eq!(status, [1, 0]);
    put_bytes(near, &[8; 64]);
    assert_eq!(memcpy(far, 64, near, 64, D2D), OK);
    on(1);
    assert_eq!(get_bytes(far, 64), [8; 64]);
    assert_eq!(memcpy(far, 64, near, 64, D2D), 207_006, "the other device has no access");
    on(7);
    assert_eq!(sim_aclrtDeviceDisablePeerAccess(1), OK);
    assert_eq!(memcpy(far, 64, near, 64, D2D), 207_006);
    assert_eq!(free(near), OK);
    assert_eq!(free(far), OK);
}
