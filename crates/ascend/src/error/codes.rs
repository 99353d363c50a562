//! Codes by what they mean to the engine. Numbers and names are facts of CANN's interface, the classes are ours. Codes of
//! models, operators and files, which the engine never asks for, are classed by their leading digit.

use ascend_sys::{acl::*, hccl::*, hixl_cs::*};

use super::Class;

/// One class, and the codes that mean it.
pub(super) type Group = (Class, &'static [i32]);

/// AscendCL and its runtime.
pub(super) const ACL: &[Group] = &[
    (Class::Uninitialised, &[ACL_ERROR_UNINITIALIZE]),
    (Class::Repeated, &[ACL_ERROR_REPEAT_INITIALIZE, ACL_ERROR_REPEAT_FINALIZE, ACL_ERROR_RT_REPEATED_INIT]),
    (
        Class::Unsupported,
        &[
            ACL_ERROR_UNSUPPORTED_DATA_TYPE,
            ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT,
            ACL_ERROR_OP_UNSUPPORTED_DYNAMIC,
            ACL_ERROR_UNSUPPORTED_JPEG,
            ACL_ERROR_API_NOT_SUPPORT,
            ACL_ERROR_FEATURE_UNSUPPORTED,
            ACL_ERROR_PROF_MODULES_UNSUPPORTED,
            ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
            ACL_ERROR_RT_FEATURE_NOT_SUPPORT_UPDATE_OP,
            ACL_ERROR_RT_SOC_VERSION,
            ACL_ERROR_RT_TASK_TYPE_NOT_SUPPORT,
        ],
    ),
    (
        Class::TimedOut,
        &[
            ACL_ERROR_WAIT_CALLBACK_TIMEOUT,
            ACL_ERROR_RT_WAIT_TIMEOUT,
            ACL_ERROR_RT_TASK_TIMEOUT,
            ACL_ERROR_RT_TIMEOUT,
            ACL_ERROR_RT_REPORT_TIMEOUT,
            ACL_ERROR_RT_AICORE_TIMEOUT,
            ACL_ERROR_RT_AICPU_TIMEOUT,
            ACL_ERROR_RT_VECTOR_CORE_TIMEOUT,
            ACL_ERROR_RT_FFTS_PLUS_TIMEOUT,
            ACL_ERROR_SNAPSHOT_LOCK_TIMEOUT,
            ACL_ERROR_RT_CCU_TIMEOUT,
        ],
    ),
    (Class::NoRuntime, &[ACL_ERROR_COMPILING_STUB_MODE]),
    (Class::NoDevice, &[ACL_ERROR_RT_INVALID_DEVICEID, ACL_ERROR_INVALID_DEVICE, ACL_ERROR_RT_NO_DEVICE]),
    (
        Class::WrongContext,
        &[
            ACL_ERROR_RT_CONTEXT_NULL,
            ACL_ERROR_RT_STREAM_CONTEXT,
            ACL_ERROR_RT_MODEL_CONTEXT,
            ACL_ERROR_RT_CONTEXT_RELEASE_ERROR,
            ACL_ERROR_RT_LABEL_CONTEXT,
        ],
    ),
    (Class::Unaligned, &[ACL_ERROR_RT_ADDR_UNALIGNED, ACL_ERROR_MEMORY_ADDRESS_UNALIGNED]),
    (
        Class::StaleHandle,
        &[ACL_ERROR_RT_INVALID_HANDLE, ACL_ERROR_RESOURCE_NOT_MATCH, ACL_ERROR_INVALID_RESOURCE_HANDLE],
    ),
    (
        Class::Aborted,
        &[
            ACL_ERROR_RT_DEVICE_TASK_ABORT,
            ACL_ERROR_RT_STREAM_ABORT,
            ACL_ERROR_RT_TASK_ABORT_STOP,
            ACL_ERROR_RT_MODEL_ABORT_NORMAL,
        ],
    ),
    (
        Class::Capture,
        &[
            ACL_ERROR_RT_CAPTURE_DEPENDENCY,
            ACL_ERROR_RT_STREAM_UNJOINED,
            ACL_ERROR_RT_MODEL_CAPTURED,
            ACL_ERROR_RT_STREAM_CAPTURED,
            ACL_ERROR_RT_EVENT_CAPTURED,
            ACL_ERROR_RT_STREAM_NOT_CAPTURED,
            ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT,
            ACL_ERROR_STREAM_CAPTURE_CONFLICT,
            ACL_ERROR_STREAM_TASK_GROUP_STATUS,
            ACL_ERROR_STREAM_TASK_GROUP_INTR,
            ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED,
            ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD,
            ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC,
            ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING,
            ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED,
        ],
    ),
    (
        Class::OutOfMemory,
        &[
            ACL_ERROR_BAD_ALLOC,
            ACL_ERROR_RT_MEMORY_ALLOCATION,
            ACL_ERROR_RT_RESOURCE_ALLOC_FAIL,
            ACL_ERROR_RT_DEVICE_OOM,
        ],
    ),
    (Class::FreeRefused, &[ACL_ERROR_RT_MEMORY_FREE]),
    (
        Class::Kernel,
        &[
            ACL_ERROR_RT_AICORE_OVER_FLOW,
            ACL_ERROR_RT_AIVEC_OVER_FLOW,
            ACL_ERROR_RT_OVER_FLOW,
            ACL_ERROR_RT_MODEL_EXECUTE,
            ACL_ERROR_RT_AICORE_EXCEPTION,
            ACL_ERROR_RT_AICORE_TRAP_EXCEPTION,
            ACL_ERROR_RT_AICPU_EXCEPTION,
            ACL_ERROR_RT_AICPU_DATADUMP_RSP_ERR,
            ACL_ERROR_RT_AICPU_MODEL_RSP_ERR,
            ACL_ERROR_RT_VECTOR_CORE_EXCEPTION,
            ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION,
            ACL_ERROR_RT_CDQ_BATCH_ABNORMAL,
            ACL_ERROR_RT_AICORE_TRAP_READ_OVERFLOW,
            ACL_ERROR_RT_AICORE_TRAP_WRITE_OVERFLOW,
            ACL_ERROR_RT_VECTOR_CORE_TRAP_READ_OVERFLOW,
            ACL_ERROR_RT_VECTOR_CORE_TRAP_WRITE_OVERFLOW,
            ACL_ERROR_RT_FFTS_PLUS_EXCEPTION,
            ACL_ERROR_RT_FFTS_PLUS_TRAP_EXCEPTION,
            ACL_ERROR_RT_AICPU_INTERNAL_ERROR,
            ACL_ERROR_RT_AICPU_INFO_LOAD_RSP_ERR,
            ACL_ERROR_RT_CCU_EXCEPTION,
        ],
    ),
    (Class::Denied, &[ACL_ERROR_RT_NO_PERMISSION]),
    (Class::NoEvents, &[ACL_ERROR_RT_NO_EVENT_RESOURCE]),
    (Class::NoStreams, &[ACL_ERROR_RT_NO_STREAM_RESOURCE]),
    (Class::NoNotifies, &[ACL_ERROR_RT_NO_NOTIFY_RESOURCE]),
    (
        Class::Exhausted,
        &[
            ACL_ERROR_RT_NO_MODEL_RESOURCE,
            ACL_ERROR_RT_NO_CDQ_RESOURCE,
            ACL_ERROR_RT_OVER_LIMIT,
            ACL_ERROR_RT_QUEUE_FULL,
            ACL_ERROR_STORAGE_OVER_LIMIT,
            ACL_ERROR_RT_STREAM_TASK_FULL,
            ACL_ERROR_RT_PROGRAM_USE_OUT,
        ],
    ),
    (
        Class::NotReady,
        &[
            ACL_ERROR_RT_QUEUE_EMPTY,
            ACL_ERROR_RT_STREAM_TASK_EMPTY,
            ACL_ERROR_RT_STREAM_NOT_COMPLETE,
            ACL_ERROR_RT_END_OF_SEQUENCE,
            ACL_ERROR_RT_EVENT_NOT_COMPLETE,
            ACL_ERROR_RT_RINGBUFFER_NO_DATA,
        ],
    ),
    (Class::WrongLinkType, &[ACL_ERROR_RT_LINK_TYPE_NOT_SUPPORTED]),
    (
        Class::Internal,
        &[
            ACL_ERROR_INTERNAL_ERROR,
            ACL_ERROR_FAILURE,
            ACL_ERROR_RT_FAILURE,
            ACL_ERROR_DRV_FAILURE,
            ACL_ERROR_RT_INTERNAL_ERROR,
            ACL_ERROR_RT_DRV_INTERNAL_ERROR,
        ],
    ),
    (
        Class::DeviceLost,
        &[ACL_ERROR_RT_LOST_HEARTBEAT, ACL_ERROR_RT_DEV_SETUP_ERROR, ACL_ERROR_RT_SOCKET_CLOSE],
    ),
    (Class::Dma, &[ACL_ERROR_RT_SYS_DMA, ACL_ERROR_RT_SEND_MSG, ACL_ERROR_RT_COPY_DATA]),
    (Class::Ipc, &[ACL_ERROR_RT_IPC_ERROR]),
    (Class::SyncTimedOut, &[ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, ACL_ERROR_RT_EVENT_SYNC_TIMEOUT]),
    (
        Class::MemoryFault,
        &[
            ACL_ERROR_RT_DEVICE_MEM_ERROR,
            ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR,
            ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR,
        ],
    ),
    (
        Class::LinkFault,
        &[
            ACL_ERROR_RT_LINK_ERROR,
            ACL_ERROR_RT_SUSPECT_REMOTE_ERROR,
            ACL_ERROR_RT_COMM_OP_RETRY_FAIL,
            ACL_ERROR_RT_L3_PORT_ERROR,
        ],
    ),
    (Class::AlreadyRegistered, &[ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED]),
    (Class::NotRegistered, &[ACL_ERROR_HOST_MEMORY_NOT_REGISTERED]),
];

/// HCCL's results, as numbers of the same type.
pub(super) const HCCL: &[Group] = &[
    (Class::Misuse, &[HCCL_E_PARA as i32, HCCL_E_PTR as i32]),
    (Class::OutOfMemory, &[HCCL_E_MEMORY as i32, HCCL_E_OOM as i32]),
    (Class::Unsupported, &[HCCL_E_NOT_SUPPORT as i32]),
    (Class::StaleHandle, &[HCCL_E_NOT_FOUND as i32]),
    (Class::Exhausted, &[HCCL_E_UNAVAIL as i32, HCCL_E_AGAIN as i32]),
    (
        Class::PeerLost,
        &[
            HCCL_E_TIMEOUT as i32,
            HCCL_E_TCP_CONNECT as i32,
            HCCL_E_ROCE_CONNECT as i32,
            HCCL_E_TCP_TRANSFER as i32,
            HCCL_E_ROCE_TRANSFER as i32,
            HCCL_E_NETWORK as i32,
            HCCL_E_REMOTE as i32,
        ],
    ),
    (Class::Aborted, &[HCCL_E_SUSPENDING as i32]),
    (Class::LinkFault, &[HCCL_E_OPRETRY_FAIL as i32]),
];

/// HIXL's statuses, of its class and of its C interface.
pub(super) const HIXL: &[Group] = &[
    (Class::Misuse, &[HIXL_PARAM_INVALID as i32]),
    (Class::LinkTimedOut, &[HIXL_TIMEOUT as i32]),
    (Class::PeerLost, &[HIXL_NOT_CONNECTED as i32]),
    (Class::Repeated, &[HIXL_ALREADY_CONNECTED as i32]),
    (Class::LinkFault, &[HIXL_NOTIFY_FAILED as i32]),
    (Class::Unsupported, &[HIXL_UNSUPPORTED as i32]),
    (Class::Exhausted, &[HIXL_RESOURCE_EXHAUSTED as i32]),
    (Class::LinkFailed, &[HIXL_FAILED as i32]),
];
