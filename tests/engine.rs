//! Two engines in one process, over every transport that this build has.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Completion, Engine, ErrorKind, Event, Grant, Host, Lease, LeaseOptions, Outcome, Peer,
    Rect, Region, Rights, Route, Start, Strided, Submit, TransportKind,
};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 16 << 10;
const BLOCKS: u32 = 64;

struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

fn side(kind: TransportKind) -> Side {
    let engine = Engine::builder().listen("127.0.0.1:0".parse().unwrap()).transports(&[kind]).open().unwrap();
    let host =
        if kind == TransportKind::Shm { Host::shared(2 * BLOCK * 64) } else { Host::private(2 * BLOCK * 64) };
    let region = engine.alloc(host).unwrap();
    let cache = engine
        .cache("kv")
        .group("g0", 1)
        .part("layers.0.k", &region, Strided::dense(0, BLOCK, BLOCKS))
        .part("layers.0.v", &region, Strided::dense(BLOCK * 64, BLOCK, BLOCKS))
        .publish()
        .unwrap();
    Side { engine, region, cache }
}

struct Pair {
    producer: Side,
    consumer: Side,
    peer: Peer,
    route: Route,
}

fn pair(kind: TransportKind) -> Pair {
    let (producer, consumer) = (side(kind), side(kind));
    let peer = consumer.engine.connect(&producer.engine.descriptor(), WAIT).unwrap().wait().unwrap();
    assert_eq!(peer.transports(), [kind]);
    let route = peer.route(&consumer.cache, "kv", WAIT).unwrap().wait().unwrap();
    assert_eq!(route.transport(), kind);
    Pair { producer, consumer, peer, route }
}

fn ids(range: std::ops::Range<u32>) -> Vec<BlockId> {
    range.map(BlockId).collect()
}

fn stamp(side: &Side, block: u32, byte: u8) {
    side.region.fill(u64::from(block) * BLOCK, BLOCK, byte).unwrap();
    side.region.fill(BLOCK * 64 + u64::from(block) * BLOCK, BLOCK, byte ^ 0xff).unwrap();
}

fn holds(side: &Side, block: u32, byte: u8) -> bool {
    let mut bytes = vec![0; BLOCK as usize];
    side.region.read(u64::from(block) * BLOCK, &mut bytes).unwrap();
    let k = bytes.iter().all(|b| *b == byte);
    side.region.read(BLOCK * 64 + u64::from(block) * BLOCK, &mut bytes).unwrap();
    k && bytes.iter().all(|b| *b == byte ^ 0xff)
}

impl Pair {
    fn lease(&self, blocks: &[BlockId], rights: Rights) -> (Lease, Grant) {
        let lease = self.producer.cache.lease(&[blocks], rights, LeaseOptions::default()).unwrap();
        let grant = self.peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
        (lease, grant)
    }
}

fn kinds() -> Vec<TransportKind> {
    vec![TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp]
}

#[test]
fn blocks_are_read_and_the_lease_comes_back() {
    for kind in kinds() {
        let pair = pair(kind);
        let (theirs, ours) = (ids(4..40), ids(10..46));
        for block in 4..40 {
            stamp(&pair.producer, block, block as u8);
        }
        let (lease, grant) = pair.lease(&theirs, Rights::Read);
        let plan = pair.route.read(&grant, &[&ours], &[&theirs]).unwrap();
        assert_eq!((plan.bytes(), plan.descriptors(), plan.runs()), (72 * BLOCK, 72, 2));
        let report = plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
        assert_eq!((report.bytes, report.transport), (72 * BLOCK, kind));
        for block in 10..46 {
            assert!(holds(&pair.consumer, block, (block - 6) as u8), "{kind}: block {block}");
        }
        assert!(holds(&pair.consumer, 9, 0) || !holds(&pair.consumer, 9, 4));
        assert!(!lease.is_free());
        drop((plan, grant));
        assert_eq!(lease.wait_free(WAIT).unwrap().outcome, Outcome::Done, "{kind}");
    }
}

#[test]
fn blocks_are_written_and_arrivals_are_counted_once() {
    for kind in kinds() {
        let pair = pair(kind);
        let blocks = ids(0..BLOCKS);
        for block in 0..BLOCKS {
            stamp(&pair.consumer, block, 100 + block as u8);
        }
        let (lease, grant) = pair.lease(&blocks, Rights::Write);
        for sequence in [7, 8, 7] {
            let plan = pair.route.write(&grant, &[&blocks], &[&blocks]).unwrap();
            plan.submit(Submit::default().notify(sequence)).unwrap().wait(WAIT).unwrap().unwrap();
        }
        assert!(lease.wait_arrivals(2, WAIT), "{kind}");
        assert!(lease.arrived(7) && lease.arrived(8) && !lease.arrived(9));
        for block in 0..BLOCKS {
            assert!(holds(&pair.producer, block, 100 + block as u8), "{kind}: block {block}");
        }
        drop(grant);
        assert_eq!(lease.wait_free(WAIT).unwrap().outcome, Outcome::Done, "{kind}");
        assert_eq!(lease.arrivals(), 2, "{kind}: a sequence counts once");
    }
}

#[test]
fn a_revoked_lease_is_stale_for_its_importer() {
    for kind in kinds() {
        let pair = pair(kind);
        let blocks = ids(0..8);
        let (lease, grant) = pair.lease(&blocks, Rights::Read);
        let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
        lease.revoke();
        assert_eq!(lease.wait_free(WAIT).unwrap().outcome, Outcome::Revoked, "{kind}");
        // Whether the importer has heard of it or not, no byte of the blocks' next tenant may come.
        let error = match plan.submit(Submit::default()) {
            Err(refused) => ropeway::Error::from(refused),
            Ok(transfer) => transfer.wait(WAIT).unwrap().unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::StaleLease, "{kind}: {error}");
    }
}

#[test]
fn a_block_outside_the_lease_and_a_wrong_right_are_denied() {
    let pair = pair(TransportKind::Loopback);
    let (_lease, grant) = pair.lease(&ids(0..8), Rights::Read);
    let error = pair.route.read(&grant, &[&ids(0..9)], &[&ids(0..9)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let error = pair.route.write(&grant, &[&ids(0..8)], &[&ids(0..8)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[test]
fn a_token_with_another_secret_is_denied() {
    let pair = pair(TransportKind::Loopback);
    let lease = pair.producer.cache.lease(&[&ids(0..8)], Rights::Read, LeaseOptions::default()).unwrap();
    let mut token = lease.token();
    token.secret ^= 1;
    let error = pair.peer.claim(&token, WAIT).unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[test]
fn a_transfer_waits_for_its_event_and_can_be_cancelled_before() {
    for kind in kinds() {
        let pair = pair(kind);
        let blocks = ids(0..BLOCKS);
        let (_lease, grant) = pair.lease(&blocks, Rights::Read);
        let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
        let event = Event::new();
        let after = Submit::default().start(Start::AfterEvent(event.clone()));
        let (waits, cancelled) = (plan.submit(after.clone()).unwrap(), plan.submit(after).unwrap());
        assert!(waits.wait(Duration::from_millis(20)).is_none(), "{kind}: nothing starts before the event");
        cancelled.cancel();
        assert_eq!(cancelled.wait(WAIT).unwrap().unwrap_err().kind(), ErrorKind::Cancelled, "{kind}");
        stamp(&pair.producer, 5, 55);
        event.fire();
        waits.wait(WAIT).unwrap().unwrap();
        assert!(holds(&pair.consumer, 5, 55), "{kind}");
    }
}

#[test]
fn the_completion_queue_tells_what_was_submitted_with_user_data() {
    let pair = pair(TransportKind::Loopback);
    let blocks = ids(0..BLOCKS);
    let (_lease, grant) = pair.lease(&blocks, Rights::Read);
    let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
    plan.submit(Submit::default().user_data(42)).unwrap().detach();
    match pair.consumer.engine.completions().wait(WAIT) {
        Some(Completion::Transfer { user_data: 42, status, .. }) => assert!(status.is_completed()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_region_closes_when_peers_and_leases_have_let_go() {
    for kind in kinds() {
        let pair = pair(kind);
        let (lease, _grant) = pair.lease(&ids(0..8), Rights::Read);
        pair.producer.region.close(WAIT).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(lease.is_free());
        let error =
            pair.producer.cache.lease(&[&ids(0..8)], Rights::Read, LeaseOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

#[test]
fn closing_an_engine_leaves_nothing_held_on_either_side() {
    for kind in kinds() {
        let pair = pair(kind);
        let (_lease, _grant) = pair.lease(&ids(0..8), Rights::Write);
        let report = pair.producer.engine.close(WAIT).unwrap();
        assert!(report.held.is_empty(), "{kind}: {report:?}");
        let report = pair.consumer.engine.close(WAIT).unwrap();
        assert!(report.held.is_empty(), "{kind}: {report:?}");
    }
}

#[test]
fn a_wrong_secret_and_a_past_incarnation_do_not_connect() {
    let (producer, consumer) = (side(TransportKind::Loopback), side(TransportKind::Loopback));
    let mut descriptor = producer.engine.descriptor();
    descriptor.auth = ropeway::Auth::Secret(ropeway_core::Secret::new([9; 32]));
    let error = consumer.engine.connect(&descriptor, WAIT).unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let mut descriptor = producer.engine.descriptor();
    descriptor.incarnation = ropeway::Incarnation::new(1);
    let error = consumer.engine.connect(&descriptor, WAIT).unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleLease, "{error}");
}

#[test]
fn caches_are_published_and_dropped_from_many_threads_at_once() {
    let side = side(TransportKind::Loopback);
    let part = Strided::dense(0, BLOCK, BLOCKS);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let side = &side;
            scope.spawn(move || {
                for round in 0..500 {
                    let name = format!("{thread}.{round}");
                    let cache = side.engine.cache(name).group("g0", 1).part("k", &side.region, part);
                    drop(cache.publish().unwrap());
                }
            });
        }
    });
}

#[test]
fn the_longest_durations_are_durations_like_any_other() {
    let pair = pair(TransportKind::Loopback);
    let blocks = ids(0..8);
    let options = LeaseOptions::default().ttl(Duration::MAX).first_contact_grace(Duration::MAX);
    let lease = pair.producer.cache.lease(&[&blocks], Rights::Read, options).unwrap();
    let grant = pair.peer.claim(&lease.token(), Duration::MAX).unwrap().wait().unwrap();
    let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
    let transfer = plan.submit(Submit::default().abandon_after(Duration::MAX)).unwrap();
    transfer.wait(Duration::MAX).unwrap().unwrap();
    drop((transfer, plan, grant));
    assert_eq!(lease.wait_free(Duration::MAX).unwrap().outcome, Outcome::Done);
}

#[test]
fn an_event_that_never_fires_keeps_no_lease() {
    let pair = pair(TransportKind::Loopback);
    let blocks = ids(0..8);
    let (lease, grant) = pair.lease(&blocks, Rights::Read);
    let never = Event::new();
    let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
    let transfer = plan.submit(Submit::default().start(Start::AfterEvent(never.clone()))).unwrap();
    transfer.cancel();
    assert_eq!(transfer.wait(WAIT).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    drop((transfer, plan, grant));
    assert_eq!(lease.wait_free(WAIT).unwrap().outcome, Outcome::Done);
    assert!(!never.has_fired());
}

#[test]
fn a_rectangle_is_copied_from_region_to_region_row_by_row() {
    let engine = Engine::builder().open().unwrap();
    let [from, to] = [0, 1].map(|_| engine.alloc(Host::private(1 << 20)).unwrap());
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at / 7) as u8).collect();
    from.write(0, &bytes).unwrap();
    let rect = |offset, rows, row_bytes, row_stride| Rect { offset, rows, row_bytes, row_stride };
    for (source, target) in [
        (rect(5, 3, 10, 100), rect(70, 3, 10, 11)),
        // Dense on both sides, and longer than what is copied at once.
        (rect(3, 3, 100_000, 100_000), rect(9, 3, 100_000, 100_000)),
        (rect(3, 2, 300_000, 400_000), rect(1, 2, 300_000, 300_001)),
    ] {
        to.fill(0, 1 << 20, 0xee).unwrap();
        let mut right = vec![0xee; 1 << 20];
        for row in 0..source.rows as usize {
            let at = |rect: &Rect| rect.offset as usize + row * rect.row_stride as usize;
            let (here, there, len) = (at(&target), at(&source), source.row_bytes as usize);
            right[here..here + len].copy_from_slice(&bytes[there..there + len]);
        }
        to.copy_rect(target, &from, source).unwrap();
        let mut is = vec![0; 1 << 20];
        to.read(0, &mut is).unwrap();
        assert!(is == right, "{source:?} to {target:?}");
    }
    let error = to.copy_rect(rect(0, 1, 8, 8), &from, rect(0, 1, 9, 9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
    for wrong in [rect(0, 2, 8, u64::MAX), rect((1 << 20) - 4, 1, 8, 8), rect(u64::MAX, 1, 8, 8)] {
        let sound = rect(0, wrong.rows, 8, 8);
        assert_eq!(to.copy_rect(wrong, &from, sound).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(to.copy_rect(sound, &from, wrong).unwrap_err().kind(), ErrorKind::OutOfBounds);
    }
}
