//! HIXL's C functions: a server and its clients. Calls only, no decisions.

use std::ffi::{CStr, c_char};
use std::ptr::{NonNull, null_mut};

use ascend_sys::hixl_cs::*;
use ropeway_core::Op;

use crate::hixl::registry::{Kind, Span};
use crate::hixl::shim::{Code, Progress, code};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// What peers' clients connect to. Leaked unless it is [ended](Self::end).
pub(super) struct Server {
    api: &'static Api,
    handle: NonNull<core::ffi::c_void>,
}

// SAFETY: the server is driven by slow threads one at a time, under the registry's lock; the handle is an opaque pointer to
// it that only `end` invalidates, which takes the value.
unsafe impl Send for Server {}
// SAFETY: as above.
unsafe impl Sync for Server {}

impl Server {
    /// One that listens.
    pub(super) fn listen(
        api: &'static Api,
        endpoints: &[EndpointDesc],
        address: &CStr,
        port: u16,
        resources: &CStr,
    ) -> Result<Self, Code> {
        let about = HixlServerDesc {
            endpoint_list: endpoints.as_ptr(),
            server_ip: address.as_ptr(),
            server_port: port.into(),
            endpoint_list_num: endpoints.len() as u32,
            reserved: [0; 104],
        };
        let config = HixlServerConfig { global_resource_config: resources.as_ptr(), reserved: [0; 120] };
        let mut handle = null_mut();
        // SAFETY: the description, the list and the strings live for the call, which copies them; writes one pointer.
        done(unsafe { (api.HixlCSServerCreate)(&about, &config, &mut handle) })?;
        let server = Self { api, handle: NonNull::new(handle).ok_or(code::FAILED)? };
        // SAFETY: the handle was just made.
        match done(unsafe { (api.HixlCSServerListen)(handle, BACKLOG) }) {
            Ok(()) => Ok(server),
            Err(number) => {
                server.end();
                Err(number)
            }
        }
    }

    /// Opens a range to clients. Its memory must stay until [`Self::unregister`] succeeded.
    pub(super) fn register(&self, span: Span) -> Result<usize, Code> {
        let mut handle = null_mut();
        let memory = memory(span);
        let call = self.api.HixlCSServerRegMem;
        // SAFETY: the handle lives; the description and the tag live for the call; writes one pointer.
        done(unsafe { call(self.handle.as_ptr(), c"ropeway".as_ptr(), &memory, &mut handle) })?;
        Ok(handle as usize)
    }

    pub(super) fn unregister(&self, handle: usize) -> Result<(), Code> {
        let call = self.api.HixlCSServerUnregMem;
        // SAFETY: both handles are the library's; the registry hands each of the latter in once.
        done(unsafe { call(self.handle.as_ptr(), handle as *mut _) })
    }

    /// Stops listening and frees it.
    pub(super) fn end(self) {
        // SAFETY: the handle lives, and is not used after: this took the value.
        let code = unsafe { (self.api.HixlCSServerDestroy)(self.handle.as_ptr()) };
        if code != 0 {
            tracing::warn!(code, "HIXL's server could not be ended");
        }
    }
}

/// One directed link to one server. Leaked unless it is [ended](Self::end): what it still does to memory is not known
/// then.
pub(super) struct Client {
    api: &'static Api,
    handle: NonNull<core::ffi::c_void>,
    /// The library's form of a request, built anew for each post.
    scratch: Vec<HixlOneSideOpDesc>,
}

// SAFETY: one mover owns it and calls it through `&mut self`, from any thread: the library installs the context that it was
// made with around each call.
unsafe impl Send for Client {}

impl Client {
    /// One that is not connected. The thread has the device's context.
    pub(super) fn create(
        api: &'static Api,
        ends: (&EndpointDesc, &EndpointDesc),
        server: (&CStr, u16),
        quality: (u8, u8),
        resources: &CStr,
        room: usize,
    ) -> Result<Self, Code> {
        let about = HixlClientDesc {
            local_endpoint: ends.0,
            remote_endpoint: ends.1,
            server_ip: server.0.as_ptr(),
            server_port: server.1.into(),
            // Taken as they are: zero would not mean the default.
            tc: quality.0,
            sl: quality.1,
            reserved: [0; 98],
        };
        let config = HixlClientConfig { global_resource_config: resources.as_ptr(), reserved: [0; 120] };
        let mut handle = null_mut();
        // SAFETY: the description, endpoints and strings live for the call, which copies them; writes one pointer.
        done(unsafe { (api.HixlCSClientCreate)(&about, &config, &mut handle) })?;
        let handle = NonNull::new(handle).ok_or(code::FAILED)?;
        Ok(Self { api, handle, scratch: Vec::with_capacity(room) })
    }

    /// Makes a range usable as the local end. Its memory must stay until the client has ended.
    pub(super) fn register(&mut self, span: Span) -> Result<(), Code> {
        let mut handle = null_mut();
        let memory = memory(span);
        let call = self.api.HixlCSClientRegMem;
        // SAFETY: the handle lives; the description and the tag live for the call; writes one pointer, which is let go with
        // the client.
        done(unsafe { call(self.handle.as_ptr(), c"ropeway".as_ptr(), &memory, &mut handle) })
    }

    pub(super) fn connect(&mut self, timeout_ms: u32) -> Result<(), Code> {
        // SAFETY: the handle lives.
        done(unsafe { (self.api.HixlCSClientConnect)(self.handle.as_ptr(), timeout_ms) })
    }

    /// What the server has opened, without the library's own.
    pub(super) fn remote_memory(&mut self, timeout_ms: u32) -> Result<Vec<Span>, Code> {
        let (mut list, mut tags, mut count) = (null_mut(), null_mut(), 0);
        let call = self.api.HixlCSClientGetRemoteMem;
        // SAFETY: the handle lives; writes two pointers and a number.
        done(unsafe { call(self.handle.as_ptr(), &mut list, &mut tags, &mut count, timeout_ms) })?;
        if count == 0 || list.is_null() || tags.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: the library's list has `count` elements and stays until the next call of this client, which `&mut self`
        // keeps off.
        let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
        // SAFETY: as above.
        let tags = unsafe { std::slice::from_raw_parts(tags, count as usize) };
        let span = |memory: &CommMem| {
            let kind = if memory.type_ == COMM_MEM_TYPE_HOST { Kind::Host } else { Kind::Device };
            Span { address: memory.addr as u64, len: memory.size, kind }
        };
        let users = list.iter().zip(tags).filter(|(_, tag)| !is_builtin(**tag));
        Ok(users.map(|(memory, _)| span(memory)).collect())
    }

    /// Starts copies. Allocates nothing on this side of the library.
    ///
    /// # Safety
    /// Until the request is reported as over by [`Self::status`], or proven over after [`Self::end`], the local ranges stay
    /// allocated, and nobody relies on the bytes that the copies write.
    #[inline]
    pub(super) unsafe fn post(&mut self, op: Op, descs: &[crate::link::Desc]) -> Result<u64, Code> {
        self.scratch.clear();
        self.scratch.extend(descs.iter().map(|desc| HixlOneSideOpDesc {
            remote_buf: desc.remote as *mut _,
            local_buf: desc.local as *mut _,
            len: desc.len,
        }));
        let count = self.scratch.len() as u32;
        let (handle, list) = (self.handle.as_ptr(), self.scratch.as_ptr());
        let mut request = null_mut();
        let code = match op {
            // SAFETY: the handle lives, the list lives for the call; the caller answers for the memory.
            Op::Read => unsafe { (self.api.HixlCSClientBatchGetAsync)(handle, count, list, &mut request) },
            // SAFETY: as above.
            Op::Write => unsafe { (self.api.HixlCSClientBatchPutAsync)(handle, count, list, &mut request) },
        };
        done(code).map(|()| request as u64)
    }

    /// How far a request is. Asked until it gives something else than `Waiting`, and never after.
    #[inline]
    pub(super) fn status(&mut self, request: u64) -> Progress {
        let mut status = HIXL_COMPLETE_STATUS_FAILED;
        let call = self.api.HixlCSClientQueryCompleteStatus;
        // SAFETY: the handle lives; the request is one of its own that was not reported as over; writes one integer.
        let code = unsafe { call(self.handle.as_ptr(), request as *mut _, &mut status) };
        match (code, status) {
            (0, HIXL_COMPLETE_STATUS_WAITING) => Progress::Waiting,
            (0, HIXL_COMPLETE_STATUS_COMPLETED) => Progress::Completed,
            (0, _) => Progress::Failed(code::FAILED),
            (code, _) => Progress::Failed(code),
        }
    }

    /// Ends the link and frees the client, and with it its registrations. May take long. Gives the library's answer: after
    /// a failure nothing is known.
    pub(super) fn end(self) -> Result<(), Code> {
        // SAFETY: the handle lives, and is not used after: this took the value, so no other call runs either.
        done(unsafe { (self.api.HixlCSClientDestroy)(self.handle.as_ptr()) })
    }
}

fn memory(span: Span) -> CommMem {
    let type_ = match span.kind {
        Kind::Device => COMM_MEM_TYPE_DEVICE,
        Kind::Host => COMM_MEM_TYPE_HOST,
    };
    CommMem { type_, addr: span.address as *mut _, size: span.len }
}

fn is_builtin(tag: *const c_char) -> bool {
    if tag.is_null() {
        return false;
    }
    // SAFETY: not null, so one of the library's C strings, which stay until the client's next call.
    let tag = unsafe { CStr::from_ptr(tag) };
    BUILTIN_TAGS.iter().any(|builtin| tag.to_bytes() == builtin.as_bytes())
}

fn done(code: Code) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}
