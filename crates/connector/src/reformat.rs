//! Putting landed blocks in order: from scratch into the cache, as two-dimensional copies.

use ropeway::{BlockId, Strided};

use crate::ids::{Ids, RowMove};
use crate::layout::{CacheSpec, PlaneShape};
use crate::ranks::{HeadRun, PlaneMove, Reformat, Share};

/// `height` rows of `width` bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy2d {
    /// The storage of our cache that is written.
    pub storage: usize,
    /// Byte in the storage.
    pub to: u64,
    /// Bytes from row to row there; at least `width`.
    pub to_pitch: u64,
    /// Byte in the scratch region.
    pub from: u64,
    /// Bytes from row to row there; at least `width`.
    pub from_pitch: u64,
    /// Bytes of a row.
    pub width: u64,
    /// How many rows.
    pub height: u32,
}

impl Share {
    /// The blocks of a share that lands whole in portions of at most `blocks` of each group: each fits into a scratch cache of
    /// so many.
    pub fn rounds(&self, ids: &Ids, blocks: u32) -> Vec<Ids> {
        let blocks = blocks.max(1);
        let longest = ids.local.iter().map(Vec::len).max().unwrap_or(0);
        let round = |round: usize| {
            let first = round * blocks as usize;
            let range = |len: usize| first.min(len)..(first + blocks as usize).min(len);
            let mut part = Ids { remote: vec![Vec::new(); ids.remote.len()], ..Ids::default() };
            for (index, group) in self.groups.iter().enumerate() {
                let range = range(ids.local[index].len());
                part.local.push((0..range.len() as u32).map(BlockId).collect());
                part.remote[group.remote].extend_from_slice(&ids.remote[group.remote][range.clone()]);
                let landed = ids.moves[index].iter().filter(|rows| range.contains(&(rows.scratch as usize)));
                let rebased = landed.map(|rows| RowMove { scratch: rows.scratch - first as u32, ..*rows });
                part.moves.push(rebased.collect());
            }
            part
        };
        (0..longest.div_ceil(blocks as usize)).map(round).collect()
    }
}

impl Reformat {
    /// How many blocks of each group fit into `bytes`; at least one.
    pub fn blocks_in(&self, bytes: u64) -> u32 {
        let each = self.scratch.iter().map(|part| part.block_bytes).fold(0, u64::saturating_add);
        u32::try_from((bytes / each.max(1)).clamp(1, 1 << 16)).unwrap_or(1)
    }

    /// Gives every copy to `copy`. `places` is where the scratch parts lie, see [`Reformat::place`]; `moves` is of
    /// [`Ids::moves`](crate::ids::Ids).
    pub fn copies(
        &self,
        spec: &CacheSpec,
        places: &[Strided],
        moves: &[Vec<RowMove>],
        mut copy: impl FnMut(Copy2d),
    ) {
        for plane in &self.planes {
            let moving = Moving::new(spec, places, plane);
            let rows = moves.get(plane.group).map_or(&[][..], Vec::as_slice);
            for rows in rows {
                plane.runs.iter().for_each(|run| moving.rows(*rows, *run, &mut copy));
            }
        }
    }
}

/// A plane on both sides of the copies.
struct Moving<'a> {
    ours: Place<'a>,
    theirs: Place<'a>,
    storage: usize,
    is_state: bool,
}

/// Where a plane's rows and heads are on one side.
struct Place<'a> {
    shape: &'a PlaneShape,
    parts: Vec<Strided>,
}

impl Place<'_> {
    fn at(&self, block: u32, row: u32, head: u32) -> u64 {
        let (part, head) = if self.shape.part_per_head { (head as usize, 0) } else { (0, head) };
        let part = &self.parts[part];
        part.offset
            + u64::from(block) * part.stride
            + u64::from(row) * self.shape.rows.stride
            + u64::from(head) * self.shape.heads.stride
    }
}

impl<'a> Moving<'a> {
    fn new(spec: &'a CacheSpec, places: &[Strided], plane: &'a PlaneMove) -> Self {
        let ours = &spec.planes()[plane.plane];
        let parts = |shape: &PlaneShape| if shape.part_per_head { shape.heads.count as usize } else { 1 };
        let of_spec = &spec.parts()[ours.part..ours.part + parts(&ours.shape)];
        Self {
            storage: of_spec[0].storage,
            is_state: spec.groups()[ours.group].info.is_state(),
            ours: Place { shape: &ours.shape, parts: of_spec.iter().map(|part| part.strided).collect() },
            theirs: Place {
                shape: &plane.theirs,
                parts: places[plane.part..plane.part + parts(&plane.theirs)].to_vec(),
            },
        }
    }

    fn rows(&self, rows: RowMove, run: HeadRun, copy: &mut impl FnMut(Copy2d)) {
        let (a, b) = (self.ours.shape, self.theirs.shape);
        let count = if self.is_state { a.rows.count } else { rows.rows };
        let one_part = !a.part_per_head && !b.part_per_head;
        let (length, width) = (u64::from(count), a.content);
        let mut emit = |head: u32, width: u64, height: u32, pitches: (u64, u64)| {
            let to = self.ours.at(rows.block, rows.to, run.ours + head);
            let from = self.theirs.at(rows.scratch, rows.from, run.theirs + head);
            let (to_pitch, from_pitch) = if height == 1 { (width, width) } else { pitches };
            copy(Copy2d { storage: self.storage, to, to_pitch, from, from_pitch, width, height });
        };
        if one_part && a.heads_touch() && b.heads_touch() {
            emit(0, width * u64::from(run.count), count, (a.rows.stride, b.rows.stride));
        } else if one_part && a.rows_touch() && b.rows_touch() {
            emit(0, width * length, run.count, (a.heads.stride, b.heads.stride));
        } else if a.rows_touch() && b.rows_touch() {
            (0..run.count).for_each(|head| emit(head, width * length, 1, (0, 0)));
        } else {
            (0..run.count).for_each(|head| emit(head, width, count, (a.rows.stride, b.rows.stride)));
        }
    }
}
