//! The importer's side: feeds the grant table of core, and does what it says.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use ropeway_core::machine::grants::{GrantAction, GrantTable};
use ropeway_core::machine::session::Command;
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
        let (value, actions, timer) = {
            let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
            let value = call(&mut grants);
            let actions: Vec<_> = std::iter::from_fn(|| grants.table.poll_action()).collect();
            let timer = if actions.is_empty() { None } else { grants.table.next_timer() };
            (value, actions, timer)
        };
        if let Some(at) = timer {
            self.control.wake_by(self.instant(at));
        }
        for action in actions {
            match action {
                GrantAction::SendRelease { peer, grant } => self.tell(peer, Command::Release { grant }),
                GrantAction::Forsake { peer, grant } => self.tell(peer, Command::Forsake { grant }),
                GrantAction::Ended { peer, grant, why } => {
                    tracing::info!(%peer, %grant, ?why, "a grant ended");
                    self.grant_ended(peer, grant);
                }
            }
        }
        value
    }

    /// The owner answered a claim with the lease.
    pub(crate) fn claimed(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        info: ClaimInfo,
        handle: Option<Peer>,
    ) -> Option<Grant> {
        let id = info.grant;
        let known = self.with_grants(|grants, _| grants.table.claimed(peer.id(), info.clone()));
        if !known {
            return None;
        }
        let grant = Grant::new(info, peer, handle, self);
        self.with_grants(|grants, _| {
            let handles = grants.handles.entry((peer.id(), id)).or_default();
            handles.retain(|handle| handle.strong_count() > 0);
            handles.push(Arc::downgrade(&grant.0));
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
