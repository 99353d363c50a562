//! Maps as the producer sees them when it writes: those of each of the consumer's ranks, turned round.

use std::sync::{Arc, Mutex, PoisonError};

use ropeway::{BlockId, ErrorKind, Parts, Region, RouteOptions, Slice};

use super::out_of_bounds;
use crate::facts::Mismatch;
use crate::ids::{Ids, Request, RowMove};
use crate::layout::{CacheSpec, Keeps};
use crate::ranks::{Rank, RankMap, Share, Side, Topology};
use crate::worker::mapping::{Blocks, Cut, Pull, RouteMap, Scratch};
use crate::worker::pushing::WRITERS_MAX;
use crate::worker::tickets::{Ask, Failure};

/// Whom a producing rank writes to.
pub(super) struct Aimed {
    rank: Rank,
    /// Of each of the consumer's ranks.
    maps: Vec<RankMap>,
    /// Those that were given out, with the consumer's rank by number: the same number is the same share.
    shares: Mutex<Vec<(usize, Arc<Share>)>>,
}

impl Aimed {
    pub(super) fn new(ours: &Side, rank: Rank, theirs: &Side) -> Result<Self, Mismatch> {
        theirs.topology.check("topology")?;
        let map = |peer| RankMap::of_consumer(theirs.clone(), ours.clone(), peer);
        let maps = theirs.topology.ranks().map(map).collect::<Result<_, _>>()?;
        Ok(Self { rank, maps, shares: Mutex::default() })
    }

    fn number(&self, peer: usize, share: &Arc<Share>) -> usize {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(of, known): &(usize, Arc<Share>)| *of == peer && Arc::ptr_eq(known, share);
        shares.iter().position(same).unwrap_or_else(|| {
            shares.push((peer, Arc::clone(share)));
            shares.len() - 1
        })
    }

    fn share(&self, number: usize) -> (usize, Arc<Share>) {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares[number].clone()
    }
}

impl RouteMap for Aimed {
    fn pulls(&self, key: u64) -> Result<Vec<Pull>, Failure> {
        let mut aims = Vec::new();
        for (peer, map) in self.maps.iter().enumerate() {
            let pulls = map.pulls(key)?;
            let mut writers = pulls.iter().filter(|pull| !pull.shares.is_empty());
            let holders = writers.clone().count() as u32;
            if holders > WRITERS_MAX {
                return Err(Mismatch::new("ranks that write to one", WRITERS_MAX, holders).into());
            }
            if let Some(place) = writers.position(|pull| pull.rank == self.rank) {
                let mine = pulls.iter().find(|pull| pull.rank == self.rank);
                let shares = mine.into_iter().flat_map(|pull| &pull.shares);
                let shares = shares.map(|share| self.number(peer, share)).collect();
                aims.push(Pull { rank: peer, holders, place: place as u32, shares });
            }
        }
        Ok(aims)
    }

    fn route(&self, share: usize) -> RouteOptions {
        let (_, share) = self.share(share);
        let options = RouteOptions::default().parts(Parts::Named(share.parts.clone()));
        let turned = |slice: &Slice| Slice::new(slice.part.clone(), slice.remote, slice.local);
        share.slices.iter().map(turned).fold(options, RouteOptions::slice)
    }

    /// The lease's own word is looked at by each plan: what is outside of it is refused.
    fn agree(&self, _: usize, _: &Ask, _: &[Vec<BlockId>]) -> Result<(), Failure> {
        Ok(())
    }

    fn ids(&self, share: usize, ask: &Ask) -> Result<Blocks, Failure> {
        let (peer, share) = self.share(share);
        let request = Request { local: &ask.remote, remote: &ask.local, tokens: ask.tokens.clone() };
        let Ids { local: mut there, remote: mut here, .. } =
            share.ids(&request).map_err(|error| out_of_bounds(&error))?;
        let map = &self.maps[peer];
        let groups = |side: &Side, stage: u32| side.stages[stage as usize].groups.len();
        here.resize(groups(map.theirs(), self.rank.pp), Vec::new());
        let stage = peer as u32 / map.ours().topology.stage_ranks();
        there.resize(groups(map.ours(), stage), Vec::new());
        Ok(Blocks { local: here, remote: there })
    }

    fn scratch(&self, _: usize) -> Option<Scratch> {
        None
    }

    fn rounds(&self, _: usize, _: &Ask) -> Result<Vec<Ids>, Failure> {
        Ok(Vec::new())
    }

    fn reorder(&self, _: usize, _: &[Vec<RowMove>], _: &Region) -> ropeway::Result<()> {
        Ok(())
    }
}

/// Whether a cache can be written to, or sent, piece by piece: its groups keep every token, and no tokens are dealt out.
pub(super) fn check(spec: &CacheSpec, topology: &Topology) -> Result<(), Failure> {
    let refused = |text: String| Failure { kind: ErrorKind::Unsupported, text };
    if topology.contexts() > 1 {
        let text =
            "context parallelism deals tokens out to ranks, which are not pushed; leave \"mode\" at pull";
        return Err(refused(text.to_owned()));
    }
    match spec.groups().iter().find(|group| group.info.keeps != Keeps::All) {
        None => Ok(()),
        Some(group) => Err(refused(format!(
            "group {} keeps {:?}: only caches that keep every token are pushed; leave \"mode\" at pull",
            group.info.name, group.info.keeps
        ))),
    }
}

/// Whole blocks of every group.
pub(super) fn cut(spec: &CacheSpec) -> Cut {
    let mut layers: Vec<u32> = spec.planes().iter().map(|plane| plane.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let tokens = spec.groups().iter().fold(1, |all, group| {
        let block = u64::from(group.info.block_slots) * u64::from(group.info.tokens_per_slot);
        all / crate::layout::grain::gcd(all, block) * block
    });
    Cut { layers, tokens }
}
