//! The request decoder, and what is made from its output, on bytes that nobody meant well.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::oracle::{Case, Choices, Place, distinct};
use super::{all, bytes, ids};
use crate::{
    BlockId, CacheLayout, ErrorKind, Limits, Op, PlanRequest, RegionId, RouteMap, RouteParts, Runs, Scope,
    ServedRuns, Strided,
};

/// Small limits, so that a request that passes them is soon expanded.
fn limits() -> Limits {
    Limits::default().with_blocks_per_lease(64).with_parts_per_cache(16).with_runs_per_raw_plan(64)
}

/// Whatever comes out of a hostile request lies inside the layout, and is written once when it is written.
fn judge(layout: &CacheLayout, request: &[u8], op: Op) -> Option<()> {
    let request = PlanRequest::decode(request, &limits()).ok()?;
    let window =
        (0..200).rev().find_map(|bytes| ServedRuns::new(layout, &request, op, 0, bytes, &limits()).ok())?;
    let runs = all(&window);
    assert_eq!(runs.len() as u64, window.total_runs());
    let regions = window.local_regions();
    let places: Vec<Place> = bytes(&runs, regions, regions).into_iter().map(|pair| pair.0).collect();
    assert_eq!(places.len() as u64, window.total_bytes());
    let inside = |(region, at): &Place| {
        layout.parts().iter().any(|part| {
            let from_start = at.checked_sub(part.strided.offset);
            part.region == *region
                && from_start.is_some_and(|at| {
                    at / part.strided.stride < part.strided.blocks.into()
                        && at % part.strided.stride < part.strided.block_bytes
                })
        })
    };
    assert!(places.iter().all(inside), "outside of every block");
    assert!(op == Op::Read || distinct(places.into_iter()), "written twice");
    Some(())
}

/// A valid request of a drawn case, and the layout it is for.
fn valid(input: &[u8]) -> (CacheLayout, Vec<u8>) {
    let case = Case::draw(&mut Choices(input));
    let local: Vec<&[BlockId]> = case.local_ids.iter().map(Vec::as_slice).collect();
    let remote: Vec<&[BlockId]> = case.remote_ids.iter().map(Vec::as_slice).collect();
    let mut request = BytesMut::new();
    if let Ok(plan) = case.route().plan(case.op, &local, &remote, &Scope::default()) {
        plan.encode(&mut request);
    }
    (case.remote, request.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn garbage_is_refused_or_harmless(
        input in vec(any::<u8>(), 0..80),
        mut garbage in vec(prop_oneof![any::<u8>(), 0..6_u8], 0..60),
        kind in 0..2_u8,
        write in any::<bool>(),
    ) {
        let (layout, _) = valid(&input);
        let _ = PlanRequest::decode(&garbage, &limits());
        // With a head that fits, so that the rest is looked at.
        let mut request = vec![1, kind];
        request.extend(layout.digest().0);
        request.append(&mut garbage);
        judge(&layout, &request, if write { Op::Write } else { Op::Read });
    }

    #[test]
    fn mutated_requests_are_refused_or_harmless(
        input in vec(any::<u8>(), 0..120),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
        write in any::<bool>(),
    ) {
        let (layout, mut request) = valid(&input);
        for (at, byte, how) in changes {
            if request.len() <= 18 {
                break;
            }
            let at = 18 + at.index(request.len() - 18);
            match how {
                0 => request[at] = byte,
                1 => request[at] ^= 1 << (byte % 8),
                _ => {
                    request.remove(at);
                }
            }
        }
        judge(&layout, &request, if write { Op::Write } else { Op::Read });
    }

    #[test]
    fn a_truncated_request_is_refused(input in vec(any::<u8>(), 0..120), cut in any::<prop::sample::Index>()) {
        let (_, request) = valid(&input);
        if request.is_empty() {
            return Ok(());
        }
        let cut = &request[..cut.index(request.len())];
        prop_assert_eq!(PlanRequest::decode(cut, &limits()).unwrap_err().kind(), ErrorKind::Protocol);
    }
}

fn layout() -> CacheLayout {
    let region = RegionId { slot: 0, generation: 1 };
    let spec = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 8, 128));
    spec.build(|_| Some(1_024), &Limits::default()).unwrap()
}

#[test]
fn a_request_over_the_limits_is_full() {
    let layout = layout();
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    for (count, fits) in [(64, true), (65, false)] {
        for step in [1, 3] {
            let some = ids(&(0..count).map(|id| id * step % 128).collect::<Vec<_>>());
            let plan = route.plan(Op::Read, &[&some], &[&some], &Scope::default()).unwrap();
            let mut request = BytesMut::new();
            plan.encode(&mut request);
            let decoded = PlanRequest::decode(&request, &limits());
            assert_eq!(
                decoded.map(|_| ()).map_err(|error| error.kind()),
                match fits {
                    true => Ok(()),
                    false => Err(ErrorKind::Full),
                }
            );
        }
    }
}

#[test]
fn a_request_for_blocks_past_the_end_is_refused() {
    // The digest does not tell how many blocks there are: a peer may know a longer cache of the same shape.
    let region = RegionId { slot: 0, generation: 1 };
    let of = |blocks| {
        let spec = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 8, blocks));
        spec.build(|_| Some(1_024), &Limits::default()).unwrap()
    };
    let route = RouteMap::new(&of(16), &of(16), &[], RouteParts::Exact, &Limits::default()).unwrap();
    let plan = route.plan(Op::Read, &[&ids(&[0, 1])], &[&ids(&[14, 15])], &Scope::default()).unwrap();
    let mut request = BytesMut::new();
    plan.encode(&mut request);
    let request = PlanRequest::decode(&request, &Limits::default()).unwrap();
    let serve = |blocks| ServedRuns::new(&of(blocks), &request, Op::Read, 0, 16, &Limits::default());
    assert!(serve(16).is_ok());
    assert_eq!(serve(15).unwrap_err().kind(), ErrorKind::OutOfBounds);
}

#[test]
fn bytes_after_a_request_are_refused() {
    let layout = layout();
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let plan = route.plan(Op::Read, &[&ids(&[1])], &[&ids(&[2])], &Scope::default()).unwrap();
    let mut request = BytesMut::new();
    plan.encode(&mut request);
    assert!(PlanRequest::decode(&request, &Limits::default()).is_ok());
    request.extend_from_slice(&[0]);
    assert_eq!(PlanRequest::decode(&request, &Limits::default()).unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn a_list_longer_than_its_request_is_refused_before_room_is_made() {
    // A length of 2^60 spans or parts in a few bytes: an attempt to allocate for it would abort.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    for head in [&[1, 0][..], &[1, 1][..]] {
        let mut request = head.to_vec();
        request.extend([0; 16]);
        request.extend(huge);
        assert_eq!(
            PlanRequest::decode(&request, &Limits::default()).unwrap_err().kind(),
            ErrorKind::Protocol
        );
    }
    // One part, one group, and then that many spans.
    let mut request = vec![1, 0];
    request.extend([0; 16]);
    request.extend([1, 0, 1, 1, 0]);
    request.extend(huge);
    assert_eq!(PlanRequest::decode(&request, &Limits::default()).unwrap_err().kind(), ErrorKind::Protocol);
}

#[test]
fn a_request_for_another_layout_is_a_mismatch() {
    let layout = layout();
    let region = layout.parts()[0].region;
    let other = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 16, 64));
    let other = other.build(|_| Some(1_024), &Limits::default()).unwrap();
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let plan = route.plan(Op::Read, &[&ids(&[1])], &[&ids(&[2])], &Scope::default()).unwrap();
    let mut request = BytesMut::new();
    plan.encode(&mut request);
    let request = PlanRequest::decode(&request, &Limits::default()).unwrap();
    let error = ServedRuns::new(&other, &request, Op::Read, 0, 8, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}
