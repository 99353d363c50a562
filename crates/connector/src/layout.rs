//! A worker's KV cache as the engine sees it: from tensor views to parts, groups and rectangles.
//!
//! A framework hands over tensor views ([`View`]) and groups of layers that share block ids ([`GroupInfo`]);
//! [`CacheSpec`] checks them against their storages and says which parts to publish. Words used here:
//!
//! * *slot*: the place of one token in a block, or of `tokens_per_slot` of them where the cache is compressed;
//! * *plane*: what one tensor holds of one layer: `kv`, `k`, `v`, `latent`, `rope`, `indexer`, `conv`, …;
//! * *manager block*: what one block id of the framework names; *kernel block*: what one id of the published cache
//!   names. A manager block is `block_slots / kernel_slots` kernel blocks, with consecutive ids.
//!
//! Planes whose slots lie one after the other through the whole tensor are published in kernel blocks of
//! [`FINE_SLOTS`]: two instances with unequal block sizes then pair up without a copy, and merged runs cost nothing.

pub(crate) mod grain;
mod plane;
mod shape;
mod spec;
mod view;

pub use grain::FINE_SLOTS;
pub use plane::{Dim, PlaneShape};
pub use shape::{CacheShape, GroupShape, PlaneClass};
pub use spec::{CacheSpec, Part, Plane};
pub use view::{Axis, Context, Format, GroupInfo, Heads, Keeps, Shard, View};

/// Why views do not make a cache, in words that name the tensor, the value and the next step.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(pub(crate) String);

pub(crate) type Result<T, E = LayoutError> = std::result::Result<T, E>;

pub(crate) fn refuse<T>(message: String) -> Result<T> {
    Err(LayoutError(message))
}

#[cfg(test)]
mod tests;
