//! Which memory a link takes: pages of each size, and virtual memory as torch_npu's expandable segments are.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use ascend_sys::acl;
use ropeway_ascend::{Bound, HbmMemory, Work};
use ropeway_core::Op;
use ropeway_transport::{Memory, Role};
use serde::Serialize;
use serde_json::Value;

use super::side::{PATIENCE, Side, address, pieces, prepare, wait};
use super::target::Target;
use crate::Failure;
use crate::cli::Experiment;

/// Of each kind.
const BYTES: u64 = 4 << 20;

#[derive(Serialize)]
struct Kind {
    kind: &'static str,
    allocation: String,
    page_bytes: Option<u64>,
    hccs: String,
    ipc: String,
    /// Whether a WRITE from it arrived in the peer's memory.
    moved: String,
}

pub(super) fn run(side: &Side, options: &Experiment) -> Result<(String, Value), Failure> {
    let mut kinds = Vec::new();
    for (name, make) in [
        ("aclrtMalloc, huge pages only", plain as fn(&Side) -> Result<Arc<Memory>, Failure>),
        ("aclrtMalloc, 256 KiB, huge pages first", small),
        ("virtual memory, huge pages", virtual_memory),
    ] {
        let memory = match make(side) {
            Ok(memory) => memory,
            Err(error) => {
                kinds.push(failed(name, &error));
                continue;
            }
        };
        let moved =
            moves(side, options, &memory).map_or_else(|error| error.to_string(), |()| "yes".to_owned());
        let Some(hbm) = HbmMemory::of(&memory) else { continue };
        let word = |result: ropeway::Result<()>| {
            result.map_or_else(|error| error.to_string(), |()| "yes".to_owned())
        };
        kinds.push(Kind {
            kind: name,
            allocation: format!("{:?}", hbm.found().allocation),
            page_bytes: hbm.found().page,
            hccs: word(hbm.check_hccs()),
            ipc: word(hbm.check_ipc().map(drop)),
            moved,
        });
        // A link may still hold it.
        std::mem::forget(memory);
    }
    let answer =
        kinds.iter().map(|kind| format!("{}: {}", kind.kind, kind.moved)).collect::<Vec<_>>().join("; ");
    Ok((format!("moved by this way: {answer}"), serde_json::to_value(&kinds)?))
}

fn failed(kind: &'static str, error: &Failure) -> Kind {
    let text = error.to_string();
    Kind {
        kind,
        allocation: text.clone(),
        page_bytes: None,
        hccs: text.clone(),
        ipc: text.clone(),
        moved: text,
    }
}

fn plain(side: &Side) -> Result<Arc<Memory>, Failure> {
    Ok(side.npu.alloc(BYTES)?)
}

/// Not more than a mebibyte: huge pages are not taken for it.
fn small(side: &Side) -> Result<Arc<Memory>, Failure> {
    const SMALL: u64 = 256 << 10;
    let address = side.npu.device().call(Work::Slow, "allocate", |on| {
        let mut pointer: *mut c_void = null_mut();
        // SAFETY: writes one pointer to a local; the thread has the device's context.
        let code =
            unsafe { (on.acl().aclrtMalloc)(&mut pointer, SMALL as usize, acl::ACL_MEM_MALLOC_HUGE_FIRST) };
        (code, pointer as u64)
    })?;
    register(side, address, SMALL)
}

fn virtual_memory(side: &Side) -> Result<Arc<Memory>, Failure> {
    let made = side.npu.device().call(Work::Slow, "allocate virtual memory", map)?;
    register(side, made, BYTES)
}

/// Takes what was allocated raw, for the life of this process.
fn register(side: &Side, (code, address): (i32, u64), bytes: u64) -> Result<Arc<Memory>, Failure> {
    if code != 0 {
        return Err(format!("the runtime refuses with {code}").into());
    }
    // SAFETY: allocated just now and never freed: it stays mapped until the process ends.
    Ok(unsafe { side.npu.register(address, bytes, Box::new(())) }?)
}

/// Reserves addresses, and maps physical memory of the device there.
fn map(on: &Bound<'_>) -> (i32, u64) {
    let Some(vmm) = &on.acl().vmm else { return (-1, 0) };
    let location =
        acl::aclrtMemLocation { id: on.user_id().cast_unsigned(), type_: acl::ACL_MEM_LOCATION_TYPE_DEVICE };
    let property = acl::aclrtPhysicalMemProp {
        handleType: acl::ACL_MEM_HANDLE_TYPE_NONE,
        allocationType: acl::ACL_MEM_ALLOCATION_TYPE_PINNED,
        memAttr: acl::ACL_HBM_MEM_HUGE,
        location,
        reserve: 0,
    };
    let (mut at, mut handle) = (null_mut(), null_mut());
    let bytes = BYTES as usize;
    // SAFETY: writes one pointer to a local.
    let reserved = unsafe { (vmm.aclrtReserveMemAddress)(&mut at, bytes, 0, null_mut(), 1) };
    if reserved != 0 {
        return (reserved, 0);
    }
    // SAFETY: writes one handle to a local; the property is only read.
    let made = unsafe { (vmm.aclrtMallocPhysical)(&mut handle, bytes, &property, 0) };
    if made != 0 {
        return (made, 0);
    }
    // SAFETY: the range was reserved just now, with the size of the physical memory.
    let mapped = unsafe { (vmm.aclrtMapMem)(at, bytes, 0, handle, 0) };
    (mapped, at as u64)
}

/// Writes from `memory` into the other process's, and waits.
fn moves(side: &Side, options: &Experiment, memory: &Arc<Memory>) -> Result<(), Failure> {
    let mut target = Target::start(options)?;
    let far = target.region(side, memory.len(), 0)?;
    let mut mover = side.mover(&target.offer, Role::Active)?;
    let (_, base) = prepare(&mut *mover, memory, &far)?;
    let descs = pieces(address(memory), base, memory.len(), memory.len());
    let request = mover.post(Op::Write, &descs).map_err(|error| format!("refused: {error:?}"))?;
    let polled = wait(&mut *mover, request, PATIENCE);
    // The next target may have the same address.
    mover.disconnect(PATIENCE);
    match polled {
        ropeway_ascend::link::Polled::Done => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}
