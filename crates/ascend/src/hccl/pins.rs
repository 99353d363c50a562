//! What is served: under which leases, and who waits for its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ropeway_core::{GrantId, RegionId};
use ropeway_transport::Fenced;

/// Requests of the peer that are checked or served, in the order in which they came.
#[derive(Default)]
pub(super) struct Pins(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    tickets: BTreeMap<u64, GrantId>,
    fencing: Vec<(u64, GrantId)>,
    withdrawing: Vec<(u64, RegionId)>,
}

/// A request's place. Taken before it is checked, so that a fence or a withdrawal that comes meanwhile finds it.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub(super) struct Ticket(u64);

/// Whom to tell that something is over.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Over {
    pub(super) fenced: Vec<GrantId>,
    pub(super) withdrawn: Vec<RegionId>,
}

impl Pins {
    pub(super) fn enter(&self, grant: GrantId) -> Ticket {
        let mut open = self.lock();
        let ticket = open.next;
        open.next += 1;
        open.tickets.insert(ticket, grant);
        Ticket(ticket)
    }

    /// The request touches nothing any more, and its permit was dropped.
    pub(super) fn leave(&self, ticket: Ticket) -> Over {
        let mut open = self.lock();
        open.tickets.remove(&ticket.0);
        let oldest = open.tickets.keys().next().copied().unwrap_or(open.next);
        let Open { tickets, fencing, withdrawing, .. } = &mut *open;
        let ended = |bound: u64, grant: GrantId| !tickets.range(..bound).any(|(_, held)| *held == grant);
        let fenced =
            fencing.extract_if(.., |(bound, grant)| ended(*bound, *grant)).map(|(_, grant)| grant).collect();
        let withdrawn =
            withdrawing.extract_if(.., |(bound, _)| *bound <= oldest).map(|(_, region)| region).collect();
        Over { fenced, withdrawn }
    }

    /// A lease is over: is anything served under it?
    pub(super) fn fence(&self, grant: GrantId) -> Fenced {
        let mut open = self.lock();
        if !open.tickets.values().any(|held| *held == grant) {
            return Fenced::Now;
        }
        let bound = open.next;
        if !open.fencing.iter().any(|(_, waiting)| *waiting == grant) {
            open.fencing.push((bound, grant));
        }
        Fenced::Pending
    }

    /// A region closes. A request does not say which regions it holds, so all that are open now have to end.
    pub(super) fn withdraw(&self, region: RegionId) -> Fenced {
        let mut open = self.lock();
        if open.tickets.is_empty() {
            return Fenced::Now;
        }
        let bound = open.next;
        if !open.withdrawing.iter().any(|(_, waiting)| *waiting == region) {
            open.withdrawing.push((bound, region));
        }
        Fenced::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
