//! The `hixl` transport: HIXL through its C++ class, behind the shim, or through its C functions.
//!
//! Both are a [`Native`](crate::link::Native) to the link engine. Here is what they need besides: which node this is and how
//! it is told ([`endpoints`]), what two engines tell each other ([`offer`]), which way joins them ([`way`]), and the
//! library's rules about regions.

mod bond;
mod capi;
mod class;
mod codes;
mod config;
pub mod endpoints;
mod here;
mod limits;
mod links;
pub mod offer;
mod region;
mod registry;
mod shim;
#[cfg(test)]
mod tests;
pub mod way;

#[cfg(fuzzing)]
pub(crate) use offer::fuzz;

pub use capi::HixlC;
pub use class::HixlClass;
pub use config::HixlConfig;
