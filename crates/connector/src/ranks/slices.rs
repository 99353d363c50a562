//! A head slice as rectangles that an engine's route can copy, where there are such.

use ropeway::{Rect, Slice};

use super::heads::HeadRun;
use crate::layout::{Format, Heads, Plane, PlaneShape, Shard};

/// Slices of one part; more of them are left to the device.
const SLICES_MAX: u32 = 32;

/// How a plane's heads get from the peer's blocks into ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Part by part with slices, or whole where a part has none.
    Direct(Vec<(String, Option<Slice>)>),
    /// The peer's blocks must be landed whole first.
    Whole,
}

/// One plane on both sides.
#[derive(Clone, Copy)]
pub(super) struct Two<'a> {
    pub(super) layer: u32,
    pub(super) ours: &'a PlaneShape,
    pub(super) theirs: &'a PlaneShape,
    pub(super) shard: Shard,
    pub(super) peer: Shard,
}

impl Two<'_> {
    /// Whether `runs` are every head of both, block for block in the same order.
    pub(super) fn is_same(&self, runs: &[HeadRun]) -> bool {
        let (a, b) = (self.ours, self.theirs);
        let all = HeadRun { ours: 0, theirs: 0, count: a.heads.count };
        let order = a.heads.count == 1 || a.rows.count == 1 || a.is_row_major() == b.is_row_major();
        a.rows.count == b.rows.count
            && a.heads.count == b.heads.count
            && a.content == b.content
            && a.format == b.format
            && (order || a.part_per_head)
            && runs == [all]
    }

    /// The way of `runs`, kernel block for kernel block. Pieces shorter than `least_piece` are not worth a copy each.
    pub(super) fn way(&self, runs: &[HeadRun], least_piece: u64) -> Way {
        let (a, b) = (self.ours, self.theirs);
        if a.part_per_head != b.part_per_head || a.rows.count != b.rows.count {
            return Way::Whole;
        }
        if a.part_per_head {
            return self.head_parts(runs);
        }
        let name = || Plane::part_name(self.layer, a, self.shard, 0);
        if self.is_same(runs) {
            return Way::Direct(vec![(name(), None)]);
        }
        if a.format == Format::Fractal || b.format == Format::Fractal {
            return Way::Whole;
        }
        let mut slices = Vec::new();
        for run in runs {
            self.slices(*run, &mut |local, remote| slices.push(Slice::new(name(), local, remote)));
        }
        let short =
            |rect: &Rect| rect.rows > 1 && rect.row_stride != rect.row_bytes && rect.row_bytes < least_piece;
        let poor = slices.iter().any(|slice| short(&slice.local) || short(&slice.remote));
        if poor || slices.len() as u64 > u64::from(SLICES_MAX) {
            return Way::Whole;
        }
        Way::Direct(slices.into_iter().map(|slice| (name(), Some(slice))).collect())
    }

    /// Parts of single heads are matched by the heads' numbers in the whole model.
    fn head_parts(&self, runs: &[HeadRun]) -> Way {
        let mut parts = Vec::new();
        for run in runs {
            for at in 0..run.count {
                let ours = Plane::part_name(self.layer, self.ours, self.shard, run.ours + at);
                let theirs = Plane::part_name(self.layer, self.theirs, self.peer, run.theirs + at);
                if ours != theirs {
                    return Way::Whole;
                }
                parts.push((ours, None));
            }
        }
        Way::Direct(parts)
    }

    fn slices(&self, run: HeadRun, push: &mut dyn FnMut(Rect, Rect)) {
        let (a, b) = (self.ours, self.theirs);
        let rows = a.rows.count;
        let at = |shape: &PlaneShape, head: u32| u64::from(head) * head_stride(shape);
        let (local, remote) = (at(a, run.ours), at(b, run.theirs));
        let rect = |offset, rows, row_bytes, row_stride| Rect { offset, rows, row_bytes, row_stride };
        if a.heads_touch() && b.heads_touch() || run.count == 1 {
            let bytes = a.content * u64::from(run.count);
            push(rect(local, rows, bytes, row_stride(a)), rect(remote, rows, bytes, row_stride(b)));
        } else if a.rows_touch() && b.rows_touch() {
            let bytes = a.content * u64::from(rows);
            push(
                rect(local, run.count, bytes, head_stride(a)),
                rect(remote, run.count, bytes, head_stride(b)),
            );
        } else {
            for head in 0..run.count {
                let one = HeadRun { ours: run.ours + head, theirs: run.theirs + head, count: 1 };
                self.slices(one, push);
            }
        }
    }
}

/// Bytes from head to head; a lone head has no neighbour, and its plane's stride may say anything.
pub(super) fn head_stride(shape: &PlaneShape) -> u64 {
    if shape.heads.count == 1 { shape.content } else { shape.heads.stride }
}

/// Bytes from row to row.
pub(super) fn row_stride(shape: &PlaneShape) -> u64 {
    if shape.rows.count == 1 { shape.content } else { shape.rows.stride }
}

/// Whether the planes can be mapped onto each other at all; the field that forbids it otherwise.
pub(super) fn differing(ours: &PlaneShape, theirs: &PlaneShape) -> Option<(&'static str, String, String)> {
    let split = |split: &Heads| match split {
        Heads::Replicated => "replicated".to_owned(),
        Heads::Split(heads) => format!("{heads:?}"),
    };
    if ours.content != theirs.content {
        return Some(("bytes of a head", ours.content.to_string(), theirs.content.to_string()));
    }
    if ours.split != theirs.split {
        return Some(("heads in the whole model", split(&ours.split), split(&theirs.split)));
    }
    (ours.format != theirs.format)
        .then(|| ("format", format!("{:?}", ours.format), format!("{:?}", theirs.format)))
}
