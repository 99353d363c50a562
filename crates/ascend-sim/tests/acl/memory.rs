use ascend_sim::acl::host::{
    sim_aclrtFreeHost, sim_aclrtHostGetDevicePointer, sim_aclrtHostRegister, sim_aclrtHostUnregister,
    sim_aclrtMallocHost,
};
use ascend_sim::acl::memory::{
    Attributes, sim_aclrtGetMemInfo, sim_aclrtMemGetAddressRange, sim_aclrtPointerGetAttributes,
};
use ascend_sim::ffi::Out;

use crate::rig::*;

fn attributes(at: usize) -> Result<Attributes, i32> {
    let mut answer = Attributes::default();
    let code = sim_aclrtPointerGetAttributes(at, Out::from(&mut answer));
    if code == OK { Ok(answer) } else { Err(code) }
}

fn room() -> (usize, usize) {
    let (mut free, mut total) = (0, 0);
    assert_eq!(sim_aclrtGetMemInfo(1, Out::from(&mut free), Out::from(&mut total)), OK);
    (free, total)
}

fn pinned(size: usize) -> usize {
    let mut at = 0;
    assert_eq!(sim_aclrtMallocHost(Out::from(&mut at), size), OK);
    at
}

fn free_host(at: usize) -> i32 {
    // SAFETY: nothing uses it afterwards.
    unsafe { sim_aclrtFreeHost(at) }
}

fn register(at: usize, size: usize) -> (i32, usize) {
    let mut view = 0;
    // SAFETY: the tests' own memory, which stays until it is unregistered.
    let code = unsafe { sim_aclrtHostRegister(at, size as u64, 0, Out::from(&mut view)) };
    (code, view)
}

#[test]
fn huge_first_takes_huge_pages_only_above_one_mebibyte() {
    on(0);
    for (size, policy, page) in [
        (MIB, HUGE_FIRST, 4096),
        (MIB + 1, HUGE_FIRST, 2 << 20),
        (100, HUGE_ONLY, 2 << 20),
        (4 * MIB, NORMAL_ONLY, 4096),
    ] {
        let at = malloc(size, policy).unwrap();
        let found = attributes(at).unwrap();
        assert_eq!(
            (found.location.kind, found.location.id, found.page),
            (1, 0, page),
            "{size} bytes, policy {policy}"
        );
        assert_eq!(at % page as usize, 0);
        let (mut base, mut len) = (0, 0);
        assert_eq!(sim_aclrtMemGetAddressRange(at + 50, Out::from(&mut base), Out::from(&mut len)), OK);
        assert_eq!((base, len), (at, size));
        assert_eq!(free(at), OK);
        assert_eq!(attributes(at), Err(107_000));
    }
}

#[test]
fn an_a2_adds_32_bytes_so_that_two_mebibytes_take_two_huge_pages() {
    on(8);
    let before = room();
    let at = malloc(2 * MIB, HUGE_ONLY).unwrap();
    assert_eq!(before.0 - room().0, 4 * MIB);
    assert_eq!(free(at), OK);
    assert_eq!(room(), before);
    assert_eq!(before.1, 1 << 30);
}

#[test]
fn a_device_that_is_full_says_memory_allocation() {
    on(2);
    let all = malloc((1 << 30) - MIB, HUGE_ONLY).unwrap();
    assert_eq!(malloc(4 * MIB, HUGE_FIRST), Err(207_001));
    assert!(text().unwrap().contains("no room"));
    assert_eq!(free(all), OK);
    assert_eq!(free(malloc(4 * MIB, HUGE_FIRST).unwrap()), OK);
}

#[test]
fn freeing_null_or_twice_or_in_the_middle_is_an_error() {
    on(0);
    let at = malloc(4096, NORMAL_ONLY).unwrap();
    assert_eq!(free(0), 100_000);
    assert_eq!(free(at + 64), 107_000);
    assert_eq!(free(at), OK);
    assert_eq!(free(at), 107_000);
    assert_eq!(malloc(0, HUGE_FIRST), Err(100_000));
    assert_eq!(malloc(64, 9), Err(107_018));
}

#[test]
fn attributes_of_ordinary_host_memory_fail_and_of_pinned_say_host() {
    on(0);
    let plain = [0_u8; 64];
    assert_eq!(attributes(plain.as_ptr() as usize), Err(107_000));
    let at = pinned(100);
    assert_eq!((attributes(at + 99).unwrap().location.kind, at % 64), (0, 0));
    assert_eq!(free_host(at), OK);
    assert_eq!(free_host(at), 107_000);
    assert_eq!(attributes(at), Err(107_000));
    let _script = script("unregistered count=1");
    assert_eq!(
        attributes(plain.as_ptr() as usize).unwrap().location.kind,
        2,
        "some drivers say UNREGISTERED"
    );
}

#[test]
fn host_memory_is_registered_once_at_whole_pages_and_unregistered_once() {
    on(0);
    let raw = vec![0_u8; 3 * 4096];
    let at = (raw.as_ptr() as usize).next_multiple_of(4096);
    assert_eq!(register(at + 64, 4096).0, 107_008);
    let (code, view) = register(at, 4096);
    assert_eq!(code, OK);
    assert_eq!(register(at, 4096).0, 507_910);
    assert_eq!(attributes(at).unwrap().location.kind, 0);
    let mut same = 0;
    assert_eq!(sim_aclrtHostGetDevicePointer(at + 8, Out::from(&mut same), 0), OK);
    assert_eq!(same, view + 8);
    let mut byte = 0_u8;
    assert_eq!(
        memcpy(&raw mut byte as usize, 1, view, 1, D2H),
        107_000,
        "the device's view is no copy operand"
    );
    assert_eq!(sim_aclrtHostUnregister(at), OK);
    assert_eq!(sim_aclrtHostUnregister(at), 507_911);
    assert_eq!(sim_aclrtHostGetDevicePointer(at, Out::from(&mut same), 0), 507_911);
    assert_eq!(register(at, 4096).0, OK);
    assert_eq!(sim_aclrtHostUnregister(at), OK);
}

#[test]
fn memory_that_is_not_mapped_cannot_be_registered() {
    on(0);
    assert_eq!(register(1 << 20, 4096).0, 107_000);
    let at = malloc(4096, NORMAL_ONLY).unwrap();
    assert_eq!(register(at, 4096).0, 107_000, "device memory is no host memory");
    assert_eq!(free(at), OK);
}
