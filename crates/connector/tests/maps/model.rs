//! Models and memory layouts, and an independent statement of where each byte of a cache lies.
//!
//! Nothing here uses the crate's own arithmetic: an address is the sum of index times stride over a view's axes, and who
//! holds which head or token is said by a formula of one line.

use ropeway_connector::layout::{Axis, Context, Format, GroupInfo, Heads, Keeps, View};
use ropeway_connector::ranks::{Rank, Topology};

/// A plane of a model.
#[derive(Clone, Debug)]
pub(crate) struct PlaneModel {
    pub(crate) plane: &'static str,
    pub(crate) group: usize,
    pub(crate) heads: Heads,
    /// Elements of a head in a slot.
    pub(crate) content: u64,
    pub(crate) element_bytes: u32,
    /// Rows of a state; 0 for tokens.
    pub(crate) rows: u64,
    pub(crate) layers: Vec<u32>,
}

/// A group of a model.
#[derive(Clone, Debug)]
pub(crate) struct GroupModel {
    pub(crate) keeps: Keeps,
    pub(crate) tokens_per_slot: u32,
    pub(crate) context: Context,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) layers: u32,
    pub(crate) groups: Vec<GroupModel>,
    pub(crate) planes: Vec<PlaneModel>,
}

/// In which order a tensor's axes lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// [block, slot, head, content].
    Nhd,
    /// [block, head, slot, content].
    Hnd,
    /// [head, block, slot, content].
    HeadOutermost,
    /// [block, layer, head, slot, content].
    BlockLayerHead,
    /// [block, head, layer, slot, content].
    BlockHeadLayer,
    /// [K or V, block, slot, head, content].
    PairNhd,
    /// [K or V, block, head, slot, content].
    PairHnd,
}

/// How an instance keeps a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    pub(crate) order: Order,
    /// Tokens of a manager block.
    pub(crate) block_tokens: u32,
    /// Tensor blocks of a manager block.
    pub(crate) kernels: u32,
    /// Manager blocks.
    pub(crate) blocks: u32,
    /// Elements after each block that belong to nobody.
    pub(crate) pad: u64,
    /// Whether groups lie over each other.
    pub(crate) overlay: bool,
    pub(crate) format: Format,
}

impl Memory {
    pub(crate) fn new(order: Order, block_tokens: u32) -> Self {
        Self { order, block_tokens, kernels: 1, blocks: 24, pad: 0, overlay: false, format: Format::Rows }
    }
}

/// A plane of a rank, as the model and as the tensor.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) model: usize,
    pub(crate) view: View,
}

/// A rank's tensors.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) groups: Vec<GroupInfo>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) storages: Vec<u64>,
}

/// The heads of a segment of `total` that rank `rank` of `of` has.
pub(crate) fn owned(total: u32, rank: u32, of: u32) -> Vec<u32> {
    let mine = |head: &u32| if total >= of { head * of / total == rank } else { rank * total / of == *head };
    (0..total).filter(mine).collect()
}

/// The heads of a plane, by their number in the whole model, in the order in which a rank has them.
pub(crate) fn heads(split: &Heads, rank: u32, of: u32) -> Vec<u32> {
    let Heads::Split(segments) = split else { return vec![0] };
    let mut before = 0;
    let mut all = Vec::new();
    for &total in segments {
        all.extend(owned(total, rank, of).iter().map(|head| before + head));
        before += total;
    }
    all
}

/// Who among `of` holds slot `slot`, and as which of its own.
pub(crate) fn holder(slot: u64, of: u64, stripe: u64) -> (u64, u64) {
    (slot / stripe % of, slot / (stripe * of) * stripe + slot % stripe)
}

/// The byte of a view at an index; `slot` counts from the start of block 0 of the manager.
pub(crate) fn address(view: &View, pair: u64, block: u64, slot: u64, row: u64, head: u64, byte: u64) -> u64 {
    let bytes = u64::from(view.element_bytes);
    let extent = |axis: Axis| {
        let at = view.axes.iter().position(|known| *known == axis);
        at.map_or(1, |at| view.shape[at])
    };
    // The manager's block is several of the tensor's when it has more slots.
    let slots = extent(Axis::Slot);
    let (block, slot) = (block + slot / slots, slot % slots);
    let index = |axis: &Axis| match axis {
        Axis::Block => block,
        Axis::KeyValue => pair,
        Axis::Slot => slot,
        Axis::Row => row,
        Axis::Head => head,
        Axis::Content => byte / bytes,
    };
    let elements: u64 = view.axes.iter().zip(&view.strides).map(|(axis, stride)| index(axis) * stride).sum();
    view.offset + elements * bytes + byte % bytes
}

impl Model {
    /// The groups of a worker.
    fn groups(&self, memory: &Memory) -> Vec<GroupInfo> {
        let info = |(index, group): (usize, &GroupModel)| GroupInfo {
            name: format!("g{index}"),
            list: index,
            block_slots: if matches!(group.keeps, Keeps::State { .. }) {
                1
            } else {
                memory.block_tokens / group.tokens_per_slot
            },
            tokens_per_slot: group.tokens_per_slot,
            keeps: group.keeps,
            context: group.context,
        };
        self.groups.iter().enumerate().map(info).collect()
    }

    /// The layers of a stage: as many each as can be, drafts on the last.
    pub(crate) fn stage(&self, layer: u32, stages: u32) -> u32 {
        let each = self.layers.div_ceil(stages);
        if layer >= self.layers { stages - 1 } else { layer / each }
    }

    /// What worker `rank` keeps; of drafts only when `drafts`.
    pub(crate) fn worker(&self, memory: &Memory, topology: &Topology, rank: Rank, drafts: bool) -> Worker {
        let groups = self.groups(memory);
        let mut tensors = Vec::new();
        let (mut end, mut in_group) = (64, vec![0_u64; groups.len()]);
        for (model, plane) in self.planes.iter().enumerate() {
            let mine = |layer: &&u32| {
                (drafts || **layer < self.layers) && self.stage(**layer, topology.pp) == rank.pp
            };
            let layers: Vec<u32> = plane.layers.iter().filter(mine).copied().collect();
            for (at, &layer) in layers.iter().enumerate() {
                let mut view = self.view(plane, memory, &groups[plane.group], (rank.tp, topology.tp));
                view.layer = layer;
                let bytes = place(&mut view, memory, at as u64, layers.len() as u64);
                let group = plane.group;
                let first = if memory.overlay { in_group[group] } else { end };
                // Interleaved layers share one place.
                let interleaved = matches!(memory.order, Order::BlockLayerHead | Order::BlockHeadLayer);
                view.offset += first;
                if !interleaved || at + 1 == layers.len() {
                    in_group[group] = first + bytes;
                    end = end.max(first + bytes);
                }
                tensors.push(Tensor { model, view });
            }
        }
        let used: Vec<usize> = (0..groups.len())
            .filter(|group| tensors.iter().any(|tensor| tensor.view.group == *group))
            .collect();
        for tensor in &mut tensors {
            let group = tensor.view.group;
            tensor.view.group = used.iter().position(|used| *used == group).expect("it is used");
        }
        let groups = used.iter().map(|group| groups[*group].clone()).collect();
        Worker { groups, tensors, storages: vec![end + 64] }
    }

    fn view(&self, plane: &PlaneModel, memory: &Memory, group: &GroupInfo, tp: (u32, u32)) -> View {
        let heads = heads(&plane.heads, tp.0, tp.1).len() as u64;
        let state = group.is_state();
        let kernels = if state { 1 } else { u64::from(memory.kernels) };
        let rows = if state { plane.rows } else { u64::from(group.block_slots) / kernels };
        let pair = matches!(memory.order, Order::PairNhd | Order::PairHnd) && plane.plane == "kv";
        let blocks = u64::from(memory.blocks) * kernels;
        let row = if state { Axis::Row } else { Axis::Slot };
        let mut view = View {
            layer: 0,
            plane: plane.plane.into(),
            group: plane.group,
            storage: 0,
            offset: 0,
            element_bytes: plane.element_bytes,
            shape: vec![blocks, heads, rows, plane.content],
            strides: Vec::new(),
            axes: vec![Axis::Block, Axis::Head, row, Axis::Content],
            heads: plane.heads.clone(),
            format: memory.format,
        };
        if pair {
            view.shape.insert(0, 2);
            view.axes.insert(0, Axis::KeyValue);
        }
        view
    }
}

/// Gives the view its strides, and the bytes that all of its interleaved layers take.
fn place(view: &mut View, memory: &Memory, at: u64, layers: u64) -> u64 {
    let [blocks, heads, rows, content] = *view.shape.last_chunk::<4>().expect("four axes");
    let bytes = u64::from(view.element_bytes);
    let block = heads * rows * content + memory.pad;
    let (strides, all, first) = match memory.order {
        Order::Nhd | Order::PairNhd => ([block, content, heads * content, 1], block * blocks, 0),
        Order::Hnd | Order::PairHnd => ([block, rows * content, content, 1], block * blocks, 0),
        Order::HeadOutermost => {
            let per_head = blocks * (rows * content + memory.pad);
            ([rows * content + memory.pad, per_head, content, 1], heads * per_head, 0)
        }
        Order::BlockLayerHead => {
            ([block * layers, rows * content, content, 1], block * blocks * layers, block * at)
        }
        Order::BlockHeadLayer => {
            let head = layers * rows * content;
            let stride = heads * head + memory.pad;
            ([stride, head, content, 1], stride * blocks, rows * content * at)
        }
    };
    view.strides = strides.to_vec();
    view.offset = first * bytes;
    let mut all = all * bytes;
    if view.axes[0] == Axis::KeyValue {
        view.strides.insert(0, all / bytes);
        all *= 2;
    }
    all
}
