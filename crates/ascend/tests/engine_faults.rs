//! Scripted faults of the software CANN under whole engines: each ends in a typed error or in recovery, and memory is held
//! for as long as it could still be written.

mod common;

use std::time::{Duration, Instant};

use common::{WAIT, simulator};
use ropeway::{
    BlockId, Cache, Engine, Error, ErrorKind, Grant, Lease, LeaseOptions, NpuConfig, Peer, Quiet, Region,
    Retry, Rights, Strided, Submit, SubmitError, Transfer, TransportKind,
};
use ropeway_testkit::simulator::{Alone, Simulator};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 8;
const BYTES: u64 = BLOCK * BLOCKS as u64;
/// What the owner's blocks hold, and what the reader's hold before.
const THEIRS: u8 = 0x99;
const OURS: u8 = 0x33;

/// An engine on an NPU, with a cache `kv` in its memory.
struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

impl Side {
    fn config(simulator: &Simulator, device: u32) -> NpuConfig {
        NpuConfig::new(device)
            .with_cann_path(simulator.root())
            .with_hccn_conf(simulator.root().join("etc/node0/hccn.conf"))
            .with_address([127, 0, 0, 1].into())
            .with_ports(ports())
            .with_node("node0")
            .with_hold(Duration::from_millis(50))
    }

    fn open(config: NpuConfig, kind: TransportKind) -> Self {
        let here = "127.0.0.1:0".parse().unwrap();
        let engine = Engine::builder().transports(&[kind]).listen(here).npu(config).open().unwrap();
        let region = engine.alloc_npu(BYTES).unwrap();
        let strided = Strided::dense(0, BLOCK, BLOCKS);
        let cache = engine.cache("kv").group("g0", 1).part("p", &region, strided).publish().unwrap();
        Self { engine, region, cache }
    }

    fn hixl(simulator: &Simulator, device: u32) -> Self {
        Self::open(Self::config(simulator, device), TransportKind::Hixl)
    }

    fn fill(&self, byte: u8) {
        self.region.fill(0, BYTES, byte).unwrap();
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; BYTES as usize];
        self.region.read(0, &mut bytes).unwrap();
        bytes
    }

    fn is_all(&self, byte: u8) -> bool {
        self.contents().iter().all(|found| *found == byte)
    }

    fn connect(&self, owner: &Self) -> Result<Peer, Error> {
        self.engine.connect(&owner.engine.descriptor(), WAIT)?.wait()
    }
}

/// Of this process alone, below the ports that the system gives out.
fn ports() -> std::ops::RangeInclusive<u16> {
    let first = 10_400 + (std::process::id() % 400) as u16 * 16;
    first..=first + 15
}

fn all() -> Vec<BlockId> {
    (0..BLOCKS).map(BlockId).collect()
}

fn backwards() -> Vec<BlockId> {
    all().into_iter().rev().collect()
}

/// One connection of a reader with an owner, and a lease on all blocks of it.
struct Linked {
    peer: Peer,
    #[expect(dead_code, reason = "held for its drop")]
    lease: Lease,
    grant: Grant,
}

impl Linked {
    fn new(reader: &Side, owner: &Side) -> Self {
        let peer = reader.connect(owner).unwrap();
        let lease = owner.cache.lease(&[&all()], Rights::Read, LeaseOptions::default()).unwrap();
        let grant = peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
        Self { peer, lease, grant }
    }

    fn submit(&self, reader: &Side, submit: Submit) -> Result<Transfer, SubmitError> {
        let route = self.peer.route(&reader.cache, "kv", WAIT)?.wait()?;
        // In another order, so that each block is moved by itself.
        route.read(&self.grant, &[&all()], &[&backwards()])?.submit(submit)
    }

    /// The error of a read that ends in one.
    fn fails(&self, reader: &Side) -> (Transfer, Error) {
        let transfer = self.submit(reader, Submit::default()).unwrap();
        let error = transfer.wait(WAIT).expect("ends").unwrap_err();
        (transfer, error)
    }

    fn reads(&self, reader: &Side) {
        reader.fill(OURS);
        self.submit(reader, Submit::default()).unwrap().wait(WAIT).expect("ends").unwrap();
        assert!(reader.is_all(THEIRS));
    }
}

/// A reader on NPU 0 and an owner on NPU 1.
fn pair(simulator: &Simulator) -> (Side, Side) {
    let (reader, owner) = (Side::hixl(simulator, 0), Side::hixl(simulator, 1));
    reader.fill(OURS);
    owner.fill(THEIRS);
    (reader, owner)
}

/// Nothing is held by anyone once all is closed.
fn close(sides: impl IntoIterator<Item = Side>) {
    for Side { engine, region, cache } in sides {
        drop((region, cache));
        assert_eq!(engine.close(WAIT).unwrap().held, Vec::<String>::new());
    }
}

/// A connection that failed is over; the next one works, and so does what goes over it.
fn connects_anew(linked: Linked, reader: &Side, owner: &Side) {
    common::eventually("the peer is lost", || !linked.peer.is_connected());
    drop(linked);
    Linked::new(reader, owner).reads(reader);
}

/// When a link that is taken down stops what is under way on it.
#[derive(Clone, Copy, PartialEq)]
enum Quiesces {
    AtOnce,
    After { ms: u32 },
    Never,
}

/// A read that is given up while its bytes are under way, and what taking the link down does to them.
fn given_up(name: &str, quiesces: Quiesces) {
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    // A machine that is busy elsewhere gets more time to take the link down before the bytes come.
    let told = [1, 4, 16].into_iter().any(|scale| given_up_within(simulator, &alone, quiesces, scale));
    assert!(told, "watchdog: the link was never down before the bytes came");
}

/// The blocks are withheld for longer than bytes come. False when this machine was too slow to tell.
fn given_up_within(simulator: &'static Simulator, alone: &Alone, quiesces: Quiesces, scale: u32) -> bool {
    let ms = |ms| Duration::from_millis(ms) * scale;
    let (given_up, first, comes, held) = (ms(200), ms(600), ms(1_500), ms(2_500));
    let reader = Side::open(Side::config(simulator, 0).with_hold(held), TransportKind::Hixl);
    let owner = Side::hixl(simulator, 1);
    owner.fill(THEIRS);
    let linked = Linked::new(&reader, &owner);
    let late = comes.as_millis();
    let mode = match quiesces {
        Quiesces::AtOnce => "yes".to_owned(),
        Quiesces::After { ms } => format!("late ms={}", ms * scale),
        Quiesces::Never => "no".to_owned(),
    };
    alone.faults(&format!("late_completion op=read ms={late} count=1; destroy_quiesces mode={mode}"));
    let began = Instant::now();
    let transfer = linked.submit(&reader, Submit::default().abandon_after(given_up)).unwrap();
    let error = transfer.wait(WAIT).expect("ends").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose));
    assert_eq!(error.quarantine().len(), all().len());
    // Somebody who would be given the blocks now writes them. The blocks come one after the other, so that where nothing
    // may come once the link is down, this waits until it should be.
    if quiesces == Quiesces::AtOnce {
        std::thread::sleep(first.saturating_sub(began.elapsed()));
    }
    let refills = began.elapsed();
    reader.fill(OURS);
    let refilled = began.elapsed();
    let withheld = reader.engine.quarantined();
    let refused = reader.cache.lease(&[&all()[..1]], Rights::Read, LeaseOptions::default());
    let other = Linked::new(&reader, &owner).submit(&reader, Submit::default());
    if began.elapsed() < held {
        assert_eq!(withheld.len(), 1, "{withheld:?}");
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ApiMisuse);
        let Err(SubmitError::Failed(refused)) = other else { panic!("a load into withheld blocks began") };
        assert!(refused.message().contains("quarantine"), "{refused}");
    }
    assert!(transfer.wait_quiet(WAIT));
    assert!(began.elapsed() >= held, "the hold was not waited for");
    // The hold begins when the link is down.
    let down = began.elapsed() - held;
    let in_time = match quiesces {
        Quiesces::AtOnce => down < refills && refilled < comes,
        _ => refilled < first && down < comes,
    };
    if in_time {
        let late = reader.contents().contains(&THEIRS);
        let lands = quiesces != Quiesces::AtOnce;
        assert_eq!(late, lands, "whether bytes came after the blocks could have been somebody else's");
    }
    assert_eq!(reader.engine.quarantined(), []);
    alone.faults("");
    reader.fill(0x55);
    std::thread::sleep(Duration::from_millis(50));
    assert!(reader.is_all(0x55), "something was written after the blocks were handed out");
    connects_anew(linked, &reader, &owner);
    close([reader, owner]);
    in_time
}

#[test]
fn late_completion_finds_its_blocks_withheld_until_its_bytes_have_come() {
    given_up("late_completion", Quiesces::After { ms: 1_600 });
}

#[test]
fn destroy_that_quiesces_at_once_lets_no_byte_come_and_is_held_all_the_same() {
    given_up("destroy_quiesces=yes", Quiesces::AtOnce);
}

#[test]
fn destroy_that_quiesces_late_finds_its_blocks_withheld_longer() {
    // Until the transfer's middle: what comes then is a part.
    given_up("destroy_quiesces=late", Quiesces::After { ms: 800 });
}

#[test]
fn destroy_that_never_quiesces_finds_its_blocks_withheld_longer() {
    given_up("destroy_quiesces=no", Quiesces::Never);
}

/// A read under a fault of its link: a typed error, memory back after the hold, and a new connection that works.
fn link_fails(name: &str, script: &str) {
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    let linked = Linked::new(&reader, &owner);
    alone.faults(script);
    let (transfer, error) = linked.fails(&reader);
    assert_eq!((error.kind(), error.retry()), (ErrorKind::LinkLost, Retry::AfterReconnect), "{error}");
    assert_eq!(error.native(), Some(503_900), "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose), "{error}");
    assert!(transfer.wait_quiet(WAIT));
    assert_eq!(reader.engine.quarantined(), []);
    alone.faults("");
    connects_anew(linked, &reader, &owner);
    close([reader, owner]);
}

#[test]
fn partial_write_costs_the_link_and_a_new_one_works() {
    link_fails("partial_write", "partial_write op=read fraction=0.5 count=1");
}

#[test]
fn lost_link_is_told_and_a_new_one_works() {
    link_fails("lost_link", "lost_link op=read count=1");
}

#[test]
fn ecc_costs_the_link_and_a_new_one_works() {
    link_fails("ecc", "ecc op=read count=1");
}

#[test]
fn peer_restart_loses_the_link_and_a_new_one_registers_again() {
    let Some(simulator) = simulator("peer_restart") else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    let linked = Linked::new(&reader, &owner);
    alone.faults("peer_restart op=connect count=1");
    let (transfer, error) = linked.fails(&reader);
    assert_eq!((error.kind(), error.retry()), (ErrorKind::LinkLost, Retry::AfterReconnect), "{error}");
    assert_eq!(error.native(), Some(103_900), "{error}");
    assert!(error.message().contains("connect anew"), "{error}");
    assert_eq!((error.local(), error.remote()), (Quiet::Yes, Quiet::Yes), "nothing was begun: {error}");
    assert!(transfer.wait_quiet(WAIT));
    connects_anew(linked, &reader, &owner);
    close([reader, owner]);
}

/// `script` holds from when the engines are linked.
fn device_fails(name: &str, script: &str) {
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    let linked = Linked::new(&reader, &owner);
    linked.reads(&reader);
    alone.faults(script);
    let (transfer, error) = linked.fails(&reader);
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Resource, Retry::Never), "{error}");
    assert_eq!(error.native(), Some(507_010), "{error}");
    assert!(error.message().contains("ACL_ERROR_RT_LOST_HEARTBEAT"), "{error}");
    assert!(error.message().contains("reset"), "what to do: {error}");
    assert!(transfer.wait_quiet(WAIT));
    assert_eq!(reader.engine.quarantined(), []);
    alone.faults("");
    drop(linked);
    close([reader, owner]);
}

#[test]
fn device_lost_is_told_from_a_lost_link() {
    device_fails("device_lost", "device_lost device=0");
}

fn is_alone_with(alone: &Alone, script: &str, check: impl FnOnce()) {
    alone.faults(script);
    check();
    alone.faults("");
}

#[test]
fn out_of_resources_is_waited_out() {
    let Some(simulator) = simulator("203900") else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    let linked = Linked::new(&reader, &owner);
    linked.reads(&reader);
    is_alone_with(&alone, "out_of_streams op=read", || {
        let transfer = linked.submit(&reader, Submit::default()).unwrap();
        assert!(transfer.wait(Duration::from_millis(50)).is_none(), "there is no room");
        assert!(linked.peer.is_connected());
        alone.faults("");
        transfer.wait(WAIT).expect("ends").unwrap();
    });
    linked.reads(&reader);
    drop(linked);
    close([reader, owner]);
}

#[test]
fn blackhole_connect_ends_in_its_time_and_another_peer_goes_on() {
    let Some(simulator) = simulator("blackhole_connect") else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    // The one that does not answer is named by its port.
    let (port, hole) = ports()
        .rev()
        .find_map(|port| {
            std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
            let config = Side::config(simulator, 2).with_ports(port..=port);
            Some((port, Side::open(config, TransportKind::Hixl)))
        })
        .expect("a free port");
    let linked = Linked::new(&reader, &owner);
    alone.faults(&format!("blackhole_connect remote=127.0.0.1:{port}"));
    let time = Duration::from_secs(3);
    let pending = reader.engine.connect(&hole.engine.descriptor(), time).unwrap();
    let began = Instant::now();
    linked.reads(&reader);
    if began.elapsed() < time {
        linked.reads(&reader);
    }
    let error = pending.wait().unwrap_err();
    // The connection's own time and HIXL's, which says 103901, are over at once.
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    linked.reads(&reader);
    alone.faults("");
    hole.fill(THEIRS);
    Linked::new(&reader, &hole).reads(&reader);
    drop(linked);
    close([reader, owner, hole]);
}

#[test]
fn alloc_fail_is_a_typed_error_wherever_it_comes_and_the_next_try_works() {
    let Some(simulator) = simulator("alloc_fail") else { return };
    let alone = simulator.alone();
    let (reader, owner) = pair(simulator);
    is_alone_with(&alone, "alloc_fail", || {
        let error = reader.engine.alloc_npu(BYTES).map(drop).unwrap_err();
        assert_eq!((error.kind(), error.native()), (ErrorKind::Resource, Some(207_001)), "{error}");
        assert!(error.message().contains("free device memory"), "what to do: {error}");
    });
    // Each allocation in turn, from when a connection is made until bytes have moved.
    for before in 0..6 {
        is_alone_with(&alone, &format!("alloc_fail device=0 after={before} count=1"), || {
            match reader.connect(&owner) {
                Ok(peer) => drop(peer),
                Err(error) => {
                    assert_eq!(
                        (error.kind(), error.native()),
                        (ErrorKind::Resource, Some(207_001)),
                        "{error}"
                    );
                }
            }
        });
    }
    Linked::new(&reader, &owner).reads(&reader);
    close([reader, owner]);
}

#[test]
fn out_of_streams_refuses_a_connection_and_the_next_one_works() {
    let Some(simulator) = simulator("out_of_streams") else { return };
    let alone = simulator.alone();
    for kind in [TransportKind::Ipc, TransportKind::Hixl] {
        let open = |device| Side::open(Side::config(simulator, device), kind);
        let (reader, owner) = (open(0), open(1));
        owner.fill(THEIRS);
        is_alone_with(&alone, "out_of_streams device=0", || {
            let error = reader.connect(&owner).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Full, "{kind}: {error}");
            assert_eq!(error.retry(), Retry::Later, "{kind}: {error}");
            assert!(error.message().contains("stream"), "{kind}: {error}");
        });
        Linked::new(&reader, &owner).reads(&reader);
        close([reader, owner]);
    }
}
