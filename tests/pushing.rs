//! A lease to write, filled by its holder part by part while it is still computing: what a producer that pushes needs.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Event, Grant, Host, Lease, LeaseOptions, Op, Outcome, Peer, Region, Rights,
    Route, Start, Strided, Submit, Transfer, TransportKind, lease_name,
};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;
const LAYERS: u64 = 4;

/// Where a block of a layer lies.
fn at(layer: u64, block: u32) -> u64 {
    (layer * BLOCKS + u64::from(block)) * BLOCK
}

struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

impl Side {
    fn open(transport: TransportKind) -> Self {
        let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap()).transports(&[transport]);
        let engine = builder.open().unwrap();
        let region = engine.alloc(Host::private(LAYERS * BLOCKS * BLOCK)).unwrap();
        let mut cache = engine.cache("kv").group("g0", 1);
        for layer in 0..LAYERS {
            let strided = Strided::dense(at(layer, 0), BLOCK, BLOCKS as u32);
            cache = cache.part(format!("layers.{layer}"), &region, strided);
        }
        Self { cache: cache.publish().unwrap(), engine, region }
    }

    fn block(&self, layer: u64, block: u32) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        self.region.read(at(layer, block), &mut bytes).unwrap();
        bytes
    }
}

/// A consumer that has lent its block 7 to be written, and a producer that holds the grant and computes in its block 3.
struct Push {
    producer: Side,
    consumer: Side,
    lease: Lease,
    grant: Grant,
    route: Route,
}

impl Push {
    fn open(transport: TransportKind) -> Self {
        let (producer, consumer) = (Side::open(transport), Side::open(transport));
        let name = lease_name().unwrap();
        let options = LeaseOptions::default().name(name);
        let lease = consumer.cache.lease(&[&[BlockId(7)]], Rights::Write, options).unwrap();
        let peer: Peer =
            producer.engine.connect(&consumer.engine.descriptor(), WAIT).unwrap().wait().unwrap();
        let grant = peer.claim_named(&name, 1, WAIT).unwrap().wait().unwrap();
        let route = peer.route(&producer.cache, "kv", WAIT).unwrap().wait().unwrap();
        Self { producer, consumer, lease, grant, route }
    }

    /// Posts a layer before it is computed: it moves when `computed` fires.
    fn post(&self, layer: usize, computed: &Event) -> Transfer {
        let parts = Some(layer..layer + 1);
        let ids: (&[&[BlockId]], &[&[BlockId]]) = (&[&[BlockId(3)]], &[&[BlockId(7)]]);
        let plan = self.route.plan(Op::Write, &self.grant, parts, ids.0, ids.1).unwrap();
        let submit = Submit::default().start(Start::AfterEvent(computed.clone())).notify(layer as u32);
        plan.submit(submit).unwrap()
    }

    fn compute(&self, layer: u64, computed: &Event) {
        self.producer.region.fill(at(layer, 3), BLOCK, layer as u8 + 1).unwrap();
        computed.fire();
    }
}

const TRANSPORTS: [TransportKind; 3] = [TransportKind::Loopback, TransportKind::Cma, TransportKind::Tcp];

#[test]
fn a_layer_is_in_place_before_the_next_one_is_computed() {
    for transport in TRANSPORTS {
        let push = Push::open(transport);
        let events: Vec<Event> = (0..LAYERS).map(|_| Event::new()).collect();
        let posted: Vec<Transfer> =
            (0..).zip(&events).map(|(layer, event)| push.post(layer, event)).collect();
        for (layer, transfer) in (0..).zip(&posted) {
            push.compute(layer, &events[layer as usize]);
            transfer.wait(WAIT).expect("done in time").unwrap();
            assert!(
                push.lease.wait_arrivals(layer as u32 + 1, WAIT),
                "{transport}: layer {layer} is told of"
            );
            assert_eq!(push.consumer.block(layer, 7), [layer as u8 + 1; BLOCK as usize], "{transport}");
            for later in layer + 1..LAYERS {
                assert_eq!(
                    push.consumer.block(later, 7),
                    [0; BLOCK as usize],
                    "{transport}: not computed yet"
                );
            }
        }
        drop((posted, push.grant));
        assert_eq!(push.lease.wait_free(WAIT).expect("released").outcome, Outcome::Done, "{transport}");
        assert_eq!(push.lease.arrivals(), LAYERS as u32, "still known after the end");
    }
}

#[test]
fn nothing_lands_in_blocks_that_the_consumer_took_back_half_way() {
    for transport in TRANSPORTS {
        let push = Push::open(transport);
        let events: Vec<Event> = (0..LAYERS).map(|_| Event::new()).collect();
        let posted: Vec<Transfer> =
            (0..).zip(&events).map(|(layer, event)| push.post(layer, event)).collect();
        push.compute(0, &events[0]);
        posted[0].wait(WAIT).expect("done in time").unwrap();
        push.lease.revoke();
        push.lease.wait_free(WAIT).expect("free, though layers are still posted");
        push.consumer.region.fill(at(1, 7), BLOCK, 0xee).unwrap();
        push.compute(1, &events[1]);
        assert!(posted[1].wait(WAIT).expect("ended in time").is_err(), "{transport}");
        assert_eq!(push.consumer.block(1, 7), [0xee; BLOCK as usize], "{transport}: somebody else's now");
        assert!(!push.lease.arrived(1), "{transport}");
    }
}

#[test]
fn a_producer_that_is_gone_half_way_is_told_apart_from_one_that_finished() {
    for transport in TRANSPORTS {
        let Push { producer, consumer, lease, grant, route } = Push::open(transport);
        let push = Push { producer, consumer, lease, grant, route };
        let event = Event::new();
        let first = push.post(0, &event);
        push.compute(0, &event);
        first.wait(WAIT).expect("done in time").unwrap();
        assert!(push.lease.wait_arrivals(1, WAIT), "{transport}");
        let Push { producer, consumer: _consumer, lease, grant, route } = push;
        drop((first, grant, route, producer));
        lease.wait_free(WAIT).expect("free when the producer is gone");
        assert_eq!(lease.arrivals(), 1, "{transport}: of four");
    }
}
