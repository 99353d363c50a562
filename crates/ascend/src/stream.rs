//! Streams: queues of work on a device, destroyed after what they hold.

use std::ffi::c_void;
use std::fmt;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};

use crate::device::{Bound, Device};
use crate::error::{Class, acl_class, check};
use crate::event::{Event, events};

/// A stream of our own. Destroyed on a slow thread of the device, which it keeps.
pub struct Stream {
    raw: usize,
    device: Arc<Device>,
}

/// Which way a copy goes. `aclrtMemcpyAsync` heeds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From pinned host memory to a device.
    ToDevice,
    /// From a device to pinned host memory.
    ToHost,
    /// Within a device, or between two.
    Device,
}

impl Way {
    pub(crate) fn kind(self) -> acl::aclrtMemcpyKind {
        match self {
            Self::ToDevice => acl::ACL_MEMCPY_HOST_TO_DEVICE,
            Self::ToHost => acl::ACL_MEMCPY_DEVICE_TO_HOST,
            Self::Device => acl::ACL_MEMCPY_DEVICE_TO_DEVICE,
        }
    }
}

/// A wait in milliseconds as CANN takes it: at least 1, since 0 is undefined and -1 means for ever.
pub(crate) fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// How long a stream is waited for after it was aborted.
const AFTER_ABORT: Duration = Duration::from_secs(5);

/// Whether a wait says that the stream has passed all that was on it: nothing failed, it was aborted, or it tells how a copy
/// failed. Any other error is the wait's own (no context, a lost device, no such stream) and says nothing of the work.
pub(crate) fn has_passed(waited: &Result<()>) -> bool {
    match waited {
        Ok(()) => true,
        Err(error) => matches!(acl_class(error), Some(Class::Aborted | Class::Dma)),
    }
}

impl Stream {
    /// A new stream of `device`, made for fast submission and fast waiting. `on` must be of the same device.
    ///
    /// # Errors
    /// `Full`: the device has none left; it has 1,984, for the whole process and others. `ApiMisuse`: `on` is of another.
    pub fn create(device: &Arc<Device>, on: &Bound<'_>) -> Result<Self> {
        device.check_bound("create stream", on)?;
        let api = on.acl();
        let mut raw: acl::aclrtStream = null_mut();
        let flags = acl::ACL_STREAM_FAST_LAUNCH | acl::ACL_STREAM_FAST_SYNC;
        // SAFETY: writes one pointer to a local; the thread has the device's context.
        let code = unsafe { (api.aclrtCreateStreamWithConfig)(&mut raw, 0, flags) };
        check(api, code, "create stream", || format!("device {}", on.user_id()))?;
        Ok(Self { raw: raw as usize, device: device.clone() })
    }

    /// The native handle, for calls that this crate does not wrap. Valid while `self` lives.
    pub fn raw(&self) -> *mut c_void {
        self.raw as *mut c_void
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Whether everything submitted so far is done.
    ///
    /// # Errors
    /// Work on it failed, or the device is lost.
    pub fn is_idle(&self, on: &Bound<'_>) -> Result<bool> {
        let mut status = acl::ACL_STREAM_STATUS_RESERVED;
        // SAFETY: a live stream; writes one integer to a local.
        let code = unsafe { (on.acl().aclrtStreamQuery)(self.raw(), &mut status) };
        check(on.acl(), code, "query stream", || format!("device {}", on.user_id()))?;
        match status {
            acl::ACL_STREAM_STATUS_COMPLETE => Ok(true),
            acl::ACL_STREAM_STATUS_NOT_READY => Ok(false),
            other => Err(Error::new(
                ErrorKind::Internal,
                "query stream",
                format!("status {other} is none that this build knows"),
            )),
        }
    }

    /// Waits until everything submitted so far is done. Blocks: not for the posting thread.
    ///
    /// # Errors
    /// `TimedOut`: the work goes on, and its memory is not quiet before [`Self::abort`] and another wait. Or what the
    /// work failed with.
    pub fn wait(&self, on: &Bound<'_>, timeout: Duration) -> Result<()> {
        // SAFETY: a live stream, plain arguments.
        let code = unsafe { (on.acl().aclrtSynchronizeStreamWithTimeout)(self.raw(), millis(timeout)) };
        check(on.acl(), code, "wait for stream", || format!("device {}, {timeout:?}", on.user_id()))
    }

    /// Ends what is in flight. Its memory is quiet once a [`Self::wait`] after it has returned well, or said that the work was
    /// aborted or how a copy failed.
    ///
    /// # Errors
    /// The device is lost, or cannot abort.
    pub fn abort(&self, on: &Bound<'_>) -> Result<()> {
        // SAFETY: a live stream.
        let code = unsafe { (on.acl().aclrtStreamAbort)(self.raw()) };
        check(on.acl(), code, "abort stream", || format!("device {}", on.user_id()))
    }

    /// Aborts what is in flight and waits for it; whether nothing of it moves any more.
    pub(crate) fn stop(&self, on: &Bound<'_>) -> bool {
        let aborted = self.abort(on);
        match (self.wait(on, AFTER_ABORT), aborted) {
            (waited, Ok(())) => has_passed(&waited),
            (waited, Err(_)) => waited.is_ok(),
        }
    }

    /// Submits a copy.
    ///
    /// # Errors
    /// The library refused: nothing was submitted.
    ///
    /// # Safety
    /// Until the stream has passed the copy (a [`Self::wait`] or an event said so), `len` bytes from `to` on stay mapped
    /// and writable, and from `from` on mapped: in the device's memory, a mapped peer's, or pinned host memory, as `way`
    /// says. No Rust reference to any of them is used meanwhile.
    pub unsafe fn copy(&self, on: &Bound<'_>, to: u64, from: u64, len: u64, way: Way) -> Result<()> {
        let api = on.acl();
        // SAFETY: the caller vouches for both ranges; the room at the destination is what is copied.
        let code = unsafe {
            (api.aclrtMemcpyAsync)(
                to as *mut c_void,
                len as usize,
                from as *const c_void,
                len as usize,
                way.kind(),
                self.raw(),
            )
        };
        check(api, code, "copy", || format!("{len} bytes from {from:#x} to {to:#x}, {way:?}"))
    }

    /// Records `event`: it fires when all that was submitted before is done.
    ///
    /// # Errors
    /// The device is lost, or has no room.
    pub fn record(&self, on: &Bound<'_>, event: &Event) -> Result<()> {
        let events = events(on.acl())?;
        // SAFETY: a live event and a live stream.
        let code = unsafe { (events.aclrtRecordEvent)(event.raw(), self.raw()) };
        check(on.acl(), code, "record event", || format!("device {}", on.user_id()))
    }

    /// What is submitted from here on starts after `event` has fired.
    ///
    /// # Errors
    /// The library refused.
    ///
    /// # Safety
    /// `event` is a live event of this process, recorded before, and stays one until the stream has passed this point.
    pub unsafe fn wait_for(&self, on: &Bound<'_>, event: *mut c_void) -> Result<()> {
        let events = events(on.acl())?;
        // SAFETY: a live stream; the caller vouches for the event.
        let code = unsafe { (events.aclrtStreamWaitEvent)(self.raw(), event) };
        check(on.acl(), code, "wait for event", || format!("device {}", on.user_id()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let raw = self.raw;
        self.device.retire("destroy stream", move |on| {
            // SAFETY: ours, made by `create`, and not used after this.
            let code = unsafe { (on.acl().aclrtDestroyStream)(raw as acl::aclrtStream) };
            if let Err(error) = check(on.acl(), code, "destroy stream", String::new) {
                tracing::warn!(%error, "a stream is leaked");
            }
        });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:#x})", self.raw)
    }
}
