// Made by `cargo xtask bindings` from include/acl.h. Do not edit.

pub type aclError = core::ffi::c_int;
pub type aclrtContext = *mut core::ffi::c_void;
pub type aclrtStream = *mut core::ffi::c_void;
pub type aclrtEvent = *mut core::ffi::c_void;
pub type aclrtDrvMemHandle = *mut core::ffi::c_void;
pub type aclrtNotify = *mut core::ffi::c_void;
pub const ACL_STREAM_STATUS_COMPLETE: aclrtStreamStatus = 0;
pub const ACL_STREAM_STATUS_NOT_READY: aclrtStreamStatus = 1;
pub const ACL_STREAM_STATUS_RESERVED: aclrtStreamStatus = 65535;
pub type aclrtStreamStatus = core::ffi::c_uint;
pub const ACL_MEM_MALLOC_HUGE_FIRST: aclrtMemMallocPolicy = 0;
pub const ACL_MEM_MALLOC_HUGE_ONLY: aclrtMemMallocPolicy = 1;
pub const ACL_MEM_MALLOC_NORMAL_ONLY: aclrtMemMallocPolicy = 2;
pub const ACL_MEM_MALLOC_HUGE_FIRST_P2P: aclrtMemMallocPolicy = 3;
pub const ACL_MEM_MALLOC_HUGE_ONLY_P2P: aclrtMemMallocPolicy = 4;
pub const ACL_MEM_MALLOC_NORMAL_ONLY_P2P: aclrtMemMallocPolicy = 5;
pub const ACL_MEM_MALLOC_HUGE1G_ONLY: aclrtMemMallocPolicy = 6;
pub const ACL_MEM_MALLOC_HUGE1G_ONLY_P2P: aclrtMemMallocPolicy = 7;
pub const ACL_MEM_TYPE_LOW_BAND_WIDTH: aclrtMemMallocPolicy = 256;
pub const ACL_MEM_TYPE_HIGH_BAND_WIDTH: aclrtMemMallocPolicy = 4096;
pub const ACL_MEM_ACCESS_USER_SPACE_READONLY: aclrtMemMallocPolicy = 1048576;
pub type aclrtMemMallocPolicy = core::ffi::c_uint;
pub const ACL_MEMCPY_HOST_TO_HOST: aclrtMemcpyKind = 0;
pub const ACL_MEMCPY_HOST_TO_DEVICE: aclrtMemcpyKind = 1;
pub const ACL_MEMCPY_DEVICE_TO_HOST: aclrtMemcpyKind = 2;
pub const ACL_MEMCPY_DEVICE_TO_DEVICE: aclrtMemcpyKind = 3;
pub const ACL_MEMCPY_DEFAULT: aclrtMemcpyKind = 4;
pub const ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE: aclrtMemcpyKind = 5;
pub const ACL_MEMCPY_INNER_DEVICE_TO_DEVICE: aclrtMemcpyKind = 6;
pub const ACL_MEMCPY_INTER_DEVICE_TO_DEVICE: aclrtMemcpyKind = 7;
pub type aclrtMemcpyKind = core::ffi::c_uint;
pub const ACL_MEM_LOCATION_TYPE_HOST: aclrtMemLocationType = 0;
pub const ACL_MEM_LOCATION_TYPE_DEVICE: aclrtMemLocationType = 1;
pub const ACL_MEM_LOCATION_TYPE_UNREGISTERED: aclrtMemLocationType = 2;
pub const ACL_MEM_LOCATION_TYPE_MANAGED: aclrtMemLocationType = 3;
pub const ACL_MEM_LOCATION_TYPE_HOST_NUMA: aclrtMemLocationType = 4;
pub type aclrtMemLocationType = core::ffi::c_uint;
pub const ACL_PKG_NAME_CANN: aclCANNPackageName = 0;
pub const ACL_PKG_NAME_RUNTIME: aclCANNPackageName = 1;
pub const ACL_PKG_NAME_COMPILER: aclCANNPackageName = 2;
pub const ACL_PKG_NAME_HCCL: aclCANNPackageName = 3;
pub const ACL_PKG_NAME_TOOLKIT: aclCANNPackageName = 4;
pub const ACL_PKG_NAME_OPP: aclCANNPackageName = 5;
pub const ACL_PKG_NAME_OPP_KERNEL: aclCANNPackageName = 6;
pub const ACL_PKG_NAME_DRIVER: aclCANNPackageName = 7;
pub type aclCANNPackageName = core::ffi::c_uint;
pub const ACL_DEV_ATTR_AICPU_CORE_NUM: aclrtDevAttr = 1;
pub const ACL_DEV_ATTR_AICORE_CORE_NUM: aclrtDevAttr = 101;
pub const ACL_DEV_ATTR_CUBE_CORE_NUM: aclrtDevAttr = 102;
pub const ACL_DEV_ATTR_VECTOR_CORE_NUM: aclrtDevAttr = 201;
pub const ACL_DEV_ATTR_WARP_SIZE: aclrtDevAttr = 202;
pub const ACL_DEV_ATTR_MAX_THREAD_PER_VECTOR_CORE: aclrtDevAttr = 203;
pub const ACL_DEV_ATTR_LOCAL_MEM_PER_VECTOR_CORE: aclrtDevAttr = 204;
pub const ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE: aclrtDevAttr = 204;
pub const ACL_DEV_ATTR_MAX_GRID_DIM_X: aclrtDevAttr = 205;
pub const ACL_DEV_ATTR_MAX_GRID_DIM_Y: aclrtDevAttr = 206;
pub const ACL_DEV_ATTR_MAX_GRID_DIM_Z: aclrtDevAttr = 207;
pub const ACL_DEV_ATTR_MAX_BLOCK_PER_GRID: aclrtDevAttr = 208;
pub const ACL_DEV_ATTR_MAX_THREADS_PER_BLOCK: aclrtDevAttr = 209;
pub const ACL_DEV_ATTR_MAX_BLOCK_DIM_X: aclrtDevAttr = 210;
pub const ACL_DEV_ATTR_MAX_BLOCK_DIM_Y: aclrtDevAttr = 211;
pub const ACL_DEV_ATTR_MAX_BLOCK_DIM_Z: aclrtDevAttr = 212;
pub const ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: aclrtDevAttr = 301;
pub const ACL_DEV_ATTR_L2_CACHE_SIZE: aclrtDevAttr = 302;
pub const ACL_DEV_ATTR_SMP_ID: aclrtDevAttr = 401;
pub const ACL_DEV_ATTR_PHY_CHIP_ID: aclrtDevAttr = 402;
pub const ACL_DEV_ATTR_SUPER_POD_DEVICE_ID: aclrtDevAttr = 403;
pub const ACL_DEV_ATTR_SUPER_POD_DEVIDE_ID: aclrtDevAttr = 403;
pub const ACL_DEV_ATTR_SUPER_POD_SERVER_ID: aclrtDevAttr = 404;
pub const ACL_DEV_ATTR_SUPER_POD_ID: aclrtDevAttr = 405;
pub const ACL_DEV_ATTR_CUST_OP_PRIVILEGE: aclrtDevAttr = 406;
pub const ACL_DEV_ATTR_MAINBOARD_ID: aclrtDevAttr = 407;
pub const ACL_DEV_ATTR_HD_CONNECT_TYPE: aclrtDevAttr = 408;
pub const ACL_DEV_ATTR_DEVICE_FORM_FACTOR: aclrtDevAttr = 409;
pub const ACL_DEV_ATTR_IS_VIRTUAL: aclrtDevAttr = 501;
pub const ACL_DEV_ATTR_NPU_ARCH: aclrtDevAttr = 601;
pub type aclrtDevAttr = core::ffi::c_uint;
pub const ACL_RT_DEVICE_STATUS_NORMAL: aclrtDeviceStatus = 0;
pub const ACL_RT_DEVICE_STATUS_ABNORMAL: aclrtDeviceStatus = 1;
pub const ACL_RT_DEVICE_STATUS_END: aclrtDeviceStatus = 65535;
pub type aclrtDeviceStatus = core::ffi::c_uint;
pub const ACL_EVENT_RECORDED_STATUS_NOT_READY: aclrtEventRecordedStatus = 0;
pub const ACL_EVENT_RECORDED_STATUS_COMPLETE: aclrtEventRecordedStatus = 1;
pub type aclrtEventRecordedStatus = core::ffi::c_uint;
pub const ACL_EVENT_WAIT_STATUS_COMPLETE: aclrtEventWaitStatus = 0;
pub const ACL_EVENT_WAIT_STATUS_NOT_READY: aclrtEventWaitStatus = 1;
pub const ACL_EVENT_WAIT_STATUS_RESERVED: aclrtEventWaitStatus = 65535;
pub type aclrtEventWaitStatus = core::ffi::c_uint;
pub const ACL_RT_MEM_ATTR_RSV: aclrtMallocAttrType = 0;
pub const ACL_RT_MEM_ATTR_MODULE_ID: aclrtMallocAttrType = 1;
pub const ACL_RT_MEM_ATTR_DEVICE_ID: aclrtMallocAttrType = 2;
pub const ACL_RT_MEM_ATTR_VA_FLAG: aclrtMallocAttrType = 3;
pub type aclrtMallocAttrType = core::ffi::c_uint;
pub const ACL_HOST_REGISTER_MAPPED: aclrtHostRegisterType = 0;
pub const ACL_HOST_REGISTER_IOMEMORY: aclrtHostRegisterType = 4;
pub const ACL_HOST_REGISTER_READONLY: aclrtHostRegisterType = 8;
pub type aclrtHostRegisterType = core::ffi::c_uint;
pub const ACL_RT_HAC_TYPE_STARS: aclrtHacType = 0;
pub const ACL_RT_HAC_TYPE_AICPU: aclrtHacType = 1;
pub const ACL_RT_HAC_TYPE_AIC: aclrtHacType = 2;
pub const ACL_RT_HAC_TYPE_AIV: aclrtHacType = 3;
pub const ACL_RT_HAC_TYPE_PCIEDMA: aclrtHacType = 4;
pub const ACL_RT_HAC_TYPE_RDMA: aclrtHacType = 5;
pub const ACL_RT_HAC_TYPE_SDMA: aclrtHacType = 6;
pub const ACL_RT_HAC_TYPE_DVPP: aclrtHacType = 7;
pub const ACL_RT_HAC_TYPE_UDMA: aclrtHacType = 8;
pub const ACL_RT_HAC_TYPE_CCU: aclrtHacType = 9;
pub type aclrtHacType = core::ffi::c_uint;
pub const ACL_RT_HOST_MEM_MAP_NOT_SUPPORTED: aclrtHostMemMapCapability = 0;
pub const ACL_RT_HOST_MEM_MAP_SUPPORTED: aclrtHostMemMapCapability = 1;
pub type aclrtHostMemMapCapability = core::ffi::c_uint;
pub const ACL_DDR_MEM: aclrtMemAttr = 0;
pub const ACL_HBM_MEM: aclrtMemAttr = 1;
pub const ACL_DDR_MEM_HUGE: aclrtMemAttr = 2;
pub const ACL_DDR_MEM_NORMAL: aclrtMemAttr = 3;
pub const ACL_HBM_MEM_HUGE: aclrtMemAttr = 4;
pub const ACL_HBM_MEM_NORMAL: aclrtMemAttr = 5;
pub const ACL_DDR_MEM_P2P_HUGE: aclrtMemAttr = 6;
pub const ACL_DDR_MEM_P2P_NORMAL: aclrtMemAttr = 7;
pub const ACL_HBM_MEM_P2P_HUGE: aclrtMemAttr = 8;
pub const ACL_HBM_MEM_P2P_NORMAL: aclrtMemAttr = 9;
pub const ACL_HBM_MEM_HUGE1G: aclrtMemAttr = 10;
pub const ACL_HBM_MEM_P2P_HUGE1G: aclrtMemAttr = 11;
pub const ACL_MEM_NORMAL: aclrtMemAttr = 12;
pub const ACL_MEM_HUGE: aclrtMemAttr = 13;
pub const ACL_MEM_HUGE1G: aclrtMemAttr = 14;
pub const ACL_MEM_P2P_NORMAL: aclrtMemAttr = 15;
pub const ACL_MEM_P2P_HUGE: aclrtMemAttr = 16;
pub const ACL_MEM_P2P_HUGE1G: aclrtMemAttr = 17;
pub type aclrtMemAttr = core::ffi::c_uint;
pub const ACL_RT_IPC_MEM_ATTR_ACCESS_LINK: aclrtIpcMemAttrType = 0;
pub type aclrtIpcMemAttrType = core::ffi::c_uint;
pub const ACL_MEM_ALLOCATION_TYPE_PINNED: aclrtMemAllocationType = 0;
pub type aclrtMemAllocationType = core::ffi::c_uint;
pub const ACL_MEM_HANDLE_TYPE_NONE: aclrtMemHandleType = 0;
pub const ACL_MEM_HANDLE_TYPE_POSIX: aclrtMemHandleType = 2;
pub type aclrtMemHandleType = core::ffi::c_uint;
pub const ACL_RT_MEM_ACCESS_FLAGS_NONE: aclrtMemAccessFlags = 0;
pub const ACL_RT_MEM_ACCESS_FLAGS_READ: aclrtMemAccessFlags = 1;
pub const ACL_RT_MEM_ACCESS_FLAGS_READWRITE: aclrtMemAccessFlags = 3;
pub type aclrtMemAccessFlags = core::ffi::c_uint;
pub const ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM: aclrtMemGranularityOptions = 0;
pub const ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED: aclrtMemGranularityOptions = 1;
pub const ACL_RT_MEM_ALLOC_GRANULARITY_UNDEF: aclrtMemGranularityOptions = 65535;
pub type aclrtMemGranularityOptions = core::ffi::c_uint;
pub const ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT: aclrtMemSharedHandleType = 1;
pub const ACL_MEM_SHARE_HANDLE_TYPE_FABRIC: aclrtMemSharedHandleType = 2;
pub type aclrtMemSharedHandleType = core::ffi::c_uint;
pub const ACL_RT_AICORE_ERROR_UNKNOWN: aclrtAicoreErrorType = 0;
pub const ACL_RT_AICORE_ERROR_SW: aclrtAicoreErrorType = 1;
pub const ACL_RT_AICORE_ERROR_HW_LOCAL: aclrtAicoreErrorType = 2;
pub type aclrtAicoreErrorType = core::ffi::c_uint;
pub const ACL_RT_NO_ERROR: aclrtErrorType = 0;
pub const ACL_RT_ERROR_MEMORY: aclrtErrorType = 1;
pub const ACL_RT_ERROR_L2: aclrtErrorType = 2;
pub const ACL_RT_ERROR_AICORE: aclrtErrorType = 3;
pub const ACL_RT_ERROR_LINK: aclrtErrorType = 4;
pub const ACL_RT_ERROR_L3_PORT: aclrtErrorType = 5;
pub const ACL_RT_ERROR_OTHERS: aclrtErrorType = 65535;
pub type aclrtErrorType = core::ffi::c_uint;
pub const ACL_RT_DEVICE_STATE_SET_PRE: aclrtDeviceState = 0;
pub const ACL_RT_DEVICE_STATE_SET_POST: aclrtDeviceState = 1;
pub const ACL_RT_DEVICE_STATE_RESET_PRE: aclrtDeviceState = 2;
pub const ACL_RT_DEVICE_STATE_RESET_POST: aclrtDeviceState = 3;
pub type aclrtDeviceState = core::ffi::c_uint;
pub const ACL_RT_THREAD_LEVEL: aclrtLastErrLevel = 0;
pub type aclrtLastErrLevel = core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMemLocation {
    pub id: u32,
    pub type_: aclrtMemLocationType,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtPtrAttributes {
    pub location: aclrtMemLocation,
    pub pageSize: u32,
    pub rsv: [u32; 4usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclCANNPackageVersion {
    pub version: [core::ffi::c_char; 128usize],
    pub majorVersion: [core::ffi::c_char; 64usize],
    pub minorVersion: [core::ffi::c_char; 64usize],
    pub releaseVersion: [core::ffi::c_char; 64usize],
    pub patchVersion: [core::ffi::c_char; 64usize],
    pub reserved: [core::ffi::c_char; 128usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtUuid {
    pub bytes: [core::ffi::c_char; 16usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtIpcEventHandle {
    pub reserved: [core::ffi::c_char; 64usize],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union aclrtMallocAttrValue {
    pub deviceId: u32,
    pub moduleId: u16,
    pub rsv: [u8; 8usize],
    pub vaFlag: u32,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aclrtMallocAttribute {
    pub attr: aclrtMallocAttrType,
    pub value: aclrtMallocAttrValue,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMallocConfig {
    pub attrs: *mut aclrtMallocAttribute,
    pub numAttrs: usize,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMemcpyBatchAttr {
    pub dstLoc: aclrtMemLocation,
    pub srcLoc: aclrtMemLocation,
    pub rsv: [u8; 16usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtServerPid {
    pub sdid: u32,
    pub pid: *mut i32,
    pub num: usize,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtPhysicalMemProp {
    pub handleType: aclrtMemHandleType,
    pub allocationType: aclrtMemAllocationType,
    pub memAttr: aclrtMemAttr,
    pub location: aclrtMemLocation,
    pub reserve: u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMemAccessDesc {
    pub flags: aclrtMemAccessFlags,
    pub location: aclrtMemLocation,
    pub rsv: [u8; 12usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMemUceInfo {
    pub addr: *mut core::ffi::c_void,
    pub len: usize,
    pub reserved: [usize; 14usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclrtMemUceInfoArray {
    pub arraySize: usize,
    pub memUceInfoArray: [aclrtMemUceInfo; 20usize],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union aclrtErrorInfoDetail {
    pub aicoreErrType: aclrtAicoreErrorType,
    pub uceInfo: aclrtMemUceInfoArray,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aclrtErrorInfo {
    pub tryRepair: u8,
    pub hasDetail: u8,
    pub reserved: [u8; 2usize],
    pub errorType: aclrtErrorType,
    pub detail: aclrtErrorInfoDetail,
}
pub type aclrtDeviceStateCallback = ::core::option::Option<
    unsafe extern "C" fn(arg1: i32, arg2: aclrtDeviceState, arg3: *mut core::ffi::c_void),
>;
pub const UCE_INFO_RESERVED_SIZE: u32 = 14;
pub const ACL_RT_MEM_UCE_INFO_MAX_NUM: u32 = 20;
pub const ACL_PKG_VERSION_PARTS_MAX_SIZE: u32 = 64;
pub const ACL_IPC_EVENT_HANDLE_SIZE: u32 = 64;
pub const ACL_PKG_VERSION_MAX_SIZE: u32 = 128;
pub const MAX_MEM_UCE_INFO_ARRAY_SIZE: u32 = 128;
pub const ACL_CONTINUE_ON_FAILURE: u64 = 0;
pub const ACL_STREAM_FAST_LAUNCH: u32 = 1;
pub const ACL_STOP_ON_FAILURE: u64 = 1;
pub const ACL_STREAM_FAST_SYNC: u32 = 2;
pub const ACL_STREAM_PERSISTENT: u32 = 4;
pub const ACL_STREAM_HUGE: u32 = 8;
pub const ACL_STREAM_CPU_SCHEDULE: u32 = 16;
pub const ACL_STREAM_DEVICE_USE_ONLY: u32 = 32;
pub const ACL_EVENT_SYNC: u32 = 1;
pub const ACL_EVENT_CAPTURE_STREAM_PROGRESS: u32 = 2;
pub const ACL_EVENT_TIME_LINE: u32 = 8;
pub const ACL_EVENT_DEVICE_USE_ONLY: u32 = 16;
pub const ACL_EVENT_EXTERNAL: u32 = 32;
pub const ACL_EVENT_IPC: u32 = 64;
pub const ACL_HOST_REG_MAPPED: u32 = 2;
pub const ACL_HOST_REG_IOMEMORY: u32 = 4;
pub const ACL_HOST_REG_READONLY: u32 = 8;
pub const ACL_HOST_REG_PINNED: u32 = 268435456;
pub const ACL_RT_IPC_MEM_ATTR_ACCESS_LINK_SIO: u64 = 0;
pub const ACL_RT_IPC_MEM_EXPORT_FLAG_DEFAULT: u64 = 0;
pub const ACL_RT_IPC_MEM_IMPORT_FLAG_DEFAULT: u64 = 0;
pub const ACL_RT_IPC_MEM_ATTR_ACCESS_LINK_HCCS: u64 = 1;
pub const ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION: u64 = 1;
pub const ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS: u64 = 1;
pub const ACL_RT_IPC_MEM_ATTR_ACCESS_LINK_UB_ONE_PORT_PATH: u64 = 2;
pub const ACL_RT_IPC_MEM_ATTR_ACCESS_LINK_UB_MULTI_PORT_PATH: u64 = 3;
pub const ACL_RT_NOTIFY_EXPORT_FLAG_DEFAULT: u64 = 0;
pub const ACL_RT_NOTIFY_IMPORT_FLAG_DEFAULT: u64 = 0;
pub const ACL_RT_VMM_EXPORT_FLAG_DEFAULT: u64 = 0;
pub const ACL_NOTIFY_DEFAULT: u64 = 0;
pub const ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION: u64 = 1;
pub const ACL_NOTIFY_DEVICE_USE_ONLY: u64 = 1;
pub const ACL_RT_NOTIFY_EXPORT_FLAG_DISABLE_PID_VALIDATION: u64 = 2;
pub const ACL_RT_NOTIFY_IMPORT_FLAG_ENABLE_PEER_ACCESS: u64 = 2;
pub const ACL_HOST_DEVICE_CONNECT_TYPE_PCIE: u32 = 0;
pub const ACL_HOST_DEVICE_CONNECT_TYPE_HCCS: u32 = 1;
pub const ACL_RT_DEVS_TOPOLOGY_HCCS: u64 = 1;
pub const ACL_HOST_DEVICE_CONNECT_TYPE_UB: u32 = 2;
pub const ACL_RT_DEVS_TOPOLOGY_PIX: u64 = 2;
pub const ACL_RT_DEVS_TOPOLOGY_PIB: u64 = 4;
pub const ACL_RT_DEVS_TOPOLOGY_PHB: u64 = 8;
pub const ACL_RT_DEVS_TOPOLOGY_SYS: u64 = 16;
pub const ACL_RT_DEVS_TOPOLOGY_SIO: u64 = 32;
pub const ACL_RT_DEVS_TOPOLOGY_HCCS_SW: u64 = 64;
pub const ACL_SUCCESS: aclError = 0;
pub const ACL_ERROR_NONE: aclError = 0;
pub const ACL_ERROR_INVALID_PARAM: aclError = 100000;
pub const ACL_ERROR_UNINITIALIZE: aclError = 100001;
pub const ACL_ERROR_REPEAT_INITIALIZE: aclError = 100002;
pub const ACL_ERROR_INVALID_FILE: aclError = 100003;
pub const ACL_ERROR_WRITE_FILE: aclError = 100004;
pub const ACL_ERROR_INVALID_FILE_SIZE: aclError = 100005;
pub const ACL_ERROR_PARSE_FILE: aclError = 100006;
pub const ACL_ERROR_FILE_MISSING_ATTR: aclError = 100007;
pub const ACL_ERROR_FILE_ATTR_INVALID: aclError = 100008;
pub const ACL_ERROR_INVALID_DUMP_CONFIG: aclError = 100009;
pub const ACL_ERROR_INVALID_PROFILING_CONFIG: aclError = 100010;
pub const ACL_ERROR_INVALID_MODEL_ID: aclError = 100011;
pub const ACL_ERROR_DESERIALIZE_MODEL: aclError = 100012;
pub const ACL_ERROR_PARSE_MODEL: aclError = 100013;
pub const ACL_ERROR_READ_MODEL_FAILURE: aclError = 100014;
pub const ACL_ERROR_MODEL_SIZE_INVALID: aclError = 100015;
pub const ACL_ERROR_MODEL_MISSING_ATTR: aclError = 100016;
pub const ACL_ERROR_MODEL_INPUT_NOT_MATCH: aclError = 100017;
pub const ACL_ERROR_MODEL_OUTPUT_NOT_MATCH: aclError = 100018;
pub const ACL_ERROR_MODEL_NOT_DYNAMIC: aclError = 100019;
pub const ACL_ERROR_OP_TYPE_NOT_MATCH: aclError = 100020;
pub const ACL_ERROR_OP_INPUT_NOT_MATCH: aclError = 100021;
pub const ACL_ERROR_OP_OUTPUT_NOT_MATCH: aclError = 100022;
pub const ACL_ERROR_OP_ATTR_NOT_MATCH: aclError = 100023;
pub const ACL_ERROR_OP_NOT_FOUND: aclError = 100024;
pub const ACL_ERROR_OP_LOAD_FAILED: aclError = 100025;
pub const ACL_ERROR_UNSUPPORTED_DATA_TYPE: aclError = 100026;
pub const ACL_ERROR_FORMAT_NOT_MATCH: aclError = 100027;
pub const ACL_ERROR_BIN_SELECTOR_NOT_REGISTERED: aclError = 100028;
pub const ACL_ERROR_KERNEL_NOT_FOUND: aclError = 100029;
pub const ACL_ERROR_BIN_SELECTOR_ALREADY_REGISTERED: aclError = 100030;
pub const ACL_ERROR_KERNEL_ALREADY_REGISTERED: aclError = 100031;
pub const ACL_ERROR_INVALID_QUEUE_ID: aclError = 100032;
pub const ACL_ERROR_REPEAT_SUBSCRIBE: aclError = 100033;
pub const ACL_ERROR_STREAM_NOT_SUBSCRIBE: aclError = 100034;
pub const ACL_ERROR_THREAD_NOT_SUBSCRIBE: aclError = 100035;
pub const ACL_ERROR_WAIT_CALLBACK_TIMEOUT: aclError = 100036;
pub const ACL_ERROR_REPEAT_FINALIZE: aclError = 100037;
pub const ACL_ERROR_NOT_STATIC_AIPP: aclError = 100038;
pub const ACL_ERROR_COMPILING_STUB_MODE: aclError = 100039;
pub const ACL_ERROR_GROUP_NOT_SET: aclError = 100040;
pub const ACL_ERROR_GROUP_NOT_CREATE: aclError = 100041;
pub const ACL_ERROR_PROF_ALREADY_RUN: aclError = 100042;
pub const ACL_ERROR_PROF_NOT_RUN: aclError = 100043;
pub const ACL_ERROR_DUMP_ALREADY_RUN: aclError = 100044;
pub const ACL_ERROR_DUMP_NOT_RUN: aclError = 100045;
pub const ACL_ERROR_RT_PARAM_INVALID: aclError = 107000;
pub const ACL_ERROR_RT_INVALID_DEVICEID: aclError = 107001;
pub const ACL_ERROR_RT_CONTEXT_NULL: aclError = 107002;
pub const ACL_ERROR_RT_STREAM_CONTEXT: aclError = 107003;
pub const ACL_ERROR_RT_MODEL_CONTEXT: aclError = 107004;
pub const ACL_ERROR_RT_STREAM_MODEL: aclError = 107005;
pub const ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID: aclError = 107006;
pub const ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL: aclError = 107007;
pub const ACL_ERROR_RT_ADDR_UNALIGNED: aclError = 107008;
pub const ACL_ERROR_RT_FILE_OPEN: aclError = 107009;
pub const ACL_ERROR_RT_FILE_WRITE: aclError = 107010;
pub const ACL_ERROR_RT_STREAM_SUBSCRIBE: aclError = 107011;
pub const ACL_ERROR_RT_THREAD_SUBSCRIBE: aclError = 107012;
pub const ACL_ERROR_RT_GROUP_NOT_SET: aclError = 107013;
pub const ACL_ERROR_RT_GROUP_NOT_CREATE: aclError = 107014;
pub const ACL_ERROR_RT_STREAM_NO_CB_REG: aclError = 107015;
pub const ACL_ERROR_RT_INVALID_MEMORY_TYPE: aclError = 107016;
pub const ACL_ERROR_RT_INVALID_HANDLE: aclError = 107017;
pub const ACL_ERROR_RT_INVALID_MALLOC_TYPE: aclError = 107018;
pub const ACL_ERROR_RT_WAIT_TIMEOUT: aclError = 107019;
pub const ACL_ERROR_RT_TASK_TIMEOUT: aclError = 107020;
pub const ACL_ERROR_RT_SYSPARAMOPT_NOT_SET: aclError = 107021;
pub const ACL_ERROR_RT_DEVICE_TASK_ABORT: aclError = 107022;
pub const ACL_ERROR_RT_STREAM_ABORT: aclError = 107023;
pub const ACL_ERROR_RT_CAPTURE_DEPENDENCY: aclError = 107024;
pub const ACL_ERROR_RT_STREAM_UNJOINED: aclError = 107025;
pub const ACL_ERROR_RT_MODEL_CAPTURED: aclError = 107026;
pub const ACL_ERROR_RT_STREAM_CAPTURED: aclError = 107027;
pub const ACL_ERROR_RT_EVENT_CAPTURED: aclError = 107028;
pub const ACL_ERROR_RT_STREAM_NOT_CAPTURED: aclError = 107029;
pub const ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT: aclError = 107030;
pub const ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT: aclError = 107031;
pub const ACL_ERROR_STREAM_CAPTURE_CONFLICT: aclError = 107032;
pub const ACL_ERROR_STREAM_TASK_GROUP_STATUS: aclError = 107033;
pub const ACL_ERROR_STREAM_TASK_GROUP_INTR: aclError = 107034;
pub const ACL_ERROR_RT_TASK_ABORT_STOP: aclError = 107035;
pub const ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED: aclError = 107036;
pub const ACL_ERROR_RT_MODEL_RUNNING: aclError = 107037;
pub const ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD: aclError = 107038;
pub const ACL_ERROR_RT_INSUFFICIENT_INPUT_ARRAY: aclError = 107039;
pub const ACL_ERROR_RT_MODEL_UPDATE_FAILED: aclError = 107040;
pub const ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC: aclError = 107041;
pub const ACL_ERROR_RT_SYMBOL_NOT_FOUND: aclError = 107042;
pub const ACL_ERROR_RT_INVALID_SYMBOL: aclError = 107043;
pub const ACL_ERROR_RT_INVALID_DEVICE_FUNCTION: aclError = 107044;
pub const ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING: aclError = 107045;
pub const ACL_ERROR_PROF_REPEAT_SUBSCRIBE: aclError = 148046;
pub const ACL_ERROR_PROF_API_CONFLICT: aclError = 148047;
pub const ACL_ERROR_INVALID_MAX_OPQUEUE_NUM_CONFIG: aclError = 148048;
pub const ACL_ERROR_INVALID_OPP_PATH: aclError = 148049;
pub const ACL_ERROR_OP_UNSUPPORTED_DYNAMIC: aclError = 148050;
pub const ACL_ERROR_RELATIVE_RESOURCE_NOT_CLEARED: aclError = 148051;
pub const ACL_ERROR_UNSUPPORTED_JPEG: aclError = 148052;
pub const ACL_ERROR_INVALID_BUNDLE_MODEL_ID: aclError = 148053;
pub const ACL_ERROR_BAD_ALLOC: aclError = 200000;
pub const ACL_ERROR_API_NOT_SUPPORT: aclError = 200001;
pub const ACL_ERROR_INVALID_DEVICE: aclError = 200002;
pub const ACL_ERROR_MEMORY_ADDRESS_UNALIGNED: aclError = 200003;
pub const ACL_ERROR_RESOURCE_NOT_MATCH: aclError = 200004;
pub const ACL_ERROR_INVALID_RESOURCE_HANDLE: aclError = 200005;
pub const ACL_ERROR_FEATURE_UNSUPPORTED: aclError = 200006;
pub const ACL_ERROR_PROF_MODULES_UNSUPPORTED: aclError = 200007;
pub const ACL_ERROR_RT_FEATURE_NOT_SUPPORT: aclError = 207000;
pub const ACL_ERROR_RT_MEMORY_ALLOCATION: aclError = 207001;
pub const ACL_ERROR_RT_MEMORY_FREE: aclError = 207002;
pub const ACL_ERROR_RT_AICORE_OVER_FLOW: aclError = 207003;
pub const ACL_ERROR_RT_NO_DEVICE: aclError = 207004;
pub const ACL_ERROR_RT_RESOURCE_ALLOC_FAIL: aclError = 207005;
pub const ACL_ERROR_RT_NO_PERMISSION: aclError = 207006;
pub const ACL_ERROR_RT_NO_EVENT_RESOURCE: aclError = 207007;
pub const ACL_ERROR_RT_NO_STREAM_RESOURCE: aclError = 207008;
pub const ACL_ERROR_RT_NO_NOTIFY_RESOURCE: aclError = 207009;
pub const ACL_ERROR_RT_NO_MODEL_RESOURCE: aclError = 207010;
pub const ACL_ERROR_RT_NO_CDQ_RESOURCE: aclError = 207011;
pub const ACL_ERROR_RT_OVER_LIMIT: aclError = 207012;
pub const ACL_ERROR_RT_QUEUE_EMPTY: aclError = 207013;
pub const ACL_ERROR_RT_QUEUE_FULL: aclError = 207014;
pub const ACL_ERROR_RT_REPEATED_INIT: aclError = 207015;
pub const ACL_ERROR_RT_AIVEC_OVER_FLOW: aclError = 207016;
pub const ACL_ERROR_RT_OVER_FLOW: aclError = 207017;
pub const ACL_ERROR_RT_DEVICE_OOM: aclError = 207018;
pub const ACL_ERROR_RT_FEATURE_NOT_SUPPORT_UPDATE_OP: aclError = 207019;
pub const ACL_ERROR_RT_TIMEOUT: aclError = 207020;
pub const ACL_ERROR_RT_LINK_TYPE_NOT_SUPPORTED: aclError = 207021;
pub const ACL_ERROR_STORAGE_OVER_LIMIT: aclError = 300000;
pub const ACL_ERROR_INTERNAL_ERROR: aclError = 500000;
pub const ACL_ERROR_FAILURE: aclError = 500001;
pub const ACL_ERROR_RT_FAILURE: aclError = 500003;
pub const ACL_ERROR_DRV_FAILURE: aclError = 500004;
pub const ACL_ERROR_PROFILING_FAILURE: aclError = 500005;
pub const ACL_ERROR_RT_INTERNAL_ERROR: aclError = 507000;
pub const ACL_ERROR_RT_TS_ERROR: aclError = 507001;
pub const ACL_ERROR_RT_STREAM_TASK_FULL: aclError = 507002;
pub const ACL_ERROR_RT_STREAM_TASK_EMPTY: aclError = 507003;
pub const ACL_ERROR_RT_STREAM_NOT_COMPLETE: aclError = 507004;
pub const ACL_ERROR_RT_END_OF_SEQUENCE: aclError = 507005;
pub const ACL_ERROR_RT_EVENT_NOT_COMPLETE: aclError = 507006;
pub const ACL_ERROR_RT_CONTEXT_RELEASE_ERROR: aclError = 507007;
pub const ACL_ERROR_RT_SOC_VERSION: aclError = 507008;
pub const ACL_ERROR_RT_TASK_TYPE_NOT_SUPPORT: aclError = 507009;
pub const ACL_ERROR_RT_LOST_HEARTBEAT: aclError = 507010;
pub const ACL_ERROR_RT_MODEL_EXECUTE: aclError = 507011;
pub const ACL_ERROR_RT_REPORT_TIMEOUT: aclError = 507012;
pub const ACL_ERROR_RT_SYS_DMA: aclError = 507013;
pub const ACL_ERROR_RT_AICORE_TIMEOUT: aclError = 507014;
pub const ACL_ERROR_RT_AICORE_EXCEPTION: aclError = 507015;
pub const ACL_ERROR_RT_AICORE_TRAP_EXCEPTION: aclError = 507016;
pub const ACL_ERROR_RT_AICPU_TIMEOUT: aclError = 507017;
pub const ACL_ERROR_RT_AICPU_EXCEPTION: aclError = 507018;
pub const ACL_ERROR_RT_AICPU_DATADUMP_RSP_ERR: aclError = 507019;
pub const ACL_ERROR_RT_AICPU_MODEL_RSP_ERR: aclError = 507020;
pub const ACL_ERROR_RT_PROFILING_ERROR: aclError = 507021;
pub const ACL_ERROR_RT_IPC_ERROR: aclError = 507022;
pub const ACL_ERROR_RT_MODEL_ABORT_NORMAL: aclError = 507023;
pub const ACL_ERROR_RT_KERNEL_UNREGISTERING: aclError = 507024;
pub const ACL_ERROR_RT_RINGBUFFER_NOT_INIT: aclError = 507025;
pub const ACL_ERROR_RT_RINGBUFFER_NO_DATA: aclError = 507026;
pub const ACL_ERROR_RT_KERNEL_LOOKUP: aclError = 507027;
pub const ACL_ERROR_RT_KERNEL_DUPLICATE: aclError = 507028;
pub const ACL_ERROR_RT_DEBUG_REGISTER_FAIL: aclError = 507029;
pub const ACL_ERROR_RT_DEBUG_UNREGISTER_FAIL: aclError = 507030;
pub const ACL_ERROR_RT_LABEL_CONTEXT: aclError = 507031;
pub const ACL_ERROR_RT_PROGRAM_USE_OUT: aclError = 507032;
pub const ACL_ERROR_RT_DEV_SETUP_ERROR: aclError = 507033;
pub const ACL_ERROR_RT_VECTOR_CORE_TIMEOUT: aclError = 507034;
pub const ACL_ERROR_RT_VECTOR_CORE_EXCEPTION: aclError = 507035;
pub const ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION: aclError = 507036;
pub const ACL_ERROR_RT_CDQ_BATCH_ABNORMAL: aclError = 507037;
pub const ACL_ERROR_RT_DIE_MODE_CHANGE_ERROR: aclError = 507038;
pub const ACL_ERROR_RT_DIE_SET_ERROR: aclError = 507039;
pub const ACL_ERROR_RT_INVALID_DIEID: aclError = 507040;
pub const ACL_ERROR_RT_DIE_MODE_NOT_SET: aclError = 507041;
pub const ACL_ERROR_RT_AICORE_TRAP_READ_OVERFLOW: aclError = 507042;
pub const ACL_ERROR_RT_AICORE_TRAP_WRITE_OVERFLOW: aclError = 507043;
pub const ACL_ERROR_RT_VECTOR_CORE_TRAP_READ_OVERFLOW: aclError = 507044;
pub const ACL_ERROR_RT_VECTOR_CORE_TRAP_WRITE_OVERFLOW: aclError = 507045;
pub const ACL_ERROR_RT_STREAM_SYNC_TIMEOUT: aclError = 507046;
pub const ACL_ERROR_RT_EVENT_SYNC_TIMEOUT: aclError = 507047;
pub const ACL_ERROR_RT_FFTS_PLUS_TIMEOUT: aclError = 507048;
pub const ACL_ERROR_RT_FFTS_PLUS_EXCEPTION: aclError = 507049;
pub const ACL_ERROR_RT_FFTS_PLUS_TRAP_EXCEPTION: aclError = 507050;
pub const ACL_ERROR_RT_SEND_MSG: aclError = 507051;
pub const ACL_ERROR_RT_COPY_DATA: aclError = 507052;
pub const ACL_ERROR_RT_DEVICE_MEM_ERROR: aclError = 507053;
pub const ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR: aclError = 507054;
pub const ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR: aclError = 507055;
pub const ACL_ERROR_RT_LINK_ERROR: aclError = 507056;
pub const ACL_ERROR_RT_SUSPECT_REMOTE_ERROR: aclError = 507057;
pub const ACL_ERROR_RT_DRV_INTERNAL_ERROR: aclError = 507899;
pub const ACL_ERROR_RT_AICPU_INTERNAL_ERROR: aclError = 507900;
pub const ACL_ERROR_RT_SOCKET_CLOSE: aclError = 507901;
pub const ACL_ERROR_RT_AICPU_INFO_LOAD_RSP_ERR: aclError = 507902;
pub const ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED: aclError = 507903;
pub const ACL_ERROR_RT_COMM_OP_RETRY_FAIL: aclError = 507904;
pub const ACL_ERROR_SNAPSHOT_LOCK_TIMEOUT: aclError = 507905;
pub const ACL_ERROR_SNAPSHOT_LOCK_FAILED: aclError = 507906;
pub const ACL_ERROR_SNAPSHOT_UNLOCK_FAILED: aclError = 507907;
pub const ACL_ERROR_SNAPSHOT_BACKUP_FAILED: aclError = 507908;
pub const ACL_ERROR_SNAPSHOT_RESTORE_FAILED: aclError = 507909;
pub const ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED: aclError = 507910;
pub const ACL_ERROR_HOST_MEMORY_NOT_REGISTERED: aclError = 507911;
pub const ACL_ERROR_SNAPSHOT_CALLBACK_FAILED: aclError = 507912;
pub const ACL_ERROR_SNAPSHOT_REGISTER_CALLBACK_FAILED: aclError = 507913;
pub const ACL_ERROR_RT_L3_PORT_ERROR: aclError = 507914;
pub const ACL_ERROR_RT_CCU_TIMEOUT: aclError = 507915;
pub const ACL_ERROR_RT_CCU_EXCEPTION: aclError = 507916;
pub type aclInit = unsafe extern "C" fn(configPath: *const core::ffi::c_char) -> aclError;
pub type aclGetRecentErrMsg = unsafe extern "C" fn() -> *const core::ffi::c_char;
pub type aclrtGetDeviceCount = unsafe extern "C" fn(count: *mut u32) -> aclError;
pub type aclrtSetDevice = unsafe extern "C" fn(deviceId: i32) -> aclError;
pub type aclrtGetDevice = unsafe extern "C" fn(deviceId: *mut i32) -> aclError;
pub type aclrtGetSocName = unsafe extern "C" fn() -> *const core::ffi::c_char;
pub type aclrtSetCurrentContext = unsafe extern "C" fn(context: aclrtContext) -> aclError;
pub type aclrtGetCurrentContext = unsafe extern "C" fn(context: *mut aclrtContext) -> aclError;
pub type aclrtCreateStreamWithConfig =
    unsafe extern "C" fn(stream: *mut aclrtStream, priority: u32, flag: u32) -> aclError;
pub type aclrtDestroyStream = unsafe extern "C" fn(stream: aclrtStream) -> aclError;
pub type aclrtSynchronizeStreamWithTimeout =
    unsafe extern "C" fn(stream: aclrtStream, timeout: i32) -> aclError;
pub type aclrtStreamQuery =
    unsafe extern "C" fn(stream: aclrtStream, status: *mut aclrtStreamStatus) -> aclError;
pub type aclrtStreamAbort = unsafe extern "C" fn(stream: aclrtStream) -> aclError;
pub type aclrtMalloc = unsafe extern "C" fn(
    devPtr: *mut *mut core::ffi::c_void,
    size: usize,
    policy: aclrtMemMallocPolicy,
) -> aclError;
pub type aclrtFree = unsafe extern "C" fn(devPtr: *mut core::ffi::c_void) -> aclError;
pub type aclrtMallocHost =
    unsafe extern "C" fn(hostPtr: *mut *mut core::ffi::c_void, size: usize) -> aclError;
pub type aclrtFreeHost = unsafe extern "C" fn(hostPtr: *mut core::ffi::c_void) -> aclError;
pub type aclrtMemcpy = unsafe extern "C" fn(
    dst: *mut core::ffi::c_void,
    destMax: usize,
    src: *const core::ffi::c_void,
    count: usize,
    kind: aclrtMemcpyKind,
) -> aclError;
pub type aclrtMemcpyAsync = unsafe extern "C" fn(
    dst: *mut core::ffi::c_void,
    destMax: usize,
    src: *const core::ffi::c_void,
    count: usize,
    kind: aclrtMemcpyKind,
    stream: aclrtStream,
) -> aclError;
pub type aclrtPointerGetAttributes =
    unsafe extern "C" fn(ptr: *const core::ffi::c_void, attributes: *mut aclrtPtrAttributes) -> aclError;
pub type aclFinalizeReference = unsafe extern "C" fn(refCount: *mut u64) -> aclError;
pub type aclsysGetVersionStr =
    unsafe extern "C" fn(pkgName: *mut core::ffi::c_char, versionStr: *mut core::ffi::c_char) -> aclError;
pub type aclsysGetVersionNum =
    unsafe extern "C" fn(pkgName: *mut core::ffi::c_char, versionNum: *mut i32) -> aclError;
pub type aclsysGetCANNVersion =
    unsafe extern "C" fn(name: aclCANNPackageName, version: *mut aclCANNPackageVersion) -> aclError;
pub type aclrtGetVersion =
    unsafe extern "C" fn(majorVersion: *mut i32, minorVersion: *mut i32, patchVersion: *mut i32) -> aclError;
pub type aclrtResetDevice = unsafe extern "C" fn(deviceId: i32) -> aclError;
pub type aclrtSynchronizeDevice = unsafe extern "C" fn() -> aclError;
pub type aclrtSynchronizeDeviceWithTimeout = unsafe extern "C" fn(timeout: i32) -> aclError;
pub type aclrtGetDeviceInfo =
    unsafe extern "C" fn(deviceId: u32, attr: aclrtDevAttr, value: *mut i64) -> aclError;
pub type aclrtQueryDeviceStatus =
    unsafe extern "C" fn(deviceId: i32, deviceStatus: *mut aclrtDeviceStatus) -> aclError;
pub type aclrtDeviceGetUuid = unsafe extern "C" fn(deviceId: i32, uuid: *mut aclrtUuid) -> aclError;
pub type aclrtGetLogicDevIdByUserDevId =
    unsafe extern "C" fn(userDevid: i32, logicDevId: *mut i32) -> aclError;
pub type aclrtGetUserDevIdByLogicDevId =
    unsafe extern "C" fn(logicDevId: i32, userDevid: *mut i32) -> aclError;
pub type aclrtGetPhyDevIdByLogicDevId = unsafe extern "C" fn(logicDevId: i32, phyDevId: *mut i32) -> aclError;
pub type aclrtGetLogicDevIdByPhyDevId = unsafe extern "C" fn(phyDevId: i32, logicDevId: *mut i32) -> aclError;
pub type aclrtGetPhyDevIdByUserDevId = unsafe extern "C" fn(userDevId: i32, phyDevId: *mut i32) -> aclError;
pub type aclrtGetUserDevIdByPhyDevId = unsafe extern "C" fn(phyDevId: i32, userDevId: *mut i32) -> aclError;
pub type aclrtGetDevicesTopo =
    unsafe extern "C" fn(deviceId: u32, otherDeviceId: u32, value: *mut u64) -> aclError;
pub type aclrtCreateContext = unsafe extern "C" fn(context: *mut aclrtContext, deviceId: i32) -> aclError;
pub type aclrtDestroyContext = unsafe extern "C" fn(context: aclrtContext) -> aclError;
pub type aclrtCtxGetCurrentDefaultStream = unsafe extern "C" fn(stream: *mut aclrtStream) -> aclError;
pub type aclrtCreateStream = unsafe extern "C" fn(stream: *mut aclrtStream) -> aclError;
pub type aclrtSynchronizeStream = unsafe extern "C" fn(stream: aclrtStream) -> aclError;
pub type aclrtDestroyStreamForce = unsafe extern "C" fn(stream: aclrtStream) -> aclError;
pub type aclrtSetStreamFailureMode = unsafe extern "C" fn(stream: aclrtStream, mode: u64) -> aclError;
pub type aclrtGetStreamAvailableNum = unsafe extern "C" fn(streamCount: *mut u32) -> aclError;
pub type aclrtStreamGetId = unsafe extern "C" fn(stream: aclrtStream, streamId: *mut i32) -> aclError;
pub type aclrtDeviceGetStreamPriorityRange =
    unsafe extern "C" fn(leastPriority: *mut i32, greatestPriority: *mut i32) -> aclError;
pub type aclrtCreateEventExWithFlag = unsafe extern "C" fn(event: *mut aclrtEvent, flag: u32) -> aclError;
pub type aclrtDestroyEvent = unsafe extern "C" fn(event: aclrtEvent) -> aclError;
pub type aclrtRecordEvent = unsafe extern "C" fn(event: aclrtEvent, stream: aclrtStream) -> aclError;
pub type aclrtQueryEventStatus =
    unsafe extern "C" fn(event: aclrtEvent, status: *mut aclrtEventRecordedStatus) -> aclError;
pub type aclrtSynchronizeEventWithTimeout = unsafe extern "C" fn(event: aclrtEvent, timeout: i32) -> aclError;
pub type aclrtStreamWaitEvent = unsafe extern "C" fn(stream: aclrtStream, event: aclrtEvent) -> aclError;
pub type aclrtCreateEvent = unsafe extern "C" fn(event: *mut aclrtEvent) -> aclError;
pub type aclrtCreateEventWithFlag = unsafe extern "C" fn(event: *mut aclrtEvent, flag: u32) -> aclError;
pub type aclrtResetEvent = unsafe extern "C" fn(event: aclrtEvent, stream: aclrtStream) -> aclError;
pub type aclrtQueryEventWaitStatus =
    unsafe extern "C" fn(event: aclrtEvent, status: *mut aclrtEventWaitStatus) -> aclError;
pub type aclrtSynchronizeEvent = unsafe extern "C" fn(event: aclrtEvent) -> aclError;
pub type aclrtStreamWaitEventWithTimeout =
    unsafe extern "C" fn(stream: aclrtStream, event: aclrtEvent, timeout: i32) -> aclError;
pub type aclrtEventElapsedTime =
    unsafe extern "C" fn(ms: *mut f32, startEvent: aclrtEvent, endEvent: aclrtEvent) -> aclError;
pub type aclrtIpcGetEventHandle =
    unsafe extern "C" fn(event: aclrtEvent, handle: *mut aclrtIpcEventHandle) -> aclError;
pub type aclrtIpcOpenEventHandle =
    unsafe extern "C" fn(handle: aclrtIpcEventHandle, event: *mut aclrtEvent) -> aclError;
pub type aclrtMallocWithCfg = unsafe extern "C" fn(
    devPtr: *mut *mut core::ffi::c_void,
    size: usize,
    policy: aclrtMemMallocPolicy,
    cfg: *mut aclrtMallocConfig,
) -> aclError;
pub type aclrtMallocHostWithCfg = unsafe extern "C" fn(
    ptr: *mut *mut core::ffi::c_void,
    size: u64,
    cfg: *mut aclrtMallocConfig,
) -> aclError;
pub type aclrtHostRegister = unsafe extern "C" fn(
    ptr: *mut core::ffi::c_void,
    size: u64,
    type_: aclrtHostRegisterType,
    devPtr: *mut *mut core::ffi::c_void,
) -> aclError;
pub type aclrtHostUnregister = unsafe extern "C" fn(ptr: *mut core::ffi::c_void) -> aclError;
pub type aclrtHostRegisterV2 =
    unsafe extern "C" fn(ptr: *mut core::ffi::c_void, size: u64, flag: u32) -> aclError;
pub type aclrtHostGetDevicePointer = unsafe extern "C" fn(
    pHost: *mut core::ffi::c_void,
    pDevice: *mut *mut core::ffi::c_void,
    flag: u32,
) -> aclError;
pub type aclrtHostMemMapCapabilities = unsafe extern "C" fn(
    deviceId: u32,
    hacType: aclrtHacType,
    capabilities: *mut aclrtHostMemMapCapability,
) -> aclError;
pub type aclrtMemset = unsafe extern "C" fn(
    devPtr: *mut core::ffi::c_void,
    maxCount: usize,
    value: i32,
    count: usize,
) -> aclError;
pub type aclrtMemsetAsync = unsafe extern "C" fn(
    devPtr: *mut core::ffi::c_void,
    maxCount: usize,
    value: i32,
    count: usize,
    stream: aclrtStream,
) -> aclError;
pub type aclrtMemcpyBatch = unsafe extern "C" fn(
    dsts: *mut *mut core::ffi::c_void,
    destMaxs: *mut usize,
    srcs: *mut *mut core::ffi::c_void,
    sizes: *mut usize,
    numBatches: usize,
    attrs: *mut aclrtMemcpyBatchAttr,
    attrsIndexes: *mut usize,
    numAttrs: usize,
    failIndex: *mut usize,
) -> aclError;
pub type aclrtMemcpyBatchAsync = unsafe extern "C" fn(
    dsts: *mut *mut core::ffi::c_void,
    destMaxs: *mut usize,
    srcs: *mut *mut core::ffi::c_void,
    sizes: *mut usize,
    numBatches: usize,
    attrs: *mut aclrtMemcpyBatchAttr,
    attrsIndexes: *mut usize,
    numAttrs: usize,
    failIndex: *mut usize,
    stream: aclrtStream,
) -> aclError;
pub type aclrtMemcpyBatchV2 = unsafe extern "C" fn(
    dsts: *mut *mut core::ffi::c_void,
    destMaxs: *mut usize,
    srcs: *mut *mut core::ffi::c_void,
    sizes: *mut usize,
    numBatches: usize,
    attrs: *mut aclrtMemcpyBatchAttr,
    attrsIndexes: *mut usize,
    numAttrs: usize,
) -> aclError;
pub type aclrtMemcpyBatchAsyncV2 = unsafe extern "C" fn(
    dsts: *mut *mut core::ffi::c_void,
    destMaxs: *mut usize,
    srcs: *mut *mut core::ffi::c_void,
    sizes: *mut usize,
    numBatches: usize,
    attrs: *mut aclrtMemcpyBatchAttr,
    attrsIndexes: *mut usize,
    numAttrs: usize,
    stream: aclrtStream,
) -> aclError;
pub type aclrtMemcpy2d = unsafe extern "C" fn(
    dst: *mut core::ffi::c_void,
    dpitch: usize,
    src: *const core::ffi::c_void,
    spitch: usize,
    width: usize,
    height: usize,
    kind: aclrtMemcpyKind,
) -> aclError;
pub type aclrtMemcpy2dAsync = unsafe extern "C" fn(
    dst: *mut core::ffi::c_void,
    dpitch: usize,
    src: *const core::ffi::c_void,
    spitch: usize,
    width: usize,
    height: usize,
    kind: aclrtMemcpyKind,
    stream: aclrtStream,
) -> aclError;
pub type aclrtGetMemInfo =
    unsafe extern "C" fn(attr: aclrtMemAttr, free: *mut usize, total: *mut usize) -> aclError;
pub type aclrtMemGetAddressRange = unsafe extern "C" fn(
    ptr: *mut core::ffi::c_void,
    pbase: *mut *mut core::ffi::c_void,
    psize: *mut usize,
) -> aclError;
pub type aclrtDeviceCanAccessPeer =
    unsafe extern "C" fn(canAccessPeer: *mut i32, deviceId: i32, peerDeviceId: i32) -> aclError;
pub type aclrtDeviceEnablePeerAccess = unsafe extern "C" fn(peerDeviceId: i32, flags: u32) -> aclError;
pub type aclrtDeviceDisablePeerAccess = unsafe extern "C" fn(peerDeviceId: i32) -> aclError;
pub type aclrtDevicePeerAccessStatus =
    unsafe extern "C" fn(deviceId: i32, peerDeviceId: i32, status: *mut i32) -> aclError;
pub type aclrtMemP2PMap =
    unsafe extern "C" fn(devPtr: *mut core::ffi::c_void, size: usize, dstDevId: i32, flags: u64) -> aclError;
pub type aclrtIpcMemGetExportKey = unsafe extern "C" fn(
    devPtr: *mut core::ffi::c_void,
    size: usize,
    key: *mut core::ffi::c_char,
    len: usize,
    flags: u64,
) -> aclError;
pub type aclrtIpcMemImportByKey = unsafe extern "C" fn(
    devPtr: *mut *mut core::ffi::c_void,
    key: *const core::ffi::c_char,
    flags: u64,
) -> aclError;
pub type aclrtIpcMemClose = unsafe extern "C" fn(key: *const core::ffi::c_char) -> aclError;
pub type aclrtIpcMemSetImportPid =
    unsafe extern "C" fn(key: *const core::ffi::c_char, pid: *mut i32, num: usize) -> aclError;
pub type aclrtDeviceGetBareTgid = unsafe extern "C" fn(pid: *mut i32) -> aclError;
pub type aclrtIpcMemSetAttr =
    unsafe extern "C" fn(key: *const core::ffi::c_char, type_: aclrtIpcMemAttrType, attr: u64) -> aclError;
pub type aclrtIpcMemImportPidInterServer = unsafe extern "C" fn(
    key: *const core::ffi::c_char,
    serverPids: *mut aclrtServerPid,
    num: usize,
) -> aclError;
pub type aclrtReserveMemAddress = unsafe extern "C" fn(
    virPtr: *mut *mut core::ffi::c_void,
    size: usize,
    alignment: usize,
    expectPtr: *mut core::ffi::c_void,
    flags: u64,
) -> aclError;
pub type aclrtReleaseMemAddress = unsafe extern "C" fn(virPtr: *mut core::ffi::c_void) -> aclError;
pub type aclrtMallocPhysical = unsafe extern "C" fn(
    handle: *mut aclrtDrvMemHandle,
    size: usize,
    prop: *const aclrtPhysicalMemProp,
    flags: u64,
) -> aclError;
pub type aclrtFreePhysical = unsafe extern "C" fn(handle: aclrtDrvMemHandle) -> aclError;
pub type aclrtMapMem = unsafe extern "C" fn(
    virPtr: *mut core::ffi::c_void,
    size: usize,
    offset: usize,
    handle: aclrtDrvMemHandle,
    flags: u64,
) -> aclError;
pub type aclrtUnmapMem = unsafe extern "C" fn(virPtr: *mut core::ffi::c_void) -> aclError;
pub type aclrtMemSetAccess = unsafe extern "C" fn(
    virPtr: *mut core::ffi::c_void,
    size: usize,
    desc: *mut aclrtMemAccessDesc,
    count: usize,
) -> aclError;
pub type aclrtMemGetAccess = unsafe extern "C" fn(
    virPtr: *mut core::ffi::c_void,
    location: *mut aclrtMemLocation,
    flag: *mut u64,
) -> aclError;
pub type aclrtMemGetAllocationGranularity = unsafe extern "C" fn(
    prop: *mut aclrtPhysicalMemProp,
    option: aclrtMemGranularityOptions,
    granularity: *mut usize,
) -> aclError;
pub type aclrtMemRetainAllocationHandle =
    unsafe extern "C" fn(virPtr: *mut core::ffi::c_void, handle: *mut aclrtDrvMemHandle) -> aclError;
pub type aclrtMemGetAllocationPropertiesFromHandle =
    unsafe extern "C" fn(handle: aclrtDrvMemHandle, prop: *mut aclrtPhysicalMemProp) -> aclError;
pub type aclrtMemExportToShareableHandle = unsafe extern "C" fn(
    handle: aclrtDrvMemHandle,
    handleType: aclrtMemHandleType,
    flags: u64,
    shareableHandle: *mut u64,
) -> aclError;
pub type aclrtMemImportFromShareableHandle =
    unsafe extern "C" fn(shareableHandle: u64, deviceId: i32, handle: *mut aclrtDrvMemHandle) -> aclError;
pub type aclrtMemSetPidToShareableHandle =
    unsafe extern "C" fn(shareableHandle: u64, pid: *mut i32, pidNum: usize) -> aclError;
pub type aclrtMemExportToShareableHandleV2 = unsafe extern "C" fn(
    handle: aclrtDrvMemHandle,
    flags: u64,
    shareType: aclrtMemSharedHandleType,
    shareableHandle: *mut core::ffi::c_void,
) -> aclError;
pub type aclrtMemImportFromShareableHandleV2 = unsafe extern "C" fn(
    shareableHandle: *mut core::ffi::c_void,
    shareType: aclrtMemSharedHandleType,
    flags: u64,
    handle: *mut aclrtDrvMemHandle,
) -> aclError;
pub type aclrtMemSetPidToShareableHandleV2 = unsafe extern "C" fn(
    shareableHandle: *mut core::ffi::c_void,
    shareType: aclrtMemSharedHandleType,
    pid: *mut i32,
    pidNum: usize,
) -> aclError;
pub type aclrtCreateNotify = unsafe extern "C" fn(notify: *mut aclrtNotify, flag: u64) -> aclError;
pub type aclrtDestroyNotify = unsafe extern "C" fn(notify: aclrtNotify) -> aclError;
pub type aclrtRecordNotify = unsafe extern "C" fn(notify: aclrtNotify, stream: aclrtStream) -> aclError;
pub type aclrtWaitAndResetNotify =
    unsafe extern "C" fn(notify: aclrtNotify, stream: aclrtStream, timeout: u32) -> aclError;
pub type aclrtGetNotifyId = unsafe extern "C" fn(notify: aclrtNotify, notifyId: *mut u32) -> aclError;
pub type aclrtNotifyGetExportKey = unsafe extern "C" fn(
    notify: aclrtNotify,
    key: *mut core::ffi::c_char,
    len: usize,
    flags: u64,
) -> aclError;
pub type aclrtNotifyImportByKey =
    unsafe extern "C" fn(notify: *mut aclrtNotify, key: *const core::ffi::c_char, flags: u64) -> aclError;
pub type aclrtNotifySetImportPid =
    unsafe extern "C" fn(notify: aclrtNotify, pid: *mut i32, num: usize) -> aclError;
pub type aclrtNotifyBatchReset = unsafe extern "C" fn(notifies: *mut aclrtNotify, num: usize) -> aclError;
pub type aclrtGetErrorVerbose =
    unsafe extern "C" fn(deviceId: i32, errorInfo: *mut aclrtErrorInfo) -> aclError;
pub type aclrtRepairError = unsafe extern "C" fn(deviceId: i32, errorInfo: *const aclrtErrorInfo) -> aclError;
pub type aclrtGetMemUceInfo = unsafe extern "C" fn(
    deviceId: i32,
    memUceInfoArray: *mut aclrtMemUceInfo,
    arraySize: usize,
    retSize: *mut usize,
) -> aclError;
pub type aclrtMemUceRepair =
    unsafe extern "C" fn(deviceId: i32, memUceInfoArray: *mut aclrtMemUceInfo, arraySize: usize) -> aclError;
pub type aclrtDeviceTaskAbort = unsafe extern "C" fn(deviceId: i32, timeout: u32) -> aclError;
pub type aclrtRegDeviceStateCallback = unsafe extern "C" fn(
    regName: *const core::ffi::c_char,
    callback: aclrtDeviceStateCallback,
    args: *mut core::ffi::c_void,
) -> aclError;
pub type aclrtPeekAtLastError = unsafe extern "C" fn(level: aclrtLastErrLevel) -> aclError;
pub type aclrtGetLastError = unsafe extern "C" fn(level: aclrtLastErrLevel) -> aclError;
