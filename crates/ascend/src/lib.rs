//! The way to Ascend NPUs: safe AscendCL, memory in HBM, and the transports between devices.
//!
//! CANN is opened at run time; where there is none, everything here gives one clear error and the rest of the engine
//! works. Contexts are bound to threads, so native calls run on the threads of a device: one posts, others
//! connect and destroy.

pub mod curves;
pub mod hccl;
pub mod hixl;
pub mod ipc;
pub mod link;
pub mod node;
