//! Posting: cutting, order, back-pressure, ends.

use std::sync::Arc;
use std::time::Duration;

use ropeway_core::{Op, Quiet, StatusKind};
use ropeway_transport::Refusal;

use super::fake::{Call, Fate, Hardware};
use super::rig::{
    List, Order, engine, eventually, grant, is_all, is_first, memory, pair, pair_of, pair_with, region,
};
use crate::curves::{Cuts, Hosts, Link, Way};
use crate::node::Chip;

#[test]
fn a_read_and_a_write_move_every_byte() {
    let (near, far) = pair();
    let theirs = far.lend(1, 1 << 20, 0xa5, &near);
    let ours = memory(1 << 20, 0);
    far.sink.lease(grant(1), Op::Read);
    let status = Order::new(Op::Read, grant(1), List::pieces(1 << 20, 4096), &ours, region(1))
        .post(&*near.link)
        .status();
    assert!(status.is_completed(), "{status:?}");
    assert_eq!(status.run, 256);
    assert!(is_all(&ours, 0xa5));
    ours.fill(0, 1 << 20, 0x5a).unwrap();
    far.sink.lease(grant(2), Op::Write);
    let status = Order::new(Op::Write, grant(2), List::pieces(1 << 20, 4096), &ours, region(1))
        .post(&*near.link)
        .status();
    assert!(status.is_completed());
    assert!(is_all(&theirs, 0x5a));
}

#[test]
fn requests_keep_to_the_movers_limits_and_several_are_under_way() {
    let (near, far) = pair();
    let theirs = far.lend(1, 64 << 20, 1, &near);
    drop(theirs);
    let ours = memory(64 << 20, 0);
    far.sink.lease(grant(1), Op::Read);
    near.hardware.fate(Fate::Hangs);
    // One run of 64 MiB is cut by bytes.
    let sent =
        Order::new(Op::Read, grant(1), List::pieces(64 << 20, 64 << 20), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(4);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(near.hardware.under_way(), 4, "as many as the limits say");
    near.hardware.fate(Fate::Lands);
    near.hardware.land();
    assert!(sent.status().is_completed());
    assert!(is_all(&ours, 1));
    let posts = near.hardware.calls();
    assert!(
        posts.iter().all(|call| !matches!(call, Call::Post { bytes, .. } if *bytes > 1 << 20)),
        "{posts:?}"
    );
}

#[test]
fn back_pressure_is_waited_out() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    let ours = memory(1 << 16, 0);
    far.sink.lease(grant(1), Op::Read);
    near.hardware.script(&[Fate::Busy; 20]);
    let sent = Order::new(Op::Read, grant(1), List::pieces(1 << 16, 512), &ours, region(1)).post(&*near.link);
    assert!(sent.status().is_completed());
    assert!(is_all(&ours, 3));
}

#[test]
fn a_small_batch_does_not_wait_for_a_large_one() {
    let (near, far) = pair_with(|limits| limits.requests = 1);
    far.lend(1, 32 << 20, 1, &near);
    far.sink.lease(grant(1), Op::Read);
    let (large, small) = (memory(32 << 20, 0), memory(4096, 0));
    near.hardware.fate(Fate::Hangs);
    let first =
        Order::new(Op::Read, grant(1), List::pieces(32 << 20, 1 << 20), &large, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    let second =
        Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &small, region(1)).post(&*near.link);
    // With each landing one more request is posted: the small one is among the next few.
    let mut landings = 0;
    while !second.is_done() {
        near.hardware.land();
        landings += 1;
        std::thread::sleep(Duration::from_millis(1));
        assert!(!first.is_done() || second.is_done(), "the small one ended last");
        assert!(landings < 10_000, "watchdog");
    }
    near.hardware.fate(Fate::Lands);
    near.hardware.land();
    assert!(first.status().is_completed());
}

#[test]
fn a_refused_request_ends_its_batch_alone() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(1 << 16, 9);
    near.hardware.script(&[Fate::Lands, Fate::Refused(103_900)]);
    let sent = Order::new(Op::Read, grant(1), List::pieces(1 << 16, 512), &ours, region(1)).post(&*near.link);
    let status = sent.status();
    assert_eq!((status.kind, status.native, status.run), (StatusKind::Native, 103_900, 16));
    assert_eq!((status.local, status.remote), (Quiet::Yes, Quiet::Yes));
    // What came has the owner's word; the rest is as it was.
    assert!(is_first(&ours, 16 * 512, 3, 9));
    let sent = Order::new(Op::Read, grant(1), List::pieces(1 << 16, 512), &ours, region(1)).post(&*near.link);
    assert!(sent.status().is_completed(), "the link goes on");
}

#[test]
fn a_partial_write_is_an_error_and_both_sides_are_quiet() {
    let (near, far) = pair();
    let theirs = far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(1 << 16, 9);
    near.hardware.script(&[Fate::Torn(507_013)]);
    let status =
        Order::new(Op::Write, grant(1), List::pieces(4096, 512), &ours, region(1)).post(&*near.link).status();
    assert_eq!((status.kind, status.native), (StatusKind::Native, 507_013));
    assert_eq!((status.local, status.remote), (Quiet::Yes, Quiet::Yes));
    assert_eq!(near.hardware.under_way(), 0);
    assert!(!is_all(&theirs, 3) && !is_all(&theirs, 9));
}

#[test]
fn a_full_queue_refuses_by_name_and_gives_room_back() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(1 << 16, 9);
    near.hardware.fate(Fate::Hangs);
    let order = || Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1));
    let sent: Vec<_> = (0..32).map(|_| order().post(&*near.link)).collect();
    let refused = order().try_post(&*near.link).err();
    assert_eq!(refused, Some(Refusal::Full { limit: "transfers_per_peer" }));
    near.hardware.fate(Fate::Lands);
    near.hardware.land();
    for sent in sent {
        eventually("it lands", || {
            near.hardware.land();
            sent.is_done()
        });
        assert!(sent.status().is_completed());
    }
    assert!(order().post(&*near.link).status().is_completed());
}

#[test]
fn a_batch_cancelled_before_its_first_request_moves_nothing() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Busy);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.link.cancel(sent.state.id());
    let status = sent.status();
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::Cancelled, Quiet::Yes, Quiet::Yes));
    assert!(is_all(&ours, 9));
}

#[test]
fn a_batch_cancelled_in_flight_ends_when_the_hardware_is_done() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    near.link.cancel(sent.state.id());
    std::thread::sleep(Duration::from_millis(20));
    assert!(!sent.is_done(), "the hardware still writes");
    near.hardware.land();
    let status = sent.status();
    assert_eq!((status.kind, status.local), (StatusKind::Cancelled, Quiet::Yes));
    assert!(is_all(&ours, 3), "the owner has vouched for what came");
}

#[test]
fn what_a_cancelled_read_brought_without_the_owners_word_is_cleared() {
    let (near, far) = pair();
    far.lend(1, 1 << 16, 3, &near);
    far.sink.lease(grant(1), Op::Read);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Read, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    near.link.cancel(sent.state.id());
    far.sink.revoke(grant(1));
    near.hardware.land();
    assert_eq!(sent.status().kind, StatusKind::Cancelled);
    assert!(is_all(&ours, 0));
}

#[test]
fn an_idle_link_costs_no_turns() {
    let (near, far) = pair();
    far.lend(1, 4096, 3, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    assert!(
        Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1))
            .post(&*near.link)
            .status()
            .is_completed()
    );
    // Whatever is on its way comes to rest.
    std::thread::sleep(Duration::from_millis(50));
    let before = (near.transport.posting_turns(), far.transport.posting_turns());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((near.transport.posting_turns(), far.transport.posting_turns()), before);
}

#[test]
fn a_request_that_takes_long_is_asked_for_seldom() {
    let (near, far) = pair();
    far.lend(1, 4096, 3, &near);
    far.sink.lease(grant(1), Op::Write);
    let ours = memory(4096, 9);
    near.hardware.fate(Fate::Hangs);
    let sent = Order::new(Op::Write, grant(1), List::pieces(4096, 4096), &ours, region(1)).post(&*near.link);
    near.hardware.await_under_way(1);
    let before = near.transport.posting_turns();
    std::thread::sleep(Duration::from_millis(200));
    let turns = near.transport.posting_turns() - before;
    assert!(turns < 800, "{turns} looks at one request in 200 ms: it is polled in a loop");
    near.hardware.land();
    assert!(sent.status().is_completed());
    drop(Arc::clone(&sent.state));
}

/// Runs of three pieces each, so that a request of 16 ends within a run.
#[test]
fn runs_are_cut_where_the_links_curve_dips() {
    let dips = Link { chip: Chip::A3, hosts: Hosts::One, way: Way::RoceCommunicator };
    let (near, far) = (Hardware::new(), Hardware::new());
    near.cut(Cuts::of(dips));
    let (near, far) = pair_of((&near, &engine(&near)), (&far, &engine(&far)));
    const TOTAL: u64 = 20 * (48 << 10);
    far.lend(1, TOTAL, 7, &near);
    let ours = memory(TOTAL, 0);
    far.sink.lease(grant(1), Op::Read);
    let status = Order::new(Op::Read, grant(1), List::pieces(TOTAL, 48 << 10), &ours, region(1))
        .post(&*near.link)
        .status();
    assert!(status.is_completed(), "{status:?}");
    assert_eq!(status.run, 20);
    assert!(is_all(&ours, 7));
    let posts: Vec<(usize, u64)> = near
        .hardware
        .calls()
        .iter()
        .filter_map(|call| match call {
            Call::Post { descs, bytes, .. } if *bytes > 4096 => Some((*descs, *bytes)),
            _ => None,
        })
        .collect();
    let full = (16, 16 * (16 << 10));
    assert_eq!(posts, [full, full, full, (12, 12 * (16 << 10))]);
}
