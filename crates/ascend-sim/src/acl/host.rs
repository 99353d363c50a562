//! Host memory: pinned, and registered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out};
use crate::hbm::{Kind, Page, Range};
use crate::runtime::runtime;

/// Host memory that a device may reach.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    len: u64,
    /// From `aclrtMallocHost`, or registered.
    allocated: bool,
    /// The device's view of it.
    view: Option<u64>,
    /// Registered by flags that map it.
    mapped: bool,
}

static PINNED: Mutex<BTreeMap<u64, Pinned>> = Mutex::new(BTreeMap::new());

fn pinned() -> MutexGuard<'static, BTreeMap<u64, Pinned>> {
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a range is pinned or registered as a whole.
#[must_use]
pub fn is_pinned(at: u64, len: u64) -> bool {
    let pinned = pinned();
    let before = pinned.range(..=at).next_back();
    before.is_some_and(|(start, range)| at - start <= range.len && range.len - (at - start) >= len)
}

fn allocate(out: Out<usize>, size: u64) -> Done {
    out.check()?;
    let (context, runtime) = context::usable("aclrtMallocHost")?;
    ensure(size > 0, code::INVALID_PARAM, || "size 0".to_owned())?;
    let site = crate::fault::Site { op: "aclrtMallocHost", device: Some(context.key.physical), remote: None };
    let failed =
        || Fail::new(code::RT_MEMORY_ALLOCATION, format!("no room for {size} bytes of pinned host memory"));
    if runtime.faults.hit("alloc_fail", site).is_some() {
        return Err(failed());
    }
    let bytes = size.checked_next_multiple_of(Page::Normal.bytes()).ok_or_else(failed)?;
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new map wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, rights, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(failed());
    }
    pinned().insert(at as u64, Pinned { len: bytes, allocated: true, view: None, mapped: false });
    out.set(at as usize)
}

/// Adds a registration; the device's view is reserved, and no copy may name it.
fn register(at: u64, size: u64, mapped: bool) -> Done<Option<u64>> {
    let (context, runtime) = context::usable("aclrtHostRegister")?;
    ensure(at != 0 && size > 0, code::RT_PARAM_INVALID, || format!("{size} bytes at {at:#x}"))?;
    ensure(at.is_multiple_of(4096), code::RT_ADDR_UNALIGNED, || format!("{at:#x} is not at a 4 KiB page"))?;
    ensure(!runtime.hbm.is_device_address(at), code::RT_PARAM_INVALID, || {
        format!("{at:#x} is device memory")
    })?;
    ensure(is_mapped(at, size), code::RT_PARAM_INVALID, || {
        format!("{size} bytes at {at:#x} are not mapped")
    })?;
    let mut pinned = pinned();
    let before = pinned.range(..at + size).next_back();
    let taken = before.is_some_and(|(start, range)| {
        // Memory from aclrtMallocHost may be registered as a whole or in part.
        !range.allocated && start + range.len > at
    });
    ensure(!taken, code::HOST_MEMORY_ALREADY_REGISTERED, || format!("{at:#x} is registered already"))?;
    let mut view = None;
    if mapped {
        let va = runtime.hbm.reserve(context.key, size, 4096)?;
        runtime.hbm.map_at(Range {
            va,
            len: size,
            asked: size,
            page: Page::Normal,
            key: context.key,
            offset: 0,
            block: 0,
            kind: Kind::HostView(at),
        })?;
        view = Some(va);
    }
    match pinned.get_mut(&at) {
        Some(range) => (range.view, range.mapped) = (view, true),
        None => drop(pinned.insert(at, Pinned { len: size, allocated: false, view, mapped })),
    }
    Ok(view)
}

/// Whether the kernel knows every page of a range.
fn is_mapped(at: u64, size: u64) -> bool {
    let bytes = size.next_multiple_of(4096) as usize;
    let mut pages = vec![0_u8; bytes / 4096];
    // SAFETY: `pages` has a byte for each page; the kernel checks the range.
    unsafe { libc::mincore(at as *mut libc::c_void, bytes, pages.as_mut_ptr()) == 0 }
}

crate::export! {
    /// `aclrtMallocHost`: pinned.
    fn sim_aclrtMallocHost(out: Out<usize>, size: usize) {
        allocate(out, size as u64)
    }

    /// `aclrtMallocHostWithCfg`.
    fn sim_aclrtMallocHostWithCfg(out: Out<usize>, size: u64, _config: In<u8>) {
        allocate(out, size)
    }

    /// `aclrtHostMemMapCapabilities`: whether a kind of engine reaches mapped host memory; here all do.
    fn sim_aclrtHostMemMapCapabilities(device: u32, kind: u32, capability: Out<u32>) {
        runtime()?.key(device as i32)?;
        ensure(kind <= 9, code::RT_PARAM_INVALID, || format!("no engine of kind {kind}"))?;
        capability.set(1)
    }

    /// `aclrtHostGetDevicePointer`: the device's view of memory that was registered MAPPED.
    fn sim_aclrtHostGetDevicePointer(host: usize, view: Out<usize>, flag: u32) {
        ensure(flag == 0, code::RT_PARAM_INVALID, || format!("flag {flag}; 0 is the only one"))?;
        let pinned = pinned();
        let (start, range) = pinned
            .range(..=host as u64)
            .next_back()
            .filter(|(start, range)| host as u64 - **start < range.len && range.mapped)
            .ok_or_else(|| not_registered(host))?;
        let base = range.view.ok_or_else(|| not_registered(host))?;
        view.set((base + (host as u64 - start)) as usize)
    }

    /// `aclrtHostUnregister`.
    fn sim_aclrtHostUnregister(host: usize) {
        let mut pinned = pinned();
        let range = pinned.get_mut(&(host as u64)).filter(|range| !range.allocated || range.mapped);
        let range = range.ok_or_else(|| not_registered(host))?;
        let view = range.view.take();
        range.mapped = false;
        if !range.allocated {
            pinned.remove(&(host as u64));
        }
        if let Some(view) = view {
            let runtime = runtime()?;
            runtime.hbm.unmap(view, |kind| matches!(kind, Kind::HostView(_)))?;
            runtime.hbm.unreserve(view);
        }
        Ok(())
    }
}

crate::export_raw! {
    /// `aclrtFreeHost`.
    fn sim_aclrtFreeHost(host: usize) {
        let mut pinned = pinned();
        let range = pinned.get(&(host as u64)).copied().filter(|range| range.allocated);
        let range = range.ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("{host:#x} is not from aclrtMallocHost, or is free"))
        })?;
        ensure(!range.mapped, code::RT_MEMORY_FREE, || format!("{host:#x} is still registered"))?;
        pinned.remove(&(host as u64));
        // SAFETY: mapped by `allocate` with this length, and just taken out of the table; the caller uses it no more.
        unsafe { libc::munmap(host as *mut libc::c_void, range.len as usize) };
        Ok(())
    }

    /// `aclrtHostRegister`: type 0 MAPPED, 4 IOMEMORY, 8 READONLY.
    fn sim_aclrtHostRegister(host: usize, size: u64, kind: u32, view: Out<usize>) {
        ensure(matches!(kind, 0 | 4 | 8), code::RT_PARAM_INVALID, || format!("type {kind}"))?;
        view.check()?;
        let at = register(host as u64, size, true)?;
        view.set(at.unwrap_or(0) as usize)
    }

    /// `aclrtHostRegisterV2`: flags MAPPED 2, IOMEMORY 4, READONLY 8, PINNED 0x10000000.
    fn sim_aclrtHostRegisterV2(host: usize, size: u64, flag: u32) {
        let known = flag != 0 && flag & !0x1000_000E == 0;
        ensure(known, code::RT_PARAM_INVALID, || format!("flags {flag:#x}"))?;
        register(host as u64, size, flag & 2 != 0).map(drop)
    }
}

fn not_registered(host: usize) -> Fail {
    Fail::new(code::HOST_MEMORY_NOT_REGISTERED, format!("{host:#x} is not registered"))
}
