//! The target's half of a plan: its own runs, in the initiator's order of bytes.

use std::sync::Arc;

use bytes::BytesMut;

use super::PlanRequest;
use super::expansion::{Expansion, Lane};
use super::once::{self, Target};
use super::raw::{Extent, RawCopy, RawRuns};
use super::rect::{self, Rect};
use super::request::{GroupEntry, PartsEntry, RequestBody};
use super::spans::Joiner;
use crate::{CacheLayout, Cursor, Error, ErrorKind, Limits, Op, RegionId, Result, Run, Runs};

/// A peer's request, checked against the layout that it means, as runs of the owner's side alone: `Run::remote` means
/// nothing. Covers a window of the plan's bytes.
#[derive(Clone, Debug)]
pub struct ServedRuns {
    regions: Arc<[RegionId]>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Paged(Expansion),
    Raw(RawRuns),
}

impl ServedRuns {
    /// Checks the request, which may be hostile, against the layout: digest, part numbers, slices, block ids; for a
    /// WRITE also that no byte of ours is written twice. Only bytes `start .. start + bytes` of the plan are served.
    ///
    /// The lease's blocks are checked by [`PlanRequest::check_within`].
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) for another layout; [`OutOfBounds`](ErrorKind::OutOfBounds) for blocks,
    /// slices or a window outside it and for bytes written twice; [`Protocol`](ErrorKind::Protocol) for a request
    /// that no plan makes.
    pub fn new(
        layout: &CacheLayout,
        request: &PlanRequest,
        op: Op,
        start: u64,
        bytes: u64,
        limits: &Limits,
    ) -> Result<Self> {
        if request.digest != layout.digest() {
            return Err(error(
                ErrorKind::Mismatch,
                format!(
                    "the peer means layout {}, cache {} has {}; match the route anew",
                    request.digest,
                    layout.name(),
                    layout.digest()
                ),
            ));
        }
        let whole = match &request.body {
            RequestBody::Paged { parts, groups } => Body::Paged(paged(layout, parts, groups, op, limits)?),
            RequestBody::Raw(copies) => Body::Raw(raw(layout, copies, op, limits)?),
        };
        let total = match &whole {
            Body::Paged(paged) => paged.total_bytes(),
            Body::Raw(raw) => raw.total_bytes(),
        };
        let window = match start.checked_add(bytes) {
            Some(end) if end <= total => start..end,
            _ => {
                let text = format!("{bytes} bytes from {start} of a plan that has {total}");
                return Err(error(ErrorKind::OutOfBounds, text));
            }
        };
        let body = match whole {
            Body::Paged(paged) => Body::Paged(paged.narrow(window)),
            Body::Raw(raw) => Body::Raw(raw.narrow(window)),
        };
        Ok(Self { regions: Arc::clone(layout.regions()), body })
    }

    /// The owner's regions; `Run::local_region` is an index into the list.
    pub fn local_regions(&self) -> &Arc<[RegionId]> {
        &self.regions
    }
}

impl Runs for ServedRuns {
    fn total_bytes(&self) -> u64 {
        match &self.body {
            Body::Paged(paged) => paged.total_bytes(),
            Body::Raw(raw) => raw.total_bytes(),
        }
    }

    fn total_runs(&self) -> u64 {
        match &self.body {
            Body::Paged(paged) => paged.total_runs(),
            Body::Raw(raw) => raw.total_runs(),
        }
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        match &self.body {
            Body::Paged(paged) => paged.fill(at, out, bytes),
            Body::Raw(raw) => raw.fill(at, out, bytes),
        }
    }

    fn seek(&self, byte: u64) -> Cursor {
        match &self.body {
            Body::Paged(paged) => paged.seek(byte),
            Body::Raw(raw) => raw.seek(byte),
        }
    }

    /// Writes nothing: the served half of a plan is not sent on.
    fn encode(&self, _: &mut BytesMut) {}
}

fn paged(
    layout: &CacheLayout,
    parts: &[PartsEntry],
    groups: &[GroupEntry],
    op: Op,
    limits: &Limits,
) -> Result<Expansion> {
    if layout.is_raw() {
        return Err(error(
            ErrorKind::Mismatch,
            format!("cache {} is raw, the request is not", layout.name()),
        ));
    }
    let mut lanes = Vec::new();
    let mut places = Vec::new();
    let mut used = vec![false; groups.len()];
    for entry in parts {
        for number in entry.first..entry.first.saturating_add(entry.count) {
            let Some(part) = layout.parts().get(number as usize) else {
                return Err(error(
                    ErrorKind::OutOfBounds,
                    format!("part {number} of {}", layout.parts().len()),
                ));
            };
            let Ok(group) = groups.binary_search_by_key(&part.group, |group| group.number) else {
                return Err(error(
                    ErrorKind::Protocol,
                    format!("no ids for the group of part {}", part.name),
                ));
            };
            used[group] = true;
            let block_bytes = part.strided.block_bytes;
            let rect =
                entry.rect.unwrap_or(Rect::whole(block_bytes)).fit(block_bytes).map_err(|why| {
                    error(ErrorKind::OutOfBounds, format!("part {}: slice: {why}", part.name))
                })?;
            let region = layout.region_of(number as usize);
            lanes.push(Lane::one_sided(group as u16, (part, rect, region)));
            if !groups[group].spans.is_empty() {
                places.push((number, rect));
            }
        }
    }
    if used.contains(&false) {
        return Err(error(ErrorKind::Protocol, "ids for a group that no part is of".into()));
    }
    if op == Op::Write && rect::overlap(&mut places).is_some() {
        return Err(error(
            ErrorKind::OutOfBounds,
            "slices of one part overlap; bytes would be written twice".into(),
        ));
    }
    expand(layout, lanes, groups, op, limits)
}

fn expand(
    layout: &CacheLayout,
    lanes: Vec<Lane>,
    groups: &[GroupEntry],
    op: Op,
    limits: &Limits,
) -> Result<Expansion> {
    let mut spans = Vec::with_capacity(groups.iter().map(|group| group.spans.len()).sum());
    let mut joined = Vec::with_capacity(groups.len());
    for group in groups {
        let number = usize::from(group.number);
        let ids = layout.ids(number);
        if let Some(span) = group.spans.iter().find(|span| span.end() > u64::from(ids)) {
            let text = format!("blocks {}..{} of group {number}, which has {ids}", span.first, span.end());
            return Err(error(ErrorKind::OutOfBounds, text));
        }
        let repeated = if op == Op::Write { once::repeated_span(&group.spans) } else { None };
        if let Some(id) = repeated {
            let text = format!("group {number}: block {id} or one after it would be written twice");
            return Err(error(ErrorKind::OutOfBounds, text));
        }
        // Every group of the list is used by a part, so the layout has it.
        let ratio = layout.groups()[number].ratio;
        let blocks: u64 = group.spans.iter().map(|span| u64::from(span.count) * u64::from(ratio)).sum();
        if blocks > u64::from(u32::MAX) {
            return Err(error(
                ErrorKind::Full,
                format!("group {number}: {blocks} kernel blocks pass 32 bits"),
            ));
        }
        let mut joiner = Joiner::new(&mut spans);
        joiner.own(&group.spans, ratio);
        joined.push(joiner.finish());
    }
    let range = 0..lanes.len();
    let plan = Expansion::new(lanes.into(), range, spans, joined)
        .ok_or_else(|| error(ErrorKind::OutOfBounds, "the request's bytes pass 2^64".into()))?;
    if op == Op::Write {
        let group = |number: u16| groups.binary_search_by_key(&number, |group| group.number).ok();
        once::prove(&plan, Target::Local, layout.overlaps(), group, limits)?;
    }
    Ok(plan)
}

fn raw(layout: &CacheLayout, copies: &[(u64, u64)], op: Op, limits: &Limits) -> Result<RawRuns> {
    let (true, [part]) = (layout.is_raw(), layout.parts()) else {
        return Err(error(
            ErrorKind::Mismatch,
            format!("cache {} is paged, the request is raw", layout.name()),
        ));
    };
    let extent = Extent { base: part.strided.offset, bytes: part.strided.block_bytes };
    let copies = copies.iter().map(|&(local, len)| RawCopy { local, remote: 0, len });
    RawRuns::new(copies, extent, None, (op == Op::Write).then_some(Target::Local), limits)
}

#[cold]
fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "request", message)
}
