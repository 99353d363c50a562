//! Quarantine on a link whose copies cannot be recalled: blocks are withheld exactly while they may still be touched.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Completion, Engine, ErrorKind, Grant, Host, Lease, LeaseOptions, Outcome, Peer, Quiet,
    Region, Rights, Route, Strided, Submit, TransportKind,
};
use ropeway_transport::sim::{Fabric, Weather};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const BLOCKS: u32 = 32;

struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

fn side(fabric: &Fabric) -> Side {
    let engine = Engine::builder().transports(&[]).transport(fabric.transport()).open().unwrap();
    let region = engine.alloc(Host::private(BLOCK * u64::from(BLOCKS))).unwrap();
    let part = Strided::dense(0, BLOCK, BLOCKS);
    let cache = engine.cache("kv").group("g0", 1).part("layers.0.k", &region, part).publish().unwrap();
    Side { engine, region, cache }
}

struct Pair {
    fabric: Fabric,
    producer: Side,
    consumer: Side,
    peer: Peer,
    route: Route,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let fabric = Fabric::new(seed);
        let (producer, consumer) = (side(&fabric), side(&fabric));
        let peer = consumer.engine.connect(&producer.engine.descriptor(), WAIT).unwrap().wait().unwrap();
        assert_eq!(peer.transports(), [TransportKind::Sim]);
        let route = peer.route(&consumer.cache, "kv", WAIT).unwrap().wait().unwrap();
        Self { fabric, producer, consumer, peer, route }
    }

    fn lease(&self, blocks: &[BlockId], rights: Rights) -> (Lease, Grant) {
        let lease = self.producer.cache.lease(&[blocks], rights, LeaseOptions::default()).unwrap();
        let grant = self.peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
        (lease, grant)
    }
}

fn ids(range: std::ops::Range<u32>) -> Vec<BlockId> {
    range.map(BlockId).collect()
}

fn first_byte(region: &Region, block: u32) -> u8 {
    let mut byte = [0];
    region.read(u64::from(block) * BLOCK, &mut byte).unwrap();
    byte[0]
}

#[test]
fn blocks_of_a_transfer_given_up_are_withheld_until_its_link_is_closed() {
    for weather in [Weather::Torn, Weather::Lost] {
        let pair = Pair::new(7);
        let blocks = ids(0..BLOCKS);
        pair.producer.region.fill(0, BLOCK * u64::from(BLOCKS), 9).unwrap();
        let (lease, grant) = pair.lease(&blocks, Rights::Read);
        pair.fabric.set_weather(weather);
        let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
        let transfer = plan.submit(Submit::default().user_data(5)).unwrap();
        pair.fabric.advance(8);

        let error = transfer.wait(WAIT).unwrap().unwrap_err();
        let kind = if weather == Weather::Torn { ErrorKind::TimedOut } else { ErrorKind::Internal };
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((error.local(), error.remote()), (Quiet::AfterClose, Quiet::AfterClose));
        assert_eq!(error.quarantine(), blocks);
        assert!(!transfer.wait_quiet(Duration::ZERO));
        assert_eq!(pair.consumer.engine.quarantined().len(), 1);

        // Nobody may lease the blocks or read into them.
        let lease_again = pair.consumer.cache.lease(&[&blocks[3..4]], Rights::Read, LeaseOptions::default());
        assert_eq!(lease_again.unwrap_err().kind(), ErrorKind::ApiMisuse);
        let again = pair.route.read(&grant, &[&blocks[..1]], &[&blocks[..1]]).unwrap();
        assert!(again.submit(Submit::default()).is_err(), "a read into a withheld block");

        // With reason: the rest of the copy lands after the end was told.
        assert_eq!(first_byte(&pair.consumer.region, BLOCKS - 1), 0);
        pair.fabric.advance(64);
        assert_eq!(first_byte(&pair.consumer.region, BLOCKS - 1), 9);
        assert!(!transfer.wait_quiet(Duration::ZERO), "virtual time is no proof");

        // The link's end is.
        drop((plan, again, grant));
        assert!(!lease.is_free(), "a release without quiet is no proof for the owner");
        pair.peer.close(WAIT).unwrap();
        assert!(transfer.wait_quiet(WAIT));
        assert!(pair.consumer.engine.quarantined().is_empty());
        let told: Vec<_> =
            std::iter::from_fn(|| pair.consumer.engine.completions().wait(Duration::ZERO)).collect();
        assert!(matches!(told[0], Completion::Transfer { user_data: 5, .. }), "{told:?}");
        assert!(matches!(told[1], Completion::Released { user_data: 5, .. }), "{told:?}");
        assert!(lease.wait_free(WAIT).is_some());
        let _ = pair.consumer.cache.lease(&[&blocks], Rights::Read, LeaseOptions::default()).unwrap();
    }
}

#[test]
fn memory_outlives_a_late_copy_whatever_is_dropped() {
    let pair = Pair::new(11);
    let blocks = ids(0..BLOCKS);
    let (lease, grant) = pair.lease(&blocks, Rights::Write);
    pair.fabric.set_weather(Weather::Torn);
    let transfer =
        pair.route.write(&grant, &[&blocks], &[&blocks]).unwrap().submit(Submit::default()).unwrap();
    pair.fabric.advance(8);
    assert!(transfer.wait(WAIT).unwrap().is_err());
    let fabric = pair.fabric.clone();
    assert_eq!(fabric.under_way(), 1);
    drop((transfer, grant, lease, pair));
    // Whether the links were closed by now or not, what lands must find memory.
    fabric.advance(1_000);
}

#[test]
fn a_write_leased_block_is_free_when_the_last_copy_under_it_is_over() {
    let pair = Pair::new(13);
    let (blocks, others) = (ids(0..8), ids(8..16));
    let (lease, grant) = pair.lease(&blocks, Rights::Write);
    let plan = pair.route.write(&grant, &[&blocks], &[&blocks]).unwrap();
    let transfer = plan.submit(Submit::default()).unwrap();
    lease.revoke();
    assert!(lease.wait_free(Duration::from_millis(50)).is_none(), "a copy under the lease is under way");
    assert_eq!(lease.withheld_by().len(), 1);
    assert_eq!(pair.producer.engine.quarantined().len(), 1);
    let taken = pair.producer.cache.lease(&[&blocks[..1]], Rights::Read, LeaseOptions::default());
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::ApiMisuse);
    let _ = pair.producer.cache.lease(&[&others], Rights::Read, LeaseOptions::default()).unwrap();

    pair.fabric.advance(64);
    let freed = lease.wait_free(WAIT).unwrap();
    assert_eq!((freed.outcome, freed.quarantined), (Outcome::Revoked, true));
    assert!(pair.producer.engine.quarantined().is_empty());
    let _ = pair.producer.cache.lease(&[&blocks[..1]], Rights::Read, LeaseOptions::default()).unwrap();
    let _ = transfer.wait(WAIT);
}

#[test]
fn a_cancelled_copy_on_the_wire_is_not_called_quiet() {
    let pair = Pair::new(17);
    let blocks = ids(0..4);
    let (_lease, grant) = pair.lease(&blocks, Rights::Read);
    let plan = pair.route.read(&grant, &[&blocks], &[&blocks]).unwrap();
    let transfer = plan.submit(Submit::default()).unwrap();
    transfer.cancel();
    let error = transfer.wait(WAIT).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.local()), (ErrorKind::Cancelled, Quiet::AfterClose));
    assert!(error.to_string().contains("withheld until the link is closed"), "{error}");
    let error = pair.consumer.region.close(Duration::ZERO).unwrap_err();
    assert!(error.message().contains("quarantine"), "a region with withheld blocks is not closed: {error}");
}
