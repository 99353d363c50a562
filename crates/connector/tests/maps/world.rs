//! Two instances in memory where each byte has a name; pulls are carried out by the engine's own plans, and every byte of
//! the consumer is looked at afterwards.

use std::collections::BTreeMap;
use std::ops::Range;

use ropeway_connector::ids::Request;
use ropeway_connector::layout::{CacheSpec, Context, Heads, Keeps, Shard};
use ropeway_connector::ranks::{Land, Pull, Rank, RankMap, Share, Side, Topology};
use ropeway_core::plan::{RouteMap, RouteParts, Scope};
use ropeway_core::{BlockId, CacheLayout, Cursor, Limits, Op, RegionId, Run, Runs, Strided};

use crate::model::{Memory, Model, Tensor, Worker, address, heads, holder};

/// The name of a byte of a cache: layer, plane, head, slot or row, byte.
type Name = (u32, &'static str, u32, u64, u64);

/// One instance.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) topology: Topology,
    pub(crate) memory: Memory,
    pub(crate) drafts: bool,
}

/// One trial.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) model: Model,
    pub(crate) producer: Instance,
    pub(crate) consumer: Instance,
    /// Tokens that the consumer has, and that the producer has computed.
    pub(crate) tokens: Range<u64>,
    pub(crate) key: u64,
    pub(crate) least_piece: u64,
    /// Shuffles block ids.
    pub(crate) seed: u64,
}

/// What a trial did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) direct: usize,
    pub(crate) whole: usize,
    pub(crate) idle_claims: usize,
}

fn limits() -> Limits {
    Limits::default().with_parts_per_cache(16_384)
}

fn region() -> RegionId {
    RegionId { slot: 0, generation: 1 }
}

impl Instance {
    pub(crate) fn spec(&self, model: &Model, rank: Rank) -> (Worker, CacheSpec) {
        let worker = model.worker(&self.memory, &self.topology, rank, self.drafts);
        let views: Vec<_> = worker.tensors.iter().map(|tensor| tensor.view.clone()).collect();
        let shard = Shard { rank: rank.tp, of: self.topology.tp };
        let spec = CacheSpec::new(worker.groups.clone(), &views, &worker.storages, shard);
        (worker, spec.expect("the views are sound"))
    }

    pub(crate) fn side(&self, model: &Model) -> Side {
        let stage = |pp| self.spec(model, Rank { pp, pcp: 0, tp: 0 }).1.shape();
        let stages = (0..self.topology.pp).map(stage).collect();
        Side { topology: self.topology, layers: model.layers, stages }
    }

    /// Of how many ranks each holds a stripe of the group, and the stripe's slots.
    fn stripes(&self, model: &Model, group: usize) -> (u64, u64) {
        let info = &model.groups[group];
        let Topology { pcp, dcp, stripe_tokens, .. } = self.topology;
        let alone = info.context == Context::Replicated || matches!(info.keeps, Keeps::State { .. });
        if alone || pcp * dcp == 1 {
            (1, 1)
        } else {
            (u64::from(pcp * dcp), u64::from(stripe_tokens / info.tokens_per_slot))
        }
    }

    /// Which of the stripes a rank holds.
    fn context(&self, rank: Rank) -> u64 {
        u64::from(rank.pcp * self.topology.dcp + rank.tp % self.topology.dcp)
    }

    fn block_slots(&self, model: &Model, group: usize) -> u64 {
        let info = &model.groups[group];
        u64::from(self.memory.block_tokens / info.tokens_per_slot)
    }

    /// Block ids of a request, group by group of the model: null where a window has passed.
    fn block_ids(&self, model: &Model, tokens: u64, seed: u64) -> Vec<Vec<u32>> {
        let mut free = shuffled(self.memory.blocks, seed);
        let mut take = || free.pop().expect("the pool has blocks for a request");
        let mut lists = Vec::new();
        for (group, info) in model.groups.iter().enumerate() {
            let list = if let Keeps::State { spare } = info.keeps {
                (0..=spare).map(|_| take()).collect()
            } else {
                let (of, _) = self.stripes(model, group);
                let slots = tokens.div_ceil(info.tokens_per_slot.into());
                let per_block = self.block_slots(model, group) * of;
                let window = match info.keeps {
                    Keeps::Window { tokens: window } => tokens.saturating_sub(window.into()),
                    _ => 0,
                };
                let kept = |block: u64| (block + 1) * per_block * u64::from(info.tokens_per_slot) > window;
                (0..slots.div_ceil(per_block)).map(|block| if kept(block) { take() } else { 0 }).collect()
            };
            lists.push(list);
        }
        lists
    }
}

/// The ids of a pool without its null block, in some order.
fn shuffled(blocks: u32, mut seed: u64) -> Vec<u32> {
    let mut ids: Vec<u32> = (1..blocks).collect();
    for at in (1..ids.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ids.swap(at, (seed >> 33) as usize % (at + 1));
    }
    ids
}

/// Every byte of a worker that holds something of a request, by name; only slots of `slots(group)`.
fn bytes(
    trial: &Trial,
    instance: &Instance,
    rank: Rank,
    worker: &Worker,
    ids: &[Vec<u32>],
    slots: impl Fn(usize) -> Range<u64>,
    mut each: impl FnMut(Name, u64),
) {
    let model = &trial.model;
    for Tensor { model: index, view } in &worker.tensors {
        let plane = &model.planes[*index];
        let group = &model.groups[plane.group];
        let (of, stripe) = instance.stripes(model, plane.group);
        let tensors = u64::from(if plane.rows > 0 { 1 } else { instance.memory.kernels });
        let names = heads(&plane.heads, rank.tp, instance.topology.tp);
        let content = plane.content * u64::from(plane.element_bytes);
        let pairs: &[&'static str] = if view.axes.len() == 5 { &["k", "v"] } else { &[plane.plane] };
        let list = &ids[plane.group];
        let mut rows = |block: u32, slot: u64, row: u64, position: u64| {
            for (pair, name) in pairs.iter().enumerate() {
                for (head, global) in names.iter().enumerate() {
                    for byte in 0..content {
                        let at = address(
                            view,
                            pair as u64,
                            u64::from(block) * tensors,
                            slot,
                            row,
                            head as u64,
                            byte,
                        );
                        each((view.layer, *name, *global, position, byte), at);
                    }
                }
            }
        };
        if let Keeps::State { spare } = group.keeps {
            let block = list[list.len() - 1 - spare as usize];
            (0..plane.rows).for_each(|row| rows(block, 0, row, row));
            continue;
        }
        let block_slots = instance.block_slots(model, plane.group);
        for slot in slots(plane.group) {
            let (owner, place) = holder(slot, of, stripe);
            if of > 1 && owner != instance.context(rank) {
                continue;
            }
            let block = list[(place / block_slots) as usize];
            if block != 0 {
                rows(block, place % block_slots, 0, slot);
            }
        }
    }
}

pub(crate) fn layout(spec: &CacheSpec, bytes: u64) -> CacheLayout {
    let mut layout = CacheLayout::builder("kv");
    for (index, group) in spec.groups().iter().enumerate() {
        layout = layout.group(&group.info.name, 1);
        for part in spec.parts().iter().filter(|part| part.group == index) {
            layout = layout.part(&part.name, region(), part.strided);
        }
    }
    layout.build(|_| Some(bytes), &limits()).expect("the parts are sound")
}

/// The runs of a share's plan.
pub(crate) fn runs(
    local: &CacheLayout,
    remote: &CacheLayout,
    share: &Share,
    ids: [&[Vec<BlockId>]; 2],
) -> Vec<Run> {
    let names: Vec<&str> = share.parts.iter().map(String::as_str).collect();
    let route = RouteMap::new(local, remote, &share.slices, RouteParts::Named(&names), &limits());
    let [ours, theirs] = ids.map(|lists| lists.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let route = route.expect("the share fits both caches");
    let plan = route.plan(Op::Read, &ours, &theirs, &Scope::default()).expect("the ids are sound");
    let mut all = Vec::new();
    let (mut at, mut some) = (Cursor::default(), [Run::default(); 64]);
    loop {
        let filled = plan.fill(&mut at, &mut some, u64::MAX);
        if filled == 0 {
            return all;
        }
        all.extend_from_slice(&some[..filled]);
    }
}

/// A consumer rank's memory: what was written to each byte, and how often.
struct Written {
    names: Vec<Option<Name>>,
    times: Vec<u8>,
}

impl Written {
    fn copy(&mut self, from: &[Option<Name>], source: u64, target: u64, len: u64) {
        for at in 0..len {
            let target = (target + at) as usize;
            self.names[target] = from[(source + at) as usize];
            self.times[target] += 1;
        }
    }
}

impl Trial {
    /// Carries the trial out and looks at every byte.
    pub(crate) fn run(&self) -> Outcome {
        let (producer, consumer) = (&self.producer, &self.consumer);
        let remote_ids = producer.block_ids(&self.model, self.tokens.end, self.seed);
        let local_ids = consumer.block_ids(&self.model, self.tokens.end, self.seed ^ 0x5eed);
        let mut outcome = Outcome::default();
        let mut claims: BTreeMap<Rank, (u32, u32)> = BTreeMap::new();
        for rank in consumer.topology.ranks() {
            let map = self.map(rank).expect("the instances fit");
            let pulls = map.pulls(self.key).expect("the instances fit");
            for pull in pulls.iter() {
                let claim = claims.entry(pull.rank).or_insert((0, pull.holders));
                assert_eq!(claim.1, pull.holders, "all holders of {:?} state one number", pull.rank);
                claim.0 += 1;
                outcome.idle_claims += usize::from(pull.shares.is_empty());
            }
            self.rank(rank, &map, &pulls, [&local_ids, &remote_ids], &mut outcome);
        }
        for rank in producer.topology.ranks() {
            let (claimed, holders) = claims.remove(&rank).unwrap_or_default();
            assert!(claimed > 0, "{rank:?} is claimed by somebody");
            assert_eq!(claimed, holders, "{rank:?} is told how many claim it");
        }
        outcome
    }

    pub(crate) fn map(&self, rank: Rank) -> Result<RankMap, ropeway_connector::facts::Mismatch> {
        let (_, spec) = self.consumer.spec(&self.model, rank);
        let (ours, theirs) = (self.consumer.side(&self.model), self.producer.side(&self.model));
        RankMap::new(spec, ours, theirs, rank, self.least_piece)
    }

    fn rank(&self, rank: Rank, map: &RankMap, pulls: &[Pull], ids: [&[Vec<u32>]; 2], outcome: &mut Outcome) {
        let (worker, spec) = self.consumer.spec(&self.model, rank);
        let size = worker.storages[0];
        let local = layout(&spec, size);
        let mut written = Written { names: vec![None; size as usize], times: vec![0; size as usize] };
        for pull in pulls {
            let (peer, peer_spec) = self.producer.spec(&self.model, pull.rank);
            let remote = layout(&peer_spec, peer.storages[0]);
            let mut memory = vec![None; peer.storages[0] as usize];
            let all = |group: usize| 0..self.slots(group).end;
            bytes(self, &self.producer, pull.rank, &peer, ids[1], all, |name, at| {
                assert!(memory[at as usize].replace(name).is_none(), "a byte of the producer has two names");
            });
            let request = Request { local: ids[0], remote: ids[1], tokens: self.tokens.clone() };
            for share in &pull.shares {
                let ids = share.ids(&request).expect("the ids cover the request");
                if let Land::Whole(reformat) = &share.land {
                    outcome.whole += 1;
                    let counts: Vec<u32> = ids.local.iter().map(|ids| ids.len().max(1) as u32).collect();
                    let (places, size) = reformat.place(&counts).expect("it is small");
                    let scratch = scratch(share, &places, size);
                    let mut landed = vec![None; size as usize];
                    for run in runs(&scratch, &remote, share, [&ids.local, &ids.remote]) {
                        let (to, from, len) = (run.local as usize, run.remote as usize, run.len as usize);
                        landed[to..to + len].copy_from_slice(&memory[from..from + len]);
                    }
                    reformat.copies(map.spec().expect("of our own rank"), &places, &ids.moves, |copy| {
                        for row in 0..u64::from(copy.height) {
                            let (from, to) =
                                (copy.from + row * copy.from_pitch, copy.to + row * copy.to_pitch);
                            written.copy(&landed, from, to, copy.width);
                        }
                    });
                } else {
                    outcome.direct += 1;
                    for run in runs(&local, &remote, share, [&ids.local, &ids.remote]) {
                        written.copy(&memory, run.remote, run.local, run.len.into());
                    }
                }
            }
        }
        outcome.bytes += self.look(rank, &worker, &written, ids[0]);
    }

    /// Every wanted byte was written once with the right one; no other was, but for slots after the last token and, in a
    /// window, before the first that is looked at.
    fn look(&self, rank: Rank, worker: &Worker, written: &Written, ids: &[Vec<u32>]) -> u64 {
        let mut times = written.times.clone();
        let mut wanted = 0;
        bytes(
            self,
            &self.consumer,
            rank,
            worker,
            ids,
            |group| self.slots(group),
            |name, at| {
                if name.0 >= self.model.layers && !self.producer.drafts {
                    return;
                }
                let at = at as usize;
                assert_eq!(written.times[at], 1, "{name:?} of {rank:?} at byte {at} is written once");
                assert_eq!(written.names[at], Some(name), "{name:?} of {rank:?} at byte {at}");
                times[at] = 0;
                wanted += 1;
            },
        );
        bytes(
            self,
            &self.consumer,
            rank,
            worker,
            ids,
            |group| self.spill(group),
            |name, at| {
                let slots = self.slots(self.group_of(&name));
                if !slots.contains(&name.3) {
                    times[at as usize] = 0;
                }
            },
        );
        let stray = times.iter().position(|times| *times != 0);
        assert_eq!(stray, None, "a byte of {rank:?} that nobody asked for is written");
        wanted
    }

    fn group_of(&self, name: &Name) -> usize {
        let is = |plane: &&crate::model::PlaneModel| {
            let same = plane.plane == name.1 || plane.plane == "kv" && matches!(name.1, "k" | "v");
            same && plane.layers.contains(&name.0)
        };
        self.model.planes.iter().find(is).expect("the name is of the model").group
    }

    /// The slots of a group that must arrive.
    fn slots(&self, group: usize) -> Range<u64> {
        let info = &self.model.groups[group];
        let per_slot = u64::from(info.tokens_per_slot);
        let mut first = self.tokens.start;
        if let Keeps::Window { tokens } = info.keeps {
            first = first.max(self.tokens.end.saturating_sub(tokens.into()));
        }
        first / per_slot..self.tokens.end.div_ceil(per_slot)
    }

    /// Slots that may be written besides: those of the consumer's own blocks, but none that it had.
    fn spill(&self, group: usize) -> Range<u64> {
        let info = &self.model.groups[group];
        let (of, _) = self.consumer.stripes(&self.model, group);
        let per_block = self.consumer.block_slots(&self.model, group) * of;
        let end = self.slots(group).end.next_multiple_of(per_block);
        self.tokens.start / u64::from(info.tokens_per_slot)..end
    }
}

pub(crate) fn scratch(share: &Share, places: &[Strided], size: u64) -> CacheLayout {
    let Land::Whole(reformat) = &share.land else { unreachable!("asked of those that land whole") };
    let mut layout = CacheLayout::builder("scratch");
    for (index, group) in share.groups.iter().enumerate() {
        layout = layout.group(&group.theirs.info.name, 1);
        for (part, place) in reformat.scratch.iter().zip(places).filter(|(part, _)| part.group == index) {
            layout = layout.part(&part.name, region(), *place);
        }
    }
    layout.build(|_| Some(size), &limits()).expect("scratch is sound")
}

/// Attention's heads.
pub(crate) fn split(heads: u32) -> Heads {
    Heads::Split(vec![heads])
}
