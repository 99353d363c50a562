//! HCCL: two-rank communicators.

pub use crate::bindings::hccl::*;
use crate::table::table;

/// A form of [`HcclCommConfig`]: a library reads as much of it as the declared size and version say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigForm {
    /// The oldest release that knows it.
    pub since: &'static str,
    /// Bytes of the structure.
    pub size: usize,
    /// Its version.
    pub version: u32,
}

/// The forms of the examined releases, oldest first. Newer libraries read older forms.
pub const CONFIG_FORMS: &[ConfigForm] = &[
    ConfigForm { since: "8.5.0", size: 2104, version: 8 },
    ConfigForm { since: "9.0.0", size: 2240, version: 10 },
    ConfigForm { since: "master", size: 2248, version: 11 },
];

impl HcclCommConfig {
    /// A configuration that sets nothing, declared in `form`.
    #[must_use]
    pub fn unset(form: ConfigForm) -> Self {
        // SAFETY: integers and arrays of integers: all zeros is a value.
        let mut config: Self = unsafe { core::mem::zeroed() };
        let mut header = [0; HCCL_COMM_CONFIG_INFO_BYTES as usize];
        header[..8].copy_from_slice(&form.size.to_ne_bytes());
        header[8..12].copy_from_slice(&HCCL_COMM_CONFIG_MAGIC_WORD.to_ne_bytes());
        header[12..16].copy_from_slice(&form.version.to_ne_bytes());
        for (place, byte) in config.reserved.iter_mut().zip(header) {
            *place = core::ffi::c_char::from_ne_bytes([byte]);
        }
        config.hcclBufferSize = HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET;
        config.hcclDeterministic = HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET;
        config.hcclExecTimeOut = HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET.cast_signed();
        config.hcclRdmaTrafficClass = HCCL_COMM_TRAFFIC_CLASS_CONFIG_NOT_SET;
        config.hcclRdmaServiceLevel = HCCL_COMM_SERVICE_LEVEL_CONFIG_NOT_SET;
        config.hcclQos = HCCL_COMM_QOS_CONFIG_NOT_SET;
        config.hcclChannelSqDepth = HCCL_COMM_SQ_DEPTH_CONFIG_NOT_SET;
        config
    }
}

table! {
    /// HCCL: what must be there.
    pub struct Api since "8.5.0" {
        HcclGetRootInfo,
        HcclCommInitRootInfoConfig,
        HcclCommDestroy,
        HcclGetCommAsyncError,
        HcclGetErrorString,
        HcclSend,
        HcclRecv,
        HcclBatchSendRecv,
    }

    /// A communicator with the default configuration.
    plain_init: PlainInit since "8.5.0" {
        HcclCommInitRootInfo,
    }

    /// What a communicator is.
    queries: Queries since "8.5.0" {
        HcclGetRankSize,
        HcclGetRankId,
        HcclGetCommName,
    }

    /// How much of the configuration the library reads.
    capability: Capability since "8.5.0" {
        HcclGetCommConfigCapability,
    }

    /// Suspends and resumes a communicator after a device fault.
    suspend: Suspend since "8.5.0" {
        HcclCommSuspend,
        HcclCommResume,
    }
}
