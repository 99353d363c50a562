//! Host memory as the local end of HIXL's links where they do not take it: HCCS on A2, by way of the NPU's own memory.

mod hixl_ends;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hixl_ends::*;
use ropeway::{
    BlockId, Cache, Engine, ErrorKind, Grant, Host, Lease, LeaseOptions, NpuConfig, Outcome, Peer, Quiet,
    Region, Rights, Route, Strided, Submit, TransportKind,
};
use ropeway_ascend::hixl::offer::Api;
use ropeway_ascend::hixl::way::Way as Hop;
use ropeway_ascend::link::{Desc, Failure, Polled, PostError, Request, Teardown};
use ropeway_core::Op;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::Memory;

const BOTH: [Api; 2] = [Api::Class, Api::C];
/// Bytes of a place of the stage, and how many there are for all links of an engine.
const PLACE: usize = 512 << 10;
const PLACES: usize = 16;

/// A link whose first end has a region of host memory besides that of its NPU.
struct Staged {
    way: Way,
    _to: Way,
    host: Arc<Memory>,
}

impl Staged {
    fn new(one: &End, two: &End) -> Self {
        assert_eq!(one.facts().way_to(two.facts()).unwrap(), Hop::Hccs);
        let host = Memory::anonymous(REGION as u64, one.npu.janitor()).unwrap();
        let (mut way, to) = prepare(one, two);
        way.mover().register(id(3), &host).unwrap();
        assert!(way.mover().stages(id(3)) && !way.mover().stages(id(0)));
        way.connect();
        Self { way, _to: to, host }
    }

    /// From host memory.
    fn desc(&self, local: u64, remote: u64, len: u64) -> Desc {
        let base = self.host.base().unwrap().addr().get() as u64;
        Desc { local: base + local, ..self.way.desc(0, remote, len) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION];
        self.host.read(0, &mut bytes).unwrap();
        bytes
    }
}

fn ends(simulator: &Simulator, api: Api) -> (End, End) {
    (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}))
}

#[test]
fn host_memory_is_read_into_and_written_from_by_way_of_the_npus_memory() {
    let Some(simulator) = simulator("staged: both ways") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let (one, two) = ends(simulator, api);
        let mut staged = Staged::new(&one, &two);
        for (op, seed) in [(Op::Read, 3), (Op::Write, 5)] {
            let (ours, mine, theirs) =
                (pattern(REGION, seed), pattern(REGION, seed + 1), pattern(REGION, seed + 2));
            one.memory.write(0, &mine).unwrap();
            two.memory.write(0, &theirs).unwrap();
            staged.host.write(0, &ours).unwrap();
            // More than all places of a request hold, a small piece, and one of the NPU's own between.
            let big = 3 * PLACE as u64 + 7;
            let descs = [
                staged.desc(100, 3, big),
                staged.way.desc(64, big + 64, 1_000),
                staged.desc(5, big + 5_000, 17),
            ];
            staged.way.run(op, &descs).unwrap();
            let (mut ours, mut mine, mut theirs) = (ours, mine, theirs);
            for (at, (local, remote, len)) in
                [(100, 3, big as usize), (64, big as usize + 64, 1_000), (5, big as usize + 5_000, 17)]
                    .into_iter()
                    .enumerate()
            {
                let here = if at == 1 { &mut mine } else { &mut ours };
                let (here, there) = (&mut here[local..local + len], &mut theirs[remote..remote + len]);
                match op {
                    Op::Read => here.copy_from_slice(there),
                    Op::Write => there.copy_from_slice(here),
                }
            }
            assert!(staged.bytes() == ours && one.bytes() == mine && two.bytes() == theirs, "{api:?} {op}");
        }
        assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Proven);
    }
}

#[test]
fn a_region_that_is_a_local_end_only_is_no_export() {
    let Some(simulator) = simulator("staged: no export") else { return };
    let _shared = simulator.shared();
    let (one, two) = ends(simulator, Api::Class);
    let (mut from, mut to) = prepare(&one, &two);
    let host = Memory::anonymous(REGION as u64, two.npu.janitor()).unwrap();
    let description = to.mover().register(id(3), &host).unwrap();
    let error = from.mover().import(id(3), REGION as u64, &description).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("tcp"), "{error}");
}

#[test]
fn a_link_lost_in_the_middle_of_a_staged_transfer_latches_and_a_new_one_works() {
    let Some(simulator) = simulator("staged: lost link") else { return };
    let alone = simulator.alone();
    for (op, name) in [(Op::Read, "read"), (Op::Write, "write")] {
        let (one, two) = ends(simulator, Api::Class);
        let mut staged = Staged::new(&one, &two);
        // Two of its four native requests are done before.
        alone.faults(&format!("lost_link op={name} after=2 count=1"));
        let lost = staged.way.run(op, &[staged.desc(0, 0, REGION as u64)]).unwrap_err();
        assert!(matches!(lost, Failure::Latched { .. }), "{lost:?}");
        alone.faults("");
        assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Unproven);
        staged.way.connect();
        two.memory.write(0, &pattern(REGION, 8)).unwrap();
        staged.way.run(Op::Read, &[staged.desc(0, 0, REGION as u64)]).unwrap();
        assert!(staged.bytes() == pattern(REGION, 8));
        staged.way.mover().disconnect(SHORT);
    }
}

/// Posts staged reads until there is no place left.
fn fill_up(staged: &mut Staged) -> Vec<Request> {
    let descs = [staged.desc(0, 0, REGION as u64)];
    let mut posted = Vec::new();
    loop {
        match staged.way.mover().post(Op::Read, &descs) {
            Ok(request) => posted.push(request),
            Err(PostError::Busy(_)) => return posted,
            Err(refused) => panic!("{refused:?}"),
        }
        assert!(posted.len() <= PLACES, "the stage has no end");
    }
}

#[test]
fn a_place_that_was_given_up_is_nobodys_before_its_regions_are_let_go_of() {
    let Some(simulator) = simulator("staged: given up") else { return };
    let alone = simulator.alone();
    let (one, two) = ends(simulator, Api::C);
    let third = End::open(simulator, 2, Api::C, |_| {});
    let (mut given_up, mut other) = (Staged::new(&one, &two), Staged::new(&one, &third));
    third.memory.write(0, &pattern(REGION, 4)).unwrap();
    alone.faults("slow op=read ms=300");
    let whole = [given_up.desc(0, 0, REGION as u64)];
    let request = given_up.way.mover().post(Op::Read, &whole).unwrap();
    assert_eq!(given_up.way.mover().poll(request), Polled::Waiting);
    // The library says nothing of what it had: bytes may come into those places.
    assert_eq!(given_up.way.mover().disconnect(SHORT), Teardown::Unproven);
    let posted = fill_up(&mut other);
    assert_eq!(posted.len(), PLACES / 2 - 1, "two places of each request, and two that are withheld");
    alone.faults("");
    posted.into_iter().for_each(|request| other.way.end(request).unwrap());
    assert!(other.bytes() == pattern(REGION, 4));
    // The link engine does this when its hold has passed.
    given_up.way.mover().deregister(id(3)).unwrap();
    alone.faults("slow op=read ms=300");
    let posted = fill_up(&mut other);
    assert_eq!(posted.len(), PLACES / 2);
    alone.faults("");
    posted.into_iter().for_each(|request| other.way.end(request).unwrap());
    other.way.mover().disconnect(SHORT);
}

#[test]
fn a_copy_of_the_stage_that_fails_ends_its_request_and_the_link_goes_on() {
    let Some(simulator) = simulator("staged: failed copy") else { return };
    let alone = simulator.alone();
    for op in [Op::Read, Op::Write] {
        let (one, two) = ends(simulator, Api::Class);
        let mut staged = Staged::new(&one, &two);
        alone.faults("partial_write op=aclrtMemcpyAsync fraction=0.5 after=1 count=1");
        let failed = staged.way.run(op, &[staged.desc(0, 0, REGION as u64)]);
        assert_eq!(failed, Err(Failure::Over { code: 507_052 }), "{op}");
        alone.faults("");
        // Nothing of the failed one is left in the places.
        two.memory.write(0, &pattern(REGION, 1)).unwrap();
        staged.way.run(Op::Read, &[staged.desc(0, 0, REGION as u64)]).unwrap();
        assert!(staged.bytes() == pattern(REGION, 1));
        assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Proven);
    }
}

#[test]
fn a_request_is_over_only_when_each_of_its_places_is() {
    let Some(simulator) = simulator("staged: over") else { return };
    let alone = simulator.alone();
    let (one, two) = ends(simulator, Api::Class);
    let mut staged = Staged::new(&one, &two);
    two.memory.write(0, &pattern(REGION, 2)).unwrap();
    // The copy out of one place fails while the other is still natively written.
    alone.faults(
        "partial_write op=aclrtMemcpyAsync fraction=0.5 count=1; late_completion op=read ms=400 after=1 count=1",
    );
    let began = Instant::now();
    let failed = staged.way.run(Op::Read, &[staged.desc(0, 0, REGION as u64)]);
    assert_eq!(failed, Err(Failure::Over { code: 507_052 }));
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "called over while a native request was under way"
    );
    alone.faults("");
    assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Proven);
}

#[test]
fn a_copy_of_the_stage_that_is_never_proven_over_is_never_called_so() {
    let Some(simulator) = simulator("staged: never") else { return };
    let alone = simulator.alone();
    let (one, two) = ends(simulator, Api::Class);
    let mut staged = Staged::new(&one, &two);
    // A wait that says nothing of the copies, before an abort and after.
    alone.faults("device_lost op=aclrtSynchronizeStreamWithTimeout code=107003");
    let failed = staged.way.run(Op::Read, &[staged.desc(0, 0, 4096)]);
    assert!(matches!(failed, Err(Failure::Latched { code: 107_003 })), "{failed:?}");
    assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Never);
    alone.faults("");
    assert_eq!(staged.way.mover().disconnect(SHORT), Teardown::Never, "a second one proves no more");
}

const BLOCK: u64 = 256 << 10;
const BLOCKS: u32 = 16;
const BYTES: u64 = BLOCK * BLOCKS as u64;

/// An engine on an NPU with a cache `kv`, in host memory or in the NPU's.
struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

impl Side {
    fn new(simulator: &Simulator, device: u32, host: bool) -> Self {
        let first = 12_000 + (std::process::id() % 400) as u16 * 16;
        let config = NpuConfig::new(device)
            .with_cann_path(simulator.root())
            .with_hccn_conf("/nowhere/hccn.conf")
            .with_address([127, 0, 0, 1].into())
            .with_ports(first..=first + 15)
            .with_node("node0")
            .with_hold(Duration::from_millis(300));
        let here = "127.0.0.1:0".parse().unwrap();
        let builder = Engine::builder().transports(&[TransportKind::Hixl]).listen(here).npu(config);
        let engine = builder.open().unwrap();
        let region = if host { engine.alloc(Host::private(BYTES)) } else { engine.alloc_npu(BYTES) }.unwrap();
        let part = Strided::dense(0, BLOCK, BLOCKS);
        let cache = engine.cache("kv").group("g0", 1).part("p", &region, part).publish().unwrap();
        Self { engine, region, cache }
    }

    fn is_all(&self, byte: u8) -> bool {
        let mut bytes = vec![0; BYTES as usize];
        self.region.read(0, &mut bytes).unwrap();
        bytes.iter().all(|found| *found == byte)
    }

    fn fill(&self, byte: u8) {
        self.region.fill(0, BYTES, byte).unwrap();
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
        let (owner, importer) = (Side::new(simulator, 1, false), Side::new(simulator, 0, true));
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
fn a_route_says_that_it_is_staged() {
    let Some(simulator) = simulator("staged: route") else { return };
    let _shared = simulator.shared();
    let pair = Pair::new(simulator);
    assert!(pair.route.is_staged());
    assert_eq!(pair.route.explanation(), "hixl, staged");
    let region = pair.importer.engine.alloc_npu(BYTES).unwrap();
    let part = Strided::dense(0, BLOCK, BLOCKS);
    let cache = pair.importer.engine.cache("hbm").group("g0", 1).part("p", &region, part).publish().unwrap();
    let direct = pair.peer.route(&cache, "kv", WAIT).unwrap().wait().unwrap();
    assert_eq!((direct.is_staged(), direct.explanation()), (false, "hixl".to_owned()));
}

#[test]
fn a_staged_write_under_a_revoked_lease_is_waited_for() {
    let Some(simulator) = simulator("staged: revoke") else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (lease, grant) = pair.lease(Rights::Write);
    alone.faults("late_completion op=write ms=1000 after=1 count=1");
    let plan = pair.route.write(&grant, &[&all()], &[&all()]).unwrap();
    let began = Instant::now();
    let transfer = plan.submit(Submit::default()).unwrap();
    // Until it is on its way.
    std::thread::sleep(Duration::from_millis(100));
    lease.revoke();
    let freed = lease.wait_free(WAIT).unwrap();
    assert_eq!(freed.outcome, Outcome::Revoked);
    assert!(began.elapsed() >= Duration::from_millis(1_000), "free while a native request was under way");
    pair.owner.fill(7);
    assert!(transfer.wait(WAIT).unwrap().is_err());
    std::thread::sleep(Duration::from_millis(50));
    assert!(pair.owner.is_all(7), "something was written after the blocks were free");
}

#[test]
fn a_staged_read_that_is_given_up_never_reaches_the_host() {
    let Some(simulator) = simulator("staged: abandoned") else { return };
    let alone = simulator.alone();
    let pair = Pair::new(simulator);
    let (_lease, grant) = pair.lease(Rights::Read);
    alone.faults("late_completion op=read ms=1000 count=1; destroy_quiesces mode=no");
    let plan = pair.route.read(&grant, &[&all()], &[&all()]).unwrap();
    let transfer = plan.submit(Submit::default().abandon_after(Duration::from_millis(100))).unwrap();
    let error = transfer.wait(WAIT).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose));
    assert!(transfer.wait_quiet(WAIT));
    pair.importer.fill(5);
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(pair.importer.is_all(5), "late bytes came further than the NPU's memory");
    alone.faults("");
}
