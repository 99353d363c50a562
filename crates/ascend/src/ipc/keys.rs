//! Keys of device memory: those that we give out, those that we open.
//!
//! Each link has keys of its own: a process opens a key once, and engines of one process, or an old and a new link, would
//! ask for the same one twice. It also lets each key open for one process only.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::Memory;

use crate::device::{Bound, Device};
use crate::error::check;
use crate::hbm::{HbmMemory, PAGE_MAX, containing};

/// A key with its final zero.
pub(super) type Key = [u8; acl::IPC_KEY_BYTES];

/// A key that we gave out.
pub(super) struct Given {
    pub(super) key: Key,
    /// Bytes from the key's first page to the region's first byte.
    pub(super) offset: u64,
    /// Until the key is closed.
    #[expect(dead_code, reason = "held for its drop")]
    memory: Arc<Memory>,
}

impl Given {
    /// A key for `memory`, for the process `pid` alone; for whoever has it when there is none.
    pub(super) fn new(on: &Bound<'_>, memory: &Arc<Memory>, pid: Option<i32>) -> Result<Self> {
        let hbm = HbmMemory::of(memory).ok_or_else(|| {
            let text = "host memory has no key; ipc moves memory of NPUs only";
            Error::new(ErrorKind::Unsupported, "export by key", text)
        })?;
        let (base, len) = hbm.check_ipc()?;
        let mut key: Key = [0; acl::IPC_KEY_BYTES];
        let flags = match pid {
            Some(_) => acl::ACL_RT_IPC_MEM_EXPORT_FLAG_DEFAULT,
            None => acl::ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION,
        };
        // SAFETY: the range is memory of this device, which `memory` keeps until the key is closed; the key's buffer has the
        // length that is said.
        let code = unsafe {
            (ipc(on)?.aclrtIpcMemGetExportKey)(
                base as *mut c_void,
                len as usize,
                key.as_mut_ptr().cast::<c_char>(),
                key.len(),
                flags,
            )
        };
        check(on.acl(), code, "export by key", || format!("{len} bytes at {base:#x}"))?;
        let given = Self { key, offset: hbm.begin() - base, memory: Arc::clone(memory) };
        if let Some(mut pid) = pid {
            // SAFETY: the key ends with a zero; the list is one number of ours.
            let code = unsafe {
                (ipc(on)?.aclrtIpcMemSetImportPid)(given.key.as_ptr().cast::<c_char>(), &raw mut pid, 1)
            };
            let allowed = check(on.acl(), code, "export by key", || format!("allowing process {pid}"));
            if let Err(error) = allowed {
                given.take_back(on)?;
                return Err(error);
            }
        }
        Ok(given)
    }

    /// Closes the key: the peer has closed it, or is gone.
    pub(super) fn take_back(self, on: &Bound<'_>) -> Result<()> {
        let closed = close(on, &self.key);
        if closed.is_err() {
            // The memory may be mapped elsewhere still: it is not to be freed.
            std::mem::forget(self);
        }
        closed
    }
}

/// Opens a key of a peer; gives the address of its first page here.
pub(super) fn open(on: &Bound<'_>, key: &Key, other_device: bool) -> Result<u64> {
    let flags = if other_device {
        acl::ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS
    } else {
        acl::ACL_RT_IPC_MEM_IMPORT_FLAG_DEFAULT
    };
    let mut address: *mut c_void = null_mut();
    // SAFETY: writes one pointer to a local; the key ends with a zero, as was checked when it was read.
    let code =
        unsafe { (ipc(on)?.aclrtIpcMemImportByKey)(&mut address, key.as_ptr().cast::<c_char>(), flags) };
    check(on.acl(), code, "import by key", || "the peer's key".into())?;
    Ok(address as u64)
}

/// The address of a peer's region: `offset` bytes from its key's first page, which was opened at `first`. `None` when the
/// peer names memory that its key does not stand for: at other addresses lies memory of our own.
pub(super) fn within(on: &Bound<'_>, first: u64, offset: u64, len: u64) -> Option<u64> {
    // A key begins with the region's page; no page is larger.
    let base = first.checked_add(offset).filter(|_| offset < PAGE_MAX)?;
    let end = base.checked_add(len)?;
    match containing(on.acl(), first) {
        Some((begin, bytes)) => (begin <= first && end - begin <= bytes).then_some(base),
        // This release does not tell how much was opened.
        None => Some(base),
    }
}

/// Reads a key that a peer sent: 64 characters or fewer, and zeros.
pub(super) fn read_key(bytes: &[u8]) -> Option<Key> {
    let key: Key = bytes.try_into().ok()?;
    let end = key.iter().position(|byte| *byte == 0)?;
    let plain = key[..end].iter().all(u8::is_ascii_graphic) && key[end..].iter().all(|byte| *byte == 0);
    (end > 0 && plain).then_some(key)
}

/// The proof that this thread has the device's context: link threads do, from their start.
pub(super) fn bound(device: &Device) -> Result<Bound<'_>> {
    device.bound().map_or_else(|| device.adopt_thread(), Ok)
}

fn ipc(on: &Bound<'_>) -> Result<&'static acl::Ipc> {
    on.acl().ipc.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "ipc",
            "this AscendCL cannot share device memory between processes",
        )
    })
}

/// Closes a key that we opened, or gave out: importers first, the exporter last.
pub(super) fn close(on: &Bound<'_>, key: &Key) -> Result<()> {
    // SAFETY: a key that this process gave out or opened, closed once; it ends with a zero. Nothing uses its pages any more.
    let code = unsafe { (ipc(on)?.aclrtIpcMemClose)(key.as_ptr().cast::<c_char>()) };
    check(on.acl(), code, "close a key", String::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_that_ends_is_a_key() {
        let mut bytes = [b'k'; acl::IPC_KEY_BYTES];
        assert_eq!(read_key(&bytes), None, "no end");
        bytes[64] = 0;
        assert_eq!(read_key(&bytes), Some(bytes));
        assert_eq!(read_key(&bytes[..64]), None);
        bytes[10] = 0;
        assert_eq!(read_key(&bytes), None, "something after the end");
        assert_eq!(read_key(&[0; acl::IPC_KEY_BYTES]), None);
        bytes = [0; acl::IPC_KEY_BYTES];
        bytes[0] = 0xff;
        assert_eq!(read_key(&bytes), None);
    }
}
