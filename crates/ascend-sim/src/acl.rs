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

// Sizes and offsets as CANN has them.
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Location>() == 8 && offset_of!(Location, kind) == 4);
    assert!(size_of::<memory::Attributes>() == 28 && offset_of!(memory::Attributes, page) == 8);
    assert!(size_of::<batch::Attribute>() == 32 && offset_of!(batch::Attribute, src) == 8);
    assert!(size_of::<vmm::Property>() == 32 && offset_of!(vmm::Property, reserved) == 24);
    assert!(size_of::<vmm::Access>() == 24 && offset_of!(vmm::Access, location) == 4);
    assert!(size_of::<share::Blob>() == 128 && size_of::<event_ipc::Handle>() == 64);
    assert!(size_of::<ipc::ServerPid>() == 24 && size_of::<version::PackageVersion>() == 512);
    assert!(size_of::<recovery::ErrorInfo>() == 2576 && offset_of!(recovery::ErrorInfo, kind) == 4);
    assert!(size_of::<recovery::UceInfo>() == 128 && offset_of!(recovery::UceInfo, len) == 8);
};
