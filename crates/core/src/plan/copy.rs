//! Plans: a route and block ids, checked, merged, ready to be expanded on either side.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::expansion::Expansion;
use super::once::{self, Target};
use super::raw::{Extent, RawCopy, RawRuns};
use super::route::{Matched, RouteGroup, RouteMap};
use super::spans::{GroupSpans, Joiner, merged_ids};
use super::{BlockSet, BlockSpan};
use super::{rect, request};
use crate::{BlockId, Cursor, Error, ErrorKind, Op, RegionId, Result, Run, Runs};

/// What a plan is to cover, and under which grant.
#[derive(Clone, Debug, Default)]
pub struct Scope<'a> {
    parts: Option<Range<usize>>,
    within: Option<&'a BlockSet>,
}

impl<'a> Scope<'a> {
    /// Only these parts of the route; see [`RouteMap::range_of`]. By default all.
    #[must_use]
    pub fn parts(mut self, parts: Range<usize>) -> Self {
        self.parts = Some(parts);
        self
    }

    /// The peer's blocks must be in this set: what its lease opens. By default it is not checked here.
    #[must_use]
    pub fn within(mut self, blocks: &'a BlockSet) -> Self {
        self.within = Some(blocks);
        self
    }
}

/// A checked plan: what is copied where. Small: it grows with the block ids, not with the layers.
///
/// Bounds hold on both sides and no destination byte is written twice. Expand it through [`Runs`].
#[derive(Clone)]
pub struct CopyPlan {
    op: Op,
    route: Arc<Matched>,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Paged(Expansion),
    Raw(RawRuns),
}

impl RouteMap {
    /// Plans a transfer between blocks: the n-th of ours against the n-th of the peer's, group by group.
    ///
    /// `local_ids` has a list per group of our layout, `remote_ids` one per group of the peer's; lists at the end may
    /// be left out, lists of groups that the plan's parts do not use are not looked at. Where ratios differ, both
    /// lists stand for the same number of kernel blocks.
    ///
    /// # Errors
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) for an id that a group does not have, or a destination written twice;
    /// [`Denied`](ErrorKind::Denied) for a block outside the scope's set; [`Full`](ErrorKind::Full) for more ids than
    /// `blocks_per_lease`; [`ApiMisuse`](ErrorKind::ApiMisuse) for lists that do not pair up.
    pub fn plan(
        &self,
        op: Op,
        local_ids: &[&[BlockId]],
        remote_ids: &[&[BlockId]],
        scope: &Scope<'_>,
    ) -> Result<CopyPlan> {
        let route = &self.0;
        if route.raw {
            return Err(misuse(format!("cache {} is raw; plan a raw list", route.local.cache)));
        }
        let range = scope.parts.clone().unwrap_or(0..self.len());
        if range.start > range.end || range.end > self.len() {
            return Err(misuse(format!("parts {range:?} of a route that has {}", self.len())));
        }
        lists("local", local_ids.len(), route.local.groups)?;
        lists("remote", remote_ids.len(), route.remote.groups)?;

        let mut used = vec![false; route.groups.len()];
        route.lanes[range.clone()].iter().for_each(|lane| used[usize::from(lane.group)] = true);

        let list = |ids: &[&'_ [BlockId]], group: u16| ids.get(usize::from(group)).map_or(0, |ids| ids.len());
        let room = route.groups.iter().zip(&used).filter(|(_, used)| **used);
        let room =
            room.map(|(group, _)| list(local_ids, group.local).max(list(remote_ids, group.remote))).sum();
        let mut spans = Vec::with_capacity(usize::min(room, route.limits.blocks_per_lease as usize));
        let mut groups = Vec::with_capacity(route.groups.len());
        for (group, used) in route.groups.iter().zip(used) {
            let mut joiner = Joiner::new(&mut spans);
            if used {
                let local = local_ids.get(usize::from(group.local)).copied().unwrap_or(&[]);
                let remote = remote_ids.get(usize::from(group.remote)).copied().unwrap_or(&[]);
                check_lists(route, group, op, local, remote)?;
                joiner.pair(local, group.local_ratio, remote, group.remote_ratio);
            }
            groups.push(joiner.finish());
        }
        let paged = Expansion::new(Arc::clone(&route.lanes), range, spans, groups)
            .ok_or_else(|| error(ErrorKind::OutOfBounds, "the plan's bytes pass 2^64".into()))?;
        if let Some(within) = scope.within {
            check_within(route, &paged, within)?;
        }
        check_once(route, &paged, op)?;
        Ok(CopyPlan { op, route: Arc::clone(route), body: Body::Paged(paged) })
    }

    /// Plans a raw list over a raw route. The set of the scope, if any, must have block 0 of group 0.
    ///
    /// # Errors
    /// [`OutOfBounds`](ErrorKind::OutOfBounds) for a copy that passes the end on either side, or a destination written
    /// twice; [`Full`](ErrorKind::Full) for more copies than `runs_per_raw_plan`; [`Denied`](ErrorKind::Denied) when
    /// the set does not have the block.
    pub fn raw(&self, op: Op, copies: &[RawCopy], scope: &Scope<'_>) -> Result<CopyPlan> {
        let route = &self.0;
        let (Some(entry), Some(lane), true) = (route.entries.first(), route.lanes.first(), route.raw) else {
            return Err(misuse(format!("cache {} is paged; plan block ids", route.local.cache)));
        };
        let block = BlockSpan { first: BlockId(0), count: 1 };
        if scope.within.is_some_and(|within| !within.contains(0, block)) {
            return Err(error(ErrorKind::Denied, "the grant does not open the raw cache's block 0".into()));
        }
        let local = Extent { base: lane.local.base, bytes: entry.local.row_bytes };
        let remote = Extent { base: lane.remote.base, bytes: entry.remote.row_bytes };
        let runs =
            RawRuns::new(copies.iter().copied(), local, Some(remote), Some(target(op)), &route.limits)?;
        Ok(CopyPlan { op, route: Arc::clone(route), body: Body::Raw(runs) })
    }
}

impl CopyPlan {
    /// Which way the bytes go.
    pub fn op(&self) -> Op {
        self.op
    }

    /// Pieces before merging: one per part, kernel block and row, or per copy of a raw list.
    pub fn descriptors(&self) -> u64 {
        match &self.body {
            Body::Paged(paged) => paged.descriptors(),
            Body::Raw(raw) => raw.descriptors(),
        }
    }

    /// Our regions; `Run::local_region` is an index into the list.
    pub fn local_regions(&self) -> &Arc<[RegionId]> {
        &self.route.local.regions
    }

    /// The peer's regions; `Run::remote_region` is an index into the list.
    pub fn remote_regions(&self) -> &Arc<[RegionId]> {
        &self.route.remote.regions
    }

    /// Our blocks that the plan touches, as (group of our layout, ids), in the plan's order; a block may come twice
    /// when it is only read.
    pub fn local_blocks(&self) -> impl Iterator<Item = (usize, BlockSpan)> {
        self.blocks(Target::Local)
    }

    /// The peer's blocks that the plan touches, as (group of its layout, ids), in the plan's order.
    pub fn remote_blocks(&self) -> impl Iterator<Item = (usize, BlockSpan)> {
        self.blocks(Target::Remote)
    }

    /// How far apart the runs of each part are.
    #[cfg(test)]
    pub(super) fn grains(&self) -> impl Iterator<Item = super::expansion::Grain> {
        let lanes = match &self.body {
            Body::Paged(paged) => paged.lanes(),
            Body::Raw(_) => &[],
        };
        lanes.iter().map(|lane| lane.grain)
    }

    /// The bytes of each part.
    #[cfg(test)]
    pub(super) fn lane_bytes(&self) -> impl Iterator<Item = u64> {
        let Body::Paged(paged) = &self.body else { unreachable!("asked of paged plans only") };
        let blocks =
            |lane: &super::expansion::Lane| u64::from(paged.groups()[usize::from(lane.group)].blocks);
        paged.lanes().iter().map(move |lane| lane.block_bytes() * blocks(lane))
    }

    fn blocks(&self, side: Target) -> impl Iterator<Item = (usize, BlockSpan)> {
        let (paged, raw) = match &self.body {
            Body::Paged(paged) => (Some(paged), None),
            Body::Raw(raw) => (None, (!raw.runs().is_empty()).then_some((0, RAW_BLOCK))),
        };
        let paged = paged.into_iter().flat_map(move |paged| {
            self.route
                .groups
                .iter()
                .enumerate()
                .flat_map(move |(index, group)| side_ids(paged, index, group, side))
        });
        paged.chain(raw)
    }
}

const RAW_BLOCK: BlockSpan = BlockSpan { first: BlockId(0), count: 1 };

impl Runs for CopyPlan {
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

    fn encode(&self, out: &mut BytesMut) {
        match &self.body {
            Body::Paged(paged) => request::encode_paged(&self.route, paged, out),
            Body::Raw(raw) => request::encode_raw(&self.route, raw, out),
        }
    }
}

impl fmt::Debug for CopyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyPlan")
            .field("op", &self.op)
            .field("bytes", &self.total_bytes())
            .field("runs", &self.total_runs())
            .finish()
    }
}

/// A group's ids on one side, with the number of the group in that side's layout.
pub(super) fn side_ids(
    paged: &Expansion,
    index: usize,
    group: &RouteGroup,
    side: Target,
) -> impl Iterator<Item = (usize, BlockSpan)> {
    let (number, ratio) = match side {
        Target::Local => (group.local, group.local_ratio),
        Target::Remote => (group.remote, group.remote_ratio),
    };
    let spans = merged_ids(paged.spans(index), ratio, move |span| side.block(span));
    spans.map(move |span| (usize::from(number), span))
}

fn target(op: Op) -> Target {
    match op {
        Op::Read => Target::Local,
        Op::Write => Target::Remote,
    }
}

fn lists(side: &str, lists: usize, groups: usize) -> Result<()> {
    if lists > groups {
        return Err(misuse(format!("{lists} lists of {side} ids for {groups} groups")));
    }
    Ok(())
}

/// Lengths, bounds, and that no destination id comes twice.
fn check_lists(
    route: &Matched,
    group: &RouteGroup,
    op: Op,
    local: &[BlockId],
    remote: &[BlockId],
) -> Result<()> {
    let limit = route.limits.blocks_per_lease;
    let most = local.len().max(remote.len());
    if most as u64 > u64::from(limit) {
        let text = format!("group {}: {most} ids; limit blocks_per_lease is {limit}", group.name);
        return Err(error(ErrorKind::Full, text));
    }
    let blocks = |ids: &[BlockId], ratio: u32| ids.len() as u64 * u64::from(ratio);
    let (ours, theirs) = (blocks(local, group.local_ratio), blocks(remote, group.remote_ratio));
    if ours != theirs {
        return Err(misuse(format!(
            "group {}: {} local ids stand for {ours} kernel blocks, {} remote ids for {theirs}; they must pair up",
            group.name,
            local.len(),
            remote.len()
        )));
    }
    bounds(route, group, Target::Local, local, group.local_ids)?;
    bounds(route, group, Target::Remote, remote, group.remote_ids)?;
    let ids = match op {
        Op::Read => local,
        Op::Write => remote,
    };
    if let Some(id) = once::repeated(ids) {
        return Err(error(
            ErrorKind::OutOfBounds,
            format!("group {}: {} block {id} would be written twice", group.name, target(op).name()),
        ));
    }
    if ours > u64::from(u32::MAX) {
        let text = format!("group {}: {ours} kernel blocks; at most 2^32 - 1 are possible", group.name);
        return Err(error(ErrorKind::Full, text));
    }
    Ok(())
}

fn bounds(route: &Matched, group: &RouteGroup, side: Target, ids: &[BlockId], limit: u32) -> Result<()> {
    // A fold without an early end: the compiler makes it a vector loop.
    let highest = ids.iter().fold(0, |highest, id| highest.max(id.0));
    if highest < limit {
        return Ok(());
    }
    if ids.is_empty() {
        return Ok(());
    }
    let cache = match side {
        Target::Local => &route.local.cache,
        Target::Remote => &route.remote.cache,
    };
    Err(error(
        ErrorKind::OutOfBounds,
        format!("{} block {highest}: group {} of cache {cache} has {limit}", side.name(), group.name),
    ))
}

fn check_within(route: &Matched, paged: &Expansion, within: &BlockSet) -> Result<()> {
    for (index, group) in route.groups.iter().enumerate() {
        let remote = usize::from(group.remote);
        let ids = side_ids(paged, index, group, Target::Remote).map(|(_, span)| span);
        if let Some(span) = within.first_outside(remote, ids) {
            return Err(error(
                ErrorKind::Denied,
                format!(
                    "group {}: remote blocks {}..{} are not all in the grant",
                    group.name,
                    span.first,
                    span.end()
                ),
            ));
        }
    }
    Ok(())
}

fn check_once(route: &Matched, paged: &Expansion, op: Op) -> Result<()> {
    let target = target(op);
    let side = match target {
        Target::Local => &route.local,
        Target::Remote => &route.remote,
    };
    if side.slices_overlap {
        let place = |entry: &super::route::Entry| match target {
            Target::Local => (entry.local_part, entry.local),
            Target::Remote => (entry.remote_part, entry.remote),
        };
        let entries = &route.entries[paged.range()];
        let busy = entries.iter().zip(paged.lanes()).filter(|(_, lane)| {
            let GroupSpans { blocks, .. } = paged.groups()[usize::from(lane.group)];
            blocks > 0
        });
        let mut places: Vec<_> = busy.map(|(entry, _)| place(entry)).collect();
        if rect::overlap(&mut places).is_some() {
            return Err(error(
                ErrorKind::OutOfBounds,
                format!(
                    "slices of one part overlap in {} blocks, which would be written twice",
                    target.name()
                ),
            ));
        }
    }
    let group = |number: u16| {
        route.groups.iter().position(|group| match target {
            Target::Local => group.local == number,
            Target::Remote => group.remote == number,
        })
    };
    once::prove(paged, target, &side.overlaps, group, &route.limits)
}

#[cold]
fn misuse(message: String) -> Error {
    error(ErrorKind::ApiMisuse, message)
}

#[cold]
fn error(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, "plan", message)
}
