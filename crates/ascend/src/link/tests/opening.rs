//! How links come to be, or do not.

use std::time::{Duration, Instant};

use ropeway_core::{ErrorKind, Op};
use ropeway_transport::Transport as _;

use super::fake::{Call, Hardware};
use super::rig::{
    List, Order, Told, engine, grant, lone_passive, memory, pair, pair_of, region, soon, try_pair,
};

#[test]
fn both_directions_are_proven_before_either_side_uses_the_link() {
    let (near, far) = pair();
    for end in [&near, &far] {
        assert_eq!(end.hardware.count(|call| *call == Call::Connect), 1);
        assert_eq!(end.hardware.count(|call| matches!(call, Call::Post { op: Op::Read, bytes: 64, .. })), 1);
    }
    assert!(!near.sink.has(&Told::Attached), "only the passive side is told");
}

#[test]
fn a_way_that_brings_other_bytes_is_no_link() {
    for liar in 0..2 {
        let (near, far) = (Hardware::new(), Hardware::new());
        [&near, &far][liar].lie_in_probes();
        let (ours, theirs) = (engine(&near), engine(&far));
        let (active, passive) = try_pair((&near, &ours), (&far, &theirs), soon());
        let error = active.err().expect("the probe failed");
        assert!(error.message().contains("other bytes"), "{error}");
        passive.sink.await_closed();
        assert_eq!(passive.sink.told(), [Told::Closed { peer_gone: false }], "never attached, so never lost");
    }
}

#[test]
fn a_connect_that_fails_is_told_to_the_other_side() {
    let (near, far) = (Hardware::new(), Hardware::new());
    far.fail_connects();
    let (active, passive) = try_pair((&near, &engine(&near)), (&far, &engine(&far)), soon());
    let error = active.err().expect("there is no link");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("refused"), "{error}");
    passive.sink.await_closed();
}

#[test]
fn a_connect_into_a_black_hole_ends_in_its_time() {
    let (near, far) = (Hardware::new(), Hardware::new());
    near.hang_connects(true);
    let deadline = Instant::now() + Duration::from_millis(200);
    let (active, passive) = try_pair((&near, &engine(&near)), (&far, &engine(&far)), deadline);
    assert!(active.is_err());
    passive.sink.await_closed();
}

#[test]
fn a_passive_side_whose_peer_never_comes_ends_by_itself() {
    let far = Hardware::new();
    let deadline = Instant::now() + Duration::from_millis(100);
    let passive = lone_passive((&far, &engine(&far)), deadline);
    passive.sink.await_told(&Told::Closed { peer_gone: false });
    assert_eq!(far.count(|call| *call == Call::Connect), 0);
}

#[test]
fn a_peer_that_hangs_in_connect_does_not_slow_another() {
    let (near, first, second) = (Hardware::new(), Hardware::new(), Hardware::new());
    let ours = engine(&near);
    let (link, far) = pair_of((&near, &ours), (&first, &engine(&first)));
    far.lend(1, 4096, 7, &link);
    far.sink.lease(grant(1), Op::Write);
    let memory = memory(4096, 9);
    near.hang_connects(true);
    std::thread::scope(|scope| {
        let theirs = engine(&second);
        let hanging = scope.spawn({
            let (near, ours, second) = (&near, &ours, &second);
            move || try_pair((near, ours), (second, &theirs), soon()).0.is_ok()
        });
        super::rig::eventually("the second connect hangs", || near.count(|call| *call == Call::Connect) == 2);
        let mut moved = 0;
        while !hanging.is_finished() && moved < 200 {
            let order = Order::new(Op::Write, grant(1), List::pieces(4096, 512), &memory, region(1));
            assert!(order.post(&*link.link).status().is_completed());
            moved += 1;
        }
        assert_eq!(moved, 200, "transfers to one peer waited for the other");
        near.hang_connects(false);
        assert!(hanging.join().unwrap(), "the hanging connect went on");
    });
}

#[test]
fn as_many_links_as_the_library_can_have_and_no_more() {
    let (near, far) = (Hardware::new(), Hardware::new());
    near.limit(|limits| limits.links = Some(1));
    let (ours, theirs) = (engine(&near), engine(&far));
    assert_eq!(ours.capabilities().links_max, Some(1));
    let (one, _far) = pair_of((&near, &ours), (&far, &theirs));
    let (refused, _) = try_pair((&near, &ours), (&far, &theirs), soon());
    assert_eq!(refused.err().expect("one too many").kind(), ErrorKind::Full);
    one.link.close();
    one.sink.await_closed();
    pair_of((&near, &ours), (&far, &theirs));
}
