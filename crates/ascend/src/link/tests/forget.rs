//! Letting go of a region natively: before it is unmapped, nothing has it registered any more.

use std::time::{Duration, Instant};

use ropeway_core::{ErrorKind, Op};
use ropeway_transport::Transport as _;

use super::fake::{Call, Fate};
use super::rig::{End, List, Order, eventually, grant, memory, pair, pair_of, pair_with, region, soon};

#[test]
fn a_region_is_deregistered_on_every_link_before_it_is_forgotten() {
    let (near, far) = pair();
    let (again, _beyond) = pair_of((&near.hardware, &near.transport), (&far.hardware, &far.transport));
    let ours = memory(4096, 9);
    near.link.adopt(region(3), &ours, soon()).unwrap();
    again.link.adopt(region(3), &ours, soon()).unwrap();
    near.transport.forget(region(3), soon()).unwrap();
    assert_eq!(near.hardware.count(|call| *call == Call::Deregister(region(3))), 2);
    assert!(!near.hardware.holds(region(3)));
    assert_eq!(near.hardware.count(|call| *call == Call::Disconnect), 0, "no link stands in the way");
    // Resumed, it is adopted anew.
    near.link.adopt(region(3), &ours, soon()).unwrap();
    assert!(near.hardware.holds(region(3)));
}

#[test]
fn a_region_that_no_link_knows_is_forgotten_at_once() {
    let (near, _far) = pair();
    near.transport.forget(region(3), Instant::now()).unwrap();
}

#[test]
fn a_region_in_use_is_not_forgotten_and_the_link_is_named() {
    let (near, far) = pair();
    let ours = memory(4096, 9);
    near.link.adopt(region(3), &ours, soon()).unwrap();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    near.hardware.fate(Fate::Hangs);
    let order = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let sent = order.post(&*near.link);
    near.hardware.await_under_way(1);
    let error = near.transport.forget(region(3), Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.message().contains("link to peer 0.1 by ipc"), "{error}");
    assert!(near.hardware.holds(region(3)));
    near.hardware.fate(Fate::Lands);
    eventually("it lands", || {
        near.hardware.land();
        sent.is_done()
    });
    near.transport.forget(region(3), soon()).unwrap();
    assert!(!near.hardware.holds(region(3)));
}

/// Two links of one library that keeps registrations while any is connected, and the far ends.
fn keeping() -> [End; 4] {
    let (near, far) = pair_with(|limits| limits.reconnect_for_regions = true);
    let (again, beyond) = pair_of((&near.hardware, &near.transport), (&far.hardware, &far.transport));
    [near, far, again, beyond]
}

#[test]
fn connections_that_keep_a_region_are_ended_for_it_and_made_anew() {
    let [near, far, again, beyond] = keeping();
    let (ours, other) = (memory(4096, 9), memory(4096, 9));
    near.link.adopt(region(3), &ours, soon()).unwrap();
    far.lend(1, 4096, 7, &near);
    beyond.lend(1, 4096, 7, &again);
    far.sink.lease(grant(1), Op::Write);
    beyond.sink.lease(grant(1), Op::Write);
    near.transport.forget(region(3), soon()).unwrap();
    assert!(!near.hardware.holds(region(3)) && !near.hardware.keeps(&ours), "unmapped under a registration");
    for link in [&near.link, &again.link] {
        let order = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &other, region(1));
        assert!(order.post(&**link).status().is_completed(), "the links go on");
    }
}

#[test]
fn connections_are_ended_only_after_what_is_in_flight() {
    let [near, _far, again, beyond] = keeping();
    let (ours, other) = (memory(4096, 9), memory(4096, 9));
    near.link.adopt(region(3), &ours, soon()).unwrap();
    beyond.lend(1, 4096, 7, &again);
    beyond.sink.lease(grant(1), Op::Write);
    let order = || Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &other, region(1));
    assert!(order().post(&*again.link).status().is_completed());
    near.hardware.fate(Fate::Hangs);
    let sent = order().post(&*again.link);
    near.hardware.await_under_way(1);
    let before = again.hardware.count(|call| *call == Call::Disconnect);
    let error = near.transport.forget(region(3), Instant::now() + Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(near.hardware.keeps(&ours));
    // The idle link is ended, the busy one is not.
    assert!(again.hardware.count(|call| *call == Call::Disconnect) <= before + 1);
    assert!(!sent.is_done());
    near.hardware.fate(Fate::Lands);
    near.hardware.land();
    assert!(sent.status().is_completed());
    near.transport.forget(region(3), soon()).unwrap();
    assert!(!near.hardware.keeps(&ours));
    assert!(order().post(&*again.link).status().is_completed());
}
