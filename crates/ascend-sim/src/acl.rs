//! AscendCL: every function exported as `sim_<name>`, with the rules of the real one.

pub mod batch;
pub mod cells;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod event_ipc;
pub mod host;
pub mod init;
pub mod ipc;
pub mod kernel;
pub mod memory;
pub mod notify;
pub mod peer;
pub mod plane;
pub mod recovery;
pub mod share;
pub mod stream;
pub mod version;
pub mod vmm;

use std::ffi::c_char;

/// Where memory is: `aclrtMemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The device's user id.
    pub id: u32,
    /// One of [`HOST`], [`DEVICE`], [`UNREGISTERED`].
    pub kind: u32,
}

/// Location type of pinned host memory.
pub const HOST: u32 = 0;
/// Location type of device memory.
pub const DEVICE: u32 = 1;
/// Location type of host memory that is not registered.
pub const UNREGISTERED: u32 = 2;

/// Bytes of the buffer that takes an export key.
pub const KEY_LEN: usize = 65;

/// A key as a C caller holds it.
pub type Key = [c_char; KEY_LEN];
