//! A batch: one submitted plan on its way through a link.

use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{GrantId, Op, RegionId, Runs, TransferId};

use crate::{Completer, Memory};

/// One submitted plan, as a link gets it. Everything was checked before: bounds on both sides, rights, overlap.
pub struct Batch {
    /// The transfer's id, unique in this engine.
    pub id: TransferId,
    /// Which way the bytes go.
    pub op: Op,
    /// The peer's lease under which its blocks may be touched.
    pub grant: GrantId,
    /// The copies, merged, expanded lazily.
    pub runs: Arc<dyn Runs>,
    /// Local memory, by `Run::local_region`; the completer holds the same pins until the batch is quiet.
    pub local: Arc<[Arc<Memory>]>,
    /// The peer's regions, by `Run::remote_region`.
    pub remote: Arc<[RegionId]>,
    /// When the link has to give the batch up.
    pub abandon_at: Instant,
    /// The way to end it.
    pub done: Completer,
}

/// A batch that was not started: nothing was touched, the caller has it back.
pub struct Rejected {
    /// The batch, whole.
    pub batch: Box<Batch>,
    /// Why.
    pub why: Refusal,
}

/// Why nothing was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The named limit is reached; wait for room.
    Full {
        /// The limit's name in `Limits`.
        limit: &'static str,
    },
    /// The link is closing or lost.
    Closed,
    /// The peer's region is not imported, or was withdrawn.
    RegionGone(RegionId),
    /// The lease is no longer open, as the fence tells.
    StaleLease,
}
