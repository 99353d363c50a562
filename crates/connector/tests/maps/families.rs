//! Models of every family, small.

use ropeway_connector::layout::{Context, Heads, Keeps};

use crate::model::{GroupModel, Model, PlaneModel};
use crate::world::split;

pub(crate) fn full() -> GroupModel {
    GroupModel { keeps: Keeps::All, tokens_per_slot: 1, context: Context::Striped }
}

fn plane(plane: &'static str, group: usize, heads: Heads, content: u64, layers: Vec<u32>) -> PlaneModel {
    PlaneModel { plane, group, heads, content, element_bytes: 2, rows: 0, layers }
}

fn layers(count: u32) -> Vec<u32> {
    (0..count).collect()
}

/// Grouped attention: K and V packed, or apart where the memory's order says so. The last layer is a draft's.
pub(crate) fn gqa(heads: u32) -> Model {
    Model { layers: 2, groups: vec![full()], planes: vec![plane("kv", 0, split(heads), 2, layers(3))] }
}

/// K and V as tensors of their own.
pub(crate) fn tuples(heads: u32) -> Model {
    let planes = ["k", "v"].map(|name| plane(name, 0, split(heads), 2, layers(2)));
    Model { layers: 2, groups: vec![full()], planes: planes.into() }
}

/// Latent and rope apart, with a draft layer.
pub(crate) fn mla() -> Model {
    let planes = vec![
        plane("latent", 0, Heads::Replicated, 4, layers(3)),
        plane("rope", 0, Heads::Replicated, 2, layers(3)),
    ];
    Model { layers: 2, groups: vec![full()], planes }
}

/// Latent and rope in one tensor.
pub(crate) fn mla_packed() -> Model {
    Model { layers: 2, groups: vec![full()], planes: vec![plane("kv", 0, Heads::Replicated, 6, layers(2))] }
}

/// A latent cache with an indexer of its own ids and its scale, quantised to single bytes; the indexer is whole on every
/// context-parallel rank.
pub(crate) fn indexed() -> Model {
    let mut model = mla();
    model.groups.push(GroupModel { context: Context::Replicated, ..full() });
    model
        .planes
        .push(PlaneModel { element_bytes: 1, ..plane("indexer", 1, Heads::Replicated, 3, layers(2)) });
    model
        .planes
        .push(PlaneModel { element_bytes: 4, ..plane("indexer_scale", 1, Heads::Replicated, 1, layers(2)) });
    model
}

/// Layers in turn with full attention and a window, under ids of their own.
pub(crate) fn windowed(heads: u32) -> Model {
    let window = GroupModel { keeps: Keeps::Window { tokens: 40 }, ..full() };
    let planes =
        vec![plane("kv", 0, split(heads), 2, vec![0, 2]), plane("kv", 1, split(heads), 2, vec![1, 3])];
    Model { layers: 4, groups: vec![full(), window], planes }
}

/// A window and two compressed caches, in packed bytes.
pub(crate) fn compressed() -> Model {
    let window = GroupModel { keeps: Keeps::Window { tokens: 40 }, ..full() };
    let by = |tokens_per_slot| GroupModel { tokens_per_slot, ..full() };
    let bytes = |name, group, layers| PlaneModel {
        element_bytes: 1,
        ..plane(name, group, Heads::Replicated, 5, layers)
    };
    let planes = vec![bytes("swa", 0, layers(3)), bytes("csa", 1, vec![1]), bytes("hca", 2, vec![2])];
    Model { layers: 3, groups: vec![window, by(4), by(16)], planes }
}

/// Attention beside a recurrent state: a convolution in three segments, one of them with fewer heads than ranks, and a
/// state by heads.
pub(crate) fn recurrent() -> Model {
    let state = GroupModel { keeps: Keeps::State { spare: 1 }, ..full() };
    let rows = |rows, plane| PlaneModel { rows, ..plane };
    let planes = vec![
        plane("kv", 0, split(4), 2, vec![0]),
        rows(3, plane("conv", 1, Heads::Split(vec![8, 2, 2]), 1, vec![1, 2])),
        rows(1, plane("ssm", 1, split(4), 6, vec![1, 2])),
    ];
    Model { layers: 3, groups: vec![full(), state], planes }
}
