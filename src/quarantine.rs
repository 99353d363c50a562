//! Memory of ours that may still be touched by what has ended: feeds core's quarantine machine, and keeps the pins.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use ropeway_core::machine::quarantine::{Cause, Quarantine, QuarantineEvent};
use ropeway_core::{
    BlockId, BlockSet, CacheId, Error, ErrorKind, GrantId, Limits, PeerId, Result, TransferId,
};
use ropeway_transport::{Memory, TransportKind};

use crate::cache::CacheInner;
use crate::completion::Completion;
use crate::linking::wire_kind;
use crate::shared::Shared;
use crate::transfer::Flight;

/// Blocks that are withheld, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Quarantined {
    /// What ended without proof that nothing touches the blocks any more.
    pub cause: Cause,
    /// The cache that the blocks are of.
    pub cache: CacheId,
    /// Their bytes.
    pub bytes: u64,
    /// Since when.
    pub age: Duration,
}

/// The machine, and what must stay in memory for its sake.
pub(crate) struct Withheld {
    machine: Quarantine,
    pins: HashMap<TransferId, Pinned>,
}

struct Pinned {
    memory: Arc<[Arc<Memory>]>,
    user_data: u64,
}

impl Withheld {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { machine: Quarantine::new(limits), pins: HashMap::new() }
    }
}

impl Shared {
    /// A transfer ended while its local blocks may still be touched.
    pub(crate) fn withhold_transfer(self: &Arc<Self>, flight: &Flight, memory: Arc<[Arc<Memory>]>) {
        let (peer, link) = (flight.peer.id(), wire_kind(flight.link.kind()).into());
        let cause = Cause::Transfer { peer, link, transfer: flight.id };
        tracing::warn!(?cause, bytes = flight.bytes, "local blocks go into quarantine");
        let blocks = flight.local_block_set(&self.limits);
        self.with_withheld(|withheld, now| {
            let pinned = Pinned { memory, user_data: flight.user_data.unwrap_or(0) };
            withheld.pins.insert(flight.id, pinned);
            let cache = &flight.cache;
            blocks.and_then(|blocks| {
                withheld.machine.withhold(cause, cache.id, blocks, &block_bytes(cache), now)
            })
        })
        // The pins stay either way: memory outlives every access, whatever the bookkeeping of blocks says.
        .unwrap_or_else(|error| tracing::error!(?cause, %error, "blocks were not withheld by id"));
    }

    /// A lease ended while a holder's accesses may go on.
    pub(crate) fn withhold_lease(
        self: &Arc<Self>,
        grant: GrantId,
        cache: &CacheInner,
        blocks: Arc<BlockSet>,
    ) {
        let cause = Cause::Lease { grant };
        let bytes = block_bytes(cache);
        self.with_withheld(|withheld, now| withheld.machine.withhold(cause, cache.id, blocks, &bytes, now))
            .unwrap_or_else(|error| tracing::error!(?cause, %error, "blocks were not withheld by id"));
    }

    /// The lease is free.
    pub(crate) fn release_lease(self: &Arc<Self>, grant: GrantId) {
        self.with_withheld(|withheld, _| withheld.machine.release(Cause::Lease { grant }));
    }

    /// A link is closed: nothing of it touches our memory any more.
    pub(crate) fn release_link(self: &Arc<Self>, peer: PeerId, kind: TransportKind) {
        self.with_withheld(|withheld, _| withheld.machine.link_closed(peer, wire_kind(kind).into()));
    }

    pub(crate) fn tick_quarantine(self: &Arc<Self>) -> Option<Duration> {
        self.with_withheld(|withheld, now| {
            withheld.machine.tick(now);
            withheld.machine.next_timer()
        })
    }

    /// Refuses blocks that may still be touched.
    pub(crate) fn check_withheld(
        &self,
        operation: &'static str,
        cache: CacheId,
        blocks: &BlockSet,
    ) -> Result<()> {
        if self.withheld_blocks.load(Ordering::Acquire) == 0
            || !self.withheld().machine.any_withheld(cache, blocks)
        {
            return Ok(());
        }
        let text = "a block of the list is in quarantine: something that ended may still touch it; see Engine::quarantined";
        Err(Error::new(ErrorKind::ApiMisuse, operation, text))
    }

    /// Whether the local memory of a transfer that has ended may still be touched.
    pub(crate) fn is_withheld(&self, transfer: TransferId) -> bool {
        self.withheld().pins.contains_key(&transfer)
    }

    /// Transfers that have ended and may still touch the memory.
    pub(crate) fn withheld_on(&self, memory: &Arc<Memory>) -> Vec<TransferId> {
        let withheld = self.withheld();
        let pinned =
            withheld.pins.iter().filter(|(_, pinned)| pinned.memory.iter().any(|m| Arc::ptr_eq(m, memory)));
        pinned.map(|(id, _)| *id).collect()
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        let now = self.now();
        let withheld = self.withheld();
        let causes = withheld.machine.causes();
        causes
            .map(|(cause, cache, bytes, since)| Quarantined {
                cause,
                cache,
                bytes,
                age: now.saturating_sub(since),
            })
            .collect()
    }

    fn with_withheld<R>(self: &Arc<Self>, call: impl FnOnce(&mut Withheld, Duration) -> R) -> R {
        let (value, events, timer) = {
            let mut withheld = self.withheld();
            let value = call(&mut withheld, self.now());
            let events: Vec<_> = std::iter::from_fn(|| withheld.machine.poll_event()).collect();
            self.withheld_blocks.store(withheld.machine.withheld_blocks(), Ordering::Release);
            (value, events, withheld.machine.next_timer())
        };
        if let Some(at) = timer {
            self.control.wake_by(self.instant(at));
        }
        for event in events {
            self.quarantine_moved(event);
        }
        value
    }

    fn quarantine_moved(&self, event: QuarantineEvent) {
        let told = match event {
            QuarantineEvent::Released { cause: Cause::Transfer { transfer, .. }, .. } => {
                let pinned = self.withheld().pins.remove(&transfer);
                pinned.map(|Pinned { memory, user_data }| {
                    drop(memory);
                    Completion::Released { id: transfer, user_data }
                })
            }
            QuarantineEvent::Released { .. } => None,
            QuarantineEvent::Fatal { cause, bytes, since } => {
                tracing::error!(
                    ?cause,
                    bytes,
                    ?since,
                    "memory is withheld for too long; restart the process"
                );
                let id = match cause {
                    Cause::Transfer { transfer, .. } => transfer,
                    Cause::Lease { .. } => TransferId(0),
                };
                Some(Completion::Fatal { id, bytes })
            }
        };
        if let Some(told) = told
            && !self.completions.push(told)
        {
            tracing::error!(?told, "the completion queue has no room to tell of it");
        }
        self.progress.moved();
    }

    fn withheld(&self) -> MutexGuard<'_, Withheld> {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of one block of each group, over all parts.
fn block_bytes(cache: &CacheInner) -> Vec<u64> {
    (0..cache.layout.groups().len()).map(|group| cache.layout.bytes_per_id(group)).collect()
}

/// The blocks of a plan by group, each once.
pub(crate) fn block_set(
    layout: &ropeway_core::CacheLayout,
    blocks: impl Iterator<Item = (usize, ropeway_core::BlockSpan)>,
    limits: &Limits,
) -> Result<Arc<BlockSet>> {
    let mut groups: Vec<Vec<BlockId>> = vec![Vec::new(); layout.groups().len()];
    for (group, span) in blocks {
        groups[group].extend(span.ids());
    }
    for ids in &mut groups {
        ids.sort_unstable();
        ids.dedup();
    }
    let lists: Vec<&[BlockId]> = groups.iter().map(Vec::as_slice).collect();
    BlockSet::new(layout, &lists, limits).map(Arc::new)
}
