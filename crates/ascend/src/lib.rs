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
pub mod staging;
pub mod stream;

pub use cann::Cann;
pub use device::{Bound, Device, Work};
pub use event::{Event, EventPoller, WatchId};
pub use hbm::HbmMemory;
pub use npu::{Npu, NpuConfig};
pub use stream::{Stream, Way};
