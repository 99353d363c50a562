//! Many at once: threads, peers, directions.

use ropeway::{BlockId, Limits, Op, Rights, Submit, TransportKind};

use super::ground::{Ground, connect, ids};
use crate::oracle::Image;
use crate::watchdog::WAIT;

const PAGE: u64 = 4096;

/// Four threads submit plans over one route, each into its own blocks.
pub fn several_threads_submit_at_once(ground: &Ground) {
    const EACH: u32 = 128;
    let pair = ground.pair(u64::from(4 * EACH) * PAGE);
    let (owners, importers) = (pair.owner.dense(PAGE), pair.importer.dense(PAGE));
    let all = ids(0..4 * EACH);
    let (_lease, grant) = pair.lease(&owners, &[&all], Rights::Read);
    let route = pair.route(&importers);
    let (mut ours, theirs) = (Image::fill(&pair.importer.region, 3), Image::fill(&pair.owner.region, 4));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (route, grant) = (&route, &grant);
            scope.spawn(move || {
                let base = thread * EACH;
                for round in 1..=8 {
                    let blocks = ids(base..base + EACH * round / 8);
                    let plan = route.read(grant, &[&blocks], &[&blocks]).expect("planned");
                    let report = plan.submit(Submit::default()).expect("submitted").wait(WAIT);
                    report.expect("ends").expect("moved");
                }
            });
        }
    });
    pair.expect_quiet();
    ours.copy(0, &theirs, 0, u64::from(4 * EACH) * PAGE);
    ours.check(&pair.importer.region, "importer after four threads");
    drop((grant, route, owners, importers));
    pair.close();
}

/// One owner, eight importers at once, each with a lease of its own.
pub fn eight_peers_read_from_one(ground: &Ground) {
    const BLOCKS: u32 = 64;
    const BYTES: u64 = BLOCKS as u64 * PAGE;
    let owner = ground.side(8 * BYTES, true, Limits::default());
    let owners = owner.dense(PAGE);
    let theirs = Image::fill(&owner.region, 5);
    std::thread::scope(|scope| {
        for number in 0..8u32 {
            let (owner, owners, theirs) = (&owner, &owners, &theirs);
            scope.spawn(move || {
                let importer = ground.side(BYTES, false, Limits::default());
                let importers = importer.dense(PAGE);
                let mut ours = Image::fill(&importer.region, 6);
                let peer = connect(&importer, owner);
                let route = peer.route(&importers, "kv", WAIT).expect("route").wait().expect("routed");
                let remote = ids(number * BLOCKS..(number + 1) * BLOCKS);
                let lease = owners.lease(&[&remote], Rights::Read, Default::default()).expect("lease");
                let grant = peer.claim(&lease.token(), WAIT).expect("claim").wait().expect("claimed");
                let plan = route.read(&grant, &[&ids(0..BLOCKS)], &[&remote]).expect("planned");
                for _ in 0..4 {
                    plan.submit(Submit::default())
                        .expect("submitted")
                        .wait(WAIT)
                        .expect("ends")
                        .expect("moved");
                }
                ours.copy(0, theirs, u64::from(number) * BYTES, BYTES);
                ours.check(&importer.region, &format!("importer {number}"));
                drop((plan, grant));
                assert!(lease.wait_free(WAIT).is_some());
            });
        }
    });
    theirs.check(&owner.region, "owner");
    assert!(owner.engine.close(WAIT).expect("close").held.is_empty());
    owner.forbid();
}

/// Both engines are owner and importer at once: each connects to the other, one reads, the other writes.
pub fn both_directions_run_at_once(ground: &Ground) {
    const BLOCKS: u32 = 512;
    const HALF: u64 = BLOCKS as u64 * PAGE;
    let sides = [0, 1].map(|_| ground.side(2 * HALF, true, Limits::default()));
    let caches = [0, 1].map(|i: usize| sides[i].dense(PAGE));
    let before = [0, 1].map(|i: usize| Image::fill(&sides[i].region, 7 + i as u64));
    // Blocks of the lower half leave, blocks of the upper half arrive.
    let (lower, upper) = (ids(0..BLOCKS), ids(BLOCKS..2 * BLOCKS));
    std::thread::scope(|scope| {
        for (here, there, op) in [(0, 1, Op::Read), (1, 0, Op::Read), (0, 1, Op::Write)] {
            let (sides, caches, lower, upper) = (&sides, &caches, &lower, &upper);
            scope.spawn(move || {
                let peer = connect(&sides[here], &sides[there]);
                let route = peer.route(&caches[here], "kv", WAIT).expect("route").wait().expect("routed");
                let (rights, local, remote): (_, &[BlockId], &[BlockId]) = match op {
                    Op::Read => (Rights::Read, upper, lower),
                    Op::Write => (Rights::Write, lower, upper),
                };
                let lease = caches[there].lease(&[remote], rights, Default::default()).expect("lease");
                let grant = peer.claim(&lease.token(), WAIT).expect("claim").wait().expect("claimed");
                for _ in 0..6 {
                    let plan = route.plan(op, &grant, None, &[local], &[remote]).expect("planned");
                    plan.submit(Submit::default())
                        .expect("submitted")
                        .wait(WAIT)
                        .expect("ends")
                        .expect("moved");
                }
            });
        }
    });
    for (here, there) in [(0, 1), (1, 0)] {
        let mut after = before[here].clone();
        after.copy(HALF, &before[there], 0, HALF);
        after.check(&sides[here].region, &format!("engine {here}"));
    }
    drop(caches);
    for side in &sides {
        assert!(
            side.engine.close(WAIT).expect("close").held.is_empty(),
            "{}",
            TransportKind::name(ground.kind)
        );
        side.forbid();
    }
}
