//! Which node this is, and how its NPUs are reached over the network.
//!
//! HIXL takes a node's identity from the address it listens on. Two pods of one node listen on two addresses, look like
//! two nodes, and are refused HCCS. Hence the identity here is explicit: given, or taken from something that all pods
//! of a node see alike.

mod address;
mod chip;
mod hccn;
mod identity;
mod machine;
#[cfg(test)]
mod tests;

pub use address::host_address;
pub use chip::{Chip, NpuIds, SuperPod};
pub use hccn::{Hccn, Nic, nic_address};
pub use identity::{Identity, Source};
pub use machine::Machine;
