//! Two engines in one process, connected over one transport.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Grant, Host, Lease, LeaseOptions, Op, Peer, Plan, Region, Rights, Route,
};
use ropeway::{Calibration, Strided, TransportKind};

pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// A producer and a consumer with one cache each, and a lease on all of the producer's blocks.
pub(crate) struct Pair {
    _engines: [Engine; 2],
    _regions: [Region; 2],
    _caches: [Cache; 2],
    _peer: Peer,
    _lease: Lease,
    pub(crate) grant: Grant,
    pub(crate) route: Route,
}

impl Pair {
    /// `blocks` blocks of `block` bytes, `gap` bytes apart (0: neighbours merge).
    pub(crate) fn new(
        kind: TransportKind,
        block: u64,
        blocks: u32,
        gap: u64,
        calibration: Option<Calibration>,
    ) -> Self {
        let open = || {
            let mut builder = Engine::builder().listen(([127, 0, 0, 1], 0).into()).transports(&[kind]);
            if let Some(calibration) = calibration {
                builder = builder.calibration(calibration);
            }
            let engine = builder.open().expect("an engine");
            let stride = block + gap;
            let region = engine.alloc(Host::shared(stride * u64::from(blocks))).expect("a region");
            let strided = Strided { offset: 0, stride, block_bytes: block, blocks };
            let cache = engine.cache("kv").group("g0", 1).part("layers.0.kv", &region, strided);
            (engine, region, cache.publish().expect("a cache"))
        };
        let ((producer, theirs, source), (consumer, ours, target)) = (open(), open());
        let ids: Vec<BlockId> = (0..blocks).map(BlockId).collect();
        let options = LeaseOptions::default();
        let lease = source.lease(&[&ids], Rights::Read, options).expect("a lease");
        let peer =
            consumer.connect(&producer.descriptor(), WAIT).and_then(ropeway::Pending::wait).expect("a peer");
        let grant = peer.claim(&lease.token(), WAIT).and_then(ropeway::Pending::wait).expect("a grant");
        let route = peer.route(&target, "kv", WAIT).and_then(ropeway::Pending::wait).expect("a route");
        Self {
            _engines: [producer, consumer],
            _regions: [theirs, ours],
            _caches: [source, target],
            _peer: peer,
            _lease: lease,
            grant,
            route,
        }
    }

    /// A read of the first `count` blocks.
    pub(crate) fn read(&self, count: u32) -> Plan {
        let ids: Vec<BlockId> = (0..count).map(BlockId).collect();
        self.route.plan(Op::Read, &self.grant, None, &[&ids], &[&ids]).expect("a plan")
    }
}

/// Submits and waits.
pub(crate) fn run(plan: &Plan) {
    let transfer = plan.submit(ropeway::Submit::default()).expect("submitted");
    transfer.wait(WAIT).expect("in time").expect("completed");
}
