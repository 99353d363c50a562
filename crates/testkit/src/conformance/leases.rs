//! Leases: a stale reference is an error, and both sides learn of an end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use ropeway::{BlockId, Error, ErrorKind, Event, Limits, Op, Outcome, Plan, Rights, Start, Submit};

use super::ground::{Ground, ids};
use super::owner::Terms;
use crate::oracle::Image;
use crate::watchdog::{WAIT, eventually};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 128;
const BYTES: u64 = BLOCKS as u64 * BLOCK;

/// How a submitted plan ended, whether it was refused or failed later.
fn outcome(plan: &Plan) -> Result<ropeway::Report, Error> {
    plan.submit(Submit::default())?.wait(WAIT).expect("ends")
}

/// Whether the importer has heard of the end or not, nothing begins after it.
pub fn a_revoked_lease_lets_no_transfer_begin(ground: &Ground) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
        let (ours, theirs) = (Image::fill(&pair.importer.region, 1), Image::fill(&pair.owner.region, 2));
        let route = pair.route(&importers);
        for blocks in [ids(0..1), ids(0..BLOCKS)] {
            let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
            let (lease, grant) = pair.lease(&owners, &[&blocks], rights);
            let plan = route.plan(op, &grant, None, &[&blocks], &[&blocks]).expect("planned");
            lease.revoke();
            assert_eq!(lease.wait_free(WAIT).expect("free").outcome, Outcome::Revoked);
            let error = outcome(&plan).expect_err("over");
            assert_eq!(error.kind(), ErrorKind::StaleLease, "{op}: {error}");
            assert!(error.message().contains("lease"), "{error}");
        }
        pair.expect_quiet();
        theirs.check(&pair.owner.region, "owner");
        // A read that the fence stopped may have blanked its destination, and nothing else.
        let blanked = if op == Op::Read { ours.blanked() } else { ours.clone() };
        Image::check_any(&[&ours, &blanked], &pair.importer.region, "importer");
        drop((route, owners, importers));
        pair.close();
    }
}

/// The owner revokes in mid-transfer and reuses the blocks as soon as they are free. A read shows no byte of the next
/// tenant; a write leaves none with it.
pub fn a_lease_revoked_under_transfers_shows_no_later_byte(ground: &Ground) {
    const OLD: u8 = 1;
    const TENANT: u8 = 2;
    const NEXT: u8 = 3;
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let all = ids(0..BLOCKS);
    let fill = |op: Op, ours: u8, theirs: u8| {
        let (importer, owner) = if op == Op::Read { (ours, theirs) } else { (theirs, ours) };
        pair.importer.region.fill(0, BYTES, importer).expect("inside");
        pair.owner.region.fill(0, BYTES, owner).expect("inside");
    };
    let holds = |op: Op| {
        let mut bytes = vec![0; BYTES as usize];
        match op {
            Op::Read => pair.importer.region.read(0, &mut bytes),
            Op::Write => pair.owner.region.read(0, &mut bytes),
        }
        .expect("inside");
        bytes
    };
    for round in 0..16u32 {
        let op = if round % 2 == 0 { Op::Read } else { Op::Write };
        let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
        fill(op, OLD, TENANT);
        let (lease, grant) = pair.lease(&owners, &[&all], rights);
        let plan = route.plan(op, &grant, None, &[&all], &[&all]).expect("planned");
        let transfer = plan.submit(Submit::default()).expect("submitted");
        std::thread::sleep(Duration::from_micros(u64::from(round) * 150));
        lease.revoke();
        assert!(lease.wait_free(WAIT).is_some(), "round {round}");
        pair.owner.region.fill(0, BYTES, NEXT).expect("inside");
        let ended = transfer.wait(WAIT).expect("ends");
        match (op, &ended) {
            (Op::Read, Ok(_)) => {
                assert!(
                    holds(op).iter().all(|byte| *byte == TENANT),
                    "round {round}: completed with other bytes"
                );
            }
            (Op::Read, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::StaleLease, "round {round}: {error}");
                let shown = holds(op).iter().filter(|byte| **byte == NEXT).count();
                assert_eq!(shown, 0, "round {round}: bytes of the next tenant in a stale read");
            }
            (Op::Write, ended) => {
                if let Err(error) = ended {
                    assert_eq!(error.kind(), ErrorKind::StaleLease, "round {round}: {error}");
                }
                std::thread::sleep(Duration::from_millis(2));
                let late = holds(op).iter().filter(|byte| **byte != NEXT).count();
                assert_eq!(late, 0, "round {round}: late bytes in blocks that were free");
            }
        }
    }
    drop((route, owners, importers));
    pair.close();
}

/// The slot is the same, the generation is not.
pub fn a_grant_of_a_past_lease_does_not_open_the_next(ground: &Ground) {
    let pair = ground.pair_with(BYTES, Limits::default().with_leases(1));
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..4);
    let (first, past) = pair.lease(&owners, &[&blocks], Rights::Read);
    let stale = route.read(&past, &[&blocks], &[&blocks]).expect("planned");
    first.revoke();
    assert!(first.wait_free(WAIT).is_some());
    let (second, grant) = pair.lease(&owners, &[&blocks], Rights::Read);
    assert_eq!((second.id().slot, first.id().slot), (0, 0), "the slot is used again");
    assert_eq!(outcome(&stale).expect_err("of the past").kind(), ErrorKind::StaleLease);
    let token = first.token();
    let claimed = pair.peer.claim(&token, WAIT).and_then(ropeway::Pending::wait);
    assert_eq!(claimed.map(drop).expect_err("of the past").kind(), ErrorKind::StaleLease);
    assert!(outcome(&route.read(&grant, &[&blocks], &[&blocks]).expect("planned")).is_ok());
    drop((stale, past, grant, route, owners, importers));
    pair.close();
}

/// A token names the life of its owner.
pub fn a_token_of_another_life_is_stale(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let owners = pair.owner.dense(BLOCK);
    let lease = owners.lease(&[&ids(0..1)], Rights::Read, Terms::default()).expect("lease");
    let mut token = lease.token();
    token.incarnation = pair.importer.engine.incarnation();
    let error = pair.peer.claim(&token, WAIT).and_then(ropeway::Pending::wait).map(drop).expect_err("stale");
    assert_eq!(error.kind(), ErrorKind::StaleLease, "{error}");
    let mut token = lease.token();
    token.secret ^= 1 << 77;
    let error = pair.peer.claim(&token, WAIT).and_then(ropeway::Pending::wait).map(drop).expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    drop((lease, owners));
    pair.close();
}

/// Renewals keep a lease past its time to live, also one that is shorter than the engine's pause between heartbeats.
pub fn renewals_keep_a_lease_of_any_time_to_live(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..BLOCKS);
    // Long enough for a machine that is busy with other things.
    let ttl = Duration::from_secs(2);
    let brief = Terms::default().ttl(ttl);
    let (lease, grant) = pair.lease_with(&owners, &[&blocks], Rights::Read, brief);
    assert!(lease.wait_free(ttl * 3 / 2).is_none(), "renewed in the background");
    let plan = route.read(&grant, &[&blocks], &[&blocks]).expect("planned");
    assert!(outcome(&plan).is_ok());
    drop((plan, grant));
    assert_eq!(lease.wait_free(WAIT).expect("free").outcome, Outcome::Done);
    // What no heartbeat could keep alive is refused.
    let too_brief = owners.lease(&[&blocks], Rights::Read, Terms::default().ttl(ttl / 60));
    assert_eq!(too_brief.map(drop).expect_err("too brief").kind(), ErrorKind::ApiMisuse);
    drop((lease, route, owners, importers));
    pair.close();
}

/// First-contact grace: the holder that was expected never came.
pub fn a_lease_that_nobody_claims_comes_back(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let owners = pair.owner.dense(BLOCK);
    let options = Terms::default().first_contact_grace(Duration::from_millis(20));
    let lease = owners.lease(&[&ids(0..1)], Rights::Write, options).expect("lease");
    assert_eq!(lease.wait_free(WAIT).expect("free").outcome, Outcome::NeverClaimed);
    let late = pair.peer.claim(&lease.token(), WAIT).and_then(ropeway::Pending::wait);
    assert_eq!(late.map(drop).expect_err("too late").kind(), ErrorKind::StaleLease);
    drop((lease, owners));
    pair.close();
}

/// Blocks that are not complete yet cannot be claimed; when they are, whoever waits gets the grant.
pub fn claims_wait_for_the_event_of_a_pending_lease(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let event = pair.owner.event();
    let options = Terms::default().after(&event);
    let blocks = ids(0..2);
    let lease = owners.lease(&[&blocks], Rights::Read, options).expect("lease");
    let mut claim = pair.peer.claim(&lease.token(), WAIT).expect("claim");
    let mut context = Context::from_waker(Waker::noop());
    std::thread::sleep(Duration::from_millis(20));
    assert!(Pin::new(&mut claim).poll(&mut context).is_pending(), "the blocks are not complete");
    pair.owner.region.fill(0, 2 * BLOCK, 9).expect("inside");
    event.fire();
    let grant = claim.wait().expect("claimed");
    assert!(outcome(&route.read(&grant, &[&blocks], &[&blocks]).expect("planned")).is_ok());
    let mut bytes = vec![0; 2 * BLOCK as usize];
    pair.importer.region.read(0, &mut bytes).expect("inside");
    assert!(bytes.iter().all(|byte| *byte == 9));
    drop((grant, route, owners, importers, lease));
    pair.close();
}

/// Before anything starts, and saying which.
pub fn wrong_rights_and_blocks_outside_the_lease_are_refused(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    for (rights, wrong, right) in [(Rights::Read, Op::Write, Op::Read), (Rights::Write, Op::Read, Op::Write)]
    {
        let (_lease, grant) = pair.lease(&owners, &[&ids(4..8)], rights);
        let error =
            route.plan(wrong, &grant, None, &[&ids(0..4)], &[&ids(4..8)]).map(drop).expect_err("no right");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        for outside in [ids(3..7), ids(5..9), ids(0..4)] {
            let error =
                route.plan(right, &grant, None, &[&ids(0..4)], &[&outside]).map(drop).expect_err("outside");
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        }
        let error = route
            .plan(right, &grant, None, &[&ids(0..1)], &[&[BlockId(BLOCKS)]])
            .map(drop)
            .expect_err("past the end");
        assert!(matches!(error.kind(), ErrorKind::OutOfBounds | ErrorKind::Denied), "{error}");
    }
    drop((route, owners, importers));
    pair.close();
}

/// One bit per sequence: a retried layer counts once, a failure is told and mended by the retry.
pub fn notifications_arrive_once_and_failures_are_told(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..BLOCKS);
    let (lease, grant) = pair.lease(&owners, &[&blocks], Rights::Write);
    let plan = route.write(&grant, &[&blocks], &[&blocks]).expect("planned");
    let event = Event::new();
    let fails = plan.submit(Submit::default().notify(5).start(Start::AfterEvent(event))).expect("submitted");
    fails.cancel();
    assert!(fails.wait(WAIT).expect("ends").is_err());
    eventually("the failure is told", || lease.failed(5));
    assert!(!lease.arrived(5));
    for sequence in [5, 6, 5, 6] {
        plan.submit(Submit::default().notify(sequence))
            .expect("submitted")
            .wait(WAIT)
            .expect("ends")
            .expect("moved");
    }
    assert!(lease.wait_arrivals(2, WAIT));
    eventually("the retry mends the failure", || !lease.failed(5));
    drop((fails, plan, grant));
    assert!(lease.wait_free(WAIT).is_some());
    assert_eq!(lease.arrivals(), 2, "a sequence counts once");
    drop((route, owners, importers));
    pair.close();
}

/// The work that an event stands for may fail: then its transfer says so, and its lease is revoked.
pub fn a_failed_event_ends_what_waits_for_it(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..2);
    let broken = || Error::new(ErrorKind::Resource, "event", "the stream was aborted").with_native(107_023);
    let event = pair.owner.event();
    let options = Terms::default().after(&event);
    let pending = owners.lease(&[&blocks], Rights::Read, options).expect("lease");
    event.fail(broken());
    assert_eq!(pending.wait_free(WAIT).expect("free").outcome, Outcome::Revoked);
    let (_lease, grant) = pair.lease(&owners, &[&blocks], Rights::Read);
    let plan = route.read(&grant, &[&blocks], &[&blocks]).expect("planned");
    let event = Event::new();
    let transfer = plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).expect("submitted");
    event.fail(broken());
    event.fire();
    let error = transfer.wait(WAIT).expect("ends").expect_err("never began");
    assert_eq!((error.kind(), error.native()), (ErrorKind::Resource, Some(107_023)), "{error}");
    let late = plan.submit(Submit::default().start(Start::AfterEvent(event))).expect("submitted");
    assert_eq!(late.wait(WAIT).expect("ends").expect_err("failed before").native(), Some(107_023));
    drop((transfer, late, plan, grant, route, owners, importers, pending));
    pair.close();
}

/// Sleep mode: after `suspend` nobody touches the memory; after `resume` a new route does again.
pub fn a_suspended_region_lets_go_and_comes_back(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..BLOCKS);
    let (lease, grant) = pair.lease(&owners, &[&blocks], Rights::Read);
    let plan = route.read(&grant, &[&blocks], &[&blocks]).expect("planned");
    let (owner, importer) = (&pair.owner.region, &pair.importer.region);
    owner.suspend(WAIT).expect("suspended");
    importer.suspend(WAIT).expect("suspended");
    for error in [owner.read(0, &mut [0]), importer.read(0, &mut [0])] {
        let error = error.expect_err("suspended");
        assert!(error.message().contains("resume"), "{error}");
    }
    pair.expect_quiet();
    assert_eq!(lease.wait_free(WAIT).expect("free").outcome, Outcome::Revoked);
    assert!(outcome(&plan).is_err());
    let error = owners.lease(&[&blocks], Rights::Read, Terms::default()).map(drop).expect_err("suspended");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    for expected in [None, Some(ErrorKind::ApiMisuse)] {
        // SAFETY: the test never unmapped it.
        let resumed = unsafe { owner.resume() };
        assert_eq!(resumed.err().map(|error| error.kind()), expected);
        // SAFETY: as above.
        let resumed = unsafe { importer.resume() };
        assert_eq!(resumed.err().map(|error| error.kind()), expected);
    }
    let (ours, theirs) = (Image::fill(&pair.importer.region, 1), Image::fill(&pair.owner.region, 2));
    let again = pair.route(&importers);
    let (_lease, grant) = pair.lease(&owners, &[&blocks], Rights::Read);
    outcome(&again.read(&grant, &[&blocks], &[&blocks]).expect("planned")).expect("moved");
    let mut moved = ours;
    moved.copy(0, &theirs, 0, BYTES);
    moved.check(&pair.importer.region, "importer");
    drop((plan, grant, route, again, owners, importers, lease));
    pair.close();
}

/// `close` returns when the peer's import and transfers are over, and not before: then the pages are forbidden.
pub fn a_region_closed_while_exported_waits_for_its_peers(ground: &Ground) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
        let route = pair.route(&importers);
        let blocks = ids(0..BLOCKS);
        let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
        let (lease, grant) = pair.lease(&owners, &[&blocks], rights);
        let plan = route.plan(op, &grant, None, &[&blocks], &[&blocks]).expect("planned");
        let transfers: Vec<_> = (0..3).map(|_| plan.submit(Submit::default()).expect("submitted")).collect();
        pair.owner.region.close(WAIT).unwrap_or_else(|error| panic!("{op}: {error}"));
        pair.owner.forbid();
        // The lease is told free a moment after nothing can touch the memory any more.
        assert!(lease.wait_free(WAIT).is_some());
        for transfer in transfers {
            if let Err(error) = transfer.wait(WAIT).expect("ends") {
                let kinds = [ErrorKind::StaleLease, ErrorKind::Closed, ErrorKind::PeerGone];
                assert!(kinds.contains(&error.kind()), "{op}: {error}");
            }
        }
        let error = owners.lease(&[&blocks], rights, Terms::default()).map(drop).expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        drop((plan, grant, route, owners, importers));
        pair.close();
    }
}

/// Old routes and new ones alike.
pub fn a_route_over_a_closed_region_is_refused(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let blocks = ids(0..4);
    let (_lease, grant) = pair.lease(&owners, &[&blocks], Rights::Read);
    let plan = route.read(&grant, &[&blocks], &[&blocks]).expect("planned");
    pair.owner.region.close(WAIT).expect("closes");
    let error = outcome(&plan).expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::StaleLease), "{error}");
    let again = pair.peer.route(&importers, "kv", WAIT).and_then(ropeway::Pending::wait);
    assert!(
        again.is_err() || matches!(ground.kind, ropeway::TransportKind::Tcp | ropeway::TransportKind::Hccl),
        "a region that is closed was imported"
    );
    // Our own region, too.
    pair.importer.region.close(WAIT).expect("closes");
    let error = outcome(&plan).expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::StaleLease), "{error}");
    drop((plan, grant, route, owners, importers));
    pair.close();
}

/// Both sides learn of a failure: here of an orderly end.
pub fn the_end_of_either_side_is_told_to_the_other(ground: &Ground) {
    for owner_ends in [false, true] {
        let pair = ground.pair(BYTES);
        let owners = pair.owner.dense(BLOCK);
        let (lease, grant) = pair.lease(&owners, &[&ids(0..4)], Rights::Write);
        eventually("the owner has its peer", || pair.owner.engine.peers() > 0);
        if owner_ends {
            assert!(pair.owner.engine.close(WAIT).is_empty());
            eventually("the importer's grant is over", || grant.is_stale());
            eventually("the importer's peer is gone", || !pair.peer.is_connected());
            let error = pair.peer.claim(&lease.token(), WAIT).map(drop).expect_err("no session");
            assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
        } else {
            assert!(pair.importer.engine.close(WAIT).expect("close").held.is_empty());
            let freed = lease.wait_free(WAIT).expect("the owner's blocks come back");
            assert!(matches!(freed.outcome, Outcome::PeerLost | Outcome::Done), "{freed:?}");
            eventually("the owner's peer is gone", || pair.owner.engine.peers() == 0);
        }
        drop((grant, lease, owners));
        pair.close();
    }
}
