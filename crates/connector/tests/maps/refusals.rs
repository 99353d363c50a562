//! What cannot be mapped is refused by name.

use ropeway_connector::facts::Mismatch;
use ropeway_connector::layout::Format;
use ropeway_connector::ranks::{Rank, Topology};

use crate::families::*;
use crate::model::{Memory, Model, Order};
use crate::world::{Instance, Trial};
use crate::{instance, tensor, trial};

const FIRST: Rank = Rank { pp: 0, pcp: 0, tp: 0 };

fn refusal(trial: &Trial) -> Mismatch {
    trial.map(FIRST).expect_err("the instances do not fit")
}

/// The consumer's model differs from the producer's: its map, with the producer's side put in.
fn between(producer: (&Model, &Instance), consumer: (&Model, &Instance)) -> Mismatch {
    let (_, spec) = consumer.1.spec(consumer.0, FIRST);
    let (ours, theirs) = (consumer.1.side(consumer.0), producer.1.side(producer.0));
    let map = ropeway_connector::ranks::RankMap::new(spec, ours, theirs, FIRST, 0);
    map.expect_err("the instances do not fit")
}

#[test]
fn values_of_another_size_are_refused() {
    let side = tensor(1, Memory::new(Order::Nhd, 32));
    let mut wide = mla();
    wide.planes.iter_mut().for_each(|plane| plane.element_bytes = 4);
    let mismatch = between((&wide, &side), (&mla(), &side));
    assert_eq!(mismatch.to_string(), "bytes of a head of layers.0.latent is 8 here and 16 at the peer");
}

#[test]
fn a_layer_that_one_side_lacks_is_refused() {
    let side = tensor(1, Memory::new(Order::Nhd, 32));
    let mut short = mla();
    short.planes[1].layers = vec![0];
    let theirs = between((&short, &side), (&mla(), &side));
    assert_eq!((theirs.field.as_str(), theirs.theirs.as_str()), ("layers.1.rope", "missing"));
    let ours = between((&mla(), &side), (&short, &side));
    assert_eq!((ours.field.as_str(), ours.ours.as_str()), ("layers.1.rope", "missing"));
}

#[test]
fn packed_and_apart_planes_are_refused_by_name() {
    let side = tensor(1, Memory::new(Order::Nhd, 32));
    assert_eq!(between((&mla_packed(), &side), (&mla(), &side)).field, "layers.0.kv");
}

#[test]
fn fractal_blocks_are_refused_where_they_would_be_cut() {
    let memory = Memory { format: Format::Fractal, ..Memory::new(Order::Nhd, 32) };
    let mismatch = refusal(&trial(gqa(2), tensor(2, memory), tensor(1, memory)));
    assert_eq!(mismatch.field, "NZ blocks of layers.0.kv");
    let rows = tensor(1, Memory::new(Order::Nhd, 32));
    assert_eq!(refusal(&trial(gqa(2), rows, tensor(1, memory))).field, "format of layers.0.kv");
}

#[test]
fn another_compress_ratio_is_refused() {
    let side = tensor(1, Memory::new(Order::Nhd, 64));
    let mut other = compressed();
    other.groups[1].tokens_per_slot = 8;
    assert_eq!(between((&other, &side), (&compressed(), &side)).field, "compress ratio of csa of layer 1");
}

#[test]
fn a_topology_of_nothing_is_refused() {
    let memory = Memory::new(Order::Nhd, 32);
    let good = trial(mla(), tensor(1, memory), tensor(1, memory));
    let (_, spec) = good.consumer.spec(&good.model, FIRST);
    let ours = good.consumer.side(&good.model);
    for broken in [
        Topology::tensor(0),
        Topology { dcp: 2, ..Topology::tensor(3) },
        Topology { pp: 2, ..Topology::tensor(1) },
        Topology { tp: u32::MAX, ..Topology::tensor(1) },
    ] {
        let mut theirs = ours.clone();
        theirs.topology = broken;
        let map = ropeway_connector::ranks::RankMap::new(spec.clone(), ours.clone(), theirs, FIRST, 0);
        assert!(map.is_err(), "{broken:?}");
    }
}

#[test]
fn split_heads_under_context_parallelism_of_too_many_ranks_are_refused() {
    let spread = Topology { dcp: 2, ..Topology::tensor(2) };
    let p = instance(spread, Memory::new(Order::Nhd, 32));
    let mismatch = refusal(&trial(gqa(2), p, tensor(1, Memory::new(Order::Nhd, 32))));
    assert_eq!(mismatch.field, "heads of kv under decode context parallelism");
}
