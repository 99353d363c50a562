//! What kind of memory an address is.

use std::ffi::c_void;
use std::ptr::null_mut;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};

use crate::device::Bound;
use crate::error::{Class, Code, Library, check, recent_text};

/// How memory was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Allocation {
    /// By `aclrtMalloc`: can be exported by key.
    Plain,
    /// Physical memory mapped at a reserved address (torch_npu's expandable segments): has no key, and sleep mode may
    /// take it away.
    Virtual,
    /// This release or driver does not tell.
    Unknown,
}

/// What was found about a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Found {
    /// How it was made.
    pub allocation: Allocation,
    /// Bytes of its smallest page; `None` when the runtime does not tell.
    pub page: Option<u64>,
    /// Base and length of the allocation in which it begins; `None` when this release does not tell.
    pub containing: Option<(u64, u64)>,
}

/// Finds out about `bytes` bytes at `address`.
///
/// # Errors
/// `ApiMisuse`: it is not memory of this device from its first byte to its last.
pub(super) fn probe(on: &Bound<'_>, address: u64, bytes: u64) -> Result<Found> {
    let first = page_of(on, address)?;
    let last = page_of(on, address + bytes - 1)?;
    let page = first.min(last).filter(|page| *page > 0);
    Ok(Found { allocation: allocation(on, address), page, containing: containing(on.acl(), address) })
}

/// The page size at an address of this device.
fn page_of(on: &Bound<'_>, address: u64) -> Result<Option<u64>> {
    let api = on.acl();
    // SAFETY: plain integers, for which all zeros is a value.
    let mut found: acl::aclrtPtrAttributes = unsafe { std::mem::zeroed() };
    // SAFETY: the address is only looked up; writes to a local of the right type.
    let code = unsafe { (api.aclrtPointerGetAttributes)(address as *const c_void, &mut found) };
    check(api, code, "register device memory", || format!("address {address:#x} is not known to CANN"))?;
    let place = found.location;
    let refused = match place.type_ {
        acl::ACL_MEM_LOCATION_TYPE_DEVICE if place.id == on.user_id().cast_unsigned() => {
            return Ok(Some(u64::from(found.pageSize)));
        }
        acl::ACL_MEM_LOCATION_TYPE_DEVICE => {
            format!("{address:#x} is memory of device {}, not of {}", place.id, on.user_id())
        }
        acl::ACL_MEM_LOCATION_TYPE_HOST
        | acl::ACL_MEM_LOCATION_TYPE_UNREGISTERED
        | acl::ACL_MEM_LOCATION_TYPE_HOST_NUMA => {
            format!("{address:#x} is host memory; register it as such")
        }
        other => format!("{address:#x} is memory of kind {other}, which no link can use"),
    };
    Err(Error::new(ErrorKind::ApiMisuse, "register device memory", refused))
}

/// Asks for the physical memory behind the address: virtual memory has a handle for it, other memory has none. Where the
/// driver is too old to tell (before HDK 26), asks for the access rights, which only virtual memory has.
fn allocation(on: &Bound<'_>, address: u64) -> Allocation {
    let api = on.acl();
    let Some(vmm) = &api.vmm else { return Allocation::Unknown };
    if let Some(handles) = &api.vmm_handles {
        let mut handle: acl::aclrtDrvMemHandle = null_mut();
        // SAFETY: the address is only looked up; writes one pointer to a local.
        let code = unsafe { (handles.aclrtMemRetainAllocationHandle)(address as *mut c_void, &mut handle) };
        if code == 0 {
            // SAFETY: the reference that was just taken, given back once.
            let code = unsafe { (vmm.aclrtFreePhysical)(handle) };
            if code != 0 {
                tracing::warn!(code, "a reference to physical memory could not be given back");
            }
            return Allocation::Virtual;
        }
        recent_text(api);
        if Code::of(Library::Acl, code).class != Class::Unsupported {
            return Allocation::Plain;
        }
    }
    let mut place =
        acl::aclrtMemLocation { id: on.user_id().cast_unsigned(), type_: acl::ACL_MEM_LOCATION_TYPE_DEVICE };
    let mut rights = 0;
    // SAFETY: the address is only looked up; writes one integer to a local.
    let code = unsafe { (vmm.aclrtMemGetAccess)(address as *mut c_void, &mut place, &mut rights) };
    match code {
        0 => Allocation::Virtual,
        code => {
            recent_text(api);
            match Code::of(Library::Acl, code).class {
                Class::Unsupported => Allocation::Unknown,
                _ => Allocation::Plain,
            }
        }
    }
}

/// Base and length of the allocation that holds an address; `None` when this release does not tell.
pub(crate) fn containing(api: &acl::Api, address: u64) -> Option<(u64, u64)> {
    let range = api.address_range.as_ref()?;
    let mut base: *mut c_void = null_mut();
    let mut bytes = 0;
    // SAFETY: the address is only looked up; writes to two locals.
    let code = unsafe { (range.aclrtMemGetAddressRange)(address as *mut c_void, &mut base, &mut bytes) };
    (code == 0 && !base.is_null()).then_some((base as u64, bytes as u64))
}
