//! The importer's side of leases: what this engine holds of its peers, until when, and when it may say that it is done.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::wire::BlockSpans;
use crate::wire::message::ClaimInfo;
use crate::{CacheId, GrantId, Limits, Op, PeerId, Rights, StatusKind};

/// What the engine is to do, or to know. Taken with [`GrantTable::poll_action`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GrantAction {
    /// Tell the owner that nothing started here touches the blocks any more.
    SendRelease {
        /// The owner.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
    },
    /// Tell the owner that nothing here uses the lease any more, but that a transfer ended without proof of quiet: the
    /// owner revokes the lease and finds its own proof. Once per grant, at most.
    Forsake {
        /// The owner.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
    },
    /// The grant can no longer be used; transfers under it are to be cancelled. Once per grant, at most.
    Ended {
        /// The owner.
        peer: PeerId,
        /// The lease.
        grant: GrantId,
        /// Why.
        why: Ended,
    },
}

/// Why a grant ended before it was released.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// The owner revoked it.
    Revoked,
    /// No renewal was confirmed in time.
    Expired,
    /// The session to the owner was lost.
    PeerLost,
    /// It was let go here without proof of quiet: told to the owner with [`GrantAction::Forsake`].
    Forsaken,
}

/// The grants that this engine holds. Drain [`Self::poll_action`] after every call.
#[derive(Debug)]
pub struct GrantTable {
    limit: usize,
    held: BTreeMap<(PeerId, GrantId), Held>,
    owners: BTreeMap<PeerId, Owner>,
    timers: BTreeSet<(Duration, PeerId, GrantId)>,
    actions: VecDeque<GrantAction>,
}

#[derive(Debug)]
struct Held {
    info: Option<ClaimInfo>,
    /// Claims sent and not answered: a release must not overtake their answers.
    claims: u32,
    /// Handles that the caller has not dropped.
    handles: u32,
    /// Transfers under way.
    uses: u32,
    /// Transfers that ended without proof that the owner's blocks are quiet: no release until the link is closed.
    unquiet: u32,
    claimed_at: Duration,
    armed: Option<Duration>,
    ended: Option<Ended>,
    /// Nothing uses the grant but quiet is unproven: the owner was told that, or had ended the lease itself.
    forsaken: bool,
    /// The owner was told, or need not be; kept until the caller's handles are gone, so that a dead handle can never
    /// be taken for one of a later claim.
    settled: bool,
}

#[derive(Debug, Default)]
struct Owner {
    grants: usize,
    /// Those of them that the owner still has to hear the end of.
    alive: usize,
    /// The times to live of those, in milliseconds, and how many have each; claims that wait are not among them.
    ttls: BTreeMap<u32, usize>,
    /// When the last renewal that the owner confirmed was sent.
    renewed: Duration,
}

impl Owner {
    /// A grant has a time to live, in place of the one before.
    fn live(&mut self, ttl_ms: u32, before: Option<u32>) {
        self.unlive(before);
        *self.ttls.entry(ttl_ms).or_default() += 1;
    }

    fn unlive(&mut self, ttl_ms: Option<u32>) {
        let Some(ttl_ms) = ttl_ms else { return };
        if let Some(count) = self.ttls.get_mut(&ttl_ms) {
            *count -= 1;
            if *count == 0 {
                self.ttls.remove(&ttl_ms);
            }
        }
    }

    /// The owner need not hear the end of a grant any more.
    fn over(&mut self, info: Option<&ClaimInfo>) {
        self.alive -= 1;
        self.unlive(info.map(|info| info.ttl_ms));
    }
}

impl GrantTable {
    /// An empty table of at most `grants_per_peer` grants per owner.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.grants_per_peer as usize,
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// A claim is about to be sent. Call before the message leaves.
    ///
    /// # Errors
    /// [`StatusKind::PeerFull`] past `grants_per_peer`; [`StatusKind::StaleLease`] for a grant that has ended.
    pub fn claim_sent(&mut self, peer: PeerId, grant: GrantId, now: Duration) -> Result<(), StatusKind> {
        let owner = self.owners.entry(peer).or_default();
        match self.held.get_mut(&(peer, grant)) {
            Some(held) if held.ended.is_some() => return Err(StatusKind::StaleLease),
            Some(held) => held.claims += 1,
            None if owner.grants >= self.limit => return Err(StatusKind::PeerFull),
            None => {
                owner.grants += 1;
                owner.alive += 1;
                let fresh = Held {
                    info: None,
                    claims: 1,
                    handles: 0,
                    uses: 0,
                    unquiet: 0,
                    claimed_at: now,
                    armed: None,
                    ended: None,
                    forsaken: false,
                    settled: false,
                };
                self.held.insert((peer, grant), fresh);
            }
        }
        Ok(())
    }

    /// The owner answered a claim with the lease: one handle more. An answer that was not asked for is ignored (`false`).
    /// Its time to live begins at `now`: a claim may have waited for its blocks, and the owner's begins then.
    pub fn claimed(&mut self, peer: PeerId, info: ClaimInfo, now: Duration) -> bool {
        let grant = info.grant;
        let Some(held) = self.held.get_mut(&(peer, grant)).filter(|held| held.claims > 0) else {
            return false;
        };
        held.claims -= 1;
        held.handles += 1;
        held.claimed_at = held.claimed_at.max(now);
        if let Some(owner) = self.owners.get_mut(&peer) {
            owner.live(info.ttl_ms, held.info.as_ref().map(|before| before.ttl_ms));
        }
        held.info = Some(info);
        self.arm(peer, grant);
        // A revocation may have overtaken the answer: then the handle is dead from the start, and the owner waits.
        self.settle(peer, grant);
        true
    }

    /// A claim was refused or its session ended.
    pub fn claim_failed(&mut self, peer: PeerId, grant: GrantId) {
        let Some(held) = self.held.get_mut(&(peer, grant)) else {
            return;
        };
        held.claims = held.claims.saturating_sub(1);
        self.settle(peer, grant);
    }

    /// The caller dropped a handle.
    pub fn drop_handle(&mut self, peer: PeerId, grant: GrantId) {
        let Some(held) = self.held.get_mut(&(peer, grant)) else {
            return;
        };
        debug_assert!(held.handles > 0, "a handle is dropped once");
        held.handles = held.handles.saturating_sub(1);
        self.settle(peer, grant);
    }

    /// A transfer is about to start under the grant.
    ///
    /// # Errors
    /// [`StatusKind::StaleLease`] when the grant has ended or is not ours; [`StatusKind::Denied`] by its rights.
    pub fn begin_use(
        &mut self,
        peer: PeerId,
        grant: GrantId,
        op: Op,
        now: Duration,
    ) -> Result<(), StatusKind> {
        let renewed = self.renewed(peer);
        let held = self.held.get_mut(&(peer, grant)).ok_or(StatusKind::StaleLease)?;
        let info = held.info.as_ref().filter(|_| held.ended.is_none()).ok_or(StatusKind::StaleLease)?;
        if !info.rights.allow(op) {
            return Err(StatusKind::Denied);
        }
        if now >= renewed.max(held.claimed_at).saturating_add(ttl(info)) {
            return Err(StatusKind::StaleLease);
        }
        held.uses += 1;
        Ok(())
    }

    /// A transfer under the grant ended. `remote_quiet`: whether the owner's blocks are proven quiet.
    pub fn end_use(&mut self, peer: PeerId, grant: GrantId, remote_quiet: bool) {
        let Some(held) = self.held.get_mut(&(peer, grant)) else {
            return;
        };
        debug_assert!(held.uses > 0, "a use ends once");
        held.uses = held.uses.saturating_sub(1);
        held.unquiet += u32::from(!remote_quiet);
        self.settle(peer, grant);
    }

    /// Every link to the owner is closed: what ended without proof is quiet now.
    pub fn link_closed(&mut self, peer: PeerId) {
        for grant in self.of_peer(peer) {
            if let Some(held) = self.held.get_mut(&(peer, grant)) {
                held.unquiet = 0;
            }
            self.settle(peer, grant);
        }
    }

    /// The owner revoked the lease. What we hold no more is acknowledged again.
    pub fn revoked(&mut self, peer: PeerId, grant: GrantId) {
        match self.held.get(&(peer, grant)) {
            // The owner's answer to our word that quiet is unproven, and its last: it must get no acknowledgement, and
            // finds its own proof.
            Some(held) if held.ended == Some(Ended::Forsaken) => self.forget(peer, grant),
            Some(_) => self.end(peer, grant, Ended::Revoked),
            None => self.actions.push_back(GrantAction::SendRelease { peer, grant }),
        }
    }

    /// The session to the owner was lost: its grants cannot be used any more.
    pub fn peer_lost(&mut self, peer: PeerId) {
        for grant in self.of_peer(peer) {
            if let Some(held) = self.held.get_mut(&(peer, grant)) {
                held.claims = 0;
            }
            self.end(peer, grant, Ended::PeerLost);
        }
    }

    /// The owner confirmed the heartbeat that was sent at `sent`: leases live on from then, not from now.
    pub fn renewed_at(&mut self, peer: PeerId, sent: Duration) {
        if let Some(owner) = self.owners.get_mut(&peer) {
            owner.renewed = owner.renewed.max(sent);
        }
    }

    /// Ends the grants whose renewals stopped.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(at, peer, grant)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let renewed = self.renewed(peer);
            let Some(held) = self.held.get_mut(&(peer, grant)) else {
                continue;
            };
            held.armed = None;
            match expiry(renewed, held) {
                Some(at) if at <= now => self.end(peer, grant, Ended::Expired),
                _ => self.arm(peer, grant),
            }
        }
    }

    /// When [`Self::tick`] wants to be called next; `None` while nothing is held.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|&(at, ..)| at)
    }

    /// The next thing to do. Call until `None` after every other call.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<GrantAction> {
        self.actions.pop_front()
    }

    /// Whether heartbeats to the owner are needed: while anything of it is held, claimed, or has ended under transfers
    /// that still go on; not for what was forsaken. An owner that does not answer is found out by them.
    pub fn needs_heartbeat(&self, peer: PeerId) -> bool {
        self.owners.get(&peer).is_some_and(|owner| owner.alive > 0)
    }

    /// The longest pause between heartbeats that keeps all that is held of the owner: a third of the shortest time to
    /// live. `None` when no heartbeats are needed.
    pub fn heartbeat_pause(&self, peer: PeerId) -> Option<Duration> {
        let owner = self.owners.get(&peer).filter(|owner| owner.alive > 0)?;
        let shortest = owner.ttls.first_key_value();
        Some(shortest.map_or(Duration::MAX, |(ttl_ms, _)| Duration::from_millis((*ttl_ms).into()) / 3))
    }

    /// What the grant covers, while it is held.
    pub fn info(&self, peer: PeerId, grant: GrantId) -> Option<&ClaimInfo> {
        self.held.get(&(peer, grant))?.info.as_ref()
    }

    /// Why the grant ended; `None` while it can be used, or when it is not ours.
    pub fn ended(&self, peer: PeerId, grant: GrantId) -> Option<Ended> {
        self.held.get(&(peer, grant))?.ended
    }

    /// Blocks, cache and rights of the grant, for checking a plan against it.
    pub fn covers(&self, peer: PeerId, grant: GrantId) -> Option<(CacheId, Rights, &Arc<BlockSpans>)> {
        self.info(peer, grant).map(|info| (info.cache, info.rights, &info.blocks))
    }

    /// Grants of all owners that are held or claimed.
    pub fn live(&self) -> usize {
        self.held.len()
    }

    fn of_peer(&self, peer: PeerId) -> Vec<GrantId> {
        let (first, last) = (GrantId::from_bits(0), GrantId::from_bits(u64::MAX));
        self.held.range((peer, first)..=(peer, last)).map(|((_, grant), _)| *grant).collect()
    }

    fn renewed(&self, peer: PeerId) -> Duration {
        self.owners.get(&peer).map_or(Duration::ZERO, |owner| owner.renewed)
    }

    /// Sets the grant's timer. One that is too early is left be: it looks again when it fires.
    fn arm(&mut self, peer: PeerId, grant: GrantId) {
        let renewed = self.renewed(peer);
        let Some(held) = self.held.get_mut(&(peer, grant)).filter(|held| held.armed.is_none()) else {
            return;
        };
        if let Some(at) = expiry(renewed, held) {
            held.armed = Some(at);
            self.timers.insert((at, peer, grant));
        }
    }

    fn end(&mut self, peer: PeerId, grant: GrantId, why: Ended) {
        let Some(held) = self.held.get_mut(&(peer, grant)) else {
            return;
        };
        if held.ended.is_none() {
            held.ended = Some(why);
            if let Some(at) = held.armed.take() {
                self.timers.remove(&(at, peer, grant));
            }
            self.actions.push_back(GrantAction::Ended { peer, grant, why });
        } else if why == Ended::PeerLost {
            held.ended = Some(why);
        }
        self.settle(peer, grant);
    }

    /// Acknowledges to the owner as soon as nothing needs the grant, unless the session is lost; forgets the grant when
    /// no handle is left.
    fn settle(&mut self, peer: PeerId, grant: GrantId) {
        let Some(held) = self.held.get_mut(&(peer, grant)) else {
            return;
        };
        let idle = held.claims == 0 && held.uses == 0;
        // A revoked grant is acknowledged as soon as it is quiet; handles that the caller still keeps are dead.
        if !idle || (held.handles > 0 && held.ended.is_none()) {
            return;
        }
        if held.unquiet > 0 {
            return self.forsake(peer, grant);
        }
        if !held.settled {
            held.settled = true;
            if !held.forsaken
                && let Some(owner) = self.owners.get_mut(&peer)
            {
                owner.over(held.info.as_ref());
            }
            if held.info.is_some() && held.ended != Some(Ended::PeerLost) {
                self.actions.push_back(GrantAction::SendRelease { peer, grant });
            }
        }
        if held.handles == 0 {
            self.forget(peer, grant);
        }
    }

    /// Nothing uses the grant any more, but nobody here can say that its blocks are quiet. Its owner must not be kept
    /// waiting by renewals: it hears so, once, unless it ended the lease itself.
    fn forsake(&mut self, peer: PeerId, grant: GrantId) {
        let Some(held) = self.held.get_mut(&(peer, grant)).filter(|held| !held.forsaken) else {
            return;
        };
        held.forsaken = true;
        if let Some(at) = held.armed.take() {
            self.timers.remove(&(at, peer, grant));
        }
        if let Some(owner) = self.owners.get_mut(&peer) {
            owner.over(held.info.as_ref());
        }
        if matches!(held.ended, None | Some(Ended::Expired)) {
            // The owner's clock may not have run out yet; heartbeats for other grants renew this one too.
            held.ended.get_or_insert(Ended::Forsaken);
            self.actions.push_back(GrantAction::Forsake { peer, grant });
        }
    }

    fn forget(&mut self, peer: PeerId, grant: GrantId) {
        let Some(held) = self.held.remove(&(peer, grant)) else {
            return;
        };
        if let Some(at) = held.armed {
            self.timers.remove(&(at, peer, grant));
        }
        if let Some(owner) = self.owners.get_mut(&peer) {
            owner.grants -= 1;
            if owner.grants == 0 {
                self.owners.remove(&peer);
            }
        }
    }
}

fn expiry(renewed: Duration, held: &Held) -> Option<Duration> {
    let info = held.info.as_ref().filter(|_| held.ended.is_none())?;
    Some(renewed.max(held.claimed_at).saturating_add(ttl(info)))
}

fn ttl(info: &ClaimInfo) -> Duration {
    Duration::from_millis(info.ttl_ms.into())
}
