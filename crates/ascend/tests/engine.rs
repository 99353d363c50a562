//! Whole engines on the software CANN: order after compute streams, the way that is chosen, the end of NPUs.

mod common;

use std::time::Duration;

use common::{Gate, WAIT, simulator, stream_and_event};
use ropeway::{
    BlockId, Cache, Engine, Event, Grant, Host, Lease, LeaseOptions, NpuConfig, Peer, Region, Rights, Route,
    Start, Strided, Submit, TransportKind,
};
use ropeway_ascend::HbmMemory;
use ropeway_testkit::simulator::Simulator;

const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 8;
const BYTES: usize = (BLOCK * BLOCKS as u64) as usize;

fn engine(simulator: &Simulator, device: u32) -> Engine {
    let npu = NpuConfig::new(device)
        .with_cann_path(simulator.root())
        .with_hccn_conf(simulator.root().join("etc/node0/hccn.conf"))
        .with_address([127, 0, 0, 1].into())
        .with_ports(ports())
        .with_node("node0")
        .with_hold(Duration::from_millis(50));
    let here = "127.0.0.1:0".parse().unwrap();
    Engine::builder().listen(here).npu(npu).open().unwrap()
}

/// Of this process alone, below the ports that the system gives out.
fn ports() -> std::ops::RangeInclusive<u16> {
    let first = 20_000 + (std::process::id() % 600) as u16 * 16;
    first..=first + 15
}

/// Two engines on two NPUs of one node, with a cache `kv` in HBM each.
struct Pair {
    producer: Engine,
    consumer: Engine,
    from: Region,
    into: Region,
    theirs: Cache,
    ours: Cache,
    peer: Peer,
}

fn dense(engine: &Engine, name: &str, region: &Region) -> Cache {
    let strided = Strided::dense(0, BLOCK, BLOCKS);
    engine.cache(name).group("g0", 1).part("p", region, strided).publish().unwrap()
}

impl Pair {
    fn new(simulator: &Simulator) -> Self {
        let (producer, consumer) = (engine(simulator, 1), engine(simulator, 0));
        let from = producer.alloc_npu(BYTES as u64).unwrap();
        let into = consumer.alloc_npu(BYTES as u64).unwrap();
        let (theirs, ours) = (dense(&producer, "kv", &from), dense(&consumer, "kv", &into));
        let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
        Self { producer, consumer, from, into, theirs, ours, peer }
    }

    fn route(&self) -> Route {
        self.peer.route(&self.ours, "kv", WAIT).unwrap().wait().unwrap()
    }

    fn lease(&self, options: LeaseOptions) -> Lease {
        self.theirs.lease(&[&ids()], Rights::Read, options).unwrap()
    }

    fn claim(&self, lease: &Lease) -> Grant {
        self.peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap()
    }

    fn load(&self, grant: &Grant, start: Start) {
        let plan = self.route().read(grant, &[&ids()], &[&ids()]).unwrap();
        plan.submit(Submit::default().start(start)).unwrap().wait(WAIT).expect("ends").unwrap();
    }

    fn close(self) {
        let Self { producer, consumer, from, into, theirs, ours, peer } = self;
        drop((peer, theirs, ours, from, into));
        for engine in [consumer, producer] {
            assert_eq!(engine.close(WAIT).unwrap().held, Vec::<String>::new());
        }
    }
}

fn ids() -> Vec<BlockId> {
    (0..BLOCKS).map(BlockId).collect()
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    region.read(0, &mut bytes).unwrap();
    bytes
}

/// A kernel on a compute stream that writes the whole region late, and the event behind it.
fn late_kernel(simulator: &Simulator, engine: &Engine, region: u64, seed: u64) -> (Gate, Event) {
    let npu = engine.npu().unwrap();
    let gate = Gate::new(npu);
    let (stream, event) = stream_and_event(npu);
    gate.close(npu, &stream);
    let on = npu.device().enter().unwrap();
    simulator.late_write(stream.raw(), region, BYTES, seed, 20);
    stream.record(&on, &event).unwrap();
    let raw = event.raw();
    // SAFETY: the event, and the stream that it was recorded on, are the keep-alive.
    let event = unsafe { engine.npu_event(raw, Box::new((event, stream))) }.unwrap();
    (gate, event)
}

/// A region over memory whose address the test knows.
fn known_region(engine: &Engine) -> (Region, u64) {
    let memory = engine.npu().unwrap().alloc(BYTES as u64).unwrap();
    let address = HbmMemory::of(&memory).unwrap().begin();
    // SAFETY: the keep-alive is the memory.
    let region = unsafe { engine.register_npu(address, BYTES as u64, Box::new(memory)) }.unwrap();
    (region, address)
}

/// What a consumer gets of blocks that the producer's compute stream writes late.
fn pulled_under_a_late_write(simulator: &Simulator, fenced: bool) -> (Vec<u8>, Vec<u8>) {
    let (producer, consumer) = (engine(simulator, 1), engine(simulator, 0));
    let (from, address) = known_region(&producer);
    let into = consumer.alloc_npu(BYTES as u64).unwrap();
    let (theirs, ours) = (dense(&producer, "kv", &from), dense(&consumer, "kv", &into));
    let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
    let pair = Pair { producer, consumer, from, into, theirs, ours, peer };
    pair.from.fill(0, BYTES as u64, 0x11).unwrap();
    let (gate, event) = late_kernel(simulator, &pair.producer, address, 7);
    let options = LeaseOptions::default();
    let options = if fenced { options.start(Start::AfterEvent(event)) } else { options };
    let lease = pair.lease(options);
    let opened = |gate: &Gate| gate.open(pair.producer.npu().unwrap());
    if fenced {
        opened(&gate);
        pair.load(&pair.claim(&lease), Start::Now);
    } else {
        pair.load(&pair.claim(&lease), Start::Now);
        opened(&gate);
    }
    let seen = contents(&pair.into);
    drop(lease);
    pair.close();
    (seen, simulator.pattern(7, BYTES))
}

#[test]
fn a_lease_that_waits_for_the_producers_stream_shows_what_its_late_kernel_wrote() {
    let Some(simulator) = simulator("producer's fence") else { return };
    let _shared = simulator.shared();
    let (seen, written) = pulled_under_a_late_write(simulator, true);
    assert!(seen == written, "blocks were pulled before the kernel had written them");
}

#[test]
fn without_the_producers_fence_the_old_bytes_are_pulled() {
    let Some(simulator) = simulator("no producer's fence") else { return };
    let _shared = simulator.shared();
    let (seen, _) = pulled_under_a_late_write(simulator, false);
    assert!(seen.iter().all(|byte| *byte == 0x11), "the test of the fence has teeth");
}

/// What is left of a load into blocks that the consumer's own compute stream still writes.
fn loaded_under_a_late_write(simulator: &Simulator, fenced: bool) -> Vec<u8> {
    let (producer, consumer) = (engine(simulator, 1), engine(simulator, 0));
    let from = producer.alloc_npu(BYTES as u64).unwrap();
    let (into, address) = known_region(&consumer);
    let (theirs, ours) = (dense(&producer, "kv", &from), dense(&consumer, "kv", &into));
    let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
    let pair = Pair { producer, consumer, from, into, theirs, ours, peer };
    pair.from.fill(0, BYTES as u64, 0x22).unwrap();
    let (gate, event) = late_kernel(simulator, &pair.consumer, address, 9);
    let lease = pair.lease(LeaseOptions::default());
    let grant = pair.claim(&lease);
    let npu = pair.consumer.npu().unwrap().clone();
    if fenced {
        let route = pair.route();
        let plan = route.read(&grant, &[&ids()], &[&ids()]).unwrap();
        let transfer = plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).unwrap();
        assert!(transfer.wait(Duration::from_millis(5)).is_none(), "the kernel has not run");
        gate.open(&npu);
        transfer.wait(WAIT).expect("ends").unwrap();
    } else {
        pair.load(&grant, Start::Now);
        gate.open(&npu);
    }
    common::eventually("the kernel is over", || event.has_fired());
    let left = contents(&pair.into);
    drop((grant, lease));
    pair.close();
    left
}

#[test]
fn a_load_that_waits_for_the_consumers_stream_is_not_overwritten_by_its_late_kernel() {
    let Some(simulator) = simulator("consumer's fence") else { return };
    let _shared = simulator.shared();
    let left = loaded_under_a_late_write(simulator, true);
    assert!(left.iter().all(|byte| *byte == 0x22), "the late kernel wrote over what was loaded");
}

#[test]
fn without_the_consumers_fence_its_late_kernel_writes_over_the_load() {
    let Some(simulator) = simulator("no consumer's fence") else { return };
    let _shared = simulator.shared();
    let left = loaded_under_a_late_write(simulator, false);
    assert!(left == simulator.pattern(9, BYTES), "the test of the fence has teeth");
}

#[test]
fn an_arrival_lets_the_consumers_stream_wait_for_the_bytes() {
    let Some(simulator) = simulator("arrival") else { return };
    let _shared = simulator.shared();
    let pair = Pair::new(simulator);
    pair.from.fill(0, BYTES as u64, 0x33).unwrap();
    let lease = pair.lease(LeaseOptions::default());
    pair.load(&pair.claim(&lease), Start::Now);
    let arrival = pair.consumer.npu_arrival().unwrap();
    let npu = pair.consumer.npu().unwrap().clone();
    let (stream, behind) = stream_and_event(&npu);
    {
        let on = npu.device().enter().unwrap();
        // SAFETY: the arrival lives until the stream has passed it, below.
        unsafe { stream.wait_for(&on, arrival.raw()) }.unwrap();
        stream.record(&on, &behind).unwrap();
        stream.wait(&on, WAIT).unwrap();
        assert!(behind.has_fired(&on).unwrap(), "the stream has passed the arrival");
    }
    drop(lease);
    pair.close();
}

#[test]
fn each_cache_goes_the_way_that_reaches_both_its_ends() {
    let Some(simulator) = simulator("choice of ways") else { return };
    let _shared = simulator.shared();
    let pair = Pair::new(simulator);
    assert_eq!(pair.route().transport(), TransportKind::Hixl, "{:?}", pair.peer.refused_transports());
    let theirs = pair.producer.alloc(Host::shared(BYTES as u64)).unwrap();
    let ours = pair.consumer.alloc(Host::shared(BYTES as u64)).unwrap();
    let (there, here) = (dense(&pair.producer, "host", &theirs), dense(&pair.consumer, "host", &ours));
    let route = pair.peer.route(&here, "host", WAIT).unwrap().wait().unwrap();
    assert_eq!(route.transport(), TransportKind::Loopback, "host memory of one process");
    drop((route, there, here, theirs, ours));
    pair.close();
}

#[test]
fn engines_on_one_npu_copy_within_it() {
    let Some(simulator) = simulator("one NPU") else { return };
    let _shared = simulator.shared();
    let (producer, consumer) = (engine(simulator, 0), engine(simulator, 0));
    let (from, into) = (producer.alloc_npu(BYTES as u64).unwrap(), consumer.alloc_npu(BYTES as u64).unwrap());
    let (theirs, ours) = (dense(&producer, "kv", &from), dense(&consumer, "kv", &into));
    let peer = consumer.connect(&producer.descriptor(), WAIT).unwrap().wait().unwrap();
    let pair = Pair { producer, consumer, from, into, theirs, ours, peer };
    assert_eq!(pair.route().transport(), TransportKind::Ipc, "{:?}", pair.peer.refused_transports());
    pair.from.fill(0, BYTES as u64, 0x44).unwrap();
    let lease = pair.lease(LeaseOptions::default());
    pair.load(&pair.claim(&lease), Start::Now);
    assert!(contents(&pair.into).iter().all(|byte| *byte == 0x44));
    drop(lease);
    pair.close();
}

#[test]
fn without_cann_the_npu_is_one_clear_error_and_the_rest_works() {
    let nowhere = NpuConfig::new(0).with_cann_path("/nonexistent/cann");
    let error = Engine::builder().npu(nowhere).open().map(drop).unwrap_err();
    assert_eq!(error.kind(), ropeway::ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("/nonexistent/cann"), "says where it looked: {error}");
    let engine = Engine::builder().open().unwrap();
    let error = engine.alloc_npu(4096).map(drop).unwrap_err();
    assert!(error.message().contains("Builder::npu"), "{error}");
    engine.alloc(Host::private(4096)).unwrap();
}
