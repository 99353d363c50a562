//! From two lists of block ids to spans of kernel blocks that are consecutive on both sides.

use super::BlockSpan;
use crate::BlockId;

/// Kernel blocks that are consecutive on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Span {
    /// The first on our side.
    pub(super) local: u32,
    /// The first on the peer's side.
    pub(super) remote: u32,
    /// How many.
    pub(super) blocks: u32,
    /// How many kernel blocks of the group come before.
    pub(super) before: u32,
}

/// The spans of one group in a plan.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct GroupSpans {
    /// Where they begin among the plan's spans.
    pub(super) begin: u32,
    /// One past the last of them.
    pub(super) end: u32,
    /// Kernel blocks in all.
    pub(super) blocks: u32,
    /// Kernel blocks of the longest span.
    pub(super) longest: u32,
}

/// Appends spans, merging those that go on where the last one ended.
pub(super) struct Joiner<'a> {
    out: &'a mut Vec<Span>,
    group: GroupSpans,
}

impl<'a> Joiner<'a> {
    pub(super) fn new(out: &'a mut Vec<Span>) -> Self {
        let begin = out.len() as u32;
        Self { out, group: GroupSpans { begin, end: begin, blocks: 0, longest: 0 } }
    }

    #[inline]
    fn push(&mut self, local: u32, remote: u32, blocks: u32) {
        self.out.push(Span { local, remote, blocks, before: self.group.blocks });
        self.group.blocks += blocks;
        self.group.longest = self.group.longest.max(blocks);
    }

    pub(super) fn finish(mut self) -> GroupSpans {
        self.group.end = self.out.len() as u32;
        self.group
    }

    /// Pairs the lists, which stand for equally many kernel blocks, at most `u32::MAX`; every id was checked against
    /// its group before.
    pub(super) fn pair(
        &mut self,
        local: &[BlockId],
        local_ratio: u32,
        remote: &[BlockId],
        remote_ratio: u32,
    ) {
        if local_ratio == remote_ratio {
            self.pair_alike(local, remote, local_ratio);
        } else {
            self.pair_kernel_blocks(local, local_ratio, remote, remote_ratio);
        }
    }

    fn pair_alike(&mut self, local: &[BlockId], remote: &[BlockId], ratio: u32) {
        let mut pairs = local.iter().zip(remote);
        let Some((&BlockId(mut local), &BlockId(mut remote))) = pairs.next() else {
            return;
        };
        let mut count = 1;
        for (&BlockId(next_local), &BlockId(next_remote)) in pairs {
            // No overflow: ids are below a group's u32 count, and `count` ids were listed.
            if next_local == local + count && next_remote == remote + count {
                count += 1;
            } else {
                self.push(local * ratio, remote * ratio, count * ratio);
                (local, remote, count) = (next_local, next_remote, 1);
            }
        }
        self.push(local * ratio, remote * ratio, count * ratio);
    }

    fn pair_kernel_blocks(
        &mut self,
        local: &[BlockId],
        local_ratio: u32,
        remote: &[BlockId],
        remote_ratio: u32,
    ) {
        let mut local = Walk::new(local, local_ratio);
        let mut remote = Walk::new(remote, remote_ratio);
        let mut open: Option<(u32, u32, u32)> = None;
        while let (Some((from, local_left)), Some((to, remote_left))) = (local.peek(), remote.peek()) {
            let blocks = local_left.min(remote_left);
            local.skip(blocks);
            remote.skip(blocks);
            open = match open {
                Some((first, other, count)) if from == first + count && to == other + count => {
                    Some((first, other, count + blocks))
                }
                last => {
                    if let Some((first, other, count)) = last {
                        self.push(first, other, count);
                    }
                    Some((from, to, blocks))
                }
            };
        }
        if let Some((first, other, count)) = open {
            self.push(first, other, count);
        }
    }

    /// One side alone: spans of ids, which the other side has merged as far as this side allows.
    pub(super) fn own(&mut self, spans: &[BlockSpan], ratio: u32) {
        for span in spans {
            self.push(span.first.0 * ratio, 0, span.count * ratio);
        }
    }
}

/// Goes through the kernel blocks of a list of ids, in pieces of at most one id.
struct Walk<'a> {
    ids: std::slice::Iter<'a, BlockId>,
    ratio: u32,
    at: u32,
    left: u32,
}

impl<'a> Walk<'a> {
    fn new(ids: &'a [BlockId], ratio: u32) -> Self {
        Self { ids: ids.iter(), ratio, at: 0, left: 0 }
    }

    /// The next kernel block and how many follow in the same id, itself counted.
    fn peek(&mut self) -> Option<(u32, u32)> {
        if self.left == 0 {
            self.at = self.ids.next()?.0 * self.ratio;
            self.left = self.ratio;
        }
        Some((self.at, self.left))
    }

    fn skip(&mut self, blocks: u32) {
        self.at += blocks;
        self.left -= blocks;
    }
}

/// One side's kernel blocks, merged by that side alone.
pub(super) fn merged_side<'a>(
    spans: &'a [Span],
    first: impl Fn(&Span) -> u32 + 'a,
) -> impl Iterator<Item = (u32, u32)> + 'a {
    let mut spans = spans.iter().peekable();
    std::iter::from_fn(move || {
        let span = spans.next()?;
        let (begin, mut blocks) = (first(span), span.blocks);
        while let Some(next) = spans.next_if(|next| first(next) == begin + blocks) {
            blocks += next.blocks;
        }
        Some((begin, blocks))
    })
}

/// One side's ids, merged by that side alone. Kernel blocks of one id are always consecutive, so merged spans begin
/// and end with whole ids.
pub(super) fn merged_ids<'a>(
    spans: &'a [Span],
    ratio: u32,
    first: impl Fn(&Span) -> u32 + 'a,
) -> impl Iterator<Item = BlockSpan> + 'a {
    merged_side(spans, first)
        .map(move |(begin, blocks)| BlockSpan { first: BlockId(begin / ratio), count: blocks / ratio })
}
