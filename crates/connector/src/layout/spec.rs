//! The checked cache of one worker: what to publish.

use std::collections::BTreeSet;

use ropeway::{BlockId, Strided};

use super::plane::{self, Dim, Placed, PlaneShape};
use super::shape::{CacheShape, GroupShape, PlaneClass};
use super::view::{GroupInfo, Heads, Shard, View};
use super::{Result, grain, refuse};

/// One part of the cache: a strided array of kernel blocks in a storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// `layers.<layer>.<plane>`, and `.h<head>` where each head is a part.
    pub name: String,
    /// Index into the groups.
    pub group: usize,
    /// Index into the storages.
    pub storage: usize,
    /// Where its kernel blocks lie in the storage.
    pub strided: Strided,
}

/// One plane of one layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plane {
    /// The layer.
    pub layer: u32,
    /// Index into the groups.
    pub group: usize,
    /// How its kernel blocks are arranged.
    pub shape: PlaneShape,
    /// Its first part; it has one, or one for each head.
    pub part: usize,
}

impl Plane {
    /// The name of its part, or of the part of its `head`-th head.
    pub(crate) fn part_name(layer: u32, shape: &PlaneShape, shard: Shard, head: u32) -> String {
        let plane = format!("layers.{layer}.{}", shape.plane);
        if !shape.part_per_head {
            return plane;
        }
        format!("{plane}.h{}", global_head(&shape.split, shard, head))
    }
}

/// A worker's cache, checked: every kernel block of every part lies inside its storage.
///
/// ```
/// use ropeway_connector::layout::{Axis, CacheSpec, Format, GroupInfo, Heads, Shard, View};
///
/// // [block, head, slot, content], K and V packed into the content.
/// let view = View {
///     layer: 0,
///     plane: "kv".into(),
///     group: 0,
///     storage: 0,
///     offset: 0,
///     element_bytes: 4,
///     shape: vec![2048, 2, 32, 128],
///     strides: vec![8192, 4096, 128, 1],
///     axes: vec![Axis::Block, Axis::Head, Axis::Slot, Axis::Content],
///     heads: Heads::Split(vec![2]),
///     format: Format::Rows,
/// };
/// let spec = CacheSpec::new(vec![GroupInfo::full(0, 32)], &[view], &[64 << 20], Shard::WHOLE)?;
/// assert_eq!(spec.parts()[0].name, "layers.0.kv");
/// assert_eq!(spec.parts()[0].strided.block_bytes, 32 * 1024);
/// # Ok::<(), ropeway_connector::layout::LayoutError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheSpec {
    groups: Vec<GroupShape>,
    parts: Vec<Part>,
    planes: Vec<Plane>,
    shard: Shard,
}

impl CacheSpec {
    /// Checks the views of a worker. `storages` are the lengths of the storages in bytes; `shard` is the worker's share of
    /// the heads.
    ///
    /// # Errors
    /// What does not fit, by the tensor's name, with the value.
    pub fn new(groups: Vec<GroupInfo>, views: &[View], storages: &[u64], shard: Shard) -> Result<Self> {
        if shard.rank >= shard.of {
            return refuse(format!("tensor-parallel rank {} of {}", shard.rank, shard.of));
        }
        let placed = place(&groups, views, storages, shard)?;
        let slots = grain::choose(&groups, &placed)?;
        let mut spec = Self { groups: Vec::new(), parts: Vec::new(), planes: Vec::new(), shard };
        // Parts of a group lie together: that is the order in which they are published.
        for (index, group) in groups.iter().enumerate() {
            for plane in placed.iter().filter(|plane| plane.group == index) {
                spec.add(plane, group, slots[index]);
            }
        }
        let shapes = groups.into_iter().zip(slots);
        spec.groups = shapes.map(|(info, kernel_slots)| GroupShape { info, kernel_slots }).collect();
        Ok(spec)
    }

    fn add(&mut self, placed: &Placed, group: &GroupInfo, slots: u32) {
        let (block_bytes, stride, blocks) = grain::blocks(placed, group, slots);
        let mut shape = placed.shape.clone();
        if placed.is_fine(group) {
            let row_bytes = placed.block_stride / u64::from(shape.rows.count);
            shape.rows = Dim { count: slots, stride: row_bytes };
        }
        let heads = if shape.part_per_head { shape.heads.count } else { 1 };
        let part = self.parts.len();
        for head in 0..heads {
            let offset = placed.offset + u64::from(head) * shape.heads.stride;
            self.parts.push(Part {
                name: Plane::part_name(placed.layer, &shape, self.shard, head),
                group: placed.group,
                storage: placed.storage,
                strided: Strided { offset, stride, block_bytes, blocks },
            });
        }
        self.planes.push(Plane { layer: placed.layer, group: placed.group, shape, part });
    }

    /// The groups, in the order in which to publish them, with a ratio of 1.
    pub fn groups(&self) -> &[GroupShape] {
        &self.groups
    }

    /// The parts, group by group.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The planes, group by group.
    pub fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// The worker's share of the heads.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Kernel blocks of the framework's block ids, for a lease: a list for each group of the cache, each id once. Null ids
    /// (0) of groups that do not keep every token are left out.
    ///
    /// # Errors
    /// A group without a list, or an id past the end.
    pub fn kernel_blocks(&self, ids: &[Vec<u32>]) -> Result<Vec<Vec<BlockId>>> {
        let blocks = |group: usize| {
            let parts = self.parts.iter().filter(|part| part.group == group);
            parts.map(|part| part.strided.blocks).min().unwrap_or(0)
        };
        let groups = self.groups.iter().enumerate();
        groups.map(|(index, group)| group.kernel_blocks(ids, blocks(index))).collect()
    }

    /// What a peer needs to know to map it onto its own.
    pub fn shape(&self) -> CacheShape {
        let mut planes: Vec<PlaneClass> = Vec::new();
        for plane in &self.planes {
            let same = |class: &&mut PlaneClass| class.group == plane.group && class.shape == plane.shape;
            match planes.iter_mut().find(same) {
                Some(class) => class.layers.push(plane.layer),
                None => planes.push(PlaneClass {
                    group: plane.group,
                    shape: plane.shape.clone(),
                    layers: vec![plane.layer],
                }),
            }
        }
        planes.iter_mut().for_each(|class| class.layers.sort_unstable());
        CacheShape { groups: self.groups.clone(), planes }
    }
}

fn place(groups: &[GroupInfo], views: &[View], storages: &[u64], shard: Shard) -> Result<Vec<Placed>> {
    let mut names = BTreeSet::new();
    if let Some(twice) = groups.iter().find(|group| !names.insert(group.name.as_str())) {
        return refuse(format!("two groups are named {}", twice.name));
    }
    let mut placed = Vec::with_capacity(views.len());
    let mut names = BTreeSet::new();
    for view in views {
        let Some(group) = groups.get(view.group) else {
            return refuse(format!("layers.{}.{}: there is no group {}", view.layer, view.plane, view.group));
        };
        for plane in plane::planes(view, group, shard)? {
            let Some(&bytes) = storages.get(plane.storage) else {
                return refuse(format!("{}: there is no storage {}", plane.name(), plane.storage));
            };
            if plane.end().is_none_or(|end| end > bytes) {
                return refuse(format!(
                    "{}: it ends at byte {:?} of storage {}, which has {bytes}; check offset and strides",
                    plane.name(),
                    plane.end(),
                    plane.storage
                ));
            }
            if !names.insert(plane.name()) {
                return refuse(format!("two tensors are {}; give each its own plane", plane.name()));
            }
            placed.push(plane);
        }
    }
    Ok(placed)
}

/// The number in the whole model of a rank's `head`-th head, all segments counted.
pub(crate) fn global_head(split: &Heads, shard: Shard, head: u32) -> u32 {
    let Heads::Split(segments) = split else { return head };
    let (mut before, mut left) = (0, head);
    for &total in segments {
        let (first, count) = shard.heads(total);
        if left < count {
            return before + first + left;
        }
        before += total;
        left -= count;
    }
    before + left
}
