//! Memory of devices and pinned memory, on the software CANN.

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use ascend_sys::acl;
use common::{WAIT, eventually, npu, pattern, simulator};
use ropeway_ascend::hbm::{Allocation, HUGE_PAGE};
use ropeway_ascend::staging::{Piece, STAGE};
use ropeway_ascend::{HbmMemory, Npu, Work};
use ropeway_core::{ErrorKind, Op, Retry};
use ropeway_transport::Memory;
use ropeway_transport::memory::Place;

/// Device memory made by someone else, as torch_npu does.
fn malloc(npu: &Npu, bytes: usize, policy: acl::aclrtMemMallocPolicy) -> u64 {
    let made = npu.device().call(Work::Slow, "test", move |on| {
        let mut raw: *mut c_void = null_mut();
        // SAFETY: writes one pointer to a local.
        let code = unsafe { (on.acl().aclrtMalloc)(&mut raw, bytes, policy) };
        (code, raw as u64)
    });
    let (code, address) = made.unwrap();
    assert_eq!(code, 0);
    address
}

fn free(npu: &Npu, address: u64) {
    npu.device()
        .call(Work::Slow, "test", move |on| {
            // SAFETY: from `malloc` of this test, which uses it no more.
            let code = unsafe { (on.acl().aclrtFree)(address as *mut c_void) };
            assert_eq!(code, 0);
        })
        .unwrap();
}

fn free_bytes(npu: &Npu) -> usize {
    let info = npu.device().acl().memory_info.unwrap();
    npu.device()
        .call(Work::Slow, "test", move |_| {
            let (mut free, mut total) = (0, 0);
            // SAFETY: writes two integers to locals.
            let code = unsafe { (info.aclrtGetMemInfo)(acl::ACL_HBM_MEM, &mut free, &mut total) };
            assert_eq!(code, 0);
            free
        })
        .unwrap()
}

#[test]
fn bytes_go_into_device_memory_and_out_again() {
    let Some(simulator) = simulator("in and out") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let memory = npu.alloc(9 << 20).unwrap();
    assert_eq!(memory.place(), Place::Device(0));
    assert_eq!(memory.len(), 9 << 20);
    assert!(memory.range(0, 1).is_none(), "the host has no pointer to it");
    // Larger than the pinned piece, and not aligned to anything.
    let bytes = pattern(5_000_001, 3);
    memory.fill(0, 9 << 20, 0xee).unwrap();
    memory.write(77, &bytes).unwrap();
    let mut back = vec![0; bytes.len() + 2];
    memory.read(76, &mut back).unwrap();
    assert_eq!((back[0], back[back.len() - 1]), (0xee, 0xee));
    assert!(back[1..=bytes.len()] == bytes[..], "what was read is not what was written");
    let error = memory.read((9 << 20) - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds);
}

#[test]
fn memory_allocated_here_suits_every_link() {
    let Some(simulator) = simulator("suits") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let memory = npu.alloc(4096).unwrap();
    let hbm = HbmMemory::of(&memory).unwrap();
    assert_eq!((hbm.found().allocation, hbm.found().page), (Allocation::Plain, Some(HUGE_PAGE)));
    hbm.check_hccs().unwrap();
    assert_eq!(hbm.check_ipc().unwrap(), (hbm.begin(), HUGE_PAGE));
    assert_eq!(hbm.begin() % HUGE_PAGE, 0);
}

#[test]
fn device_memory_is_given_back_after_its_last_holder() {
    let Some(simulator) = simulator("given back") else { return };
    let _alone = simulator.alone();
    let npu = npu(simulator, 3);
    let before = free_bytes(&npu);
    let memory = npu.alloc(64 << 20).unwrap();
    assert!(free_bytes(&npu) <= before - (64 << 20));
    let holder = memory.clone();
    drop(memory);
    holder.write(0, &[1]).unwrap();
    drop(holder);
    eventually("the memory is free again", || free_bytes(&npu) == before);
}

#[test]
fn a_device_without_room_says_so_and_works_on() {
    let Some(simulator) = simulator("no room") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 0);
    alone.faults("alloc_fail count=1");
    let error = npu.alloc(1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resource);
    assert!(error.native().is_some_and(|code| code >= 200_000), "{error:?}");
    assert!(error.message().contains("2097152 bytes on device 0"), "{error}");
    npu.alloc(1 << 20).unwrap();
    assert_eq!(npu.alloc(0).unwrap_err().kind(), ErrorKind::ApiMisuse);
}

#[test]
fn foreign_memory_with_small_pages_is_refused_to_hccs_with_the_mend() {
    let Some(simulator) = simulator("small pages") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let address = malloc(&npu, 1 << 20, acl::ACL_MEM_MALLOC_NORMAL_ONLY);
    // SAFETY: freed below, after the memory and its janitor have let go.
    let memory = unsafe { npu.register(address, 1 << 20, Box::new(())) }.unwrap();
    let hbm = HbmMemory::of(&memory).unwrap();
    assert_eq!(hbm.found().page, Some(4096));
    let error = hbm.check_hccs().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("HUGE_ONLY"), "{error}");
    memory.write(10, b"works all the same").unwrap();
    drop(memory);
    free(&npu, address);
}

#[test]
fn foreign_memory_in_the_middle_of_an_allocation_is_exported_in_whole_pages() {
    let Some(simulator) = simulator("whole pages") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let address = malloc(&npu, 8 << 20, acl::ACL_MEM_MALLOC_HUGE_FIRST);
    // SAFETY: freed below, after the memory has let go.
    let memory = unsafe { npu.register(address + (3 << 20), 100, Box::new(())) }.unwrap();
    let hbm = HbmMemory::of(&memory).unwrap();
    assert_eq!(hbm.found().allocation, Allocation::Plain);
    hbm.check_hccs().unwrap();
    let (base, len) = hbm.check_ipc().unwrap();
    assert_eq!((base % HUGE_PAGE, len), (0, HUGE_PAGE));
    assert!(base <= address + (3 << 20) && address + (3 << 20) + 100 <= base + len);
    drop(memory);
    free(&npu, address);
}

#[test]
fn host_memory_and_other_devices_memory_are_refused_by_name() {
    let Some(simulator) = simulator("wrong memory") else { return };
    let _shared = simulator.shared();
    let (npu0, npu1) = (npu(simulator, 0), npu(simulator, 1));
    let bytes = vec![0_u8; 4096];
    let dropped = Arc::new(());
    // SAFETY: refused; nothing is kept.
    let error = unsafe { npu0.register(bytes.as_ptr() as u64, 4096, Box::new(dropped.clone())) }.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ApiMisuse), "{error:?}");
    eventually("the keep-alive is let go", || Arc::strong_count(&dropped) == 1);
    let theirs = npu1.alloc(4096).unwrap();
    let begin = HbmMemory::of(&theirs).unwrap().begin();
    // SAFETY: refused; nothing is kept.
    let error = unsafe { npu0.register(begin, 4096, Box::new(())) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
    assert!(error.message().contains("device 1"), "{error}");
    // SAFETY: refused; nothing is kept.
    let error = unsafe { npu0.register(0, 4096, Box::new(())) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
}

#[test]
fn memory_asleep_refuses_the_host_until_it_is_back() {
    let Some(simulator) = simulator("asleep") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let memory = npu.alloc(4096).unwrap();
    memory.write(0, b"before").unwrap();
    npu.suspend(&memory).unwrap();
    let hbm = HbmMemory::of(&memory).unwrap();
    for error in [
        memory.write(0, b"during").unwrap_err(),
        memory.read(0, &mut [0; 6]).unwrap_err(),
        memory.fill(0, 6, 1).unwrap_err(),
        hbm.check_hccs().unwrap_err(),
        hbm.check_ipc().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    npu.resume(&memory).unwrap();
    let mut back = [0; 6];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"before");
    let host = npu.alloc_pinned(4096).unwrap();
    assert_eq!(npu.suspend(&host).unwrap_err().kind(), ErrorKind::ApiMisuse);
}

#[test]
fn pinned_memory_is_host_memory_that_the_device_knows() {
    let Some(simulator) = simulator("pinned") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let memory = npu.alloc_pinned(10_000).unwrap();
    assert_eq!(memory.place(), Place::Host);
    memory.write(5, b"bytes").unwrap();
    let address = memory.base().unwrap().addr().get();
    assert!(npu.device().is_pinned(address, 10_000));
    assert!(npu.device().is_pinned(address + 9_999, 1));
    assert!(!npu.device().is_pinned(address + 1, 10_000));
    assert!(!npu.device().is_pinned(1, 1));
    drop(memory);
    eventually("it is forgotten", || !npu.device().is_pinned(address, 1));
}

#[test]
fn copies_larger_than_the_buffers_bring_every_byte_there_and_back() {
    let Some(simulator) = simulator("copies") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (rows, row) = (3000_u64, 10_037_u64);
    let hbm = npu.alloc(rows * 12_000).unwrap();
    // Not pinned, so that every byte goes through the buffers.
    let janitor = npu.janitor();
    let host = Memory::owner(pattern((rows * row) as usize, 9), janitor).unwrap();
    // Rows of odd length, together on the host and apart on the device.
    let pieces: Vec<Piece> =
        (0..rows).map(|at| Piece { host: at * row, device: at * 12_000, len: row }).collect();
    assert!(rows * row > 3 * STAGE, "each buffer is used more than once");
    hbm.fill(0, rows * 12_000, 0xee).unwrap();
    npu.copy(Op::Write, &host, &hbm, pieces.clone(), WAIT).unwrap();
    let bytes = pattern((rows * row) as usize, 9);
    let mut back = vec![0; row as usize + 1];
    for at in [0, 1, 1500, rows - 1] {
        hbm.read(at * 12_000, &mut back).unwrap();
        let start = (at * row) as usize;
        assert!(back[..row as usize] == bytes[start..start + row as usize], "row {at} differs");
        assert_eq!(back[row as usize], 0xee, "row {at} is too long");
    }
    host.fill(0, rows * row, 0).unwrap();
    npu.copy(Op::Read, &host, &hbm, pieces, WAIT).unwrap();
    let mut all = vec![0; bytes.len()];
    host.read(0, &mut all).unwrap();
    assert!(all == bytes, "what came back is not what went");
}

#[test]
fn a_copy_that_cannot_be_right_is_refused_before_anything_moves() {
    let Some(simulator) = simulator("refused copies") else { return };
    let _shared = simulator.shared();
    let (npu0, npu1) = (npu(simulator, 0), npu(simulator, 1));
    let (hbm, host) = (npu0.alloc(4096).unwrap(), npu0.alloc_pinned(4096).unwrap());
    hbm.fill(0, 4096, 0).unwrap();
    host.fill(0, 4096, 1).unwrap();
    let good = Piece { host: 0, device: 0, len: 4096 };
    let copy = |npu: &Arc<Npu>, host, device, piece| {
        npu.copy(Op::Write, host, device, vec![good, piece], WAIT).unwrap_err().kind()
    };
    let past = [
        Piece { host: 4000, device: 0, len: 97 },
        Piece { host: 0, device: 4000, len: 97 },
        Piece { host: u64::MAX, device: 0, len: 97 },
        Piece { host: 0, device: u64::MAX, len: 97 },
    ];
    for piece in past {
        assert_eq!(copy(&npu0, &host, &hbm, piece), ErrorKind::OutOfBounds, "{piece:?}");
    }
    assert_eq!(copy(&npu1, &host, &hbm, good), ErrorKind::ApiMisuse);
    assert_eq!(copy(&npu0, &host, &host, good), ErrorKind::ApiMisuse);
    npu0.suspend(&hbm).unwrap();
    assert_eq!(copy(&npu0, &host, &hbm, good), ErrorKind::Closed);
    npu0.resume(&hbm).unwrap();
    let mut bytes = [9; 4096];
    hbm.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
}

#[test]
fn a_faulty_or_lost_device_gives_its_own_error() {
    let Some(simulator) = simulator("ecc") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 1);
    let memory = npu.alloc(4096).unwrap();
    memory.write(0, b"good").unwrap();
    for (script, code, name) in [
        ("ecc device=1 count=1", 507_054, "HBM_MULTI_BIT_ECC_ERROR"),
        ("device_lost device=1", 507_010, "LOST_HEARTBEAT"),
    ] {
        alone.faults(script);
        let error = memory.read(0, &mut [0; 4]).unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.native()),
            (ErrorKind::Resource, Retry::Never, Some(code))
        );
        assert!(error.message().contains(name), "{error}");
    }
}
