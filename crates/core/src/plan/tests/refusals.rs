//! Routes and plans that are refused say why; block sets.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::{ids, span};
use crate::plan::once;
use crate::{
    BlockId, BlockSet, CacheLayout, ErrorKind, LayoutSpec, Limits, Op, Rect, RegionId, RouteMap, RouteParts,
    Runs, Scope, Slice, Strided,
};

const REGION: RegionId = RegionId { slot: 0, generation: 1 };

fn build(spec: LayoutSpec) -> CacheLayout {
    spec.build(|_| Some(1 << 30), &Limits::default()).unwrap()
}

fn kv() -> LayoutSpec {
    CacheLayout::builder("kv")
        .group("full", 1)
        .part("layers.0.k", REGION, Strided::dense(0, 64, 32))
        .part("layers.0.v", REGION, Strided::dense(4_096, 64, 32))
        .part("layers.1.k", REGION, Strided::dense(8_192, 64, 32))
}

/// The error of a route between the two, which must be a mismatch.
fn mismatch(local: LayoutSpec, remote: LayoutSpec, slices: &[Slice], parts: RouteParts<'_>) -> String {
    let error = RouteMap::new(&build(local), &build(remote), slices, parts, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    error.to_string()
}

#[test]
fn a_mismatch_names_the_part_and_the_field() {
    let mut bytes = kv();
    bytes.parts[1].strided = Strided::dense(4_096, 32, 32);
    let said = mismatch(kv(), bytes, &[], RouteParts::Exact);
    assert_eq!(
        said,
        "route: part layers.0.v: block_bytes is 64 here and 32 at the peer; name a slice if that is meant"
    );
    let mut group = kv();
    group.groups[0].name = "window".into();
    let said = mismatch(kv(), group, &[], RouteParts::Exact);
    assert_eq!(said, "route: part layers.0.k: group is full here and window at the peer");
    let mut fewer = kv();
    fewer.parts.pop();
    let said = mismatch(kv(), fewer.clone(), &[], RouteParts::Exact);
    assert_eq!(said, "route: part layers.1.k: the peer's cache kv does not have it");
    let said = mismatch(fewer, kv(), &[], RouteParts::Named(&["layers.1.k"]));
    assert_eq!(said, "route: part layers.1.k: the local cache kv does not have it");
    let rect = Rect { offset: 0, rows: 4, row_bytes: 8, row_stride: 20 };
    let said = mismatch(kv(), kv(), &[Slice::new("layers.0.k", rect, rect)], RouteParts::Exact);
    assert!(said.contains("part layers.0.k: local slice: ") && said.contains("pass the end"), "{said}");
    let (a, b) = (Rect { row_stride: 10, ..rect }, Rect { row_stride: 12, row_bytes: 7, ..rect });
    let said = mismatch(kv(), kv(), &[Slice::new("layers.0.k", a, b)], RouteParts::Exact);
    assert_eq!(said, "route: part layers.0.k: 32 bytes of a local block against 28 of a remote one");
    let raw = CacheLayout::whole_region("pool", REGION, 64);
    let said = mismatch(raw, kv(), &[], RouteParts::Exact);
    assert_eq!(said, "route: cache pool is raw, cache kv is paged; a raw one goes with a raw one");
}

#[test]
fn parts_of_one_side_only_are_left_out_on_request() {
    let mut fewer = kv();
    fewer.parts.remove(1);
    let limits = Limits::default();
    let route = RouteMap::new(&build(kv()), &build(fewer), &[], RouteParts::Common, &limits).unwrap();
    assert_eq!(route.part_names().collect::<Vec<_>>(), ["layers.0.k", "layers.1.k"]);
    let named = RouteParts::Named(&["layers.0.v"]);
    let route = RouteMap::new(&build(kv()), &build(kv()), &[], named, &limits).unwrap();
    assert_eq!(route.part_names().collect::<Vec<_>>(), ["layers.0.v"]);
}

#[test]
fn a_layer_is_a_range_of_the_route() {
    let route =
        RouteMap::new(&build(kv()), &build(kv()), &[], RouteParts::Exact, &Limits::default()).unwrap();
    assert_eq!(route.range_of(|name| name.starts_with("layers.0.")), Some(0..2));
    assert_eq!(route.range_of(|name| name.ends_with(".k")), None, "layers.0.v lies between");
    let some = ids(&[1, 2, 7]);
    let scope = Scope::default().parts(0..2);
    let plan = route.plan(Op::Write, &[&some], &[&some], &scope).unwrap();
    assert_eq!((plan.total_bytes(), plan.descriptors(), plan.total_runs()), (2 * 3 * 64, 6, 4));
    assert!(route.plan(Op::Write, &[&some], &[&some], &Scope::default().parts(2..4)).is_err());
}

#[test]
fn two_peers_with_half_the_heads_each_fill_a_block() {
    let ours = build(CacheLayout::builder("kv").group("g", 1).part("k", REGION, Strided::dense(0, 64, 4)));
    let theirs = build(CacheLayout::builder("kv").group("g", 1).part("k", REGION, Strided::dense(0, 32, 4)));
    let mut written = vec![0; 64];
    for peer in 0..2 {
        // 8 tokens of 8 bytes here, of which each peer has 4.
        let half = Rect { offset: 4 * peer, rows: 8, row_bytes: 4, row_stride: 8 };
        let slices = [Slice::new("k", half, Rect::whole(32))];
        let route = RouteMap::new(&ours, &theirs, &slices, RouteParts::Exact, &Limits::default()).unwrap();
        let plan = route.plan(Op::Read, &[&ids(&[2])], &[&ids(&[1])], &Scope::default()).unwrap();
        let runs = super::all(&plan);
        assert_eq!((runs.len(), plan.total_bytes()), (8, 32));
        let (first, last) = (runs[0], runs[7]);
        assert_eq!((first.local, first.remote, first.len), (2 * 64 + 4 * peer, 32, 4));
        assert_eq!((last.local, last.remote, last.len), (2 * 64 + 4 * peer + 7 * 8, 32 + 7 * 4, 4));
        let bytes = runs.iter().flat_map(|run| run.local..run.local + u64::from(run.len));
        bytes.for_each(|byte| written[byte as usize - 2 * 64] += 1);
    }
    assert!(written.iter().all(|times| *times == 1));
}

#[test]
fn a_refused_plan_says_why() {
    let route =
        RouteMap::new(&build(kv()), &build(kv()), &[], RouteParts::Exact, &Limits::default()).unwrap();
    let said = |op, local: &[u32], remote: &[u32]| {
        let error = route.plan(op, &[&ids(local)], &[&ids(remote)], &Scope::default()).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, text) = said(Op::Read, &[1, 32], &[1, 2]);
    assert_eq!(kind, ErrorKind::OutOfBounds);
    assert_eq!(text, "plan: local block 32: group full of cache kv has 32");
    let (kind, text) = said(Op::Write, &[1, 2], &[5, 5]);
    assert_eq!(kind, ErrorKind::OutOfBounds);
    assert_eq!(text, "plan: group full: remote block 5 would be written twice");
    let (kind, text) = said(Op::Read, &[1, 2], &[5]);
    assert_eq!(kind, ErrorKind::ApiMisuse);
    assert!(text.contains("2 local ids stand for 2 kernel blocks, 1 remote ids for 1"), "{text}");
    let set = BlockSet::new(&build(kv()), &[&ids(&[1, 2])], &Limits::default()).unwrap();
    let scope = Scope::default().within(&set);
    let error = route.plan(Op::Read, &[&ids(&[1, 2, 3])], &[&ids(&[1, 2, 3])], &scope).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // The same source twice is no error.
    assert!(route.plan(Op::Read, &[&ids(&[1, 2])], &[&ids(&[5, 5])], &Scope::default()).is_ok());
}

#[test]
fn groups_that_share_memory_take_turns_in_it() {
    // Hybrid attention: one pool of blocks, two groups, an id belongs to one of them.
    let spec = CacheLayout::builder("kv")
        .group("full", 1)
        .part("layers.0", REGION, Strided::dense(0, 64, 1_000))
        .group("window", 1)
        .part("layers.1", REGION, Strided::dense(0, 64, 1_000));
    let layout = build(spec);
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let plan = |full: &[u32], window: &[u32]| {
        let lists = [ids(full), ids(window)];
        let lists = [&lists[0][..], &lists[1][..]];
        route.plan(Op::Read, &lists, &lists, &Scope::default())
    };
    assert!(plan(&[1, 2, 3], &[4, 5]).is_ok());
    assert_eq!(plan(&[1, 2, 3], &[5, 3]).unwrap_err().kind(), ErrorKind::OutOfBounds);
}

#[test]
fn parts_that_share_memory_some_blocks_apart_are_compared_that_far_apart() {
    let spec = CacheLayout::builder("kv")
        .group("full", 1)
        .part("layers.0", REGION, Strided::dense(0, 64, 100))
        .group("window", 1)
        .part("layers.1", REGION, Strided::dense(3 * 64, 64, 100));
    let layout = build(spec);
    let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &Limits::default()).unwrap();
    let plan = |full: u32, window: u32| {
        let lists = [ids(&[full]), ids(&[window])];
        let lists = [&lists[0][..], &lists[1][..]];
        route.plan(Op::Write, &lists, &lists, &Scope::default())
    };
    assert_eq!(plan(5, 2).unwrap_err().kind(), ErrorKind::OutOfBounds);
    assert!(plan(5, 5).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn a_block_set_contains_what_was_put_in(
        members in btree_set(0..300_u32, 0..60),
        far in prop::bool::ANY,
        probes in vec((0..320_u32, 1..80_u32), 20),
    ) {
        // Far apart, a bit per id would be wasteful: the other form is used.
        let scale = if far { 100_000 } else { 1 };
        let blocks = 32_000_000;
        let layout = build(CacheLayout::builder("kv").group("g", 1).part("k", REGION, Strided::dense(0, 1, blocks)));
        let list: Vec<BlockId> = members.iter().rev().map(|id| BlockId(id * scale)).collect();
        let set = BlockSet::new(&layout, &[&list], &Limits::default()).unwrap();
        prop_assert_eq!(set.len(), members.len() as u64);
        let listed: BTreeSet<u32> = set.spans(0).iter().flat_map(|span| span.ids()).map(|id| id.0 / scale).collect();
        prop_assert_eq!(&listed, &members);
        for (first, count) in probes {
            let (probe, expected) = match far {
                true => (span(first * scale, 1), members.contains(&first)),
                false => (span(first, count), (first..first + count).all(|id| members.contains(&id))),
            };
            prop_assert_eq!(set.contains(0, probe), expected);
        }
        prop_assert!(!set.contains(1, span(0, 1)));
        let again = BlockSet::from_spans(&layout, &[set.spans(0).to_vec()], &Limits::default()).unwrap();
        prop_assert_eq!(again, set);
    }

    #[test]
    fn repeated_ids_are_found(list in vec(0..400_u32, 0..40), spread in prop::bool::ANY, ordered in prop::bool::ANY) {
        let mut list = list;
        if ordered {
            list.sort_unstable();
        }
        let scale = if spread { 10_000_000 } else { 1 };
        let distinct = list.iter().collect::<BTreeSet<_>>().len() == list.len();
        let scaled: Vec<BlockId> = list.iter().map(|id| BlockId(id * scale)).collect();
        prop_assert_eq!(once::repeated(&scaled).is_none(), distinct);
        let spans: Vec<_> = scaled.iter().map(|id| span(id.0, 1)).collect();
        prop_assert_eq!(once::repeated_span(&spans).is_none(), distinct);
    }
}

#[test]
fn a_sparse_block_set_contains_whole_spans_only() {
    let layout =
        build(CacheLayout::builder("kv").group("g", 1).part("k", REGION, Strided::dense(0, 1, 9_000_000)));
    let spans = vec![span(8_000_000, 10), span(5, 4)];
    let set = BlockSet::from_spans(&layout, &[spans], &Limits::default()).unwrap();
    assert_eq!(set.spans(0), [span(5, 4), span(8_000_000, 10)]);
    for (first, count, inside) in
        [(5, 4, true), (6, 3, true), (6, 4, false), (4, 2, false), (7_999_999, 1, false)]
    {
        assert_eq!(set.contains(0, span(first, count)), inside, "{first}, {count}");
    }
    assert_eq!(set.first_outside(0, [span(8_000_009, 1), span(8_000_009, 2)]), Some(span(8_000_009, 2)));
}

#[test]
fn a_block_set_refuses_ids_that_are_unknown_or_there_twice() {
    let layout = build(kv());
    let limits = Limits::default();
    let kind = |list: &[u32]| BlockSet::new(&layout, &[&ids(list)], &limits).unwrap_err().kind();
    assert_eq!(kind(&[31, 32]), ErrorKind::OutOfBounds);
    assert_eq!(kind(&[4, 9, 4]), ErrorKind::ApiMisuse);
    let small = Limits::default().with_blocks_per_lease(2);
    let full = BlockSet::new(&layout, &[&ids(&[1, 2, 3])], &small).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full);
    let past = BlockSet::from_spans(&layout, &[vec![span(u32::MAX, u32::MAX)]], &limits).unwrap_err();
    assert_eq!(past.kind(), ErrorKind::OutOfBounds);
}
