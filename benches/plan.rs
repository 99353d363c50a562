//! What plans cost: building per id pair, expansion per run, and the compact request.
//!
//! Targets: at most 10 ns per id pair to build, with the grant check and the written-once proof; at most 20 ns per
//! merged run from submit to completion, of which expansion may take a part.
#![expect(missing_docs, reason = "criterion_group! makes a public function without any")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ropeway_core::{
    BlockId, BlockSet, CacheLayout, Cursor, Limits, Op, PlanRequest, RawCopy, Rect, RegionId, RouteMap,
    RouteParts, Run, Runs, Scope, ServedRuns, Slice, Strided,
};

const LAYERS: u64 = 61;
const BLOCKS: u32 = 65_536;

/// Latent and rope parts of 61 layers; `pad` bytes between blocks.
fn layout(pad: u64, ratio: u32) -> CacheLayout {
    let mut spec = CacheLayout::builder("kv").group("full", ratio);
    for layer in 0..LAYERS {
        for (plane, block_bytes) in [131_072, 16_384].into_iter().enumerate() {
            let region = RegionId { slot: (2 * layer) as u32 + plane as u32, generation: 1 };
            let strided = Strided { offset: 0, stride: block_bytes + pad, block_bytes, blocks: BLOCKS };
            spec = spec.part(format!("layers.{layer}.{plane}"), region, strided);
        }
    }
    spec.build(|_| Some(1 << 40), &Limits::default()).expect("the layout is sound")
}

fn route(pad: u64, slices: &[Slice]) -> RouteMap {
    let (local, remote) = (layout(pad, 1), layout(pad, 1));
    RouteMap::new(&local, &remote, slices, RouteParts::Exact, &Limits::default()).expect("the layouts fit")
}

/// Ids as a block manager would give them: runs of `run` consecutive ids, shuffled by a fixed rule.
fn ids(count: u32, run: u32) -> Vec<BlockId> {
    let runs = count.div_ceil(run);
    // An odd multiplier permutes the power-of-two range of slots.
    let slots = (BLOCKS / (run + 1)).next_power_of_two() / 2;
    let mut ids: Vec<BlockId> = (0..runs)
        .map(|at| at.wrapping_mul(40_503) % slots * (run + 1))
        .flat_map(|first| (first..first + run).map(BlockId))
        .collect();
    ids.truncate(count as usize);
    ids
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build plan, per id pair");
    let route = route(0, &[]);
    let layout = layout(0, 1);
    for (name, count, run) in [
        ("1 id", 1, 1),
        ("64 consecutive", 64, 64),
        ("64 apart", 64, 1),
        ("8192 consecutive", 8_192, 8_192),
        ("8192 in fours", 8_192, 4),
        ("8192 apart", 8_192, 1),
    ] {
        let list = ids(count, run);
        let set = BlockSet::new(&layout, &[&list], &Limits::default()).expect("distinct");
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(BenchmarkId::new("read, granted", name), |b| {
            let scope = Scope::default().within(&set);
            b.iter(|| route.plan(Op::Read, black_box(&[&list]), black_box(&[&list]), &scope).expect("sound"));
        });
    }
    let list = ids(8_192, 1);
    group.throughput(Throughput::Elements(8_192));
    group.bench_function("write, no grant/8192 apart", |b| {
        let scope = Scope::default();
        b.iter(|| route.plan(Op::Write, black_box(&[&list]), black_box(&[&list]), &scope).expect("sound"));
    });
    group.finish();
}

fn ratios(c: &mut Criterion) {
    let mut group = c.benchmark_group("build plan, per id pair");
    let (fine, coarse) = (layout(0, 1), layout(0, 4));
    let route =
        RouteMap::new(&fine, &coarse, &[], RouteParts::Exact, &Limits::default()).expect("the layouts fit");
    let theirs = ids(2_048, 1).into_iter().map(|id| BlockId(id.0 % (BLOCKS / 4))).collect::<Vec<_>>();
    let ours = ids(8_192, 1);
    group.throughput(Throughput::Elements(8_192));
    group.bench_function("ratios 1 and 4/8192 apart", |b| {
        let scope = Scope::default();
        b.iter(|| route.plan(Op::Read, black_box(&[&ours]), black_box(&[&theirs]), &scope).expect("sound"));
    });
    group.finish();
}

/// Expands everything, 256 runs at a time, as a transport does.
fn drain(runs: &dyn Runs, out: &mut [Run; 256]) -> u64 {
    let mut at = Cursor::default();
    let mut count = 0;
    loop {
        let filled = runs.fill(&mut at, out, u64::MAX);
        black_box(&out);
        if filled == 0 {
            return count;
        }
        count += filled as u64;
    }
}

fn expand(c: &mut Criterion) {
    let mut group = c.benchmark_group("fill, per run");
    let rect = Rect { offset: 0, rows: 128, row_bytes: 64, row_stride: 128 };
    let names = (0..LAYERS).flat_map(|layer| (0..2).map(move |plane| format!("layers.{layer}.{plane}")));
    let slices: Vec<Slice> = names.map(|name| Slice::new(name, rect, rect)).collect();
    for (name, route, list) in [
        ("dense, apart", route(0, &[]), ids(64, 1)),
        ("dense, in fours", route(0, &[]), ids(256, 4)),
        ("padded, consecutive", route(256, &[]), ids(64, 64)),
        ("padded, apart", route(256, &[]), ids(64, 1)),
        ("one id, 122 parts", route(0, &[]), ids(1, 1)),
        ("rows", route(0, &slices), ids(4, 1)),
    ] {
        let plan = route.plan(Op::Read, &[&list], &[&list], &Scope::default()).expect("sound");
        group.throughput(Throughput::Elements(plan.total_runs()));
        let mut out = [Run::default(); 256];
        group.bench_function(name, |b| b.iter(|| drain(black_box(&plan), &mut out)));
    }
    let plan =
        route(0, &[]).plan(Op::Read, &[&ids(64, 1)], &[&ids(64, 1)], &Scope::default()).expect("sound");
    group.throughput(Throughput::Elements(plan.total_runs()));
    let mut out = [Run::default(); 256];
    group.bench_function("dense, apart, 1 MiB chunks", |b| {
        b.iter(|| {
            let mut byte = 0;
            while byte < plan.total_bytes() {
                let mut at = plan.seek(byte);
                black_box(plan.fill(&mut at, &mut out, 1 << 20));
                byte += 1 << 20;
            }
        });
    });
    group.finish();
}

fn request(c: &mut Criterion) {
    let mut group = c.benchmark_group("request, per id");
    let layout = layout(0, 1);
    let route = route(0, &[]);
    for (name, list) in
        [("64 apart", ids(64, 1)), ("8192 apart", ids(8_192, 1)), ("8192 in fours", ids(8_192, 4))]
    {
        let plan = route.plan(Op::Read, &[&list], &[&list], &Scope::default()).expect("sound");
        let mut bytes = BytesMut::new();
        plan.encode(&mut bytes);
        let decoded = PlanRequest::decode(&bytes, &Limits::default()).expect("our own");
        group.throughput(Throughput::Elements(list.len() as u64));
        let mut out = BytesMut::with_capacity(bytes.len());
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| {
                out.clear();
                black_box(&plan).encode(&mut out);
            });
        });
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| PlanRequest::decode(black_box(&bytes), &Limits::default()).expect("our own"));
        });
        for (what, op) in [("serve read", Op::Read), ("serve write", Op::Write)] {
            group.bench_function(BenchmarkId::new(what, name), |b| {
                let limits = Limits::default();
                b.iter(|| {
                    ServedRuns::new(&layout, black_box(&decoded), op, 0, plan.total_bytes(), &limits)
                        .expect("sound")
                });
            });
        }
    }
    group.finish();
}

fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("raw plan, per copy");
    let region = RegionId { slot: 0, generation: 1 };
    let pool = CacheLayout::whole_region("pool", region, 1 << 30);
    let pool = pool.build(|_| Some(1 << 30), &Limits::default()).expect("the layout is sound");
    let route = RouteMap::new(&pool, &pool, &[], RouteParts::Exact, &Limits::default()).expect("alike");
    let list = ids(8_192, 1);
    let copies: Vec<RawCopy> = list
        .iter()
        .map(|id| RawCopy { local: u64::from(id.0) * 4_096, remote: u64::from(id.0) * 8_192, len: 4_096 })
        .collect();
    group.throughput(Throughput::Elements(copies.len() as u64));
    group.bench_function("build, 8192 apart", |b| {
        b.iter(|| route.raw(Op::Read, black_box(&copies), &Scope::default()).expect("sound"));
    });
    let plan = route.raw(Op::Read, &copies, &Scope::default()).expect("sound");
    let mut out = [Run::default(); 256];
    group.bench_function("fill, 8192 apart", |b| b.iter(|| drain(black_box(&plan), &mut out)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = build, ratios, expand, request, raw
}
criterion_main!(benches);
