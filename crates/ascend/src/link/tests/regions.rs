//! Regions across a link: asked for, withdrawn, used as local ends, registered late.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ropeway_core::{ErrorKind, Op, StatusKind};
use ropeway_transport::{Fenced, Refusal};

use super::fake::{Call, Fate};
use super::rig::{List, Order, Told, eventually, grant, memory, pair, pair_with, region, soon};

#[test]
fn importing_twice_is_importing_once() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    assert_eq!(near.link.import(region(1), soon()).unwrap(), 4096);
    assert_eq!(near.hardware.count(|call| *call == Call::Import(region(1))), 1);
    assert_eq!(far.hardware.count(|call| *call == Call::Register(region(1))), 1);
}

#[test]
fn a_region_that_the_peer_does_not_have_is_denied_with_its_reason() {
    let (near, _far) = pair();
    let error = near.link.import(region(5), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.message().contains("5.1"), "{error}");
    // And may be had later.
    _far.lend(5, 4096, 1, &near);
}

#[test]
fn a_withdrawn_region_waits_for_its_last_batch() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let order = || Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let sent = order().post(&*near.link);
    near.hardware.await_under_way(1);
    assert_eq!(far.link.withdraw(region(1)), Fenced::Pending);
    eventually("new batches are refused", || {
        order().try_post(&*near.link).err() == Some(Refusal::RegionGone(region(1)))
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!far.sink.has(&Told::Withdrawn(region(1))));
    assert!(far.hardware.holds(region(1)));
    near.hardware.fate(Fate::Lands);
    eventually("it lands", || {
        near.hardware.land();
        sent.is_done()
    });
    assert_eq!(sent.status().kind, StatusKind::Completed);
    far.sink.await_told(&Told::Withdrawn(region(1)));
    assert!(!far.hardware.holds(region(1)), "deregistered before the engine heard of it");
    assert_eq!(near.hardware.count(|call| *call == Call::Release(region(1))), 1);
}

#[test]
fn an_owner_hears_that_a_region_is_let_go_of_when_it_is_and_not_while_a_link_ends() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    near.link.import(region(1), soon()).unwrap();
    let (theirs, hardware) = (Arc::clone(&far.link), far.hardware.clone());
    let (sender, held) = mpsc::channel();
    // The owner withdraws it while the importer's end is letting go.
    near.hardware.while_releasing(move || {
        assert_eq!(theirs.withdraw(region(1)), Fenced::Pending);
        std::thread::sleep(Duration::from_millis(200));
        sender.send(hardware.holds(region(1))).unwrap();
    });
    near.link.close();
    assert!(held.recv_timeout(Duration::from_secs(60)).unwrap(), "deregistered under its importer");
    far.sink.await_closed();
    assert!(!far.hardware.holds(region(1)));
}

#[test]
fn a_region_that_nobody_imported_is_withdrawn_at_once() {
    let (_near, far) = pair();
    assert_eq!(far.link.withdraw(region(1)), Fenced::Now);
}

#[test]
fn a_region_that_is_withdrawn_while_it_is_lent_is_not_lent() {
    let (near, far) = pair();
    let theirs = memory(4096, 7);
    far.sink.offer(region(1), &theirs);
    let (sender, answer) = std::sync::mpsc::channel();
    let link = std::sync::Arc::clone(&far.link);
    far.sink.while_exporting(move || sender.send(link.withdraw(region(1))).unwrap());
    assert_eq!(near.link.import(region(1), soon()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(answer.recv().unwrap(), Fenced::Pending, "the export is pinned already");
    far.sink.await_told(&Told::Withdrawn(region(1)));
    assert!(!far.hardware.holds(region(1)));
}

#[test]
fn a_region_that_is_withdrawn_while_its_registration_fails_is_told_to_be_gone() {
    // The probe memory is all that there is room for.
    let (near, _far) = pair_with(|limits| limits.regions = Some(1));
    let (sender, answer) = std::sync::mpsc::channel();
    let link = std::sync::Arc::clone(&near.link);
    near.hardware.while_registering(move || sender.send(link.withdraw(region(1))).unwrap());
    assert_eq!(near.link.adopt(region(1), &memory(4096, 9), soon()).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(answer.recv().unwrap(), Fenced::Pending);
    near.sink.await_told(&Told::Withdrawn(region(1)));
    assert_eq!(near.link.withdraw(region(1)), Fenced::Now);
}

#[test]
fn a_local_region_is_registered_once_and_let_go_of() {
    let (near, far) = pair();
    let ours = memory(4096, 9);
    near.link.adopt(region(3), &ours, soon()).unwrap();
    near.link.adopt(region(3), &ours, soon()).unwrap();
    assert_eq!(near.hardware.count(|call| *call == Call::Register(region(3))), 1);
    // Lent to the peer, too: one registration serves both.
    near.sink.offer(region(3), &ours);
    far.link.import(region(3), soon()).unwrap();
    assert_eq!(near.hardware.count(|call| *call == Call::Register(region(3))), 1);
    assert_eq!(near.link.withdraw(region(3)), Fenced::Pending);
    near.sink.await_told(&Told::Withdrawn(region(3)));
    assert!(!near.hardware.holds(region(3)));
    assert_eq!(near.link.adopt(region(4), &ours, soon()).map_err(|error| error.kind()), Ok(()));
    assert_eq!(near.link.withdraw(region(4)), Fenced::Pending);
    near.sink.await_told(&Told::Withdrawn(region(4)));
}

#[test]
fn host_memory_is_refused_by_a_library_that_cannot_touch_it() {
    let (near, _far) = pair_with(|limits| limits.host_memory = false);
    let error = near.link.adopt(region(3), &memory(4096, 9), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn late_regions_are_used_after_connecting_anew_and_not_before() {
    let (near, far) = pair_with(|limits| limits.reconnect_for_regions = true);
    far.lend(1, 4096, 7, &near);
    far.lend(2, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    assert_eq!(near.hardware.count(|call| *call == Call::Connect), 1, "connected anew only when it is used");
    let order = |slot| Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(slot));
    assert!(order(1).post(&*near.link).status().is_completed());
    assert!(order(2).post(&*near.link).status().is_completed());
    assert_eq!(near.hardware.count(|call| *call == Call::Connect), 2, "once for both");
    // A region that comes while something is in flight waits for its end.
    near.hardware.fate(Fate::Hangs);
    let first = order(1).post(&*near.link);
    near.hardware.await_under_way(1);
    far.lend(3, 4096, 7, &near);
    let second = order(3).post(&*near.link);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(near.hardware.count(|call| *call == Call::Connect), 2, "not while a request is in flight");
    near.hardware.fate(Fate::Lands);
    near.hardware.land();
    assert!(first.status().is_completed());
    assert!(second.status().is_completed());
    assert_eq!(near.hardware.count(|call| *call == Call::Connect), 3);
}

#[test]
fn a_link_that_cannot_be_connected_anew_is_lost_and_says_why() {
    let (near, far) = pair_with(|limits| limits.reconnect_for_regions = true);
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    near.hardware.fail_connects();
    let ours = memory(4096, 9);
    let order = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    assert_eq!(order.post(&*near.link).status().kind, StatusKind::LinkLost);
    near.sink.await_told(&Told::Lost(ErrorKind::LinkLost, Some(503_900)));
    near.sink.await_closed();
}

#[test]
fn what_the_library_counts_is_limited_and_not_regions() {
    // The probe memory is one.
    let (near, _far) = pair_with(|limits| limits.regions = Some(2));
    let (ours, other) = (memory(4096, 9), memory(4096, 9));
    for one in 1..50 {
        near.link.adopt(region(one), &ours, soon()).unwrap();
    }
    assert_eq!(near.link.adopt(region(50), &other, soon()).unwrap_err().kind(), ErrorKind::Full);
    for one in 1..50 {
        assert_eq!(near.link.withdraw(region(one)), Fenced::Pending);
        near.sink.await_told(&Told::Withdrawn(region(one)));
    }
    near.link.adopt(region(50), &other, soon()).unwrap();
}

#[test]
fn an_import_that_is_not_answered_ends_in_its_time() {
    let (near, far) = pair();
    far.sink.cut();
    let error = near.link.import(region(1), Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}
