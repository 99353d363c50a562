//! The producer's side: a lease for each request that the scheduler half lends.

use std::sync::Arc;

use ropeway::{BlockId, Lease, LeaseName, LeaseOptions, Outcome, Rights, Start};

use super::Inner;
use super::tickets::Failure;
use crate::meta::Ticket;

impl Inner {
    /// Grants the lease, or reports the blocks as free again at once: a consumer that asks is then refused.
    pub(super) fn lend(
        self: &Arc<Self>,
        ticket: Ticket,
        name: LeaseName,
        blocks: &[Vec<u32>],
        begin: &Start,
    ) {
        let lease = match self.grant(name, blocks, begin) {
            Ok(lease) => lease,
            Err(failure) => {
                tracing::error!(
                    ticket,
                    why = failure.text,
                    "a lease could not be granted; the load of its consumer will fail"
                );
                self.stats().num_failed_notifications += 1;
                self.ledger().tickets.lent_ended(ticket);
                return;
            }
        };
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let freed = lease.freed().await;
            if freed.outcome != Outcome::Done {
                tracing::info!(ticket, outcome = ?freed.outcome, "lent blocks came back without being fetched");
                inner.stats().num_kv_expired_reqs += 1;
            }
            inner.ledger().tickets.lent_ended(ticket);
        });
    }

    fn grant(&self, name: LeaseName, blocks: &[Vec<u32>], begin: &Start) -> Result<Lease, Failure> {
        let mut ids = self.mapper.lent(blocks)?;
        for group in &mut ids {
            // Null ids repeat; a lease is a set.
            group.sort_unstable();
            group.dedup();
        }
        let lists: Vec<&[BlockId]> = ids.iter().map(Vec::as_slice).collect();
        let options = LeaseOptions::default()
            .name(name)
            .ttl(self.timing.lease_ttl)
            .first_contact_grace(self.timing.first_contact_grace)
            .start(begin.clone());
        Ok(self.cache.lease(&lists, Rights::Read, options)?)
    }
}
