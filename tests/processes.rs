//! Real processes that are killed, stopped, forked, locked out and lied to, over every transport that crosses processes.
//!
//! The test's own process is one side; the other is this binary again (see `ropeway_testkit::process`).

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Error, ErrorKind, Grant, Lease, LeaseOptions, Limits, Op, Outcome, Peer, Plan,
    Region, Rights, Route, Submit, Transfer, TransportKind,
};
use ropeway_testkit::process::{Child, EDGE, Setup, be_peer_if_asked};
use ropeway_testkit::watchdog::{WAIT, bounded, eventually};

#[test]
fn peer_process() {
    be_peer_if_asked();
}

/// The side in this process.
struct Here {
    setup: Setup,
    engine: Engine,
    region: Region,
    cache: Cache,
}

impl Here {
    fn open(setup: &Setup) -> Self {
        let (engine, region, cache) = setup.open().expect("engine");
        Self { setup: setup.clone(), engine, region, cache }
    }

    fn fill(&self, byte: u8) {
        self.setup.fill(&self.region, byte).expect("inside");
    }

    /// What the leased blocks hold; the blocks at the edges must hold what they always held.
    fn holds(&self) -> Vec<u8> {
        let (inner, edges) = self.setup.holds(&self.region);
        assert_eq!(edges, [EDGE], "bytes outside the leased blocks were touched");
        inner
    }

    fn lease(&self, op: Op) -> Lease {
        let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
        self.cache.lease(&[&self.setup.leased()], rights, LeaseOptions::default()).expect("lease")
    }

    /// Connects to a child's engine and makes a route over the only transport.
    fn meet(&self, descriptor: &str) -> (Peer, Route) {
        let descriptor = descriptor.parse().expect("a descriptor");
        let peer = self.engine.connect(&descriptor, WAIT).expect("connect").wait().expect("connected");
        let route = peer.route(&self.cache, "kv", WAIT).expect("route").wait().expect("routed");
        (peer, route)
    }

    fn plan(&self, route: &Route, grant: &Grant, op: Op) -> Plan {
        let ids = self.setup.leased();
        route.plan(op, grant, None, &[&ids], &[&ids]).expect("planned")
    }
}

fn claim(peer: &Peer, token: &str) -> Grant {
    peer.claim(&token.parse().expect("a token"), WAIT).expect("claim").wait().expect("claimed")
}

fn spawn(setup: &Setup) -> (Child, String) {
    let mut child = Child::spawn("peer_process", setup);
    let answer = child.hear();
    let descriptor = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("the peer did not open: {answer}"));
    (child, descriptor.to_owned())
}

/// A child that has a lease of ours and a route to us.
fn importer_of(here: &Here, lease: &Lease) -> Child {
    let (mut child, _) = spawn(&here.setup);
    child.must(&format!("connect {} 60000", here.engine.descriptor()));
    child.must(&format!("claim {}", lease.token()));
    child.must("route");
    child
}

/// An error that says which transfer or peer, and what to do; never a hang.
fn expect_loss(error: &Error) {
    let kinds = [ErrorKind::PeerGone, ErrorKind::LinkLost, ErrorKind::StaleLease];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    assert!(error.message().len() > 20, "says too little: {error}");
}

macro_rules! over {
    ($($fact:ident: $($kind:ident)*;)*) => {
        $(over!(@fact $fact $($kind)*);)*
    };
    (@fact $fact:ident $($kind:ident)*) => {
        mod $fact {
            $(
                #[test]
                #[expect(non_snake_case, reason = "named like the transports' kinds")]
                fn $kind() {
                    let name = concat!(stringify!($fact), "::", stringify!($kind));
                    super::bounded(name, || super::facts::$fact(ropeway::TransportKind::$kind));
                }
            )*
        }
    };
}

over! {
    blocks_move_between_processes_both_ways: Shm Cma Tcp;
    a_killed_owner_ends_transfers_and_disturbs_no_other_peer: Shm Cma Tcp;
    blocks_come_back_when_their_writer_is_killed: Shm Cma Tcp;
    blocks_come_back_when_their_reader_is_killed: Shm Cma Tcp;
    a_writer_stopped_inside_the_fence_keeps_its_blocks_in_quarantine: Shm Cma;
    a_writer_stopped_past_its_lease_leaves_no_late_byte: Tcp;
    a_reader_stopped_past_its_lease_shows_no_later_byte: Shm Cma Tcp;
    a_stopped_owner_ends_transfers_by_the_importers_clock: Shm Cma Tcp;
    a_writer_killed_inside_the_fence_gives_its_blocks_back: Shm Cma;
    closing_under_a_stopped_writer_says_who_holds_what: Shm Cma;
    an_exit_in_mid_copy_is_an_end_like_any_other: Shm Cma Tcp;
    a_process_is_proven_dead_although_its_child_holds_the_sockets: Shm Cma Tcp;
}

mod facts {
    use super::*;

    /// The owner is the child, then this process; reads and writes.
    pub(super) fn blocks_move_between_processes_both_ways(kind: TransportKind) {
        let setup = Setup { bytes: 16 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        let (mut child, descriptor) = spawn(&setup);
        let (peer, route) = here.meet(&descriptor);
        assert_eq!(route.transport(), kind);
        for (op, theirs, ours) in [(Op::Read, 11, 12), (Op::Write, 13, 14)] {
            child.must(&format!("fill {theirs}"));
            here.fill(ours);
            let grant = claim(&peer, &child.must(&format!("lease {op}")));
            let plan = here.plan(&route, &grant, op);
            plan.submit(Submit::default()).expect("submitted").wait(WAIT).expect("ends").expect("moved");
            let moved = if op == Op::Read { theirs } else { ours };
            assert_eq!(here.holds(), [moved]);
            assert_eq!(child.must("holds"), format!("[{moved}] [{EDGE}]"));
            drop((plan, grant));
        }
        for lease in 0..2 {
            assert_eq!(child.must(&format!("free {lease} 60000")), "Done false");
        }
        for (op, ours, theirs) in [(Op::Read, 21, 22), (Op::Write, 23, 24)] {
            let lease = here.lease(op);
            let mut child = importer_of(&here, &lease);
            here.fill(ours);
            child.must(&format!("fill {theirs}"));
            child.must(&format!("start {op}"));
            child.must("end 0");
            assert_eq!(child.hear_end(), format!("ok {}", setup.inner().end - setup.inner().start));
            let moved = if op == Op::Read { ours } else { theirs };
            assert_eq!(here.holds(), [moved]);
            assert_eq!(child.must("holds"), format!("[{moved}] [{EDGE}]"));
            child.must("drop");
            assert_eq!(lease.wait_free(WAIT).expect("free").outcome, Outcome::Done, "{op}");
        }
    }

    /// 1 GiB is on its way when the owner is killed. Every transfer ends; another peer's go on.
    pub(super) fn a_killed_owner_ends_transfers_and_disturbs_no_other_peer(kind: TransportKind) {
        const BIG: u64 = 256 << 20;
        let setup = Setup { bytes: BIG, ..Setup::of(kind) };
        let small = Setup { bytes: 8 << 20, ..Setup::of(kind) };
        let (here, beside) = (Here::open(&setup), Here::open(&small));
        beside.fill(0);
        let (mut other, other_descriptor) = spawn(&small);
        other.must("fill 7");
        let (other_peer, other_route) = beside.meet(&other_descriptor);
        let other_grant = claim(&other_peer, &other.must("lease read"));
        let other_plan = beside.plan(&other_route, &other_grant, Op::Read);
        for op in [Op::Read, Op::Write] {
            let (mut child, descriptor) = spawn(&setup);
            child.must("fill 3");
            here.fill(4);
            let (peer, route) = here.meet(&descriptor);
            let grant = claim(&peer, &child.must(&format!("lease {op}")));
            let plan = here.plan(&route, &grant, op);
            let transfers: Vec<Transfer> =
                (0..4).map(|_| plan.submit(Submit::default()).expect("submitted")).collect();
            assert!(transfers[3].wait(Duration::from_millis(5)).is_none(), "1 GiB is still on its way");
            child.kill_at_once();
            for transfer in &transfers {
                if let Err(error) = transfer.wait(WAIT).expect("ends") {
                    expect_loss(&error);
                }
                other_plan.submit(Submit::default()).expect("room").wait(WAIT).expect("ends").expect("moved");
            }
            eventually("the session's end is told", || !peer.is_connected());
            let after =
                plan.submit(Submit::default()).map(drop).map_err(Error::from).expect_err("nobody there");
            expect_loss(&after);
            assert!(here.holds().iter().all(|byte| [3, 4].contains(byte)), "{op}: {:?}", here.holds());
            let withheld = here.engine.quarantined();
            assert!(withheld.is_empty(), "a dead peer touches nothing: {withheld:?}");
        }
        assert_eq!(beside.holds(), [7]);
    }

    /// Killed in mid-write: the blocks come back, and nobody writes them after that.
    pub(super) fn blocks_come_back_when_their_writer_is_killed(kind: TransportKind) {
        let setup = Setup { bytes: 256 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        for delay_ms in [0, 15] {
            here.fill(1);
            let lease = here.lease(Op::Write);
            let mut child = importer_of(&here, &lease);
            child.must("fill 2");
            child.must("start write");
            child.must("end 0");
            std::thread::sleep(Duration::from_millis(delay_ms));
            child.kill_at_once();
            let freed = lease.wait_free(WAIT).expect("the blocks come back");
            assert_eq!(freed.outcome, Outcome::PeerLost);
            here.fill(3);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(here.holds(), [3], "late bytes of a dead writer");
            eventually("the peer is forgotten", || here.engine.peers().is_empty());
        }
    }

    /// Killed in mid-read: the lease ends, the owner's bytes are its own.
    pub(super) fn blocks_come_back_when_their_reader_is_killed(kind: TransportKind) {
        let setup = Setup { bytes: 256 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        here.fill(1);
        let lease = here.lease(Op::Read);
        let mut child = importer_of(&here, &lease);
        child.must("start read");
        child.must("end 0");
        child.kill_at_once();
        assert_eq!(lease.wait_free(WAIT).expect("the blocks come back").outcome, Outcome::PeerLost);
        assert_eq!(here.holds(), [1]);
        here.region.close(WAIT).expect("a dead importer holds nothing");
    }

    /// Killed between fence check and store, and between store and the way out: its cell names the lease for ever, but its
    /// death is proof enough.
    pub(super) fn a_writer_killed_inside_the_fence_gives_its_blocks_back(kind: TransportKind) {
        let setup = Setup { bytes: 8 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        for (point, left) in [("entered", 1), ("copied", 2)] {
            here.fill(1);
            let lease = here.lease(Op::Write);
            let mut child = importer_of(&here, &lease);
            child.must("fill 2");
            child.must(&format!("hold {point}"));
            child.must("start write");
            child.must("end 0");
            eventually("a thread stands inside the fence", || child.must("held") != "0");
            lease.revoke();
            assert!(lease.wait_free(Duration::from_millis(60)).is_none(), "{point}: it may still write");
            let before = here.holds();
            assert!(before.contains(&1) || left == 2, "{point}: {before:?}");
            child.kill();
            assert!(lease.wait_free(WAIT).expect("the blocks come back").quarantined);
            here.fill(3);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(here.holds(), [3], "{point}: late bytes of a dead writer");
            eventually("the quarantine is over", || here.engine.quarantined().is_empty());
        }
    }

    fn brief(kind: TransportKind) -> Setup {
        Setup { bytes: 8 << 20, ttl: Duration::from_millis(600), ..Setup::of(kind) }
    }

    /// Stopped between fence check and store: the lease ends by its time, but its blocks are not free while the writer
    /// may still wake up and write. Its late bytes land in quarantine, and only then the blocks come back.
    pub(super) fn a_writer_stopped_inside_the_fence_keeps_its_blocks_in_quarantine(kind: TransportKind) {
        let setup = brief(kind);
        let here = Here::open(&setup);
        here.fill(1);
        let lease = here.lease(Op::Write);
        let mut child = importer_of(&here, &lease);
        child.must("fill 2");
        child.must("hold entered");
        child.must("start write");
        child.must("end 0");
        std::thread::sleep(Duration::from_millis(50));
        child.stop();
        eventually("the lease ends and its blocks are withheld", || !lease.withheld_by().is_empty());
        assert!(lease.wait_free(3 * setup.ttl).is_none(), "blocks that may still be written are not free");
        // They are not lent again either; others are.
        let lend = |ids: &[BlockId]| here.cache.lease(&[ids], Rights::Read, LeaseOptions::default());
        let again = lend(&setup.leased()).map(drop).expect_err("in quarantine");
        assert!(again.message().contains("quarantine"), "{again}");
        drop(lend(&[BlockId(0)]).expect("another block"));
        child.go_on();
        assert!(lease.wait_free(Duration::from_millis(100)).is_none(), "still inside the fence");
        child.must("release");
        let freed = lease.wait_free(WAIT).expect("the writer has left");
        assert!(freed.quarantined, "{freed:?}");
        here.fill(3);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(here.holds(), [3], "late bytes in blocks that were free");
        let ended = child.hear_end();
        assert!(ended.starts_with("error stale_lease") || ended.starts_with("error link_lost"), "{ended}");
    }

    /// Neither a region nor an engine lets go of memory that may still be written; both say why, in the caller's time.
    pub(super) fn closing_under_a_stopped_writer_says_who_holds_what(kind: TransportKind) {
        let setup = Setup { bytes: 8 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        here.fill(1);
        let lease = here.lease(Op::Write);
        let mut child = importer_of(&here, &lease);
        child.must("hold entered");
        child.must("start write");
        child.must("end 0");
        eventually("a thread stands inside the fence", || child.must("held") != "0");
        child.stop();
        let error = here.region.close(Duration::from_millis(50)).expect_err("still held");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(error.message().contains("lease") && error.message().contains("peer"), "says who: {error}");
        let report = here.engine.close(Duration::from_millis(50)).expect("close");
        assert!(report.held.iter().any(|held| held.contains("lease")), "{report:?}");
        assert!(report.held.iter().any(|held| held.contains(kind.name())), "{report:?}");
        // The late bytes find their memory; then nothing is held any more.
        child.go_on();
        child.must("release");
        assert!(lease.wait_free(WAIT).is_some());
        assert!(here.engine.close(WAIT).expect("close").held.is_empty());
        assert!(!child.hear_end().starts_with("hangs"));
    }

    /// The target checks: what a stopped writer still had on its way is refused, so the blocks are free at once.
    pub(super) fn a_writer_stopped_past_its_lease_leaves_no_late_byte(kind: TransportKind) {
        let setup = Setup { bytes: 128 << 20, ..brief(kind) };
        let here = Here::open(&setup);
        here.fill(1);
        let lease = here.lease(Op::Write);
        let mut child = importer_of(&here, &lease);
        child.must("fill 2");
        child.must("start write");
        child.must("end 0");
        std::thread::sleep(Duration::from_millis(10));
        child.stop();
        assert!(lease.wait_free(WAIT).is_some(), "nothing of a target-checked write is left to wait for");
        here.fill(3);
        child.go_on();
        let ended = child.hear_end();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(here.holds(), [3], "late bytes in blocks that were free; the writer says {ended}");
    }

    /// A late reader may read, but what it read is never surfaced.
    pub(super) fn a_reader_stopped_past_its_lease_shows_no_later_byte(kind: TransportKind) {
        let setup =
            Setup { bytes: if kind == TransportKind::Tcp { 128 << 20 } else { 8 << 20 }, ..brief(kind) };
        let here = Here::open(&setup);
        here.fill(1);
        let lease = here.lease(Op::Read);
        let mut child = importer_of(&here, &lease);
        child.must("fill 2");
        if kind != TransportKind::Tcp {
            child.must("hold entered");
        }
        child.must("start read");
        child.must("end 0");
        std::thread::sleep(Duration::from_millis(10));
        child.stop();
        assert!(lease.wait_free(WAIT).is_some(), "a read lease is free whatever its reader does");
        here.fill(3);
        child.go_on();
        child.must("release");
        let ended = child.hear_end();
        assert!(
            ["error stale_lease", "error link_lost", "error peer_gone"]
                .iter()
                .any(|kind| ended.starts_with(kind)),
            "{ended}"
        );
        let holds = child.must("holds");
        assert!(!holds.contains('3'), "the reader shows bytes of the next tenant: {holds} after {ended}");
        assert!(holds.ends_with(&format!("[{EDGE}]")), "bytes outside the destination: {holds}");
        assert_eq!(here.holds(), [3]);
    }

    /// The owner does not answer: what the importer holds ends by its own clock, counted from when it sent.
    pub(super) fn a_stopped_owner_ends_transfers_by_the_importers_clock(kind: TransportKind) {
        let setup = brief(kind);
        let here = Here::open(&setup);
        for op in [Op::Read, Op::Write] {
            let (mut child, descriptor) = spawn(&setup);
            child.must("fill 3");
            here.fill(4);
            let (peer, route) = here.meet(&descriptor);
            let grant = claim(&peer, &child.must(&format!("lease {op}")));
            let plan = here.plan(&route, &grant, op);
            child.stop();
            let ended = plan.submit(Submit::default()).expect("submitted").wait(WAIT).expect("ends");
            match (kind, ended) {
                // The target takes no part.
                (TransportKind::Shm | TransportKind::Cma, Ok(_)) => {}
                (_, Err(error)) => expect_loss(&error),
                (_, Ok(report)) => panic!("{report:?} with a stopped target"),
            }
            eventually("the grant ends", || grant.is_stale());
            let after = plan.submit(Submit::default()).map(drop).map_err(Error::from).expect_err("over");
            expect_loss(&after);
            child.go_on();
            let freed = child.must("free 0 60000");
            assert!(
                ["Expired", "PeerLost", "Done"].iter().any(|outcome| freed.starts_with(outcome)),
                "{freed}"
            );
            let holds = child.must("holds");
            assert!(holds.ends_with(&format!("[{EDGE}]")), "bytes outside the destination: {holds}");
            // What the stopped owner's kernel had taken in for it does not land in blocks that are free.
            child.must("fill 9");
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(child.must("holds"), format!("[9] [{EDGE}]"), "late bytes in blocks that were free");
        }
    }

    /// `exit` runs what a program registered for its end beside threads that still copy.
    pub(super) fn an_exit_in_mid_copy_is_an_end_like_any_other(kind: TransportKind) {
        let setup = Setup { bytes: 256 << 20, ..Setup::of(kind) };
        let here = Here::open(&setup);
        for op in [Op::Write, Op::Read] {
            here.fill(1);
            let lease = here.lease(op);
            let mut child = importer_of(&here, &lease);
            child.must("fill 1");
            child.must(&format!("start {op}"));
            child.must("end 0");
            child.say("exit");
            assert_eq!(child.ended(), Some(0), "a clean exit");
            assert!(lease.wait_free(WAIT).is_some(), "the blocks come back");
            here.fill(3);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(here.holds(), [3]);
        }
        // The owner exits under the importer's transfers.
        let (mut child, descriptor) = spawn(&setup);
        child.must("fill 5");
        let (peer, route) = here.meet(&descriptor);
        let grant = claim(&peer, &child.must("lease read"));
        let transfer = here.plan(&route, &grant, Op::Read).submit(Submit::default()).expect("submitted");
        child.say("exit");
        assert_eq!(child.ended(), Some(0), "a clean exit");
        if let Err(error) = transfer.wait(WAIT).expect("ends") {
            expect_loss(&error);
        }
        assert!(here.holds().iter().all(|byte| [3, 5].contains(byte)));
    }

    /// EOF is no proof of death and its absence no sign of life: the pidfd is.
    pub(super) fn a_process_is_proven_dead_although_its_child_holds_the_sockets(kind: TransportKind) {
        // On one host silence has nothing to do with it: leases last longer than the test.
        let ttl = if kind == TransportKind::Tcp { Duration::from_millis(600) } else { 4 * WAIT };
        let setup = Setup { ttl, ..brief(kind) };
        let here = Here::open(&setup);
        let lease = here.lease(Op::Write);
        let mut child = importer_of(&here, &lease);
        let forked: i32 = child.must("fork-and-wait").parse().expect("a pid");
        child.kill();
        assert!(lease.wait_free(WAIT).is_some(), "the blocks come back");
        // SAFETY: the fork sleeps for longer than this test waits; it is nobody else's child to reap.
        unsafe { libc::kill(forked, libc::SIGKILL) };
    }
}

#[test]
fn limits_of_a_setup_are_valid() {
    let limits: Limits = brief_setup().limits();
    assert!(limits.validate().is_ok());
}

fn brief_setup() -> Setup {
    Setup { ttl: Duration::from_millis(600), ..Setup::default() }
}
