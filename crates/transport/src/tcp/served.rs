//! The owner's side: what a peer asked for and passed the checks, and the memory that it pins.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ropeway_core::{Cursor, GrantId, Op, RegionId, StatusKind};

use crate::{Fenced, Served};

/// A request that passed the checks. Given back to its link's [`Pins`], outside the stream's lock.
pub(super) struct Work {
    pub(super) served: Served,
    ticket: u64,
}

/// One request of the peer.
pub(super) struct Serving {
    pub(super) op: Op,
    pub(super) grant: GrantId,
    /// `None`: refused or revoked; bytes that still come are thrown away.
    pub(super) work: Option<Work>,
    pub(super) cursor: Cursor,
    pub(super) left: u64,
    pub(super) sequence: u32,
    /// The peer has cancelled; the segment on the wire is the last.
    pub(super) cancelled: bool,
    pub(super) small: bool,
}

/// Which requests hold memory of ours, in the order in which they came.
#[derive(Default)]
pub(super) struct Pins(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    tickets: BTreeSet<u64>,
    withdrawing: Vec<(u64, RegionId)>,
}

impl Open {
    /// Requests up to (not including) this ticket are over.
    fn over(&self) -> u64 {
        self.tickets.first().copied().unwrap_or(self.next)
    }
}

impl Pins {
    pub(super) fn hold(&self, served: Served) -> Work {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = open.next;
        open.next += 1;
        open.tickets.insert(ticket);
        Work { served, ticket }
    }

    /// Lets go of the memory; gives the regions that nothing holds any more.
    pub(super) fn release(&self, work: Work) -> Vec<RegionId> {
        let Work { served, ticket } = work;
        drop(served);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.tickets.remove(&ticket);
        let over = open.over();
        let mut free = Vec::new();
        open.withdrawing.retain(|(bound, region)| {
            let done = *bound <= over;
            if done {
                free.push(*region);
            }
            !done
        });
        free
    }

    /// A region closes. A request does not say which regions it holds, so all that are open now have to end.
    pub(super) fn withdraw(&self, region: RegionId) -> Fenced {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.tickets.is_empty() {
            return Fenced::Now;
        }
        let bound = open.next;
        if !open.withdrawing.iter().any(|(_, waiting)| *waiting == region) {
            open.withdrawing.push((bound, region));
        }
        Fenced::Pending
    }

    /// Whether anything is being served.
    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tickets.is_empty()
    }
}

/// What a refusal looks like to the initiator; a sink must not answer a request with success or nonsense.
pub(super) fn refusal(kind: StatusKind) -> StatusKind {
    if kind == StatusKind::Completed { StatusKind::Denied } else { kind }
}
