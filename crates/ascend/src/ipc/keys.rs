//! Keys of device memory: those that we gave out, those that we opened.

use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, RegionId, Result};
use ropeway_transport::Memory;

use crate::device::{Bound, Device};
use crate::error::check;
use crate::hbm::HbmMemory;

/// A key with its final zero.
pub(super) type Key = [u8; acl::IPC_KEY_BYTES];

/// Of one engine.
pub(super) struct Keys {
    device: Arc<Device>,
    check_process: bool,
    /// Keys that we gave out, with how many links use them.
    given: HashMap<RegionId, Given>,
    /// Keys that we opened: a process opens a key once, whatever links use it.
    opened: HashMap<Key, Opened>,
}

struct Given {
    key: Key,
    /// Bytes from the key's first page to the region's first byte.
    offset: u64,
    pids: Vec<i32>,
    links: u32,
    /// Until the key is closed.
    #[expect(dead_code, reason = "held for its drop")]
    memory: Arc<Memory>,
}

struct Opened {
    address: u64,
    links: u32,
}

impl Keys {
    pub(super) fn new(device: Arc<Device>, check_process: bool) -> Self {
        Self { device, check_process, given: HashMap::new(), opened: HashMap::new() }
    }

    /// A key for our region that the process `pid` may open, and where in its pages the region begins.
    pub(super) fn give(&mut self, region: RegionId, memory: &Arc<Memory>, pid: i32) -> Result<(Key, u64)> {
        let device = self.device.clone();
        let on = bound(&device)?;
        if !self.given.contains_key(&region) {
            let given = self.export(&on, memory)?;
            self.given.insert(region, given);
        }
        let check_process = self.check_process;
        let given = self.given.get_mut(&region).expect("inserted above where it was missing");
        if check_process && !given.pids.contains(&pid) {
            given.pids.push(pid);
            if let Err(error) = allow(&on, given) {
                given.pids.pop();
                if given.links == 0 {
                    self.close_given(&on, region);
                }
                return Err(error);
            }
        }
        given.links += 1;
        Ok((given.key, given.offset))
    }

    fn export(&self, on: &Bound<'_>, memory: &Arc<Memory>) -> Result<Given> {
        let hbm = HbmMemory::of(memory).ok_or_else(|| {
            let text = "host memory has no key; ipc moves memory of NPUs only";
            Error::new(ErrorKind::Unsupported, "export by key", text)
        })?;
        let (base, len) = hbm.check_ipc()?;
        let mut key: Key = [0; acl::IPC_KEY_BYTES];
        let flags = if self.check_process {
            acl::ACL_RT_IPC_MEM_EXPORT_FLAG_DEFAULT
        } else {
            acl::ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION
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
        let offset = hbm.begin() - base;
        Ok(Given { key, offset, pids: Vec::new(), links: 0, memory: Arc::clone(memory) })
    }

    /// One link needs the key of our region no more.
    pub(super) fn take_back(&mut self, region: RegionId) -> Result<()> {
        let Some(given) = self.given.get_mut(&region) else { return Ok(()) };
        given.links -= 1;
        if given.links > 0 {
            return Ok(());
        }
        let device = self.device.clone();
        self.close_given(&bound(&device)?, region);
        Ok(())
    }

    fn close_given(&mut self, on: &Bound<'_>, region: RegionId) {
        let Some(given) = self.given.remove(&region) else { return };
        if let Err(error) = close(on, &given.key) {
            // The memory may be mapped elsewhere still: it is not to be freed.
            tracing::error!(%region, %error, "a key was not closed; its memory is leaked");
            std::mem::forget(given);
        }
    }

    /// Opens a key of a peer; gives the address of its first page here.
    pub(super) fn open(&mut self, key: &Key, other_device: bool) -> Result<u64> {
        if let Some(opened) = self.opened.get_mut(key) {
            opened.links += 1;
            return Ok(opened.address);
        }
        let device = self.device.clone();
        let on = bound(&device)?;
        let flags = if other_device {
            acl::ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS
        } else {
            acl::ACL_RT_IPC_MEM_IMPORT_FLAG_DEFAULT
        };
        let mut address: *mut c_void = null_mut();
        // SAFETY: writes one pointer to a local; the key ends with a zero, as was checked when it was read.
        let code =
            unsafe { (ipc(&on)?.aclrtIpcMemImportByKey)(&mut address, key.as_ptr().cast::<c_char>(), flags) };
        check(on.acl(), code, "import by key", || "the peer's key".into())?;
        self.opened.insert(*key, Opened { address: address as u64, links: 1 });
        Ok(address as u64)
    }

    /// One link uses a peer's key no more.
    pub(super) fn let_go(&mut self, key: &Key) -> Result<()> {
        let Some(opened) = self.opened.get_mut(key) else { return Ok(()) };
        opened.links -= 1;
        if opened.links > 0 {
            return Ok(());
        }
        self.opened.remove(key);
        let device = self.device.clone();
        close(&bound(&device)?, key)
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

fn allow(on: &Bound<'_>, given: &mut Given) -> Result<()> {
    let pids = &mut given.pids;
    // SAFETY: the key ends with a zero; the list is ours, of the length that is said.
    let code = unsafe {
        (ipc(on)?.aclrtIpcMemSetImportPid)(given.key.as_ptr().cast::<c_char>(), pids.as_mut_ptr(), pids.len())
    };
    check(on.acl(), code, "export by key", || format!("allowing process {:?}", pids.last()))
}

fn close(on: &Bound<'_>, key: &Key) -> Result<()> {
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
