//! Leases that are revoked and regions that are withdrawn, before and while their bytes move.

use ropeway_core::{ErrorKind, GrantId, Op, Rights, StatusKind};

use crate::onesided::pause::Point;
use crate::onesided::rig::*;
use crate::{Fenced, Refusal};

const SMALL: u64 = 16 << 10;
const LARGE: u64 = 8 << 20;
const SIZES: [u64; 2] = [SMALL, LARGE];

/// A grant of the test alone: pause points go by it.
fn only(slot: u32, generation: u32) -> GrantId {
    GrantId { slot, generation }
}

#[test]
fn under_a_closed_or_foreign_grant_no_byte_moves() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        for (slot, size) in [(1, SMALL), (2, LARGE)] {
            let theirs = far.lend(slot, size, &near);
            stamp(&theirs, 1);
            let ours = private(size);
            stamp(&ours, 2);
            let before = (bytes_of(&theirs), bytes_of(&ours));
            let read = far.open(1, Rights::Read);
            let closed = far.open(2, Rights::Read);
            far.engine.fence().close(closed);
            let next = GrantId { generation: 2, ..read };
            let never = GrantId { slot: 60, generation: 1 };
            let beyond = GrantId { slot: u32::MAX, generation: 1 };
            for (op, grant) in [
                (Op::Write, read),
                (Op::Read, closed),
                (Op::Read, next),
                (Op::Read, never),
                (Op::Read, beyond),
            ] {
                let runs = List::reversed(size, 4096);
                let status = Order::new(op, grant, runs, &ours, region(slot)).run(&*near.link);
                assert_eq!(status.kind, StatusKind::StaleLease, "{kind} {op} {grant}");
                assert_eq!(status.run, 0);
                assert!((bytes_of(&theirs), bytes_of(&ours)) == before, "{kind} {op} {grant}");
            }
        }
    }
}

#[test]
fn a_read_whose_lease_is_revoked_before_its_confirmation_surfaces_no_byte() {
    for (kind, size) in KINDS.into_iter().flat_map(|kind| SIZES.map(|size| (kind, size))) {
        let (near, far) = pair(kind);
        let theirs = far.lend(1, size, &near);
        stamp(&theirs, 1);
        let ours = private(size);
        let grant = only(3, 101);
        far.engine.fence().open(grant, Rights::Read).unwrap();
        let held = Held::at(Point::Copied, grant);
        let (state, _) = std::thread::scope(|scope| {
            let posted = scope.spawn(|| {
                Order::new(Op::Read, grant, List::reversed(size, 4096), &ours, region(1)).post(&*near.link)
            });
            held.await_first();
            far.engine.fence().close(grant);
            assert_eq!(far.link.fence(grant), Fenced::Now, "a read lease is free at once");
            // The owner's next tenant, whose bytes must not be seen.
            stamp(&theirs, 3);
            drop(held);
            posted.join().unwrap()
        });
        near.link.drive(&state, Some(soon()));
        assert_eq!(state.status().unwrap().kind, StatusKind::StaleLease, "{kind} {size}");
        assert!(is_blank(&ours), "{kind} {size}: the destination was blanked");
    }
}

#[test]
fn a_write_lease_is_free_only_when_the_chunk_inside_the_fence_has_ended() {
    for (kind, size) in KINDS.into_iter().flat_map(|kind| SIZES.map(|size| (kind, size))) {
        let (near, far) = pair(kind);
        far.lend(1, size, &near);
        let ours = private(size);
        let (grant, idle) = (only(4, 102), only(5, 102));
        far.engine.fence().open(grant, Rights::Write).unwrap();
        far.engine.fence().open(idle, Rights::Write).unwrap();
        let held = Held::at(Point::Entered, grant);
        let (state, _) = std::thread::scope(|scope| {
            let posted = scope.spawn(|| {
                Order::new(Op::Write, grant, List::reversed(size, 4096), &ours, region(1)).post(&*near.link)
            });
            held.await_first();
            far.engine.fence().close(grant);
            assert_eq!(far.link.fence(grant), Fenced::Pending);
            far.engine.fence().close(idle);
            assert_eq!(far.link.fence(idle), Fenced::Now, "nobody uses it");
            std::thread::sleep(std::time::Duration::from_millis(120));
            assert!(!far.sink.has(&Told::Fenced(grant)), "{kind} {size}: told while a chunk is inside");
            drop(held);
            posted.join().unwrap()
        });
        far.sink.await_told(&Told::Fenced(grant));
        near.link.drive(&state, Some(soon()));
        assert_eq!(state.status().unwrap().kind, StatusKind::StaleLease, "{kind} {size}");
        assert_eq!(far.sink.told().iter().filter(|told| **told == Told::Fenced(grant)).count(), 1);
    }
}

#[test]
fn a_link_is_closed_only_when_the_peers_chunk_inside_the_fence_has_ended() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        far.lend(1, LARGE, &near);
        let ours = private(LARGE);
        let grant = only(6, 103);
        far.engine.fence().open(grant, Rights::Write).unwrap();
        let held = Held::at(Point::Entered, grant);
        let (state, _) =
            Order::new(Op::Write, grant, List::reversed(LARGE, 4096), &ours, region(1)).post(&*near.link);
        held.await_first();
        far.link.close();
        std::thread::sleep(std::time::Duration::from_millis(120));
        assert!(!far.sink.has(&Told::Closed { peer_gone: false }), "{kind}");
        drop(held);
        far.sink.await_told(&Told::Closed { peer_gone: false });
        near.sink.await_told(&Told::Closed { peer_gone: false });
        let status = state.park(Some(soon())).expect("watchdog");
        assert_eq!(status.kind, StatusKind::LinkLost, "{kind}");
    }
}

#[test]
fn a_region_is_withdrawn_only_when_the_last_batch_on_it_has_ended() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        let theirs = far.lend(1, LARGE, &near);
        let untouched = far.lend(2, SMALL, &near);
        stamp(&theirs, 1);
        let ours = private(LARGE);
        let grant = only(7, 104);
        far.engine.fence().open(grant, Rights::Read).unwrap();
        let held = Held::at(Point::Entered, grant);
        let (state, _) =
            Order::new(Op::Read, grant, List::reversed(LARGE, 4096), &ours, region(1)).post(&*near.link);
        held.await_first();
        far.sink.retract(region(1));
        assert_eq!(far.link.withdraw(region(1)), Fenced::Pending);
        assert_eq!(far.link.withdraw(region(3)), Fenced::Now, "never exported");
        // Under another grant, that nothing holds.
        let free = far.open(1, Rights::Read);
        eventually("the peer takes no batch on the region", || {
            let ends = std::sync::Arc::default();
            let order = Order::new(Op::Read, free, List::reversed(SMALL, 4096), &ours, region(1));
            let (_, batch) = order.batch(900, &ends);
            near.link.post(batch).is_err_and(|rejected| {
                rejected.batch.done.disarm();
                rejected.why == Refusal::RegionGone(region(1))
            })
        });
        assert!(!far.sink.has(&Told::Withdrawn(region(1))), "{kind}: told while a chunk is inside");
        drop(held);
        far.sink.await_told(&Told::Withdrawn(region(1)));
        near.link.drive(&state, Some(soon()));
        assert_eq!(state.status().unwrap().kind, StatusKind::Completed, "{kind}: the lease was open");
        assert!(near.link.import(region(1), soon()).is_err(), "{kind}: not to be had again");
        assert_eq!(near.link.import(region(2), soon()).unwrap(), untouched.len());
        assert_eq!(far.link.withdraw(region(2)), Fenced::Pending);
        far.sink.await_told(&Told::Withdrawn(region(2)));
    }
}

#[test]
fn an_unknown_region_is_refused_in_the_owners_words() {
    for kind in KINDS {
        let (near, _far) = pair(kind);
        let error = near.link.import(region(9), soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{kind}");
        assert!(error.message().contains("region 9.1"), "{kind}: {error}");
    }
}
