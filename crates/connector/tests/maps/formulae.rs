//! Tuple caches, token-major, with equal and unequal tensor parallelism, against vllm-ascend's address formulae as
//! `formulae/statement.py` states them: the maps must take every byte from where the formulae do.

use std::process::Command;

use ropeway_connector::ids::Request;
use ropeway_connector::layout::{Axis, CacheSpec, Format, GroupInfo, Heads, Shard, View};
use ropeway_connector::ranks::{Land, Rank, RankMap, Share, Side, Topology};
use ropeway_core::CacheLayout;
use ropeway_testkit::cannot_run;
use serde::Deserialize;

use crate::world::{layout, runs, scratch};

/// A tensor of a rank: where it begins, bytes from block to block, and its row.
#[derive(Deserialize)]
struct Tensor {
    base: u64,
    stride: u64,
    heads: u64,
    dim: u64,
}

/// Bytes of one case: `[to, rank of the producer or -1 for any, from, bytes]` for each rank of the consumer.
#[derive(Deserialize)]
struct Case {
    name: String,
    caches: Vec<(u32, u64)>,
    split: bool,
    element: u32,
    tokens: u64,
    blocks: u64,
    layers: u32,
    producer_tp: u32,
    consumer_tp: u32,
    producer_ids: Vec<u32>,
    consumer_ids: Vec<u32>,
    producer: Vec<Vec<Tensor>>,
    consumer: Vec<Vec<Tensor>>,
    moves: Vec<Vec<(u64, i64, u64, u64)>>,
}

/// From where a byte comes: a rank, unless all have it, and the byte there.
type From = Option<(i64, u64)>;

fn cases(test: &str) -> Option<Vec<Case>> {
    let statement = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/maps/formulae/statement.py");
    let Ok(said) = Command::new("python3").arg(statement).output() else {
        cannot_run(test, "python3 is not installed");
        return None;
    };
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Some(serde_json::from_slice(&said.stdout).expect("the statement prints cases"))
}

impl Case {
    fn spec(&self, tensors: &[Vec<Tensor>], shard: Shard) -> (CacheSpec, u64) {
        let element = u64::from(self.element);
        let mut views = Vec::new();
        for (layer, caches) in tensors.iter().enumerate() {
            for (cache, tensor) in caches.iter().enumerate() {
                let row = tensor.heads * tensor.dim;
                views.push(View {
                    layer: layer as u32,
                    plane: format!("cache{cache}"),
                    group: 0,
                    storage: 0,
                    offset: tensor.base,
                    element_bytes: self.element,
                    shape: vec![self.blocks, self.tokens, tensor.heads, tensor.dim],
                    strides: vec![tensor.stride / element, row, tensor.dim, 1],
                    axes: vec![Axis::Block, Axis::Slot, Axis::Head, Axis::Content],
                    heads: self.heads(cache),
                    format: Format::Rows,
                });
            }
        }
        let last = tensors.last().and_then(|caches| caches.last()).expect("there are tensors");
        let size = last.base + last.stride * self.blocks;
        let group = GroupInfo::full(0, self.tokens as u32);
        (CacheSpec::new(vec![group], &views, &[size], shard).expect("the views are sound"), size)
    }

    fn heads(&self, cache: usize) -> Heads {
        if self.split { Heads::Split(vec![self.caches[cache].0]) } else { Heads::Replicated }
    }

    fn ours(&self, rank: u32) -> (CacheSpec, u64) {
        self.spec(&self.consumer, Shard { rank, of: self.consumer_tp })
    }

    fn theirs(&self, rank: u32) -> (CacheSpec, u64) {
        self.spec(&self.producer, Shard { rank, of: self.producer_tp })
    }

    /// Where the formulae take each byte of a rank from.
    fn stated(&self, rank: u32, size: u64) -> Vec<From> {
        let mut bytes = vec![None; size as usize];
        for &(to, source, from, len) in &self.moves[rank as usize] {
            for at in 0..len {
                let byte = &mut bytes[(to + at) as usize];
                assert_eq!(byte.replace((source, from + at)), None, "{}: stated twice", self.name);
            }
        }
        bytes
    }

    /// Where the maps take it from.
    fn mapped(&self, rank: u32, least_piece: u64) -> (Vec<From>, usize) {
        let (spec, size) = self.ours(rank);
        let side = |spec: &CacheSpec, tp| Side {
            topology: Topology::tensor(tp),
            layers: self.layers,
            stages: vec![spec.shape()],
        };
        let (ours, theirs) = (side(&spec, self.consumer_tp), side(&self.theirs(0).0, self.producer_tp));
        let local = layout(&spec, size);
        let at = Rank { pp: 0, pcp: 0, tp: rank };
        let map = RankMap::new(spec, ours, theirs, at, least_piece).expect("the instances fit");
        let mut filled = Filled { bytes: vec![None; size as usize], whole: 0 };
        for pull in map.pulls(7).expect("the instances fit").iter() {
            let (peer, peer_size) = self.theirs(pull.rank.tp);
            let remote = layout(&peer, peer_size);
            for share in &pull.shares {
                self.carry_out(&map, share, (&local, &remote), &mut filled);
            }
        }
        (filled.bytes, filled.whole)
    }

    fn carry_out(
        &self,
        map: &RankMap,
        share: &Share,
        sides: (&CacheLayout, &CacheLayout),
        filled: &mut Filled,
    ) {
        let (ours, theirs) = ([self.consumer_ids.clone()], [self.producer_ids.clone()]);
        let tokens = 0..self.tokens * self.producer_ids.len() as u64;
        let request = Request { local: &ours, remote: &theirs, tokens };
        let ids = share.ids(&request).expect("the ids cover the request");
        let source = if self.split { i64::from(share.rank.tp) } else { -1 };
        let Land::Whole(reformat) = &share.land else {
            for run in runs(sides.0, sides.1, share, [&ids.local, &ids.remote]) {
                (0..u64::from(run.len)).for_each(|at| filled.put(run.local + at, (source, run.remote + at)));
            }
            return;
        };
        filled.whole += 1;
        let counts: Vec<u32> = ids.local.iter().map(|ids| ids.len() as u32).collect();
        let (places, size) = reformat.place(&counts).expect("it is small");
        let mut landed = vec![None; size as usize];
        let scratch = scratch(share, &places, size);
        for run in runs(&scratch, sides.1, share, [&ids.local, &ids.remote]) {
            (0..u64::from(run.len)).for_each(|at| landed[(run.local + at) as usize] = Some(run.remote + at));
        }
        reformat.copies(map.spec().expect("of our own rank"), &places, &ids.moves, |copy| {
            for row in 0..u64::from(copy.height) {
                let (from, to) = (copy.from + row * copy.from_pitch, copy.to + row * copy.to_pitch);
                for at in 0..copy.width {
                    filled.put(to + at, (source, landed[(from + at) as usize].expect("it has landed")));
                }
            }
        });
    }
}

/// A rank's memory.
struct Filled {
    bytes: Vec<From>,
    /// Shares that landed whole and were put in order.
    whole: usize,
}

impl Filled {
    fn put(&mut self, to: u64, from: (i64, u64)) {
        assert_eq!(self.bytes[to as usize].replace(from), None, "byte {to} is written once");
    }
}

fn compare(test: &str, least_piece: u64) -> Option<usize> {
    let (mut bytes, mut whole) = (0, 0);
    for case in cases(test)? {
        for rank in 0..case.consumer_tp {
            let (_, size) = case.ours(rank);
            let (stated, (mapped, landed)) = (case.stated(rank, size), case.mapped(rank, least_piece));
            let differs = stated.iter().zip(&mapped).position(|(stated, mapped)| stated != mapped);
            if let Some(at) = differs {
                let (stated, mapped) = (stated[at], mapped[at]);
                panic!(
                    "{}: byte {at} of rank {rank} is {stated:?} by the formulae, {mapped:?} here",
                    case.name
                );
            }
            bytes += stated.iter().flatten().count();
            whole += landed;
        }
    }
    assert!(bytes > 50_000, "{bytes} bytes were compared");
    Some(whole)
}

#[test]
fn slices_read_straight_are_the_bytes_that_the_formulae_name() {
    let test = "slices_read_straight_are_the_bytes_that_the_formulae_name";
    assert!(compare(test, 0).is_none_or(|whole| whole == 0));
}

#[test]
fn blocks_landed_whole_and_put_in_order_are_the_bytes_that_the_formulae_name() {
    let test = "blocks_landed_whole_and_put_in_order_are_the_bytes_that_the_formulae_name";
    assert!(compare(test, u64::MAX).is_none_or(|whole| whole > 0));
}
