//! Nothing is allocated per descriptor: not in planning, not in expansion, not on the way through a transport.
//!
//! One test only: the counter sees every thread of the process.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Grant, Host, Lease, LeaseOptions, Rights, Route, Strided, Submit, TransportKind,
};
use ropeway_core::{
    Cursor, Limits, Op, PlanRequest, RegionId, RouteMap, RouteParts, Run, Runs, Scope, ServedRuns,
};
use ropeway_testkit::allocations::{Counting, fewest};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 256;
/// Blocks are apart, so that no two of them merge.
const STRIDE: u64 = 320;
const FEW: u32 = 16;
const MANY: u32 = 16_384;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn ids(count: u32) -> Vec<BlockId> {
    (0..count).map(BlockId).collect()
}

#[test]
fn nothing_is_allocated_per_descriptor() {
    plans();
    for kind in [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp] {
        transfers(kind);
    }
}

fn plans() {
    let limits = Limits::default();
    let cost = |parts: u32, count: u32| {
        let region = RegionId { slot: 0, generation: 1 };
        let bytes = u64::from(MANY) * STRIDE;
        let spec = (0..parts).fold(ropeway::CacheLayout::builder("kv").group("g", 1), |spec, part| {
            let strided =
                Strided { offset: u64::from(part) * bytes, stride: STRIDE, block_bytes: BLOCK, blocks: MANY };
            spec.part(format!("layers.{part}"), region, strided)
        });
        let layout = spec.build(|_| Some(u64::MAX), &limits).unwrap();
        let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &limits).unwrap();
        let list = ids(count);
        let plan = || route.plan(Op::Write, &[&list], &[&list], &Scope::default()).unwrap();
        let planned = plan();
        let mut request = bytes::BytesMut::new();
        planned.encode(&mut request);
        let request = PlanRequest::decode(&request, &limits).unwrap();
        let serve =
            || ServedRuns::new(&layout, &request, Op::Read, 0, planned.total_bytes(), &limits).unwrap();
        let served = serve();
        assert_eq!(fewest(|| drain(&planned)), 0, "expansion");
        assert_eq!(fewest(|| drain(&served)), 0, "the served half's expansion");
        (fewest(|| drop(plan())), fewest(|| drop(serve())))
    };
    let least = cost(2, FEW);
    assert!(least.0 < 20 && least.1 < 30, "{least:?}");
    let more = cost(200, MANY);
    // A list that grows by doubling is no allocation per item.
    assert!(more.0 <= least.0 + 16 && more.1 <= least.1 + 32, "{least:?} {more:?}");
}

fn drain(runs: &dyn Runs) {
    let mut some = [Run::default(); 64];
    let mut at = Cursor::default();
    while runs.fill(&mut at, &mut some, u64::MAX) > 0 {}
    std::hint::black_box(runs.seek(runs.total_bytes() / 2));
}

struct Pair {
    _engines: [Engine; 2],
    _lease: Lease,
    grant: Grant,
    route: Route,
}

fn pair(kind: TransportKind) -> Pair {
    let side = || {
        let engine =
            Engine::builder().listen("127.0.0.1:0".parse().unwrap()).transports(&[kind]).open().unwrap();
        let bytes = u64::from(MANY) * STRIDE;
        let host = if kind == TransportKind::Shm { Host::shared(bytes) } else { Host::private(bytes) };
        let region = engine.alloc(host).unwrap();
        let strided = Strided { offset: 0, stride: STRIDE, block_bytes: BLOCK, blocks: MANY };
        let cache: Cache =
            engine.cache("kv").group("g", 1).part("layers.0", &region, strided).publish().unwrap();
        (engine, cache)
    };
    let ((producer, source), (consumer, target)) = (side(), side());
    let lease = source.lease(&[&ids(MANY)], Rights::Read, LeaseOptions::default()).unwrap();
    let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
    let grant = peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
    let route = peer.route(&target, "kv", WAIT).unwrap().wait().unwrap();
    assert_eq!(route.transport(), kind);
    Pair { _engines: [producer, consumer], _lease: lease, grant, route }
}

fn transfers(kind: TransportKind) {
    let pair = pair(kind);
    let cost = |count: u32| {
        let list = ids(count);
        let plan = pair.route.read(&pair.grant, &[&list], &[&list]).unwrap();
        assert_eq!(plan.runs(), u64::from(count));
        fewest(|| {
            let report = plan.submit(Submit::default()).unwrap().wait(WAIT).expect("done in time").unwrap();
            assert_eq!(report.bytes, u64::from(count) * BLOCK);
        })
    };
    let (few, many) = (cost(FEW), cost(MANY));
    assert!(many < few + 64, "{kind}: {few} for {FEW} descriptors, {many} for {MANY}");
}
