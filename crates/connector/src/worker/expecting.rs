//! The consumer's side of a push: a lease by which a producer may write our blocks, and its end.

use std::sync::Arc;
use std::time::Instant;

use ropeway::{BlockId, ErrorKind, Lease, LeaseName, LeaseOptions, Outcome, Rights, Start};
use tokio::sync::Notify;

use super::Inner;
use super::pushing::all_written;
use super::tickets::{Ask, Failure};
use crate::meta::Ticket;
use crate::stats::Loaded;

impl Inner {
    /// Lets a producer write the blocks of a request; the end is told when nothing can be written there any more.
    pub(super) fn expect(self: &Arc<Self>, ticket: Ticket, name: LeaseName, ask: &Ask, begin: &Start) {
        let stop = Arc::new(Notify::new());
        self.ledger().reading.insert(ticket, Arc::clone(&stop));
        let (lease, bytes) = match self.let_write(name, ask, begin) {
            Ok(granted) => granted,
            Err(failure) => {
                tracing::warn!(ticket, why = failure.text, "blocks cannot be written by a producer");
                self.stats().num_failed_transfers += 1;
                return self.ended(ticket, Err(failure));
            }
        };
        let (inner, began) = (Arc::clone(self), Instant::now());
        self.tasks.spawn(async move {
            let freed = tokio::select! {
                freed = lease.freed() => freed,
                () = stop.notified() => {
                    lease.revoke();
                    lease.freed().await
                }
            };
            let result = written(&lease, freed.outcome);
            match &result {
                Ok(()) => {
                    inner.stats().loaded(Loaded { elapsed: began.elapsed(), bytes, ..Loaded::default() })
                }
                Err(failure) if failure.kind == ErrorKind::Cancelled => {}
                Err(failure) => {
                    tracing::warn!(ticket, why = failure.text, "KV was not written");
                    inner.stats().num_failed_transfers += 1;
                }
            }
            inner.ended(ticket, result);
        });
    }

    fn let_write(&self, name: LeaseName, ask: &Ask, begin: &Start) -> Result<(Lease, u64), Failure> {
        let open = self.mapper.awaited(&ask.local, ask.tokens.start)?;
        let lists: Vec<&[BlockId]> = open.blocks.iter().map(Vec::as_slice).collect();
        let options = LeaseOptions::default()
            .name(name)
            .ttl(self.timing.lease_ttl)
            .first_contact_grace(self.timing.first_contact_grace)
            .start(begin.clone());
        Ok((self.cache.lease(&lists, Rights::Write, options)?, open.bytes))
    }
}

/// Whether all of it came: every writer has let go, and has said before that it was done.
fn written(lease: &Lease, outcome: Outcome) -> Result<(), Failure> {
    let failed = |kind, text: &str| Err(Failure { kind, text: text.to_owned() });
    match outcome {
        Outcome::Done if all_written(lease.arrivals(), |word| lease.arrived(word)) => Ok(()),
        Outcome::Done | Outcome::Forsaken => {
            failed(ErrorKind::LinkLost, "the producer gave up before all of it was written")
        }
        Outcome::Revoked => {
            failed(ErrorKind::Cancelled, "nobody waits for it any more, or no producer was told")
        }
        Outcome::NeverClaimed => failed(
            ErrorKind::TimedOut,
            "no producer, or not all of its ranks, came within first_contact_grace",
        ),
        _ => failed(ErrorKind::LinkLost, "the producer was lost before all of it was written"),
    }
}
