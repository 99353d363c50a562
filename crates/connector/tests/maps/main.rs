//! Layouts and rank maps against a plain statement of the formulae: whatever the layout and the spread of both
//! instances, every byte that a consumer rank lacks arrives once, and it is the right one.

mod families;
mod formulae;
mod hostile;
mod model;
mod refusals;
mod trials;
mod world;

use families::*;
use model::{Memory, Order};
use ropeway_connector::layout::Format;
use ropeway_connector::ranks::Topology;
use world::{Instance, Outcome, Trial};

fn instance(topology: Topology, memory: Memory) -> Instance {
    Instance { topology, memory, drafts: true }
}

fn tensor(tp: u32, memory: Memory) -> Instance {
    instance(Topology::tensor(tp), memory)
}

fn trial(model: model::Model, producer: Instance, consumer: Instance) -> Trial {
    Trial { model, producer, consumer, tokens: 0..77, key: 5, least_piece: 0, seed: 11 }
}

fn direct(outcome: Outcome) -> bool {
    outcome.direct > 0 && outcome.whole == 0
}

#[test]
fn equal_instances_copy_whole_blocks_directly() {
    for order in [
        Order::Nhd,
        Order::Hnd,
        Order::HeadOutermost,
        Order::BlockLayerHead,
        Order::BlockHeadLayer,
        Order::PairNhd,
        Order::PairHnd,
    ] {
        let side = tensor(2, Memory::new(order, 32));
        assert!(direct(trial(gqa(4), side.clone(), side).run()), "{order:?}");
    }
}

#[test]
fn consumers_with_more_ranks_read_head_slices() {
    for order in [Order::Nhd, Order::Hnd, Order::HeadOutermost, Order::BlockHeadLayer, Order::PairNhd] {
        let (p, d) = (tensor(1, Memory::new(order, 32)), tensor(4, Memory::new(order, 32)));
        assert!(direct(trial(gqa(4), p, d).run()), "{order:?}");
    }
}

#[test]
fn producers_with_more_ranks_each_give_their_heads() {
    for order in [Order::Nhd, Order::Hnd, Order::HeadOutermost, Order::BlockHeadLayer, Order::PairNhd] {
        let (p, d) = (tensor(4, Memory::new(order, 32)), tensor(2, Memory::new(order, 32)));
        let outcome = trial(tuples(4), p, d).run();
        assert!(direct(outcome) && outcome.direct == 4, "{order:?}");
    }
}

#[test]
fn heads_that_straddle_ranks_come_from_each() {
    let (p, d) = (tensor(2, Memory::new(Order::Hnd, 32)), tensor(3, Memory::new(Order::Hnd, 32)));
    assert!(direct(trial(gqa(6), p, d).run()));
}

#[test]
fn rows_too_short_for_a_device_are_landed_whole_and_put_in_order() {
    let (p, d) = (tensor(4, Memory::new(Order::Nhd, 32)), tensor(2, Memory::new(Order::Nhd, 32)));
    let outcome = Trial { least_piece: u64::MAX, ..trial(tuples(4), p, d) }.run();
    assert_eq!((outcome.direct, outcome.whole), (0, 4));
}

#[test]
fn head_major_slices_are_whole_pieces_for_a_device_too() {
    let (p, d) = (tensor(4, Memory::new(Order::Hnd, 32)), tensor(2, Memory::new(Order::Hnd, 32)));
    assert!(direct(Trial { least_piece: u64::MAX, ..trial(gqa(4), p, d) }.run()));
}

#[test]
fn token_major_and_head_major_instances_fit() {
    for (p, d) in [(Order::Nhd, Order::Hnd), (Order::Hnd, Order::Nhd)] {
        for least_piece in [0, u64::MAX] {
            for block in [16, 32] {
                let (p, d) = (tensor(1, Memory::new(p, block)), tensor(2, Memory::new(d, block)));
                let outcome = Trial { least_piece, ..trial(gqa(4), p, d) }.run();
                assert_eq!(direct(outcome), least_piece == 0 && block == 16);
            }
        }
    }
}

#[test]
fn heads_apart_and_heads_together_fit_through_scratch() {
    let (p, d) = (tensor(2, Memory::new(Order::HeadOutermost, 32)), tensor(1, Memory::new(Order::Nhd, 32)));
    assert_eq!(trial(gqa(4), p.clone(), d.clone()).run().whole, 2);
    assert_eq!(trial(gqa(4), d, p).run().whole, 2);
}

#[test]
fn replicated_heads_come_from_one_rank_each() {
    let (p, d) = (tensor(8, Memory::new(Order::Hnd, 32)), tensor(2, Memory::new(Order::Hnd, 32)));
    let outcome = trial(gqa(2), p, d).run();
    assert_eq!((outcome.direct, outcome.idle_claims), (2, 6));
    let (p, d) = (tensor(1, Memory::new(Order::Hnd, 32)), tensor(8, Memory::new(Order::Hnd, 32)));
    assert_eq!(trial(gqa(2), p, d).run().direct, 8);
}

#[test]
fn latent_caches_come_from_ranks_that_the_key_spreads() {
    let (p, d) = (tensor(8, Memory::new(Order::Nhd, 32)), tensor(2, Memory::new(Order::Nhd, 32)));
    let mut used = std::collections::BTreeSet::new();
    for key in 0..8 {
        let trial = Trial { key, ..trial(mla(), p.clone(), d.clone()) };
        let outcome = trial.run();
        assert_eq!((outcome.direct, outcome.idle_claims), (2, 6));
        for rank in d.topology.ranks() {
            let pulls = trial.map(rank).expect("they fit").pulls(key).expect("they fit");
            used.extend(pulls.iter().filter(|pull| !pull.shares.is_empty()).map(|pull| pull.rank));
        }
    }
    assert_eq!(used.len(), 8, "every rank has its turn");
}

#[test]
fn equal_instances_read_from_their_twins() {
    let side = tensor(4, Memory::new(Order::Nhd, 32));
    let trial = trial(mla(), side.clone(), side.clone());
    for rank in side.topology.ranks() {
        let pulls = trial.map(rank).expect("they fit").pulls(3).expect("they fit");
        let ranks: Vec<_> = pulls.iter().map(|pull| pull.rank).collect();
        assert_eq!(ranks, [rank]);
    }
}

#[test]
fn latent_and_rope_fit_apart_and_packed() {
    for model in [mla(), mla_packed()] {
        let (p, d) = (tensor(2, Memory::new(Order::Nhd, 32)), tensor(1, Memory::new(Order::Hnd, 32)));
        assert!(direct(trial(model, p, d).run()));
    }
}

#[test]
fn an_indexer_with_ids_of_its_own_travels_beside_the_latent() {
    let p =
        instance(Topology { dcp: 2, stripe_tokens: 32, ..Topology::tensor(2) }, Memory::new(Order::Nhd, 32));
    assert!(direct(trial(indexed(), p, tensor(1, Memory::new(Order::Nhd, 32))).run()));
}

#[test]
fn pipeline_stages_give_their_layers_and_drafts_come_from_the_last() {
    let p = instance(Topology { pp: 2, ..Topology::tensor(1) }, Memory::new(Order::Nhd, 32));
    let outcome = trial(mla(), p, tensor(2, Memory::new(Order::Nhd, 32))).run();
    assert_eq!(outcome.direct, 4);
}

#[test]
fn a_draft_layer_may_be_on_one_side_only() {
    for (p, d) in [(true, false), (false, true)] {
        let side = |drafts| Instance { drafts, ..tensor(1, Memory::new(Order::Hnd, 32)) };
        assert!(direct(trial(gqa(2), side(p), side(d)).run()));
    }
}

#[test]
fn context_parallel_producers_give_every_other_stripe() {
    for stripe_tokens in [32, 16] {
        let spread = Topology { pcp: 2, dcp: 2, stripe_tokens, ..Topology::tensor(2) };
        let p = instance(spread, Memory::new(Order::Nhd, 32));
        assert!(direct(trial(mla(), p, tensor(1, Memory::new(Order::Nhd, 32))).run()));
    }
}

#[test]
fn stripes_of_single_tokens_are_put_in_order() {
    let p = instance(Topology { dcp: 2, ..Topology::tensor(2) }, Memory::new(Order::Nhd, 32));
    assert_eq!(trial(mla(), p, tensor(1, Memory::new(Order::Nhd, 32))).run().whole, 2);
}

#[test]
fn both_sides_may_stripe_their_tokens() {
    let side = |dcp, stripe_tokens| {
        instance(Topology { dcp, stripe_tokens, ..Topology::tensor(4) }, Memory::new(Order::Nhd, 32))
    };
    // The same stripes pair up whatever their length.
    assert!(direct(trial(mla(), side(4, 1), side(4, 1)).run()));
    assert!(direct(trial(mla(), side(4, 32), side(2, 32)).run()));
    assert!(direct(trial(mla(), side(2, 16), side(4, 32)).run()));
}

#[test]
fn unequal_blocks_of_tokens_in_a_row_pair_up() {
    for (ours, theirs) in [(32, 128), (128, 32), (16, 64), (48, 32)] {
        let (p, d) = (tensor(1, Memory::new(Order::Nhd, theirs)), tensor(1, Memory::new(Order::Nhd, ours)));
        assert!(direct(Trial { tokens: 0..130, ..trial(mla(), p, d) }.run()));
    }
}

#[test]
fn unequal_blocks_of_heads_in_a_row_are_put_in_order() {
    for (ours, theirs) in [(32, 64), (64, 32)] {
        let (p, d) = (tensor(1, Memory::new(Order::Hnd, theirs)), tensor(2, Memory::new(Order::Hnd, ours)));
        let outcome = Trial { tokens: 64..130, ..trial(gqa(4), p, d) }.run();
        assert_eq!((outcome.direct, outcome.whole), (0, 2));
    }
}

#[test]
fn manager_blocks_of_several_kernel_blocks_fit() {
    for order in [Order::Nhd, Order::Hnd] {
        let memory = Memory { kernels: 2, ..Memory::new(order, 64) };
        let other = Memory { kernels: 1, ..Memory::new(order, 32) };
        assert!(direct(trial(gqa(2), tensor(1, memory), tensor(1, other)).run()));
    }
}

#[test]
fn windows_bring_their_last_blocks_only_over_shared_storage() {
    for order in [Order::Nhd, Order::Hnd] {
        let memory = Memory { overlay: true, ..Memory::new(order, 16) };
        let (p, d) = (tensor(2, memory), tensor(1, memory));
        let long = Trial { tokens: 32..150, ..trial(windowed(2), p, d) };
        assert!(direct(long.run()));
    }
}

#[test]
fn padded_pages_with_compressed_slots_fit() {
    let memory = Memory { pad: 7, ..Memory::new(Order::Nhd, 64) };
    let spread = Trial { tokens: 64..181, ..trial(compressed(), tensor(2, memory), tensor(2, memory)) };
    assert!(direct(spread.run()));
}

#[test]
fn recurrent_states_come_by_segment_and_head() {
    for (p, d) in [(1, 1), (2, 1), (4, 1), (4, 2), (1, 2)] {
        for least_piece in [0, u64::MAX] {
            for order in [Order::Nhd, Order::Hnd] {
                let (p, d) = (tensor(p, Memory::new(order, 32)), tensor(d, Memory::new(order, 32)));
                Trial { least_piece, ..trial(recurrent(), p, d) }.run();
            }
        }
    }
}

#[test]
fn fractal_blocks_move_whole() {
    let memory = Memory { format: Format::Fractal, ..Memory::new(Order::Nhd, 32) };
    assert!(direct(trial(gqa(2), tensor(2, memory), tensor(2, memory)).run()));
}

#[test]
fn what_the_consumer_has_is_left_alone() {
    for from in [32, 64] {
        let side = tensor(1, Memory::new(Order::Nhd, 32));
        let outcome = Trial { tokens: from..77, ..trial(mla_packed(), side.clone(), side) }.run();
        assert_eq!(outcome.bytes, (77 - from) * 12 * 2);
    }
}
