//! Memory of a device: allocated here, or somebody else's that was registered, and what links can do with it.

mod bounce;
mod probe;

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::memory::DeviceMemory;
use ropeway_transport::{Janitor, Memory};

use crate::device::{Bound, Device, Work};
use crate::error::check;
pub(crate) use bounce::Bounce;
pub(crate) use probe::containing;
pub use probe::{Allocation, Found};

/// Bytes of a huge page, which HCCS asks for.
pub const HUGE_PAGE: u64 = 2 << 20;
/// Bytes of the largest page that devices have.
pub(crate) const PAGE_MAX: u64 = 1 << 30;

/// A range of a device's memory.
pub struct HbmMemory {
    device: Arc<Device>,
    address: u64,
    bytes: u64,
    state: Mutex<State>,
    bounce: Arc<Bounce>,
    _backing: Backing,
}

#[derive(Clone, Copy)]
struct State {
    found: Found,
    suspended: bool,
}

/// What keeps the bytes mapped.
enum Backing {
    Own(#[expect(dead_code, reason = "held for its drop")] Allocated),
    Foreign(#[expect(dead_code, reason = "held for its drop")] Mutex<Box<dyn Any + Send>>),
}

/// Memory of `aclrtMalloc`.
struct Allocated {
    raw: usize,
    device: Arc<Device>,
}

impl Drop for Allocated {
    fn drop(&mut self) {
        let raw = self.raw;
        self.device.retire("free device memory", move |on| {
            // SAFETY: ours, from `aclrtMalloc`; nothing uses it any more, or its owner would not have let go.
            let code = unsafe { (on.acl().aclrtFree)(raw as *mut c_void) };
            if let Err(error) = check(on.acl(), code, "free device memory", String::new) {
                tracing::warn!(%error, "device memory is leaked");
            }
        });
    }
}

impl HbmMemory {
    /// Allocates with pages of 2 MiB, so that every link can use it. The contents are whatever was there before. Blocks.
    ///
    /// # Errors
    /// `ApiMisuse` for no bytes; `Resource` when there is not so much left.
    pub(crate) fn alloc(device: &Arc<Device>, bytes: u64, bounce: Arc<Bounce>) -> Result<Self> {
        let rounded = bytes.checked_next_multiple_of(HUGE_PAGE).filter(|_| bytes > 0).ok_or_else(|| {
            Error::new(ErrorKind::ApiMisuse, "allocate device memory", format!("{bytes} bytes are no length"))
        })?;
        let raw = device.call(Work::Slow, "allocate device memory", move |on| malloc(on, rounded))??;
        let backing = Allocated { raw, device: device.clone() };
        let found = Found {
            allocation: Allocation::Plain,
            page: Some(HUGE_PAGE),
            containing: Some((raw as u64, rounded)),
        };
        Ok(Self {
            device: device.clone(),
            address: raw as u64,
            bytes,
            state: Mutex::new(State { found, suspended: false }),
            bounce,
            _backing: Backing::Own(backing),
        })
    }

    /// Memory of the caller's, after finding out what kind it is. Blocks.
    ///
    /// # Errors
    /// `ApiMisuse`: it is no range, host memory, or another device's. `keep_alive` is dropped on the janitor's thread
    /// then.
    ///
    /// # Safety
    /// Until `keep_alive` is dropped, `address..address + bytes` stays mapped on the device, readable and writable, with
    /// the same physical backing, but between [`Self::suspend`] and [`Self::resume`].
    pub(crate) unsafe fn foreign(
        device: &Arc<Device>,
        address: u64,
        bytes: u64,
        keep_alive: Box<dyn Any + Send>,
        bounce: Arc<Bounce>,
        janitor: &Janitor,
    ) -> Result<Self> {
        let found = match Self::find(device, address, bytes) {
            Ok(found) => found,
            Err(error) => {
                janitor.drop_later(keep_alive);
                return Err(error);
            }
        };
        Ok(Self {
            device: device.clone(),
            address,
            bytes,
            state: Mutex::new(State { found, suspended: false }),
            bounce,
            _backing: Backing::Foreign(Mutex::new(keep_alive)),
        })
    }

    fn find(device: &Arc<Device>, address: u64, bytes: u64) -> Result<Found> {
        if bytes == 0 || address == 0 || address.checked_add(bytes).is_none() {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "register device memory",
                format!("{bytes} bytes at device address {address:#x} are no range of memory"),
            ));
        }
        device.call(Work::Slow, "register device memory", move |on| probe::probe(on, address, bytes))?
    }

    /// The range behind `memory`, if it is memory of an NPU.
    pub fn of(memory: &Memory) -> Option<&Self> {
        memory.device()?.as_any().downcast_ref()
    }

    /// Its device, by the process's own number.
    pub fn npu(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where it begins in the device's address space.
    pub fn begin(&self) -> u64 {
        self.address
    }

    /// What was found about it.
    pub fn found(&self) -> Found {
        self.lock().found
    }

    /// Whether it can be an end of a copy over HCCS, which asks for pages of 2 MiB or more.
    ///
    /// # Errors
    /// `Unsupported`, with the mend.
    pub fn check_hccs(&self) -> Result<()> {
        self.check_awake("register with HCCS")?;
        match self.found().page {
            Some(page) if page < HUGE_PAGE => Err(Error::new(
                ErrorKind::Unsupported,
                "register with HCCS",
                format!(
                    "the memory at {:#x} has pages of {page} bytes, HCCS needs {HUGE_PAGE}: allocate it with the engine, \
                     with ACL_MEM_MALLOC_HUGE_ONLY, or in one piece of more than 1 MiB",
                    self.address
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The range to export for IPC: whole pages around this one, base and length.
    ///
    /// # Errors
    /// `Unsupported`, with the mend: virtual memory has no key.
    pub fn check_ipc(&self) -> Result<(u64, u64)> {
        self.check_awake("export by key")?;
        let found = self.found();
        if found.allocation == Allocation::Virtual {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "export by key",
                format!(
                    "the memory at {:#x} is virtual (expandable segments), which has no key: take the hixl transport, \
                     allocate it with the engine, or set PYTORCH_NPU_ALLOC_CONF=expandable_segments:False",
                    self.address
                ),
            ));
        }
        let page = found.page.unwrap_or(HUGE_PAGE);
        let begin = self.address - self.address % page;
        // The range does not wrap, and a page's end is at most one page further; at the very top there is no memory.
        let end = (self.address + self.bytes).next_multiple_of(page);
        Ok((begin, end - begin))
    }

    /// Sleep mode takes the physical memory away under the address: from now on host access is refused. Links must have
    /// let go of it before.
    pub fn suspend(&self) {
        self.lock().suspended = true;
    }

    /// The memory is back, possibly of another kind: finds out anew. Blocks.
    ///
    /// # Errors
    /// It is not back; it stays suspended.
    pub fn resume(&self) -> Result<()> {
        let found = Self::find(&self.device, self.address, self.bytes)?;
        *self.lock() = State { found, suspended: false };
        Ok(())
    }

    /// Whether it is suspended.
    pub fn is_suspended(&self) -> bool {
        self.lock().suspended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check_awake(&self, operation: &'static str) -> Result<()> {
        if !self.is_suspended() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Closed,
            operation,
            format!(
                "the memory at {:#x} is suspended; call resume after the model has woken up",
                self.address
            ),
        ))
    }
}

fn malloc(on: &Bound<'_>, bytes: u64) -> Result<usize> {
    let mut raw: *mut c_void = null_mut();
    // SAFETY: writes one pointer to a local; the thread has the device's context.
    let code = unsafe { (on.acl().aclrtMalloc)(&mut raw, bytes as usize, acl::ACL_MEM_MALLOC_HUGE_ONLY) };
    check(on.acl(), code, "allocate device memory", || format!("{bytes} bytes on device {}", on.user_id()))?;
    Ok(raw as usize)
}

impl DeviceMemory for HbmMemory {
    fn device(&self) -> u32 {
        self.device.user_id()
    }

    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.check_awake("read")?;
        self.bounce.read(self.address + at, into)
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.check_awake("write")?;
        self.bounce.write(self.address + at, from)
    }

    fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        self.check_awake("fill")?;
        self.bounce.fill(self.address + at, len, byte)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for HbmMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HbmMemory")
            .field("device", &self.device.user_id())
            .field("address", &format_args!("{:#x}", self.address))
            .field("bytes", &self.bytes)
            .field("found", &self.found())
            .finish_non_exhaustive()
    }
}
