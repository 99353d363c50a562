//! Plan requests and layouts: what a peer says about memory.

use bytes::BytesMut;
use ropeway_core::wire::{decode_layout, encode_layout};
use ropeway_core::{
    BlockId, CacheLayout, Cursor, LayoutSpec, Limits, Op, PlanRequest, RawCopy, RegionId, RouteMap,
    RouteParts, Run, Runs, Scope, ServedRuns, Strided,
};

const REGION_BYTES: u64 = 1 << 16;
const REGION: RegionId = RegionId { slot: 0, generation: 1 };

fn limits() -> Limits {
    Limits::default().with_parts_per_cache(16).with_blocks_per_lease(512).with_runs_per_raw_plan(64)
}

fn paged() -> CacheLayout {
    let two = RegionId { slot: 1, generation: 1 };
    let layout = CacheLayout::builder("kv")
        .group("full", 1)
        .part("layers.0.k", REGION, Strided::dense(0, 256, 64))
        .part("layers.0.v", REGION, Strided { offset: 16_384, stride: 512, block_bytes: 256, blocks: 64 })
        .group("window", 2)
        .part("layers.1.k", two, Strided::dense(128, 64, 32));
    layout.build(|_| Some(REGION_BYTES), &limits()).expect("the layout fits its regions")
}

fn raw() -> CacheLayout {
    let layout = CacheLayout::whole_region("raw", REGION, REGION_BYTES);
    layout.build(|_| Some(REGION_BYTES), &limits()).expect("the layout fits its region")
}

/// A request is served inside the owner's regions, in exactly as many bytes as it covers, or refused.
pub(super) fn request(data: &[u8]) {
    let (window, data) = data.split_first_chunk::<4>().map_or(([0; 4], data), |(first, rest)| (*first, rest));
    let Ok(request) = PlanRequest::decode(data, &limits()) else { return };
    let bytes = u64::from(u16::from_le_bytes([window[0], window[1]]));
    let start = u64::from(u16::from_le_bytes([window[2], window[3]]));
    for layout in [paged(), raw()] {
        for op in [Op::Read, Op::Write] {
            let Ok(served) = ServedRuns::new(&layout, &request, op, start, bytes, &limits()) else {
                continue;
            };
            assert_eq!(served.total_bytes(), bytes);
            let (mut at, mut sum, mut out) = (Cursor::default(), 0, [Run::default(); 8]);
            loop {
                let count = served.fill(&mut at, &mut out, u64::MAX);
                if count == 0 {
                    break;
                }
                for run in &out[..count] {
                    let end = run.local.checked_add(run.len.into());
                    assert!(run.len > 0 && end.is_some_and(|end| end <= REGION_BYTES), "{run:?}");
                    assert!(usize::from(run.local_region) < served.local_regions().len());
                    sum += u64::from(run.len);
                }
            }
            assert_eq!(sum, bytes);
        }
    }
}

/// A layout that is understood has one form, and is whole when it passes the check.
pub(super) fn layout(data: &[u8]) {
    let limits = limits();
    let Ok(spec) = decode_layout(data, &limits) else { return };
    assert_eq!(&encode_layout(&spec)[..], data);
    let Ok(layout) = spec.build(|_| Some(REGION_BYTES), &limits) else { return };
    for part in layout.parts() {
        assert!(part.strided.end().is_some_and(|end| end <= REGION_BYTES), "{part:?}");
        assert!(usize::from(part.group) < layout.groups().len());
    }
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    let mut add = |plan: &dyn Runs| {
        let bytes = u16::try_from(plan.total_bytes()).unwrap_or(u16::MAX).to_le_bytes();
        let mut out = BytesMut::from(&[bytes[0], bytes[1], 0, 0][..]);
        plan.encode(&mut out);
        corpus.push(out.to_vec());
    };
    let (paged, raw, limits) = (paged(), raw(), limits());
    let route = RouteMap::new(&paged, &paged, &[], RouteParts::Exact, &limits).expect("a layout fits itself");
    for ids in [&[1, 2, 3, 9][..], &[7], &[15, 4, 5, 6, 0]] {
        let ids: Vec<BlockId> = ids.iter().map(|&id| BlockId(id)).collect();
        let plan = route.plan(Op::Read, &[&ids, &ids], &[&ids, &ids], &Scope::default());
        add(&plan.expect("ids of the layout"));
    }
    let route = RouteMap::new(&raw, &raw, &[], RouteParts::Exact, &limits).expect("a layout fits itself");
    let copies =
        [RawCopy { local: 0, remote: 64, len: 128 }, RawCopy { local: 4_096, remote: 512, len: 1_000 }];
    add(&route.raw(Op::Write, &copies, &Scope::default()).expect("copies inside the region"));
    corpus
}

pub(super) fn layouts() -> Vec<Vec<u8>> {
    let specs: [LayoutSpec; 2] = [paged().spec().clone(), raw().spec().clone()];
    specs.iter().map(|spec| encode_layout(spec).to_vec()).collect()
}
