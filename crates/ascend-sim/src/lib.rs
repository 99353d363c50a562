//! ropeway software CANN: AscendCL, HIXL and HCCL on simulated NPUs.
//!
//! A development tool, never shipped. The C functions are exported as `sim_<name>`; `cargo xtask sim-cann` lays out
//! libraries with CANN's own names over them. What is modelled, and what is not, stands in this crate's README.
//!
//! The core, used by every part:
//! - [`config`]: settings from the environment or from a program; [`topology`]: servers, nodes, devices, NICs;
//! - [`state`]: the folder that processes share, file locks, which process lives;
//! - [`hbm`]: device memory, its addresses, and who holds which block;
//! - [`work`]: ordered queues of asynchronous work with completion times;
//! - [`fault`]: scripted faults; [`context`]: what a thread is bound to; [`runtime`]: all of it together.
//!
//! The links between devices, over it: `net` (control connections), `dma` (what moves the bytes), [`model`] (how long
//! that takes), [`hixl`] and its C API [`cs`].

pub mod acl;
mod anchor;
pub mod config;
pub mod context;
pub mod cs;
mod dma;
pub mod fail;
pub mod fault;
pub mod ffi;
pub mod handles;
pub mod hbm;
pub mod hccl;
pub mod hixl;
pub mod model;
mod net;
pub mod runtime;
pub mod state;
pub mod topology;
pub mod work;

pub use fail::{Done, Fail};
