//! The owner's part of a link: proofs that the peer's accesses are over, and the link's end.

use std::time::Instant;

use ropeway_core::{Error, ErrorKind, GrantId, RegionId, StatusKind};

use super::link::{LinkCore, Path, Stage};
use crate::Fenced;
use crate::sync::lock;

impl LinkCore {
    /// Whether the peer's process is proven dead. Never within one process.
    pub(crate) fn is_peer_gone(&self) -> bool {
        match self.far().map(|far| &far.path) {
            Some(Path::Socket { process, .. }) => process.is_gone(),
            _ => false,
        }
    }

    /// Why a batch that finds the peer's gate closed has to end.
    pub(super) fn lost_kind(&self) -> StatusKind {
        if self.is_peer_gone() { StatusKind::PeerGone } else { StatusKind::LinkLost }
    }

    /// The grant's word was closed before. Reads are over by that: what comes late is never surfaced.
    pub(super) fn fence_grant(&self, grant: GrantId) -> Fenced {
        if !self.fence.may_write(grant) || self.is_closed() || self.is_over(grant) {
            return Fenced::Now;
        }
        let mut tables = lock(&self.tables);
        if !tables.fencing.contains(&grant) {
            tables.fencing.push(grant);
        }
        drop(tables);
        self.host.watch(self.me());
        Fenced::Pending
    }

    fn is_over(&self, grant: GrantId) -> bool {
        self.far().is_none_or(|far| !far.cells.named_by(grant)) || self.is_peer_gone()
    }

    pub(super) fn withdraw_region(&self, region: RegionId) -> Fenced {
        {
            let mut tables = lock(&self.tables);
            let Some(export) = tables.exports.get_mut(&region) else { return Fenced::Now };
            export.withdrawing = true;
            if export.memory.is_none() {
                // The peer has no answer yet, and gets a refusal. A second word could reach it after that, and then it
                // would meet the region's next import.
                return Fenced::Pending;
            }
        }
        match self.far().map(|far| &far.path) {
            Some(Path::Neighbour(neighbour)) => {
                if let Some(neighbour) = neighbour.upgrade() {
                    neighbour.withdrawn_by_owner(region);
                }
            }
            Some(Path::Socket { wire, .. }) => self.host.withdraw(wire, region),
            None => {}
        }
        Fenced::Pending
    }

    /// The peer, or the way to it, is no more. The transport ends the link by itself.
    pub(crate) fn lose(&self, error: Error) {
        let kind = self.lost_kind();
        match self.end(kind) {
            Some(Stage::Open) => self.sink().lost(error),
            // Nothing is lost that was never there: the session takes another way.
            Some(_) => tracing::info!(kind = self.kind().name(), peer = %self.peer(), %error, "no link"),
            None => {}
        }
    }

    /// Ends the link: our batches stop, the peer's find the gate closed. `closed` follows from the host's thread. Gives
    /// the stage before; `None` when it was ending already.
    pub(crate) fn end(&self, kind: StatusKind) -> Option<Stage> {
        self.note_end(kind);
        let before = self.begin_end()?;
        self.fence.close_gate(self.gate);
        self.each_job(|job| job.stop(kind));
        self.drop_imports();
        self.host.goodbye(self);
        self.host.watch(self.me());
        Some(before)
    }

    /// The rendezvous failed: nobody has heard of this link.
    pub(crate) fn discard(&self) {
        if self.begin_end().is_some() && self.begin_closed() {
            self.fence.close_gate(self.gate);
            self.fence.recycle_gate(self.gate);
        }
    }

    /// A passive side's peer has to come until then.
    pub(crate) fn expire(&self, deadline: Instant) {
        self.host.expire(self.me(), deadline);
    }

    /// The deadline of a passive side passed.
    pub(crate) fn give_up_waiting(&self) {
        if self.is_waiting() {
            self.lose(Error::new(ErrorKind::TimedOut, "link", "the peer did not come before the deadline"));
        }
    }

    /// Looks for proofs and tells the sink. True while one is missing. Called by the host's thread only.
    pub(crate) fn recheck(&self) -> bool {
        let gone = self.is_peer_gone();
        let pending = std::mem::take(&mut lock(&self.tables).fencing);
        let (over, kept): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|grant| self.is_closed() || self.is_over(*grant));
        let mut missing = !kept.is_empty();
        lock(&self.tables).fencing.extend(kept);
        for grant in over {
            self.sink().fenced(grant);
        }
        if self.is_ending() {
            missing |= !self.try_close(gone);
        }
        missing
    }

    fn try_close(&self, gone: bool) -> bool {
        let theirs = !gone && self.far().is_some_and(|far| far.cells.is_busy());
        // Every touch of memory on this side is inside one of our own cells, and asks `is_open` after it took it.
        let ours = self.cells().view().is_busy();
        if theirs || ours || self.has_batches() || !self.begin_closed() {
            return self.is_closed();
        }
        let (fencing, exports) = {
            let mut tables = lock(&self.tables);
            (std::mem::take(&mut tables.fencing), std::mem::take(&mut tables.exports))
        };
        drop(exports);
        for grant in fencing {
            self.sink().fenced(grant);
        }
        self.fence.recycle_gate(self.gate);
        self.sink().closed(gone);
        true
    }
}
