//! Rank maps as the worker half asks for them.

mod aimed;

use std::sync::{Arc, Mutex, PoisonError};

use ropeway::{BlockId, Cache, Engine, ErrorKind, Parts, Rect, Region, RouteOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use aimed::Aimed;

use super::mapping::{Blocks, Cut, Mapper, Open, Pull, RouteMap, Scratch};
use super::tickets::{Ask, Failure};
use crate::config::{Config, Hints, Size};
use crate::facts::{Facts, Mismatch};
use crate::ids::{Ids, Request, RowMove};
use crate::layout::{CacheSpec, Format, GroupShape, LayoutError};
use crate::ranks::{Land, Rank, RankMap, Share, Side};
use crate::table::CACHE;

/// Publishes a worker's cache under the name that consumers look for. `storages` are the regions of the specification's
/// storages, in order.
///
/// # Errors
/// `ApiMisuse` for a storage without a region; as [`CacheBuilder::publish`](ropeway::CacheBuilder::publish).
pub fn publish(engine: &Engine, spec: &CacheSpec, storages: &[Region]) -> ropeway::Result<Cache> {
    let mut builder = engine.cache(CACHE);
    for (index, group) in spec.groups().iter().enumerate() {
        builder = builder.group(&group.info.name, 1);
        for part in spec.parts().iter().filter(|part| part.group == index) {
            let region = storages.get(part.storage).ok_or_else(|| {
                let text =
                    format!("{} lies in storage {}, of which no region was given", part.name, part.storage);
                ropeway::Error::new(ErrorKind::ApiMisuse, "publish", text)
            })?;
            builder = builder.part(&part.name, region, part.strided);
        }
    }
    builder.publish()
}

/// What an instance says about itself in its rank table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// What must agree.
    pub facts: Facts,
    /// How it is spread, and its caches.
    pub side: Side,
}

impl About {
    /// For [`Instance::about`](crate::table::Instance).
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Scratch memory for a share whose blocks are put in order after they have landed.
const SCRATCH: u64 = 32 << 20;

/// Pieces shorter than this are not read one by one between devices: the producer's blocks land whole, and are put in order
/// by the device. A guess, as long as nobody has measured it on an NPU.
const DEVICE_PIECE: u64 = 4096;

/// The rank maps of one worker.
#[derive(Debug)]
pub struct RankMapper {
    ours: About,
    rank: Rank,
    spec: CacheSpec,
    lenient: bool,
    hints: Hints,
    storages: Vec<Region>,
    scratch: u64,
}

impl RankMapper {
    /// The maps of worker `rank` of the instance `ours`, whose cache is `spec`. What the configuration declares of the
    /// producer's size is compared with what it says itself.
    pub fn new(config: &Config, ours: About, rank: Rank, spec: CacheSpec) -> Self {
        Self {
            ours,
            rank,
            spec,
            lenient: config.lenient,
            hints: config.hints,
            storages: Vec::new(),
            scratch: SCRATCH,
        }
    }

    /// Gives it the regions of the specification's storages, in order, so that blocks can be put in order that lie otherwise
    /// at the producer. Without them, and where some are memory of the host and some of a device, such a producer is refused.
    #[must_use]
    pub fn storages(mut self, storages: &[Region]) -> Self {
        self.storages = storages.to_vec();
        self
    }

    fn on_host(&self) -> bool {
        !self.storages.is_empty() && self.storages.iter().all(|region| region.address().is_some())
    }

    fn on_device(&self) -> bool {
        !self.storages.is_empty() && self.storages.iter().all(|region| region.address().is_none())
    }

    /// Whether every share of a map can be put where it belongs.
    fn check_landing(&self, map: &RankMap) -> Result<(), Mismatch> {
        let somewhere = self.on_host() || self.on_device();
        let pulls = map.pulls(0)?;
        let whole = |share: &&Arc<Share>| matches!(share.land, Land::Whole(_));
        match pulls.iter().flat_map(|pull| &pull.shares).find(whole) {
            Some(share) if !somewhere || is_fractal(share, &self.spec) => {
                let part = share.parts.first().map_or("a part", String::as_str);
                let advice = "start both with the same block size, memory layout and tensor-parallel size: blocks cannot be put \
                              in order on this device";
                Err(Mismatch::new(format!("arrangement of {part}"), "one", "another").advise(advice))
            }
            _ => Ok(()),
        }
    }

    /// What the other instance says, if it fits.
    fn told(&self, about: &Value) -> Result<About, Failure> {
        let unreadable = |error| Failure {
            kind: ErrorKind::Mismatch,
            text: format!("what the peer says about itself cannot be read: {error}"),
        };
        let theirs = About::deserialize(about).map_err(unreadable)?;
        for difference in self.differences(&theirs)? {
            tracing::warn!(difference, "the other instance is unlike this one, or unlike what was declared");
        }
        Ok(theirs)
    }

    /// What differs between the instances and is no obstacle, a line each: declared sizes that are not so, and facts.
    ///
    /// # Errors
    /// The first fact that is an obstacle.
    fn differences(&self, theirs: &About) -> Result<Vec<String>, Mismatch> {
        let facts = self.ours.facts.check(&theirs.facts, self.lenient)?;
        let topology = &theirs.side.topology;
        let size = Size { dp: None, tp: Some(topology.tp), pp: Some(topology.pp) };
        let mut lines = self.hints.contradictions(true, size);
        lines.extend(facts.into_iter().map(|differing| {
            format!("{} is {} here and {} at the producer", differing.field, differing.ours, differing.theirs)
        }));
        Ok(lines)
    }
}

impl From<Mismatch> for Failure {
    fn from(mismatch: Mismatch) -> Self {
        Self { kind: ErrorKind::Mismatch, text: mismatch.to_string() }
    }
}

impl Mapper for RankMapper {
    fn lent(&self, blocks: &[Vec<u32>]) -> Result<Vec<Vec<BlockId>>, Failure> {
        self.spec.kernel_blocks(blocks).map_err(|error| out_of_bounds(&error))
    }

    fn map(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure> {
        let theirs = self.told(about)?;
        // In host memory rows are copied one by one at no loss.
        let least = if self.on_device() { DEVICE_PIECE } else { 0 };
        let map = RankMap::new(self.spec.clone(), self.ours.side.clone(), theirs.side, self.rank, least)?;
        self.check_landing(&map)?;
        let (storages, scratch) = (self.storages.clone(), self.scratch);
        Ok(Box::new(Matched { map, shares: Mutex::default(), storages, scratch }))
    }

    fn aim(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure> {
        let theirs = self.told(about)?;
        Ok(Box::new(Aimed::new(&self.ours.side, self.rank, &theirs.side)?))
    }

    fn awaited(&self, blocks: &[Vec<u32>], from: u64) -> Result<Open, Failure> {
        aimed::check(&self.spec, &self.ours.side.topology)?;
        let rest = |group: &GroupShape| {
            let block = u64::from(group.info.block_slots) * u64::from(group.info.tokens_per_slot);
            let list = blocks.get(group.info.list).map_or(&[][..], Vec::as_slice);
            list.get((from / block) as usize..).unwrap_or_default().to_vec()
        };
        let lists = 1 + self.spec.groups().iter().map(|group| group.info.list).max().unwrap_or_default();
        let mut given = vec![Vec::new(); lists];
        self.spec.groups().iter().for_each(|group| given[group.info.list] = rest(group));
        let blocks = self.lent(&given)?;
        let bytes = |part: &crate::layout::Part| part.strided.block_bytes * blocks[part.group].len() as u64;
        Ok(Open { bytes: self.spec.parts().iter().map(bytes).sum(), blocks })
    }

    fn cut(&self) -> Result<Cut, Failure> {
        aimed::check(&self.spec, &self.ours.side.topology)?;
        Ok(aimed::cut(&self.spec))
    }
}

fn out_of_bounds(error: &dyn std::error::Error) -> Failure {
    Failure { kind: ErrorKind::OutOfBounds, text: error.to_string() }
}

/// Whether a share would have rows cut out of blocks that are in a device's own order.
fn is_fractal(share: &Share, spec: &CacheSpec) -> bool {
    let Land::Whole(reformat) = &share.land else { return false };
    let fractal = |format| format == Format::Fractal;
    reformat
        .planes
        .iter()
        .any(|plane| fractal(plane.theirs.format) || fractal(spec.planes()[plane.plane].shape.format))
}

/// A rank map, and the shares that it has given out: the same number is the same share.
struct Matched {
    map: RankMap,
    shares: Mutex<Vec<Arc<Share>>>,
    storages: Vec<Region>,
    scratch: u64,
}

impl Matched {
    fn number(&self, share: &Arc<Share>) -> usize {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.iter().position(|known| Arc::ptr_eq(known, share)).unwrap_or_else(|| {
            shares.push(Arc::clone(share));
            shares.len() - 1
        })
    }

    fn share(&self, number: usize) -> Arc<Share> {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&shares[number])
    }
}

impl Matched {
    /// Blocks of a request, with a list for each of the producer's groups, also of those that the share has nothing of.
    fn asked(&self, share: &Share, ask: &Ask) -> Result<Ids, Failure> {
        let request = Request { local: &ask.local, remote: &ask.remote, tokens: ask.tokens.clone() };
        let mut ids = share.ids(&request).map_err(|error| out_of_bounds(&error))?;
        let stage = &self.map.theirs().stages[share.rank.pp as usize];
        ids.remote.resize(stage.groups.len(), Vec::new());
        Ok(ids)
    }
}

impl RouteMap for Matched {
    fn pulls(&self, key: u64) -> Result<Vec<Pull>, Failure> {
        let topology = &self.map.theirs().topology;
        let pulls = self.map.pulls(key)?;
        let pull = |pull: &crate::ranks::Pull| {
            let shares = pull.shares.iter().map(|share| self.number(share)).collect();
            Pull { rank: pull.rank.index(topology) as usize, holders: pull.holders, place: 0, shares }
        };
        Ok(pulls.iter().map(pull).collect())
    }

    fn route(&self, share: usize) -> RouteOptions {
        let share = self.share(share);
        let options = RouteOptions::default().parts(Parts::Named(share.parts.clone()));
        share.slices.iter().cloned().fold(options, RouteOptions::slice)
    }

    fn agree(&self, rank: usize, ask: &Ask, lent: &[Vec<BlockId>]) -> Result<(), Failure> {
        let theirs = self.map.theirs();
        let stage = rank / theirs.topology.stage_ranks() as usize;
        let refused = |why: LayoutError| Failure {
            kind: ErrorKind::Mismatch,
            text: format!("remote_block_ids are not the blocks that were lent: {why}"),
        };
        theirs.stages[stage].agree(&ask.remote, lent).map_err(refused)
    }

    fn ids(&self, share: usize, ask: &Ask) -> Result<Blocks, Failure> {
        let mut ids = self.asked(&self.share(share), ask)?;
        let ours = self.map.spec().map_or(0, |spec| spec.groups().len());
        ids.local.resize(ours, Vec::new());
        Ok(Blocks { local: ids.local, remote: ids.remote })
    }

    fn scratch(&self, share: usize) -> Option<Scratch> {
        let share = self.share(share);
        let Land::Whole(reformat) = &share.land else { return None };
        let blocks = vec![reformat.blocks_in(self.scratch); share.groups.len()];
        let (places, bytes) = reformat.place(&blocks)?;
        let mut groups: Vec<(String, Vec<_>)> =
            share.groups.iter().map(|group| (group.theirs.info.name.clone(), Vec::new())).collect();
        for (part, place) in reformat.scratch.iter().zip(places) {
            groups[part.group].1.push((part.name.clone(), place));
        }
        let on_device = self.storages.first().is_some_and(|region| region.address().is_none());
        Some(Scratch { bytes, on_device, groups })
    }

    fn rounds(&self, share: usize, ask: &Ask) -> Result<Vec<Ids>, Failure> {
        let share = self.share(share);
        let Land::Whole(reformat) = &share.land else { return Ok(Vec::new()) };
        Ok(share.rounds(&self.asked(&share, ask)?, reformat.blocks_in(self.scratch)))
    }

    fn reorder(&self, share: usize, moves: &[Vec<RowMove>], scratch: &Region) -> ropeway::Result<()> {
        let share = self.share(share);
        let Land::Whole(reformat) = &share.land else { return Ok(()) };
        let blocks = vec![reformat.blocks_in(self.scratch); share.groups.len()];
        let (places, _) = reformat.place(&blocks).unwrap_or_default();
        let Some(spec) = self.map.spec() else { return Ok(()) };
        let mut pairs = vec![Vec::new(); self.storages.len()];
        reformat.copies(spec, &places, moves, |copy| {
            let rect =
                |offset, row_stride| Rect { offset, rows: copy.height, row_bytes: copy.width, row_stride };
            let (to, from) = (rect(copy.to, copy.to_pitch), rect(copy.from, copy.from_pitch));
            pairs[copy.storage].push((to, from));
        });
        let mut storages = self.storages.iter().zip(pairs).filter(|(_, pairs)| !pairs.is_empty());
        storages.try_for_each(|(storage, pairs)| storage.copy_rects(scratch, &pairs))
    }
}

#[cfg(test)]
mod tests;
