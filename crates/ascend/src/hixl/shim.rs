//! HIXL's C++ class through the shim: calls, and what their numbers mean to a link. No decisions.

use std::ffi::{CStr, CString};
use std::ptr::{NonNull, null_mut};

use ascend_sys::shim;
use ropeway_core::Op;

use super::registry::Span;
use crate::link::Desc;

/// One `hixl::Hixl`.
///
/// The class may be called from several threads at once. It is finalised and destroyed by [`Self::end`] alone: dropped
/// without it, it is leaked, since what a link still does to memory is not known then.
pub(super) struct Hixl {
    api: &'static shim::Api,
    handle: NonNull<shim::RopewayHixl>,
}

// SAFETY: HIXL's class bears calls from any thread that has the device's context, several at once; the handle is an opaque
// pointer to it that only `end` invalidates, which takes the value.
unsafe impl Send for Hixl {}
// SAFETY: as above.
unsafe impl Sync for Hixl {}

/// A number of HIXL's that is not success.
pub(super) type Code = u32;

/// What [`Hixl::status`] told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    Waiting,
    Completed,
    Failed(Code),
}

/// HIXL's numbers that links react to.
pub(super) mod code {
    use super::{Code, shim};

    pub(in crate::hixl) const PARAM_INVALID: Code = ascend_sys::hixl_cs::HIXL_PARAM_INVALID;
    pub(in crate::hixl) const TIMEOUT: Code = ascend_sys::hixl_cs::HIXL_TIMEOUT;
    pub(in crate::hixl) const NOT_CONNECTED: Code = ascend_sys::hixl_cs::HIXL_NOT_CONNECTED;
    pub(in crate::hixl) const ALREADY_CONNECTED: Code = ascend_sys::hixl_cs::HIXL_ALREADY_CONNECTED;
    pub(in crate::hixl) const RESOURCE_EXHAUSTED: Code = ascend_sys::hixl_cs::HIXL_RESOURCE_EXHAUSTED;
    pub(in crate::hixl) const FAILED: Code = ascend_sys::hixl_cs::HIXL_FAILED;
    pub(super) const WAITING: u32 = shim::ROPEWAY_HIXL_WAITING;
    pub(super) const COMPLETED: u32 = shim::ROPEWAY_HIXL_COMPLETED;
}

impl Hixl {
    /// A new one, not initialised; `None` when there is no memory for it. The thread has the device's context.
    pub(super) fn create(api: &'static shim::Api) -> Option<Self> {
        // SAFETY: takes nothing; gives an object or null.
        let handle = unsafe { (api.ropeway_hixl_create)() };
        Some(Self { api, handle: NonNull::new(handle)? })
    }

    /// Whether a feature is there; `None` where this release cannot tell.
    pub(super) fn capability(api: &shim::Api, feature: u32) -> Option<bool> {
        // SAFETY: takes nothing.
        let features = unsafe { (api.ropeway_hixl_features)() };
        if features & shim::ROPEWAY_HIXL_FEATURE_CAPABILITY == 0 {
            return None;
        }
        let mut value = 0;
        // SAFETY: writes one integer to a local.
        let code = unsafe { (api.ropeway_hixl_capability)(feature, &mut value) };
        (code == 0).then_some(value == 1)
    }

    pub(super) fn initialize(&self, engine: &CStr, options: &[(CString, CString)]) -> Result<(), Code> {
        let keys: Vec<_> = options.iter().map(|(key, _)| key.as_ptr()).collect();
        let values: Vec<_> = options.iter().map(|(_, value)| value.as_ptr()).collect();
        let call = self.api.ropeway_hixl_initialize;
        // SAFETY: the handle lives; strings end with NUL and, as the two lists, live for the call, which copies them.
        let code = unsafe {
            call(self.handle.as_ptr(), engine.as_ptr(), keys.as_ptr(), values.as_ptr(), options.len())
        };
        done(code)
    }

    /// Registers a range. Its memory must stay until [`Self::deregister`] succeeded or the process ends.
    pub(super) fn register(&self, span: Span) -> Result<usize, Code> {
        let mut handle = null_mut();
        let call = self.api.ropeway_hixl_register_mem;
        // SAFETY: the handle lives; the range is only noted and, where pinned, known to the driver; writes one pointer.
        let code =
            unsafe { call(self.handle.as_ptr(), span.address, span.len, span.kind as u32, &mut handle) };
        done(code).map(|()| handle as usize)
    }

    pub(super) fn deregister(&self, handle: usize) -> Result<(), Code> {
        let call = self.api.ropeway_hixl_deregister_mem;
        // SAFETY: both handles are the library's; the registry hands each of the latter in once.
        done(unsafe { call(self.handle.as_ptr(), handle as *mut _) })
    }

    pub(super) fn connect(&self, remote: &CStr, timeout_ms: i32) -> Result<(), Code> {
        // SAFETY: the handle lives; the string ends with NUL and lives for the call.
        done(unsafe { (self.api.ropeway_hixl_connect)(self.handle.as_ptr(), remote.as_ptr(), timeout_ms) })
    }

    pub(super) fn disconnect(&self, remote: &CStr, timeout_ms: i32) -> Result<(), Code> {
        // SAFETY: as for `connect`.
        done(unsafe { (self.api.ropeway_hixl_disconnect)(self.handle.as_ptr(), remote.as_ptr(), timeout_ms) })
    }

    /// Starts copies. Allocates nothing on this side of the library.
    ///
    /// # Safety
    /// Until the request is reported as over by [`Self::status`], or proven over after a disconnect, the local ranges stay
    /// allocated, and nobody relies on the bytes that the copies write.
    #[inline]
    pub(super) unsafe fn post(&self, remote: &CStr, op: Op, descs: &[Desc]) -> Result<u64, Code> {
        const {
            assert!(size_of::<Desc>() == size_of::<shim::RopewayHixlDesc>());
            assert!(align_of::<Desc>() == align_of::<shim::RopewayHixlDesc>());
            assert!(std::mem::offset_of!(Desc, local) == std::mem::offset_of!(shim::RopewayHixlDesc, local));
            assert!(
                std::mem::offset_of!(Desc, remote) == std::mem::offset_of!(shim::RopewayHixlDesc, remote)
            );
            assert!(std::mem::offset_of!(Desc, len) == std::mem::offset_of!(shim::RopewayHixlDesc, len));
        }
        let op = match op {
            Op::Read => shim::ROPEWAY_HIXL_READ,
            Op::Write => shim::ROPEWAY_HIXL_WRITE,
        };
        let mut request = null_mut();
        let call = self.api.ropeway_hixl_transfer_async;
        let list = descs.as_ptr().cast::<shim::RopewayHixlDesc>();
        // SAFETY: the handle lives; the string and the list live for the call, the list has the layout that was asserted;
        // the caller answers for the memory.
        let code =
            unsafe { call(self.handle.as_ptr(), remote.as_ptr(), op, list, descs.len(), &mut request) };
        done(code).map(|()| request as u64)
    }

    /// How far a request is. Asked until it gives something else than `Waiting`, and never after.
    #[inline]
    pub(super) fn status(&self, request: u64) -> Progress {
        let mut status = 0;
        let call = self.api.ropeway_hixl_transfer_status;
        // SAFETY: the handle lives; the request is one of its own that was not reported as over; writes one integer.
        let code = unsafe { call(self.handle.as_ptr(), request as *mut _, &mut status) };
        match (code, status) {
            (0, code::WAITING) => Progress::Waiting,
            (0, code::COMPLETED) => Progress::Completed,
            (0, _) => Progress::Failed(code::FAILED),
            (code, _) => Progress::Failed(code),
        }
    }

    /// Finalises and destroys it: nothing of it is in flight or registered any more. The thread has the device's context.
    pub(super) fn end(self) {
        // SAFETY: the handle lives.
        unsafe { (self.api.ropeway_hixl_finalize)(self.handle.as_ptr()) };
        // SAFETY: as above; not used after, since this took the value and it has no `Drop`.
        unsafe { (self.api.ropeway_hixl_destroy)(self.handle.as_ptr()) };
    }
}

fn done(code: Code) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}
