//! The owner's side of leases. [`LeaseTable`] grants, renews, revokes, and alone frees: timers and lost sessions only
//! start a revocation, and blocks come back when each holder's accesses are proven over.

mod arrivals;
mod entry;
mod holders;
mod names;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use arrivals::Arrival;
pub use table::LeaseTable;

use crate::wire::LeaseName;
use crate::wire::message::{ClaimInfo, Why};
use crate::{BlockSet, CacheId, GrantId, Limits, PeerId, Rights};

/// What a lease is asked for.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The cache.
    pub cache: CacheId,
    /// Its blocks, by group.
    pub blocks: Arc<BlockSet>,
    /// What holders may do.
    pub rights: Rights,
    /// How many different peers will claim it; the lease is done when as many have released it. `None` while nobody knows:
    /// the first that asks for it by its name says so.
    pub expected_holders: Option<u32>,
    /// What it can be asked for by, besides its token; its secret is the token's as well.
    pub name: Option<LeaseName>,
    /// Whether events must fire before the blocks are complete: claims wait for [`LeaseTable::ready`].
    pub pending: bool,
    /// How long a holder may go without a renewal; at least [`MIN_LEASE_TTL`](crate::limits::MIN_LEASE_TTL).
    pub ttl: Duration,
    /// How long the lease waits for a holder that it still expects, from the last sign of any.
    pub first_contact_grace: Duration,
}

impl LeaseRequest {
    /// A lease for one holder on complete blocks, with the times of `limits`.
    pub fn new(limits: &Limits, cache: CacheId, blocks: Arc<BlockSet>, rights: Rights) -> Self {
        Self {
            cache,
            blocks,
            rights,
            expected_holders: Some(1),
            name: None,
            pending: false,
            ttl: limits.lease_ttl(),
            first_contact_grace: limits.first_contact_grace(),
        }
    }
}

/// Answer to a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The peer holds the lease.
    Ready(ClaimInfo),
    /// The blocks are not complete yet: [`Action::Decided`] follows.
    Pending,
}

/// Proof that what a peer started under our leases is over. Proofs alone free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The holder says so: nothing it started touches the blocks any more.
    Ack {
        /// The holder.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
    },
    /// After the fence was closed, no access of the holder's link is under way and none can begin. Counts only for a
    /// lease whose fence is closed.
    Fenced {
        /// The holder.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
    },
    /// Every link to the peer is closed for good, or there was none.
    LinkClosed {
        /// The peer.
        peer: PeerId,
    },
    /// The peer's process is dead.
    ProcessGone {
        /// The peer.
        peer: PeerId,
    },
}

/// How a lease ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// All expected holders released it.
    Done,
    /// The owner revoked it.
    Revoked,
    /// A holder's renewals stopped.
    Expired,
    /// A holder that was expected never came.
    NeverClaimed,
    /// A holder's session was lost.
    PeerLost,
    /// A holder let it go without being able to say that the blocks are quiet.
    Forsaken,
}

/// What the engine is to do, or to know. Taken with [`LeaseTable::poll_action`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open the fence word of the lease: holders may begin.
    OpenFence {
        /// The lease.
        grant: GrantId,
        /// What they may do.
        rights: Rights,
    },
    /// Close the fence word of the lease: no access may begin.
    CloseFence {
        /// The lease.
        grant: GrantId,
    },
    /// Ask the peer's link whether its accesses are over, after the fence was closed: [`Proof::Fenced`] is the answer.
    /// Without a link to the peer the answer is [`Proof::Fenced`] at once.
    AskFence {
        /// The lease.
        grant: GrantId,
        /// The holder.
        peer: PeerId,
    },
    /// Tell the holder that the lease ends.
    TellRevoked {
        /// The holder.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
    },
    /// A claim that waited is answered.
    Decided {
        /// The claimant.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
        /// The lease as its importer sees it, or why not.
        result: Result<ClaimInfo, Why>,
    },
    /// The lease has ended, its blocks cannot be touched under it any more, and its id is stale.
    Freed {
        /// The lease.
        grant: GrantId,
        /// Its cache.
        cache: CacheId,
        /// Its blocks.
        blocks: Arc<BlockSet>,
        /// How it ended.
        outcome: Outcome,
        /// Whether [`Action::Quarantined`] was reported before.
        quarantined: bool,
    },
    /// The lease has ended but its blocks may still be touched: they are withheld until proof comes.
    Quarantined {
        /// The lease.
        grant: GrantId,
        /// Its cache.
        cache: CacheId,
        /// Its blocks.
        blocks: Arc<BlockSet>,
        /// The holders whose proof is missing.
        peers: Vec<PeerId>,
        /// How it ended.
        outcome: Outcome,
    },
    /// Blocks have been withheld for longer than `quarantine_fatal_after`. Once per lease.
    Fatal {
        /// The lease.
        grant: GrantId,
        /// The holders whose proof is missing; empty when our own serving work does not end.
        peers: Vec<PeerId>,
        /// Since when, as time since the engine's start.
        since: Duration,
        /// How many blocks.
        blocks: u64,
    },
}

/// How far a lease is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseState {
    /// Granted; its blocks are not complete yet.
    Pending,
    /// Holders may use it.
    Open,
    /// Its fence is closed; proofs are missing.
    Closing,
}
