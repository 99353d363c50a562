//! One lease of the table.

use std::sync::Arc;
use std::time::Duration;

use super::Outcome;
use super::arrivals::Arrivals;
use crate::wire::BlockSpans;
use crate::wire::message::ClaimInfo;
use crate::{BlockSet, CacheId, GrantId, PeerId, Rights};

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) cache: CacheId,
    pub(super) blocks: Arc<BlockSet>,
    pub(super) rights: Rights,
    pub(super) secret: u128,
    pub(super) expected: Option<u32>,
    pub(super) name: Option<u64>,
    pub(super) ttl: Duration,
    pub(super) grace: Duration,
    /// The last grant, claim or release; the grace counts from here.
    pub(super) touched: Duration,
    /// When its blocks were complete; a holder that claimed before is renewed by that.
    pub(super) opened: Duration,
    pub(super) phase: Phase,
    pub(super) holders: Vec<Holder>,
    pub(super) serving: u32,
    pub(super) arrivals: Arrivals,
    pub(super) armed: Option<Duration>,
    pub(super) quarantined: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Pending,
    Open,
    Closing { since: Duration, outcome: Outcome, fatal: bool },
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) peer: PeerId,
    pub(super) done: bool,
}

impl Lease {
    pub(super) fn active(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.holders.iter().filter(|holder| !holder.done).map(|holder| holder.peer)
    }

    pub(super) fn is_active(&self, peer: PeerId) -> bool {
        self.active().any(|active| active == peer)
    }

    /// Whether every holder has come that was expected; nobody says how many of a named lease that nobody asked for.
    pub(super) fn has_all(&self) -> bool {
        self.expected.is_some_and(|expected| self.holders.len() >= expected as usize)
    }

    pub(super) fn info(&self, grant: GrantId) -> ClaimInfo {
        ClaimInfo {
            grant,
            cache: self.cache,
            rights: self.rights,
            ttl_ms: u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX),
            blocks: Arc::new(BlockSpans::from(&*self.blocks)),
        }
    }
}
