//! Plans against what they should be.

use bytes::BytesMut;

use super::*;
use crate::{BlockId, CacheLayout, Cursor, Limits, Op, RegionId, Run, Runs, Strided};

fn all(runs: &dyn Runs) -> Vec<Run> {
    let mut out = vec![Run::default(); runs.total_runs() as usize + 1];
    let filled = runs.fill(&mut Cursor::default(), &mut out, u64::MAX);
    out.truncate(filled);
    out
}

fn ids(ids: &[u32]) -> Vec<BlockId> {
    ids.iter().copied().map(BlockId).collect()
}

#[test]
fn consecutive_blocks_of_dense_parts_are_one_run_per_part() {
    let limits = Limits::default();
    let region = RegionId {
        slot: 0,
        generation: 1,
    };
    let layout = CacheLayout::builder("kv")
        .group("full", 1)
        .part("k", region, Strided::dense(0, 100, 10))
        .part("v", region, Strided::dense(1_000, 100, 10))
        .build(|_| Some(2_000), &limits)
        .unwrap();
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &limits).unwrap();
    let plan = route
        .plan(
            Op::Read,
            &[&ids(&[1, 2, 3])],
            &[&ids(&[6, 7, 8])],
            &Scope::default(),
        )
        .unwrap();
    let run = |local, remote| Run {
        local,
        remote,
        len: 300,
        ..Run::default()
    };
    assert_eq!(all(&plan), [run(100, 600), run(1_100, 1_600)]);

    let mut request = BytesMut::new();
    plan.encode(&mut request);
    let request = PlanRequest::decode(&request, &limits).unwrap();
    let served = ServedRuns::new(&layout, &request, Op::Read, 0, 600, &limits).unwrap();
    assert_eq!(all(&served), [run(600, 0), run(1_600, 0)]);
}
