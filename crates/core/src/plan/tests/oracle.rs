//! The naive model: every byte by itself, in two maps, with nothing clever.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::layout::Part;
use crate::{
    BlockId, BlockSet, BlockSpan, CacheLayout, Limits, Op, Rect, RegionId, RouteMap, RouteParts, Slice,
    Strided,
};

/// A byte's place: region and offset.
pub(super) type Place = (RegionId, u64);

/// Choices read from a list of bytes, zeros at its end, so that a test case is a list of bytes and shrinks as one.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        u64::from(*byte) % end.max(1)
    }

    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True in one of `of` cases, and not when the choices ran out.
    pub(super) fn rarely(&mut self, of: u64) -> bool {
        self.below(of) == of - 1
    }
}

/// Two layouts, slices, ids: what a plan is made from.
pub(super) struct Case {
    pub(super) local: CacheLayout,
    pub(super) remote: CacheLayout,
    pub(super) slices: Vec<Slice>,
    pub(super) op: Op,
    pub(super) local_ids: Vec<Vec<BlockId>>,
    pub(super) remote_ids: Vec<Vec<BlockId>>,
    pub(super) parts: Option<Range<usize>>,
    pub(super) within: Option<BlockSet>,
}

/// One part before it is placed.
struct Shape {
    name: String,
    group: usize,
    local_bytes: u64,
    remote_bytes: u64,
}

impl Case {
    pub(super) fn draw(choices: &mut Choices<'_>) -> Self {
        let groups = choices.within(1..4) as usize;
        let ratios: Vec<(u64, u64)> = (0..groups).map(|_| ratio(choices)).collect();
        let mut slices = Vec::new();
        let count = groups as u64 + choices.below(3);
        let shapes: Vec<Shape> = (0..count).map(|index| shape(choices, index, groups, &mut slices)).collect();
        // The peer may count its groups and parts the other way round.
        let flipped = choices.rarely(3);
        let number = |group: usize| if flipped { groups - 1 - group } else { group };
        let side = |choices: &mut Choices<'_>, local: bool| {
            let ratios: Vec<u64> = ratios.iter().map(|pair| if local { pair.0 } else { pair.1 }).collect();
            layout(choices, &shapes, &ratios, local, flipped && !local)
        };
        let local = side(choices, true);
        let remote = side(choices, false);
        let op = if choices.below(2) == 0 { Op::Read } else { Op::Write };
        let (mut local_ids, mut remote_ids) = (Vec::new(), Vec::new());
        for (group, &(ours, theirs)) in ratios.iter().enumerate() {
            let rounds = choices.below(7);
            let (ours, theirs) = if ours == theirs { (1, 1) } else { (ours, theirs) };
            let extra = u64::from(choices.rarely(60));
            local_ids.push(draw_ids(choices, rounds * theirs + extra, local.ids(group)));
            remote_ids.push(draw_ids(choices, rounds * ours, remote.ids(number(group))));
        }
        if flipped {
            remote_ids.reverse();
        }
        let lanes = shapes.len() as u64;
        let parts = choices.rarely(4).then(|| {
            let start = choices.below(lanes);
            start as usize..choices.within(start..lanes + 1) as usize
        });
        let within = choices.rarely(3).then(|| grant(choices, &remote, &remote_ids));
        Self { local, remote, slices, op, local_ids, remote_ids, parts, within }
    }

    pub(super) fn route(&self) -> RouteMap {
        RouteMap::new(&self.local, &self.remote, &self.slices, RouteParts::Exact, &Limits::default()).unwrap()
    }

    /// What travels, lane by lane, byte by byte; `None` where an id or a pairing is wrong.
    pub(super) fn bytes(&self) -> Option<Vec<Vec<(Place, Place)>>> {
        let mut lanes = Vec::new();
        for part in self.local.parts() {
            let other = self.remote.parts().iter().find(|other| other.name == part.name)?;
            let mine: Vec<&Slice> = self.slices.iter().filter(|slice| slice.part == part.name).collect();
            if mine.is_empty() {
                let whole = Rect::whole(part.strided.block_bytes);
                lanes.push((part, other, whole, whole));
            }
            lanes.extend(mine.into_iter().map(|slice| (part, other, slice.local, slice.remote)));
        }
        let range = self.parts.clone().unwrap_or(0..lanes.len());
        let lanes = lanes.get(range)?;
        lanes.iter().map(|lane| self.lane(*lane)).collect()
    }

    fn lane(&self, (part, other, ours, theirs): (&Part, &Part, Rect, Rect)) -> Option<Vec<(Place, Place)>> {
        let local = kernel_blocks(&self.local, part.group, &self.local_ids)?;
        let remote = kernel_blocks(&self.remote, other.group, &self.remote_ids)?;
        if local.len() != remote.len() {
            return None;
        }
        let pairs = local.into_iter().zip(remote);
        Some(pairs.flat_map(|(a, b)| block(part, a, ours).into_iter().zip(block(other, b, theirs))).collect())
    }

    /// Whether every remote id that the lanes in range use is in the grant.
    pub(super) fn granted(&self) -> bool {
        let Some(within) = &self.within else { return true };
        let route = self.route();
        let range = self.parts.clone().unwrap_or(0..route.len());
        let names: Vec<&str> = route.part_names().collect();
        let used =
            self.remote.parts().iter().filter(|part| names[range.clone()].contains(&part.name.as_str()));
        used.map(|part| usize::from(part.group)).all(|group| {
            self.remote_ids[group].iter().all(|id| within.contains(group, BlockSpan { first: *id, count: 1 }))
        })
    }
}

/// Whether no place comes twice.
pub(super) fn distinct(places: impl Iterator<Item = Place>) -> bool {
    let mut seen = BTreeSet::new();
    { places }.all(|place| seen.insert(place))
}

fn kernel_blocks(layout: &CacheLayout, group: u16, ids: &[Vec<BlockId>]) -> Option<Vec<u64>> {
    let group = usize::from(group);
    let ratio = u64::from(layout.groups()[group].ratio);
    let known = ids[group].iter().all(|id| id.0 < layout.ids(group));
    let blocks = ids[group].iter().flat_map(|id| u64::from(id.0) * ratio..(u64::from(id.0) + 1) * ratio);
    known.then(|| blocks.collect())
}

fn block(part: &Part, block: u64, rect: Rect) -> Vec<Place> {
    let Strided { offset, stride, .. } = part.strided;
    let rows = (0..u64::from(rect.rows)).map(|row| rect.offset + row * rect.row_stride);
    let bytes = rows.flat_map(|row| row..row + rect.row_bytes);
    bytes.map(|byte| (part.region, offset + block * stride + byte)).collect()
}

fn ratio(choices: &mut Choices<'_>) -> (u64, u64) {
    if choices.rarely(3) {
        (choices.within(1..4), choices.within(1..4))
    } else {
        let both = choices.within(1..3);
        (both, both)
    }
}

fn shape(choices: &mut Choices<'_>, index: u64, groups: usize, slices: &mut Vec<Slice>) -> Shape {
    let name = format!("layers.{index}");
    // The first parts see to it that no group is empty.
    let group = if index < groups as u64 { index as usize } else { choices.below(groups as u64) as usize };
    let sliced = if choices.rarely(3) { choices.within(1..3) } else { 0 };
    let mut bytes = (0, 0);
    for _ in 0..sliced {
        let (rows, row_bytes) = (choices.within(1..4) as u32, choices.within(1..5));
        let mut rect = |bytes: &mut u64| {
            let row_stride = row_bytes + choices.below(3) * choices.below(4);
            // After the slices before it, or anywhere.
            let offset = if choices.rarely(4) { choices.below(6) } else { *bytes + choices.below(3) };
            *bytes = u64::max(*bytes, offset + u64::from(rows - 1) * row_stride + row_bytes);
            Rect { offset, rows, row_bytes, row_stride }
        };
        let slice = Slice::new(&name, rect(&mut bytes.0), rect(&mut bytes.1));
        slices.push(slice);
    }
    if sliced == 0 {
        let both = choices.within(1..9);
        bytes = (both, both);
    } else {
        bytes = (bytes.0 + choices.below(3), bytes.1 + choices.below(3));
    }
    Shape { name, group, local_bytes: bytes.0, remote_bytes: bytes.1 }
}

fn layout(
    choices: &mut Choices<'_>,
    shapes: &[Shape],
    ratios: &[u64],
    local: bool,
    flipped: bool,
) -> CacheLayout {
    let mut spec = CacheLayout::builder(if local { "ours" } else { "theirs" });
    for (group, ratio) in ratios.iter().enumerate() {
        spec = spec.group(format!("group {group}"), *ratio as u32);
    }
    let bytes = |shape: &Shape| if local { shape.local_bytes } else { shape.remote_bytes };
    let blocks: Vec<u64> =
        ratios.iter().map(|ratio| ratio * choices.within(1..9) + choices.below(2)).collect();
    let way = choices.below(10);
    let common = shapes.iter().map(bytes).sum::<u64>() + choices.below(3);
    let narrow = shapes.iter().map(bytes).max().unwrap_or(1) + choices.below(2);
    let mut ends = [0, 0];
    let mut column = 0;
    for shape in shapes {
        let region = choices.below(2);
        let block_bytes = bytes(shape);
        let dense = choices.below(2) == 0;
        let (offset, stride) = match way {
            // One pool of wide blocks, parts side by side in each.
            0 | 1 => (column, common),
            // Anywhere: parts may lie across each other.
            2 | 3 => (choices.below(40), if way == 2 { narrow } else { block_bytes + choices.below(4) }),
            // One after the other.
            _ if dense => (ends[region as usize], block_bytes),
            _ => (ends[region as usize] + choices.below(4), block_bytes + choices.below(4)),
        };
        column += block_bytes;
        let strided = Strided { offset, stride, block_bytes, blocks: blocks[shape.group] as u32 };
        ends[region as usize] = u64::max(ends[region as usize], strided.end().unwrap());
        let region = if way < 2 { 0 } else { region as u32 };
        spec.parts.push(Part {
            name: shape.name.clone(),
            group: shape.group as u16,
            region: RegionId { slot: region, generation: 1 },
            strided,
        });
    }
    if flipped {
        spec.parts.reverse();
        spec.groups.reverse();
        let last = spec.groups.len() as u16 - 1;
        spec.parts.iter_mut().for_each(|part| part.group = last - part.group);
    }
    spec.build(|_| Some(1 << 20), &Limits::default()).unwrap()
}

fn draw_ids(choices: &mut Choices<'_>, count: u64, known: u32) -> Vec<BlockId> {
    let mut free: Vec<u32> = (0..known).collect();
    let ascending = choices.below(3) > 0;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = if choices.rarely(100) {
            known + choices.below(2) as u32
        } else if free.is_empty() || choices.rarely(50) {
            choices.below(known.into()) as u32
        } else if ascending {
            free.remove(0)
        } else {
            free.remove(choices.below(free.len() as u64) as usize)
        };
        ids.push(BlockId(id));
    }
    ids
}

fn grant(choices: &mut Choices<'_>, layout: &CacheLayout, ids: &[Vec<BlockId>]) -> BlockSet {
    let mut sets: Vec<BTreeSet<BlockId>> = ids.iter().map(|ids| ids.iter().copied().collect()).collect();
    for (group, set) in sets.iter_mut().enumerate() {
        let known = layout.ids(group);
        set.retain(|id| id.0 < known);
        if choices.rarely(3) {
            set.pop_last();
        }
        if known > 0 && choices.below(2) == 0 {
            set.insert(BlockId(choices.below(known.into()) as u32));
        }
    }
    let lists: Vec<Vec<BlockId>> = sets.into_iter().map(|set| set.into_iter().collect()).collect();
    let lists: Vec<&[BlockId]> = lists.iter().map(Vec::as_slice).collect();
    BlockSet::new(layout, &lists, &Limits::default()).unwrap()
}
