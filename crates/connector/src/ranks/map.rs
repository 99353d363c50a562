//! The map of one consumer rank: made once, asked for each request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ropeway::Slice;

use super::choose::{Need, Turn, needs};
use super::heads::{self, HeadRun};
use super::share::{Land, PlaneMove, Reformat, ScratchPart, Share, SharedGroup};
use super::slices::{Two, Way, differing};
use super::stripes::Stripe;
use super::topology::{Rank, Side};
use crate::facts::Mismatch;
use crate::layout::{CacheSpec, Format, Plane, PlaneClass};

/// What a consumer rank does with one of the producer's ranks, for one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pull {
    /// The producer's rank.
    pub rank: Rank,
    /// How many of the consumer's ranks claim its lease.
    pub holders: u32,
    /// What to read. Empty: claim the lease and release it, so that it ends by word.
    pub shares: Vec<Arc<Share>>,
}

/// Whom a consumer rank pulls from.
#[derive(Debug)]
pub struct RankMap {
    /// `None` for a map that the producer makes of a consumer's rank.
    spec: Option<CacheSpec>,
    ours: Side,
    theirs: Side,
    rank: Rank,
    least_piece: u64,
    /// What each of our ranks needs, by its number.
    needs: Vec<Vec<Need>>,
    /// By turn.
    pulls: Vec<OnceLock<Arc<[Pull]>>>,
    /// Every share that was made, so that equal ones are one.
    shares: Mutex<Vec<Arc<Share>>>,
}

impl RankMap {
    /// The map of worker `rank` of `ours`, whose cache is `spec`, towards the producing instance `theirs`.
    ///
    /// Where a head slice lies in pieces shorter than `least_piece` bytes, blocks are landed whole and put in order on the
    /// device: 0 for host memory, where rows are copied one by one at no loss; `u64::MAX` for devices, where each costs a
    /// descriptor.
    ///
    /// # Errors
    /// Caches or topologies that cannot be mapped, by the first field that says so.
    pub fn new(
        spec: CacheSpec,
        ours: Side,
        theirs: Side,
        rank: Rank,
        least_piece: u64,
    ) -> Result<Self, Mismatch> {
        Self::made(Some(spec), ours, theirs, rank, least_piece)
    }

    /// The map of worker `rank` of the consuming instance `consumer`, as the producing instance sees it that writes to it: the
    /// same shares. Only what lands where it belongs can be written so.
    ///
    /// # Errors
    /// As [`Self::new`]; `arrangement` of a part that would have to be put in order after it.
    pub fn of_consumer(consumer: Side, producer: Side, rank: Rank) -> Result<Self, Mismatch> {
        Self::made(None, consumer, producer, rank, 0)
    }

    fn made(
        spec: Option<CacheSpec>,
        ours: Side,
        theirs: Side,
        rank: Rank,
        least_piece: u64,
    ) -> Result<Self, Mismatch> {
        for (side, whose) in [(&ours, "our topology"), (&theirs, "topology")] {
            side.topology.check(whose)?;
            if side.stages.len() != side.topology.pp as usize {
                let field = format!("pipeline stages of {whose}");
                return Err(Mismatch::new(field, side.stages.len(), side.topology.pp));
            }
            for stage in &side.stages {
                let unsound = |why: crate::layout::LayoutError| Mismatch::new("cache", "a sound shape", why);
                stage.check(side.topology.tp).map_err(unsound)?;
            }
        }
        let shaped = |spec: &CacheSpec| ours.stages[rank.pp as usize] == spec.shape();
        if !ours.topology.ranks().any(|known| known == rank) || !spec.as_ref().is_none_or(shaped) {
            return Err(Mismatch::new("rank", format!("{rank:?}"), "not one of our topology and cache"));
        }
        nothing_lost(&ours, &theirs)?;
        let needs =
            ours.topology.ranks().map(|rank| needs(&ours, rank, &theirs)).collect::<Result<Vec<_>, _>>()?;
        let turns = theirs.topology.stage_ranks() as usize;
        let map = Self {
            spec,
            ours,
            theirs,
            rank,
            least_piece,
            needs,
            pulls: (0..turns).map(|_| OnceLock::new()).collect(),
            shares: Mutex::default(),
        };
        // What cannot be mapped is refused now, not by the first request.
        map.make(0)?;
        Ok(map)
    }

    /// What to do for a request: ascending by rank. `key` is [`request_key`](super::request_key) of its lease.
    ///
    /// # Errors
    /// As [`Self::new`]; never for a map that was made, as ranks of one stage are alike.
    pub fn pulls(&self, key: u64) -> Result<Arc<[Pull]>, Mismatch> {
        // The low bits of a hash; turns are few.
        let turn = (key % self.pulls.len() as u64) as usize;
        if let Some(made) = self.pulls[turn].get() {
            return Ok(Arc::clone(made));
        }
        let made = self.make(turn as u32)?;
        Ok(Arc::clone(self.pulls[turn].get_or_init(|| made)))
    }

    /// Our cache; `None` for a map [of a consumer](Self::of_consumer).
    pub fn spec(&self) -> Option<&CacheSpec> {
        self.spec.as_ref()
    }

    /// The consuming instance.
    pub fn ours(&self) -> &Side {
        &self.ours
    }

    /// The producing instance.
    pub fn theirs(&self) -> &Side {
        &self.theirs
    }

    fn make(&self, turn: u32) -> Result<Arc<[Pull]>, Mismatch> {
        let mut holders: BTreeMap<Rank, u32> = BTreeMap::new();
        for (rank, needs) in self.ours.topology.ranks().zip(&self.needs) {
            let chosen = Turn::new(&self.ours, rank, &self.theirs, turn).choose(needs);
            let chosen: BTreeSet<Rank> = chosen.into_iter().collect();
            chosen.into_iter().for_each(|peer| *holders.entry(peer).or_default() += 1);
        }
        let mut pulls = self.reads(turn)?;
        for pull in &mut pulls {
            pull.holders = holders[&pull.rank];
        }
        if self.rank == (Rank { pp: 0, pcp: 0, tp: 0 }) {
            let idle = self.theirs.topology.ranks().filter(|rank| !holders.contains_key(rank));
            pulls.extend(idle.map(|rank| Pull { rank, holders: 1, shares: Vec::new() }));
            pulls.sort_by_key(|pull| pull.rank);
        }
        Ok(pulls.into())
    }

    fn reads(&self, turn: u32) -> Result<Vec<Pull>, Mismatch> {
        let needs = &self.needs[self.rank.index(&self.ours.topology) as usize];
        let chosen = Turn::new(&self.ours, self.rank, &self.theirs, turn).choose(needs);
        // The heads of each layer and plane that each rank gives.
        let mut given: BTreeMap<Rank, BTreeMap<(usize, u32), Given>> = BTreeMap::new();
        for (need, peer) in needs.iter().zip(chosen) {
            for &layer in &need.layers {
                let place = given.entry(peer).or_default().entry((need.class, layer)).or_default();
                place.theirs = need.theirs;
                place.runs.push(need.run);
            }
        }
        let pull = |(peer, given)| {
            let shares = self.shares(peer, given)?;
            Ok(Pull { rank: peer, holders: 0, shares })
        };
        given.into_iter().map(pull).collect()
    }

    fn shares(&self, peer: Rank, given: BTreeMap<(usize, u32), Given>) -> Result<Vec<Arc<Share>>, Mismatch> {
        let mut making = Making { map: self, peer, direct: None, whole: None };
        for ((class, layer), given) in given {
            making.add(class, layer, given)?;
        }
        let mut known = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let made = making.direct.into_iter().chain(making.whole).map(|share| {
            if let Some(same) = known.iter().find(|known| ***known == share) {
                return Arc::clone(same);
            }
            known.push(Arc::new(share));
            Arc::clone(&known[known.len() - 1])
        });
        Ok(made.collect())
    }
}

/// What a rank gives of one plane of one layer.
#[derive(Default)]
struct Given {
    theirs: usize,
    runs: Vec<HeadRun>,
}

/// The shares of one of the producer's ranks, as they grow.
struct Making<'a> {
    map: &'a RankMap,
    peer: Rank,
    direct: Option<Share>,
    whole: Option<Share>,
}

impl Making<'_> {
    fn add(&mut self, class: usize, layer: u32, given: Given) -> Result<(), Mismatch> {
        let map = self.map;
        let ours = &map.ours.stages[map.rank.pp as usize].planes[class];
        let theirs = &map.theirs.stages[self.peer.pp as usize].planes[given.theirs];
        let group = self.group(ours, theirs)?;
        if let Some((field, ours, theirs)) = differing(&ours.shape, &theirs.shape) {
            return Err(Mismatch::new(
                format!("{field} of layers.{layer}.{}", class_name(class, map)),
                ours,
                theirs,
            ));
        }
        let two = Two {
            layer,
            ours: &ours.shape,
            theirs: &theirs.shape,
            shard: map.rank.shard(&map.ours.topology),
            peer: self.peer.shard(&map.theirs.topology),
        };
        let runs = heads::joined(given.runs);
        let way = if group.is_paired() { two.way(&runs, map.least_piece) } else { Way::Whole };
        match way {
            Way::Direct(parts) => {
                let share = place(&mut self.direct, self.peer, &Land::Direct);
                index(share, group);
                for (name, slice) in parts {
                    if share.parts.last() != Some(&name) {
                        share.parts.push(name);
                    }
                    share.slices.extend(slice);
                }
                Ok(())
            }
            Way::Whole => self.land(layer, ours, theirs, group, runs),
        }
    }

    fn land(
        &mut self,
        layer: u32,
        ours: &PlaneClass,
        theirs: &PlaneClass,
        group: SharedGroup,
        runs: Vec<HeadRun>,
    ) -> Result<(), Mismatch> {
        let map = self.map;
        let name = format!("layers.{layer}.{}", ours.shape.plane);
        if ours.shape.format == Format::Fractal {
            let advice =
                "blocks in fractal order move whole: use equal block sizes and head shares, or turn NZ off";
            let sizes = |class: &PlaneClass| {
                format!("{} slots of {} heads", class.shape.rows.count, class.shape.heads.count)
            };
            return Err(
                Mismatch::new(format!("NZ blocks of {name}"), sizes(ours), sizes(theirs)).advise(advice)
            );
        }
        if group.ours.info.is_state() && ours.shape.rows.count != theirs.shape.rows.count {
            let rows = |class: &PlaneClass| class.shape.rows.count;
            return Err(Mismatch::new(format!("rows of {name}"), rows(ours), rows(theirs)));
        }
        let Some(spec) = &map.spec else {
            let advice = "what is pushed must land where it belongs: start both with the same block size and memory layout, \
                          or leave \"mode\" at pull";
            return Err(Mismatch::new(format!("arrangement of {name}"), "one", "another").advise(advice));
        };
        let is_ours = |plane: &Plane| plane.layer == layer && plane.shape.plane == ours.shape.plane;
        let plane = spec.planes().iter().position(is_ours);
        let plane = plane.expect("the class is of our cache");
        let share =
            place(&mut self.whole, self.peer, &Land::Whole(Reformat { scratch: vec![], planes: vec![] }));
        let group = index(share, group);
        let Land::Whole(reformat) = &mut share.land else { unreachable!("made as one that lands whole") };
        let shard = self.peer.shard(&map.theirs.topology);
        let part = reformat.scratch.len();
        for head in 0..if theirs.shape.part_per_head { theirs.shape.heads.count } else { 1 } {
            let name = Plane::part_name(layer, &theirs.shape, shard, head);
            share.parts.push(name.clone());
            reformat.scratch.push(ScratchPart { name, group, block_bytes: theirs.shape.part_bytes() });
        }
        reformat.planes.push(PlaneMove { plane, group, theirs: theirs.shape.clone(), part, runs });
        Ok(())
    }

    fn group(&self, ours: &PlaneClass, theirs: &PlaneClass) -> Result<SharedGroup, Mismatch> {
        let map = self.map;
        let local = &map.ours.stages[map.rank.pp as usize].groups[ours.group];
        let remote = &map.theirs.stages[self.peer.pp as usize].groups[theirs.group];
        let (a, b) = (&local.info, &remote.info);
        let field = |what: &str| format!("{what} of {} of layer {}", ours.shape.plane, ours.layers[0]);
        if a.name != b.name {
            return Err(Mismatch::new(field("block group"), &a.name, &b.name));
        }
        if a.tokens_per_slot != b.tokens_per_slot {
            return Err(Mismatch::new(field("compress ratio"), a.tokens_per_slot, b.tokens_per_slot));
        }
        let kind = |info: &crate::layout::GroupInfo| std::mem::discriminant(&info.keeps);
        if kind(a) != kind(b) {
            return Err(Mismatch::new(field("kind"), format!("{:?}", a.keeps), format!("{:?}", b.keeps)));
        }
        let stripe = |rank, side: &Side, info| {
            Stripe::of(rank, &side.topology, info).expect("stripes were looked at with the needs")
        };
        Ok(SharedGroup {
            local: ours.group,
            remote: theirs.group,
            ours: local.clone(),
            theirs: remote.clone(),
            our_stripe: stripe(map.rank, &map.ours, a),
            their_stripe: stripe(self.peer, &map.theirs, b),
        })
    }
}

fn class_name(class: usize, map: &RankMap) -> &str {
    &map.ours.stages[map.rank.pp as usize].planes[class].shape.plane
}

fn place<'a>(share: &'a mut Option<Share>, rank: Rank, land: &Land) -> &'a mut Share {
    share.get_or_insert_with(|| Share {
        rank,
        parts: Vec::new(),
        slices: Vec::<Slice>::new(),
        groups: Vec::new(),
        land: land.clone(),
    })
}

/// The group's place among the share's.
fn index(share: &mut Share, group: SharedGroup) -> usize {
    match share.groups.iter().position(|known| *known == group) {
        Some(at) => at,
        None => {
            share.groups.push(group);
            share.groups.len() - 1
        }
    }
}

impl SharedGroup {
    /// Whether kernel blocks pair up one to one.
    pub(crate) fn is_paired(&self) -> bool {
        let slots = u64::from(self.ours.kernel_slots);
        let whole = |stripe: &Stripe| stripe.grain().is_multiple_of(slots);
        let stripes =
            self.our_stripe == self.their_stripe || whole(&self.our_stripe) && whole(&self.their_stripe);
        self.ours.kernel_slots == self.theirs.kernel_slots && stripes
    }
}

/// Every layer of the producer's model is one of ours.
fn nothing_lost(ours: &Side, theirs: &Side) -> Result<(), Mismatch> {
    if ours.layers != theirs.layers {
        return Err(Mismatch::new("layers", ours.layers, theirs.layers));
    }
    for class in theirs.stages.iter().flat_map(|stage| &stage.planes) {
        let plane = &class.shape.plane;
        let known = |layer: &u32| ours.stages.iter().any(|stage| stage.find(*layer, plane).is_some());
        let lost = class.layers.iter().find(|layer| **layer < theirs.layers && !known(layer));
        if let Some(layer) = lost {
            return Err(Mismatch::new(format!("layers.{layer}.{plane}"), "missing", "there")
                .advise("both must cache the same tensors"));
        }
    }
    Ok(())
}
