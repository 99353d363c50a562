//! AscendCL: devices, contexts, streams, events, memory.
//!
//! Types, constants and function types carry their C names; enumerations are plain integers, since newer libraries may
//! return values that are not listed here.

pub use crate::bindings::acl::*;
use crate::table::table;

/// What to say when a function returns [`ACL_ERROR_COMPILING_STUB_MODE`]: the library found is the kind that programs
/// are linked with, not the one that they run with.
pub const STUB_HINT: &str = "the AscendCL library that was loaded is a link-time stub without a runtime behind it; \
    remove the folder `devlib` or `stub` from LD_LIBRARY_PATH, or point ASCEND_HOME_PATH to an installed CANN";

/// The length that a buffer for an exported memory key must have: 64 characters and a zero.
pub const IPC_KEY_BYTES: usize = 65;

table! {
    /// AscendCL: what must be there.
    pub struct Api since "8.5.0" {
        aclInit,
        aclGetRecentErrMsg,
        aclrtGetDeviceCount,
        aclrtSetDevice,
        aclrtGetDevice,
        aclrtGetSocName,
        aclrtSetCurrentContext,
        aclrtGetCurrentContext,
        aclrtCreateStreamWithConfig,
        aclrtDestroyStream,
        aclrtSynchronizeStreamWithTimeout,
        aclrtStreamQuery,
        aclrtStreamAbort,
        aclrtMalloc,
        aclrtFree,
        aclrtMallocHost,
        aclrtFreeHost,
        aclrtMemcpy,
        aclrtMemcpyAsync,
        aclrtPointerGetAttributes,
    }

    /// Gives back this library's own reference to AscendCL.
    reference: Reference since "8.5.0" {
        aclFinalizeReference,
    }

    /// Versions of installed packages.
    version: Version since "8.5.0" {
        aclsysGetVersionStr,
        aclsysGetVersionNum,
    }

    /// The version of CANN as a whole, in parts.
    cann_version: CannVersion since "8.5.0" {
        aclsysGetCANNVersion,
    }

    /// The version of the AscendCL interface.
    api_version: ApiVersion since "8.5.0" {
        aclrtGetVersion,
    }

    /// Reset and synchronisation of a whole device.
    device: Device since "8.5.0" {
        aclrtResetDevice,
        aclrtSynchronizeDevice,
        aclrtSynchronizeDeviceWithTimeout,
    }

    /// Attributes of a device: ids in its server and super-pod, how the host reaches it.
    attributes: Attributes since "8.5.0" {
        aclrtGetDeviceInfo,
    }

    /// Whether a device is well.
    health: Health since "8.5.0" {
        aclrtQueryDeviceStatus,
    }

    /// The identity of a device.
    uuid: Uuid since "8.5.0" {
        aclrtDeviceGetUuid,
    }

    /// Translates between user, logical and physical device ids.
    device_ids: DeviceIds since "8.5.0" {
        aclrtGetLogicDevIdByUserDevId,
        aclrtGetUserDevIdByLogicDevId,
        aclrtGetPhyDevIdByLogicDevId,
        aclrtGetLogicDevIdByPhyDevId,
    }

    /// Translates between user and physical device ids directly.
    user_device_ids: UserDeviceIds since "9.1.0" {
        aclrtGetPhyDevIdByUserDevId,
        aclrtGetUserDevIdByPhyDevId,
    }

    /// How two devices are wired.
    topology: Topology since "8.5.0" {
        aclrtGetDevicesTopo,
    }

    /// Contexts of one's own.
    context: Context since "8.5.0" {
        aclrtCreateContext,
        aclrtDestroyContext,
        aclrtCtxGetCurrentDefaultStream,
    }

    /// More of streams: numbers, limits, failure mode.
    streams: Streams since "8.5.0" {
        aclrtCreateStream,
        aclrtSynchronizeStream,
        aclrtDestroyStreamForce,
        aclrtSetStreamFailureMode,
        aclrtGetStreamAvailableNum,
        aclrtStreamGetId,
        aclrtDeviceGetStreamPriorityRange,
    }

    /// What orders a transfer after the compute stream, and the consumer after a transfer.
    events: Events since "8.5.0" {
        aclrtCreateEventExWithFlag,
        aclrtDestroyEvent,
        aclrtRecordEvent,
        aclrtQueryEventStatus,
        aclrtSynchronizeEventWithTimeout,
        aclrtStreamWaitEvent,
    }

    /// Elapsed time between events, and their older forms.
    event_times: EventTimes since "8.5.0" {
        aclrtCreateEvent,
        aclrtCreateEventWithFlag,
        aclrtResetEvent,
        aclrtQueryEventWaitStatus,
        aclrtSynchronizeEvent,
        aclrtStreamWaitEventWithTimeout,
        aclrtEventElapsedTime,
    }

    /// Events shared between processes.
    event_ipc: EventIpc since "8.5.0" {
        aclrtIpcGetEventHandle,
        aclrtIpcOpenEventHandle,
    }

    /// Allocation with a configuration.
    malloc_config: MallocConfig since "8.5.0" {
        aclrtMallocWithCfg,
        aclrtMallocHostWithCfg,
    }

    /// Pins host memory that somebody else allocated.
    host_register: HostRegister since "8.5.0" {
        aclrtHostRegister,
        aclrtHostUnregister,
    }

    /// Pins host memory, by flags, and tells its device address.
    host_register_v2: HostRegisterV2 since "8.5.0" {
        aclrtHostRegisterV2,
        aclrtHostGetDevicePointer,
    }

    /// Which engines of a device can reach host memory.
    host_map: HostMap since "9.0.0" {
        aclrtHostMemMapCapabilities,
    }

    /// Fills device memory.
    memset: Memset since "8.5.0" {
        aclrtMemset,
        aclrtMemsetAsync,
    }

    /// Many copies between host and device in one call.
    batch_copy: BatchCopy since "8.5.0" {
        aclrtMemcpyBatch,
        aclrtMemcpyBatchAsync,
    }

    /// The same without the index of what failed.
    batch_copy_v2: BatchCopyV2 since "9.1.0" {
        aclrtMemcpyBatchV2,
        aclrtMemcpyBatchAsyncV2,
    }

    /// Strided copies.
    memcpy_2d: Memcpy2d since "8.5.0" {
        aclrtMemcpy2d,
        aclrtMemcpy2dAsync,
    }

    /// Free and total memory of a device.
    memory_info: MemoryInfo since "8.5.0" {
        aclrtGetMemInfo,
    }

    /// The allocation in which an address lies.
    address_range: AddressRange since "9.0.0" {
        aclrtMemGetAddressRange,
    }

    /// Access to another device's memory.
    peer_access: PeerAccess since "8.5.0" {
        aclrtDeviceCanAccessPeer,
        aclrtDeviceEnablePeerAccess,
        aclrtDeviceDisablePeerAccess,
    }

    /// Whether peer access is on.
    peer_status: PeerStatus since "8.5.0" {
        aclrtDevicePeerAccessStatus,
    }

    /// Maps one allocation to another device.
    peer_map: PeerMap since "9.0.0" {
        aclrtMemP2PMap,
    }

    /// Device memory shared between processes of one host by key.
    ipc: Ipc since "8.5.0" {
        aclrtIpcMemGetExportKey,
        aclrtIpcMemImportByKey,
        aclrtIpcMemClose,
        aclrtIpcMemSetImportPid,
        aclrtDeviceGetBareTgid,
    }

    /// Links and servers of shared device memory (A3).
    ipc_attributes: IpcAttributes since "8.5.0" {
        aclrtIpcMemSetAttr,
        aclrtIpcMemImportPidInterServer,
    }

    /// Virtual memory management: address ranges and physical memory apart.
    vmm: Vmm since "8.5.0" {
        aclrtReserveMemAddress,
        aclrtReleaseMemAddress,
        aclrtMallocPhysical,
        aclrtFreePhysical,
        aclrtMapMem,
        aclrtUnmapMem,
        aclrtMemSetAccess,
        aclrtMemGetAccess,
        aclrtMemGetAllocationGranularity,
    }

    /// The physical memory behind an address.
    vmm_handles: VmmHandles since "8.5.0" {
        aclrtMemRetainAllocationHandle,
        aclrtMemGetAllocationPropertiesFromHandle,
    }

    /// Physical memory shared within a host.
    vmm_share: VmmShare since "8.5.0" {
        aclrtMemExportToShareableHandle,
        aclrtMemImportFromShareableHandle,
        aclrtMemSetPidToShareableHandle,
    }

    /// Physical memory shared within a host or a super-pod.
    vmm_share_v2: VmmShareV2 since "8.5.0" {
        aclrtMemExportToShareableHandleV2,
        aclrtMemImportFromShareableHandleV2,
        aclrtMemSetPidToShareableHandleV2,
    }

    /// Flags that streams of several processes wait for.
    notify: Notify since "8.5.0" {
        aclrtCreateNotify,
        aclrtDestroyNotify,
        aclrtRecordNotify,
        aclrtWaitAndResetNotify,
        aclrtGetNotifyId,
        aclrtNotifyGetExportKey,
        aclrtNotifyImportByKey,
        aclrtNotifySetImportPid,
        aclrtNotifyBatchReset,
    }

    /// Faults of a device: what they are, and their repair.
    repair: Repair since "8.5.0" {
        aclrtGetErrorVerbose,
        aclrtRepairError,
        aclrtGetMemUceInfo,
        aclrtMemUceRepair,
        aclrtDeviceTaskAbort,
    }

    /// Tells when somebody sets or resets a device.
    device_state: DeviceState since "8.5.0" {
        aclrtRegDeviceStateCallback,
    }

    /// The last error of the calling thread.
    last_error: LastError since "8.5.0" {
        aclrtPeekAtLastError,
        aclrtGetLastError,
    }
}
