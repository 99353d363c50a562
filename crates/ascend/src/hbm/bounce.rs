//! How the host gets bytes in and out of device memory where no link is at hand: through a piece of pinned memory, on a
//! thread of the device.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{Janitor, Memory};

use crate::device::{Bound, Device, Work};
use crate::error::check;
use crate::pinned;

/// Bytes of the pinned piece.
const PIECE: u64 = 4 << 20;

/// Copies between the caller's slices and a device. One caller at a time; the others wait.
pub(crate) struct Bounce {
    device: Arc<Device>,
    janitor: Janitor,
    /// Allocated when it is first needed.
    piece: Mutex<Option<Arc<Memory>>>,
}

impl Bounce {
    pub(crate) fn new(device: Arc<Device>, janitor: &Janitor) -> Arc<Self> {
        Arc::new(Self { device, janitor: janitor.clone(), piece: Mutex::new(None) })
    }

    pub(super) fn read(&self, from: u64, into: &mut [u8]) -> Result<()> {
        self.with(|piece| {
            let mut address = from;
            for part in into.chunks_mut(PIECE as usize) {
                let len = part.len() as u64;
                self.copy("read", piece, move |host| (host, address, len))?;
                piece.read(0, part)?;
                address += len;
            }
            Ok(())
        })
    }

    pub(super) fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        self.with(|piece| {
            let mut address = to;
            for part in from.chunks(PIECE as usize) {
                let len = part.len() as u64;
                piece.write(0, part)?;
                self.copy("write", piece, move |host| (address, host, len))?;
                address += len;
            }
            Ok(())
        })
    }

    pub(super) fn fill(&self, to: u64, len: u64, byte: u8) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        if self.device.acl().memset.is_some() {
            return self.device.call(Work::Copy, "fill", move |on| memset(on, to, len, byte))?;
        }
        self.with(|piece| {
            piece.fill(0, PIECE.min(len), byte)?;
            let mut done = 0;
            while done < len {
                let (address, part) = (to + done, PIECE.min(len - done));
                self.copy("fill", piece, move |host| (address, host, part))?;
                done += part;
            }
            Ok(())
        })
    }

    /// Runs `work` with the pinned piece, which nobody else uses meanwhile.
    fn with(&self, work: impl FnOnce(&Arc<Memory>) -> Result<()>) -> Result<()> {
        // A panic under it leaves bytes in the piece, which the next one overwrites.
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = match &mut *piece {
            Some(piece) => piece,
            none => none.insert(pinned::alloc(&self.device, PIECE, &self.janitor)?),
        };
        work(piece)
    }

    /// One copy on the device's thread. `ends` gives destination, source and length, from the piece's address.
    fn copy(
        &self,
        operation: &'static str,
        piece: &Arc<Memory>,
        ends: impl FnOnce(u64) -> (u64, u64, u64) + Send + 'static,
    ) -> Result<()> {
        let piece = piece.clone();
        self.device.call(Work::Copy, operation, move |on| {
            let host = piece.range(0, PIECE).ok_or_else(|| {
                Error::new(ErrorKind::Internal, operation, "the pinned piece has no address")
            })?;
            let (to, from, len) = ends(host.addr().get() as u64);
            let api = on.acl();
            // SAFETY: one end is the piece, which is long enough, ours under the lock and held by this closure; the other
            // lies in memory whose owner waits for this call. Both are only touched by the driver.
            let code = unsafe {
                (api.aclrtMemcpy)(
                    to as *mut c_void,
                    len as usize,
                    from as *const c_void,
                    len as usize,
                    acl::ACL_MEMCPY_DEFAULT,
                )
            };
            check(api, code, operation, || format!("{len} bytes from {from:#x} to {to:#x}"))
        })?
    }
}

fn memset(on: &Bound<'_>, to: u64, len: u64, byte: u8) -> Result<()> {
    let api = on.acl();
    let Some(memset) = &api.memset else { return Ok(()) };
    // SAFETY: the range lies in memory whose owner waits for this call.
    let code =
        unsafe { (memset.aclrtMemset)(to as *mut c_void, len as usize, i32::from(byte), len as usize) };
    check(api, code, "fill", || format!("{len} bytes at {to:#x}"))
}
