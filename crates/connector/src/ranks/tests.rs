use super::*;
use crate::layout::{Context, GroupInfo, Keeps};

#[test]
fn layers_are_spread_evenly_but_for_the_last_stage() {
    let counts = |layers, stages| -> Vec<usize> {
        let ranges = layer_partition(layers, stages, None).expect("sound");
        ranges.iter().map(ExactSizeIterator::len).collect()
    };
    assert_eq!(counts(61, 2), [31, 30]);
    assert_eq!(counts(61, 4), [15, 15, 16, 15]);
    assert_eq!(counts(6, 4), [1, 2, 2, 1]);
    assert_eq!(counts(4, 4), [1, 1, 1, 1]);
}

#[test]
fn a_partition_says_how_many_layers_each_stage_has() {
    assert_eq!(layer_partition(61, 2, Some("33, 28")), Ok(vec![0..33, 33..61]));
    for wrong in ["33,27", "61", "30,30,1", "x,y", "-1,62", "4294967295,62"] {
        let mismatch = layer_partition(61, 2, Some(wrong)).expect_err("it does not fit");
        assert_eq!((mismatch.field.as_str(), mismatch.theirs.as_str()), ("pp_layer_partition", wrong));
    }
}

#[test]
fn ranks_are_numbered_stage_by_stage() {
    let topology = Topology { tp: 4, pp: 2, pcp: 2, dcp: 2, stripe_tokens: 128 };
    let numbers: Vec<u32> = topology.ranks().map(|rank| rank.index(&topology)).collect();
    assert_eq!(numbers, (0..16).collect::<Vec<_>>());
    let contexts: Vec<u32> = topology.ranks().take(8).map(|rank| rank.context(&topology)).collect();
    assert_eq!(contexts, [0, 1, 0, 1, 2, 3, 2, 3]);
}

#[test]
fn a_request_key_is_the_same_on_every_host() {
    assert_eq!(request_key("cmpl-1"), request_key("cmpl-1"));
    assert_ne!(request_key("cmpl-1"), request_key("cmpl-2"));
}

#[test]
fn stripes_deal_slots_out_in_turn() {
    let stripe = |rank| Stripe { rank, of: 3, slots: 2 };
    let places = |rank| (0..9).map(|slot| stripe(rank).place(slot)).collect::<Vec<_>>();
    let none = None;
    assert_eq!(places(0), [Some(0), Some(1), none, none, none, none, Some(2), Some(3), none]);
    assert_eq!(places(1), [none, none, Some(0), Some(1), none, none, none, none, Some(2)]);
    assert_eq!(Stripe::ALL.place(7), Some(7));
}

#[test]
fn replicated_groups_and_states_are_whole_on_every_context_rank() {
    let topology = Topology { tp: 4, pp: 1, pcp: 1, dcp: 2, stripe_tokens: 16 };
    let rank = Rank { pp: 0, pcp: 0, tp: 1 };
    let full = GroupInfo::full(0, 32);
    assert_eq!(Stripe::of(rank, &topology, &full), Some(Stripe { rank: 1, of: 2, slots: 16 }));
    let replicated = GroupInfo { context: Context::Replicated, ..full.clone() };
    assert_eq!(Stripe::of(rank, &topology, &replicated), Some(Stripe::ALL));
    let state = GroupInfo { keeps: Keeps::State { spare: 0 }, block_slots: 1, ..full.clone() };
    assert_eq!(Stripe::of(rank, &topology, &state), Some(Stripe::ALL));
    // Stripes that cut a slot, or that blocks cut.
    let coarse = GroupInfo { tokens_per_slot: 32, ..full.clone() };
    assert_eq!(Stripe::of(rank, &topology, &coarse), None);
    assert_eq!(Stripe::of(rank, &topology, &GroupInfo { block_slots: 24, ..full }), None);
}
