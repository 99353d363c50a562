//! Raw lists against the naive model.

use bytes::BytesMut;
use proptest::prelude::*;

use super::oracle::{Choices, Place, distinct};
use super::{all, bytes, in_pieces};
use crate::{
    BlockSet, CacheLayout, Cursor, Limits, Op, PlanRequest, RawCopy, RegionId, RouteMap, RouteParts, Run,
    Runs, Scope, ServedRuns, Strided,
};

const REGION: RegionId = RegionId { slot: 4, generation: 2 };

/// A raw cache that does not begin at its region's first byte.
fn layout(offset: u64, bytes: u64) -> CacheLayout {
    let mut spec = CacheLayout::whole_region("pool", REGION, bytes);
    spec.parts[0].strided = Strided { offset, ..Strided::dense(0, bytes, 1) };
    spec.build(|_| Some(offset + bytes), &Limits::default()).unwrap()
}

fn draw(choices: &mut Choices<'_>) -> Vec<RawCopy> {
    let (mut local, mut remote) = (0, 0);
    let count = choices.below(12);
    let copies = (0..count).map(|_| {
        if choices.rarely(3) {
            local = if choices.below(2) == 0 { local + choices.below(4) } else { choices.below(120) };
        }
        if choices.rarely(3) {
            remote = choices.below(120);
        }
        let copy = RawCopy { local, remote, len: choices.below(9) };
        (local, remote) = (local + copy.len, remote + copy.len);
        copy
    });
    copies.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_500) })]

    #[test]
    fn raw_plans_and_their_served_halves_are_what_the_naive_model_says(
        input in proptest::collection::vec(any::<u8>(), 0..90),
    ) {
        let mut choices = Choices(&input);
        let limits = Limits::default();
        let (ours, theirs) = (layout(choices.below(5), 110), layout(choices.below(5), 125));
        let route = RouteMap::new(&ours, &theirs, &[], RouteParts::Exact, &limits).unwrap();
        let op = if choices.below(2) == 0 { Op::Read } else { Op::Write };
        let copies = draw(&mut choices);

        let inside = copies.iter().all(|c| c.len == 0 || (c.local + c.len <= 110 && c.remote + c.len <= 125));
        let (here, there) = (ours.parts()[0].strided.offset, theirs.parts()[0].strided.offset);
        let expected: Vec<(Place, Place)> = copies
            .iter()
            .flat_map(|c| (0..c.len).map(|at| ((REGION, here + c.local + at), (REGION, there + c.remote + at))))
            .collect();
        let local_once = distinct(expected.iter().map(|pair| pair.0));
        let remote_once = distinct(expected.iter().map(|pair| pair.1));
        let once = if op == Op::Read { local_once } else { remote_once };

        let plan = route.raw(op, &copies, &Scope::default());
        prop_assert_eq!(plan.is_ok(), inside && once);
        let Ok(plan) = plan else { return Ok(()) };
        let flat = |runs: &[Run]| bytes(runs, plan.local_regions(), plan.remote_regions());
        prop_assert_eq!(flat(&all(&plan)), &expected[..]);
        prop_assert_eq!(plan.descriptors(), copies.iter().filter(|copy| copy.len > 0).count() as u64);
        let merged = expected.chunk_by(|a, b| a.0.1 + 1 == b.0.1 && a.1.1 + 1 == b.1.1).count() as u64;
        prop_assert_eq!(plan.total_runs(), merged);
        let from = choices.below(expected.len() as u64 + 1);
        prop_assert_eq!(flat(&in_pieces(&plan, plan.seek(from), &mut choices)), &expected[from as usize..]);

        let mut request = BytesMut::new();
        plan.encode(&mut request);
        let request = PlanRequest::decode(&request, &limits).unwrap();
        let remote: Vec<Place> = expected.iter().map(|pair| pair.1).collect();
        let total = remote.len() as u64;
        let written = ServedRuns::new(&theirs, &request, Op::Write, 0, total, &limits);
        prop_assert_eq!(written.is_ok(), remote_once);
        let start = choices.below(total + 1);
        let end = choices.within(start..total + 1);
        let served = ServedRuns::new(&theirs, &request, Op::Read, start, end - start, &limits).unwrap();
        let runs = all(&served);
        prop_assert_eq!(served.total_runs(), runs.len() as u64);
        let own = |runs: &[Run]| -> Vec<Place> {
            bytes(runs, served.local_regions(), &[REGION]).into_iter().map(|pair| pair.0).collect()
        };
        prop_assert_eq!(own(&runs), &remote[start as usize..end as usize]);
        let pieces = in_pieces(&served, Cursor::default(), &mut choices);
        prop_assert_eq!(own(&pieces), &remote[start as usize..end as usize]);
    }
}

#[test]
fn a_raw_plan_needs_the_caches_one_block_in_the_grant() {
    let (ours, limits) = (layout(0, 64), Limits::default());
    let route = RouteMap::new(&ours, &ours, &[], RouteParts::Exact, &limits).unwrap();
    let copies = [RawCopy { local: 0, remote: 32, len: 8 }];
    let closed = BlockSet::new(&ours, &[], &limits).unwrap();
    let open = BlockSet::new(&ours, &[&[crate::BlockId(0)]], &limits).unwrap();
    assert!(route.raw(Op::Read, &copies, &Scope::default().within(&closed)).is_err());
    assert!(route.raw(Op::Read, &copies, &Scope::default().within(&open)).is_ok());
}
