//! The way to Ascend NPUs: safe AscendCL, memory in HBM, and the transports between devices.
//!
//! CANN is opened at run time; where there is none, everything here gives one clear error and the rest of the engine
//! works. Contexts are bound to threads, so native calls run on the threads of a device: one posts, others
//! connect and destroy.

pub mod cann;
pub mod curves;
pub mod device;
pub mod error;
pub mod event;
pub mod hbm;
pub mod hccl;
pub mod hixl;
pub mod ipc;
pub mod link;
pub mod node;
pub mod npu;
pub mod pinned;
mod slots;
mod stage;
pub mod staging;
pub mod stream;

pub use cann::Cann;
pub use device::{Bound, Device, Work};
pub use event::{Event, EventPoller, WatchId};
pub use hbm::HbmMemory;
pub use npu::{Npu, NpuConfig};
pub use stream::{Stream, Way};

/// The decoders of peers' bytes, for the fuzzer.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// A message or an offer: the first byte says of what.
    pub fn device(bytes: &[u8]) {
        let Some((which, bytes)) = bytes.split_first() else { return };
        match which % 5 {
            0 => crate::link::fuzz(bytes),
            1 => crate::hixl::fuzz(bytes),
            2 => crate::ipc::fuzz(bytes),
            3 => crate::hccl::fuzz(bytes),
            _ => crate::hccl::fuzz_offer(bytes),
        }
    }
}
