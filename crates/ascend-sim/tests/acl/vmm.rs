use ascend_sim::acl::Location;
use ascend_sim::acl::ipc::sim_aclrtIpcMemGetExportKey;
use ascend_sim::acl::memory::{Attributes, sim_aclrtPointerGetAttributes};
use ascend_sim::acl::share::*;
use ascend_sim::acl::vmm::*;
use ascend_sim::ffi::{In, Out};

use crate::rig::*;

const PAGE: usize = 2 * MIB;

fn property(device: u32) -> Property {
    Property { attribute: 4, location: Location { id: device, kind: 1 }, ..Property::default() }
}

fn physical(size: usize) -> usize {
    let mut handle = 0;
    assert_eq!(sim_aclrtMallocPhysical(Out::from(&mut handle), size, In::from(&property(0)), 0), OK);
    handle
}

fn reserve(size: usize) -> usize {
    let mut at = 0;
    assert_eq!(sim_aclrtReserveMemAddress(Out::from(&mut at), size, 0, 0, 1), OK);
    at
}

#[test]
fn memory_is_reserved_mapped_used_unmapped_and_released_in_order() {
    on(0);
    let mut granularity = 0;
    assert_eq!(
        sim_aclrtMemGetAllocationGranularity(In::from(&property(0)), 1, Out::from(&mut granularity)),
        OK
    );
    assert_eq!(granularity, PAGE);
    let mut handle = 0;
    assert_eq!(sim_aclrtMallocPhysical(Out::from(&mut handle), PAGE + 1, In::from(&property(0)), 0), 107_000);
    let (at, one, two) = (reserve(2 * PAGE), physical(PAGE), physical(PAGE));
    assert_eq!(memcpy(at, 8, [0_u8; 8].as_ptr() as usize, 8, H2D), 107_000, "reserved is not mapped");
    assert_eq!(sim_aclrtMapMem(at, PAGE, 64, one, 0), 107_000, "offset 0 only");
    assert_eq!(sim_aclrtMapMem(at, 2 * PAGE, 0, one, 0), 107_000, "a handle is mapped whole");
    assert_eq!(sim_aclrtMapMem(at + PAGE, PAGE, 0, one, 0), OK);
    assert_eq!(memcpy(at + PAGE - 8, 16, [0_u8; 16].as_ptr() as usize, 16, H2D), 107_000, "begins before it");
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, two, 0), OK);
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, two, 0), 107_000);
    let bytes: Vec<u8> = (0..128).collect();
    put_bytes(at + PAGE - 64, &bytes);
    assert_eq!(get_bytes(at + PAGE - 64, 128), bytes, "across two handles");
    assert_eq!(sim_aclrtReleaseMemAddress(at), 207_002, "something is mapped");
    assert_eq!(sim_aclrtUnmapMem(at), OK);
    assert_eq!(sim_aclrtUnmapMem(at), 107_000);
    assert_eq!(memcpy(at, 8, [0_u8; 8].as_ptr() as usize, 8, H2D), 107_000, "as in sleep mode");
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, two, 0), OK);
    assert_eq!(get_bytes(at + PAGE - 64, 64), bytes[..64], "the handle kept its bytes");
    assert_eq!((sim_aclrtUnmapMem(at), sim_aclrtUnmapMem(at + PAGE)), (OK, OK));
    assert_eq!((sim_aclrtFreePhysical(one), sim_aclrtFreePhysical(two)), (OK, OK));
    assert_eq!(sim_aclrtFreePhysical(two), 107_017);
    assert_eq!((sim_aclrtReleaseMemAddress(at), sim_aclrtReleaseMemAddress(at)), (OK, 107_000));
}

#[test]
fn mapped_memory_is_device_memory_in_huge_pages_and_has_no_ipc_key() {
    on(0);
    let (at, handle) = (reserve(PAGE), physical(PAGE));
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, handle, 0), OK);
    let mut attributes = Attributes::default();
    assert_eq!(sim_aclrtPointerGetAttributes(at, Out::from(&mut attributes)), OK);
    assert_eq!((attributes.location.kind, attributes.page as usize), (1, PAGE));
    let mut key = [0; 65];
    assert_eq!(sim_aclrtIpcMemGetExportKey(at, PAGE, Out::from(&mut key[..]), 65, 1), 207_000);
    let mut same = 0;
    assert_eq!(sim_aclrtMemRetainAllocationHandle(at, Out::from(&mut same)), OK);
    assert_eq!(same, handle);
    assert_eq!(
        (sim_aclrtFreePhysical(handle), sim_aclrtFreePhysical(handle)),
        (OK, OK),
        "retained once more"
    );
    let plain = malloc(64, HUGE_ONLY).unwrap();
    assert_eq!(sim_aclrtMemRetainAllocationHandle(plain, Out::from(&mut same)), 107_000);
    assert_eq!((sim_aclrtUnmapMem(at), sim_aclrtReleaseMemAddress(at), free(plain)), (OK, OK, OK));
}

#[test]
fn another_device_reaches_a_mapping_after_set_access() {
    on(0);
    let (at, handle) = (reserve(PAGE), physical(PAGE));
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, handle, 0), OK);
    on(1);
    assert_eq!(memcpy(at, 8, [1_u8; 8].as_ptr() as usize, 8, H2D), 207_006);
    let access = Access { flags: 3, location: Location { id: 1, kind: 1 }, ..Access::default() };
    assert_eq!(sim_aclrtMemSetAccess(at, PAGE, In::from(&access), 1), OK);
    put_bytes(at, &[1; 8]);
    let mut flag = 9;
    assert_eq!(
        (sim_aclrtMemGetAccess(at, In::from(&Location { id: 2, kind: 1 }), Out::from(&mut flag)), flag),
        (OK, 0)
    );
    on(0);
    assert_eq!(get_bytes(at, 8), [1; 8]);
    assert_eq!(
        (sim_aclrtUnmapMem(at), sim_aclrtFreePhysical(handle), sim_aclrtReleaseMemAddress(at)),
        (OK, OK, OK)
    );
}

#[test]
fn a_child_imports_a_shareable_handle() {
    let Some(mut hear) = as_child("vmm::a_child_imports_a_shareable_handle") else { return };
    on(0);
    let shareable: u64 = hear.next().unwrap().unwrap().parse().unwrap();
    let mut handle = 0;
    tell(sim_aclrtMemImportFromShareableHandle(shareable, 0, Out::from(&mut handle)));
    hear.next();
    tell(sim_aclrtMemImportFromShareableHandle(shareable, 0, Out::from(&mut handle)));
    let at = reserve(PAGE);
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, handle, 0), OK);
    tell(get_bytes(at, 1)[0]);
    put_bytes(at + 1, &[22]);
    tell("written");
}

#[test]
fn a_shareable_handle_is_exported_once_and_imported_by_a_process_on_its_list() {
    on(0);
    let (at, handle) = (reserve(PAGE), physical(PAGE));
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, handle, 0), OK);
    put_bytes(at, &[11]);
    let mut shareable = 0;
    assert_eq!(sim_aclrtMemExportToShareableHandle(handle, 0, 0, Out::from(&mut shareable)), OK);
    assert_eq!(sim_aclrtMemExportToShareableHandle(handle, 0, 0, Out::from(&mut shareable)), 107_000);
    let mut again = 0;
    assert_eq!(
        sim_aclrtMemImportFromShareableHandle(shareable, 0, Out::from(&mut again)),
        107_000,
        "not here"
    );
    let mut blob = Blob::default();
    assert_eq!(
        sim_aclrtMemExportToShareableHandleV2(handle, 0, 2, Out::from(&mut blob)),
        207_000,
        "no fabric on an A2"
    );
    let mut other = Other::start("vmm::a_child_imports_a_shareable_handle");
    other.say(&shareable.to_string());
    assert_eq!(other.hear(), "207006");
    assert_eq!(sim_aclrtMemSetPidToShareableHandle(shareable, In::from(&other.pid()), 1), OK);
    other.say("again");
    assert_eq!((other.hear(), other.hear(), other.hear()), ("0".into(), "11".into(), "written".into()));
    assert_eq!(get_bytes(at, 2), [11, 22]);
    drop(other);
    assert_eq!(
        (sim_aclrtUnmapMem(at), sim_aclrtFreePhysical(handle), sim_aclrtReleaseMemAddress(at)),
        (OK, OK, OK)
    );
}
