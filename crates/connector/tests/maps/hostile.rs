//! What a peer sends of its cache and topology may be anything: it is mapped or refused, and nothing panics.

use proptest::prelude::*;
use ropeway_connector::ids::Request;
use ropeway_connector::layout::CacheSpec;
use ropeway_connector::ranks::{Land, Rank, RankMap, Side, Topology};
use serde_json::Value;

use crate::families::*;
use crate::instance;
use crate::model::{Memory, Order};

const FIRST: Rank = Rank { pp: 0, pcp: 0, tp: 0 };

/// Every number of a JSON value, in order.
fn numbers<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Number(_) => found.push(value),
        Value::Array(items) => items.iter_mut().for_each(|item| numbers(item, found)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, field)| numbers(field, found)),
        _ => {}
    }
}

fn consumers() -> Vec<(CacheSpec, Side)> {
    [gqa(4), mla(), compressed(), recurrent(), indexed()]
        .iter()
        .map(|model| {
            let side =
                instance(Topology { stripe_tokens: 16, ..Topology::tensor(2) }, Memory::new(Order::Hnd, 32));
            (side.spec(model, FIRST).1, side.side(model))
        })
        .collect()
}

/// Maps a side that was changed, and goes as far as a request would.
fn go(spec: &CacheSpec, ours: &Side, theirs: Side) {
    let Ok(map) = RankMap::new(spec.clone(), ours.clone(), theirs, FIRST, 0) else { return };
    for key in 0..3 {
        let Ok(pulls) = map.pulls(key) else { continue };
        for share in pulls.iter().flat_map(|pull| &pull.shares) {
            let ids = vec![(1..6).collect::<Vec<u32>>(); 3];
            let Ok(ids) = share.ids(&Request { local: &ids, remote: &ids, tokens: 0..70 }) else { continue };
            let Land::Whole(reformat) = &share.land else { continue };
            let counts: Vec<u32> = ids.local.iter().map(|ids| ids.len() as u32).collect();
            let Some((places, size)) = reformat.place(&counts) else { continue };
            reformat.copies(spec, &places, &ids.moves, |copy| {
                let last = u64::from(copy.height) - 1;
                assert!(copy.from + last * copy.from_pitch + copy.width <= size, "a copy stays in scratch");
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_changed_number_never_panics(
        which in 0..5_usize,
        places in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        values in prop::collection::vec(
            prop_oneof![Just(0), Just(1), Just(2), Just(3), Just(1_000), Just(u64::from(u32::MAX)), Just(u64::MAX)],
            3,
        ),
    ) {
        let (spec, ours) = consumers().swap_remove(which);
        let mut text = serde_json::to_value(&ours).expect("plain data");
        for (place, value) in places.iter().zip(&values) {
            let mut found = Vec::new();
            numbers(&mut text, &mut found);
            let at = place.index(found.len());
            *found[at] = Value::from(*value);
        }
        if let Ok(theirs) = serde_json::from_value::<Side>(text) {
            go(&spec, &ours, theirs);
        }
    }
}
