// Made by `cargo xtask bindings` from include/hixl_shim.h. Do not edit.

pub const ROPEWAY_HIXL_ABI: u32 = 1;
pub const ROPEWAY_HIXL_FEATURE_CAPABILITY: u32 = 1;
pub const ROPEWAY_HIXL_FEATURE_ASYNC_CONNECT: u32 = 2;
pub const ROPEWAY_HIXL_FEATURE_BATCH_STATUS: u32 = 4;
pub const ROPEWAY_HIXL_DEVICE: u32 = 0;
pub const ROPEWAY_HIXL_HOST: u32 = 1;
pub const ROPEWAY_HIXL_READ: u32 = 0;
pub const ROPEWAY_HIXL_WRITE: u32 = 1;
pub const ROPEWAY_HIXL_WAITING: u32 = 0;
pub const ROPEWAY_HIXL_COMPLETED: u32 = 1;
pub const ROPEWAY_HIXL_TIMED_OUT: u32 = 2;
pub const ROPEWAY_HIXL_BROKEN: u32 = 3;
pub const ROPEWAY_HIXL_NOT_CONNECT: u32 = 0;
pub const ROPEWAY_HIXL_CONNECT_PENDING: u32 = 1;
pub const ROPEWAY_HIXL_CONNECTING: u32 = 2;
pub const ROPEWAY_HIXL_CONNECTED: u32 = 3;
pub const ROPEWAY_HIXL_CONNECT_FAILED: u32 = 4;
pub const ROPEWAY_HIXL_DISCONNECT_PENDING: u32 = 5;
pub const ROPEWAY_HIXL_DISCONNECTING: u32 = 6;
pub const ROPEWAY_HIXL_AUTO_CONNECT: u32 = 0;
pub const ROPEWAY_HIXL_CLIENT_SERVER_COMM: u32 = 1;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RopewayHixl {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RopewayHixlDesc {
    pub local: u64,
    pub remote: u64,
    pub len: u64,
}
pub type RopewayHixlNotified = ::core::option::Option<
    unsafe extern "C" fn(
        context: *mut core::ffi::c_void,
        name: *const core::ffi::c_char,
        name_len: usize,
        message: *const core::ffi::c_char,
        message_len: usize,
    ),
>;
pub type ropeway_hixl_abi = unsafe extern "C" fn() -> u32;
pub type ropeway_hixl_features = unsafe extern "C" fn() -> u32;
pub type ropeway_hixl_create = unsafe extern "C" fn() -> *mut RopewayHixl;
pub type ropeway_hixl_destroy = unsafe extern "C" fn(hixl: *mut RopewayHixl);
pub type ropeway_hixl_initialize = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    local_engine: *const core::ffi::c_char,
    keys: *const *const core::ffi::c_char,
    values: *const *const core::ffi::c_char,
    count: usize,
) -> u32;
pub type ropeway_hixl_finalize = unsafe extern "C" fn(hixl: *mut RopewayHixl);
pub type ropeway_hixl_register_mem = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    address: u64,
    len: u64,
    kind: u32,
    handle: *mut *mut core::ffi::c_void,
) -> u32;
pub type ropeway_hixl_deregister_mem =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, handle: *mut core::ffi::c_void) -> u32;
pub type ropeway_hixl_connect =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, remote: *const core::ffi::c_char, timeout_ms: i32) -> u32;
pub type ropeway_hixl_disconnect =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, remote: *const core::ffi::c_char, timeout_ms: i32) -> u32;
pub type ropeway_hixl_connect_async =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, remote: *const core::ffi::c_char, timeout_ms: i32) -> u32;
pub type ropeway_hixl_async_status =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, remote: *const core::ffi::c_char, status: *mut u32) -> u32;
pub type ropeway_hixl_transfer_sync = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    remote: *const core::ffi::c_char,
    op: u32,
    descs: *const RopewayHixlDesc,
    count: usize,
    timeout_ms: i32,
) -> u32;
pub type ropeway_hixl_transfer_async = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    remote: *const core::ffi::c_char,
    op: u32,
    descs: *const RopewayHixlDesc,
    count: usize,
    request: *mut *mut core::ffi::c_void,
) -> u32;
pub type ropeway_hixl_transfer_status =
    unsafe extern "C" fn(hixl: *mut RopewayHixl, request: *mut core::ffi::c_void, status: *mut u32) -> u32;
pub type ropeway_hixl_send_notify = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    remote: *const core::ffi::c_char,
    name: *const core::ffi::c_char,
    name_len: usize,
    message: *const core::ffi::c_char,
    message_len: usize,
    timeout_ms: i32,
) -> u32;
pub type ropeway_hixl_get_notifies = unsafe extern "C" fn(
    hixl: *mut RopewayHixl,
    notified: RopewayHixlNotified,
    context: *mut core::ffi::c_void,
) -> u32;
pub type ropeway_hixl_capability = unsafe extern "C" fn(feature: u32, value: *mut i32) -> u32;
