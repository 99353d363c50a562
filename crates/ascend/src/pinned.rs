//! Host memory that devices can reach at full speed: pinned by the driver.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{Janitor, Memory};

use crate::device::{Device, Work};
use crate::error::check;

/// Memory of `aclrtMallocHost`.
struct Pinned {
    raw: usize,
    device: Arc<Device>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let raw = self.raw;
        self.device.forget_pinned(raw);
        self.device.retire("free pinned memory", move |on| {
            // SAFETY: ours, from `aclrtMallocHost`; the memory that kept it is gone.
            let code = unsafe { (on.acl().aclrtFreeHost)(raw as *mut c_void) };
            if let Err(error) = check(on.acl(), code, "free pinned memory", String::new) {
                tracing::warn!(%error, "pinned memory is leaked");
            }
        });
    }
}

/// Allocates pinned host memory: ordinary memory to the engine, and what asynchronous copies of this device need. Blocks.
///
/// # Errors
/// `ApiMisuse` for no bytes; `Resource` when there is not so much.
pub fn alloc(device: &Arc<Device>, bytes: u64, janitor: &Janitor) -> Result<Arc<Memory>> {
    let len = usize::try_from(bytes).ok().filter(|len| *len > 0).ok_or_else(|| {
        Error::new(ErrorKind::ApiMisuse, "allocate pinned memory", format!("{bytes} bytes are no length"))
    })?;
    let raw = device.call(Work::Slow, "allocate pinned memory", move |on| {
        let mut raw: *mut c_void = null_mut();
        // SAFETY: writes one pointer to a local; the thread has the device's context.
        let code = unsafe { (on.acl().aclrtMallocHost)(&mut raw, len) };
        check(on.acl(), code, "allocate pinned memory", || format!("{len} bytes"))?;
        Ok::<_, Error>(raw as usize)
    })??;
    let pinned = Pinned { raw, device: device.clone() };
    device.remember_pinned(raw, len);
    // SAFETY: mapped, readable and writable until `Pinned` is dropped, which nothing else holds or has a reference into.
    unsafe { Memory::raw(raw as *mut u8, bytes, Box::new(pinned), janitor) }
}
