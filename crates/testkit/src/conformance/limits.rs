//! Limits and bad calls: a typed refusal that says what to do, and nothing started.

use std::time::Duration;

use ropeway::{
    BlockId, Completion, ErrorKind, Event, Limits, Plan, RawCopy, Rights, Start, Strided, Submit, SubmitError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ground::{Ground, Pair, Part, ids};
use super::owner::{Layout, OwnerLease};
use crate::watchdog::WAIT;

const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 32;
const BYTES: u64 = BLOCKS as u64 * BLOCK;

fn planned(pair: &Pair) -> (OwnerLease, Plan) {
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let all = ids(0..BLOCKS);
    let (lease, grant) = pair.lease(&owners, &[&all], Rights::Read);
    (lease, pair.route(&importers).read(&grant, &[&all], &[&all]).expect("planned"))
}

fn full(plan: &Plan, submit: Submit) -> &'static str {
    match plan.submit(submit) {
        Err(SubmitError::Full { limit }) => limit,
        other => panic!("{other:?} where a limit is reached"),
    }
}

/// One transfer at a time, per peer or in all: the second is refused by name, and there is a way to wait for room.
pub fn a_full_transfer_table_refuses_and_gives_room_back(ground: &Ground) {
    let small = [
        ("transfers_per_peer", Limits::default().with_transfers_per_peer(1)),
        ("transfers", Limits::default().with_transfers(1)),
    ];
    for (limit, limits) in small {
        let pair = ground.pair_with(BYTES, limits);
        let (_lease, plan) = planned(&pair);
        for round in 0..3 {
            let event = Event::new();
            let first =
                plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).expect("submitted");
            assert_eq!(full(&plan, Submit::default()), limit);
            assert!(!pair.peer.wait_for_room(Duration::from_millis(5)), "round {round}");
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| pair.peer.wait_for_room(WAIT));
                event.fire();
                assert!(first.wait(WAIT).expect("ends").is_ok());
                assert!(waits.join().expect("no panic"), "round {round}: room is told");
            });
            assert!(plan.submit(Submit::default()).expect("room").wait(WAIT).expect("ends").is_ok());
        }
        drop(plan);
        pair.close();
    }
}

/// Regions, caches, leases, grants, peers: one of each, and then a refusal that names the limit.
pub fn every_table_refuses_by_name_when_it_is_full(ground: &Ground) {
    let full = |limit: &str, result: ropeway::Result<()>| {
        let error = result.expect_err("full");
        assert_eq!(error.kind(), ErrorKind::Full, "{limit}: {error}");
        assert!(error.message().contains(limit), "names the limit {limit}: {error}");
    };
    let one =
        Limits::default().with_regions(1).with_caches(1).with_leases(2).with_grants_per_peer(1).with_peers(1);
    let pair = ground.pair_with(BYTES, one.with_blocks_per_lease(BLOCKS - 1));
    let owners = pair.owner.dense(BLOCK);
    full("regions", pair.owner.engine.register(4096));
    full("caches", pair.owner.publish_raw("other").map(drop));
    let lease = |blocks: u32| owners.lease(&[&ids(0..blocks)], Rights::Read, Default::default());
    full("blocks_per_lease", lease(BLOCKS).map(drop));
    let leases = [lease(1).expect("one"), lease(1).expect("two")];
    full("leases", lease(1).map(drop));
    let claim = |lease: &OwnerLease| pair.peer.claim(&lease.token(), WAIT).and_then(ropeway::Pending::wait);
    let grant = claim(&leases[0]).expect("one");
    full("grants_per_peer", claim(&leases[1]).map(drop));
    let third = ground.side(BYTES, Part::Importer, Limits::default());
    let error = third.engine.connect(&pair.owner.engine.descriptor(), WAIT).and_then(ropeway::Pending::wait);
    let error = error.map(drop).expect_err("no place for a second peer");
    assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::LinkLost), "{error}");
    // Room is given back.
    drop((grant, leases));
    crate::watchdog::eventually("a lease can be had again", || lease(1).is_ok());
    drop(owners);
    pair.close();
}

/// A place in the queue is taken at submit, so that no end is lost; without one, nothing starts.
pub fn a_full_completion_queue_refuses_and_gives_room_back(ground: &Ground) {
    let pair = ground.pair_with(BYTES, Limits::default().with_completions(1));
    let (_lease, plan) = planned(&pair);
    let done = plan.submit(Submit::default().user_data(7)).expect("submitted");
    assert!(done.wait(WAIT).expect("ends").is_ok());
    assert_eq!(full(&plan, Submit::default().user_data(8)), "completions");
    assert!(plan.submit(Submit::default()).expect("needs no place").wait(WAIT).expect("ends").is_ok());
    assert!(matches!(
        pair.importer.engine.completions().wait(WAIT),
        Some(Completion::Transfer { user_data: 7, .. })
    ));
    assert!(plan.submit(Submit::default().user_data(9)).expect("room").wait(WAIT).expect("ends").is_ok());
    drop((plan, done));
    pair.close();
}

/// The descriptor is readable exactly while there are ends.
pub fn the_completion_queue_wakes_epoll_and_carries_user_data(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (_lease, plan) = planned(&pair);
    let completions = pair.importer.engine.completions();
    let readable = |wait: Duration| {
        let mut fds = [PollFd::new(completions, PollFlags::IN)];
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        poll(&mut fds, Some(&timeout)).expect("poll") == 1
    };
    assert!(!readable(Duration::ZERO));
    for number in [u64::MAX, 0, 1 << 53] {
        plan.submit(Submit::default().user_data(number)).expect("submitted").detach();
        assert!(readable(WAIT), "an end makes the descriptor readable");
        let mut out = [Completion::Fatal { id: ropeway::TransferId(0), bytes: 0 }; 4];
        assert_eq!(completions.drain(&mut out), 1);
        match out[0] {
            Completion::Transfer { user_data, status, .. } => {
                assert!(status.is_completed());
                assert_eq!(user_data, number);
            }
            other => panic!("{other:?}"),
        }
        assert!(!readable(Duration::ZERO));
    }
    drop(plan);
    pair.close();
}

/// What, where, and what to do.
pub fn bad_calls_are_refused_with_what_to_do(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let route = pair.route(&importers);
    let (_lease, grant) = pair.lease(&owners, &[&ids(0..8)], Rights::Read);
    let check = |result: ropeway::Result<()>, kinds: &[ErrorKind]| {
        let error = result.expect_err("a bad call");
        assert!(kinds.contains(&error.kind()), "{kinds:?}: {error:?}");
        assert!(error.message().len() > 10, "says too little: {error}");
    };
    use ErrorKind::{ApiMisuse, Closed, Denied, Mismatch, OutOfBounds};
    // A block past the end, a destination named twice, lists of different lengths, too many lists.
    check(route.read(&grant, &[&[BlockId(BLOCKS)]], &[&ids(0..1)]).map(drop), &[OutOfBounds]);
    check(route.read(&grant, &[&[BlockId(1), BlockId(1)]], &[&ids(0..2)]).map(drop), &[OutOfBounds]);
    check(route.read(&grant, &[&ids(0..2)], &[&ids(0..3)]).map(drop), &[ApiMisuse, Mismatch]);
    check(route.read(&grant, &[&ids(0..1), &ids(1..2)], &[&ids(0..1)]).map(drop), &[ApiMisuse, Mismatch]);
    // Raw copies over paged caches.
    let raw = RawCopy { local: 0, remote: 0, len: 1 };
    check(route.read_raw(&grant, &[raw]).map(drop), &[ApiMisuse, Mismatch]);
    // A cache that nobody publishes; one whose blocks have another size.
    let missing = pair.peer.route(&importers, "other", WAIT).and_then(ropeway::Pending::wait);
    check(missing.map(drop), &[Mismatch, ApiMisuse, OutOfBounds, Closed]);
    let odd = pair.importer.engine.cache("odd").group("g0", 1);
    let odd =
        odd.part("p", &pair.importer.region, Strided::dense(0, BLOCK / 2, 4)).publish().expect("published");
    let misfit = pair.peer.route(&odd, "kv", WAIT).and_then(ropeway::Pending::wait);
    check(misfit.map(drop), &[Mismatch]);
    // Leases: past the end, nothing at all.
    let lease = |ids: &[BlockId]| owners.lease(&[ids], Rights::Read, Default::default()).map(drop);
    check(lease(&[BlockId(BLOCKS)]), &[OutOfBounds]);
    check(lease(&[]), &[ApiMisuse]);
    // Regions: past the end, also where the sum wraps; a part that passes the end.
    check(pair.importer.region.read(BYTES - 1, &mut [0; 2]), &[OutOfBounds]);
    check(pair.importer.region.write(u64::MAX, &[0; 2]), &[OutOfBounds]);
    let long = pair.importer.engine.cache("long").group("g0", 1);
    let long = long.part("p", &pair.importer.region, Strided::dense(BLOCK, BLOCK, BLOCKS)).publish();
    check(long.map(drop), &[OutOfBounds]);
    // A second cache of the same name.
    let twice = pair.owner.publish("kv", &Layout::of(Strided::dense(0, BLOCK, 1)));
    check(twice.map(drop), &[ApiMisuse, Denied]);
    drop((grant, route, owners, importers, odd));
    pair.close();
}
