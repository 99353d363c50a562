//! Claims, both ways: a peer takes a lease of ours up, we take one of its.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_core::machine::lease::Claim;
use ropeway_core::machine::session::Command;
use ropeway_core::wire::message::{ClaimInfo, Why};
use ropeway_core::wire::{LeaseName, Token};
use ropeway_core::{CacheId, Error, ErrorKind, GrantId, Result, Retry, StatusKind};

use crate::control::Waiting;
use crate::grant::Grant;
use crate::hearing::refused;
use crate::peer::{Peer, PeerInner};
use crate::pending::{Answer, Pending, pending};
use crate::secret::random;
use crate::shared::Shared;

/// Draws a name for a lease, for [`LeaseOptions::name`](crate::LeaseOptions::name) and
/// [`Peer::claim_named`](crate::Peer::claim_named).
///
/// # Errors
/// `Resource` where the operating system gives no random bytes.
pub fn lease_name() -> Result<LeaseName> {
    Ok(LeaseName { key: u64::from_le_bytes(random()?), secret: u128::from_le_bytes(random()?) })
}

impl Shared {
    pub(crate) fn claim_asked(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        cache: CacheId,
        grant: GrantId,
        secret: u128,
    ) {
        let claim = self.with_leases(|leases, now| leases.table.claim(peer.id(), cache, grant, secret, now));
        let result = match claim {
            Ok(Claim::Ready(info)) => Ok(info),
            // The table decides when the lease's event has fired.
            Ok(Claim::Pending) => return,
            Err(why) => Err(why),
        };
        let _ = peer.session.say(self, peer, Command::Decide { grant, result });
    }

    pub(crate) fn claim_answered(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        request: u32,
        grant: GrantId,
        result: Result<ClaimInfo, (Why, String)>,
    ) {
        let waiting = peer.session.take_waiting(request);
        let handle = match &waiting {
            Some(Waiting::Claim { peer, .. }) => Some(peer.clone()),
            _ => None,
        };
        let answered = match result {
            Ok(info) => self.claimed(peer, info, handle).ok_or_else(|| {
                Error::new(
                    ErrorKind::Protocol,
                    "claim",
                    format!("lease {grant} was answered, but not asked for"),
                )
            }),
            Err((why, text)) => {
                self.with_grants(|grants, _| grants.table.claim_failed(peer.id(), grant));
                Err(Error::new(why.kind(), "claim", refused(why, &text)))
            }
        };
        // An answer that came too late is dropped here, and with it the grant: that releases it.
        if let Some(Waiting::Claim { answer, .. }) = waiting {
            answer.give(answered);
        }
    }

    pub(crate) fn find_asked(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        request: u32,
        name: &LeaseName,
        holders: u32,
    ) {
        let result = self.with_leases(|leases, _| leases.table.find(name, holders));
        let _ = peer.session.say(self, peer, Command::Locate { request, result });
    }

    pub(crate) fn claim(
        self: &Arc<Self>,
        handle: &Peer,
        token: &Token,
        timeout: Duration,
    ) -> Result<Pending<Grant>> {
        let (answer, answered) = pending();
        self.ask_claim(handle, token, crate::deadline::after(timeout), answer)?;
        Ok(answered)
    }

    pub(crate) fn claim_named(
        self: &Arc<Self>,
        handle: &Peer,
        name: LeaseName,
        holders: u32,
        timeout: Duration,
    ) -> Result<Pending<Grant>> {
        let (answer, answered) = pending();
        let until = crate::deadline::after(timeout);
        let (shared, asker) = (Arc::downgrade(self), handle.clone());
        let located = move |located: Result<(CacheId, GrantId)>| {
            let Some(shared) = shared.upgrade() else { return };
            match located {
                Ok((cache, grant)) => {
                    let incarnation = asker.0.inner.incarnation;
                    let token = Token { incarnation, cache, grant, secret: name.secret };
                    // An error has been answered, too.
                    let _ = shared.ask_claim(&asker, &token, until, answer);
                }
                Err(error) => answer.give(Err(error)),
            }
        };
        let peer = &handle.0.inner;
        let waiting = Waiting::Find { answer: Box::new(located), until };
        peer.session.ask(self, peer, Command::Find { name, holders }, waiting)?;
        Ok(answered)
    }

    /// Asks for a lease. Whatever happens, `answer` gets it, also the error that this returns.
    fn ask_claim(
        self: &Arc<Self>,
        handle: &Peer,
        token: &Token,
        until: Instant,
        answer: Answer<Grant>,
    ) -> Result<()> {
        let peer = &handle.0.inner;
        let grant = token.grant;
        if let Err(error) = self.note_claim(peer, token) {
            answer.give(Err(error.clone()));
            return Err(error);
        }
        let waiting = Waiting::Claim { answer, until, peer: handle.clone() };
        let asked = peer.session.ask(self, peer, Command::Claim { token: *token }, waiting);
        if let Err(error) = asked {
            self.with_grants(|grants, _| grants.table.claim_failed(peer.id(), grant));
            return Err(error);
        }
        self.refresh_holding(peer);
        Ok(())
    }

    /// A claim is about to be sent.
    fn note_claim(self: &Arc<Self>, peer: &PeerInner, token: &Token) -> Result<()> {
        let grant = token.grant;
        if token.incarnation != peer.incarnation {
            let text = format!(
                "the token is of engine {}, this peer is {}: connect to the engine that drew it",
                token.incarnation, peer.incarnation
            );
            return Err(Error::new(ErrorKind::StaleLease, "claim", text));
        }
        self.with_grants(|grants, now| grants.table.claim_sent(peer.id(), grant, now)).map_err(|kind| {
            let kind = if kind == StatusKind::PeerFull { ErrorKind::Full } else { ErrorKind::StaleLease };
            let text = format!("lease {grant}: limit grants_per_peer is reached, or the lease has ended");
            Error::new(kind, "claim", text)
        })
    }
}

/// A peer has no lease of a name. It may be about to have one: whoever told the name told it before it was granted.
pub(crate) fn not_located(why: Why, text: &str) -> Error {
    match why {
        Why::NotFound => {
            Error::new(ErrorKind::Mismatch, "claim", format!("{text}: the peer has none; ask again"))
                .with_retry(Retry::Later)
        }
        _ => Error::new(why.kind(), "claim", refused(why, text)),
    }
}
