//! The compact request: a plan as the other side needs it, in bytes.
//!
//! ```text
//! version u8 = 1 | kind u8 (0 paged, 1 raw) | digest of the target's layout, 16 bytes
//! paged: n, n × parts | n, n × group
//!   parts: (first << 1 | sliced), count, [offset, rows, row bytes, row stride]   parts first .. first + count
//!   group: number, n, n × span      every group that the parts use, ascending
//!   span:  (fold(first - end of the span before) << 1 | many), [count - 2]
//! raw:   n, n × (fold(offset - end of the copy before), length)
//! ```
//!
//! Numbers are unsigned, little-endian base 128. Parts, groups and ids are counted as the target's layout counts them.

use bytes::{BufMut, BytesMut};

use super::copy::side_ids;
use super::expansion::Expansion;
use super::once::Target;
use super::raw::RawRuns;
use super::rect::Rect;
use super::route::{Entry, Matched};
use super::varint::{Reader, fold, put, unfold};
use super::{BlockSet, BlockSpan};
use crate::layout::LayoutDigest;
use crate::{BlockId, Error, ErrorKind, Limits, Result};

const VERSION: u8 = 1;
const PAGED: u8 = 0;
const RAW: u8 = 1;
/// Bytes that the shortest coding of each item takes: no list can have more items than bytes left over these.
const PARTS_BYTES_MIN: usize = 2;
const GROUP_BYTES_MIN: usize = 2;
const SPAN_BYTES_MIN: usize = 1;
const COPY_BYTES_MIN: usize = 2;

/// A peer's request, decoded but not yet checked against a layout. Numbers are the target's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanRequest {
    pub(super) digest: LayoutDigest,
    pub(super) body: RequestBody,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RequestBody {
    Paged { parts: Vec<PartsEntry>, groups: Vec<GroupEntry> },
    Raw(Vec<(u64, u64)>),
}

/// Consecutive parts that are sliced alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartsEntry {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) rect: Option<Rect>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupEntry {
    pub(super) number: u16,
    pub(super) spans: Vec<BlockSpan>,
}

impl PlanRequest {
    /// Decodes a request from a peer. What it allocates is bounded by the input's length and by `limits`.
    ///
    /// # Errors
    /// [`Protocol`](ErrorKind::Protocol) for what no encoder writes, [`Full`](ErrorKind::Full) for more parts than
    /// `parts_per_cache`, more blocks than `blocks_per_lease` or more copies than `runs_per_raw_plan`.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self> {
        let Some((head, rest)) = bytes.split_first_chunk::<18>() else {
            return Err(protocol("shorter than its head"));
        };
        let [version, kind, digest @ ..] = *head;
        if version != VERSION {
            return Err(protocol("unknown version"));
        }
        let mut reader = Reader(rest);
        let body = match kind {
            PAGED => paged(&mut reader, limits)?,
            RAW => raw(&mut reader, limits)?,
            _ => return Err(protocol("unknown kind")),
        };
        if reader.left() > 0 {
            return Err(protocol("bytes after its end"));
        }
        Ok(Self { digest: LayoutDigest(digest), body })
    }

    /// The blocks that the request names, as (group of the target's layout, ids), in the plan's order. A raw request
    /// names block 0 of group 0.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, BlockSpan)> {
        let (groups, raw) = match &self.body {
            RequestBody::Paged { groups, .. } => (&groups[..], None),
            RequestBody::Raw(_) => (&[][..], Some((0, BlockSpan { first: BlockId(0), count: 1 }))),
        };
        let spans = |group: &'_ GroupEntry| {
            let number = usize::from(group.number);
            group.spans.clone().into_iter().map(move |span| (number, span))
        };
        groups.iter().flat_map(spans).chain(raw)
    }

    /// Checks that every block that the request names is in the set: what the lease opens.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied), naming the first span that is not.
    pub fn check_within(&self, set: &BlockSet) -> Result<()> {
        let outside = match &self.body {
            RequestBody::Paged { groups, .. } => groups.iter().find_map(|group| {
                let number = usize::from(group.number);
                Some((number, set.first_outside(number, group.spans.iter().copied())?))
            }),
            RequestBody::Raw(_) => self.blocks().find(|(group, span)| !set.contains(*group, *span)),
        };
        match outside {
            None => Ok(()),
            Some((group, span)) => Err(Error::new(
                ErrorKind::Denied,
                "request",
                format!("group {group}: blocks {}..{} are not all in the lease", span.first, span.end()),
            )),
        }
    }
}

pub(super) fn encode_paged(route: &Matched, plan: &Expansion, out: &mut BytesMut) {
    head(PAGED, route, out);
    let entries = &route.entries[plan.range()];
    let runs = || entries.chunk_by(goes_on);
    put(out, runs().count() as u64);
    for run in runs() {
        let Entry { remote_part: first, remote: rect, remote_block_bytes, .. } = run[0];
        let sliced = rect != Rect::whole(remote_block_bytes);
        put(out, u64::from(first) << 1 | u64::from(sliced));
        put(out, run.len() as u64);
        if sliced {
            for number in [rect.offset, rect.rows.into(), rect.row_bytes, rect.row_stride] {
                put(out, number);
            }
        }
    }

    let mut used: Vec<u16> = plan.lanes().iter().map(|lane| lane.group).collect();
    used.sort_unstable_by_key(|group| route.groups[usize::from(*group)].remote);
    used.dedup();
    put(out, used.len() as u64);
    for index in used.into_iter().map(usize::from) {
        let group = &route.groups[index];
        let spans = || side_ids(plan, index, group, Target::Remote).map(|(_, span)| span);
        put(out, group.remote.into());
        put(out, spans().count() as u64);
        let mut end = 0;
        for span in spans() {
            let many = span.count > 1;
            put(out, fold(i64::from(span.first.0) - end) << 1 | u64::from(many));
            if many {
                put(out, u64::from(span.count) - 2);
            }
            end = span.end() as i64;
        }
    }
}

pub(super) fn encode_raw(route: &Matched, plan: &RawRuns, out: &mut BytesMut) {
    head(RAW, route, out);
    let base = route.lanes[0].remote.base;
    // Neighbours at the target go as one copy, whatever lies between them here.
    let mut copies: Vec<(u64, u64)> = Vec::with_capacity(plan.runs().len());
    for run in plan.runs() {
        let (at, len) = (run.remote - base, u64::from(run.len));
        match copies.last_mut() {
            Some((last, bytes)) if *last + *bytes == at => *bytes += len,
            _ => copies.push((at, len)),
        }
    }
    put(out, copies.len() as u64);
    let mut end: u64 = 0;
    for (at, len) in copies {
        put(out, fold(at.wrapping_sub(end) as i64));
        put(out, len);
        end = at + len;
    }
}

fn head(kind: u8, route: &Matched, out: &mut BytesMut) {
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_slice(&route.remote.digest.0);
}

fn goes_on(a: &Entry, b: &Entry) -> bool {
    let whole = |entry: &Entry| entry.remote == Rect::whole(entry.remote_block_bytes);
    b.remote_part == a.remote_part + 1 && whole(a) == whole(b) && (whole(a) || a.remote == b.remote)
}

fn paged(reader: &mut Reader<'_>, limits: &Limits) -> Result<RequestBody> {
    let entries = count(reader, PARTS_BYTES_MIN)?;
    let mut left = u64::from(limits.parts_per_cache);
    let mut parts = Vec::with_capacity(entries.min(left as usize));
    for _ in 0..entries {
        let word = number(reader)?;
        let first = u32::try_from(word >> 1).map_err(|_| protocol("a part's number passes 32 bits"))?;
        let some = number(reader)?;
        left =
            left.checked_sub(some).ok_or_else(|| full("parts", "parts_per_cache", limits.parts_per_cache))?;
        if some == 0 {
            return Err(protocol("no parts where some are named"));
        }
        let rect = if word & 1 == 1 { Some(rect(reader)?) } else { None };
        parts.push(PartsEntry { first, count: some as u32, rect });
    }

    let listed = count(reader, GROUP_BYTES_MIN)?;
    if listed > crate::layout::MAX_GROUPS {
        return Err(protocol("more groups than a cache can have"));
    }
    let mut groups: Vec<GroupEntry> = Vec::with_capacity(listed);
    let mut left = u64::from(limits.blocks_per_lease);
    for _ in 0..listed {
        let group =
            u16::try_from(number(reader)?).map_err(|_| protocol("a group's number passes 16 bits"))?;
        if groups.last().is_some_and(|last| last.number >= group) {
            return Err(protocol("groups are not in ascending order"));
        }
        groups.push(GroupEntry { number: group, spans: spans(reader, &mut left, limits)? });
    }
    Ok(RequestBody::Paged { parts, groups })
}

fn spans(reader: &mut Reader<'_>, left: &mut u64, limits: &Limits) -> Result<Vec<BlockSpan>> {
    let many = || full("blocks", "blocks_per_lease", limits.blocks_per_lease);
    let listed = count(reader, SPAN_BYTES_MIN)?;
    if listed as u64 > *left {
        return Err(many());
    }
    let mut spans = Vec::with_capacity(listed);
    let mut end: i64 = 0;
    for _ in 0..listed {
        let word = number(reader)?;
        let blocks = if word & 1 == 1 { number(reader)?.saturating_add(2) } else { 1 };
        *left = left.checked_sub(blocks).ok_or_else(many)?;
        let first = end.checked_add(unfold(word >> 1)).and_then(|first| u32::try_from(first).ok());
        let first = first.ok_or_else(|| protocol("a block id outside 32 bits"))?;
        end = i64::from(first) + blocks as i64;
        if end > i64::from(u32::MAX) {
            return Err(protocol("a block id outside 32 bits"));
        }
        spans.push(BlockSpan { first: BlockId(first), count: blocks as u32 });
    }
    Ok(spans)
}

fn rect(reader: &mut Reader<'_>) -> Result<Rect> {
    let offset = number(reader)?;
    let rows = u32::try_from(number(reader)?).map_err(|_| protocol("rows pass 32 bits"))?;
    Ok(Rect { offset, rows, row_bytes: number(reader)?, row_stride: number(reader)? })
}

fn raw(reader: &mut Reader<'_>, limits: &Limits) -> Result<RequestBody> {
    let listed = count(reader, COPY_BYTES_MIN)?;
    if listed as u64 > u64::from(limits.runs_per_raw_plan) {
        return Err(full("copies", "runs_per_raw_plan", limits.runs_per_raw_plan));
    }
    let mut copies = Vec::with_capacity(listed);
    let mut end: u64 = 0;
    for _ in 0..listed {
        let at = end.wrapping_add(unfold(number(reader)?) as u64);
        let len = number(reader)?;
        if len == 0 {
            return Err(protocol("a copy of no bytes"));
        }
        end = at.checked_add(len).ok_or_else(|| protocol("a copy passes 64 bits"))?;
        copies.push((at, len));
    }
    Ok(RequestBody::Raw(copies))
}

/// A list's length, which the bytes left must be able to hold.
fn count(reader: &mut Reader<'_>, bytes_min: usize) -> Result<usize> {
    let listed = number(reader)?;
    if listed > (reader.left() / bytes_min) as u64 {
        return Err(protocol("a list longer than the request"));
    }
    Ok(listed as usize)
}

fn number(reader: &mut Reader<'_>) -> Result<u64> {
    reader.unsigned().ok_or_else(|| protocol("it ends inside a number, or a number passes 64 bits"))
}

#[cold]
fn protocol(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, "request", format!("a peer's plan request: {what}"))
}

#[cold]
fn full(what: &str, limit: &str, value: u32) -> Error {
    let text = format!("a peer's plan request: more {what} than limit {limit}, which is {value}");
    Error::new(ErrorKind::Full, "request", text)
}
