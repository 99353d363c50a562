//! What a worker tells its instance's scheduler half about itself.

use ropeway::{Error, ErrorKind, Result};
use ropeway_connector::facts::Facts;
use ropeway_connector::layout::{CacheShape, GroupInfo, View};
use ropeway_connector::ranks::{Rank, Side, Topology};
use ropeway_connector::table::Instance;
use ropeway_connector::worker::matching::About;
use serde::{Deserialize, Serialize};

/// A worker and its tensors, as Python describes them in JSON.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Described {
    pub(super) facts: Facts,
    pub(super) topology: Topology,
    pub(super) rank: Rank,
    pub(super) groups: Vec<GroupInfo>,
    pub(super) views: Vec<View>,
    /// The caches of all pipeline stages, in order, where they are known.
    #[serde(default)]
    pub(super) stages: Vec<CacheShape>,
}

/// A worker, as the scheduler half and consumers need to know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) facts: Facts,
    pub(super) topology: Topology,
    pub(super) rank: Rank,
    pub(super) shape: CacheShape,
    /// Its engine's descriptor.
    pub(super) engine: String,
}

/// The instance of these workers, in any order.
pub(super) fn instance(cards: &[Card]) -> Result<Instance> {
    let first = cards.first().ok_or_else(|| unlike("an instance without workers".to_owned()))?;
    let mut ranks = Vec::new();
    let mut stages: Vec<CacheShape> = Vec::new();
    for rank in first.topology.ranks() {
        let card = cards.iter().find(|card| card.rank == rank);
        let card = card.ok_or_else(|| unlike(format!("worker {rank:?} has not told of itself")))?;
        if card.facts != first.facts || card.topology != first.topology {
            return Err(unlike(format!("worker {rank:?} was started otherwise than {:?}", first.rank)));
        }
        match stages.get(rank.pp as usize) {
            None => stages.push(card.shape.clone()),
            Some(shape) if *shape == card.shape => {}
            Some(_) => return Err(unlike(format!("the cache of worker {rank:?} is unlike its stage's"))),
        }
        let engine = card.engine.parse();
        ranks.push(engine.map_err(|error| unlike(format!("the descriptor of worker {rank:?}: {error}")))?);
    }
    let side = Side { topology: first.topology, layers: first.facts.layers, stages };
    Ok(Instance { about: About { facts: first.facts.clone(), side }.to_value(), ranks })
}

fn unlike(text: String) -> Error {
    Error::new(ErrorKind::Mismatch, "show", text)
}
