//! Many at once: threads, peers, directions.

use ropeway::{Limits, Rights, Submit};

use super::ground::{Ground, Part, connect, ids};
use super::owner::{Exchange, Terms};
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
    let owner = ground.owner(8 * BYTES, Limits::default());
    let owners = owner.dense(PAGE);
    let theirs = Image::fill(&owner.region, 5);
    std::thread::scope(|scope| {
        for number in 0..8u32 {
            let (owner, owners, theirs) = (&owner, &owners, &theirs);
            scope.spawn(move || {
                let importer = ground.side(BYTES, Part::Importer, Limits::default());
                let importers = importer.dense(PAGE);
                let mut ours = Image::fill(&importer.region, 6);
                let peer = connect(&importer, &owner.engine.descriptor());
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
    assert!(owner.engine.close(WAIT).is_empty());
    owner.forbid();
}

/// Both engines are owner and importer at once: each connects to the other, one reads, the other writes.
pub fn both_directions_run_at_once(ground: &Ground) {
    const BLOCKS: u32 = 512;
    const HALF: u64 = BLOCKS as u64 * PAGE;
    let importer = ground.side(2 * HALF, Part::Both, Limits::default());
    let owner = ground.owner(2 * HALF, Limits::default());
    let (ours, theirs) = (importer.dense(PAGE), owner.dense(PAGE));
    let before = [Image::fill(&importer.region, 7), Image::fill(&owner.region, 8)];
    // Blocks of the lower half leave, blocks of the upper half arrive.
    let (lower, upper) = (ids(0..BLOCKS), ids(BLOCKS..2 * BLOCKS));
    let exchange = |descriptor: ropeway::Descriptor, token: ropeway::Token, write: bool| {
        let halves = [&upper, &lower].map(|half| half.iter().map(|id| id.0).collect::<Vec<_>>());
        let [mut local, mut remote] = halves;
        if write {
            std::mem::swap(&mut local, &mut remote);
        }
        let (descriptor, token) = (descriptor.to_string(), token.to_string());
        Exchange { descriptor, token, write, local, remote, rounds: 6 }
    };
    let terms = Terms::default();
    let read = theirs.lease(&[&lower], Rights::Read, terms).expect("lease");
    let written = theirs.lease(&[&upper], Rights::Write, terms).expect("lease");
    let back = ours.lease(&[&lower], Rights::Read, ropeway::LeaseOptions::default()).expect("lease");
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(owner.engine.descriptor(), read.token(), false).run(&importer.engine, &ours));
        scope.spawn(|| {
            exchange(owner.engine.descriptor(), written.token(), true).run(&importer.engine, &ours);
        });
        scope.spawn(|| {
            owner.exchange(&theirs, &exchange(importer.engine.descriptor(), back.token(), false));
        });
    });
    for (here, there) in [(0, 1), (1, 0)] {
        let mut after = before[here].clone();
        after.copy(HALF, &before[there], 0, HALF);
        match here {
            0 => after.check(&importer.region, "importer"),
            _ => after.check(&owner.region, "owner"),
        }
    }
    drop((ours, theirs, read, written, back));
    let held = importer.engine.close(WAIT).expect("close").held;
    assert!(held.is_empty(), "{}: {held:?}", ground.kind);
    assert!(owner.engine.close(WAIT).is_empty());
    importer.forbid();
    owner.forbid();
}
