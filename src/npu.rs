//! NPUs: memory in HBM, events of compute streams, and what an engine with a device can do beside.

use std::ffi::c_void;
use std::sync::Arc;

use ropeway_ascend::Npu;
use ropeway_core::{Error, ErrorKind, Result};

use crate::engine::Engine;
use crate::event::Event;
use crate::region::{KeepAlive, Region};

impl Engine {
    /// The NPU that the engine was opened with; see [`Builder::npu`](crate::Builder::npu).
    ///
    /// # Errors
    /// `ApiMisuse` when it was opened without one; `Closed`, `Forked`.
    pub fn npu(&self) -> Result<&Arc<Npu>> {
        let shared = self.shared();
        shared.check("npu")?;
        shared.npu.as_ref().ok_or_else(|| {
            let text = "this engine has no NPU; open it with Builder::npu";
            Error::new(ErrorKind::ApiMisuse, "npu", text)
        })
    }

    /// Allocates a region in the NPU's memory, with pages of 2 MiB: any link can use it. Its contents are not set.
    ///
    /// # Errors
    /// `Resource` when the device has not so much; `Full` at `Limits::regions`; `ApiMisuse` without an NPU.
    pub fn alloc_npu(&self, bytes: u64) -> Result<Region> {
        let memory = self.npu()?.alloc(bytes)?;
        self.shared().add_region(memory).map(Region)
    }

    /// Allocates a region of pinned host memory, the quickest for copies to and from the NPU. Beside that it is a region
    /// like any other of the host's.
    ///
    /// # Errors
    /// As [`Self::alloc_npu`].
    pub fn alloc_pinned(&self, bytes: u64) -> Result<Region> {
        let memory = self.npu()?.alloc_pinned(bytes)?;
        self.shared().add_region(memory).map(Region)
    }

    /// Registers memory of the NPU that somebody else allocated: a torch_npu tensor's `data_ptr()`. What kind it is, and so
    /// which links can use it, is found out here.
    ///
    /// # Errors
    /// `ApiMisuse` when it is no memory of this engine's NPU, or there is none; `Full` at `Limits::regions`. The keep-alive
    /// is dropped then.
    ///
    /// # Safety
    /// Until `keep_alive` is dropped, `bytes` bytes from `address` on stay mapped on the device with the same physical
    /// backing (but between [`Region::suspend`] and [`Region::resume`]); peers may read and write them while a lease is
    /// open. Dropping must be sound on any thread.
    pub unsafe fn register_npu(&self, address: u64, bytes: u64, keep_alive: KeepAlive) -> Result<Region> {
        // SAFETY: the caller vouches for the range until the keep-alive is dropped.
        let memory = unsafe { self.npu()?.register(address, bytes, keep_alive) }?;
        self.shared().add_region(memory).map(Region)
    }

    /// An event that fires when `raw`, an `aclrtEvent` that was recorded on a compute stream, has passed. No thread blocks on
    /// it: a poller asks the device. For a transfer's start, and for a lease of blocks that a stream still writes.
    ///
    /// # Errors
    /// `Full` when too many are watched; `ApiMisuse` without an NPU.
    ///
    /// # Safety
    /// `raw` is an `aclrtEvent` of this process and of the engine's device, recorded before, and stays one until
    /// `keep_alive` is dropped.
    pub unsafe fn npu_event(&self, raw: *mut c_void, keep_alive: KeepAlive) -> Result<Event> {
        let npu = self.npu()?;
        let event = Event::new();
        let told = event.clone();
        // SAFETY: passed on.
        unsafe {
            npu.watch(raw, keep_alive, move |how| match how {
                Ok(()) => told.fire(),
                Err(error) => told.fail(error),
            })
        }?;
        Ok(event)
    }

    /// An event that the engine has recorded on a stream of its own, for a consumer's stream to wait for
    /// (`aclrtStreamWaitEvent`): taken after a transfer has ended, it orders the consumer's kernels after its bytes. Keep it
    /// until the consumer's stream has passed it.
    ///
    /// # Errors
    /// `Full` when the device has no event or stream left; `ApiMisuse` without an NPU.
    pub fn npu_arrival(&self) -> Result<ropeway_ascend::Event> {
        self.npu()?.arrival()
    }
}
