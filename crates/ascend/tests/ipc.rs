//! What ipc does when copies fail, are late, or cannot be had: typed ends, and memory held as long as it is written.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ropeway::{
    BlockId, Cache, Engine, ErrorKind, Grant, Host, Lease, LeaseOptions, NpuConfig, Outcome, Peer, Quiet,
    Region, Rights, Route, Strided, Submit, TransportKind,
};
use ropeway_ascend::Npu;
use ropeway_ascend::hbm::HUGE_PAGE;
use ropeway_ascend::ipc::{Ipc, IpcConfig};
use ropeway_ascend::link::Native as _;
use ropeway_core::{Limits, RegionId};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::{Janitor, Role};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 32;

fn simulator(test: &str) -> Option<&'static Simulator> {
    match Simulator::start(&SimCann::default()) {
        Ok(simulator) => Some(simulator),
        Err(why) => {
            cannot_run(test, &why);
            None
        }
    }
}

struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

impl Side {
    fn new(simulator: &Simulator, device: u32) -> Self {
        Self::held(simulator.root(), device, Duration::from_millis(300))
    }

    fn held(root: &Path, device: u32, hold: Duration) -> Self {
        let config = NpuConfig::new(device).with_cann_path(root).with_node("node0").with_hold(hold);
        let here = "127.0.0.1:0".parse().unwrap();
        let engine =
            Engine::builder().transports(&[TransportKind::Ipc]).listen(here).npu(config).open().unwrap();
        let region = engine.alloc_npu(BLOCK * u64::from(BLOCKS)).unwrap();
        let part = Strided::dense(0, BLOCK, BLOCKS);
        let cache = engine.cache("kv").group("g0", 1).part("p", &region, part).publish().unwrap();
        Self { engine, region, cache }
    }

    fn fill(&self, byte: u8) {
        self.region.fill(0, BLOCK * u64::from(BLOCKS), byte).unwrap();
    }

    fn is_all(&self, byte: u8) -> bool {
        let mut bytes = vec![0; (BLOCK * u64::from(BLOCKS)) as usize];
        self.region.read(0, &mut bytes).unwrap();
        bytes.iter().all(|found| *found == byte)
    }
}

struct Pair {
    owner: Side,
    importer: Side,
    peer: Peer,
    route: Route,
}

impl Pair {
    fn new(simulator: &Simulator) -> Self {
        let (owner, importer) = (Side::new(simulator, 1), Side::new(simulator, 0));
        let peer = importer.engine.connect(&owner.engine.descriptor(), WAIT).unwrap().wait().unwrap();
        let route = peer.route(&importer.cache, "kv", WAIT).unwrap().wait().unwrap();
        owner.fill(9);
        importer.fill(3);
        Self { owner, importer, peer, route }
    }

    fn lease(&self, rights: Rights) -> (Lease, Grant) {
        let lease = self.owner.cache.lease(&[&all()], rights, LeaseOptions::default()).unwrap();
        let grant = self.peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
        (lease, grant)
    }
}

fn all() -> Vec<BlockId> {
    (0..BLOCKS).map(BlockId).collect()
}

#[test]
fn a_copy_that_comes_after_its_time_finds_its_blocks_withheld() {
    let name = "a_copy_that_comes_after_its_time_finds_its_blocks_withheld";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (_lease, grant) = pair.lease(Rights::Read);
    alone.faults("late_completion op=aclrtMemcpyAsync ms=1500 count=1");
    let plan = pair.route.read(&grant, &[&all()], &[&all()]).unwrap();
    let began = Instant::now();
    let transfer = plan.submit(Submit::default().abandon_after(Duration::from_millis(100))).unwrap();
    let error = transfer.wait(WAIT).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose));
    // The copy is under way: nobody gets the blocks.
    if began.elapsed() < Duration::from_millis(1_200) {
        assert_eq!(error.quarantine(), all());
        assert!(!transfer.wait_quiet(Duration::ZERO));
        let taken = pair.importer.cache.lease(&[&all()[..1]], Rights::Read, LeaseOptions::default());
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::ApiMisuse);
    }
    assert!(transfer.wait_quiet(WAIT), "its stream was drained, so the blocks come back");
    assert!(began.elapsed() >= Duration::from_millis(1_500), "handed out before the copy had landed");
    pair.importer.fill(5);
    std::thread::sleep(Duration::from_millis(50));
    assert!(pair.importer.is_all(5), "something was written after the blocks were handed out");
}

#[test]
fn a_write_lease_is_free_only_after_a_late_copy() {
    let name = "a_write_lease_is_free_only_after_a_late_copy";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (lease, grant) = pair.lease(Rights::Write);
    alone.faults("late_completion op=aclrtMemcpyAsync ms=1000 count=1");
    let plan = pair.route.write(&grant, &[&all()], &[&all()]).unwrap();
    let began = Instant::now();
    let transfer = plan.submit(Submit::default()).unwrap();
    // Until it is on the stream.
    std::thread::sleep(Duration::from_millis(100));
    lease.revoke();
    let freed = lease.wait_free(WAIT).unwrap();
    assert_eq!(freed.outcome, Outcome::Revoked);
    assert!(began.elapsed() >= Duration::from_millis(1_000), "free while the copy was under way");
    assert!(transfer.wait(WAIT).unwrap().is_err());
    pair.owner.fill(7);
    std::thread::sleep(Duration::from_millis(50));
    assert!(pair.owner.is_all(7), "something was written after the blocks were free");
}

#[test]
fn a_copy_cut_short_is_an_error_with_its_number_and_the_link_goes_on() {
    let name = "a_copy_cut_short_is_an_error_with_its_number_and_the_link_goes_on";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (_lease, grant) = pair.lease(Rights::Read);
    let plan = pair.route.read(&grant, &[&all()], &[&all()]).unwrap();
    alone.faults("partial_write op=aclrtMemcpyAsync fraction=0.5 count=1");
    let error = plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap_err();
    assert_eq!((error.local(), error.remote()), (Quiet::Yes, Quiet::Yes), "{error}");
    assert_eq!(error.native(), Some(507_052), "{error}");
    plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
    assert!(pair.importer.is_all(9));
}

#[test]
fn a_wait_that_fails_by_itself_is_no_end_of_the_copies() {
    let name = "a_wait_that_fails_by_itself_is_no_end_of_the_copies";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    // A stream of another context, a handle that is none, a failure inside: none of them speaks of the copies.
    for code in [107_003, 107_017, 507_899] {
        let pair = Pair::new(simulator);
        let (_lease, grant) = pair.lease(Rights::Read);
        let plan = pair.route.read(&grant, &[&all()], &[&all()]).unwrap();
        alone.faults(&format!("device_lost op=aclrtSynchronizeStreamWithTimeout code={code} count=1"));
        let transfer = plan.submit(Submit::default()).unwrap();
        let error = transfer.wait(WAIT).unwrap().unwrap_err();
        assert_eq!(error.native(), Some(code), "{error}");
        assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose), "{error}");
        alone.faults("");
        assert!(transfer.wait_quiet(WAIT), "the stream was waited for at the link's end");
    }
}

#[test]
fn copies_that_are_never_proven_over_are_never_called_quiet() {
    let name = "copies_that_are_never_proven_over_are_never_called_quiet";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (lease, grant) = pair.lease(Rights::Write);
    let plan = pair.route.write(&grant, &[&all()], &[&all()]).unwrap();
    // No wait says anything of the copies any more, before an abort and after.
    alone.faults("device_lost op=aclrtSynchronizeStreamWithTimeout code=107003");
    let transfer = plan.submit(Submit::default()).unwrap();
    let error = transfer.wait(WAIT).unwrap().unwrap_err();
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose), "{error}");
    // Longer than the hold of a network.
    assert!(!transfer.wait_quiet(Duration::from_millis(1_500)), "called quiet because time has passed");
    assert_eq!(error.quarantine(), all());
    assert!(lease.wait_free(Duration::ZERO).is_none(), "its owner cannot have them either");
    alone.faults("");
}

#[test]
fn broken_memory_costs_the_link_and_ends_in_bounded_time() {
    let name = "broken_memory_costs_the_link_and_ends_in_bounded_time";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (_lease, grant) = pair.lease(Rights::Read);
    let plan = pair.route.read(&grant, &[&all()], &[&all()]).unwrap();
    alone.faults("ecc op=aclrtMemcpyAsync count=1");
    let transfer = plan.submit(Submit::default()).unwrap();
    let error = transfer.wait(WAIT).unwrap().unwrap_err();
    assert_eq!(error.native(), Some(507_054), "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose));
    assert!(transfer.wait_quiet(WAIT));
    // A new connection is a new link.
    drop((plan, grant));
    let Pair { owner, importer, peer, route } = pair;
    drop((route, peer));
    let peer = importer.engine.connect(&owner.engine.descriptor(), WAIT).unwrap().wait().unwrap();
    assert!(peer.is_connected());
}

#[test]
fn a_device_without_streams_is_no_way_and_says_so() {
    let name = "a_device_without_streams_is_no_way_and_says_so";
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let (owner, importer) = (Side::new(simulator, 1), Side::new(simulator, 0));
    alone.faults("out_of_streams");
    let refused = importer.engine.connect(&owner.engine.descriptor(), WAIT).unwrap().wait().unwrap_err();
    assert!(refused.message().contains("stream"), "{refused}");
    alone.faults("");
    importer.engine.connect(&owner.engine.descriptor(), WAIT).unwrap().wait().unwrap();
}

#[test]
fn a_stranger_that_says_it_is_of_this_process_cannot_name_its_memory() {
    let name = "a_stranger_that_says_it_is_of_this_process_cannot_name_its_memory";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    let janitor = Janitor::start().unwrap();
    let config = NpuConfig::new(0).with_cann_path(simulator.root()).with_node("node0");
    let npu = Npu::open(config, &Limits::default(), &janitor).unwrap();
    let ipc = Ipc::new(&npu, IpcConfig::default()).unwrap();
    ipc.enter().unwrap();
    // The stranger has heard our offer and says the same of itself.
    let mut mover = ipc.open(&ipc.offer(), Role::Active).unwrap();
    let secret = npu.alloc(BLOCK).unwrap();
    let address = secret.device().unwrap().address().to_le_bytes();
    for form in 0..=u8::MAX {
        for rest in [&[][..], &[0; 8], &[7; 16]] {
            for word in [address, [0; 8]] {
                let said: Vec<_> = [form].into_iter().chain(word).chain(rest.iter().copied()).collect();
                let imported = mover.import(RegionId { slot: 0, generation: 1 }, BLOCK, &said);
                assert!(imported.is_err(), "form {form}: {imported:?}");
            }
        }
    }
}

#[test]
fn a_peer_cannot_name_memory_beyond_its_key() {
    let name = "a_peer_cannot_name_memory_beyond_its_key";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    let janitor = Janitor::start().unwrap();
    let config = NpuConfig::new(0).with_cann_path(simulator.root()).with_node("node0");
    let npu = Npu::open(config, &Limits::default(), &janitor).unwrap();
    let ipc = Ipc::new(&npu, IpcConfig::default()).unwrap();
    ipc.enter().unwrap();
    // Our own offer, but for the number that tells processes apart: what a peer in another process says.
    let mut other = ipc.offer().to_vec();
    other[14] ^= 1;
    let (mut owner, mut importer) =
        (ipc.open(&other, Role::Passive).unwrap(), ipc.open(&other, Role::Active).unwrap());
    let region = RegionId { slot: 0, generation: 1 };
    let memory = npu.alloc(HUGE_PAGE).unwrap();
    let told = owner.register(region, &memory).unwrap();
    let said = |offset: u64| [&told[..1], &offset.to_le_bytes(), &told[9..]].concat();
    for (offset, len) in
        [(0, HUGE_PAGE + 1), (1, HUGE_PAGE), (HUGE_PAGE, 1), (1 << 30, 1), (u64::MAX, 1), (0, u64::MAX)]
    {
        let error = importer.import(region, len, &said(offset)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{len} bytes at {offset}: {error}");
    }
    // A process opens a key once: those that were refused were closed.
    importer.import(region, HUGE_PAGE, &said(0)).unwrap();
    importer.release(region).unwrap();
    owner.deregister(region).unwrap();
}

#[test]
fn a_key_opens_for_the_peers_process_only_unless_that_is_switched_off() {
    let name = "a_key_opens_for_the_peers_process_only_unless_that_is_switched_off";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    let janitor = Janitor::start().unwrap();
    for check in [true, false] {
        let config = NpuConfig::new(0).with_cann_path(simulator.root()).with_node("node0");
        let config = config.with_check_process(check);
        let npu = Npu::open(config, &Limits::default(), &janitor).unwrap();
        let ipc = Ipc::new(&npu, IpcConfig::of(npu.config())).unwrap();
        ipc.enter().unwrap();
        // Our own offer, as if of another process; the owner is told of yet another number of it.
        let mut here = ipc.offer().to_vec();
        here[14] ^= 1;
        let mut elsewhere = here.clone();
        elsewhere[2] ^= 1;
        let mut owner = ipc.open(&elsewhere, Role::Passive).unwrap();
        let mut importer = ipc.open(&here, Role::Active).unwrap();
        let region = RegionId { slot: 0, generation: 1 };
        let memory = npu.alloc(HUGE_PAGE).unwrap();
        let told = owner.register(region, &memory).unwrap();
        let imported = importer.import(region, HUGE_PAGE, &told);
        assert_eq!(imported.is_err(), check, "{imported:?}");
        if imported.is_ok() {
            importer.release(region).unwrap();
        }
        owner.deregister(region).unwrap();
    }
}

#[test]
fn slices_of_blocks_go_in_strided_copies() {
    let name = "slices_of_blocks_go_in_strided_copies";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    let pair = Pair::new(simulator);
    let (_lease, grant) = pair.lease(Rights::Read);
    // Every second block: rows of one width at one distance.
    let odd: Vec<_> = (0..BLOCKS).filter(|id| id % 2 == 1).map(BlockId).collect();
    let plan = pair.route.read(&grant, &[&odd], &[&odd]).unwrap();
    plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
    let mut bytes = vec![0; (BLOCK * u64::from(BLOCKS)) as usize];
    pair.importer.region.read(0, &mut bytes).unwrap();
    for (block, bytes) in bytes.chunks_exact(BLOCK as usize).enumerate() {
        let should = if block % 2 == 1 { 9 } else { 3 };
        assert!(bytes.iter().all(|byte| *byte == should), "block {block}");
    }
}

#[test]
fn host_memory_is_read_into_and_written_from_through_stages() {
    let name = "host_memory_is_read_into_and_written_from_through_stages";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    let pair = Pair::new(simulator);
    let engine = &pair.importer.engine;
    let bytes = BLOCK * u64::from(BLOCKS);
    for pinned in [false, true] {
        let host =
            if pinned { engine.alloc_pinned(bytes) } else { engine.alloc(Host::private(bytes)) }.unwrap();
        let part = Strided::dense(0, BLOCK, BLOCKS);
        let name = if pinned { "pinned" } else { "plain" };
        let cache = engine.cache(name).group("g0", 1).part("p", &host, part).publish().unwrap();
        let route = pair.peer.route(&cache, "kv", WAIT).unwrap().wait().unwrap();
        let stamp = |seed: u8| (0..bytes).map(|at| (at / 7) as u8 ^ seed).collect::<Vec<u8>>();
        pair.owner.region.write(0, &stamp(1)).unwrap();
        {
            let (_lease, grant) = pair.lease(Rights::Read);
            let plan = route.read(&grant, &[&all()], &[&all()]).unwrap();
            plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
        }
        let mut came = vec![0; bytes as usize];
        host.read(0, &mut came).unwrap();
        assert!(came == stamp(1), "{name}: other bytes than the owner's");
        host.write(0, &stamp(2)).unwrap();
        let (_lease, grant) = pair.lease(Rights::Write);
        let plan = route.write(&grant, &[&all()], &[&all()]).unwrap();
        plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
        pair.owner.region.read(0, &mut came).unwrap();
        assert!(came == stamp(2), "{name}: other bytes than ours");
    }
}

/// Set in the process that [`a_dead_peers_blocks_come_back_without_waiting_for_its_hardware`] starts: descriptor, token.
const CHILD: &str = "ROPEWAY_TEST_IPC_CHILD";

/// Not a test: the peer that is killed, with a grant to write and the region imported.
#[test]
#[expect(clippy::print_stderr, reason = "what its parent waits for")]
fn peer_process() {
    let Ok(asked) = std::env::var(CHILD) else { return };
    let (descriptor, token) = asked.split_once(' ').unwrap();
    let side = Side::held(&SimCann::default().root().unwrap(), 0, Duration::from_millis(300));
    let peer = side.engine.connect(&descriptor.parse().unwrap(), WAIT).unwrap().wait().unwrap();
    let route = peer.route(&side.cache, "kv", WAIT).unwrap().wait().unwrap();
    let grant = peer.claim(&token.parse().unwrap(), WAIT).unwrap().wait().unwrap();
    side.fill(6);
    let plan = route.write(&grant, &[&all()], &[&all()]).unwrap();
    plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
    eprintln!("written");
    std::thread::sleep(WAIT);
}

#[test]
fn a_dead_peers_blocks_come_back_without_waiting_for_its_hardware() {
    let name = "a_dead_peers_blocks_come_back_without_waiting_for_its_hardware";
    let Some(simulator) = simulator(name) else { return };
    let _shared = simulator.shared();
    // Longer than the test may take.
    let owner = Side::held(simulator.root(), 1, Duration::from_secs(3_600));
    let lease = owner.cache.lease(&[&all()], Rights::Write, LeaseOptions::default()).unwrap();
    let asked = format!("{} {}", owner.engine.descriptor(), lease.token());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["peer_process", "--exact", "--nocapture"])
        .env(CHILD, asked)
        .env("ROPEWAY_SIM_STATE", simulator.state())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("written")), "the peer process failed");
    assert!(owner.is_all(6));
    child.kill().unwrap();
    child.wait().unwrap();
    let freed = lease.wait_free(WAIT).expect("its process is proven dead");
    assert_ne!(freed.outcome, Outcome::Done);
    owner.fill(7);
    owner.region.close(WAIT).unwrap();
}
