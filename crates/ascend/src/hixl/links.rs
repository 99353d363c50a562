//! Which peers one HIXL engine is linked with: one link for each, whoever asked for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bond::{Bond, Clock, Seat};

/// The peers' engines. Slow threads only.
#[derive(Default)]
pub(super) struct Links {
    bonds: Mutex<HashMap<SocketAddr, Arc<Bond>>>,
    clock: Arc<Clock>,
}

impl Links {
    /// A mover's seat in the link to a peer's engine; `life` tells that engine from earlier ones at its address.
    pub(super) fn seat(&self, peer: SocketAddr, life: u64) -> Seat {
        let mut bonds = self.lock();
        bonds.retain(|_, bond| Arc::strong_count(bond) > 1 || !bond.is_down());
        let bond = bonds.entry(peer).or_insert_with(|| Arc::new(Bond::new(&self.clock)));
        Seat::new(Arc::clone(bond), life)
    }

    /// What orders registrations and links.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().values().all(|bond| bond.is_down())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Bond>>> {
        self.bonds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
