//! Random instances of random models.

use proptest::prelude::*;
use ropeway_connector::layout::Format;
use ropeway_connector::ranks::Topology;

use crate::families::*;
use crate::model::{Memory, Model, Order};
use crate::world::{Instance, Trial};

fn models() -> impl Strategy<Value = Model> {
    prop_oneof![
        (0..4_u32).prop_map(|heads| gqa(1 << heads)),
        (0..3_u32).prop_map(|heads| tuples(1 << heads)),
        Just(mla()),
        Just(mla_packed()),
        Just(indexed()),
        (0..3_u32).prop_map(|heads| windowed(1 << heads)),
        Just(compressed()),
        Just(recurrent()),
    ]
}

/// A topology that the model can have: context parallelism only where every rank has all heads.
fn topologies(model: &Model) -> impl Strategy<Value = Topology> + use<> {
    let latent = model.planes.iter().all(|plane| plane.heads == ropeway_connector::layout::Heads::Replicated);
    let most: u32 = if latent { 2 } else { 0 };
    let compressed = model.groups.iter().any(|group| group.tokens_per_slot > 1);
    let stripes = if compressed { [16, 16, 32] } else { [1, 16, 32] };
    let stages: u32 = if model.layers > 2 { 1 } else { 2 };
    (0..3_u32, 0..=most, 0..=most / 2, 1..=stages, 0..3_usize).prop_map(
        move |(tp, dcp, pcp, pp, stripe): (u32, u32, u32, u32, usize)| Topology {
            tp: 1 << tp,
            dcp: 1 << dcp.min(tp),
            pcp: 1 << pcp,
            pp,
            stripe_tokens: stripes[stripe],
        },
    )
}

fn memories(model: &Model) -> impl Strategy<Value = Memory> + use<> {
    let orders = prop::sample::select(vec![
        Order::Nhd,
        Order::Hnd,
        Order::HeadOutermost,
        Order::BlockLayerHead,
        Order::BlockHeadLayer,
    ]);
    let latent = model.planes.iter().all(|plane| plane.heads == ropeway_connector::layout::Heads::Replicated);
    let one_size = model.groups.len() == 1;
    (orders, 0..3_u32, 0..2_u32, prop_oneof![Just(0), Just(3)], any::<bool>()).prop_map(
        move |(order, tokens, kernels, pad, overlay)| Memory {
            // Rows of several planes with gaps between would lie across each other.
            order: if latent && pad > 0 { Order::Nhd } else { order },
            block_tokens: 32 << tokens,
            kernels: 1 << kernels,
            blocks: 40,
            pad,
            overlay: overlay && one_size,
            format: Format::Rows,
        },
    )
}

fn instances(model: &Model) -> impl Strategy<Value = Instance> + use<> {
    (topologies(model), memories(model), any::<bool>()).prop_map(|(topology, memory, drafts)| Instance {
        topology,
        memory,
        drafts,
    })
}

fn trials() -> impl Strategy<Value = Trial> {
    models()
        .prop_flat_map(|model| {
            let (producer, consumer) = (instances(&model), instances(&model));
            (Just(model), producer, consumer, 1..160_u64, 0..4_u64, any::<u64>(), any::<u64>(), any::<bool>())
        })
        .prop_map(|(model, producer, consumer, length, had, key, seed, device)| {
            let Topology { pcp, dcp, .. } = consumer.topology;
            let block = u64::from(consumer.memory.block_tokens * pcp * dcp);
            let had = (had * block).min((length - 1) / block * block);
            let least_piece = if device { u64::MAX } else { 0 };
            Trial { model, producer, consumer, tokens: had..length, key, least_piece, seed }
        })
}

/// 96, or as many as `PROPTEST_CASES` asks for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_whatever_the_instances(trial in trials()) {
        trial.run();
    }
}
