//! The scripted faults of HCCL: each ends in a typed error or in recovery, and memory is held as long as it may be touched.

mod hccl_ends;

use std::time::{Duration, Instant};

use hccl_ends::*;
use ropeway::{Error, Rights};
use ropeway_core::{ErrorKind, Op, Quiet, Retry};
use ropeway_testkit::simulator::Simulator;

/// What a connection is given that will not come to be.
const SHORT: Duration = Duration::from_secs(3);
/// How often a fault is tried whose word may be overtaken.
const TRIES: usize = 20;

/// A read under a fault of its copies: both sides are held until the stream has ended, and a new connection works. The peer may
/// see the link end first, and its word come before the library's: then it is tried again.
fn copies_fail(name: &str, script: &str, kind: ErrorKind, native: Option<i32>) {
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let (one, two) = (side(simulator, 0), side(simulator, 1));
    for _ in 0..TRIES {
        let pair = again(&one, &two, Rights::Read);
        alone.faults(script);
        let error = transfer(&pair, Op::Read).unwrap_err();
        assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose), "{error}");
        alone.faults("");
        eventually("the peer is lost", || !pair.peer.is_connected());
        drop(pair);
        transfer(&again(&one, &two, Rights::Read), Op::Read).unwrap();
        eventually("the quarantine ends", || one.engine.quarantined().is_empty());
        let said = (error.kind(), error.native());
        if said == (kind, native) {
            return;
        }
        assert_eq!(said, (ErrorKind::LinkLost, None), "{script}: {error}");
    }
    panic!("{script}: the peer's word came first {TRIES} times");
}

#[test]
fn device_lost_at_a_post_breaks_the_link_and_a_new_one_works() {
    let script = "device_lost op=HcclBatchSendRecv device=0 count=1";
    copies_fail("hccl: device_lost", script, ErrorKind::LinkLost, Some(15));
}

#[test]
fn device_lost_under_copies_is_told_from_a_lost_link() {
    let script = "device_lost op=receive device=0 count=1";
    copies_fail("hccl: device_lost", script, ErrorKind::Resource, Some(507_010));
}

#[test]
fn ecc_is_told_with_its_number_and_a_new_link_works() {
    copies_fail("hccl: ecc", "ecc op=receive device=0 count=1", ErrorKind::Resource, Some(507_054));
}

#[test]
fn ecc_on_the_owners_side_breaks_the_readers_link() {
    copies_fail("hccl: ecc", "ecc op=send device=1 count=1", ErrorKind::LinkLost, None);
}

#[test]
fn lost_link_is_seen_in_the_asynchronous_error_and_a_new_one_works() {
    copies_fail("hccl: lost_link", "lost_link op=receive count=1", ErrorKind::LinkLost, Some(21));
}

#[test]
fn partial_write_breaks_the_link_and_a_new_one_works() {
    let script = "partial_write op=receive fraction=0.5 count=1";
    copies_fail("hccl: partial_write", script, ErrorKind::LinkLost, Some(507_899));
}

#[test]
fn a_refused_post_breaks_the_link_and_a_new_one_works() {
    let script = "refuse op=HcclBatchSendRecv device=0 code=4 count=1";
    copies_fail("hccl: refuse", script, ErrorKind::LinkLost, Some(4));
}

fn connect(one: &Side, two: &Side, time: Duration) -> Result<(), Error> {
    one.engine.connect(&two.engine.descriptor(), time)?.wait().map(drop)
}

/// A connection under a fault of its set-up: refused, and the next one works. A rank that is left alone in the library waits
/// there for HCCL_CONNECT_TIMEOUT, at least two minutes, so the fault is one of both ranks, or of none of them there.
fn set_up_fails(name: &str, script: &str, check: impl Fn(&Error)) {
    let Some(simulator) = simulator(name) else { return };
    let alone = simulator.alone();
    let (one, two) = (side(simulator, 0), side(simulator, 1));
    alone.faults(script);
    let error = connect(&one, &two, SHORT).unwrap_err();
    check(&error);
    // The fault stays until its count is used up: the other rank may be late.
    transfer(&again(&one, &two, Rights::Read), Op::Read).unwrap();
}

fn says(text: &'static str) -> impl Fn(&Error) {
    move |error| assert!(error.message().contains(text), "{text}: {error}")
}

#[test]
fn device_lost_at_the_root_refuses_the_connection_and_the_next_one_works() {
    set_up_fails("hccl: device_lost", "device_lost op=HcclGetRootInfo count=1", says("HCCL_E_RUNTIME"));
}

#[test]
fn out_of_streams_refuses_the_connection_and_the_next_one_works() {
    let script = "out_of_streams op=aclrtCreateStream device=0 count=1";
    set_up_fails("hccl: out_of_streams", script, |error| {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, Retry::Later), "{error}");
    });
    let script = "out_of_streams op=HcclCommInitRootInfoConfig count=2";
    set_up_fails("hccl: out_of_streams", script, says("HCCL_E_RUNTIME"));
}

#[test]
fn alloc_fail_of_its_buffers_refuses_the_connection_and_the_next_one_works() {
    set_up_fails("hccl: alloc_fail", "alloc_fail op=buffers device=0 count=1", says("HCCL_E_MEMORY"));
}

#[test]
fn blackhole_connect_ends_in_its_time_and_the_next_one_works() {
    let script = "blackhole_connect ms=4000 count=2";
    set_up_fails("hccl: blackhole_connect", script, |error| {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    });
}

#[test]
fn a_probe_that_cannot_be_posted_refuses_the_connection_and_the_next_one_works() {
    let script = "refuse op=HcclBatchSendRecv device=0 code=4 count=1";
    set_up_fails("hccl: probe", script, says("first copies could not be posted"));
}

#[test]
fn a_probe_that_brings_other_bytes_refuses_the_connection_and_the_next_one_works() {
    // Nothing moves, and no error says so.
    let script = "partial_write op=receive device=0 fraction=0 code=0 count=1";
    set_up_fails("hccl: probe", script, says("other bytes"));
}

/// Another pair of NPUs moves bytes meanwhile.
fn others_work(simulator: &'static Simulator) {
    let (one, two) = (side(simulator, 2), side(simulator, 3));
    transfer(&again(&one, &two, Rights::Read), Op::Read).unwrap();
}

/// Closing an engine comes back in its time, and says what is held.
fn closes(side: Side) -> Vec<String> {
    let Side { engine, cache, region } = side;
    drop((cache, region));
    let asked = Instant::now();
    let report = engine.close(SHORT);
    assert!(asked.elapsed() < WAIT, "close hangs");
    match report {
        Ok(report) => report.held,
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn a_post_that_never_returns_ends_its_transfer_with_its_memory_withheld_and_others_go_on() {
    let Some(simulator) = simulator("hccl: a post that hangs") else { return };
    let alone = simulator.alone();
    for (op, device) in [(Op::Read, 0), (Op::Read, 1), (Op::Write, 0), (Op::Write, 1)] {
        let (one, two) = (side(simulator, 0), side(simulator, 1));
        let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
        let pair = again(&one, &two, rights);
        one.region.fill(0, BYTES, 1).unwrap();
        two.region.fill(0, BYTES, 2).unwrap();
        alone.faults(&format!("hang op=HcclBatchSendRecv device={device} count=1"));
        let error = transfer(&pair, op).unwrap_err();
        assert_eq!(
            (error.kind(), error.remote()),
            (ErrorKind::LinkLost, Quiet::AfterClose),
            "{op:?} {error}"
        );
        others_work(simulator);
        drop(pair);
        // Whose call hangs withholds its blocks, however long that takes.
        let (hung, ids) = (if device == 0 { &one } else { &two }, ids());
        let held = || match device {
            0 => !hung.engine.quarantined().is_empty(),
            _ => hung.cache.lease(&[&ids], Rights::Write, ropeway::LeaseOptions::default()).is_err(),
        };
        std::thread::sleep(Duration::from_millis(500));
        assert!(held(), "{op:?} {device}: what the call may still touch");
        assert!(hung.region.close(Duration::from_millis(100)).is_err(), "{op:?} {device}");
        // It goes on after all: what it moves finds nobody else in the blocks.
        alone.faults("");
        std::thread::sleep(Duration::from_millis(200));
        assert!(held(), "{op:?} {device}: the other side of the copies may come later");
        let held = closes(if device == 0 { one } else { two });
        assert_ne!(held, Vec::<String>::new(), "{op:?} {device}: close says what is held");
    }
}

#[test]
fn a_communicator_whose_making_never_returns_costs_its_connection_and_no_other() {
    let Some(simulator) = simulator("hccl: a set-up that hangs") else { return };
    let alone = simulator.alone();
    for call in ["HcclGetRootInfo", "HcclCommInitRootInfoConfig"] {
        for device in [0, 1] {
            let (one, two) = (side(simulator, 0), side(simulator, 1));
            alone.faults(&format!("hang op={call} device={device} count=1"));
            if connect(&one, &two, SHORT).is_ok() {
                // The root is made by one side, which chance chooses.
                assert_eq!(call, "HcclGetRootInfo");
                continue;
            }
            others_work(simulator);
            let error = connect(&one, &two, SHORT).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::TimedOut,
                "{call} {device}: the NPU's turn is taken: {error}"
            );
            let closing = side(simulator, 0);
            assert_eq!(closes(closing), Vec::<String>::new());
            // The call comes back: so does the NPU's turn.
            alone.faults("");
            transfer(&again(&one, &two, Rights::Read), Op::Read).unwrap();
        }
    }
}

#[test]
fn a_destroy_that_never_returns_withholds_nothing_and_keeps_nobody_waiting() {
    let Some(simulator) = simulator("hccl: a destroy that hangs") else { return };
    let alone = simulator.alone();
    let (one, two) = (side(simulator, 0), side(simulator, 1));
    let pair = again(&one, &two, Rights::Read);
    transfer(&pair, Op::Read).unwrap();
    alone.faults("hang op=HcclCommDestroy");
    drop(pair);
    let pair = again(&one, &two, Rights::Read);
    transfer(&pair, Op::Read).unwrap();
    drop(pair);
    assert_eq!(one.engine.quarantined(), []);
    let until = Instant::now() + WAIT;
    // Every copy had ended: nothing that the call does touches our memory.
    while let Err(error) = one.region.close(SHORT) {
        assert!(Instant::now() < until, "{error}");
    }
    closes(one);
    closes(two);
}
