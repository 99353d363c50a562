//! Two engines on NPUs of the software CANN that are linked by HCCL.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Grant, Lease, LeaseOptions, NpuConfig, Peer, Rights, Route, Strided, Submit,
    TransportKind,
};
use ropeway_core::Op;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;

pub(crate) const WAIT: Duration = Duration::from_secs(60);
pub(crate) const BLOCK: u64 = 4096;
pub(crate) const BLOCKS: u32 = 64;
pub(crate) const BYTES: u64 = BLOCK * BLOCKS as u64;

pub(crate) fn simulator(test: &str) -> Option<&'static Simulator> {
    Simulator::start(&SimCann::default()).map_err(|why| cannot_run(test, &why)).ok()
}

pub(crate) struct Side {
    pub(crate) engine: Engine,
    pub(crate) cache: Cache,
    pub(crate) region: ropeway::Region,
}

pub(crate) fn side(simulator: &Simulator, device: u32) -> Side {
    let npu = NpuConfig::new(device)
        .with_cann_path(simulator.root())
        .with_node("node0")
        .with_transfer_timeout(Duration::from_millis(500))
        .with_hold(Duration::from_millis(50));
    let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap()).npu(npu);
    let engine = builder.transports(&[TransportKind::Hccl]).open().unwrap();
    let region = engine.alloc_npu(u64::from(BLOCKS) * BLOCK).unwrap();
    let strided = Strided::dense(0, BLOCK, BLOCKS);
    let cache = engine.cache("kv").group("g", 1).part("p", &region, strided).publish().unwrap();
    Side { engine, cache, region }
}

pub(crate) fn ids() -> Vec<BlockId> {
    (0..BLOCKS).map(BlockId).collect()
}

pub(crate) struct Pair {
    pub(crate) peer: Peer,
    _lease: Lease,
    grant: Grant,
    route: Route,
}

pub(crate) fn join(from: &Side, to: &Side, rights: Rights) -> ropeway_core::Result<Pair> {
    let lease = to.cache.lease(&[&ids()], rights, LeaseOptions::default())?;
    let peer = from.engine.connect(&to.engine.descriptor(), WAIT)?.wait()?;
    let grant = peer.claim(&lease.token(), WAIT)?.wait()?;
    let route = peer.route(&from.cache, "kv", WAIT)?.wait()?;
    Ok(Pair { peer, _lease: lease, grant, route })
}

/// Runs one transfer of all blocks, and gives its end.
pub(crate) fn transfer(pair: &Pair, op: Op) -> ropeway_core::Result<()> {
    let plan = match op {
        Op::Read => pair.route.read(&pair.grant, &[&ids()], &[&ids()]),
        Op::Write => pair.route.write(&pair.grant, &[&ids()], &[&ids()]),
    };
    plan.unwrap().submit(Submit::default()).unwrap().wait(WAIT).unwrap().map(drop)
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "{what}: not so after {WAIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long a rank that is left alone in the library may hold the NPU's turn: HCCL_CONNECT_TIMEOUT and 20 s, and some more.
const ALONE: Duration = Duration::from_secs(300);

/// The peer may still be told lost when the next connect comes; and on a busy machine the other rank may come to the library
/// only when this one has given up, and wait there alone.
pub(crate) fn again(one: &Side, two: &Side, rights: Rights) -> Pair {
    let start = std::time::Instant::now();
    loop {
        match join(one, two, rights) {
            Ok(pair) => return pair,
            Err(error) => assert!(start.elapsed() < ALONE, "no link after a hang: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
