//! Device memory: policies and pages, attributes, room.

use super::{DEVICE, HOST, Location, UNREGISTERED, host, ipc};
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Site;
use crate::ffi::{In, Out};
use crate::hbm::{Kind, Page, Range};
use crate::runtime::{Runtime, runtime};

/// `aclrtPtrAttributes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Where it is.
    pub location: Location,
    /// Bytes of its pages.
    pub page: u32,
    /// Zero.
    pub reserved: [u32; 4],
}

/// HUGE_FIRST takes 2 MiB pages for more than this.
const HUGE_ABOVE: u64 = 1 << 20;

/// The pages that a policy gives a request.
fn page_for(policy: u32, size: u64) -> Done<Page> {
    let known = policy & !0x0010_11FF == 0;
    match policy & 0xFF {
        0 | 3 if known => Ok(if size > HUGE_ABOVE { Page::Huge } else { Page::Normal }),
        1 | 4 if known => Ok(Page::Huge),
        2 | 5 if known => Ok(Page::Normal),
        6 | 7 if known => Ok(Page::Huge1G),
        _ => Err(Fail::new(code::RT_INVALID_MALLOC_TYPE, format!("policy {policy:#x}"))),
    }
}

fn malloc(out: Out<usize>, size: u64, policy: u32) -> Done {
    out.check()?;
    let (context, runtime) = context::usable("aclrtMalloc")?;
    ensure(size > 0, code::INVALID_PARAM, || "size 0".to_owned())?;
    let page = page_for(policy, size)?;
    let site = Site { op: "aclrtMalloc", device: Some(context.key.physical), remote: None };
    let failed = || {
        Fail::new(code::RT_MEMORY_ALLOCATION, format!("no room for {size} bytes on device {}", context.user))
    };
    if runtime.faults.hit("alloc_fail", site).is_some() {
        return Err(failed());
    }
    let padded =
        size.checked_next_multiple_of(32).and_then(|size| size.checked_add(runtime.chip().malloc_extra()));
    let range = runtime.hbm.alloc(context.key, padded.ok_or_else(failed)?, size, page)?;
    out.set(range.va as usize)
}

/// Where a range is, in the words of `aclrtMemLocation`.
fn location(runtime: &Runtime, range: &Range) -> Location {
    let user = runtime.user(range.key.physical).filter(|_| range.key.server == runtime.node().server());
    Location { id: user.map_or(range.key.physical, |user| user as u32), kind: DEVICE }
}

fn attributes_of(at: u64) -> Done<Attributes> {
    let runtime = runtime()?;
    if runtime.hbm.is_device_address(at) {
        let range = runtime.hbm.range(at).ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("device address {at:#x} is not alive"))
        })?;
        if matches!(range.kind, Kind::HostView(_)) {
            return Ok(Attributes {
                location: Location { id: 0, kind: HOST },
                page: 4096,
                ..Attributes::default()
            });
        }
        let page = range.page.bytes() as u32;
        return Ok(Attributes { location: location(runtime, &range), page, ..Attributes::default() });
    }
    if host::is_pinned(at, 1) {
        return Ok(Attributes {
            location: Location { id: 0, kind: HOST },
            page: 4096,
            ..Attributes::default()
        });
    }
    let site = Site { op: "aclrtPointerGetAttributes", ..Site::default() };
    if runtime.faults.hit("unregistered", site).is_some() {
        return Ok(Attributes { location: Location { id: 0, kind: UNREGISTERED }, ..Attributes::default() });
    }
    // As some drivers do for ordinary memory, rather than to say UNREGISTERED.
    Err(Fail::new(code::RT_PARAM_INVALID, format!("{at:#x} is no memory that the device knows")))
}

crate::export! {
    /// `aclrtMalloc`.
    fn sim_aclrtMalloc(out: Out<usize>, size: usize, policy: u32) {
        malloc(out, size as u64, policy)
    }

    /// `aclrtMallocWithCfg`: the configuration is read by nothing here.
    fn sim_aclrtMallocWithCfg(out: Out<usize>, size: usize, policy: u32, _config: In<u8>) {
        malloc(out, size as u64, policy)
    }

    /// `aclrtFree`: no implicit synchronisation; null is an error.
    fn sim_aclrtFree(at: usize) {
        context::current()?;
        ensure(at != 0, code::INVALID_PARAM, || "null".to_owned())?;
        let runtime = runtime()?;
        if let Some(range) = runtime.hbm.range(at as u64).filter(|range| range.va == at as u64) {
            ipc::refuse_exported(runtime, &range)?;
        }
        runtime.hbm.free(at as u64)
    }

    /// `aclrtGetMemInfo`: free and total bytes of the context's device; what dead processes held counts as free.
    fn sim_aclrtGetMemInfo(attribute: u32, free: Out<usize>, total: Out<usize>) {
        let (context, runtime) = context::usable("aclrtGetMemInfo")?;
        ensure(attribute <= 17, code::RT_PARAM_INVALID, || format!("memory attribute {attribute}"))?;
        let hbm = matches!(attribute, 1 | 4 | 5 | 8..=17);
        let (left, all) = if hbm { runtime.hbm.room(context.key)? } else { (0, 0) };
        free.set(left as usize)?;
        total.set(all as usize)
    }

    /// `aclrtPointerGetAttributes`. For ordinary host memory it fails.
    fn sim_aclrtPointerGetAttributes(at: usize, attributes: Out<Attributes>) {
        attributes.set(attributes_of(at as u64)?)
    }

    /// `aclrtMemGetAddressRange`: the allocation that holds an address.
    fn sim_aclrtMemGetAddressRange(at: usize, base: Out<usize>, size: Out<usize>) {
        let range = runtime()?.hbm.range(at as u64).ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("{at:#x} is in no live allocation"))
        })?;
        if !base.is_null() {
            base.set(range.va as usize)?;
        }
        if size.is_null() { Ok(()) } else { size.set(range.asked as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_choose_pages_by_size() {
        for (policy, size, want) in [
            (0, 1 << 20, Page::Normal),
            (0, (1 << 20) + 1, Page::Huge),
            (3, 4 << 20, Page::Huge),
            (1, 1, Page::Huge),
            (2, 64 << 20, Page::Normal),
            (6, 1, Page::Huge1G),
            (0x1001, 1, Page::Huge),
        ] {
            assert_eq!(page_for(policy, size), Ok(want), "policy {policy}, {size} bytes");
        }
        assert_eq!(page_for(9, 1).unwrap_err().code, code::RT_INVALID_MALLOC_TYPE);
    }
}
