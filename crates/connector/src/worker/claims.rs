//! The consumer's side before there are blocks: every grant that a request needs, and the routes to read by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::{ErrorKind, Grant, LeaseName, Retry, Start};
use tokio::task::JoinSet;

use super::Inner;
use super::instances::{Direction, Known, Way};
use super::mapping::Pull;
use super::pushing::word;
use super::tickets::Failure;
use crate::meta::Ticket;
use crate::params::Owner;

/// Grants that nothing reads under yet. Dropping it releases them.
pub(super) struct Held {
    pub(super) known: Arc<Known>,
    pub(super) sources: Vec<Source>,
}

/// One of the producer's ranks: its grant, and the routes of the shares that it gives.
pub(super) struct Source {
    /// Its number in the rank table.
    pub(super) rank: usize,
    pub(super) grant: Grant,
    /// What we tell it when all is written; a consumer knows by it how many there are.
    pub(super) word: u32,
    pub(super) routes: Vec<(usize, Arc<Way>)>,
}

/// The pause after a rank said that it has no lease of the name yet: its scheduler told us first.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl Inner {
    pub(super) async fn claim(self: Arc<Self>, ticket: Ticket, owner: Owner, lease: LeaseName) {
        let (held, result) = match self.hold(&owner, lease, Direction::Pull).await {
            Ok(held) => (Some(held), Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        if let Err(failure) = &result {
            tracing::warn!(ticket, owner = ?owner, why = failure.text, "lent blocks cannot be claimed");
            if failure.kind == ErrorKind::StaleLease {
                self.stats().num_notifications_after_expiry += 1;
            }
        }
        let action = {
            let mut ledger = self.ledger();
            held.and_then(|held| ledger.held.insert(ticket, held));
            let action = ledger.tickets.claimed(ticket, result);
            if !ledger.tickets.waits_for_bytes(ticket) {
                ledger.starts.remove(&ticket);
            }
            action
        };
        let _ = self.act(action, &Start::Now);
    }

    /// Every grant that a request needs.
    pub(super) async fn hold(
        self: &Arc<Self>,
        owner: &Owner,
        lease: LeaseName,
        way: Direction,
    ) -> Result<Held, Failure> {
        let known = self.known(owner, way).await?;
        let mut claims = JoinSet::new();
        for pull in known.map.pulls(lease.key)? {
            let (inner, known) = (Arc::clone(self), Arc::clone(&known));
            claims.spawn(async move { inner.source(&known, pull, lease).await });
        }
        let mut sources = Vec::new();
        while let Some(claimed) = claims.join_next().await {
            let closing = |_| Failure { kind: ErrorKind::Closed, text: "the worker is closing".to_owned() };
            match claimed.map_err(closing).and_then(|claimed| claimed) {
                Ok(source) => sources.push(source),
                Err(failure) => {
                    // The request has failed, whatever the others say. Yet a grant that comes late is let go, so that its
                    // owner hears of it.
                    tokio::spawn(async move { while claims.join_next().await.is_some() {} });
                    return Err(failure);
                }
            }
        }
        Ok(Held { known, sources })
    }

    async fn source(&self, known: &Known, pull: Pull, lease: LeaseName) -> Result<Source, Failure> {
        let linked = self.linked(known, pull.rank).await?;
        let until = Instant::now() + self.timing.claim;
        let mut pause = PAUSE_MIN;
        let grant = loop {
            let left = until.saturating_duration_since(Instant::now());
            let claimed = async { linked.peer.claim_named(&lease, pull.holders, left)?.await }.await;
            match claimed {
                Ok(grant) => break grant,
                Err(error) if error.retry() == Retry::Later && pause < left => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut routes = Vec::with_capacity(pull.shares.len());
        for share in pull.shares {
            routes.push((share, self.route(known, &linked, share).await?));
        }
        Ok(Source { rank: pull.rank, grant, word: word(pull.holders, pull.place), routes })
    }
}
