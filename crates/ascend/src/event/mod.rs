//! Events: what tells that a stream has passed a point.

mod poller;

use std::ffi::c_void;
use std::fmt;
use std::ptr::null_mut;
use std::sync::Arc;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};

use crate::device::{Bound, Device};
use crate::error::check;
pub use poller::{EventPoller, WatchId};

/// An event of our own. Can be recorded again and again. Destroyed on a slow thread of the device, which it keeps.
pub struct Event {
    raw: usize,
    device: Arc<Device>,
}

impl Event {
    /// A new event of `device`. `on` must be of the same device.
    ///
    /// # Errors
    /// `Full`: the device has none left. `Unsupported`: this release has no events. `ApiMisuse`: `on` is of another device.
    pub fn create(device: &Arc<Device>, on: &Bound<'_>) -> Result<Self> {
        device.check_bound("create event", on)?;
        let events = events(on.acl())?;
        let mut raw: acl::aclrtEvent = null_mut();
        // SAFETY: writes one pointer to a local; the thread has the device's context.
        let code = unsafe { (events.aclrtCreateEventExWithFlag)(&mut raw, acl::ACL_EVENT_SYNC) };
        check(on.acl(), code, "create event", || format!("device {}", on.user_id()))?;
        Ok(Self { raw: raw as usize, device: device.clone() })
    }

    /// The native handle (`aclrtEvent`), for a consumer's own stream to wait for. Valid while `self` lives.
    pub fn raw(&self) -> *mut c_void {
        self.raw as *mut c_void
    }

    /// Whether it has fired since it was last recorded.
    ///
    /// # Errors
    /// The work before it failed, or the device is lost.
    pub fn has_fired(&self, on: &Bound<'_>) -> Result<bool> {
        // SAFETY: live while `self` is.
        unsafe { has_fired(on, self.raw()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let raw = self.raw;
        self.device.retire("destroy event", move |on| {
            let Some(events) = &on.acl().events else { return };
            // SAFETY: ours, made by `create`, and not used after this.
            let code = unsafe { (events.aclrtDestroyEvent)(raw as acl::aclrtEvent) };
            if let Err(error) = check(on.acl(), code, "destroy event", String::new) {
                tracing::warn!(%error, "an event is leaked");
            }
        });
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:#x})", self.raw)
    }
}

/// The functions for events.
///
/// # Errors
/// `Unsupported`: this release has none.
pub(crate) fn events(api: &'static acl::Api) -> Result<&'static acl::Events> {
    api.events.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "events",
            "this AscendCL exports no event functions; CANN 8.5.0 and later have them",
        )
    })
}

/// Whether `event` has fired since it was last recorded. `aclrtQueryEventStatus` says 1 for "complete"; the older
/// `aclrtQueryEvent` says 0 for it, and is never called here.
///
/// # Safety
/// `event` is a live event of this process.
pub(crate) unsafe fn has_fired(on: &Bound<'_>, event: *mut c_void) -> Result<bool> {
    let events = events(on.acl())?;
    let mut status = acl::aclrtEventRecordedStatus::MAX;
    // SAFETY: the caller vouches for the event; writes one integer to a local.
    let code = unsafe { (events.aclrtQueryEventStatus)(event, &mut status) };
    check(on.acl(), code, "query event", || format!("event {event:p} of device {}", on.user_id()))?;
    match status {
        acl::ACL_EVENT_RECORDED_STATUS_COMPLETE => Ok(true),
        acl::ACL_EVENT_RECORDED_STATUS_NOT_READY => Ok(false),
        other => Err(Error::new(
            ErrorKind::Internal,
            "query event",
            format!("status {other} is none that this build knows"),
        )),
    }
}
