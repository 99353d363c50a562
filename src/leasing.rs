//! The owner's side: feeds the lease table of core with calls and proofs, and does what it says.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use ropeway_core::machine::lease::{Action, Arrival, LeaseRequest, LeaseTable, Proof};
use ropeway_core::machine::session::Command;
use ropeway_core::plan::BlockSet;
use ropeway_core::wire::Token;
use ropeway_core::wire::message::Why;
use ropeway_core::{BlockId, GrantId, PeerId, RegionId, Result, Rights};
use ropeway_transport::{Fence, Fenced};

use crate::cache::CacheInner;
use crate::event::Start;
use crate::lease::{Freed, Lease, LeaseInner, LeaseOptions};
use crate::secret::random;
use crate::shared::Shared;

/// The lease table, and what the engine keeps beside it.
pub(crate) struct Leases {
    pub(crate) table: LeaseTable,
    handles: HashMap<GrantId, Handle>,
    /// Links that have not answered yet, per lease and holder.
    asked: HashMap<(GrantId, PeerId), u32>,
}

struct Handle {
    lease: Weak<LeaseInner>,
    /// Keeps cache and regions while the lease is not free, whatever its owner drops.
    cache: Arc<CacheInner>,
}

impl Leases {
    pub(crate) fn new(limits: &ropeway_core::Limits) -> Self {
        Self { table: LeaseTable::new(limits), handles: HashMap::new(), asked: HashMap::new() }
    }

    /// The cache that a lease is on.
    pub(crate) fn cache_of(&self, grant: GrantId) -> Option<Arc<CacheInner>> {
        self.handles.get(&grant).map(|handle| Arc::clone(&handle.cache))
    }

    /// Takes the table's actions. Fence words are written here, under the lock, so that they change in the order in
    /// which the table decided; the rest is done after.
    fn drain(&mut self, fence: &Fence) -> Vec<Action> {
        let mut later = Vec::new();
        while let Some(action) = self.table.poll_action() {
            match action {
                Action::OpenFence { grant, rights } => {
                    if let Err(error) = fence.open(grant, rights) {
                        // Peers will find the lease closed: safe, and worth knowing.
                        tracing::error!(%grant, %error, "the fence did not open");
                    }
                }
                Action::CloseFence { grant } => fence.close(grant),
                other => later.push(other),
            }
        }
        later
    }
}

impl Shared {
    /// Calls the lease table, then does what it asks for, with no lock held.
    pub(crate) fn with_leases<R>(self: &Arc<Self>, call: impl FnOnce(&mut Leases, Duration) -> R) -> R {
        let (value, actions, timer) = {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let value = call(&mut leases, self.now());
            (value, leases.drain(&self.fence), leases.table.next_timer())
        };
        if let Some(at) = timer {
            self.control.wake_by(self.instant(at));
        }
        for action in actions {
            self.act(action);
        }
        value
    }

    /// Whether the peer holds a lease to write that is not proven over.
    pub(crate) fn peer_may_write(&self, peer: PeerId) -> bool {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).table.may_write(peer)
    }

    fn act(self: &Arc<Self>, action: Action) {
        match action {
            Action::AskFence { grant, peer } => self.ask_fence(grant, peer),
            Action::TellRevoked { peer, grant } => self.tell(peer, Command::Revoke { grant }),
            Action::Decided { peer, grant, result } => self.tell(peer, Command::Decide { grant, result }),
            Action::Freed { grant, outcome, quarantined, .. } => {
                tracing::debug!(%grant, ?outcome, quarantined, "lease free");
                // One step for whoever looks: the quarantine ends, the lease is free, the region no longer leased. Only
                // the wakers, which are the callers' code, and the handle's drop wait for the lock's end.
                let ended = self.with_leases(|leases, _| {
                    let handle = leases.handles.remove(&grant)?;
                    if quarantined {
                        self.release_lease(grant);
                    }
                    let lease = handle.lease.upgrade();
                    let wakers = lease.as_ref().map(|lease| lease.free(Freed { outcome, quarantined }));
                    Some((handle, lease, wakers))
                });
                if let Some((_, _, Some(wakers))) = ended {
                    LeaseInner::wake(wakers);
                }
                self.progress.moved();
            }
            Action::Quarantined { grant, peers, outcome, blocks, .. } => {
                tracing::warn!(%grant, ?outcome, ?peers, blocks = blocks.len(), "leased blocks go into quarantine");
                // Under the lock under which the lease's end takes the handle away: else another thread could release
                // first, and the blocks would be withheld for ever. Whether anyone still has the `Lease` is no matter.
                let lease = self.with_leases(|leases, _| {
                    let handle = leases.handles.get(&grant)?;
                    self.withhold_lease(grant, &handle.cache, blocks);
                    handle.lease.upgrade()
                });
                if let Some(lease) = lease {
                    lease.withheld(peers);
                }
            }
            Action::Fatal { grant, peers, since, blocks } => {
                // The quarantine machine tells the caller; this adds whose proof is missing.
                tracing::error!(%grant, ?peers, ?since, blocks, "leased blocks are withheld for too long");
            }
            // Done under the lock.
            Action::OpenFence { .. } | Action::CloseFence { .. } => {}
        }
    }

    /// Asks each link of the holder. The proof is whole when all have answered.
    fn ask_fence(self: &Arc<Self>, grant: GrantId, peer: PeerId) {
        let links = self.peer(peer).map(|peer| peer.links()).unwrap_or_default();
        // One more than there are links, so that answers from other threads do not complete the count early.
        let count = links.len() as u32 + 1;
        self.with_leases(|leases, _| leases.asked.insert((grant, peer), count));
        let mut pending = false;
        for link in links {
            match link.fence(grant) {
                Fenced::Now => self.fenced(grant, peer),
                Fenced::Pending => pending = true,
            }
        }
        self.fenced(grant, peer);
        if pending {
            self.with_leases(|leases, _| leases.table.fence_pending(grant));
        }
    }

    /// One link has answered that accesses under the lease are over.
    pub(crate) fn fenced(self: &Arc<Self>, grant: GrantId, peer: PeerId) {
        self.with_leases(|leases, now| {
            let Some(left) = leases.asked.get_mut(&(grant, peer)) else { return };
            *left -= 1;
            if *left == 0 {
                leases.asked.remove(&(grant, peer));
                leases.table.prove(Proof::Fenced { peer, grant }, now);
            }
        });
    }

    pub(crate) fn grant(
        self: &Arc<Self>,
        cache: &Arc<CacheInner>,
        ids: &[&[BlockId]],
        rights: Rights,
        options: LeaseOptions,
    ) -> Result<Lease> {
        let blocks = Arc::new(BlockSet::new(&cache.layout, ids, &self.limits)?);
        self.check_withheld("lease", cache.id, &blocks)?;
        let mut request = LeaseRequest::new(&self.limits, cache.id, blocks, rights);
        request.expected_holders = options.holders.or(options.name.is_none().then_some(1));
        request.name = options.name;
        request.ttl = options.ttl.unwrap_or(request.ttl);
        request.first_contact_grace = options.first_contact_grace.unwrap_or(request.first_contact_grace);
        request.pending = !matches!(options.start, Start::Now);
        let secret = match options.name {
            Some(name) => name.secret,
            None => u128::from_le_bytes(random()?),
        };
        let inner = self.with_leases(|leases, now| {
            let grant = leases.table.grant(request, secret, now)?;
            let token = Token { incarnation: self.incarnation, cache: cache.id, grant, secret };
            let inner = LeaseInner::new(token, Arc::clone(cache));
            let handle = Handle { lease: Arc::downgrade(&inner), cache: Arc::clone(cache) };
            leases.handles.insert(grant, handle);
            Ok::<_, ropeway_core::Error>(inner)
        })?;
        if let Start::AfterEvent(event) = options.start {
            let (shared, grant) = (Arc::downgrade(self), inner.token.grant);
            event.when_ended(move |how| {
                let Some(shared) = shared.upgrade() else { return };
                match how {
                    Ok(()) => drop(shared.with_leases(|leases, now| leases.table.ready(grant, now))),
                    Err(error) => {
                        tracing::warn!(%grant, %error, "the event of a pending lease failed");
                        shared.revoke(grant);
                    }
                }
            });
        }
        Ok(Lease(inner))
    }

    pub(crate) fn revoke(self: &Arc<Self>, grant: GrantId) {
        self.with_leases(|leases, now| leases.table.revoke(grant, now));
    }

    /// Revokes what was leased of a region that closes.
    pub(crate) fn revoke_leases_on(self: &Arc<Self>, region: RegionId) {
        for grant in self.leases_on(region) {
            self.revoke(grant);
        }
    }

    pub(crate) fn all_leases(&self) -> Vec<GrantId> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).handles.keys().copied().collect()
    }

    /// Leases that are not free and touch the region.
    pub(crate) fn leases_on(&self, region: RegionId) -> Vec<GrantId> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let touches = |handle: &Handle| handle.cache.regions.iter().any(|known| known.id == region);
        leases.handles.iter().filter(|(_, handle)| touches(handle)).map(|(grant, _)| *grant).collect()
    }

    /// A holder tells that a sequence has arrived or failed.
    pub(crate) fn notified(
        self: &Arc<Self>,
        peer: PeerId,
        grant: GrantId,
        sequence: u32,
        failed: bool,
    ) -> Result<(), Why> {
        let (arrival, lease) = self.with_leases(|leases, _| {
            let arrival = leases.table.notify(peer, grant, sequence, failed)?;
            Ok((arrival, leases.handles.get(&grant).and_then(|handle| handle.lease.upgrade())))
        })?;
        if let (Some(lease), Arrival::New { .. } | Arrival::Failed) = (lease, arrival) {
            lease.told(sequence, failed);
        }
        Ok(())
    }

    /// Looks at all timers; says when to look again.
    pub(crate) fn tick(self: &Arc<Self>) -> Option<std::time::Instant> {
        if self.is_foreign() {
            return None;
        }
        let leases = self.with_leases(|leases, now| {
            leases.table.tick(now);
            leases.table.next_timer()
        });
        let sessions = self.tick_sessions();
        let quarantine = self.tick_quarantine().map(|at| self.instant(at));
        let timers = [leases.map(|at| self.instant(at)), sessions, quarantine, self.check_deadlines()];
        timers.into_iter().flatten().min()
    }
}
