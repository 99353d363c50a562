//! Giving up, latching, closing: nothing is called quiet while the hardware can write, and nothing is held for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ropeway_core::{ErrorKind, Op, Quiet, StatusKind};
use ropeway_transport::{Fenced, Refusal, Transport as _};

use super::fake::{Call, Fate};
use super::rig::{List, Order, TIMING, Told, eventually, grant, is_all, memory, pair, region, soon};
use crate::link::Teardown;

#[test]
fn a_late_write_after_a_timeout_finds_its_memory_still_held() {
    let (near, far) = pair();
    let theirs = far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.script(&[Fate::Latches(103_901)]);
    let began = Instant::now();
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    let status = sent.status();
    assert_eq!((status.kind, status.native), (StatusKind::LinkLost, 103_901));
    assert_eq!((status.local, status.remote), (Quiet::AfterClose, Quiet::AfterClose));
    let (_, _, pinned) = sent.ends.0.lock().unwrap()[0];
    assert!(pinned, "the local memory goes into quarantine");
    near.sink.await_told(&Told::Lost(ErrorKind::LinkLost, Some(103_901)));
    near.hardware.await_call(|call| *call == Call::Disconnect);
    // The owner revokes and closes its region, as an engine does for a lost peer. It gets no block back.
    far.sink.revoke(grant(1));
    let fenced = far.link.fence(grant(1));
    assert_eq!(fenced, Fenced::Pending);
    std::thread::sleep(TIMING.window / 3);
    assert!(!near.sink.is_closed() && !far.sink.is_closed(), "handed out while the hardware may write");
    assert!(!far.sink.has(&Told::Fenced(grant(1))));
    // Now the bytes come, long after the timeout: into memory that is still there.
    near.hardware.land();
    assert!(is_all(&theirs, 9));
    near.sink.await_closed();
    assert!(began.elapsed() >= TIMING.window, "closed before the window had passed");
    far.sink.await_closed();
    assert!(far.sink.has(&Told::Fenced(grant(1))));
    assert!(!far.hardware.holds(region(1)), "deregistered at the end");
}

#[test]
fn a_teardown_that_proves_the_end_holds_nothing() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.teardown(Teardown::Proven);
    near.hardware.script(&[Fate::Latches(507_046)]);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert_eq!(sent.status().local, Quiet::AfterClose);
    near.sink.await_closed();
    assert_eq!(near.hardware.under_way(), 0);
    far.sink.await_closed();
}

#[test]
fn what_never_ends_is_never_called_quiet() {
    let (near, far) = pair();
    let theirs = far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.teardown(Teardown::Never);
    near.hardware.script(&[Fate::Latches(507_018)]);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert_eq!(sent.status().local, Quiet::AfterClose);
    near.hardware.await_call(|call| *call == Call::Disconnect);
    std::thread::sleep(TIMING.window * 2);
    assert!(!near.sink.is_closed(), "called quiet by time alone");
    near.hardware.land();
    assert!(is_all(&theirs, 9));
    assert_eq!(near.hardware.count(|call| matches!(call, Call::Release(_))), 0, "its imports stay mapped");
}

#[test]
fn a_transfer_given_up_in_flight_costs_the_link_and_is_held_for_the_window() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    let (ours, other) = (memory(4096, 9), memory(4096, 9));
    near.hardware.fate(Fate::Hangs);
    let abandon_at = Instant::now() + Duration::from_millis(100);
    let order = |memory: &Arc<_>| Order::new(Op::Read, grant(1), List::pieces(4096, 4096), memory, region(1));
    let first = order(&ours).until(abandon_at).post(&*near.link);
    let second = order(&other).post(&*near.link);
    near.hardware.await_under_way(2);
    let status = first.status();
    assert!(Instant::now() >= abandon_at);
    assert_eq!(
        (status.kind, status.local, status.remote),
        (StatusKind::Abandoned, Quiet::AfterClose, Quiet::AfterClose)
    );
    let status = second.status();
    assert_eq!((status.kind, status.local), (StatusKind::LinkLost, Quiet::AfterClose));
    near.sink.await_told(&Told::Lost(ErrorKind::LinkLost, None));
    assert_eq!(order(&ours).try_post(&*near.link).err(), Some(Refusal::Closed));
    near.sink.await_closed();
    assert!(Instant::now() >= abandon_at + TIMING.window);
}

#[test]
fn a_batch_given_up_before_its_first_request_ends_quietly_and_the_link_lives() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Busy);
    let order = || Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let sent = order().until(Instant::now() + Duration::from_millis(50)).post(&*near.link);
    let status = sent.status();
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::Abandoned, Quiet::Yes, Quiet::Yes));
    near.hardware.fate(Fate::Lands);
    assert!(order().post(&*near.link).status().is_completed());
    assert_eq!(near.hardware.count(|call| *call == Call::Disconnect), 0);
}

#[test]
fn closing_lets_requests_end_by_themselves_for_a_moment() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    near.link.close();
    near.hardware.land();
    let status = sent.status();
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::Closed, Quiet::Yes, Quiet::Yes));
    near.sink.await_closed();
    far.sink.await_closed();
    assert!(!near.sink.told().iter().any(|told| matches!(told, Told::Lost(..))), "who closes loses nothing");
    assert!(far.sink.told().iter().any(|told| matches!(told, Told::Lost(..))), "the other side hears of it");
}

#[test]
fn a_closed_link_that_owes_nothing_is_closed_at_once_on_both_sides() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert!(sent.status().is_completed());
    let began = Instant::now();
    near.link.close();
    near.sink.await_closed();
    far.sink.await_closed();
    // The peer's word, and not the time that its half could take at most.
    let longest = TIMING.drain + TIMING.disconnect + TIMING.window;
    assert!(began.elapsed() < longest, "the peer's word was not used");
    let calls = near.hardware.calls();
    let at = |what: &Call| calls.iter().rposition(|call| call == what).unwrap();
    assert!(at(&Call::Disconnect) < at(&Call::Release(region(1))), "{calls:?}");
    assert!(far.hardware.count(|call| *call == Call::Deregister(region(1))) == 1);
}

#[test]
fn the_importer_lets_go_before_the_exporter() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.link.close();
    far.hardware.await_call(|call| *call == Call::Deregister(region(1)));
    assert_eq!(near.hardware.count(|call| *call == Call::Release(region(1))), 1, "still imported");
}

#[test]
fn without_a_session_memory_lent_to_a_reader_is_held_for_as_long_as_it_could_read() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    near.sink.cut();
    far.sink.cut();
    let began = Instant::now();
    far.link.close();
    far.sink.await_closed();
    let longest = TIMING.drain + TIMING.disconnect + TIMING.window;
    assert!(began.elapsed() >= longest, "handed out after {:?}", began.elapsed());
}

/// Stopped, or behind a cut cable: it may write when it goes on, however long that takes.
#[test]
fn a_silent_writer_holds_its_blocks_until_it_speaks_or_is_proven_dead() {
    let longest = TIMING.drain + TIMING.disconnect + TIMING.window;
    for dies in [true, false] {
        let (near, far) = pair();
        let theirs = far.lend(1, 4096, 7, &near);
        far.sink.lease(grant(1), Op::Write);
        let ours = memory(4096, 9);
        near.hardware.fate(Fate::Hangs);
        let order = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
        let _sent = order.post(&*near.link);
        near.hardware.await_under_way(1);
        // Nothing that is said gets there any more.
        near.sink.muted.store(true, Ordering::SeqCst);
        far.sink.cut();
        far.sink.revoke(grant(1));
        assert_eq!(far.link.fence(grant(1)), Fenced::Pending);
        far.link.close();
        std::thread::sleep(longest * 2);
        assert!(!far.sink.is_closed() && !far.sink.has(&Told::Fenced(grant(1))), "handed out on a timer");
        assert!(far.hardware.holds(region(1)));
        near.hardware.land();
        assert!(is_all(&theirs, 9), "it wrote, later than any window");
        if dies {
            far.hardware.kill_peer();
        } else {
            near.link.close();
            near.sink.muted.store(false, Ordering::SeqCst);
        }
        far.sink.await_told(&Told::Closed { peer_gone: dies });
        assert!(far.sink.has(&Told::Fenced(grant(1))));
    }
}

#[test]
fn a_silent_peer_that_gave_up_its_lease_to_write_is_waited_for_no_longer_than_a_reader() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    near.sink.cut();
    far.sink.cut();
    far.link.close();
    std::thread::sleep((TIMING.drain + TIMING.disconnect + TIMING.window) * 2);
    assert!(!far.sink.is_closed(), "the lease is still held, though nothing asked for its fence");
    far.sink.release(grant(1));
    far.sink.await_closed();
}

#[test]
fn a_session_is_kept_as_long_as_both_sides_may_take_to_speak() {
    let (near, _far) = pair();
    let longest = TIMING.drain + TIMING.disconnect + TIMING.window;
    assert!(near.link.parts_within().is_some_and(|within| within > longest));
}

#[test]
fn nothing_is_released_between_the_end_of_a_link_and_the_end_of_its_hold() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.link.adopt(region(3), &ours, soon()).unwrap();
    near.hardware.fate(Fate::Hangs);
    let abandon_at = Instant::now() + Duration::from_millis(100);
    let order = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let sent = order.until(abandon_at).post(&*near.link);
    near.hardware.await_under_way(1);
    // Both wait for the request, which is given up.
    assert_eq!(far.link.withdraw(region(1)), Fenced::Pending);
    assert_eq!(near.link.withdraw(region(3)), Fenced::Pending);
    assert_eq!(sent.status().remote, Quiet::AfterClose);
    near.hardware.await_call(|call| *call == Call::Disconnect);
    std::thread::sleep(TIMING.window / 3);
    assert!(near.hardware.holds(region(3)), "deregistered under the hardware");
    assert_eq!(
        near.hardware.count(|call| *call == Call::Release(region(1))),
        0,
        "released under the hardware"
    );
    assert!(!far.sink.has(&Told::Withdrawn(region(1))), "said to be let go of");
    near.sink.await_closed();
    far.sink.await_closed();
    let calls = near.hardware.calls();
    let at = |what: &Call| calls.iter().rposition(|call| call == what).unwrap();
    assert!(at(&Call::Disconnect) < at(&Call::Release(region(1))), "{calls:?}");
}

#[test]
fn a_peer_that_is_proven_dead_frees_the_memory_at_once() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    near.sink.cut();
    far.sink.cut();
    far.hardware.kill_peer();
    let began = Instant::now();
    far.link.close();
    far.sink.await_told(&Told::Closed { peer_gone: true });
    assert!(began.elapsed() < TIMING.drain + TIMING.disconnect + TIMING.window);
}

#[test]
fn a_side_that_exported_nothing_waits_for_nobody() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    near.sink.cut();
    far.sink.cut();
    let began = Instant::now();
    near.link.close();
    near.sink.await_closed();
    assert!(began.elapsed() < TIMING.drain + TIMING.disconnect + TIMING.window);
}

#[test]
fn the_next_link_works_after_a_lost_one() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.script(&[Fate::Latches(503_900)]);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert_eq!(sent.status().kind, StatusKind::LinkLost);
    // While the old link's memory is held, a new one is made over the same libraries, and its regions are its own.
    let (again, beyond) =
        super::rig::pair_of((&near.hardware, &near.transport), (&far.hardware, &far.transport));
    let theirs = beyond.lend(2, 4096, 1, &again);
    beyond.sink.lease(grant(2), Op::Write);
    let sent = Order::new(Op::Write, grant(2), List::pieces(4096, 4096), &ours, region(2)).post(&*again.link);
    assert!(sent.status().is_completed());
    assert!(is_all(&theirs, 9));
    near.sink.await_closed();
    far.sink.await_closed();
    assert!(again.link.import(region(2), soon()).is_ok(), "the end of the old link is not the new one's");
}

#[test]
fn a_batch_that_meets_the_end_is_refused_or_ended_never_lost() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    std::thread::scope(|scope| {
        let posting = scope.spawn(|| {
            let mut sent = Vec::new();
            loop {
                let order = Order::new(Op::Write, grant(1), List::pieces(4096, 512), &ours, region(1));
                match order.try_post(&*near.link) {
                    Ok(one) => sent.push(one),
                    Err(Refusal::Closed | Refusal::RegionGone(_)) => return sent,
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        std::thread::sleep(Duration::from_millis(10));
        near.link.close();
        for sent in posting.join().unwrap() {
            let status = sent.status();
            assert!(matches!(status.kind, StatusKind::Completed | StatusKind::Closed), "{status:?}");
        }
    });
    near.sink.await_closed();
    eventually("the far side ends, too", || far.sink.is_closed());
}

#[test]
fn a_link_that_outlives_its_transport_still_ends() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    near.transport.close();
    far.transport.close();
    // Until the posting threads are gone.
    std::thread::sleep(Duration::from_millis(20));
    near.link.close();
    near.sink.await_closed();
    far.sink.await_closed();
}

#[test]
fn closed_is_told_after_every_end() {
    let (near, far) = pair();
    far.lend(1, 1 << 20, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(1 << 20, 9);
    let order = || Order::new(Op::Read, grant(1), List::pieces(1 << 20, 4096), &ours, region(1));
    let sent: Vec<_> = (0..16).map(|_| order().post(&*near.link)).collect();
    near.link.close();
    near.sink.await_closed();
    for sent in sent {
        // Also those whose destinations had to be cleared first.
        assert!(sent.is_done(), "closed was told before the end of a batch");
    }
}

#[test]
fn an_engine_that_is_gone_lets_go_of_its_library() {
    for closes_first in 0..2 {
        let (near, far) = pair();
        far.lend(1, 4096, 7, &near);
        far.sink.lease(grant(1), Op::Write);
        let ours = memory(4096, 9);
        let sent =
            Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
        assert!(sent.status().is_completed());
        let libraries = [near.hardware.clone(), far.hardware.clone()];
        [&near, &far][closes_first].link.close();
        near.sink.await_closed();
        far.sink.await_closed();
        // At once, as an engine does when nothing is held any more.
        near.transport.close();
        far.transport.close();
        drop((near, far));
        eventually("nothing has the libraries", || libraries.iter().all(|library| library.holders() == 1));
    }
}

#[test]
fn a_panic_at_the_end_of_one_batch_costs_neither_another_nor_the_links_end() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let order = || Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let _first = order().panicking().post(&*near.link);
    let second = order().post(&*near.link);
    near.hardware.await_under_way(2);
    // Both end in one turn.
    near.hardware.land();
    assert!(second.status().is_completed());
    near.link.close();
    near.sink.await_closed();
    far.sink.await_closed();
}
