//! Quarantine: blocks that may still be touched by what has ended, withheld until each cause has its proof.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::{
    BlockId, BlockSet, BlockSpan, CacheId, Error, ErrorKind, GrantId, Limits, PeerId, Result, TransferId,
};
use std::sync::Arc;

/// Why blocks are withheld, and so whose proof releases them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// A transfer of ours ended without proof that our blocks are quiet; the link's end is the proof.
    Transfer {
        /// Towards which peer.
        peer: PeerId,
        /// Which link of that peer, as the engine numbers them.
        link: u32,
        /// Which transfer.
        transfer: TransferId,
    },
    /// A lease of ours ended while a holder's accesses were under way; the lease machine says when they are over.
    Lease {
        /// Which lease.
        grant: GrantId,
    },
}

/// What became of withheld blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuarantineEvent {
    /// The cause is gone: these of its blocks are withheld for no other reason either and may be used again. May be empty.
    Released {
        /// Which cause.
        cause: Cause,
        /// The cache.
        cache: CacheId,
        /// The group and block of each.
        blocks: Vec<(u16, BlockId)>,
    },
    /// Withheld for longer than `quarantine_fatal_after`; once per cause.
    Fatal {
        /// Which cause.
        cause: Cause,
        /// Its blocks' bytes.
        bytes: u64,
        /// Since when, as time since the engine's start.
        since: Duration,
    },
}

/// The withheld blocks of all caches. Drain [`Self::poll_event`] after every call.
#[derive(Debug)]
pub struct Quarantine {
    fatal_after: Duration,
    limit: usize,
    causes: BTreeMap<Cause, Withheld>,
    /// By how many causes a block is withheld, and its bytes.
    blocks: BTreeMap<(CacheId, u16, BlockId), Entry>,
    bytes: u64,
    /// Leases that were freed before they were withheld: an engine's threads may tell both in either order.
    freed_early: BTreeSet<GrantId>,
    events: VecDeque<QuarantineEvent>,
}

#[derive(Debug)]
struct Withheld {
    cache: CacheId,
    blocks: Arc<BlockSet>,
    bytes: u64,
    since: Duration,
    fatal: bool,
}

#[derive(Debug)]
struct Entry {
    causes: u32,
    bytes: u64,
}

impl Quarantine {
    /// Nothing withheld. Causes are bounded by the transfers and leases that there can be.
    pub fn new(limits: &Limits) -> Self {
        Self {
            fatal_after: limits.quarantine_fatal_after,
            limit: limits.transfers as usize + limits.leases as usize,
            causes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            bytes: 0,
            freed_early: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Withholds blocks of a cache. `block_bytes` gives, per group, the bytes of one block over all parts.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] when as many causes wait as there can be transfers and leases: the engine must not start
    /// more; [`ErrorKind::Internal`] for a cause that is withheld already.
    pub fn withhold(
        &mut self,
        cause: Cause,
        cache: CacheId,
        blocks: Arc<BlockSet>,
        block_bytes: &[u64],
        now: Duration,
    ) -> Result<()> {
        if self.causes.contains_key(&cause) {
            let text = format!("{cause:?} is in quarantine already");
            return Err(Error::new(ErrorKind::Internal, "quarantine", text));
        }
        if self.causes.len() >= self.limit {
            let text = format!("{} causes wait; the limits transfers and leases allow no more", self.limit);
            return Err(Error::new(ErrorKind::Full, "quarantine", text));
        }
        let mut bytes = 0;
        for (group, block) in each(&blocks) {
            let each = block_bytes.get(usize::from(group)).copied().unwrap_or(0);
            bytes = u64::saturating_add(bytes, each);
            let entry = self.blocks.entry((cache, group, block)).or_insert(Entry { causes: 0, bytes: each });
            if entry.causes == 0 {
                self.bytes = self.bytes.saturating_add(entry.bytes);
            }
            entry.causes += 1;
        }
        self.causes.insert(cause, Withheld { cache, blocks, bytes, since: now, fatal: false });
        if let Cause::Lease { grant } = cause
            && self.freed_early.remove(&grant)
        {
            self.release(cause);
        }
        Ok(())
    }

    /// The proof for one cause came. For a lease it may come before [`Self::withhold`], which is then undone at once.
    pub fn release(&mut self, cause: Cause) {
        let Some(withheld) = self.causes.remove(&cause) else {
            if let Cause::Lease { grant } = cause {
                if self.freed_early.len() >= self.limit {
                    self.freed_early.pop_first();
                }
                self.freed_early.insert(grant);
            }
            return;
        };
        let cache = withheld.cache;
        let mut blocks = Vec::new();
        for (group, block) in each(&withheld.blocks) {
            let Some(entry) = self.blocks.get_mut(&(cache, group, block)) else {
                continue;
            };
            entry.causes -= 1;
            if entry.causes == 0 {
                self.bytes = self.bytes.saturating_sub(entry.bytes);
                self.blocks.remove(&(cache, group, block));
                blocks.push((group, block));
            }
        }
        self.events.push_back(QuarantineEvent::Released { cause, cache, blocks });
    }

    /// A link is closed, nothing of it touches our memory any more: releases what its transfers had withheld.
    pub fn link_closed(&mut self, peer: PeerId, link: u32) {
        let first = Cause::Transfer { peer, link, transfer: TransferId(0) };
        let last = Cause::Transfer { peer, link, transfer: TransferId(u64::MAX) };
        let gone: Vec<Cause> = self.causes.range(first..=last).map(|(cause, _)| *cause).collect();
        for cause in gone {
            self.release(cause);
        }
    }

    /// Raises the alarm for what is withheld for too long; releases nothing.
    pub fn tick(&mut self, now: Duration) {
        for (cause, withheld) in &mut self.causes {
            if !withheld.fatal && withheld.since.checked_add(self.fatal_after).is_some_and(|at| at <= now) {
                withheld.fatal = true;
                let (cause, bytes, since) = (*cause, withheld.bytes, withheld.since);
                self.events.push_back(QuarantineEvent::Fatal { cause, bytes, since });
            }
        }
    }

    /// When [`Self::tick`] wants to be called next.
    pub fn next_timer(&self) -> Option<Duration> {
        let waiting = self.causes.values().filter(|withheld| !withheld.fatal);
        waiting.filter_map(|withheld| withheld.since.checked_add(self.fatal_after)).min()
    }

    /// What became of withheld blocks. Call until `None` after every other call.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<QuarantineEvent> {
        self.events.pop_front()
    }

    /// Whether a block may still be touched.
    pub fn is_withheld(&self, cache: CacheId, group: u16, block: BlockId) -> bool {
        self.blocks.contains_key(&(cache, group, block))
    }

    /// Whether any of the blocks may still be touched: they must not be leased or written.
    pub fn any_withheld(&self, cache: CacheId, blocks: &BlockSet) -> bool {
        !self.blocks.is_empty() && each(blocks).any(|(group, block)| self.is_withheld(cache, group, block))
    }

    /// Blocks withheld, each counted once.
    pub fn withheld_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Their bytes.
    pub fn withheld_bytes(&self) -> u64 {
        self.bytes
    }

    /// Why blocks are withheld: each cause, its cache, bytes, and since when.
    pub fn causes(&self) -> impl Iterator<Item = (Cause, CacheId, u64, Duration)> + '_ {
        self.causes.iter().map(|(cause, held)| (*cause, held.cache, held.bytes, held.since))
    }
}

fn each(blocks: &BlockSet) -> impl Iterator<Item = (u16, BlockId)> + '_ {
    let ids = |group| blocks.spans(group).iter().flat_map(BlockSpan::ids);
    (0..blocks.groups()).flat_map(move |group| ids(group).map(move |block| (group as u16, block)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheLayout, RegionId, Strided};

    const CACHE: CacheId = CacheId { slot: 0, generation: 1 };
    const PEER: PeerId = PeerId { slot: 3, generation: 1 };

    fn blocks(ids: &[u32]) -> Arc<BlockSet> {
        let ids: Vec<BlockId> = ids.iter().map(|&id| BlockId(id)).collect();
        let region = RegionId { slot: 0, generation: 1 };
        let layout = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 8, 64));
        let limits = Limits::default();
        Arc::new(BlockSet::new(&layout.build(|_| Some(512), &limits).unwrap(), &[&ids], &limits).unwrap())
    }

    fn transfer(link: u32, id: u64) -> Cause {
        Cause::Transfer { peer: PEER, link, transfer: TransferId(id) }
    }

    fn released(quarantine: &mut Quarantine) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(event) = quarantine.poll_event() {
            if let QuarantineEvent::Released { blocks, .. } = event {
                ids.extend(blocks.iter().map(|(_, block)| block.0));
            }
        }
        ids
    }

    #[test]
    fn a_block_withheld_twice_needs_both_proofs() {
        let mut quarantine = Quarantine::new(&Limits::default());
        quarantine.withhold(transfer(0, 1), CACHE, blocks(&[1, 2]), &[10], Duration::ZERO).unwrap();
        let lease = Cause::Lease { grant: GrantId { slot: 0, generation: 1 } };
        quarantine.withhold(lease, CACHE, blocks(&[2, 3]), &[10], Duration::ZERO).unwrap();
        assert_eq!((quarantine.withheld_blocks(), quarantine.withheld_bytes()), (3, 30));
        quarantine.link_closed(PEER, 0);
        assert_eq!(released(&mut quarantine), [1]);
        assert!(quarantine.is_withheld(CACHE, 0, BlockId(2)));
        quarantine.release(lease);
        assert_eq!(released(&mut quarantine), [2, 3]);
        assert_eq!((quarantine.withheld_blocks(), quarantine.withheld_bytes()), (0, 0));
    }

    #[test]
    fn a_lease_that_was_freed_before_it_was_withheld_stays_free() {
        let mut quarantine = Quarantine::new(&Limits::default());
        let lease = Cause::Lease { grant: GrantId { slot: 0, generation: 1 } };
        quarantine.release(lease);
        quarantine.withhold(lease, CACHE, blocks(&[1, 2]), &[10], Duration::ZERO).unwrap();
        assert_eq!(released(&mut quarantine), [1, 2]);
        assert_eq!((quarantine.withheld_bytes(), quarantine.next_timer()), (0, None));
        quarantine.withhold(lease, CACHE, blocks(&[1]), &[10], Duration::ZERO).unwrap();
        assert!(quarantine.is_withheld(CACHE, 0, BlockId(1)), "the early word counts once");
    }

    #[test]
    fn closing_a_link_releases_its_own_transfers_only() {
        let mut quarantine = Quarantine::new(&Limits::default());
        for (link, id) in [(0, 1), (1, 2), (0, 3)] {
            quarantine
                .withhold(transfer(link, id), CACHE, blocks(&[id as u32]), &[1], Duration::ZERO)
                .unwrap();
        }
        quarantine.link_closed(PEER, 0);
        assert_eq!(released(&mut quarantine), [1, 3]);
        assert!(quarantine.any_withheld(CACHE, &blocks(&[0, 2])));
        assert!(!quarantine.any_withheld(CACHE, &blocks(&[1, 3])));
    }

    #[test]
    fn time_raises_the_alarm_once_and_releases_nothing() {
        let limits = Limits::default();
        let mut quarantine = Quarantine::new(&limits);
        quarantine.withhold(transfer(0, 1), CACHE, blocks(&[1]), &[7], Duration::ZERO).unwrap();
        assert_eq!(quarantine.next_timer(), Some(limits.quarantine_fatal_after()));
        quarantine.tick(limits.quarantine_fatal_after() - Duration::from_millis(1));
        assert_eq!(quarantine.poll_event(), None);
        quarantine.tick(limits.quarantine_fatal_after());
        let since = Duration::ZERO;
        let alarm = QuarantineEvent::Fatal { cause: transfer(0, 1), bytes: 7, since };
        assert_eq!(quarantine.poll_event(), Some(alarm));
        quarantine.tick(limits.quarantine_fatal_after() * 2);
        assert_eq!((quarantine.poll_event(), quarantine.next_timer()), (None, None));
        assert!(quarantine.is_withheld(CACHE, 0, BlockId(1)));
    }

    #[test]
    fn an_endless_patience_raises_no_alarm_and_sets_no_timer() {
        let limits = Limits::default().with_quarantine_fatal_after(Duration::MAX);
        let mut quarantine = Quarantine::new(&limits);
        let (since, far) = (Duration::from_secs(1), Duration::from_secs(1 << 40));
        quarantine.withhold(transfer(0, 1), CACHE, blocks(&[1, 2]), &[u64::MAX], since).unwrap();
        quarantine.tick(far);
        assert_eq!((quarantine.poll_event(), quarantine.next_timer()), (None, None));
        assert_eq!(quarantine.withheld_bytes(), u64::MAX, "and sums stop at their end");
    }
}
