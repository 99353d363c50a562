//! How an instance is spread over ranks.

use std::ops::Range;

use blake2::{Blake2s256, Digest};
use serde::{Deserialize, Serialize};

use crate::facts::Mismatch;
use crate::layout::{CacheShape, Shard};

/// The most workers of an instance.
const RANKS_MAX: u32 = 4_096;

/// The sizes of an instance's axes of parallelism; one data-parallel rank of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Topology {
    /// Tensor-parallel ranks.
    pub tp: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Prefill context-parallel ranks, beside the tensor-parallel ones.
    pub pcp: u32,
    /// Decode context-parallel ranks, among the tensor-parallel ones.
    pub dcp: u32,
    /// Tokens that go to one context-parallel rank before the next one's turn.
    pub stripe_tokens: u32,
}

/// One worker of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Rank {
    /// Its pipeline stage.
    pub pp: u32,
    /// Its prefill context-parallel rank.
    pub pcp: u32,
    /// Its tensor-parallel rank.
    pub tp: u32,
}

impl Topology {
    /// Tensor parallelism alone.
    pub const fn tensor(tp: u32) -> Self {
        Self { tp, pp: 1, pcp: 1, dcp: 1, stripe_tokens: 1 }
    }

    /// Ranks among which a request's tokens are dealt out.
    pub fn contexts(&self) -> u32 {
        self.pcp * self.dcp
    }

    /// Workers of one stage.
    pub fn stage_ranks(&self) -> u32 {
        self.pcp * self.tp
    }

    /// All workers, in the order of their numbers.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        let Self { tp, pp, pcp, .. } = *self;
        let stage =
            move |stage| (0..pcp).flat_map(move |at| (0..tp).map(move |tp| Rank { pp: stage, pcp: at, tp }));
        (0..pp).flat_map(stage)
    }

    pub(crate) fn check(&self, whose: &str) -> Result<(), Mismatch> {
        let sizes = [self.tp, self.pp, self.pcp, self.dcp, self.stripe_tokens];
        let sound = sizes.iter().all(|size| (1..=65_536).contains(size))
            && self.tp.is_multiple_of(self.dcp)
            && [self.pcp, self.pp]
                .iter()
                .try_fold(self.tp, |all, size| all.checked_mul(*size))
                .is_some_and(|ranks| ranks <= RANKS_MAX);
        let wanted = "sizes of at least 1, dcp that divides tp, and at most 4,096 ranks";
        if sound { Ok(()) } else { Err(Mismatch::new(whose, wanted, format!("{self:?}"))) }
    }
}

impl Rank {
    /// The number of the worker in its instance.
    pub fn index(&self, topology: &Topology) -> u32 {
        (self.pp * topology.pcp + self.pcp) * topology.tp + self.tp
    }

    /// Which share of the tokens it has.
    pub fn context(&self, topology: &Topology) -> u32 {
        self.pcp * topology.dcp + self.tp % topology.dcp
    }

    /// Which share of the heads it has.
    pub fn shard(&self, topology: &Topology) -> Shard {
        Shard { rank: self.tp, of: topology.tp }
    }
}

/// An instance as the rank map sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Side {
    /// How it is spread.
    pub topology: Topology,
    /// Layers of the model itself; those of a draft model follow.
    pub layers: u32,
    /// The cache of each pipeline stage.
    pub stages: Vec<CacheShape>,
}

/// Which layers each stage has: as `pp_layer_partition` says ("33,28"), else evenly, the rest going to the stages before
/// the last from behind. Draft layers are on the last stage.
///
/// # Errors
/// A partition that is not of `stages` numbers which add up to `layers`.
pub fn layer_partition(
    layers: u32,
    stages: u32,
    partition: Option<&str>,
) -> Result<Vec<Range<u32>>, Mismatch> {
    let counts = match partition {
        Some(text) => text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<Vec<u32>>>(),
        None => Some(even(layers, stages)),
    };
    let sum = |counts: &Vec<u32>| counts.iter().try_fold(0_u32, |sum, count| sum.checked_add(*count));
    let counts = counts.filter(|counts| counts.len() == stages as usize && sum(counts) == Some(layers));
    let Some(counts) = counts else {
        let wanted = format!("{stages} numbers that add up to {layers}");
        return Err(Mismatch::new("pp_layer_partition", wanted, partition.unwrap_or("none")));
    };
    let mut first = 0;
    let range = |count| {
        let range = first..first + count;
        first += count;
        range
    };
    Ok(counts.into_iter().map(range).collect())
}

fn even(layers: u32, stages: u32) -> Vec<u32> {
    let (each, rest) = (layers / stages.max(1), layers % stages.max(1));
    // The last stage has the head of the model besides: it gets none of the rest.
    let extra = |stage: u32| u32::from(stage + 1 < stages && stage + 1 + rest >= stages);
    (0..stages).map(|stage| each + extra(stage)).collect()
}

/// The key by which the choice among equal ranks is spread: of the lease's or the request's name.
pub fn request_key(name: &str) -> u64 {
    let hash = Blake2s256::digest(name);
    hash.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}
