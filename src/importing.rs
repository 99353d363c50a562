//! The importer's side: feeds the grant table of core, and does what it says.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use ropeway_core::machine::grants::{GrantAction, GrantTable};
use ropeway_core::machine::session::{Command, Event};
use ropeway_core::wire::message::ClaimInfo;
use ropeway_core::{Error, ErrorKind, GrantId, Limits, Op, PeerId, Result, StatusKind};

use crate::grant::{Grant, GrantInner};
use crate::peer::{Peer, PeerInner};
use crate::shared::Shared;

/// The grant table, and the handles that callers hold.
pub(crate) struct Grants {
    pub(crate) table: GrantTable,
    handles: HashMap<(PeerId, GrantId), Vec<Weak<GrantInner>>>,
}

/// A peer that something was said to, and what its session has to tell.
type Said = (Arc<PeerInner>, Vec<Event>);

impl Grants {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { table: GrantTable::new(limits), handles: HashMap::new() }
    }
}

impl Shared {
    /// Calls the grant table, then does what it asks for, with no lock held.
    pub(crate) fn with_grants<R>(self: &Arc<Self>, call: impl FnOnce(&mut Grants, Duration) -> R) -> R {
        let now = self.now();
        self.with_grants_at(|grants| call(grants, now))
    }

    /// The same for calls that need no clock.
    fn with_grants_at<R>(self: &Arc<Self>, call: impl FnOnce(&mut Grants) -> R) -> R {
        let (value, ended, said, timer) = {
            let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
            let value = call(&mut grants);
            let (mut ended, mut said) = (Vec::new(), Vec::new());
            while let Some(action) = grants.table.poll_action() {
                // Queued for sending under the lock: a claim of the same lease that the table takes up next must not
                // overtake the release, which would then vouch for what the claim has started.
                match self.queue_release(action) {
                    Ok(queued) => said.extend(queued),
                    Err(action) => ended.push(action),
                }
            }
            let timer = if ended.is_empty() && said.is_empty() { None } else { grants.table.next_timer() };
            (value, ended, said, timer)
        };
        if let Some(at) = timer {
            self.control.wake_by(self.instant(at));
        }
        for (peer, events) in said {
            peer.session.after(self, &peer, events);
            self.refresh_holding(&peer);
        }
        for action in ended {
            if let GrantAction::Ended { peer, grant, why } = action {
                tracing::info!(%peer, %grant, ?why, "a grant ended");
                self.grant_ended(peer, grant);
            }
        }
        value
    }

    /// Queues what is to be said to the owner; gives any other action back.
    fn queue_release(&self, action: GrantAction) -> Result<Option<Said>, GrantAction> {
        let (peer, command) = match action {
            GrantAction::SendRelease { peer, grant } => (peer, Command::Release { grant }),
            GrantAction::Forsake { peer, grant } => (peer, Command::Forsake { grant }),
            other => return Err(other),
        };
        // A peer whose session is over hears nothing; its proofs come from its links.
        Ok(self.peer(peer).map(|peer| {
            let events = peer.session.queue(command);
            (peer, events)
        }))
    }

    /// The owner answered a claim with the lease.
    pub(crate) fn claimed(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        info: ClaimInfo,
        handle: Option<Peer>,
    ) -> Option<Grant> {
        let id = info.grant;
        let known = self.with_grants(|grants, now| grants.table.claimed(peer.id(), info.clone(), now));
        if !known {
            return None;
        }
        let grant = Grant::new(info, peer, handle, self);
        self.with_grants(|grants, _| {
            let handles = grants.handles.entry((peer.id(), id)).or_default();
            handles.retain(|handle| handle.strong_count() > 0);
            handles.push(Arc::downgrade(&grant.0));
            // It may have ended before its answer came.
            if grants.table.ended(peer.id(), id).is_some() {
                grant.0.mark_stale();
            }
        });
        if let Some(at) = self.with_grants(|grants, _| grants.table.next_timer()) {
            self.control.wake_by(self.instant(at));
        }
        Some(grant)
    }

    /// A handle was dropped.
    pub(crate) fn drop_grant(self: &Arc<Self>, peer: &PeerInner, grant: GrantId) {
        self.with_grants(|grants, _| {
            if let Some(handles) = grants.handles.get_mut(&(peer.id(), grant)) {
                handles.retain(|handle| handle.strong_count() > 0);
                if handles.is_empty() {
                    grants.handles.remove(&(peer.id(), grant));
                }
            }
            grants.table.drop_handle(peer.id(), grant);
        });
    }

    /// A transfer is about to start under the grant.
    pub(crate) fn begin_use(&self, peer: &PeerInner, grant: GrantId, op: Op, at: Instant) -> Result<()> {
        let now = at.saturating_duration_since(self.opened);
        // Never leaves an action behind, and its clock is the submitter's: this is on the way of every transfer.
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.table.begin_use(peer.id(), grant, op, now).map_err(|kind| {
            let (kind, text) = match kind {
                StatusKind::Denied => (ErrorKind::Denied, "does not allow that"),
                _ => (ErrorKind::StaleLease, "is over; recompute the blocks, or claim a new lease"),
            };
            Error::new(kind, "submit", format!("lease {grant} of {} {text}", peer.name()))
        })
    }

    /// A transfer under the grant has ended.
    pub(crate) fn end_use(self: &Arc<Self>, peer: &PeerInner, grant: GrantId, remote_quiet: bool) {
        self.with_grants_at(|grants| grants.table.end_use(peer.id(), grant, remote_quiet));
    }

    fn grant_ended(self: &Arc<Self>, peer: PeerId, grant: GrantId) {
        let handles: Vec<_> = self.with_grants(|grants, _| {
            let handles = grants.handles.get(&(peer, grant));
            handles.into_iter().flatten().filter_map(Weak::upgrade).collect()
        });
        handles.iter().for_each(|handle| handle.mark_stale());
        for flight in self.flights_in_air() {
            if flight.peer.id() == peer && flight.grant.id() == grant {
                flight.stop(StatusKind::StaleLease);
            }
        }
    }
}
