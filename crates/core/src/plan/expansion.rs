//! The lazy expansion of a paged plan: lanes × spans to runs, a few hundred at a time, without allocation.

use std::ops::Range;
use std::sync::Arc;

use super::rect::Rect;
use super::spans::{GroupSpans, Span};
use crate::layout::{Part, Strided};
use crate::runs::MAX_RUN_BYTES;
use crate::{Cursor, Run};

const MAX: u64 = MAX_RUN_BYTES as u64;

/// Where one side's rows lie.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Side {
    /// Byte offset in the region of the first row of kernel block 0.
    pub(super) base: u64,
    /// Bytes from kernel block to kernel block.
    pub(super) stride: u64,
    /// Bytes from row to row.
    pub(super) row_stride: u64,
    /// Index into the plan's list of regions.
    pub(super) region: u16,
}

impl Side {
    fn new((part, rect, region): (&Part, Rect, u16)) -> Self {
        let Strided { offset, stride, .. } = part.strided;
        // No overflow: the rectangle lies inside a block, and the block inside its region.
        Self { base: offset + rect.offset, stride, row_stride: rect.row_stride, region }
    }
}

/// How far apart runs of a lane are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grain {
    /// Both sides dense: a span is one piece.
    Span,
    /// One row per block, blocks apart on one side at least.
    Block,
    /// Several rows per block, apart on one side at least.
    Row,
}

impl Grain {
    fn of(rect: Rect, strides: &[u64]) -> Self {
        match rect.rows {
            1 if strides.iter().all(|stride| *stride == rect.row_bytes) => Self::Span,
            1 => Self::Block,
            _ => Self::Row,
        }
    }
}

/// One rectangle of one part, matched with its other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    pub(super) local: Side,
    pub(super) remote: Side,
    pub(super) rows: u32,
    pub(super) row_bytes: u64,
    /// Index into the route's groups.
    pub(super) group: u16,
    pub(super) grain: Grain,
}

impl Lane {
    /// The lane between rectangles that were cut alike.
    pub(super) fn two_sided(group: u16, local: (&Part, Rect, u16), remote: (&Part, Rect, u16)) -> Self {
        let rect = local.1;
        let (local, remote) = (Side::new(local), Side::new(remote));
        let grain = Grain::of(rect, &[local.stride, remote.stride]);
        Self { local, remote, rows: rect.rows, row_bytes: rect.row_bytes, group, grain }
    }

    /// The lane of one side alone.
    pub(super) fn one_sided(group: u16, local: (&Part, Rect, u16)) -> Self {
        let rect = local.1;
        let local = Side::new(local);
        let grain = Grain::of(rect, &[local.stride]);
        Self { local, remote: Side::default(), rows: rect.rows, row_bytes: rect.row_bytes, group, grain }
    }

    /// Bytes of one kernel block.
    pub(super) fn block_bytes(&self) -> u64 {
        self.row_bytes * u64::from(self.rows)
    }

    #[inline]
    fn run(&self, local: u64, remote: u64, len: u64) -> Run {
        Run {
            local,
            remote,
            len: len as u32,
            local_region: self.local.region,
            remote_region: self.remote.region,
        }
    }
}

/// A paged plan's copies, or a window of them.
#[derive(Clone, Debug)]
pub(super) struct Expansion {
    lanes: Arc<[Lane]>,
    range: Range<usize>,
    spans: Box<[Span]>,
    groups: Box<[GroupSpans]>,
    /// Bytes up to and with each lane of the range.
    ends: Box<[u64]>,
    /// The window's first byte and one past its last.
    window: Range<u64>,
    first: Cursor,
    runs: u64,
}

impl Expansion {
    /// The whole of a plan. `None` when its bytes pass 64 bits.
    pub(super) fn new(
        lanes: Arc<[Lane]>,
        range: Range<usize>,
        spans: Vec<Span>,
        groups: Vec<GroupSpans>,
    ) -> Option<Self> {
        let mut ends = Vec::with_capacity(range.len());
        let mut total: u64 = 0;
        let mut runs = 0;
        for lane in &lanes[range.clone()] {
            let group = &groups[usize::from(lane.group)];
            total = total.checked_add(lane.block_bytes().checked_mul(group.blocks.into())?)?;
            ends.push(total);
            runs += lane_runs(lane, group, &spans);
        }
        Some(Self {
            lanes,
            range,
            spans: spans.into(),
            groups: groups.into(),
            ends: ends.into(),
            window: 0..total,
            first: Cursor::default(),
            runs,
        })
    }

    /// Only the bytes of `window`, which lies inside the whole.
    pub(super) fn narrow(mut self, window: Range<u64>) -> Self {
        if window == self.window {
            return self;
        }
        let first = self.seek(window.start);
        let last = self.seek(window.end);
        self.runs = self.runs_between(&first, &last);
        self.first = first;
        self.window = window;
        self
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.window.end - self.window.start
    }

    pub(super) fn total_runs(&self) -> u64 {
        self.runs
    }

    /// Pieces before merging: one per lane, kernel block and row.
    pub(super) fn descriptors(&self) -> u64 {
        let pieces =
            |lane: &Lane| u64::from(self.groups[usize::from(lane.group)].blocks) * u64::from(lane.rows);
        self.lanes().iter().map(pieces).sum()
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes[self.range.clone()]
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The spans of a group.
    #[inline]
    pub(super) fn spans(&self, group: usize) -> &[Span] {
        let GroupSpans { begin, end, .. } = self.groups[group];
        &self.spans[begin as usize..end as usize]
    }

    pub(super) fn groups(&self) -> &[GroupSpans] {
        &self.groups
    }

    pub(super) fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        if self.window.start > 0 && *at == Cursor::default() {
            *at = self.first;
        }
        let mut budget = bytes.min(self.window.end.saturating_sub(self.position(at)));
        let mut filled = 0;
        while filled < out.len() && budget > 0 {
            let Some(lane) = self.lanes().get(at.part as usize) else {
                break;
            };
            let spans = self.spans(usize::from(lane.group));
            if at.span as usize >= spans.len() {
                *at = Cursor { part: at.part + 1, ..Cursor::default() };
                continue;
            }
            let room = &mut out[filled..];
            filled += match lane.grain {
                Grain::Span => {
                    let longest = self.groups[usize::from(lane.group)].longest;
                    fill_spans(lane, spans, longest, at, room, &mut budget)
                }
                Grain::Block if lane.row_bytes <= MAX && at.byte == 0 && lane.row_bytes <= budget => {
                    fill_blocks(lane, spans, at, room, &mut budget)
                }
                Grain::Row if lane.row_bytes <= MAX && at.byte == 0 && lane.row_bytes <= budget => {
                    fill_rows(lane, spans, at, room, &mut budget)
                }
                Grain::Block | Grain::Row => fill_piece(lane, spans, at, room, &mut budget),
            };
        }
        filled
    }

    /// The cursor at a byte of the window.
    pub(super) fn seek(&self, byte: u64) -> Cursor {
        let byte = byte.saturating_add(self.window.start).min(self.window.end);
        let part = self.ends.partition_point(|end| *end <= byte);
        let Some(lane) = self.lanes().get(part) else {
            return Cursor { part: part as u32, ..Cursor::default() };
        };
        let inside = byte - part.checked_sub(1).map_or(0, |last| self.ends[last]);
        let spans = self.spans(usize::from(lane.group));
        // No division by zero: a lane has rows, and rows have bytes.
        let block = (inside / lane.block_bytes()) as u32;
        let span = spans.partition_point(|span| span.before <= block) - 1;
        let mut at = Cursor { part: part as u32, span: span as u32, ..Cursor::default() };
        let in_block = inside % lane.block_bytes();
        match lane.grain {
            Grain::Span => at.byte = inside - u64::from(spans[span].before) * lane.block_bytes(),
            Grain::Block | Grain::Row => {
                at.block = block - spans[span].before;
                at.row = (in_block / lane.row_bytes) as u32;
                at.byte = in_block % lane.row_bytes;
            }
        }
        at
    }

    /// How many bytes of the whole lie before the cursor.
    fn position(&self, at: &Cursor) -> u64 {
        let part = at.part as usize;
        let (Some(lane), Some(end)) = (self.lanes().get(part), self.ends.get(part)) else {
            return self.ends.last().copied().unwrap_or(0);
        };
        let Some(span) = self.spans(usize::from(lane.group)).get(at.span as usize) else {
            return *end;
        };
        let begin = part.checked_sub(1).map_or(0, |last| self.ends[last]);
        let blocks = u64::from(span.before) + u64::from(at.block);
        begin + blocks * lane.block_bytes() + u64::from(at.row) * lane.row_bytes + at.byte
    }

    fn lane_runs(&self, lane: &Lane) -> u64 {
        lane_runs(lane, &self.groups[usize::from(lane.group)], &self.spans)
    }

    /// Runs of a lane before the piece that the numbers name.
    fn runs_before(&self, lane: &Lane, span: u32, block: u32, row: u32) -> u64 {
        let group = &self.groups[usize::from(lane.group)];
        let spans = self.spans(usize::from(lane.group));
        let blocks = spans.get(span as usize).map_or(group.blocks, |span| span.before) + block;
        let whole = match lane.grain {
            Grain::Span => return span_runs(lane, group, &spans[..span as usize]),
            Grain::Block => u64::from(blocks),
            Grain::Row => u64::from(blocks) * u64::from(lane.rows) + u64::from(row),
        };
        whole * lane.row_bytes.div_ceil(MAX)
    }

    /// Runs from one cursor to a later one.
    fn runs_between(&self, from: &Cursor, to: &Cursor) -> u64 {
        let piece = |at: &Cursor| (at.part, at.span, at.block, at.row);
        if piece(from) == piece(to) {
            return (to.byte - from.byte).div_ceil(MAX);
        }
        let before = |at: &Cursor| -> u64 {
            let lanes: u64 = self.lanes()[..at.part as usize].iter().map(|lane| self.lane_runs(lane)).sum();
            let inside = self.lanes().get(at.part as usize);
            lanes + inside.map_or(0, |lane| self.runs_before(lane, at.span, at.block, at.row))
        };
        // The piece that `from` cuts counts with what is left of it.
        let cut = match self.lanes().get(from.part as usize) {
            Some(lane) if from.byte > 0 => {
                let blocks = self.spans(usize::from(lane.group))[from.span as usize].blocks;
                let piece = match lane.grain {
                    Grain::Span => u64::from(blocks) * lane.row_bytes,
                    Grain::Block | Grain::Row => lane.row_bytes,
                };
                piece.div_ceil(MAX) - (piece - from.byte).div_ceil(MAX)
            }
            _ => 0,
        };
        before(to) + to.byte.div_ceil(MAX) - before(from) - cut
    }
}

/// Runs of a whole lane, whose group's spans are among `spans`.
fn lane_runs(lane: &Lane, group: &GroupSpans, spans: &[Span]) -> u64 {
    let pieces = match lane.grain {
        Grain::Span => return span_runs(lane, group, &spans[group.begin as usize..group.end as usize]),
        Grain::Block => u64::from(group.blocks),
        Grain::Row => u64::from(group.blocks) * u64::from(lane.rows),
    };
    if lane.row_bytes <= MAX { pieces } else { pieces * lane.row_bytes.div_ceil(MAX) }
}

/// Runs of some spans of a dense lane.
fn span_runs(lane: &Lane, group: &GroupSpans, spans: &[Span]) -> u64 {
    // No overflow: the longest span lies in one region.
    if u64::from(group.longest) * lane.row_bytes <= MAX {
        return spans.len() as u64;
    }
    spans.iter().map(|span| (u64::from(span.blocks) * lane.row_bytes).div_ceil(MAX)).sum()
}

/// Spans as single pieces.
fn fill_spans(
    lane: &Lane,
    spans: &[Span],
    longest: u32,
    at: &mut Cursor,
    out: &mut [Run],
    budget: &mut u64,
) -> usize {
    let most = u64::from(longest) * lane.row_bytes;
    let fits = if at.byte == 0 && most <= MAX { *budget / most } else { 0 };
    if fits == 0 {
        return fill_span(lane, spans, at, out, budget);
    }
    let spans = &spans[at.span as usize..];
    let count = (spans.len().min(out.len()) as u64).min(fits) as usize;
    let mut bytes = 0;
    for (span, run) in spans[..count].iter().zip(out) {
        let len = u64::from(span.blocks) * lane.row_bytes;
        let local = lane.local.base + u64::from(span.local) * lane.local.stride;
        let remote = lane.remote.base + u64::from(span.remote) * lane.remote.stride;
        *run = lane.run(local, remote, len);
        bytes += len;
    }
    *budget -= bytes;
    at.span += count as u32;
    count
}

/// One run of a span that the budget may cut, that was begun, or that is longer than a run can be.
#[cold]
fn fill_span(lane: &Lane, spans: &[Span], at: &mut Cursor, out: &mut [Run], budget: &mut u64) -> usize {
    let span = &spans[at.span as usize];
    let whole = u64::from(span.blocks) * lane.row_bytes;
    let len = (whole - at.byte).min(MAX).min(*budget);
    let place = |side: &Side, first: u32| side.base + u64::from(first) * side.stride + at.byte;
    out[0] = lane.run(place(&lane.local, span.local), place(&lane.remote, span.remote), len);
    *budget -= len;
    at.byte += len;
    if at.byte == whole {
        at.byte = 0;
        at.span += 1;
    }
    1
}

/// Blocks as single pieces; at least one fits.
fn fill_blocks(lane: &Lane, spans: &[Span], at: &mut Cursor, out: &mut [Run], budget: &mut u64) -> usize {
    let fits = (*budget / lane.row_bytes).min(out.len() as u64) as usize;
    let mut filled = 0;
    while filled < fits {
        let Some(span) = spans.get(at.span as usize) else {
            break;
        };
        let blocks = (span.blocks - at.block).min((fits - filled) as u32);
        let mut local = lane.local.base + u64::from(span.local + at.block) * lane.local.stride;
        let mut remote = lane.remote.base + u64::from(span.remote + at.block) * lane.remote.stride;
        for run in &mut out[filled..filled + blocks as usize] {
            *run = lane.run(local, remote, lane.row_bytes);
            local = local.wrapping_add(lane.local.stride);
            remote = remote.wrapping_add(lane.remote.stride);
        }
        filled += blocks as usize;
        at.block += blocks;
        if at.block == span.blocks {
            at.block = 0;
            at.span += 1;
        }
    }
    *budget -= filled as u64 * lane.row_bytes;
    filled
}

/// Rows as single pieces; at least one fits.
fn fill_rows(lane: &Lane, spans: &[Span], at: &mut Cursor, out: &mut [Run], budget: &mut u64) -> usize {
    let fits = (*budget / lane.row_bytes).min(out.len() as u64) as usize;
    let mut filled = 0;
    while filled < fits {
        let Some(span) = spans.get(at.span as usize) else {
            break;
        };
        let rows = (lane.rows - at.row).min((fits - filled) as u32);
        let row = u64::from(at.row);
        let block = u64::from(span.local + at.block);
        let mut local = lane.local.base + block * lane.local.stride + row * lane.local.row_stride;
        let block = u64::from(span.remote + at.block);
        let mut remote = lane.remote.base + block * lane.remote.stride + row * lane.remote.row_stride;
        for run in &mut out[filled..filled + rows as usize] {
            *run = lane.run(local, remote, lane.row_bytes);
            local = local.wrapping_add(lane.local.row_stride);
            remote = remote.wrapping_add(lane.remote.row_stride);
        }
        filled += rows as usize;
        at.row += rows;
        if at.row == lane.rows {
            step_block(span, at);
        }
    }
    *budget -= filled as u64 * lane.row_bytes;
    filled
}

/// One run of a piece that the budget cuts, that was begun, or that is longer than a run can be.
#[cold]
fn fill_piece(lane: &Lane, spans: &[Span], at: &mut Cursor, out: &mut [Run], budget: &mut u64) -> usize {
    let span = &spans[at.span as usize];
    let len = (lane.row_bytes - at.byte).min(MAX).min(*budget);
    let row = u64::from(at.row);
    let place = |side: &Side, first: u32| {
        side.base + u64::from(first + at.block) * side.stride + row * side.row_stride + at.byte
    };
    out[0] = lane.run(place(&lane.local, span.local), place(&lane.remote, span.remote), len);
    *budget -= len;
    at.byte += len;
    if at.byte == lane.row_bytes {
        at.byte = 0;
        at.row += 1;
        if at.row == lane.rows {
            step_block(span, at);
        }
    }
    1
}

fn step_block(span: &Span, at: &mut Cursor) {
    at.row = 0;
    at.block += 1;
    if at.block == span.blocks {
        at.block = 0;
        at.span += 1;
    }
}
