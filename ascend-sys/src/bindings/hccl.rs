// Made by `cargo xtask bindings` from include/hccl.h. Do not edit.

use super::acl::aclrtStream;
pub const HCCL_SUCCESS: HcclResult = 0;
pub const HCCL_E_PARA: HcclResult = 1;
pub const HCCL_E_PTR: HcclResult = 2;
pub const HCCL_E_MEMORY: HcclResult = 3;
pub const HCCL_E_INTERNAL: HcclResult = 4;
pub const HCCL_E_NOT_SUPPORT: HcclResult = 5;
pub const HCCL_E_NOT_FOUND: HcclResult = 6;
pub const HCCL_E_UNAVAIL: HcclResult = 7;
pub const HCCL_E_SYSCALL: HcclResult = 8;
pub const HCCL_E_TIMEOUT: HcclResult = 9;
pub const HCCL_E_OPEN_FILE_FAILURE: HcclResult = 10;
pub const HCCL_E_TCP_CONNECT: HcclResult = 11;
pub const HCCL_E_ROCE_CONNECT: HcclResult = 12;
pub const HCCL_E_TCP_TRANSFER: HcclResult = 13;
pub const HCCL_E_ROCE_TRANSFER: HcclResult = 14;
pub const HCCL_E_RUNTIME: HcclResult = 15;
pub const HCCL_E_DRV: HcclResult = 16;
pub const HCCL_E_PROFILING: HcclResult = 17;
pub const HCCL_E_CCE: HcclResult = 18;
pub const HCCL_E_NETWORK: HcclResult = 19;
pub const HCCL_E_AGAIN: HcclResult = 20;
pub const HCCL_E_REMOTE: HcclResult = 21;
pub const HCCL_E_SUSPENDING: HcclResult = 22;
pub const HCCL_E_OPRETRY_FAIL: HcclResult = 23;
pub const HCCL_E_OOM: HcclResult = 24;
pub const HCCL_E_IN_STATUS: HcclResult = 1041;
pub const HCCL_E_RESERVED: HcclResult = 1042;
pub type HcclResult = core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HcclRootInfo {
    pub internal: [core::ffi::c_char; 4108usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HcclCommConfig {
    pub reserved: [core::ffi::c_char; 24usize],
    pub hcclBufferSize: u32,
    pub hcclDeterministic: u32,
    pub hcclCommName: [core::ffi::c_char; 128usize],
    pub hcclUdi: [core::ffi::c_char; 128usize],
    pub hcclOpExpansionMode: u32,
    pub hcclRdmaTrafficClass: u32,
    pub hcclRdmaServiceLevel: u32,
    pub hcclWorldRankID: u32,
    pub hcclJobID: u64,
    pub aclGraphZeroCopyEnable: u8,
    pub hcclExecTimeOut: i32,
    pub hcclAlgo: [core::ffi::c_char; 1600usize],
    pub hcclRetryEnable: [core::ffi::c_char; 50usize],
    pub hcclRetryParams: [core::ffi::c_char; 128usize],
    pub hcclBufferName: [core::ffi::c_char; 128usize],
    pub hcclQos: u32,
    pub hcclSymWinMaxMemSizePerRank: u64,
    pub hcclChannelSqDepth: u32,
}
pub type HcclComm = *mut core::ffi::c_void;
pub const HCCL_DATA_TYPE_INT8: HcclDataType = 0;
pub const HCCL_DATA_TYPE_INT16: HcclDataType = 1;
pub const HCCL_DATA_TYPE_INT32: HcclDataType = 2;
pub const HCCL_DATA_TYPE_FP16: HcclDataType = 3;
pub const HCCL_DATA_TYPE_FP32: HcclDataType = 4;
pub const HCCL_DATA_TYPE_INT64: HcclDataType = 5;
pub const HCCL_DATA_TYPE_UINT64: HcclDataType = 6;
pub const HCCL_DATA_TYPE_UINT8: HcclDataType = 7;
pub const HCCL_DATA_TYPE_UINT16: HcclDataType = 8;
pub const HCCL_DATA_TYPE_UINT32: HcclDataType = 9;
pub const HCCL_DATA_TYPE_FP64: HcclDataType = 10;
pub const HCCL_DATA_TYPE_BFP16: HcclDataType = 11;
pub const HCCL_DATA_TYPE_INT128: HcclDataType = 12;
pub const HCCL_DATA_TYPE_HIF8: HcclDataType = 14;
pub const HCCL_DATA_TYPE_FP8E4M3: HcclDataType = 15;
pub const HCCL_DATA_TYPE_FP8E5M2: HcclDataType = 16;
pub const HCCL_DATA_TYPE_FP8E8M0: HcclDataType = 17;
pub const HCCL_DATA_TYPE_RESERVED: HcclDataType = 255;
pub type HcclDataType = core::ffi::c_uint;
pub const HCCL_SEND: HcclSendRecvType = 0;
pub const HCCL_RECV: HcclSendRecvType = 1;
pub const HCCL_SEND_RECV_RESERVED: HcclSendRecvType = 2;
pub type HcclSendRecvType = core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HcclSendRecvItem {
    pub sendRecvType: HcclSendRecvType,
    pub buf: *mut core::ffi::c_void,
    pub count: u64,
    pub dataType: HcclDataType,
    pub remoteRank: u32,
}
pub const HCCL_COMM_CONFIG_BUFFER_SIZE: HcclCommConfigCapability = 0;
pub const HCCL_COMM_CONFIG_DETERMINISTIC: HcclCommConfigCapability = 1;
pub const HCCL_COMM_CONFIG_COMM_NAME: HcclCommConfigCapability = 2;
pub const HCCL_COMM_CONFIG_OP_EXPANSION_MODE: HcclCommConfigCapability = 3;
pub const HCCL_COMM_CONFIG_SUPPORT_INIT_BY_ENV: HcclCommConfigCapability = 4;
pub const HCCL_COMM_CONFIG_WORLD_RANKID: HcclCommConfigCapability = 5;
pub const HCCL_COMM_CONFIG_JOBID: HcclCommConfigCapability = 6;
pub const HCCL_COMM_CONFIG_ACLGRAPH_ZEROCOPY_ENABLE: HcclCommConfigCapability = 7;
pub const HCCL_COMM_CONFIG_EXEC_TIMEOUT: HcclCommConfigCapability = 8;
pub const HCCL_COMM_CONFIG_ALGO: HcclCommConfigCapability = 9;
pub const HCCL_COMM_CONFIG_RETRY: HcclCommConfigCapability = 10;
pub const HCCL_COMM_CONFIG_BUFFER_NAME: HcclCommConfigCapability = 11;
pub const HCCL_COMM_CONFIG_RESERVED: HcclCommConfigCapability = 12;
pub type HcclCommConfigCapability = core::ffi::c_uint;
pub const HCCL_ROOT_INFO_BYTES: u32 = 4108;
pub const HCCL_COMM_CONFIG_INFO_BYTES: u32 = 24;
pub const HCCL_COMM_CONFIG_MAGIC_WORD: u32 = 4042322160;
pub const HCCL_COMM_CONFIG_VERSION: u32 = 11;
pub const COMM_NAME_MAX_LENGTH: u32 = 128;
pub const UDI_MAX_LENGTH: u32 = 128;
pub const BUFFER_NAME_MAX_LENGTH: u32 = 128;
pub const HCCL_COMM_ALGO_MAX_LENGTH: u32 = 1600;
pub const HCCL_COMM_RETRY_ENABLE_MAX_LENGTH: u32 = 50;
pub const HCCL_COMM_RETRY_PARAMS_MAX_LENGTH: u32 = 128;
pub const HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_TRAFFIC_CLASS_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_SERVICE_LEVEL_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_QOS_CONFIG_NOT_SET: u32 = 4294967295;
pub const HCCL_COMM_SQ_DEPTH_CONFIG_NOT_SET: u32 = 4294967295;
pub type HcclGetRootInfo = unsafe extern "C" fn(rootInfo: *mut HcclRootInfo) -> HcclResult;
pub type HcclCommInitRootInfoConfig = unsafe extern "C" fn(
    nRanks: u32,
    rootInfo: *const HcclRootInfo,
    rank: u32,
    config: *const HcclCommConfig,
    comm: *mut HcclComm,
) -> HcclResult;
pub type HcclCommDestroy = unsafe extern "C" fn(comm: HcclComm) -> HcclResult;
pub type HcclGetCommAsyncError =
    unsafe extern "C" fn(comm: HcclComm, asyncError: *mut HcclResult) -> HcclResult;
pub type HcclGetErrorString = unsafe extern "C" fn(code: HcclResult) -> *const core::ffi::c_char;
pub type HcclSend = unsafe extern "C" fn(
    sendBuf: *mut core::ffi::c_void,
    count: u64,
    dataType: HcclDataType,
    destRank: u32,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult;
pub type HcclRecv = unsafe extern "C" fn(
    recvBuf: *mut core::ffi::c_void,
    count: u64,
    dataType: HcclDataType,
    srcRank: u32,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult;
pub type HcclBatchSendRecv = unsafe extern "C" fn(
    sendRecvInfo: *mut HcclSendRecvItem,
    itemNum: u32,
    comm: HcclComm,
    stream: aclrtStream,
) -> HcclResult;
pub type HcclCommInitRootInfo = unsafe extern "C" fn(
    nRanks: u32,
    rootInfo: *const HcclRootInfo,
    rank: u32,
    comm: *mut HcclComm,
) -> HcclResult;
pub type HcclGetRankSize = unsafe extern "C" fn(comm: HcclComm, rankSize: *mut u32) -> HcclResult;
pub type HcclGetRankId = unsafe extern "C" fn(comm: HcclComm, rank: *mut u32) -> HcclResult;
pub type HcclGetCommName =
    unsafe extern "C" fn(comm: HcclComm, commName: *mut core::ffi::c_char) -> HcclResult;
pub type HcclGetCommConfigCapability = unsafe extern "C" fn() -> u32;
pub type HcclCommSuspend = unsafe extern "C" fn(comm: HcclComm) -> HcclResult;
pub type HcclCommResume = unsafe extern "C" fn(comm: HcclComm) -> HcclResult;
