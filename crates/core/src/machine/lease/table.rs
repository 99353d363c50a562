//! The table of leases.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::arrivals::Arrivals;
use super::entry::{Holder, Lease, Phase};
use super::holders::Holders;
use super::names::{Found, Names};
use super::{Action, Arrival, Claim, LeaseRequest, LeaseState, Outcome, Proof};
use crate::limits::MIN_LEASE_TTL;
use crate::wire::LeaseName;
use crate::wire::message::Why;
use crate::{BlockSet, CacheId, Error, ErrorKind, GrantId, Limits, Op, PeerId, Result, StatusKind};

/// The owner's leases. `now` is time since the engine's start and never goes back.
///
/// Drain [`Self::poll_action`] after every call; at most a few actions per holder of the leases concerned wait there.
#[derive(Debug)]
pub struct LeaseTable {
    limits: Limits,
    slots: Vec<Slot>,
    vacant: VecDeque<u32>,
    peers: Holders,
    pub(super) names: Names,
    timers: BTreeSet<(Duration, u32)>,
    actions: VecDeque<Action>,
    live: u32,
    withheld_blocks: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    lease: Option<Box<Lease>>,
}

impl LeaseTable {
    /// An empty table; slots are made as they are needed, up to `limits.leases`.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            slots: Vec::new(),
            vacant: VecDeque::new(),
            peers: Holders::default(),
            names: Names::default(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            live: 0,
            withheld_blocks: 0,
        }
    }

    /// Grants a lease. `secret` is drawn by the caller and goes into the token; a named lease has its name's.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] naming the limit; [`ErrorKind::ApiMisuse`] for an empty block set, no expected holder,
    /// a name that is taken, or a time to live below [`MIN_LEASE_TTL`].
    pub fn grant(&mut self, request: LeaseRequest, secret: u128, now: Duration) -> Result<GrantId> {
        let (blocks, limit) = (request.blocks.len(), u64::from(self.limits.blocks_per_lease));
        let refuse = |kind, text: String| Err(Error::new(kind, "lease", text));
        if blocks > limit {
            return refuse(
                ErrorKind::Full,
                format!("{blocks} blocks; the limit blocks_per_lease is {limit}"),
            );
        }
        let unknown = request.expected_holders.is_none() && request.name.is_none();
        let countable = request.expected_holders.is_none_or(|count| (1..=self.limits.peers).contains(&count));
        if blocks == 0 || unknown || !countable {
            let text = format!(
                "a lease needs blocks (got {blocks}) and 1 to {} expected holders (got {:?}), or a name",
                self.limits.peers, request.expected_holders
            );
            return refuse(ErrorKind::ApiMisuse, text);
        }
        if let Some(name) = request.name.filter(|name| self.names.find(name.key) != Found::Nothing) {
            return refuse(
                ErrorKind::ApiMisuse,
                format!("{name:?} was given to a lease before; draw another"),
            );
        }
        if request.ttl < MIN_LEASE_TTL {
            let text = format!("a lease's ttl must be at least {MIN_LEASE_TTL:?} (got {:?})", request.ttl);
            return refuse(ErrorKind::ApiMisuse, text);
        }
        let Some(slot) = self.vacant.pop_front().or_else(|| self.new_slot()) else {
            let text = format!("{} leases are held; the limit leases is {}", self.live, self.limits.leases);
            return refuse(ErrorKind::Full, text);
        };
        let entry = &mut self.slots[slot as usize];
        let grant = GrantId { slot, generation: entry.generation };
        entry.lease = Some(Box::new(Lease {
            cache: request.cache,
            blocks: request.blocks,
            rights: request.rights,
            secret,
            expected: request.expected_holders,
            name: request.name.map(|name| name.key),
            ttl: request.ttl,
            grace: request.first_contact_grace,
            touched: now,
            opened: now,
            phase: Phase::Pending,
            holders: Vec::new(),
            serving: 0,
            arrivals: Arrivals::default(),
            armed: None,
            quarantined: false,
        }));
        self.live += 1;
        if let Some(name) = request.name {
            self.names.insert(name.key, grant);
        }
        if !request.pending {
            self.ready(grant, now);
        }
        Ok(grant)
    }

    /// The blocks are complete: claims that waited are answered, the fence opens. `false` for a lease that has ended.
    pub fn ready(&mut self, grant: GrantId, now: Duration) -> bool {
        let Some(lease) = find(&mut self.slots, grant).filter(|lease| lease.phase == Phase::Pending) else {
            return false;
        };
        lease.phase = Phase::Open;
        (lease.touched, lease.opened) = (now, now);
        self.actions.push_back(Action::OpenFence { grant, rights: lease.rights });
        for peer in lease.active() {
            self.actions.push_back(Action::Decided { peer, grant, result: Ok(lease.info(grant)) });
        }
        self.arm(grant);
        true
    }

    /// Finds a lease by its name, to be claimed. The first to ask says how many `holders` will come, where the owner does
    /// not know.
    ///
    /// # Errors
    /// [`Why::NotFound`] while there is none: it may come. [`Why::Stale`] when it has ended, [`Why::Denied`] for a wrong
    /// secret, [`Why::Full`] for more holders than there may be peers.
    pub fn find(&mut self, name: &LeaseName, holders: u32) -> Result<(CacheId, GrantId), Why> {
        let grant = match self.names.find(name.key) {
            Found::Live(grant) => grant,
            Found::Past => return Err(Why::Stale),
            Found::Nothing => return Err(Why::NotFound),
        };
        let lease = find(&mut self.slots, grant).ok_or(Why::Stale)?;
        if !crate::wire::secret::same(lease.secret, name.secret) {
            return Err(Why::Denied);
        }
        if matches!(lease.phase, Phase::Closing { .. }) {
            return Err(Why::Stale);
        }
        if holders > self.limits.peers {
            return Err(Why::Full);
        }
        lease.expected.get_or_insert(holders.max(1));
        Ok((lease.cache, grant))
    }

    /// A peer shows a token's words and asks to hold the lease. Claiming again what it holds gives the same answer.
    ///
    /// # Errors
    /// [`Why::Stale`], [`Why::Denied`] for a wrong secret, [`Why::Full`] past `grants_per_peer` or when all expected
    /// holders have come, [`Why::Closed`] for a peer whose session was lost.
    pub fn claim(
        &mut self,
        peer: PeerId,
        cache: CacheId,
        grant: GrantId,
        secret: u128,
        now: Duration,
    ) -> Result<Claim, Why> {
        let lease = find(&mut self.slots, grant).ok_or(Why::Stale)?;
        if !crate::wire::secret::same(lease.secret, secret) {
            return Err(Why::Denied);
        }
        if lease.cache != cache || matches!(lease.phase, Phase::Closing { .. }) {
            return Err(Why::Stale);
        }
        self.peers.may_hold(peer, grant.slot, self.limits.grants_per_peer)?;
        match lease.holders.iter().position(|holder| holder.peer == peer) {
            Some(index) => lease.holders[index].done = false,
            None if lease.has_all() => return Err(Why::Full),
            None => lease.holders.push(Holder { peer, done: false }),
        }
        self.peers.hold(peer, grant.slot, now);
        lease.touched = now;
        let answer =
            if lease.phase == Phase::Open { Claim::Ready(lease.info(grant)) } else { Claim::Pending };
        self.arm(grant);
        Ok(answer)
    }

    /// A heartbeat: renews all leases that the peer holds.
    pub fn renew(&mut self, peer: PeerId, now: Duration) {
        self.peers.renew(peer, now);
    }

    /// The holder's word that nothing it started touches the blocks any more: [`Proof::Ack`] by its everyday name.
    pub fn release(&mut self, peer: PeerId, grant: GrantId, now: Duration) {
        self.prove(Proof::Ack { peer, grant }, now);
    }

    /// The holder no longer uses the lease but cannot vouch that the blocks are quiet: revokes it. No proof of anything.
    pub fn forsaken(&mut self, peer: PeerId, grant: GrantId, now: Duration) {
        if self.lease(grant).is_some_and(|lease| lease.is_active(peer)) {
            self.close(grant, Outcome::Forsaken, now);
        }
    }

    /// Ends a lease on the owner's behalf. `false` when it had ended already.
    pub fn revoke(&mut self, grant: GrantId, now: Duration) -> bool {
        self.close(grant, Outcome::Revoked, now)
    }

    /// The peer's session was lost: revokes what it holds. No proof of anything.
    pub fn peer_lost(&mut self, peer: PeerId, now: Duration) {
        self.peers.lose(peer);
        for slot in self.peers.held(peer) {
            self.close(self.current(slot), Outcome::PeerLost, now);
        }
    }

    /// Takes a proof. Proofs for what is not held, or `Fenced` for a fence that is still open, change nothing.
    pub fn prove(&mut self, proof: Proof, now: Duration) {
        match proof {
            Proof::Ack { peer, grant } => self.holder_done(peer, grant, false, now),
            Proof::Fenced { peer, grant } => self.holder_done(peer, grant, true, now),
            Proof::LinkClosed { peer } | Proof::ProcessGone { peer } => {
                self.peer_lost(peer, now);
                for slot in self.peers.held(peer) {
                    self.holder_done(peer, self.current(slot), true, now);
                }
                self.peers.forget(peer);
            }
        }
    }

    /// The link answered that accesses under the closed lease are still under way: its blocks are withheld, and
    /// reported so, once.
    pub fn fence_pending(&mut self, grant: GrantId) {
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        let Phase::Closing { outcome, .. } = lease.phase else {
            return;
        };
        if lease.quarantined || lease.active().next().is_none() {
            return;
        }
        lease.quarantined = true;
        self.withheld_blocks += lease.blocks.len();
        self.actions.push_back(Action::Quarantined {
            grant,
            cache: lease.cache,
            blocks: Arc::clone(&lease.blocks),
            peers: lease.active().collect(),
            outcome,
        });
    }

    /// Whether our side may serve a request of `peer` under the lease now; gives the block set to check it against.
    /// Counts as serving work until [`Self::serve_end`].
    ///
    /// # Errors
    /// [`StatusKind::StaleLease`] or [`StatusKind::Denied`], for the initiator to see.
    pub fn serve_begin(&mut self, peer: PeerId, grant: GrantId, op: Op) -> Result<Arc<BlockSet>, StatusKind> {
        let lease = find(&mut self.slots, grant).ok_or(StatusKind::StaleLease)?;
        if lease.phase != Phase::Open || !lease.is_active(peer) {
            return Err(StatusKind::StaleLease);
        }
        if !lease.rights.allow(op) {
            return Err(StatusKind::Denied);
        }
        lease.serving += 1;
        Ok(Arc::clone(&lease.blocks))
    }

    /// Our side has stopped touching the blocks for one request.
    pub fn serve_end(&mut self, grant: GrantId) {
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        debug_assert!(lease.serving > 0, "serve_end without serve_begin");
        lease.serving = lease.serving.saturating_sub(1);
        self.try_free(grant);
    }

    /// A holder says that a sequence has arrived or failed.
    ///
    /// # Errors
    /// [`Why::Stale`] when the peer does not hold the lease, [`Why::Full`] past `notifications_per_lease`.
    pub fn notify(
        &mut self,
        peer: PeerId,
        grant: GrantId,
        sequence: u32,
        failed: bool,
    ) -> Result<Arrival, Why> {
        let limit = self.limits.notifications_per_lease;
        let lease = find(&mut self.slots, grant).filter(|lease| lease.is_active(peer)).ok_or(Why::Stale)?;
        if sequence >= limit {
            return Err(Why::Full);
        }
        Ok(lease.arrivals.record(sequence, failed))
    }

    /// Whether the sequence has arrived under the lease; `None` when the lease is of the past.
    pub fn arrived(&self, grant: GrantId, sequence: u32) -> Option<bool> {
        self.lease(grant).map(|lease| lease.arrivals.has(sequence))
    }

    /// Whether the last word about the sequence was a failure; `None` when the lease is of the past.
    pub fn failed(&self, grant: GrantId, sequence: u32) -> Option<bool> {
        self.lease(grant).map(|lease| lease.arrivals.has_failed(sequence))
    }

    /// How many distinct sequences have arrived under the lease; `None` when it is of the past.
    pub fn arrivals(&self, grant: GrantId) -> Option<u32> {
        self.lease(grant).map(|lease| lease.arrivals.count())
    }

    /// Runs timers. They start revocations and raise alarms; they free nothing.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(at, slot)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let grant = self.current(slot);
            if let Some(lease) = find(&mut self.slots, grant) {
                lease.armed = None;
            }
            self.expire(grant, now);
            self.arm(grant);
        }
    }

    /// When [`Self::tick`] wants to be called next. `None` while no lease is held: an idle engine sleeps.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The next thing to do. Call until `None` after every other call.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How far the lease is; `None` once it is free, or for an id of the past.
    pub fn state(&self, grant: GrantId) -> Option<LeaseState> {
        self.lease(grant).map(|lease| match lease.phase {
            Phase::Pending => LeaseState::Pending,
            Phase::Open => LeaseState::Open,
            Phase::Closing { .. } => LeaseState::Closing,
        })
    }

    /// The blocks of a lease that is not free yet.
    pub fn blocks(&self, grant: GrantId) -> Option<&Arc<BlockSet>> {
        self.lease(grant).map(|lease| &lease.blocks)
    }

    /// Whose proof is missing, or would be if the lease ended now.
    pub fn holders(&self, grant: GrantId) -> Vec<PeerId> {
        self.lease(grant).map(|lease| lease.active().collect()).unwrap_or_default()
    }

    /// Whether the peer holds a lease to write, open or not: it may be writing.
    pub fn may_write(&self, peer: PeerId) -> bool {
        let held = self.peers.held(peer).into_iter();
        held.filter_map(|slot| self.lease(self.current(slot))).any(|lease| lease.rights.allow(Op::Write))
    }

    /// How many leases the peer holds.
    pub fn held_by(&self, peer: PeerId) -> usize {
        self.peers.count(peer)
    }

    /// Leases that are not free, of a cache.
    pub fn of_cache(&self, cache: CacheId) -> impl Iterator<Item = GrantId> + '_ {
        self.slots.iter().enumerate().filter_map(move |(index, slot)| {
            slot.lease.as_ref().filter(|lease| lease.cache == cache)?;
            Some(GrantId { slot: index as u32, generation: slot.generation })
        })
    }

    /// Leases that are not free.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Blocks reported as quarantined and not freed yet.
    pub fn withheld_blocks(&self) -> u64 {
        self.withheld_blocks
    }

    fn lease(&self, grant: GrantId) -> Option<&Lease> {
        let slot = self.slots.get(grant.slot as usize)?;
        slot.lease.as_deref().filter(|_| slot.generation == grant.generation)
    }

    fn current(&self, slot: u32) -> GrantId {
        GrantId { slot, generation: self.slots[slot as usize].generation }
    }

    fn new_slot(&mut self) -> Option<u32> {
        let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < self.limits.leases)?;
        self.slots.push(Slot { generation: 1, lease: None });
        Some(slot)
    }

    fn close(&mut self, grant: GrantId, outcome: Outcome, now: Duration) -> bool {
        let Some(lease) = find(&mut self.slots, grant) else {
            return false;
        };
        let was = lease.phase;
        if matches!(was, Phase::Closing { .. }) {
            return false;
        }
        lease.phase = Phase::Closing { since: now, outcome, fatal: false };
        if was == Phase::Pending {
            // The fence never opened, so no holder can have begun: a refusal is all that they need.
            for holder in lease.holders.iter_mut().filter(|holder| !holder.done) {
                holder.done = true;
                let (peer, result) = (holder.peer, Err(Why::Stale));
                self.actions.push_back(Action::Decided { peer, grant, result });
                self.peers.let_go(peer, grant.slot);
            }
        } else {
            self.actions.push_back(Action::CloseFence { grant });
            for peer in lease.active() {
                if !self.peers.is_lost(peer) {
                    self.actions.push_back(Action::TellRevoked { peer, grant });
                }
                self.actions.push_back(Action::AskFence { grant, peer });
            }
        }
        self.arm(grant);
        self.try_free(grant);
        true
    }

    fn holder_done(&mut self, peer: PeerId, grant: GrantId, needs_closed_fence: bool, now: Duration) {
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        let closing = matches!(lease.phase, Phase::Closing { .. });
        if needs_closed_fence && !closing {
            return;
        }
        let Some(holder) = lease.holders.iter_mut().find(|holder| holder.peer == peer && !holder.done) else {
            return;
        };
        holder.done = true;
        lease.touched = now;
        let done = lease.has_all() && lease.active().next().is_none();
        self.peers.let_go(peer, grant.slot);
        if closing {
            self.try_free(grant);
        } else if done {
            self.close(grant, Outcome::Done, now);
        } else {
            self.arm(grant);
        }
    }

    fn try_free(&mut self, grant: GrantId) {
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        let Phase::Closing { outcome, .. } = lease.phase else {
            return;
        };
        if lease.serving > 0 || lease.active().next().is_some() {
            return;
        }
        let slot = &mut self.slots[grant.slot as usize];
        let Some(lease) = slot.lease.take() else { return };
        // A slot whose generations are used up is retired: an id is never handed out twice.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.vacant.push_back(grant.slot);
        }
        if let Some(at) = lease.armed {
            self.timers.remove(&(at, grant.slot));
        }
        self.live -= 1;
        if lease.quarantined {
            self.withheld_blocks -= lease.blocks.len();
        }
        let Lease { cache, blocks, quarantined, name, .. } = *lease;
        if let Some(key) = name {
            self.names.end(key, self.limits.leases as usize);
        }
        self.actions.push_back(Action::Freed { grant, cache, blocks, outcome, quarantined });
    }

    /// What the lease's timer means, if its time has come.
    fn expire(&mut self, grant: GrantId, now: Duration) {
        let Some((at, outcome)) = self.deadline(grant).filter(|(at, _)| *at <= now) else {
            return;
        };
        if let Some(outcome) = outcome {
            self.close(grant, outcome, now);
            return;
        }
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        if let Phase::Closing { since, fatal, .. } = &mut lease.phase {
            debug_assert!(*since <= at);
            *fatal = true;
            let (since, blocks) = (*since, lease.blocks.len());
            self.actions.push_back(Action::Fatal { grant, peers: lease.active().collect(), since, blocks });
        }
    }

    /// When something happens to the lease by itself: `Some(outcome)` a revocation, `None` the alarm.
    /// Nothing, where the clock does not reach so far.
    fn deadline(&self, grant: GrantId) -> Option<(Duration, Option<Outcome>)> {
        let lease = self.lease(grant)?;
        match lease.phase {
            Phase::Closing { fatal: true, .. } => None,
            Phase::Closing { since, .. } => {
                Some((since.checked_add(self.limits.quarantine_fatal_after)?, None))
            }
            // Holders that wait do not know the time to live yet; a lost session ends them.
            Phase::Pending => None,
            Phase::Open => match lease.active().map(|peer| self.peers.renewed(peer)).min() {
                Some(renewed) => {
                    Some((renewed.max(lease.opened).checked_add(lease.ttl)?, Some(Outcome::Expired)))
                }
                None => Some((lease.touched.checked_add(lease.grace)?, Some(Outcome::NeverClaimed))),
            },
        }
    }

    /// Sets the lease's timer. A later deadline leaves an earlier timer be: it looks again when it fires, so that a
    /// heartbeat costs nothing per lease.
    fn arm(&mut self, grant: GrantId) {
        let Some((at, _)) = self.deadline(grant) else {
            return;
        };
        let Some(lease) = find(&mut self.slots, grant) else {
            return;
        };
        if let Some(armed) = lease.armed {
            if armed <= at {
                return;
            }
            self.timers.remove(&(armed, grant.slot));
        }
        lease.armed = Some(at);
        self.timers.insert((at, grant.slot));
    }

    #[cfg(test)]
    pub(super) fn peers_known(&self) -> usize {
        self.peers.len()
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self, slot: u32) {
        self.slots[slot as usize].generation = u32::MAX;
    }
}

fn find(slots: &mut [Slot], grant: GrantId) -> Option<&mut Lease> {
    let slot = slots.get_mut(grant.slot as usize)?;
    if slot.generation == grant.generation { slot.lease.as_deref_mut() } else { None }
}
