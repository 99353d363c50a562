//! HIXL's C API (`HixlCS*`): a server publishes regions, a client reaches them over one directed link.

mod abi;
mod client;
pub mod ffi;
mod server;
mod wire;

pub use abi::{CommMem, EndpointDesc, Layout, OneSideOpDesc};
