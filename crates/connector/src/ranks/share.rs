//! What one of the producer's ranks gives one of ours: a route, and what is done with the bytes after it.

use ropeway::{Slice, Strided};

use super::heads::HeadRun;
use super::stripes::Stripe;
use super::topology::Rank;
use crate::layout::{GroupShape, PlaneShape};

/// Parts of one of the producer's ranks that travel together: one route, and a plan for each request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// The producer's rank.
    pub rank: Rank,
    /// The parts, by name; both caches of the route have them.
    pub parts: Vec<String>,
    /// Slices of the parts; those that have none travel whole.
    pub slices: Vec<Slice>,
    /// The groups of the parts.
    pub groups: Vec<SharedGroup>,
    /// Where the bytes land.
    pub land: Land,
}

/// A group on both sides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedGroup {
    /// Its number in our cache.
    pub local: usize,
    /// Its number in the cache of the producer's rank.
    pub remote: usize,
    /// Ours.
    pub ours: GroupShape,
    /// Theirs.
    pub theirs: GroupShape,
    /// Which slots our rank holds.
    pub our_stripe: Stripe,
    /// Which slots the producer's rank holds.
    pub their_stripe: Stripe,
}

/// Where a share's bytes land.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Land {
    /// In our cache's blocks: the route is between the caches themselves.
    Direct,
    /// The producer's blocks whole in scratch memory, from where they are put in order on the device: the route is
    /// between a scratch cache and the producer's.
    Whole(Reformat),
}

/// How landed blocks are put in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reformat {
    /// The parts of the scratch cache, group by group in the order of [`Share::groups`].
    pub scratch: Vec<ScratchPart>,
    /// The planes to be moved out of it.
    pub planes: Vec<PlaneMove>,
}

/// A part of a scratch cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScratchPart {
    /// The producer's name of it.
    pub name: String,
    /// Index into [`Share::groups`].
    pub group: usize,
    /// Bytes of one of the producer's kernel blocks.
    pub block_bytes: u64,
}

/// One plane on its way from scratch to our cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaneMove {
    /// Index into our cache's planes.
    pub plane: usize,
    /// Index into [`Share::groups`].
    pub group: usize,
    /// How the producer's blocks are arranged.
    pub theirs: PlaneShape,
    /// Its first part in scratch; it has one, or one for each head.
    pub part: usize,
    /// Which heads.
    pub runs: Vec<HeadRun>,
}

impl Share {
    /// Index of a shared group by our cache's number of it.
    pub fn group(&self, local: usize) -> Option<usize> {
        self.groups.iter().position(|group| group.local == local)
    }
}

impl Reformat {
    /// Where the scratch parts lie, one after the other from the start of a region, when each group has this many blocks;
    /// and the bytes of all. `None` past 64 bits.
    pub fn place(&self, blocks: &[u32]) -> Option<(Vec<Strided>, u64)> {
        let mut end = 0_u64;
        let mut places = Vec::with_capacity(self.scratch.len());
        for part in &self.scratch {
            let count = *blocks.get(part.group)?;
            places.push(Strided::dense(end, part.block_bytes, count));
            end = part.block_bytes.checked_mul(count.into())?.checked_add(end)?;
        }
        Some((places, end))
    }
}
