//! Two engines with an NPU each, and blocks that do not merge: what posting many descriptors costs.
#![allow(dead_code, reason = "the test and the benchmark use parts of it")]

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Grant, Lease, LeaseOptions, NpuConfig, Plan, Rights, Route, Strided, Submit,
    TransportKind,
};
use ropeway_testkit::simulator::Simulator;

const WAIT: Duration = Duration::from_secs(60);
/// Small, so that the simulator's copies cost little beside what is measured.
pub(crate) const BLOCK: u64 = 64;
/// Blocks are apart, so that no two of them merge.
pub(crate) const STRIDE: u64 = 128;
/// Blocks of each side.
pub(crate) const BLOCKS: u32 = 16_384;

/// A connected pair.
pub(crate) struct Pair {
    _engines: [Engine; 2],
    _lease: Lease,
    grant: Grant,
    route: Route,
}

impl Pair {
    pub(crate) fn new(simulator: &Simulator, c_api: bool) -> Self {
        let side = |device: u32| {
            let npu = NpuConfig::new(device)
                .with_cann_path(simulator.root())
                .with_hccn_conf(simulator.root().join("etc/node0/hccn.conf"))
                .with_node("node0")
                .with_address([127, 0, 0, 1].into())
                .with_hold(Duration::from_millis(50))
                .with_c_api(c_api);
            let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap()).npu(npu);
            let engine = builder.transports(&[TransportKind::Hixl]).open().unwrap();
            let region = engine.alloc_npu(u64::from(BLOCKS) * STRIDE).unwrap();
            let strided = Strided { offset: 0, stride: STRIDE, block_bytes: BLOCK, blocks: BLOCKS };
            let cache: Cache =
                engine.cache("kv").group("g", 1).part("layers.0", &region, strided).publish().unwrap();
            (engine, cache)
        };
        let ((producer, source), (consumer, target)) = (side(0), side(1));
        let lease = source.lease(&[&ids(BLOCKS)], Rights::Read, LeaseOptions::default()).unwrap();
        let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
        let grant = peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
        let route = peer.route(&target, "kv", WAIT).unwrap().wait().unwrap();
        assert_eq!(route.transport(), TransportKind::Hixl);
        Self { _engines: [producer, consumer], _lease: lease, grant, route }
    }

    /// A read of the first `count` blocks, each a descriptor.
    pub(crate) fn read(&self, count: u32) -> Plan {
        let list = ids(count);
        let plan = self.route.read(&self.grant, &[&list], &[&list]).unwrap();
        assert_eq!(plan.runs(), u64::from(count));
        plan
    }
}

pub(crate) fn run(plan: &Plan) {
    plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
}

fn ids(count: u32) -> Vec<BlockId> {
    (0..count).map(BlockId).collect()
}
