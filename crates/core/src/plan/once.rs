//! The proof that every destination byte is written at most once.
//!
//! Ids of a group are distinct, and parts share no bytes: that is the usual proof, and it costs a bit per id. Where the
//! layout says that parts do share bytes, the kernel blocks of the groups concerned are compared; what still looks
//! doubtful is expanded and sorted.

use super::BlockSpan;
use super::blocks::Bits;
use super::expansion::Expansion;
use super::spans::Span;
use crate::layout::Overlaps;
use crate::{BlockId, Cursor, Error, ErrorKind, Limits, Result, Run};

/// Bits that a check of distinct ids may always spend: 8 KiB.
const BITS_WORDS_MIN: usize = 1_024;

/// Which half of a span or run is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Local,
    Remote,
}

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }

    pub(super) fn block(self, span: &Span) -> u32 {
        match self {
            Self::Local => span.local,
            Self::Remote => span.remote,
        }
    }

    fn place(self, run: &Run) -> (u16, u64, u32) {
        match self {
            Self::Local => (run.local_region, run.local, run.len),
            Self::Remote => (run.remote_region, run.remote, run.len),
        }
    }
}

/// The first id that is listed twice.
pub(super) fn repeated(ids: &[BlockId]) -> Option<BlockId> {
    if ids.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let (low, high) = ids.iter().fold((u32::MAX, 0), |(low, high), id| (low.min(id.0), high.max(id.0)));
    if let Some(mut bits) = Bits::room(low, u64::from(high) + 1, BITS_WORDS_MIN + 2 * ids.len()) {
        return ids.iter().copied().find(|&first| !bits.insert(BlockSpan { first, count: 1 }));
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// The first id that is in two spans.
pub(super) fn repeated_span(spans: &[BlockSpan]) -> Option<BlockId> {
    if spans.is_sorted_by(|a, b| a.end() <= u64::from(b.first.0)) {
        return None;
    }
    let low = spans.iter().map(|span| span.first.0).min()?;
    let high = spans.iter().map(BlockSpan::end).max()?;
    if let Some(mut bits) = Bits::room(low, high, BITS_WORDS_MIN + 2 * spans.len()) {
        return spans.iter().find(|&&span| !bits.insert(span)).map(|span| span.first);
    }
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0].end() > u64::from(pair[1].first.0)).map(|pair| pair[1].first)
}

/// Proves it for a paged plan whose groups' ids are distinct on the target's side, and whose slices do not overlap in
/// a block. `group` gives the route's group for a group of the layout.
pub(super) fn prove(
    plan: &Expansion,
    target: Target,
    overlaps: &Overlaps,
    group: impl Fn(u16) -> Option<usize>,
    limits: &Limits,
) -> Result<()> {
    let doubtful = overlaps.odd
        || overlaps.relations.iter().any(|relation| match (group(relation.a), group(relation.b)) {
            (Some(a), Some(b)) => {
                let blocks = |group: usize| {
                    let spans = plan.spans(group).iter();
                    spans.map(|span| (i64::from(target.block(span)), i64::from(span.blocks))).collect()
                };
                meet(blocks(a), blocks(b), relation.shift)
            }
            _ => false,
        });
    if doubtful { sweep(plan, target, limits) } else { Ok(()) }
}

/// Whether a block of `a`, moved by `shift`, is a block of `b`.
fn meet(mut a: Vec<(i64, i64)>, mut b: Vec<(i64, i64)>, shift: i64) -> bool {
    a.iter_mut().for_each(|(first, _)| *first += shift);
    a.sort_unstable();
    b.sort_unstable();
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    while let (Some(&(at, count)), Some(&(other, other_count))) = (a.peek(), b.peek()) {
        if at + count <= other {
            a.next();
        } else if other + other_count <= at {
            b.next();
        } else {
            return true;
        }
    }
    false
}

/// Expands everything, sorts it by place and looks at neighbours.
fn sweep(plan: &Expansion, target: Target, limits: &Limits) -> Result<()> {
    let runs = plan.total_runs();
    if runs > u64::from(limits.runs_per_raw_plan) {
        return Err(Error::new(
            ErrorKind::Full,
            "plan",
            format!(
                "parts share bytes, and {runs} runs are too many to prove that none is written twice; \
                 limit runs_per_raw_plan is {}; plan fewer blocks at a time",
                limits.runs_per_raw_plan
            ),
        ));
    }
    let mut places = Vec::with_capacity(runs as usize);
    let mut at = Cursor::default();
    let mut some = [Run::default(); 256];
    loop {
        let filled = plan.fill(&mut at, &mut some, u64::MAX);
        if filled == 0 {
            break;
        }
        places.extend(some[..filled].iter().map(|run| target.place(run)));
    }
    places.sort_unstable();
    let clash = places.windows(2).find(|pair| {
        let ((region, at, len), (next_region, next, _)) = (pair[0], pair[1]);
        region == next_region && at + u64::from(len) > next
    });
    match clash {
        None => Ok(()),
        Some(pair) => Err(Error::new(
            ErrorKind::OutOfBounds,
            "plan",
            format!(
                "{} byte {} of the plan's region {} would be written twice: its parts share memory there",
                target.name(),
                pair[1].1,
                pair[1].0
            ),
        )),
    }
}
