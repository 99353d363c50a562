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

const WAIT: Duration = Duration::from_secs(60);
const HEADS: u32 = 4;
const BLOCKS: usize = 8;
const SLOTS: usize = 32;
const CONTENT: usize = 16;
const LAYERS: u32 = 2;

struct Running {
    scheduler: Scheduler,
    listener: Engine,
    ranks: Vec<(Worker, Region)>,
    tp: u32,
}

/// Tensors [block, head, slot, content] of bytes, one layer behind the other.
fn spec(tp: u32, rank: u32) -> CacheSpec {
    let heads = (HEADS / tp) as usize;
    let layer = BLOCKS * heads * SLOTS * CONTENT;
    let view = |index: u32| View {
        layer: index,
        plane: "kv".into(),
        group: 0,
        storage: 0,
        offset: u64::from(index) * layer as u64,
        element_bytes: 1,
        shape: vec![BLOCKS as u64, heads as u64, SLOTS as u64, CONTENT as u64],
        strides: vec![(heads * SLOTS * CONTENT) as u64, (SLOTS * CONTENT) as u64, CONTENT as u64, 1],
        axes: vec![Axis::Block, Axis::Head, Axis::Slot, Axis::Content],
        heads: Heads::Split(vec![HEADS]),
        format: Format::Rows,
    };
    let views: Vec<View> = (0..LAYERS).map(view).collect();
    let storage = (layer * LAYERS as usize) as u64;
    CacheSpec::new(vec![GroupInfo::full(0, SLOTS as u32)], &views, &[storage], Shard { rank, of: tp })
        .unwrap()
}

fn config(extra: Value) -> Config {
    let value = json!({"kv_role": "kv_consumer", "kv_connector_extra_config": extra});
    Config::from_value(value, &Environment::default()).unwrap()
}

fn about(tp: u32, dtype: &str) -> About {
    let facts = Facts {
        connector: CONNECTOR_VERSION,
        model: "tiny".into(),
        layers: LAYERS,
        kv_dtype: dtype.into(),
        device: "cpu".into(),
        framework: "vllm".into(),
        framework_version: "0.32.0".into(),
        block_tokens: SLOTS as u32,
        layout: "LBHNC".into(),
        draft_layers: 0,
    };
    let side = crate::ranks::Side {
        topology: Topology::tensor(tp),
        layers: LAYERS,
        stages: vec![spec(tp, 0).shape()],
    };
    About { facts, side }
}

impl Running {
    fn open(tp: u32, dtype: &str) -> Self {
        let open = || {
            let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap());
            builder.transports(&[TransportKind::Loopback]).open().unwrap()
        };
        let about = about(tp, dtype);
        let ranks: Vec<(Worker, Region)> = (0..tp)
            .map(|rank| {
                let (engine, spec) = (open(), spec(tp, rank));
                let bytes = BLOCKS * (HEADS / tp) as usize * SLOTS * CONTENT * LAYERS as usize;
                let region = engine.alloc(Host::private(bytes as u64)).unwrap();
                let cache = publish(&engine, &spec, std::slice::from_ref(&region)).unwrap();
                let timing =
                    Timing { lease_ttl: WAIT, first_contact_grace: WAIT, connect: WAIT, claim: WAIT };
                let rank = Rank { pp: 0, pcp: 0, tp: rank };
                let mapper = RankMapper::new(&config(json!({})), about.clone(), rank, spec);
                (Worker::new(engine, cache, Box::new(mapper), timing).unwrap(), region)
            })
            .collect();
        let listener = open();
        let descriptors = ranks.iter().map(|(worker, _)| worker.handshake()).collect();
        listener.show_note(NOTE, Instance { about: about.to_value(), ranks: descriptors }.encode()).unwrap();
        let setup = Setup { role: Role::Both, engine_id: "0".into(), sizes: (tp, 1, 1), backoff: 0 };
        let mut scheduler = Scheduler::new(setup, Box::new(lease_name));
        scheduler.set_owner(Owner::of(&listener.descriptor()).unwrap());
        Self { scheduler, listener, ranks, tp }
    }

    /// The bytes of a head of a block of a layer: the region of its rank, and where.
    fn place(&self, layer: u32, block: u32, head: u32) -> (&Region, u64) {
        let here = HEADS / self.tp;
        let slab = (SLOTS * CONTENT) as u64;
        let block = u64::from(layer) * BLOCKS as u64 + u64::from(block);
        let at = (block * u64::from(here) + u64::from(head % here)) * slab;
        (&self.ranks[(head / here) as usize].1, at)
    }

    fn step(&mut self) {
        let messages = self.scheduler.build_meta();
        for (worker, _) in &self.ranks {
            worker.start(&messages, &Start::Now).unwrap();
        }
    }

    fn produce(&mut self, blocks: &[u32], tokens: u64) -> Value {
        for layer in 0..LAYERS {
            for (block, head) in blocks.iter().flat_map(|block| (0..HEADS).map(move |head| (*block, head))) {
                let (region, at) = self.place(layer, block, head);
                region.fill(at, (SLOTS * CONTENT) as u64, mark(layer, block, head)).unwrap();
            }
        }
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
