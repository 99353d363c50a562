// Made by `cargo xtask bindings` from include/hixl_cs.h. Do not edit.

pub type HixlStatus = u32;
pub const COMM_ADDR_TYPE_RESERVED: CommAddrType = -1;
pub const COMM_ADDR_TYPE_IP_V4: CommAddrType = 0;
pub const COMM_ADDR_TYPE_IP_V6: CommAddrType = 1;
pub const COMM_ADDR_TYPE_ID: CommAddrType = 2;
pub const COMM_ADDR_TYPE_EID: CommAddrType = 3;
pub type CommAddrType = core::ffi::c_int;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CommAddr {
    pub type_: CommAddrType,
    pub __bindgen_anon_1: CommAddr__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union CommAddr__bindgen_ty_1 {
    pub raws: [u8; 36usize],
    pub addr: u32,
    pub addr6: [u8; 16usize],
    pub id: u32,
    pub eid: [u8; 16usize],
}
pub const ENDPOINT_LOC_TYPE_RESERVED: EndpointLocType = -1;
pub const ENDPOINT_LOC_TYPE_DEVICE: EndpointLocType = 0;
pub const ENDPOINT_LOC_TYPE_HOST: EndpointLocType = 1;
pub type EndpointLocType = core::ffi::c_int;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct EndpointLoc {
    pub locType: EndpointLocType,
    pub __bindgen_anon_1: EndpointLoc__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union EndpointLoc__bindgen_ty_1 {
    pub raws: [u8; 60usize],
    pub device: EndpointLoc__bindgen_ty_1__bindgen_ty_1,
    pub host: EndpointLoc__bindgen_ty_1__bindgen_ty_2,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EndpointLoc__bindgen_ty_1__bindgen_ty_1 {
    pub devPhyId: u32,
    pub superDevId: u32,
    pub serverIdx: u32,
    pub superPodIdx: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EndpointLoc__bindgen_ty_1__bindgen_ty_2 {
    pub id: u32,
}
pub const COMM_PROTOCOL_RESERVED: CommProtocol = -1;
pub const COMM_PROTOCOL_HCCS: CommProtocol = 0;
pub const COMM_PROTOCOL_ROCE: CommProtocol = 1;
pub const COMM_PROTOCOL_PCIE: CommProtocol = 2;
pub const COMM_PROTOCOL_SIO: CommProtocol = 3;
pub const COMM_PROTOCOL_UBC_CTP: CommProtocol = 4;
pub const COMM_PROTOCOL_UB_CTP: CommProtocol = 4;
pub const COMM_PROTOCOL_UBC_TP: CommProtocol = 5;
pub const COMM_PROTOCOL_UB_MEM: CommProtocol = 6;
pub const COMM_PROTOCOL_UBOE: CommProtocol = 7;
pub const COMM_PROTOCOL_HCCS_ONLY: CommProtocol = 8;
pub const COMM_PROTOCOL_UBG: CommProtocol = 9;
pub const COMM_PROTOCOL_UB_RTP: CommProtocol = 9;
pub type CommProtocol = core::ffi::c_int;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct EndpointDesc {
    pub protocol: CommProtocol,
    pub commAddr: CommAddr,
    pub loc: EndpointLoc,
    pub raws: [u8; 52usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HixlServerDesc {
    pub endpoint_list: *const EndpointDesc,
    pub server_ip: *const core::ffi::c_char,
    pub server_port: u32,
    pub endpoint_list_num: u32,
    pub reserved: [u8; 104usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HixlServerConfig {
    pub global_resource_config: *const core::ffi::c_char,
    pub reserved: [u8; 120usize],
}
pub type HixlServerHandle = *mut core::ffi::c_void;
pub const COMM_MEM_TYPE_INVALID: CommMemType = -1;
pub const COMM_MEM_TYPE_DEVICE: CommMemType = 0;
pub const COMM_MEM_TYPE_HOST: CommMemType = 1;
pub type CommMemType = core::ffi::c_int;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CommMem {
    pub type_: CommMemType,
    pub addr: *mut core::ffi::c_void,
    pub size: u64,
}
pub type MemHandle = *mut core::ffi::c_void;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HixlClientDesc {
    pub local_endpoint: *const EndpointDesc,
    pub remote_endpoint: *const EndpointDesc,
    pub server_ip: *const core::ffi::c_char,
    pub server_port: u32,
    pub tc: u8,
    pub sl: u8,
    pub reserved: [u8; 98usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HixlClientConfig {
    pub global_resource_config: *const core::ffi::c_char,
    pub reserved: [u8; 120usize],
}
pub type HixlClientHandle = *mut core::ffi::c_void;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HixlOneSideOpDesc {
    pub remote_buf: *mut core::ffi::c_void,
    pub local_buf: *mut core::ffi::c_void,
    pub len: u64,
}
pub type CompleteHandle = *mut core::ffi::c_void;
pub const HIXL_COMPLETE_STATUS_WAITING: HixlCompleteStatus = 0;
pub const HIXL_COMPLETE_STATUS_COMPLETED: HixlCompleteStatus = 1;
pub const HIXL_COMPLETE_STATUS_TIMEOUT: HixlCompleteStatus = 2;
pub const HIXL_COMPLETE_STATUS_FAILED: HixlCompleteStatus = 3;
pub type HixlCompleteStatus = core::ffi::c_uint;
pub const COMM_ADDR_EID_LEN: u32 = 16;
pub const HIXL_SUCCESS: HixlStatus = 0;
pub const HIXL_PARAM_INVALID: HixlStatus = 103900;
pub const HIXL_TIMEOUT: HixlStatus = 103901;
pub const HIXL_NOT_CONNECTED: HixlStatus = 103902;
pub const HIXL_ALREADY_CONNECTED: HixlStatus = 103903;
pub const HIXL_NOTIFY_FAILED: HixlStatus = 103904;
pub const HIXL_UNSUPPORTED: HixlStatus = 103905;
pub const HIXL_RESOURCE_EXHAUSTED: HixlStatus = 203900;
pub const HIXL_FAILED: HixlStatus = 503900;
pub type HixlCSServerCreate = unsafe extern "C" fn(
    server_desc: *const HixlServerDesc,
    config: *const HixlServerConfig,
    server_handle: *mut HixlServerHandle,
) -> HixlStatus;
pub type HixlCSServerRegMem = unsafe extern "C" fn(
    server_handle: HixlServerHandle,
    mem_tag: *const core::ffi::c_char,
    mem: *const CommMem,
    mem_handle: *mut MemHandle,
) -> HixlStatus;
pub type HixlCSServerListen =
    unsafe extern "C" fn(server_handle: HixlServerHandle, backlog: u32) -> HixlStatus;
pub type HixlCSServerUnregMem =
    unsafe extern "C" fn(server_handle: HixlServerHandle, mem_handle: MemHandle) -> HixlStatus;
pub type HixlCSServerDestroy = unsafe extern "C" fn(server_handle: HixlServerHandle) -> HixlStatus;
pub type HixlCSClientCreate = unsafe extern "C" fn(
    client_desc: *const HixlClientDesc,
    config: *const HixlClientConfig,
    client_handle: *mut HixlClientHandle,
) -> HixlStatus;
pub type HixlCSClientConnect =
    unsafe extern "C" fn(client_handle: HixlClientHandle, timeout_ms: u32) -> HixlStatus;
pub type HixlCSClientGetRemoteMem = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    remote_mem_list: *mut *mut CommMem,
    mem_tag_list: *mut *mut *mut core::ffi::c_char,
    list_num: *mut u32,
    timeout_ms: u32,
) -> HixlStatus;
pub type HixlCSClientRegMem = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    mem_tag: *const core::ffi::c_char,
    mem: *const CommMem,
    mem_handle: *mut MemHandle,
) -> HixlStatus;
pub type HixlCSClientUnregMem =
    unsafe extern "C" fn(client_handle: HixlClientHandle, mem_handle: MemHandle) -> HixlStatus;
pub type HixlCSClientBatchPutAsync = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    list_num: u32,
    desc_list: *const HixlOneSideOpDesc,
    complete_handle: *mut CompleteHandle,
) -> HixlStatus;
pub type HixlCSClientBatchGetAsync = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    list_num: u32,
    desc_list: *const HixlOneSideOpDesc,
    complete_handle: *mut CompleteHandle,
) -> HixlStatus;
pub type HixlCSClientBatchPutSync = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    list_num: u32,
    desc_list: *const HixlOneSideOpDesc,
    timeout_ms: u32,
) -> HixlStatus;
pub type HixlCSClientBatchGetSync = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    list_num: u32,
    desc_list: *const HixlOneSideOpDesc,
    timeout_ms: u32,
) -> HixlStatus;
pub type HixlCSClientQueryCompleteStatus = unsafe extern "C" fn(
    client_handle: HixlClientHandle,
    complete_handle: CompleteHandle,
    complete_status: *mut HixlCompleteStatus,
) -> HixlStatus;
pub type HixlCSClientDestroy = unsafe extern "C" fn(client_handle: HixlClientHandle) -> HixlStatus;
