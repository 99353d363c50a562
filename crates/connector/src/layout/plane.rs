//! One plane's arrangement: rows, heads and content, however the tensor's axes were ordered.

use serde::{Deserialize, Serialize};

use super::view::{Axis, Format, GroupInfo, Heads, Shard, View};
use super::{Result, refuse};

/// Equal pieces at equal distances.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Dim {
    /// How many.
    pub count: u32,
    /// Bytes from one to the next.
    pub stride: u64,
}

/// How a block of a plane is arranged: `rows` × `heads` pieces of `content` bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PlaneShape {
    /// What it holds.
    pub plane: String,
    /// Slots, or rows of a state.
    pub rows: Dim,
    /// Heads or channels that this rank has.
    pub heads: Dim,
    /// Bytes of one head in one row, in one piece.
    pub content: u64,
    /// How tensor parallelism splits the heads.
    pub split: Heads,
    /// How the bytes are arranged.
    pub format: Format,
    /// Each head is a part of its own, since heads lie apart from each other.
    pub part_per_head: bool,
}

impl PlaneShape {
    /// Bytes of one block that carry data.
    pub fn bytes(&self) -> u64 {
        u64::from(self.rows.count) * u64::from(self.heads.count) * self.content
    }

    /// Row follows row, and the heads of a row lie together.
    pub fn is_row_major(&self) -> bool {
        self.follows(self.heads, self.content)
            && self.follows(self.rows, self.content * u64::from(self.heads.count))
    }

    /// Head follows head, and the rows of a head lie together.
    pub fn is_head_major(&self) -> bool {
        self.follows(self.rows, self.content)
            && self.follows(self.heads, self.content * u64::from(self.rows.count))
    }

    /// Whether a lone head's stride says that ranks with more of them have them apart.
    fn is_lone_head_apart(&self) -> bool {
        let together = [self.content, u64::from(self.rows.count) * self.content].contains(&self.heads.stride);
        self.split != Heads::Replicated && self.heads.count == 1 && self.rows_touch() && !together
    }

    /// Whether the rows of each head lie together.
    pub(crate) fn rows_touch(&self) -> bool {
        self.follows(self.rows, self.content)
    }

    /// Whether the heads of each row lie together.
    pub(crate) fn heads_touch(&self) -> bool {
        self.follows(self.heads, self.content)
    }

    fn follows(&self, dim: Dim, stride: u64) -> bool {
        dim.count == 1 || dim.stride == stride
    }

    /// Bytes of one part's block.
    pub(crate) fn part_bytes(&self) -> u64 {
        if self.part_per_head { u64::from(self.rows.count) * self.content } else { self.bytes() }
    }
}

/// A plane in its storage, before kernel blocks were chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) layer: u32,
    pub(super) group: usize,
    pub(super) storage: usize,
    pub(super) offset: u64,
    pub(super) blocks: u32,
    pub(super) block_stride: u64,
    pub(super) shape: PlaneShape,
}

impl Placed {
    pub(super) fn name(&self) -> String {
        format!("layers.{}.{}", self.layer, self.shape.plane)
    }

    /// Whether slot follows slot through the whole tensor.
    pub(super) fn is_fine(&self, group: &GroupInfo) -> bool {
        let shape = &self.shape;
        // A lone head is arranged as its stride says, so that ranks with more of them are published alike.
        let by_rows = shape.split == Heads::Replicated || shape.heads.stride == shape.content;
        !group.is_state()
            && by_rows
            && shape.format == Format::Rows
            && shape.is_row_major()
            && self.block_stride == shape.bytes()
    }

    /// One past its last byte, from the start of the storage.
    pub(super) fn end(&self) -> Option<u64> {
        let reach = |dim: Dim| dim.stride.checked_mul(u64::from(dim.count) - 1);
        let blocks = Dim { count: self.blocks, stride: self.block_stride };
        [reach(self.shape.rows)?, reach(self.shape.heads)?, reach(blocks)?, self.shape.content]
            .into_iter()
            .try_fold(self.offset, u64::checked_add)
    }
}

/// The planes of a view: two for one with a [`Axis::KeyValue`] axis.
pub(super) fn planes(view: &View, group: &GroupInfo, shard: Shard) -> Result<Vec<Placed>> {
    let name = format!("layers.{}.{}", view.layer, view.plane);
    let axes = Axes::read(view, &name)?;
    let whole = axes.place(view, group, shard, &name)?;
    let Some(pair) = axes.key_value else { return Ok(vec![whole]) };
    if pair.count != 2 {
        return refuse(format!("{name}: its K/V axis has {} entries; there must be 2", pair.count));
    }
    let half = |plane: &str, offset| Placed {
        offset,
        shape: PlaneShape { plane: plane.to_owned(), ..whole.shape.clone() },
        ..whole.clone()
    };
    let second = whole.offset.checked_add(pair.stride);
    let Some(second) = second else { return refuse(format!("{name}: its V plane begins past 2^64")) };
    Ok(vec![half("k", whole.offset), half("v", second)])
}

/// A view's axes by meaning, strides in bytes.
#[derive(Default)]
struct Axes {
    block: Option<Dim>,
    key_value: Option<Dim>,
    slot: Option<Dim>,
    row: Option<Dim>,
    head: Option<Dim>,
    content: Vec<Dim>,
}

impl Axes {
    fn read(view: &View, name: &str) -> Result<Self> {
        let (shape, strides, axes) = (&view.shape, &view.strides, &view.axes);
        if shape.len() != axes.len() || strides.len() != axes.len() {
            return refuse(format!(
                "{name}: {} extents, {} strides and {} axes; there must be as many of each",
                shape.len(),
                strides.len(),
                axes.len()
            ));
        }
        if view.element_bytes == 0 {
            return refuse(format!("{name}: element_bytes is 0"));
        }
        let mut found = Self::default();
        for ((&extent, &stride), &axis) in shape.iter().zip(strides).zip(axes) {
            let count = u32::try_from(extent).ok().filter(|count| *count > 0);
            let stride = stride.checked_mul(view.element_bytes.into());
            let (Some(count), Some(stride)) = (count, stride) else {
                return refuse(format!("{name}: axis {axis:?} has {extent} entries at stride {stride:?}"));
            };
            let dim = Dim { count, stride };
            let place = match axis {
                Axis::Content => {
                    found.content.push(dim);
                    continue;
                }
                Axis::Block => &mut found.block,
                Axis::KeyValue => &mut found.key_value,
                Axis::Slot => &mut found.slot,
                Axis::Row => &mut found.row,
                Axis::Head => &mut found.head,
            };
            if place.replace(dim).is_some() {
                return refuse(format!("{name}: two {axis:?} axes; only Content may come more than once"));
            }
        }
        Ok(found)
    }

    fn place(&self, view: &View, group: &GroupInfo, shard: Shard, name: &str) -> Result<Placed> {
        let Some(block) = self.block else { return refuse(format!("{name}: no Block axis")) };
        let (rows, wrong) = if group.is_state() { (self.row, self.slot) } else { (self.slot, self.row) };
        if wrong.is_some() {
            return refuse(format!(
                "{name}: group {} keeps {:?}; Slot axes go with tokens, Row axes with states",
                group.name, group.keeps
            ));
        }
        let content = content(&self.content, view.element_bytes, name)?;
        let rows = rows.unwrap_or(Dim { count: 1, stride: content });
        let heads = self.head.unwrap_or(Dim { count: 1, stride: content });
        let mut shape = PlaneShape {
            plane: view.plane.clone(),
            rows,
            heads,
            content,
            split: view.heads.clone(),
            format: view.format,
            part_per_head: false,
        };
        check_heads(&shape, shard, name)?;
        let compact = (shape.is_row_major() || shape.is_head_major()) && !shape.is_lone_head_apart();
        let whole = compact && (block.count == 1 || block.stride >= shape.bytes());
        if !whole {
            let head_bytes = u64::from(rows.count) * content;
            let wide = |outer: Dim, inner: Dim| {
                let inner = inner.stride.checked_mul(u64::from(inner.count) - 1);
                let inner = inner.and_then(|reach| reach.checked_add(head_bytes));
                outer.count == 1 || inner.is_some_and(|inner| outer.stride >= inner)
            };
            let alone = Dim { count: 1, stride: 0 };
            let apart =
                wide(heads, alone) && wide(block, alone) && (wide(block, heads) || wide(heads, block));
            if !shape.rows_touch() || !apart || view.format == Format::Fractal {
                return refuse(format!(
                    "{name}: blocks of {rows:?} rows and {heads:?} heads of {content} bytes at stride {} have gaps \
                     between rows, or lie across each other; register the tensor that they are cut from",
                    block.stride
                ));
            }
            shape.part_per_head = true;
        }
        let block_stride = if block.count == 1 { block.stride.max(shape.part_bytes()) } else { block.stride };
        let (group, storage, offset) = (view.group, view.storage, view.offset);
        Ok(Placed { layer: view.layer, group, storage, offset, blocks: block.count, block_stride, shape })
    }
}

/// Bytes of the content axes, which lie in each other without gaps.
fn content(axes: &[Dim], element_bytes: u32, name: &str) -> Result<u64> {
    let mut axes: Vec<Dim> = axes.iter().copied().filter(|axis| axis.count > 1).collect();
    axes.sort_unstable_by_key(|axis| axis.stride);
    let mut bytes = u64::from(element_bytes);
    for axis in axes {
        if axis.stride != bytes {
            return refuse(format!(
                "{name}: content lies {} bytes apart where {bytes} would be without gaps; register the tensor that \
                 it is cut from",
                axis.stride
            ));
        }
        bytes = match bytes.checked_mul(axis.count.into()) {
            Some(bytes) => bytes,
            None => return refuse(format!("{name}: content of more than 2^64 bytes")),
        };
    }
    Ok(bytes)
}

/// The rank has the heads that its share says.
fn check_heads(shape: &PlaneShape, shard: Shard, name: &str) -> Result<()> {
    let bytes = u128::from(shape.rows.count) * u128::from(shape.heads.count) * u128::from(shape.content);
    if bytes > u128::from(u64::MAX) {
        return refuse(format!("{name}: a block of {bytes} bytes"));
    }
    let Heads::Split(segments) = &shape.split else { return Ok(()) };
    if let Some(total) = segments.iter().find(|total| !shard.divides(**total)) {
        return refuse(format!(
            "{name}: {total} heads over {} tensor-parallel ranks (rank {}); one must divide the other",
            shard.of, shard.rank
        ));
    }
    let expected: u64 = segments.iter().map(|total| u64::from(shard.heads(*total).1)).sum();
    if expected != u64::from(shape.heads.count) {
        return refuse(format!(
            "{name}: {} heads on rank {} of {}, where {segments:?} in all make {expected}",
            shape.heads.count, shard.rank, shard.of
        ));
    }
    Ok(())
}
