//! Block sets on the wire: ascending spans per group, not yet checked against a layout.

use bytes::{BufMut, BytesMut};

use super::{Reader, WireError};
use crate::layout::MAX_GROUPS;
use crate::{BlockId, BlockSet, BlockSpan};

/// Blocks by group, as a peer named them. [`BlockSet::from_spans`] checks them against the cache's layout.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlockSpans(pub Vec<Vec<BlockSpan>>);

impl From<&BlockSet> for BlockSpans {
    fn from(set: &BlockSet) -> Self {
        Self((0..set.groups()).map(|group| set.spans(group).to_vec()).collect())
    }
}

impl BlockSpans {
    /// How many ids, all groups together.
    pub fn len(&self) -> u64 {
        self.0.iter().flatten().map(|span| u64::from(span.count)).sum()
    }

    /// The ids, ascending, a list for each group.
    pub fn ids(&self) -> Vec<Vec<BlockId>> {
        let ids = |span: &BlockSpan| (span.first.0..).take(span.count as usize).map(BlockId);
        self.0.iter().map(|spans| spans.iter().flat_map(ids).collect()).collect()
    }

    /// Whether no id is named.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Appends the wire form: groups u16; per group the number of spans u32, then (first u32, count u32) each.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.0.len() as u16);
        for spans in &self.0 {
            out.put_u32_le(spans.len() as u32);
            for span in spans {
                out.put_u32_le(span.first.0);
                out.put_u32_le(span.count);
            }
        }
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// Too many groups, or spans that are empty, not ascending, adjacent, or past `u32`.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let groups = usize::from(from.u16()?);
        if groups > MAX_GROUPS {
            return Err(WireError::TooLong { what: "block groups", limit: MAX_GROUPS as u64 });
        }
        let mut lists = Vec::with_capacity(groups);
        for _ in 0..groups {
            let count = from.count("block spans", 8)?;
            let mut spans = Vec::with_capacity(count);
            let mut next = 0;
            for _ in 0..count {
                let span = BlockSpan { first: BlockId(from.u32()?), count: from.u32()? };
                if span.count == 0 || u64::from(span.first.0) < next || span.end() > u64::from(u32::MAX) {
                    return Err(WireError::Value { what: "block span" });
                }
                // Adjacent spans are refused too, so that each set has one form.
                next = span.end() + 1;
                spans.push(span);
            }
            lists.push(spans);
        }
        Ok(Self(lists))
    }
}
