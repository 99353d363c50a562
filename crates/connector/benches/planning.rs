//! What a request costs from block ids to a posted plan: a 128k-token prompt of DeepSeek-V3, 1,000 pairs of blocks, 61
//! layers, latent and rope apart.
//!
//! Target: under 1 ms, whatever the ids. Runs expand later, as the link goes through them, and are not counted. A token
//! has 9 bytes in a layer here, not 1,152, so that the caches fit a small machine; no step's cost depends on it. A posted
//! plan waits for an event that does not come, so that no copy is measured.
#![expect(missing_docs, reason = "criterion_group! makes a public function without any")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ropeway::{
    BlockId, Cache, Engine, Event, Grant, Host, Lease, LeaseOptions, Limits, Parts, Peer, Pending, Region,
    Rights, Route, RouteOptions, Start, Submit,
};
use ropeway_connector::ids::{Ids, Request};
use ropeway_connector::layout::{Axis, CacheSpec, Format, GroupInfo, Heads, Shard, View};
use ropeway_connector::ranks::{Rank, RankMap, Side, Topology, request_key};

const WAIT: Duration = Duration::from_secs(60);
const LAYERS: u32 = 61;
const BLOCK_TOKENS: u32 = 128;
const POOL: u32 = 1_250;
const PAIRS: u32 = 1_000;

fn spec() -> (CacheSpec, u64) {
    let mut end = 0;
    let mut views = Vec::new();
    for layer in 0..LAYERS {
        for (plane, content) in [("latent", 8), ("rope", 1)] {
            let block = u64::from(BLOCK_TOKENS) * content;
            views.push(View {
                layer,
                plane: plane.into(),
                group: 0,
                storage: 0,
                offset: end,
                element_bytes: 1,
                shape: vec![POOL.into(), BLOCK_TOKENS.into(), 1, content],
                strides: vec![block, content, content, 1],
                axes: vec![Axis::Block, Axis::Slot, Axis::Head, Axis::Content],
                heads: Heads::Replicated,
                format: Format::Rows,
            });
            end += block * u64::from(POOL);
        }
    }
    let spec = CacheSpec::new(vec![GroupInfo::full(0, BLOCK_TOKENS)], &views, &[end], Shard::WHOLE);
    (spec.expect("the views are sound"), end)
}

/// A worker with its cache published.
struct Worker {
    engine: Engine,
    _region: Region,
    cache: Cache,
}

impl Worker {
    fn open(spec: &CacheSpec, bytes: u64) -> Self {
        let builder = Engine::builder().listen(([127, 0, 0, 1], 0).into()).limits(Limits::default());
        let engine = builder.open().expect("an engine");
        let region = engine.alloc(Host::private(bytes)).expect("a region");
        let mut cache = engine.cache("kv");
        for (index, group) in spec.groups().iter().enumerate() {
            cache = cache.group(&group.info.name, 1);
            for part in spec.parts().iter().filter(|part| part.group == index) {
                cache = cache.part(&part.name, &region, part.strided);
            }
        }
        let cache = cache.publish().expect("the parts are sound");
        Self { engine, _region: region, cache }
    }
}

/// Everything that is made once.
struct Pair {
    map: RankMap,
    route: Route,
    grant: Grant,
    _lease: Lease,
    _peer: Peer,
    _workers: [Worker; 2],
}

impl Pair {
    fn new(remote: &[u32]) -> Self {
        let (spec, bytes) = spec();
        let side = Side { topology: Topology::tensor(1), layers: LAYERS, stages: vec![spec.shape()] };
        let rank = Rank { pp: 0, pcp: 0, tp: 0 };
        let (producer, consumer) = (Worker::open(&spec, bytes), Worker::open(&spec, bytes));
        let leased = spec.kernel_blocks(&[remote.to_vec()]).expect("ids of the pool");
        let map = RankMap::new(spec, side.clone(), side, rank, 0).expect("they fit");
        let lease = producer.cache.lease(&[&leased[0]], Rights::Read, LeaseOptions::default());
        let lease = lease.expect("a lease");
        let peer = consumer.engine.connect(&producer.engine.descriptor(), WAIT);
        let peer = peer.and_then(Pending::wait).expect("a peer");
        let grant = peer.claim(&lease.token(), WAIT).and_then(Pending::wait).expect("a grant");
        let pulls = map.pulls(request_key("warm")).expect("they fit");
        let share = &pulls[0].shares[0];
        let mut options = RouteOptions::default().parts(Parts::Named(share.parts.clone()));
        for slice in &share.slices {
            options = options.slice(slice.clone());
        }
        let route = peer.route_with(&consumer.cache, "kv", options, WAIT).and_then(Pending::wait);
        let route = route.expect("a route");
        Self { map, route, grant, _lease: lease, _peer: peer, _workers: [producer, consumer] }
    }

    fn ids(&self, local: &[Vec<u32>], remote: &[Vec<u32>]) -> Ids {
        let tokens = 0..u64::from(PAIRS * BLOCK_TOKENS);
        let pulls = self.map.pulls(request_key("cmpl-1")).expect("they fit");
        pulls[0].shares[0].ids(&Request { local, remote, tokens }).expect("the ids cover the prompt")
    }

    fn plan(&self, ids: &Ids) -> ropeway::Plan {
        fn lists(lists: &[Vec<BlockId>]) -> Vec<&[BlockId]> {
            lists.iter().map(Vec::as_slice).collect()
        }
        self.route.read(&self.grant, &lists(&ids.local), &lists(&ids.remote)).expect("the ids are sound")
    }
}

/// Ids of the pool in an order that leaves no two neighbours together, or as they come.
fn list(apart: bool, step: u32) -> Vec<u32> {
    // Prime to the pool's size, so that it meets each id once.
    let step = if apart { step } else { 1 };
    (0..PAIRS).map(|at| at * step % POOL).collect()
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("128k tokens of DeepSeek-V3");
    for (name, apart) in [("ids apart", true), ("ids in a row", false)] {
        let (local, remote) = (vec![list(apart, 737)], vec![list(apart, 493)]);
        let pair = Pair::new(&remote[0]);
        let ids = pair.ids(&local, &remote);
        group.bench_function(format!("{name}: from block ids to kernel blocks"), |b| {
            b.iter(|| pair.ids(black_box(&local), black_box(&remote)));
        });
        group.bench_function(format!("{name}: from kernel blocks to a plan"), |b| {
            b.iter(|| pair.plan(black_box(&ids)));
        });
        group.bench_function(format!("{name}: from block ids to a posted plan"), |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let event = Event::new();
                    let begun = Instant::now();
                    let plan = pair.plan(&pair.ids(black_box(&local), black_box(&remote)));
                    let transfer = plan.submit(Submit::default().start(Start::AfterEvent(event.clone())));
                    spent += begun.elapsed();
                    let transfer = transfer.expect("posted");
                    transfer.cancel();
                    let ended = transfer.wait(WAIT).expect("in time");
                    assert!(ended.is_err(), "nothing was to be copied");
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, planning);
criterion_main!(benches);
