//! Declarations of `reference/reference.h`; nothing else is here.

use std::ffi::{c_int, c_uint, c_void};

/// One copy: offsets from the start of the local and the remote pool, and bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Desc {
    pub(crate) local: u64,
    pub(crate) remote: u64,
    pub(crate) len: u64,
}

/// Opaque: the threads that share a list.
#[repr(C)]
pub(super) struct Crew {
    private: [u8; 0],
}

// SAFETY: the signatures are those of reference.h, which the same build compiles; what each call needs of its pointers is
// said and upheld at the call.
unsafe extern "C" {
    pub(super) fn ref_crew_open(threads: c_uint) -> *mut Crew;
    pub(super) fn ref_crew_close(crew: *mut Crew);
    pub(super) fn ref_copy(
        crew: *mut Crew,
        op: c_int,
        routine: c_int,
        local: *mut c_void,
        remote: *mut c_void,
        list: *const Desc,
        count: usize,
    ) -> c_int;
    pub(super) fn ref_cma(
        crew: *mut Crew,
        op: c_int,
        pid: libc::pid_t,
        local: *mut c_void,
        remote: u64,
        list: *const Desc,
        count: usize,
    ) -> c_int;
    pub(super) fn ref_stream(
        crew: *mut Crew,
        op: c_int,
        sockets: *const c_int,
        local: *mut c_void,
        list: *const Desc,
        count: usize,
    ) -> c_int;
    pub(super) fn ref_stream_serve(
        socket: c_int,
        share: c_uint,
        shares: c_uint,
        pool: *mut c_void,
        list: *const Desc,
        count: usize,
    ) -> c_int;
    pub(super) fn ref_stream_tune(socket: c_int);
    pub(super) fn ref_share(share: c_uint, shares: c_uint, list: *const Desc, count: usize) -> usize;
    pub(super) fn ref_ping(socket: c_int, out: *mut u64, rounds: usize) -> c_int;
    pub(super) fn ref_pong(socket: c_int) -> c_int;
    pub(super) fn ref_wake(how: c_int, out: *mut u64, rounds: usize) -> c_int;
}
