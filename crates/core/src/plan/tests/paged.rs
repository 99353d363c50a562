//! Paged plans and their served halves against the naive model.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::oracle::{Case, Choices, Place, distinct};
use super::{all, bytes, in_pieces};
use crate::plan::expansion::Grain;
use crate::plan::{CopyPlan, PlanRequest, Scope, ServedRuns};
use crate::{BlockId, Cursor, Limits, Op, Run, Runs};

/// How often a branch that matters was taken, so that a generator that has gone dull is seen.
#[derive(Default, Debug)]
struct Seen {
    planned: u32,
    refused: u32,
    denied: u32,
    twice: u32,
    swept: u32,
    served_twice: u32,
    merged: u32,
}

#[test]
fn plans_and_their_served_halves_are_what_the_naive_model_says() {
    let seen = std::cell::RefCell::new(Seen::default());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(3_000)
    });
    let outcome = runner.run(&vec(any::<u8>(), 0..250), |input| {
        let mut choices = Choices(&input);
        let case = Case::draw(&mut choices);
        check(&case, &mut choices, &mut seen.borrow_mut());
        Ok(())
    });
    outcome.unwrap();
    let seen = seen.into_inner();
    let Seen { planned, refused, denied, twice, swept, served_twice, merged } = seen;
    for count in [planned, refused, denied, twice, swept, served_twice, merged] {
        assert!(count > 10, "{seen:?}");
    }
}

fn check(case: &Case, choices: &mut Choices<'_>, seen: &mut Seen) {
    let route = case.route();
    let local: Vec<&[BlockId]> = case.local_ids.iter().map(Vec::as_slice).collect();
    let remote: Vec<&[BlockId]> = case.remote_ids.iter().map(Vec::as_slice).collect();
    let mut scope = Scope::default();
    if let Some(parts) = case.parts.clone() {
        scope = scope.parts(parts);
    }
    if let Some(within) = &case.within {
        scope = scope.within(within);
    }
    let plan = route.plan(case.op, &local, &remote, &scope);

    let Some(lanes) = case.bytes() else {
        assert!(plan.is_err(), "ids that are wrong are refused");
        seen.refused += 1;
        return;
    };
    let expected: Vec<(Place, Place)> = lanes.iter().flatten().copied().collect();
    let once = match case.op {
        Op::Read => distinct(expected.iter().map(|pair| pair.0)),
        Op::Write => distinct(expected.iter().map(|pair| pair.1)),
    };
    let granted = case.granted();
    match &plan {
        Ok(_) => assert!(once && granted, "a plan that writes twice or outside its grant was let through"),
        Err(error) => assert!(!once || !granted, "refused for nothing: {error}"),
    }
    seen.twice += u32::from(!once);
    seen.denied += u32::from(!granted);
    let Ok(plan) = plan else { return };
    seen.planned += 1;
    let target = if case.op == Op::Read { &case.local } else { &case.remote };
    seen.swept += u32::from(target.overlaps().odd || !target.overlaps().relations.is_empty());

    expands(&plan, &expected, choices);
    merges(&plan, &lanes, seen);
    serves(case, &plan, &expected, choices, seen);
}

/// All at once, in pieces, and from any byte on, it is the same bytes in the same order.
fn expands(plan: &CopyPlan, expected: &[(Place, Place)], choices: &mut Choices<'_>) {
    let flat = |runs: &[Run]| bytes(runs, plan.local_regions(), plan.remote_regions());
    let runs = all(plan);
    assert_eq!(flat(&runs), expected);
    assert_eq!(plan.total_runs(), runs.len() as u64);
    assert_eq!(plan.total_bytes(), expected.len() as u64);
    assert_eq!(flat(&in_pieces(plan, Cursor::default(), choices)), expected);
    assert_eq!(
        plan.seek(0),
        Cursor { span: plan.seek(0).span, part: plan.seek(0).part, ..Cursor::default() }
    );
    for _ in 0..3 {
        let from = choices.below(expected.len() as u64 + 1) as usize;
        let left = in_pieces(plan, plan.seek(from as u64), choices);
        assert_eq!(flat(&left), expected[from..]);
    }
}

/// No two neighbours of a part could have been one run.
fn merges(plan: &CopyPlan, lanes: &[Vec<(Place, Place)>], seen: &mut Seen) {
    let after = |a: &Place, b: &Place| (a.0, a.1 + 1) == *b;
    let maximal = |lane: &Vec<(Place, Place)>| {
        lane.chunk_by(|a, b| after(&a.0, &b.0) && after(&a.1, &b.1)).count() as u64
    };
    let grains: Vec<Grain> = plan.grains().collect();
    // Rows of one block may touch rows of the next; such neighbours are left apart.
    if !grains.contains(&Grain::Row) {
        assert_eq!(plan.total_runs(), lanes.iter().map(maximal).sum::<u64>());
    }
    assert!(plan.total_runs() <= plan.descriptors());
    seen.merged += u32::from(plan.total_runs() < plan.descriptors());
}

/// How many runs the target's bytes make by themselves, part by part.
fn own_runs(remote: &[Place], plan: &CopyPlan) -> usize {
    let after = |a: &Place, b: &Place| (a.0, a.1 + 1) == *b;
    let mut left = remote;
    let lanes = plan.lane_bytes().map(|bytes| {
        let (lane, rest) = left.split_at(bytes as usize);
        left = rest;
        lane.chunk_by(after).count()
    });
    lanes.sum()
}

/// The target's half, made from the request alone, in windows, is the same bytes in the same order.
fn serves(
    case: &Case,
    plan: &CopyPlan,
    expected: &[(Place, Place)],
    choices: &mut Choices<'_>,
    seen: &mut Seen,
) {
    let limits = Limits::default();
    let mut request = BytesMut::new();
    plan.encode(&mut request);
    let request = PlanRequest::decode(&request, &limits).unwrap();
    assert!(case.within.as_ref().is_none_or(|within| request.check_within(within).is_ok()));

    let flatten = |blocks: &mut dyn Iterator<Item = (usize, crate::BlockSpan)>| -> Vec<(usize, BlockId)> {
        blocks.flat_map(|(group, span)| span.ids().map(move |id| (group, id))).collect()
    };
    let mut named = flatten(&mut request.blocks());
    let mut planned = flatten(&mut plan.remote_blocks());
    // The request lists groups in the target's order, the plan in the route's.
    named.sort_by_key(|(group, _)| *group);
    planned.sort_by_key(|(group, _)| *group);
    assert_eq!(named, planned);

    let remote: Vec<Place> = expected.iter().map(|pair| pair.1).collect();
    let once = distinct(remote.iter().copied());
    let written = ServedRuns::new(&case.remote, &request, Op::Write, 0, remote.len() as u64, &limits);
    match written {
        Ok(_) => assert!(once, "a request that writes twice was let through"),
        Err(error) => assert!(!once, "refused for nothing: {error}"),
    }
    seen.served_twice += u32::from(!once);

    for whole in [true, false] {
        let start = if whole { 0 } else { choices.below(remote.len() as u64 + 1) };
        let end = if whole { remote.len() as u64 } else { choices.within(start..remote.len() as u64 + 1) };
        let window = &remote[start as usize..end as usize];
        let served = ServedRuns::new(&case.remote, &request, Op::Read, start, end - start, &limits).unwrap();
        let regions = served.local_regions();
        let flat = |runs: &[Run]| -> Vec<Place> {
            assert!(runs.iter().all(|run| run.remote_region == 0));
            bytes(runs, regions, regions).into_iter().map(|pair| pair.0).collect()
        };
        let runs = all(&served);
        assert_eq!(flat(&runs), window);
        if whole && case.slices.is_empty() {
            assert_eq!(runs.len(), own_runs(&remote, plan), "merged by the target's side alone");
        }
        assert_eq!((served.total_bytes(), served.total_runs()), (end - start, runs.len() as u64));
        assert_eq!(flat(&in_pieces(&served, Cursor::default(), choices)), window);
        let from = choices.below(window.len() as u64 + 1);
        assert_eq!(flat(&in_pieces(&served, served.seek(from), choices)), window[from as usize..]);
    }
    let past = ServedRuns::new(&case.remote, &request, Op::Read, 1, remote.len() as u64, &limits);
    assert!(past.is_err(), "a window past the end is refused");
}
