//! The owner's word after a READ, and the writer's word before blocks are reused.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ropeway_core::{Op, Quiet, StatusKind};
use ropeway_transport::Fenced;

use super::fake::Fate;
use super::rig::{List, Order, Told, grant, is_all, memory, pair, region};

#[test]
fn a_read_completes_only_after_the_owners_word() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(4096, 0);
    // The owner's answers are kept back.
    far.sink.muted.store(true, Ordering::SeqCst);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    super::rig::eventually("the bytes are there", || is_all(&ours, 7));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!sent.is_done(), "nobody has vouched for the bytes");
    far.sink.muted.store(false, Ordering::SeqCst);
    assert!(sent.status().is_completed());
}

#[test]
fn a_read_under_a_lease_that_ended_meanwhile_shows_zeros() {
    let (near, far) = pair();
    far.lend(1, 8192, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(8192, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 512), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    far.sink.revoke(grant(1));
    assert_eq!(far.link.fence(grant(1)), Fenced::Now, "a read lease is free at once");
    near.hardware.land();
    let status = sent.status();
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::StaleLease, Quiet::Yes, Quiet::Yes));
    let mut bytes = vec![1; 8192];
    ours.read(0, &mut bytes).unwrap();
    assert!(bytes[..4096].iter().all(|byte| *byte == 0), "someone else's bytes are shown");
    assert!(bytes[4096..].iter().all(|byte| *byte == 9), "what the batch did not name is left alone");
}

#[test]
fn several_reads_are_vouched_for_one_by_one() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    far.sink.lease(grant(2), Op::Read);
    far.sink.revoke(grant(2));
    let memories: Vec<_> = (0..10).map(|_| memory(4096, 9)).collect();
    far.sink.muted.store(true, Ordering::SeqCst);
    let sent: Vec<_> = (0..10)
        .map(|i| {
            let lease = grant(1 + i as u32 % 2);
            Order::new(Op::Read, lease, List::pieces(4096, 4096), &memories[i], region(1)).post(&*near.link)
        })
        .collect();
    super::rig::eventually("all bytes are there", || memories.iter().all(|memory| is_all(memory, 7)));
    far.sink.muted.store(false, Ordering::SeqCst);
    for (i, sent) in sent.iter().enumerate() {
        let kind = if i % 2 == 0 { StatusKind::Completed } else { StatusKind::StaleLease };
        assert_eq!(sent.status().kind, kind);
        assert!(is_all(&memories[i], if i % 2 == 0 { 7 } else { 0 }));
    }
}

#[test]
fn written_blocks_are_free_only_after_the_writers_last_byte() {
    let (near, far) = pair();
    let theirs = far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    far.sink.revoke(grant(1));
    assert_eq!(far.link.fence(grant(1)), Fenced::Pending);
    std::thread::sleep(Duration::from_millis(30));
    assert!(!far.sink.has(&Told::Fenced(grant(1))), "the hardware still writes");
    assert!(is_all(&theirs, 7));
    near.hardware.land();
    far.sink.await_told(&Told::Fenced(grant(1)));
    assert!(is_all(&theirs, 9), "all of it was there before the word");
    assert_eq!(sent.status().kind, StatusKind::StaleLease);
    // And the writer starts nothing more under it.
    let late = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert_eq!(late.status().kind, StatusKind::StaleLease);
    // The slot's next tenant is another lease.
    let next = ropeway_core::GrantId { slot: 1, generation: 2 };
    far.sink.lease(next, Op::Write);
    near.hardware.fate(Fate::Lands);
    let sent = Order::new(Op::Write, next, List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert!(sent.status().is_completed());
}

#[test]
fn a_writer_with_nothing_in_flight_answers_at_once() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    far.sink.revoke(grant(1));
    assert_eq!(far.link.fence(grant(1)), Fenced::Pending);
    far.sink.await_told(&Told::Fenced(grant(1)));
}

#[test]
fn a_write_that_waited_for_room_never_starts_after_the_fence() {
    let (near, far) = pair();
    let theirs = far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Busy);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    far.sink.revoke(grant(1));
    far.link.fence(grant(1));
    far.sink.await_told(&Told::Fenced(grant(1)));
    near.hardware.fate(Fate::Lands);
    assert_eq!(sent.status().kind, StatusKind::StaleLease);
    assert!(is_all(&theirs, 7));
}

#[test]
fn a_read_whose_owner_falls_silent_ends_in_its_time_and_shows_nothing() {
    let (near, far) = pair();
    far.lend(1, 4096, 7, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(4096, 9);
    far.sink.muted.store(true, Ordering::SeqCst);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1))
        .until(Instant::now() + Duration::from_millis(100))
        .post(&*near.link);
    let status = sent.status();
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::Abandoned, Quiet::Yes, Quiet::Yes));
    assert!(is_all(&ours, 0));
    // Late, the answer is of no use, and does no harm.
    far.sink.muted.store(false, Ordering::SeqCst);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    assert!(sent.status().is_completed());
}

#[test]
fn a_peer_with_more_leases_than_this_engine_may_have_fences_them_all() {
    let (near, far) = pair();
    // The rig's engines may have 64.
    for slot in 0..200 {
        assert_eq!(far.link.fence(grant(slot)), Fenced::Pending);
        far.sink.await_told(&Told::Fenced(grant(slot)));
    }
    assert_eq!(near.sink.told(), []);
}
