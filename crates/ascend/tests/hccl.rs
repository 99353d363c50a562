//! Hangs of HCCL's copies, from the engine's side.

mod hccl_ends;

use std::time::Duration;

use hccl_ends::*;
use ropeway::{Rights, Strided};
use ropeway_core::{ErrorKind, Op, Quiet};

#[test]
fn a_hang_breaks_its_communicator_in_bounded_time_and_a_new_one_works() {
    let Some(simulator) = simulator("hccl: hang") else { return };
    let alone = simulator.alone();
    let (one, two) = (side(simulator, 0), side(simulator, 1));
    for (op, hang) in [Op::Read, Op::Write].into_iter().flat_map(|op| [(op, "send"), (op, "receive")]) {
        let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
        let pair = again(&one, &two, rights);
        alone.faults(&format!("hang op={hang}"));
        let error = transfer(&pair, op).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{op:?} {hang}: {error}");
        // The owner's permit is held as long as the stream may run, and the engine says so.
        assert_eq!(error.remote(), Quiet::AfterClose, "{op:?} {hang}: {error}");
        assert_eq!(error.local(), Quiet::AfterClose, "{op:?} {hang}: {error}");
        alone.faults("");
        drop(pair);
        two.region.write(0, &[7; 4096]).unwrap();
        let pair = again(&one, &two, Rights::Read);
        transfer(&pair, Op::Read).unwrap();
        let mut got = [0; 4096];
        one.region.read(0, &mut got).unwrap();
        assert_eq!(got, [7; 4096]);
        // The aborted stream has ended and the hold is over: nothing is withheld for ever.
        eventually("the quarantine ends", || one.engine.quarantined().is_empty());
    }
}

#[test]
fn a_hang_whose_end_is_not_proven_withholds_its_memory_and_a_new_communicator_works() {
    let Some(simulator) = simulator("hccl: hang without an end") else { return };
    let alone = simulator.alone();
    // No abort is taken; or one is, and the wait after it fails for reasons of its own.
    for fault in [
        "refuse op=aclrtStreamAbort code=507000",
        "device_lost op=aclrtSynchronizeStreamWithTimeout code=107003",
    ] {
        let (one, two) = (side(simulator, 2), side(simulator, 3));
        let pair = again(&one, &two, Rights::Read);
        alone.faults(&format!("hang op=receive; {fault}"));
        let error = transfer(&pair, Op::Read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
        // Longer than the end of a communicator is tried, and the hold.
        std::thread::sleep(Duration::from_secs(6));
        alone.faults("");
        assert!(!one.engine.quarantined().is_empty(), "{fault}: what the device may still write is withheld");
        let closed = one.region.close(Duration::from_millis(100));
        assert!(closed.is_err(), "{fault}: a region that a device may still write");
        let (one, two) = (side(simulator, 2), side(simulator, 3));
        let pair = again(&one, &two, Rights::Read);
        transfer(&pair, Op::Read).unwrap();
    }
}

#[test]
fn a_set_up_that_fails_at_its_first_copies_gives_an_error_and_the_next_one_works() {
    let Some(simulator) = simulator("hccl: probe") else { return };
    let alone = simulator.alone();
    for fault in ["hang op=send", "hang op=receive"] {
        let (one, two) = (side(simulator, 0), side(simulator, 1));
        alone.faults(fault);
        let error = join(&one, &two, Rights::Read).err();
        let error = error.unwrap_or_else(|| panic!("{fault}: a link"));
        assert!(error.message().contains("507046"), "{fault}: {error}");
        alone.faults("");
        let pair = again(&one, &two, Rights::Read);
        transfer(&pair, Op::Read).unwrap();
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
