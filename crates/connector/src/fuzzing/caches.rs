//! Small caches that other instances' are mapped onto.

use crate::layout::{Axis, CacheSpec, Context, Format, GroupInfo, Heads, Keeps, Shard, View};
use crate::ranks::Side;

const BLOCKS: u64 = 8;

/// The largest storage of any of them.
pub(super) const BYTES_MAX: u64 = BLOCKS * 16 * 2 * 4 * 2;

/// One of the consumers' caches, and how its instance is spread.
pub(super) fn one(which: usize) -> (CacheSpec, Side) {
    let window =
        GroupInfo { name: "w".into(), keeps: Keeps::Window { tokens: 20 }, ..GroupInfo::full(1, 16) };
    let indexer = GroupInfo { name: "i".into(), context: Context::Replicated, ..GroupInfo::full(1, 16) };
    let pooled = GroupInfo { name: "c".into(), tokens_per_slot: 4, ..GroupInfo::full(1, 8) };
    let state = GroupInfo {
        name: "s".into(),
        keeps: Keeps::State { spare: 1 },
        block_slots: 1,
        ..GroupInfo::full(1, 1)
    };
    let full = GroupInfo::full(0, 16);
    match which % 5 {
        0 => built(vec![full], vec![heads("k", 0, 16, true), heads("v", 0, 16, true)]),
        1 => built(vec![full, window], vec![heads("kv", 0, 16, false), heads("w", 1, 16, false)]),
        2 => built(vec![full, indexer], vec![latent("latent", 0, 16, 8), latent("indexer", 1, 16, 2)]),
        3 => built(vec![full, pooled], vec![latent("latent", 0, 16, 8), latent("pooled", 1, 8, 4)]),
        _ => built(vec![full, state], vec![heads("kv", 0, 16, false), recurrent()]),
    }
}

fn built(groups: Vec<GroupInfo>, kinds: Vec<View>) -> (CacheSpec, Side) {
    let mut storages = Vec::new();
    let mut views = Vec::new();
    for layer in 0..2 {
        for kind in &kinds {
            views.push(View { layer, storage: storages.len(), ..kind.clone() });
            storages.push(kind.shape.iter().product::<u64>() * u64::from(kind.element_bytes));
        }
    }
    assert!(storages.iter().all(|bytes| *bytes <= BYTES_MAX), "no storage is larger");
    let spec = CacheSpec::new(groups, &views, &storages, Shard { rank: 0, of: 2 });
    let spec = spec.expect("these caches are sound");
    let side = super::side(2, vec![spec.shape()]);
    (spec, side)
}

fn view(plane: &str, group: usize, heads: Heads, axes: &[(Axis, u64)]) -> View {
    let shape: Vec<u64> = axes.iter().map(|(_, count)| *count).collect();
    let strides = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
    View {
        layer: 0,
        plane: plane.into(),
        group,
        storage: 0,
        offset: 0,
        element_bytes: 2,
        shape,
        strides,
        axes: axes.iter().map(|(axis, _)| *axis).collect(),
        heads,
        format: Format::Rows,
    }
}

/// Two of the model's four heads, slots before heads or after them.
fn heads(plane: &str, group: usize, slots: u64, slots_first: bool) -> View {
    let (slots, two) = ((Axis::Slot, slots), (Axis::Head, 2));
    let (a, b) = if slots_first { (slots, two) } else { (two, slots) };
    view(plane, group, Heads::Split(vec![4]), &[(Axis::Block, BLOCKS), a, b, (Axis::Content, 4)])
}

fn latent(plane: &str, group: usize, slots: u64, content: u64) -> View {
    let axes = [(Axis::Block, BLOCKS), (Axis::Slot, slots), (Axis::Content, content)];
    view(plane, group, Heads::Replicated, &axes)
}

fn recurrent() -> View {
    let axes = [(Axis::Block, BLOCKS), (Axis::Row, 3), (Axis::Head, 2), (Axis::Content, 4)];
    view("ssm", 1, Heads::Split(vec![4]), &axes)
}
