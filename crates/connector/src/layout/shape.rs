//! What a peer needs to know of a cache to map it onto its own: everything but where it lies.

use serde::{Deserialize, Serialize};

use ropeway::BlockId;

use super::plane::{Dim, PlaneShape};
use super::view::{GroupInfo, Heads, Keeps, Shard};
use super::{Result, refuse};

/// The most planes of a cache, all layers counted.
const PLANES_MAX: usize = 65_535;

/// A group, and how it was published.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupShape {
    /// What the framework said of it.
    pub info: GroupInfo,
    /// Slots of one kernel block.
    pub kernel_slots: u32,
}

impl GroupShape {
    /// Kernel blocks of one manager block.
    pub fn kernels(&self) -> u32 {
        self.info.block_slots / self.kernel_slots
    }

    /// Kernel blocks of the framework's ids; `blocks` is how many kernel blocks there are.
    pub(crate) fn kernel_blocks(&self, ids: &[Vec<u32>], blocks: u32) -> Result<Vec<BlockId>> {
        let Some(ids) = ids.get(self.info.list) else {
            return refuse(format!("group {}: no list {} of block ids", self.info.name, self.info.list));
        };
        let kernels = self.kernels();
        let limit = blocks / kernels;
        let has_null = self.info.has_null();
        let mut out = Vec::with_capacity(ids.len() * kernels as usize);
        for &id in ids.iter().filter(|id| !(has_null && **id == 0)) {
            if id >= limit {
                return refuse(format!("block {id}: group {} has {limit}", self.info.name));
            }
            out.extend((id * kernels..(id + 1) * kernels).map(BlockId));
        }
        Ok(out)
    }
}

/// A plane that is the same in several layers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlaneClass {
    /// Index into the groups.
    pub group: usize,
    /// How its kernel blocks are arranged.
    pub shape: PlaneShape,
    /// The layers that have it, ascending.
    pub layers: Vec<u32>,
}

/// The cache of one pipeline stage; that of all its ranks, as tensor-parallel ranks are alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheShape {
    /// Its groups, in the order of id lists.
    pub groups: Vec<GroupShape>,
    /// Its planes.
    pub planes: Vec<PlaneClass>,
}

impl CacheShape {
    /// The class of a layer's plane.
    pub fn find(&self, layer: u32, plane: &str) -> Option<&PlaneClass> {
        let mut named = self.planes.iter().filter(|class| class.shape.plane == plane);
        named.find(|class| class.layers.binary_search(&layer).is_ok())
    }

    /// Whether the framework's ids that a peer told of are the blocks of its lease, whose word counts.
    ///
    /// # Errors
    /// The group and the ids that are not in the lease, or not in the peer's list.
    pub fn agree(&self, ids: &[Vec<u32>], leased: &[Vec<BlockId>]) -> Result<()> {
        for (index, group) in self.groups.iter().enumerate() {
            let mut told = group.kernel_blocks(ids, u32::MAX)?;
            told.sort_unstable();
            told.dedup();
            let leased = leased.get(index).map_or(&[][..], Vec::as_slice);
            // The lease's list is ascending.
            if told != leased {
                let lost = told.iter().find(|id| leased.binary_search(id).is_err());
                let more = leased.iter().find(|id| told.binary_search(id).is_err());
                return refuse(format!(
                    "group {}: {} kernel blocks were told of, the lease has {}; told only: {lost:?}, leased only: {more:?}",
                    group.info.name,
                    told.len(),
                    leased.len()
                ));
            }
        }
        Ok(())
    }

    /// Whether what a peer sent is the shape of a cache of `ranks` tensor-parallel ranks: nothing that is computed from it
    /// then leaves its bounds.
    ///
    /// # Errors
    /// What is not, by name.
    pub(crate) fn check(&self, ranks: u32) -> Result<()> {
        for GroupShape { info, kernel_slots } in &self.groups {
            let whole =
                *kernel_slots > 0 && info.block_slots > 0 && info.block_slots.is_multiple_of(*kernel_slots);
            if !whole || info.tokens_per_slot == 0 || info.is_state() && info.block_slots != 1 {
                return refuse(format!("group {}: {info:?} in kernel blocks of {kernel_slots}", info.name));
            }
        }
        let planes = self.planes.iter().try_fold(0_usize, |sum, class| {
            let heads = if class.shape.part_per_head { class.shape.heads.count as usize } else { 1 };
            sum.checked_add(class.layers.len().checked_mul(heads)?)
        });
        if planes.is_none_or(|planes| planes > PLANES_MAX) {
            return refuse(format!("{planes:?} planes; at most {PLANES_MAX} are possible"));
        }
        self.planes.iter().try_for_each(|class| self.check_class(class, ranks))
    }

    fn check_class(&self, class: &PlaneClass, ranks: u32) -> Result<()> {
        let PlaneClass { group, shape, layers } = class;
        let refuse = |what: &str| refuse(format!("plane {}: {what} does not fit: {class:?}", shape.plane));
        let Some(group) = self.groups.get(*group) else { return refuse("group") };
        if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) {
            return refuse("list of layers");
        }
        let PlaneShape { rows, heads, content, .. } = shape;
        let bytes = u64::from(rows.count).checked_mul(heads.count.into());
        if bytes.and_then(|pieces| pieces.checked_mul(*content)).is_none_or(|bytes| bytes == 0) {
            return refuse("block's size");
        }
        if !group.info.is_state() && rows.count != group.kernel_slots {
            return refuse("rows of a kernel block");
        }
        let apart = shape.part_per_head && shape.rows_touch();
        if !(apart || !shape.part_per_head && (shape.is_row_major() || shape.is_head_major())) {
            return refuse("order of rows and heads");
        }
        // A lone row's or head's stride is never multiplied by more than 0.
        let reach = |dim: &Dim| dim.stride.checked_mul(u64::from(dim.count) - 1);
        if reach(rows).and_then(|rows| rows.checked_add(reach(heads)?)).is_none() {
            return refuse("strides");
        }
        let Heads::Split(segments) = &shape.split else { return Ok(()) };
        let shard = Shard { rank: 0, of: ranks };
        let held = segments.iter().try_fold(0_u32, |sum, total| {
            shard.divides(*total).then(|| sum.checked_add(shard.heads(*total).1)).flatten()
        });
        if held == Some(heads.count) { Ok(()) } else { refuse("share of the heads") }
    }
}

impl GroupInfo {
    /// Whether id 0 means that there is no block.
    pub(crate) fn has_null(&self) -> bool {
        !matches!(self.keeps, Keeps::All)
    }
}
