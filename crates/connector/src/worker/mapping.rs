//! What the worker half asks of rank maps. It knows engines and requests; whom to pull from, which parts and which blocks
//! is said here.

use ropeway::{BlockId, Region, RouteOptions, Strided};
use serde_json::Value;

use super::tickets::{Ask, Failure};
use crate::ids::{Ids, RowMove};

/// Our own cache, and how it is matched with another instance's.
pub trait Mapper: Send + Sync + 'static {
    /// Kernel blocks of the manager's blocks, per group of the published cache: what a lease covers.
    ///
    /// # Errors
    /// Ids that the cache does not have.
    fn lent(&self, blocks: &[Vec<u32>]) -> Result<Vec<Vec<BlockId>>, Failure>;

    /// Matches us with an instance, by what it [says](crate::table::Instance) about itself.
    ///
    /// # Errors
    /// `Mismatch`, naming the field that differs.
    fn map(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure>;

    /// The same with an instance that we write to: its blocks are the remote ones of each share, and `pulls` says whom to
    /// write to.
    ///
    /// # Errors
    /// `Mismatch`: also where the bytes would not land where they belong.
    fn aim(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure>;

    /// What a producer may write of a request's blocks: those from the given token on.
    ///
    /// # Errors
    /// Ids that the cache does not have; `Unsupported` for a cache that is not written to so.
    fn awaited(&self, blocks: &[Vec<u32>], from: u64) -> Result<Open, Failure>;

    /// How a prompt is cut when it is sent as it is computed.
    ///
    /// # Errors
    /// `Unsupported` for a cache that is not sent so.
    fn cut(&self) -> Result<Cut, Failure>;
}

/// Blocks that a producer may write.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Open {
    /// Kernel blocks per group of the published cache.
    pub blocks: Vec<Vec<BlockId>>,
    /// Bytes of them.
    pub bytes: u64,
}

/// How a prompt is cut.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// The layers that this worker computes, by number.
    pub layers: Vec<u32>,
    /// Tokens in whose multiples it is sent, so that no block is written twice; the last piece may be shorter.
    pub tokens: u64,
}

/// How this rank pulls from one producing instance.
pub trait RouteMap: Send + Sync + 'static {
    /// The ranks to claim from for the lease of that key; on the consumer's first rank also those that nobody reads from.
    ///
    /// # Errors
    /// It cannot be mapped.
    fn pulls(&self, key: u64) -> Result<Vec<Pull>, Failure>;

    /// The route of a share: parts and slices.
    fn route(&self, share: usize) -> RouteOptions;

    /// Whether the ids that the request names are the blocks that a rank of the producer lent, whose word counts.
    ///
    /// # Errors
    /// `Mismatch`: the group, and an id that only one of them has.
    fn agree(&self, rank: usize, ask: &Ask, lent: &[Vec<BlockId>]) -> Result<(), Failure>;

    /// The kernel blocks of a request for a share that lands where it belongs.
    ///
    /// # Errors
    /// Lists that do not cover the tokens.
    fn ids(&self, share: usize, ask: &Ask) -> Result<Blocks, Failure>;

    /// Where a share lands first that is put in order after it; `None` for others.
    fn scratch(&self, share: usize) -> Option<Scratch>;

    /// The kernel blocks of a request for a share that lands in scratch memory, in as many rounds as that needs.
    ///
    /// # Errors
    /// Lists that do not cover the tokens.
    fn rounds(&self, share: usize, ask: &Ask) -> Result<Vec<Ids>, Failure>;

    /// Puts a round in order, after it has landed in `scratch`.
    ///
    /// # Errors
    /// What copying says.
    fn reorder(&self, share: usize, moves: &[Vec<RowMove>], scratch: &Region) -> ropeway::Result<()>;
}

/// Kernel blocks to read, a list for each group; pairs are in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocks {
    /// Ours.
    pub local: Vec<Vec<BlockId>>,
    /// The producer's.
    pub remote: Vec<Vec<BlockId>>,
}

/// Memory in which blocks land whole: a cache with the producer's parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scratch {
    /// How long it is.
    pub bytes: u64,
    /// Whether it is to lie in the memory of the engine's NPU.
    pub on_device: bool,
    /// Each group by name, with its parts.
    pub groups: Vec<(String, Vec<(String, Strided)>)>,
}

/// One of the other instance's ranks, for one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pull {
    /// Its number in the rank table.
    pub rank: usize,
    /// How many of our ranks claim its lease.
    pub holders: u32,
    /// Which of them we are. Asked only of those who write.
    pub place: u32,
    /// What to read, by number: the same number is the same route. Empty: claim and release.
    pub shares: Vec<usize>,
}
