//! Virtual memory, as torch_npu's expandable segments make it, and what sleep mode does to it; on the software CANN.

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;

use ascend_sys::acl;
use common::{npu, pattern, simulator};
use ropeway_ascend::hbm::{Allocation, HUGE_PAGE};
use ropeway_ascend::{HbmMemory, Npu, Work};
use ropeway_core::ErrorKind;

/// An address range with physical memory behind it, or without.
#[derive(Clone, Copy)]
struct Segment {
    address: usize,
    bytes: usize,
    physical: usize,
}

impl Segment {
    fn reserve(npu: &Npu, bytes: usize) -> Self {
        let vmm = npu.device().acl().vmm.unwrap();
        let address = on_device(npu, move || {
            let mut address: *mut c_void = null_mut();
            // SAFETY: writes one pointer to a local.
            let code = unsafe { (vmm.aclrtReserveMemAddress)(&mut address, bytes, 0, null_mut(), 1) };
            assert_eq!(code, 0);
            address as usize
        });
        Self { address, bytes, physical: 0 }
    }

    /// What waking up does.
    fn back(&mut self, npu: &Npu) {
        let vmm = npu.device().acl().vmm.unwrap();
        let Self { address, bytes, .. } = *self;
        let device = npu.device().user_id();
        self.physical = on_device(npu, move || {
            // SAFETY: plain integers, for which all zeros is a value.
            let mut prop: acl::aclrtPhysicalMemProp = unsafe { std::mem::zeroed() };
            prop.memAttr = acl::ACL_HBM_MEM_HUGE;
            prop.location = acl::aclrtMemLocation { id: device, type_: acl::ACL_MEM_LOCATION_TYPE_DEVICE };
            let mut handle: acl::aclrtDrvMemHandle = null_mut();
            // SAFETY: reads a local, writes one pointer to a local.
            let code = unsafe { (vmm.aclrtMallocPhysical)(&mut handle, bytes, &prop, 0) };
            assert_eq!(code, 0);
            // SAFETY: a reserved range and a handle of the same length.
            let code = unsafe { (vmm.aclrtMapMem)(address as *mut c_void, bytes, 0, handle, 0) };
            assert_eq!(code, 0);
            // SAFETY: plain integers, for which all zeros is a value.
            let mut access: acl::aclrtMemAccessDesc = unsafe { std::mem::zeroed() };
            access.flags = acl::ACL_RT_MEM_ACCESS_FLAGS_READWRITE;
            access.location = prop.location;
            // SAFETY: a mapped range; reads a local.
            let code = unsafe { (vmm.aclrtMemSetAccess)(address as *mut c_void, bytes, &mut access, 1) };
            assert_eq!(code, 0);
            handle as usize
        });
    }

    /// What falling asleep does.
    fn gone(&mut self, npu: &Npu) {
        let vmm = npu.device().acl().vmm.unwrap();
        let Self { address, physical, .. } = *self;
        on_device(npu, move || {
            // SAFETY: mapped by `back`.
            let code = unsafe { (vmm.aclrtUnmapMem)(address as *mut c_void) };
            assert_eq!(code, 0);
            // SAFETY: from `back`, not mapped any more.
            let code = unsafe { (vmm.aclrtFreePhysical)(physical as acl::aclrtDrvMemHandle) };
            assert_eq!(code, 0);
        });
    }
}

fn on_device<R: Send + 'static>(npu: &Npu, job: impl FnOnce() -> R + Send + 'static) -> R {
    npu.device().call(Work::Slow, "test", move |_| job()).unwrap()
}

#[test]
fn virtual_memory_suits_hccs_and_is_refused_to_ipc_with_the_mend() {
    let Some(simulator) = simulator("virtual memory") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let mut segment = Segment::reserve(&npu, 4 << 20);
    segment.back(&npu);
    // SAFETY: mapped until the memory is dropped.
    let memory = unsafe { npu.register(segment.address as u64 + 64, 1 << 20, Box::new(())) }.unwrap();
    let hbm = HbmMemory::of(&memory).unwrap();
    assert_eq!((hbm.found().allocation, hbm.found().page), (Allocation::Virtual, Some(HUGE_PAGE)));
    hbm.check_hccs().unwrap();
    let error = hbm.check_ipc().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("expandable_segments:False"), "{error}");
    let bytes = pattern(1 << 20, 4);
    memory.write(0, &bytes).unwrap();
    let mut back = vec![0; 1 << 20];
    memory.read(0, &mut back).unwrap();
    assert!(back == bytes);
    drop(memory);
    segment.gone(&npu);
}

#[test]
fn asking_what_memory_is_leaves_no_reference_to_it() {
    let Some(simulator) = simulator("no reference") else { return };
    let _alone = simulator.alone();
    let npu = npu(simulator, 3);
    let info = npu.device().acl().memory_info.unwrap();
    let free = || {
        on_device(&npu, move || {
            let (mut free, mut total) = (0, 0);
            // SAFETY: writes two integers to locals.
            let code = unsafe { (info.aclrtGetMemInfo)(acl::ACL_HBM_MEM, &mut free, &mut total) };
            assert_eq!(code, 0);
            free
        })
    };
    let before = free();
    let mut segment = Segment::reserve(&npu, 4 << 20);
    segment.back(&npu);
    // SAFETY: mapped until the memory is dropped.
    let memory = unsafe { npu.register(segment.address as u64, 4 << 20, Box::new(())) }.unwrap();
    drop(memory);
    segment.gone(&npu);
    assert_eq!(free(), before, "the physical memory is still held");
}

#[test]
fn memory_that_sleep_mode_took_away_can_be_used_again_when_it_is_back() {
    let Some(simulator) = simulator("sleep mode") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let mut segment = Segment::reserve(&npu, 2 << 20);
    segment.back(&npu);
    // SAFETY: mapped until the memory is dropped, but while it is suspended.
    let memory = unsafe { npu.register(segment.address as u64, 2 << 20, Box::new(())) }.unwrap();
    npu.suspend(&memory).unwrap();
    segment.gone(&npu);
    let error = memory.write(0, b"asleep").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = npu.resume(&memory).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(HbmMemory::of(&memory).unwrap().is_suspended(), "it is not back, so it stays suspended");
    segment.back(&npu);
    npu.resume(&memory).unwrap();
    memory.write(0, b"awake").unwrap();
    let mut back = [0; 5];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"awake");
    drop(memory);
    segment.gone(&npu);
}
