//! Runs are at most 1 GiB, wherever a piece is longer.

use super::{Choices, all, ids, in_pieces};
use crate::runs::MAX_RUN_BYTES;
use crate::{
    CacheLayout, Cursor, Limits, Op, RawCopy, Rect, RegionId, RouteMap, RouteParts, Run, Runs, Scope,
};
use crate::{PlanRequest, ServedRuns, Slice, Strided};

const GIB: u64 = MAX_RUN_BYTES as u64;

fn layout(strided: Strided) -> CacheLayout {
    let region = RegionId { slot: 0, generation: 1 };
    let spec = CacheLayout::builder("kv").group("g", 1).part("k", region, strided);
    spec.build(|_| Some(u64::MAX), &Limits::default()).unwrap()
}

/// In order, without gaps, of the right lengths; also when cut anywhere.
fn assert_covers(runs: &dyn Runs, from: u64, lens: &[u64]) {
    let runs_whole = all(runs);
    assert_eq!(runs_whole.iter().map(|run| u64::from(run.len)).collect::<Vec<_>>(), lens);
    assert_eq!(runs.total_runs(), lens.len() as u64);
    let total: u64 = lens.iter().sum();
    assert_eq!(runs.total_bytes(), total);
    for cut in [0, 1, GIB - 1, GIB, GIB + 1, 2 * GIB, 2 * GIB + 7].into_iter().filter(|cut| *cut < total) {
        let mut at = runs.seek(cut);
        let mut some = [Run::default(); 64];
        let filled = runs.fill(&mut at, &mut some, u64::MAX);
        assert_eq!(some[0].local, from + cut);
        assert_eq!(some[..filled].iter().map(|run| u64::from(run.len)).sum::<u64>(), total - cut);
        assert!(
            some[..filled].windows(2).all(|pair| pair[0].local + u64::from(pair[0].len) == pair[1].local)
        );
    }
}

fn served(layout: &CacheLayout, plan: &dyn Runs, start: u64, bytes: u64) -> ServedRuns {
    let mut request = bytes::BytesMut::new();
    plan.encode(&mut request);
    let request = PlanRequest::decode(&request, &Limits::default()).unwrap();
    ServedRuns::new(layout, &request, Op::Write, start, bytes, &Limits::default()).unwrap()
}

#[test]
fn a_long_span_of_dense_blocks_is_split() {
    let layout = layout(Strided::dense(0, GIB / 2, 16));
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let some = ids(&[3, 4, 5, 6, 7]);
    let plan = route.plan(Op::Read, &[&some], &[&some], &Scope::default()).unwrap();
    assert_covers(&plan, 3 * (GIB / 2), &[GIB, GIB, GIB / 2]);
    assert_covers(&served(&layout, &plan, 0, 5 * (GIB / 2)), 3 * (GIB / 2), &[GIB, GIB, GIB / 2]);
    // From the middle of the first run on: the cuts move with the window.
    let window = served(&layout, &plan, 5, 2 * GIB);
    assert_covers(&window, 3 * (GIB / 2) + 5, &[GIB, GIB]);
    let window = served(&layout, &plan, GIB / 2, GIB);
    assert_covers(&window, 2 * GIB, &[GIB]);
}

#[test]
fn a_window_counts_the_runs_of_long_blocks() {
    let apart = layout(Strided { offset: 0, stride: 4 * GIB, block_bytes: 3 * GIB, blocks: 8 });
    let route = RouteMap::new(&apart, &apart, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let some = ids(&[1, 2, 4]);
    let plan = route.plan(Op::Read, &[&some], &[&some], &Scope::default()).unwrap();
    assert_eq!((plan.total_runs(), plan.descriptors()), (9, 3));
    for (start, bytes, runs) in [
        (0, 9 * GIB, 9),
        (1, 9 * GIB - 1, 9),
        (GIB, GIB, 1),
        (GIB, 3 * GIB, 3),
        (GIB + 1, 3 * GIB, 4),
        (2 * GIB + 1, 4 * GIB, 5),
        (GIB / 2, GIB, 1),
        (GIB / 2, 3 * GIB, 4),
        (3 * GIB, 3 * GIB + 1, 4),
        (2 * GIB + 5, 10, 1),
        (9 * GIB, 0, 0),
    ] {
        let window = served(&apart, &plan, start, bytes);
        assert_eq!((window.total_bytes(), window.total_runs()), (bytes, runs), "from {start}");
        assert_eq!(all(&window).len() as u64, runs, "from {start}");
        let pieces = in_pieces(&window, Cursor::default(), &mut Choices(&[2; 90]));
        assert_eq!(pieces.iter().map(|run| u64::from(run.len)).sum::<u64>(), bytes);
    }
}

#[test]
fn a_long_row_is_split() {
    let wide = layout(Strided { offset: 0, stride: 8 * GIB, block_bytes: 8 * GIB, blocks: 2 });
    let rect = Rect { offset: GIB, rows: 2, row_bytes: GIB + GIB / 2, row_stride: 3 * GIB };
    let slices = [Slice::new("k", rect, rect)];
    let route = RouteMap::new(&wide, &wide, &slices, RouteParts::Exact, &Limits::default()).unwrap();
    let plan = route.plan(Op::Write, &[&ids(&[1])], &[&ids(&[0])], &Scope::default()).unwrap();
    let run = |local, remote, len| Run { local, remote, len: len as u32, ..Run::default() };
    let half = GIB / 2;
    let expected = [
        run(9 * GIB, GIB, GIB),
        run(10 * GIB, 2 * GIB, half),
        run(12 * GIB, 4 * GIB, GIB),
        run(13 * GIB, 5 * GIB, half),
    ];
    assert_eq!(all(&plan), expected);
    assert_eq!(plan.total_runs(), 4);
}

#[test]
fn a_long_raw_copy_is_split() {
    let region = RegionId { slot: 0, generation: 1 };
    let raw = CacheLayout::whole_region("pool", region, 16 * GIB);
    let raw = raw.build(|_| Some(16 * GIB), &Limits::default()).unwrap();
    let route = RouteMap::new(&raw, &raw, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let copies =
        [RawCopy { local: 7, remote: 0, len: GIB }, RawCopy { local: 7 + GIB, remote: GIB, len: GIB + 1 }];
    let plan = route.raw(Op::Write, &copies, &Scope::default()).unwrap();
    assert_covers(&plan, 7, &[GIB, GIB, 1]);
    assert_covers(&served(&raw, &plan, 0, 2 * GIB + 1), 0, &[GIB, GIB, 1]);
}
