//! The owner's side: what a peer asked for and passed the checks, and the memory that it pins.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ropeway_core::{Cursor, GrantId, Op, RegionId, StatusKind};

use crate::{Fenced, Served};

/// A request that passed the checks. Given back to its link's [`Pins`], outside the stream's lock.
pub(super) struct Work {
    pub(super) served: Served,
    ticket: Ticket,
}

/// A request's place among those that are checked or served. Taken before the check, so that a revocation or a withdrawal
/// that comes meanwhile finds the request.
pub(super) struct Ticket(u64);

/// What a request leaves behind when it is over: dropped, and its ticket given back, outside the stream's lock.
pub(super) struct Released {
    held: Held,
    ticket: Ticket,
}

enum Held {
    Served(#[expect(dead_code, reason = "held for its drop")] Served),
    Permit(#[expect(dead_code, reason = "held for its drop")] Option<Box<dyn Send>>),
}

impl From<Work> for Released {
    fn from(Work { served, ticket }: Work) -> Self {
        Self { held: Held::Served(served), ticket }
    }
}

impl Ticket {
    pub(super) fn passed(self, served: Served) -> Work {
        Work { served, ticket: self }
    }

    pub(super) fn declined(self, permit: Option<Box<dyn Send>>) -> Released {
        Released { held: Held::Permit(permit), ticket: self }
    }
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

impl Serving {
    /// It is over: what it held.
    pub(super) fn over(self) -> Option<Released> {
        self.work.map(Released::from)
    }
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
    /// A request came; it is about to be checked.
    pub(super) fn enter(&self) -> Ticket {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = open.next;
        open.next += 1;
        open.tickets.insert(ticket);
        Ticket(ticket)
    }

    /// Lets go of the memory; gives the regions that nothing holds any more.
    pub(super) fn release(&self, released: Released) -> Vec<RegionId> {
        let Released { held, ticket: Ticket(ticket) } = released;
        drop(held);
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

    /// Whether nothing is being checked or served.
    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tickets.is_empty()
    }
}

/// What a refusal looks like to the initiator; a sink must not answer a request with success or nonsense.
pub(super) fn refusal(kind: StatusKind) -> StatusKind {
    if kind == StatusKind::Completed { StatusKind::Denied } else { kind }
}
