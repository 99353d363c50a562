//! HIXL's engine: what the C++ class is made of. Its rules are those that were measured on the real host code; where
//! that says nothing, the choice made here is told where it is made.

pub(crate) mod address;
pub mod batch;
mod connects;
pub(crate) mod endpoint;
mod engine;
pub mod ffi;
pub(crate) mod link;
pub(crate) mod options;
mod passive;
pub(crate) mod regions;
mod requests;
pub(crate) mod status;
mod transfer;
pub(crate) mod wire;
