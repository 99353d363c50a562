//! Instances of real cache specifications, end to end: whatever the ranks, each head's bytes land where that head is.

use std::time::{Duration, Instant};

use ropeway::{Host, Start, TransportKind, lease_name};
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Environment, Role};
use crate::facts::CONNECTOR_VERSION;
use crate::layout::{Axis, Format, GroupInfo, Heads, Shard, View};
use crate::params::Owner;
use crate::ranks::Topology;
use crate::scheduler::{Finish, NewRequest, Scheduler, Setup};
use crate::table::{Instance, NOTE};
use crate::worker::{Timing, Worker};

mod pushing;

const WAIT: Duration = Duration::from_secs(60);
const HEADS: u32 = 4;
const BLOCKS: usize = 8;
const SLOTS: usize = 32;
/// Tokens of a worker's cache.
const TOKENS: usize = BLOCKS * SLOTS;
const CONTENT: usize = 16;
const LAYERS: u32 = 2;

struct Running {
    scheduler: Scheduler,
    listener: Engine,
    ranks: Vec<(Worker, Region)>,
    tp: u32,
    order: Order,
}

/// How a tensor lies in memory: the slots of a block, and whether a slot's heads lie together (NHD) or a head's slots (HND).
#[derive(Clone, Copy, Debug)]
struct Order {
    slots: usize,
    nhd: bool,
}

const HND: Order = Order { slots: SLOTS, nhd: false };

fn spec(tp: u32, rank: u32) -> CacheSpec {
    ordered(HND, tp, rank)
}

/// Tensors of bytes, one layer behind the other.
fn ordered(order: Order, tp: u32, rank: u32) -> CacheSpec {
    let Order { slots, nhd } = order;
    let heads = (HEADS / tp) as usize;
    let layer = TOKENS * heads * CONTENT;
    let (middle, strides, axes) = if nhd {
        ([slots, heads], [heads * CONTENT, CONTENT], [Axis::Slot, Axis::Head])
    } else {
        ([heads, slots], [slots * CONTENT, CONTENT], [Axis::Head, Axis::Slot])
    };
    let view = |index: u32| View {
        layer: index,
        plane: "kv".into(),
        group: 0,
        storage: 0,
        offset: u64::from(index) * layer as u64,
        element_bytes: 1,
        shape: [TOKENS / slots, middle[0], middle[1], CONTENT].map(|count| count as u64).to_vec(),
        strides: [heads * slots * CONTENT, strides[0], strides[1], 1].map(|stride| stride as u64).to_vec(),
        axes: vec![Axis::Block, axes[0], axes[1], Axis::Content],
        heads: Heads::Split(vec![HEADS]),
        format: Format::Rows,
    };
    let views: Vec<View> = (0..LAYERS).map(view).collect();
    let storage = (layer * LAYERS as usize) as u64;
    CacheSpec::new(vec![GroupInfo::full(0, slots as u32)], &views, &[storage], Shard { rank, of: tp })
        .unwrap()
}

fn config(extra: Value) -> Config {
    let value = json!({"kv_role": "kv_consumer", "kv_connector_extra_config": extra});
    Config::from_value(value, &Environment::default()).unwrap()
}

fn about(tp: u32, dtype: &str) -> About {
    about_of(HND, tp, dtype)
}

fn about_of(order: Order, tp: u32, dtype: &str) -> About {
    let facts = Facts {
        connector: CONNECTOR_VERSION,
        model: "tiny".into(),
        layers: LAYERS,
        kv_dtype: dtype.into(),
        device: "cpu".into(),
        framework: "vllm".into(),
        framework_version: "0.32.0".into(),
        block_tokens: order.slots as u32,
        layout: "LBHNC".into(),
        draft_layers: 0,
    };
    let side = crate::ranks::Side {
        topology: Topology::tensor(tp),
        layers: LAYERS,
        stages: vec![ordered(order, tp, 0).shape()],
    };
    About { facts, side }
}

impl Running {
    fn open(tp: u32, dtype: &str) -> Self {
        Self::of(HND, tp, dtype)
    }

    fn of(order: Order, tp: u32, dtype: &str) -> Self {
        Self::over(TransportKind::Loopback, order, tp, dtype)
    }

    fn over(transport: TransportKind, order: Order, tp: u32, dtype: &str) -> Self {
        let open = || {
            let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap());
            builder.transports(&[transport]).open().unwrap()
        };
        let about = about_of(order, tp, dtype);
        let ranks: Vec<(Worker, Region)> = (0..tp)
            .map(|rank| {
                let (engine, spec) = (open(), ordered(order, tp, rank));
                let bytes = BLOCKS * (HEADS / tp) as usize * SLOTS * CONTENT * LAYERS as usize;
                let region = engine.alloc(Host::private(bytes as u64)).unwrap();
                let cache = publish(&engine, &spec, std::slice::from_ref(&region)).unwrap();
                let timing =
                    Timing { lease_ttl: WAIT, first_contact_grace: WAIT, connect: WAIT, claim: WAIT };
                let rank = Rank { pp: 0, pcp: 0, tp: rank };
                let mapper = RankMapper::new(&config(json!({})), about.clone(), rank, spec);
                let mut mapper = mapper.storages(std::slice::from_ref(&region));
                // A block or two: several rounds for a prompt.
                mapper.scratch = 8 << 10;
                (Worker::new(engine, cache, Box::new(mapper), timing).unwrap(), region)
            })
            .collect();
        let listener = open();
        let descriptors = ranks.iter().map(|(worker, _)| worker.handshake()).collect();
        listener.show_note(NOTE, Instance { about: about.to_value(), ranks: descriptors }.encode()).unwrap();
        let setup = Setup {
            role: Role::Both,
            engine_id: "0".into(),
            sizes: (tp, 1, 1),
            backoff: 0,
            metaservers: Some(vec![pushing::PROXY.into()]),
        };
        let mut scheduler = Scheduler::new(setup, Box::new(lease_name));
        scheduler.set_owner(Owner::of(&listener.descriptor()).unwrap());
        Self { scheduler, listener, ranks, tp, order }
    }

    /// The bytes of a head of a block of a layer: the region of its rank, and where.
    fn place(&self, layer: u32, block: u32, head: u32) -> (&Region, u64) {
        let here = HEADS / self.tp;
        let slab = (SLOTS * CONTENT) as u64;
        let block = u64::from(layer) * BLOCKS as u64 + u64::from(block);
        let at = (block * u64::from(here) + u64::from(head % here)) * slab;
        (&self.ranks[(head / here) as usize].1, at)
    }

    /// Where a token's content for a head lies, said plainly: the region of its rank, and where.
    fn token(&self, layer: u32, block: u32, slot: usize, head: u32) -> (&Region, u64) {
        let Order { slots, nhd } = self.order;
        let here = (HEADS / self.tp) as usize;
        let (block, at) = (block as usize, head as usize % here);
        let place = if nhd { slot * here + at } else { at * slots + slot };
        let place = layer as usize * TOKENS * here + block * slots * here + place;
        (&self.ranks[head as usize / here].1, (place * CONTENT) as u64)
    }

    fn step(&mut self) {
        let messages = self.scheduler.build_meta();
        for (worker, _) in &self.ranks {
            worker.start(&messages, &Start::Now).unwrap();
        }
    }

    fn produce(&mut self, blocks: &[u32], tokens: u64) -> Value {
        self.fill(blocks);
        self.lend(blocks, tokens)
    }

    fn fill(&self, blocks: &[u32]) {
        for layer in 0..LAYERS {
            for (block, head) in blocks.iter().flat_map(|block| (0..HEADS).map(move |head| (*block, head))) {
                let (region, at) = self.place(layer, block, head);
                region.fill(at, (SLOTS * CONTENT) as u64, mark(layer, block, head)).unwrap();
            }
        }
    }

    fn lend(&mut self, blocks: &[u32], tokens: u64) -> Value {
        let params = json!({"do_remote_decode": true});
        self.scheduler.on_new_request(NewRequest { id: "p", params: &params });
        let finished = self.scheduler.finished("p", Finish::Complete, vec![blocks.to_vec()], tokens);
        self.step();
        finished.params.unwrap()
    }

    fn consume(&mut self, params: &Value, blocks: &[u32], tokens: u64) -> Vec<Failure> {
        self.scheduler.on_new_request(NewRequest { id: "d", params });
        self.scheduler.matched("d", tokens, 0);
        self.scheduler.allocated("d", vec![blocks.to_vec()], tokens);
        self.step();
        let until = Instant::now() + WAIT;
        let (mut received, mut failures) = (0, Vec::new());
        while received < self.ranks.len() {
            assert!(Instant::now() < until, "no load came");
            for (worker, _) in &self.ranks {
                let reports = worker.poll().reports;
                received += reports.received.len();
                failures.extend(reports.failed.into_iter().map(|load| load.failure));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        failures
    }
}

fn mark(layer: u32, block: u32, head: u32) -> u8 {
    (1 + layer * 100 + block * HEADS + head) as u8
}

#[test]
fn every_head_lands_where_it_belongs_whatever_the_ranks() {
    for (producers, consumers) in [(1, 1), (2, 2), (1, 2), (2, 1), (4, 2), (2, 4)] {
        let (mut producer, mut consumer) =
            (Running::open(producers, "float32"), Running::open(consumers, "float32"));
        let (there, here) = ([5, 1, 7], [2, 6, 3]);
        let params = producer.produce(&there, 80);
        let failures = consumer.consume(&params, &here, 80);
        assert_eq!(failures, [], "{producers} to {consumers}");
        for (layer, head) in (0..LAYERS).flat_map(|layer| (0..HEADS).map(move |head| (layer, head))) {
            for (at, (here, there)) in here.iter().zip(there).enumerate() {
                let (region, place) = consumer.place(layer, *here, head);
                // The last block holds 16 of 32 tokens.
                let mut bytes = vec![0; if at == 2 { 16 } else { SLOTS } * CONTENT];
                region.read(place, &mut bytes).unwrap();
                let right = bytes.iter().all(|byte| *byte == mark(layer, there, head));
                assert!(right, "{producers} to {consumers}: head {head} of layer {layer}, block {here}");
            }
        }
        let until = Instant::now() + WAIT;
        let mut sent = 0;
        while sent < producer.ranks.len() {
            assert!(Instant::now() < until, "a lease did not end by word");
            sent += producer.ranks.iter().map(|(worker, _)| worker.poll().reports.sent.len()).sum::<usize>();
        }
    }
}

#[test]
fn instances_that_differ_in_kv_dtype_do_not_exchange_a_byte() {
    let (mut producer, mut consumer) = (Running::open(1, "fp8_e4m3"), Running::open(1, "float32"));
    let params = producer.produce(&[5], 32);
    let failures = consumer.consume(&params, &[2], 32);
    assert_eq!(failures[0].text, "KV dtype is float32 here and fp8_e4m3 at the peer");
    let mut bytes = [1; CONTENT];
    let (region, at) = consumer.place(0, 2, 0);
    region.read(at, &mut bytes).unwrap();
    assert_eq!(bytes, [0; CONTENT]);
    drop(producer.listener);
}

fn mapper(extra: Value) -> RankMapper {
    RankMapper::new(&config(extra), about(2, "float32"), Rank { pp: 0, pcp: 0, tp: 0 }, spec(2, 0))
}

#[test]
fn ids_that_are_not_those_of_the_lease_are_refused_by_group_and_id() {
    for (told, named) in [
        (json!([[5, 1]]), "leased only: Some(BlockId(7))"),
        (json!([[5, 1, 6]]), "told only: Some(BlockId(6))"),
    ] {
        let (mut producer, mut consumer) = (Running::open(1, "float32"), Running::open(1, "float32"));
        let mut params = producer.produce(&[5, 1, 7], 64);
        params["remote_block_ids"] = told;
        let failures = consumer.consume(&params, &[2, 6], 64);
        assert_eq!(failures[0].kind, ErrorKind::Mismatch, "{failures:?}");
        assert!(failures[0].text.contains("group g0") && failures[0].text.contains(named), "{failures:?}");
        let mut bytes = [1; CONTENT];
        let (region, at) = consumer.place(0, 2, 0);
        region.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, [0; CONTENT], "nothing was read");
    }
}

#[test]
fn declared_sizes_that_are_not_so_are_told_and_do_no_harm() {
    let declared = json!({"prefill": {"dp_size": 2, "tp_size": 4}, "decode": {"dp_size": 2, "tp_size": 4}});
    let mapper = mapper(declared);
    let lines = mapper.differences(&about(1, "float32")).unwrap();
    assert_eq!(lines, ["prefill.tp_size is declared as 4 but the instance has 1; the instance counts"]);
    assert!(mapper.map(&about(1, "float32").to_value()).is_ok());
}

type Change = (&'static str, fn(&mut About));

#[test]
fn instances_that_do_not_fit_are_refused_at_the_handshake_by_the_field_that_differs() {
    let changes: [Change; 7] = [
        ("KV dtype", |about| about.facts.kv_dtype = "fp8_e4m3".into()),
        ("device", |about| about.facts.device = "ascend-a2".into()),
        ("model", |about| about.facts.model = "other".into()),
        // K and V apart instead of together.
        ("layers.0.k is missing here", |about| about.side.stages[0].planes[0].shape.plane = "k".into()),
        ("bytes of a head of layers.0.kv", |about| {
            let shape = &mut about.side.stages[0].planes[0].shape;
            (shape.content, shape.rows.stride, shape.heads.stride) = (8, 8, 256);
        }),
        ("group g0", |about| about.side.stages[0].groups[0].info.block_slots = 24),
        ("format of layers.0.kv", |about| about.side.stages[0].planes[0].shape.format = Format::Fractal),
    ];
    let mut ours = mapper(json!({}));
    ours.ours.facts.device = "ascend-a3".into();
    for (field, change) in changes {
        let mut theirs = about(2, "float32");
        theirs.facts.device = "ascend-a3".into();
        assert!(ours.map(&theirs.to_value()).is_ok());
        change(&mut theirs);
        let Err(refused) = ours.map(&theirs.to_value()) else { panic!("{field} may differ") };
        assert_eq!(refused.kind, ErrorKind::Mismatch);
        assert!(refused.text.contains(field), "{}", refused.text);
    }
}

#[test]
fn the_user_may_let_models_differ_but_not_how_bytes_are_read() {
    let mapper = mapper(json!({"enforce_handshake_compat": false}));
    let mut theirs = about(2, "float32");
    theirs.facts.model = "other".into();
    assert_eq!(mapper.differences(&theirs).unwrap(), ["model is tiny here and other at the producer"]);
    theirs.facts.kv_dtype = "fp8_e4m3".into();
    assert!(mapper.differences(&theirs).is_err());
}

#[test]
fn blocks_that_lie_otherwise_at_the_producer_are_put_in_order_after_they_landed() {
    let (wide, narrow) = (Order { slots: 32, nhd: false }, Order { slots: 16, nhd: false });
    let rows = Order { slots: 32, nhd: true };
    for (there, here) in [(wide, narrow), (narrow, wide), (rows, wide), (wide, rows), (rows, narrow)] {
        for (producers, consumers) in [(1, 1), (2, 1), (1, 2), (4, 2)] {
            check_order((there, producers), (here, consumers));
        }
    }
}

fn check_order((there, producers): (Order, u32), (here, consumers): (Order, u32)) {
    let case = format!("{producers} of {there:?} to {consumers} of {here:?}");
    let mut producer = Running::of(there, producers, "float32");
    let mut consumer = Running::of(here, consumers, "float32");
    let (tokens, content) = (80_usize, |layer: u32, token: usize, head: u32| {
        [1 + layer as u8, token as u8, head as u8, 7].repeat(CONTENT / 4)
    });
    let every = |tokens: usize| {
        (0..LAYERS).flat_map(move |layer| {
            (0..tokens).flat_map(move |token| (0..HEADS).map(move |head| (layer, token, head)))
        })
    };
    let blocks = |order: Order| {
        (0..tokens.div_ceil(order.slots) as u32).map(|at| (at * 3 + 1) % 8).collect::<Vec<_>>()
    };
    let (lent, given) = (blocks(there), blocks(here));
    for (layer, token, head) in every(tokens) {
        let (region, at) = producer.token(layer, lent[token / there.slots], token % there.slots, head);
        region.write(at, &content(layer, token, head)).unwrap();
    }
    let params = producer.lend(&lent, tokens as u64);
    assert_eq!(consumer.consume(&params, &given, tokens as u64), [], "{case}");
    let mut bytes = vec![0; CONTENT];
    for (layer, token, head) in every(tokens) {
        let (region, at) = consumer.token(layer, given[token / here.slots], token % here.slots, head);
        region.read(at, &mut bytes).unwrap();
        assert_eq!(bytes, content(layer, token, head), "{case}: layer {layer}, token {token}, head {head}");
    }
    // No block of another request was touched.
    for block in (0..(TOKENS / here.slots) as u32).filter(|block| !given.contains(block)) {
        for (layer, slot, head) in every(here.slots) {
            let (region, at) = consumer.token(layer, block, slot, head);
            region.read(at, &mut bytes).unwrap();
            assert_eq!(bytes, [0; CONTENT], "{case}: block {block}");
        }
    }
}

#[test]
fn blocks_that_would_have_to_be_put_in_order_are_refused_by_name_without_a_way_to_do_so() {
    let mapper = mapper(json!({}));
    let theirs = about_of(Order { slots: 16, nhd: false }, 2, "float32");
    let Err(refused) = mapper.map(&theirs.to_value()) else { panic!("nothing can put them in order") };
    assert_eq!(refused.kind, ErrorKind::Mismatch);
    assert!(refused.text.contains("arrangement of layers.0.kv"), "{}", refused.text);
}
