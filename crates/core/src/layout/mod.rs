//! Cache layouts: where the blocks of a paged KV cache lie in their owner's regions.
//!
//! A *cache* is a named set of *parts* (layer × K, V, latent, rope, indexer). A part is one strided array of *kernel
//! blocks* in one region. Parts belong to *groups*; a group has its own block ids, and one id stands for `ratio`
//! consecutive kernel blocks of each of the group's parts (`id * ratio .. (id + 1) * ratio`).
//!
//! ```
//! use ropeway_core::{CacheLayout, Limits, RegionId, Strided};
//!
//! let region = RegionId { slot: 0, generation: 1 };
//! let layout = CacheLayout::builder("kv")
//!     .group("full", 1)
//!     .part("layers.0.k", region, Strided::dense(0, 16_384, 64))
//!     .part("layers.0.v", region, Strided::dense(64 * 16_384, 16_384, 64))
//!     .build(|_| Some(128 * 16_384), &Limits::default())?;
//! assert_eq!(layout.ids(0), 64);
//! # Ok::<(), ropeway_core::Error>(())
//! ```

mod check;
mod digest;
mod overlap;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::{Limits, RegionId, Result};

pub use digest::LayoutDigest;
pub(crate) use overlap::Overlaps;

/// The longest name of a cache, group or part, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// The most groups of a cache.
pub const MAX_GROUPS: usize = 256;
/// The most kernel blocks that one id can stand for.
pub const MAX_RATIO: u32 = 65_536;

/// Equal pieces at equal distances: the kernel blocks of one part, in its region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Strided {
    /// Byte offset of the first block, from the start of the region.
    pub offset: u64,
    /// Bytes from the start of one block to the start of the next; at least `block_bytes`.
    pub stride: u64,
    /// Bytes of one kernel block.
    pub block_bytes: u64,
    /// How many kernel blocks.
    pub blocks: u32,
}

impl Strided {
    /// Blocks without gaps.
    pub const fn dense(offset: u64, block_bytes: u64, blocks: u32) -> Self {
        Self { offset, stride: block_bytes, block_bytes, blocks }
    }

    /// Whether block follows block without a gap.
    pub const fn is_dense(&self) -> bool {
        self.stride == self.block_bytes
    }

    /// One past the last byte, from the start of the region; `None` when that is no 64-bit number or there are no
    /// blocks.
    pub fn end(&self) -> Option<u64> {
        let last = u64::from(self.blocks.checked_sub(1)?);
        self.stride.checked_mul(last)?.checked_add(self.block_bytes)?.checked_add(self.offset)
    }
}

/// A group of parts that share block ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Unique in the cache.
    pub name: String,
    /// Kernel blocks that one id stands for.
    pub ratio: u32,
}

/// One strided array of kernel blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Unique in the cache. Parts of two caches are matched by it.
    pub name: String,
    /// Index into the cache's groups.
    pub group: u16,
    /// Where the blocks lie.
    pub region: RegionId,
    /// How they lie there.
    pub strided: Strided,
}

/// A layout before it was checked: what a caller builds, and what the wire carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutSpec {
    /// The cache's name.
    pub name: String,
    /// Its groups; parts and id lists name them by index.
    pub groups: Vec<Group>,
    /// Its parts.
    pub parts: Vec<Part>,
    /// Whether it is one block of raw bytes, addressed by offset and length instead of block ids.
    pub raw: bool,
}

impl LayoutSpec {
    /// Adds a group; the parts that follow belong to it.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>, ratio: u32) -> Self {
        self.groups.push(Group { name: name.into(), ratio });
        self
    }

    /// Adds a part to the last group.
    #[must_use]
    pub fn part(mut self, name: impl Into<String>, region: RegionId, strided: Strided) -> Self {
        // Without a group the index names none, and the check says so. Past 65,536 groups the check fails anyway.
        let group = self.groups.len().wrapping_sub(1) as u16;
        self.parts.push(Part { name: name.into(), group, region, strided });
        self
    }

    /// Checks the layout: names, limits, and that every block lies inside its region. `region_bytes` gives a region's
    /// length.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds) for a part that leaves its region,
    /// [`Full`](crate::ErrorKind::Full) for a limit, [`ApiMisuse`](crate::ErrorKind::ApiMisuse) for the rest; each
    /// names the part and the value.
    pub fn build(
        self,
        region_bytes: impl Fn(RegionId) -> Option<u64>,
        limits: &Limits,
    ) -> Result<CacheLayout> {
        check::check(&self, region_bytes, limits)?;
        let ids = (0..self.groups.len()).map(|group| check::ids(&self, group)).collect();
        let (regions, part_regions) = regions(&self.parts);
        Ok(CacheLayout {
            digest: digest::digest(&self),
            overlaps: overlap::find(&self.parts),
            ids,
            regions,
            part_regions,
            spec: self,
        })
    }
}

/// The regions of the parts, each once in the order of first use, and each part's index into them.
fn regions(parts: &[Part]) -> (Arc<[RegionId]>, Box<[u16]>) {
    let mut known = BTreeMap::new();
    let mut regions = Vec::new();
    let index = |part: &Part| {
        *known.entry(part.region).or_insert_with(|| {
            regions.push(part.region);
            // A cache has at most 65,535 parts, and no more regions than parts.
            (regions.len() - 1) as u16
        })
    };
    let part_regions = parts.iter().map(index).collect();
    (regions.into(), part_regions)
}

/// A checked layout: every block of every part lies inside its region.
#[derive(Clone)]
pub struct CacheLayout {
    spec: LayoutSpec,
    ids: Vec<u32>,
    digest: LayoutDigest,
    overlaps: Overlaps,
    regions: Arc<[RegionId]>,
    part_regions: Box<[u16]>,
}

impl CacheLayout {
    /// Starts a layout; see [`LayoutSpec::group`], [`LayoutSpec::part`], [`LayoutSpec::build`].
    pub fn builder(name: impl Into<String>) -> LayoutSpec {
        LayoutSpec { name: name.into(), groups: Vec::new(), parts: Vec::new(), raw: false }
    }

    /// A whole region as one block of one part, for raw `(local, remote, length)` lists. Two such layouts fit
    /// whatever their lengths. Leases name block 0 of group 0.
    pub fn whole_region(name: impl Into<String>, region: RegionId, bytes: u64) -> LayoutSpec {
        let mut spec = Self::builder(name).group("raw", 1).part("bytes", region, Strided::dense(0, bytes, 1));
        spec.raw = true;
        spec
    }

    /// The plain data that the layout was made from.
    pub fn spec(&self) -> &LayoutSpec {
        &self.spec
    }

    /// The cache's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The groups, in the order of id lists.
    pub fn groups(&self) -> &[Group] {
        &self.spec.groups
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.spec.parts
    }

    /// Whether it is one block of raw bytes, addressed by offset and length.
    pub fn is_raw(&self) -> bool {
        self.spec.raw
    }

    /// How many block ids the group has: valid ids are below it. 0 for a group that is not there.
    pub fn ids(&self, group: usize) -> u32 {
        self.ids.get(group).copied().unwrap_or(0)
    }

    /// A digest of the cache's shape: its name, its groups and its parts' names and block sizes; not of where the
    /// blocks lie or how many there are.
    pub fn digest(&self) -> LayoutDigest {
        self.digest
    }

    /// The regions that the parts lie in, each once, in the order of first use.
    pub fn regions(&self) -> &Arc<[RegionId]> {
        &self.regions
    }

    /// Bytes that one id of the group stands for, all parts together.
    pub fn bytes_per_id(&self, group: usize) -> u64 {
        let ratio = self.spec.groups.get(group).map_or(0, |group| u64::from(group.ratio));
        let parts = self.spec.parts.iter().filter(|part| usize::from(part.group) == group);
        // No overflow: the check has added up the bytes of all parts.
        parts.map(|part| part.strided.block_bytes * ratio).sum()
    }

    /// The index of a part's region in [`Self::regions`].
    pub(crate) fn region_of(&self, part: usize) -> u16 {
        self.part_regions[part]
    }

    pub(crate) fn overlaps(&self) -> &Overlaps {
        &self.overlaps
    }
}

impl fmt::Debug for CacheLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayout")
            .field("name", &self.spec.name)
            .field("groups", &self.spec.groups.len())
            .field("parts", &self.spec.parts.len())
            .field("digest", &self.digest)
            .finish()
    }
}

#[cfg(test)]
mod tests;
