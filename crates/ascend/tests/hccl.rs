//! Faults of HCCL, from the engine's side.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Grant, Lease, LeaseOptions, NpuConfig, Peer, Rights, Route, Strided, Submit,
    TransportKind,
};
use ropeway_core::Quiet;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const BLOCKS: u32 = 64;

fn simulator(test: &str) -> Option<&'static Simulator> {
    Simulator::start(&SimCann::default()).map_err(|why| cannot_run(test, &why)).ok()
}

struct Side {
    engine: Engine,
    cache: Cache,
    region: ropeway::Region,
}

fn side(simulator: &Simulator, device: u32) -> Side {
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

fn ids() -> Vec<BlockId> {
    (0..BLOCKS).map(BlockId).collect()
}

struct Pair {
    _peer: Peer,
    _lease: Lease,
    grant: Grant,
    route: Route,
}

fn join(from: &Side, to: &Side, rights: Rights) -> ropeway_core::Result<Pair> {
    let lease = to.cache.lease(&[&ids()], rights, LeaseOptions::default())?;
    let peer = from.engine.connect(&to.engine.descriptor(), WAIT)?.wait()?;
    let grant = peer.claim(&lease.token(), WAIT)?.wait()?;
    let route = peer.route(&from.cache, "kv", WAIT)?.wait()?;
    Ok(Pair { _peer: peer, _lease: lease, grant, route })
}

#[test]
fn a_hang_breaks_its_communicator_in_bounded_time_and_a_new_one_works() {
    let Some(simulator) = simulator("hccl: hang") else { return };
    let alone = simulator.alone();
    let (one, two) = (side(simulator, 0), side(simulator, 1));
    for op in ["send", "receive"] {
        let pair = join(&one, &two, Rights::Read).unwrap();
        alone.faults(&format!("hang op={op}"));
        let plan = pair.route.read(&pair.grant, &[&ids()], &[&ids()]).unwrap();
        let error = plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap_err();
        // The owner's permit is held as long as the stream may run, and the engine says so.
        assert_eq!(error.remote(), Quiet::AfterClose, "{error}");
        alone.faults("");
        drop((plan, pair));
        two.region.write(0, &[7; 4096]).unwrap();
        let pair = again(&one, &two);
        let plan = pair.route.read(&pair.grant, &[&ids()], &[&ids()]).unwrap();
        plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
        let mut got = [0; 4096];
        one.region.read(0, &mut got).unwrap();
        assert_eq!(got, [7; 4096]);
    }
}

/// The peer may still be told lost when the next connect comes.
fn again(one: &Side, two: &Side) -> Pair {
    let start = std::time::Instant::now();
    loop {
        match join(one, two, Rights::Read) {
            Ok(pair) => return pair,
            Err(error) => assert!(start.elapsed() < WAIT, "no link after a hang: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn host_memory_is_refused_with_what_to_do() {
    let Some(simulator) = simulator("hccl: host memory") else { return };
    let _shared = simulator.shared();
    let (one, two) = (side(simulator, 2), side(simulator, 3));
    let host = one.engine.alloc(ropeway::Host::private(u64::from(BLOCKS) * BLOCK)).unwrap();
    let cache = one
        .engine
        .cache("host")
        .group("g", 1)
        .part("p", &host, Strided::dense(0, BLOCK, BLOCKS))
        .publish()
        .unwrap();
    let peer = one.engine.connect(&two.engine.descriptor(), WAIT).unwrap().wait().unwrap();
    let error = peer.route(&cache, "kv", WAIT).and_then(ropeway::Pending::wait).err().unwrap();
    assert!(error.message().contains("NPU"), "{error}");
}
