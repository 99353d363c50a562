//! What each peer holds: which leases, and when it was last heard to renew them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::PeerId;
use crate::wire::message::Why;

#[derive(Debug, Default)]
pub(super) struct Holders(BTreeMap<PeerId, Holdings>);

#[derive(Debug, Default)]
struct Holdings {
    renewed: Duration,
    lost: bool,
    /// Slots of the leases that it holds and has not been proven done with.
    held: BTreeSet<u32>,
}

impl Holders {
    /// Whether the peer may take a lease more, or that one again.
    pub(super) fn may_hold(&self, peer: PeerId, slot: u32, limit: u32) -> Result<(), Why> {
        match self.0.get(&peer) {
            Some(holdings) if holdings.lost => Err(Why::Closed),
            Some(holdings) if holdings.held.contains(&slot) || holdings.held.len() < limit as usize => Ok(()),
            Some(_) => Err(Why::Full),
            None => Ok(()),
        }
    }

    pub(super) fn hold(&mut self, peer: PeerId, slot: u32, now: Duration) {
        self.0.entry(peer).or_default().held.insert(slot);
        self.renew(peer, now);
    }

    /// The peer is done with a lease; one that holds nothing needs no memory, unless it must stay refused.
    pub(super) fn let_go(&mut self, peer: PeerId, slot: u32) {
        let Some(holdings) = self.0.get_mut(&peer) else { return };
        holdings.held.remove(&slot);
        if holdings.held.is_empty() && !holdings.lost {
            self.0.remove(&peer);
        }
    }

    pub(super) fn renew(&mut self, peer: PeerId, now: Duration) {
        if let Some(holdings) = self.0.get_mut(&peer) {
            holdings.renewed = holdings.renewed.max(now);
        }
    }

    pub(super) fn renewed(&self, peer: PeerId) -> Duration {
        self.0.get(&peer).map_or(Duration::ZERO, |holdings| holdings.renewed)
    }

    /// The peer's session was lost: nothing is granted to it any more.
    pub(super) fn lose(&mut self, peer: PeerId) {
        // A session that came before in the same slot and holds nothing is remembered no longer: this table stays as
        // small as the table of peers.
        let before = PeerId { slot: peer.slot, generation: 0 }..peer;
        let past = self.0.range(before).filter(|(_, past)| past.held.is_empty()).map(|(peer, _)| *peer);
        for past in past.collect::<Vec<_>>() {
            self.0.remove(&past);
        }
        self.0.entry(peer).or_default().lost = true;
    }

    pub(super) fn is_lost(&self, peer: PeerId) -> bool {
        self.0.get(&peer).is_none_or(|holdings| holdings.lost)
    }

    /// Slots of the leases that the peer holds.
    pub(super) fn held(&self, peer: PeerId) -> Vec<u32> {
        self.0.get(&peer).map(|holdings| holdings.held.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn count(&self, peer: PeerId) -> usize {
        self.0.get(&peer).map_or(0, |holdings| holdings.held.len())
    }

    /// The peer is gone for good.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
