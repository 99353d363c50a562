//! What a framework hands over: tensors by shape and strides, and what their axes mean.

use serde::{Deserialize, Serialize};

/// What one axis of a tensor counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Axis {
    /// Blocks. Each tensor has this axis once.
    Block,
    /// K, then V: the tensor holds two planes, `k` and `v`.
    KeyValue,
    /// Slots of a block: tokens, or groups of tokens in a compressed cache.
    Slot,
    /// Rows that always travel together and are no tokens: a convolution's window.
    Row,
    /// Heads or channels: what tensor parallelism splits.
    Head,
    /// What one head keeps of one slot; several such axes lie in each other without gaps.
    Content,
}

/// How tensor parallelism deals with a plane's heads.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Heads {
    /// Every rank has all of it: latent caches, indexers.
    Replicated,
    /// Split evenly; with fewer heads than ranks, each head is on several neighbouring ranks. One number for each
    /// segment of the axis, the heads of the *whole model* in it. Attention has one segment; a convolution state of
    /// Mamba has three, each split for itself.
    Split(Vec<u32>),
}

/// How the bytes of a block are arranged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Format {
    /// As shape and strides say.
    #[default]
    Rows,
    /// In the device's fractal order (NZ): a block moves whole or not at all.
    Fractal,
}

/// One tensor of a KV cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// The layer's number in the whole model; draft layers (MTP) follow the model's own.
    pub layer: u32,
    /// What it holds: `kv`, `latent`, `rope`, … Unique in its layer.
    pub plane: String,
    /// Index into the groups.
    pub group: usize,
    /// Index into the storages. Views may share one, and may lie over each other in different groups.
    pub storage: usize,
    /// Bytes from the start of the storage to the tensor's first element.
    pub offset: u64,
    /// Bytes of one element.
    pub element_bytes: u32,
    /// Elements along each axis.
    pub shape: Vec<u64>,
    /// Elements from index to index along each axis.
    pub strides: Vec<u64>,
    /// What each axis counts.
    pub axes: Vec<Axis>,
    /// How tensor parallelism splits the heads.
    pub heads: Heads,
    /// How the bytes of a block are arranged.
    pub format: Format,
}

/// Which blocks of a request a group keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Keeps {
    /// Those of every token.
    All,
    /// Those of the last `tokens` tokens: a sliding window. Others are null (id 0) in id lists.
    Window {
        /// How far back a token looks, itself counted.
        tokens: u32,
    },
    /// One block with the state after the last token, followed in the id list by `spare` blocks for speculation.
    State {
        /// Blocks after the state's own.
        spare: u32,
    },
}

/// What context parallelism does to a group's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Context {
    /// Dealt out over the context-parallel ranks.
    #[default]
    Striped,
    /// Every rank has all of them, under id lists of their own: an indexer beside a striped latent cache.
    Replicated,
}

/// Layers that share block ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Unique, and the same in both instances.
    pub name: String,
    /// Which of the framework's id lists is its own. A pipeline stage without a layer of a group leaves the group out,
    /// not its list.
    pub list: usize,
    /// Slots of one manager block on one rank; 1 for a state.
    pub block_slots: u32,
    /// Tokens that one slot stands for; 1 unless the cache is compressed.
    pub tokens_per_slot: u32,
    /// Which blocks of a request it keeps.
    pub keeps: Keeps,
    /// What context parallelism does to it.
    pub context: Context,
}

impl GroupInfo {
    /// A group of full attention, `g<list>`: every token, one slot each.
    pub fn full(list: usize, block_slots: u32) -> Self {
        Self {
            name: format!("g{list}"),
            list,
            block_slots,
            tokens_per_slot: 1,
            keeps: Keeps::All,
            context: Context::Striped,
        }
    }

    /// Whether it keeps a state instead of tokens.
    pub fn is_state(&self) -> bool {
        matches!(self.keeps, Keeps::State { .. })
    }
}

/// Which share of the heads a worker has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shard {
    /// Its tensor-parallel rank.
    pub rank: u32,
    /// How many ranks share the heads.
    pub of: u32,
}

impl Shard {
    /// All of them.
    pub const WHOLE: Self = Self { rank: 0, of: 1 };

    /// The heads of a segment of `total` that this rank has: the first, and how many.
    pub fn heads(self, total: u32) -> (u32, u32) {
        if total >= self.of {
            let count = total / self.of;
            (self.rank * count, count)
        } else {
            (self.rank / (self.of / total), 1)
        }
    }

    /// Whether every rank gets equally many heads of the segment.
    pub fn divides(self, total: u32) -> bool {
        let (low, high) = (total.min(self.of), total.max(self.of));
        self.rank < self.of && low > 0 && high.is_multiple_of(low)
    }
}
