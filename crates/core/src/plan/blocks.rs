//! Sets of block ids: what a lease opens, and what a plan may name.

use crate::{BlockId, CacheLayout, Error, ErrorKind, Limits, Result};

/// Consecutive block ids of one group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockSpan {
    /// The first id.
    pub first: BlockId,
    /// How many; at least 1.
    pub count: u32,
}

impl BlockSpan {
    /// One past the last id.
    pub fn end(&self) -> u64 {
        u64::from(self.first.0) + u64::from(self.count)
    }

    /// The ids themselves.
    pub fn ids(&self) -> impl Iterator<Item = BlockId> + use<> {
        // An end past u32 is refused wherever spans come in.
        (self.first.0..self.first.0.saturating_add(self.count)).map(BlockId)
    }
}

/// A set of block ids per group of a cache, made for quick subset checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockSet {
    groups: Box<[GroupSet]>,
}

impl BlockSet {
    /// The set of the given ids, one list per group of the layout; lists left out at the end are empty.
    ///
    /// # Errors
    /// An id that the group does not have, an id listed twice, more lists than groups, or more ids than
    /// `blocks_per_lease`.
    pub fn new(layout: &CacheLayout, ids: &[&[BlockId]], limits: &Limits) -> Result<Self> {
        Self::from_groups(layout, ids.len(), limits, |group| {
            ids[group].iter().map(|&first| BlockSpan { first, count: 1 })
        })
    }

    /// As [`Self::new`], from spans; they may come from a peer.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn from_spans(layout: &CacheLayout, spans: &[Vec<BlockSpan>], limits: &Limits) -> Result<Self> {
        Self::from_groups(layout, spans.len(), limits, |group| spans[group].iter().copied())
    }

    fn from_groups<I: Iterator<Item = BlockSpan>>(
        layout: &CacheLayout,
        lists: usize,
        limits: &Limits,
        spans: impl Fn(usize) -> I,
    ) -> Result<Self> {
        if lists > layout.groups().len() {
            return Err(error(
                ErrorKind::ApiMisuse,
                format!(
                    "{lists} id lists for the {} groups of cache {}",
                    layout.groups().len(),
                    layout.name()
                ),
            ));
        }
        let mut left = u64::from(limits.blocks_per_lease);
        let mut groups = Vec::with_capacity(layout.groups().len());
        for (index, group) in layout.groups().iter().enumerate() {
            let ids = layout.ids(index);
            let mut list = Vec::new();
            for span in (index < lists).then(|| spans(index)).into_iter().flatten() {
                if span.count == 0 || span.end() > u64::from(ids) {
                    return Err(error(
                        ErrorKind::OutOfBounds,
                        format!(
                            "block id {} of group {}: cache {} has ids below {ids} there",
                            u64::max(span.first.0.into(), span.end().saturating_sub(1)),
                            group.name,
                            layout.name()
                        ),
                    ));
                }
                left = left.checked_sub(span.count.into()).ok_or_else(|| {
                    error(
                        ErrorKind::Full,
                        format!("more than {} blocks; limit blocks_per_lease", limits.blocks_per_lease),
                    )
                })?;
                list.push(span);
            }
            groups.push(GroupSet::new(list).map_err(|id| {
                error(ErrorKind::ApiMisuse, format!("block id {id} of group {} is listed twice", group.name))
            })?);
        }
        Ok(Self { groups: groups.into() })
    }

    /// How many groups the set covers; those of its layout.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The group's ids as spans: ascending, not empty, never adjacent.
    pub fn spans(&self, group: usize) -> &[BlockSpan] {
        self.groups.get(group).map_or(&[], |group| &group.spans)
    }

    /// How many ids the set has, all groups together.
    pub fn len(&self) -> u64 {
        self.groups.iter().flat_map(|group| &group.spans).map(|span| u64::from(span.count)).sum()
    }

    /// Whether no id is in the set.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.spans.is_empty())
    }

    /// Whether every id of the span is in the set.
    pub fn contains(&self, group: usize, span: BlockSpan) -> bool {
        self.groups.get(group).is_some_and(|group| group.contains(span))
    }

    /// The first span that is not wholly in the set, if there is one.
    pub fn first_outside(
        &self,
        group: usize,
        spans: impl IntoIterator<Item = BlockSpan>,
    ) -> Option<BlockSpan> {
        match self.groups.get(group) {
            None => spans.into_iter().next(),
            Some(group) => spans.into_iter().find(|span| !group.contains(*span)),
        }
    }
}

/// Words that a set may always spend on bits: leases are many, so not more than a small one's spans take.
const BITS_WORDS_MIN: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
struct GroupSet {
    spans: Box<[BlockSpan]>,
    /// The same as one bit per id, where that is no larger than the spans by much.
    bits: Option<Bits>,
}

impl GroupSet {
    /// `Err`: an id that is there twice.
    fn new(mut spans: Vec<BlockSpan>) -> Result<Self, BlockId> {
        if !spans.is_sorted() {
            spans.sort_unstable();
        }
        let mut merged: Vec<BlockSpan> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if last.end() > span.first.0.into() => return Err(span.first),
                Some(last) if last.end() == u64::from(span.first.0) => last.count += span.count,
                _ => merged.push(span),
            }
        }
        let bits = match (merged.first(), merged.last()) {
            (Some(first), Some(last)) => {
                Bits::room(first.first.0, last.end(), BITS_WORDS_MIN + 4 * merged.len())
            }
            _ => None,
        };
        let bits = bits.map(|mut bits| {
            merged.iter().for_each(|span| {
                bits.insert(*span);
            });
            bits
        });
        Ok(Self { spans: merged.into(), bits })
    }

    fn contains(&self, span: BlockSpan) -> bool {
        match &self.bits {
            Some(bits) => bits.contains(span),
            None => {
                let after = self.spans.partition_point(|own| own.first <= span.first);
                after.checked_sub(1).is_some_and(|at| span.end() <= self.spans[at].end())
            }
        }
    }
}

/// One bit per id, from `first` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bits {
    first: u32,
    words: Box<[u64]>,
}

impl Bits {
    /// Room for the ids from `first` to below `end`, unless that takes more than `words_max` words.
    pub(super) fn room(first: u32, end: u64, words_max: usize) -> Option<Self> {
        let words = end.saturating_sub(first.into()).div_ceil(64);
        (words <= words_max as u64).then(|| Self { first, words: vec![0; words as usize].into() })
    }

    /// Sets the span's bits; `false` if one of them was set before. The span must lie inside the room.
    #[inline]
    pub(super) fn insert(&mut self, span: BlockSpan) -> bool {
        let mut fresh = true;
        each_word(span.first.0.wrapping_sub(self.first), span.count, |at, mask| {
            fresh &= self.words[at] & mask == 0;
            self.words[at] |= mask;
        });
        fresh
    }

    /// Whether all bits of the span are set.
    #[inline]
    fn contains(&self, span: BlockSpan) -> bool {
        let Some(from) = span.first.0.checked_sub(self.first) else {
            return false;
        };
        let mut all = true;
        each_word(from, span.count, |at, mask| {
            all &= self.words.get(at).is_some_and(|word| word & mask == mask);
        });
        all
    }
}

#[inline]
fn each_word(from: u32, count: u32, mut each: impl FnMut(usize, u64)) {
    if count == 1 {
        return each(from as usize / 64, 1 << (from % 64));
    }
    let mut at = u64::from(from);
    let end = at + u64::from(count);
    while at < end {
        let bits = (64 - at % 64).min(end - at);
        each((at / 64) as usize, (u64::MAX >> (64 - bits)) << (at % 64));
        at += bits;
    }
}

#[cold]
fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "blocks", message)
}
