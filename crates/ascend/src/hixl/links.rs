//! Which peers one HIXL engine is linked with: one link for each, whoever asked for it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The peers' engines that this one is linked with, or is linking. Slow threads only.
#[derive(Default)]
pub(super) struct Links {
    held: Mutex<HashSet<SocketAddr>>,
    freed: Condvar,
}

impl Links {
    /// Takes the link to a peer, waiting for another mover (of a session that is ending) to let go of it. `false`: it did
    /// not in time.
    pub(super) fn take(&self, peer: SocketAddr, until: Instant) -> bool {
        let mut held = self.lock();
        while !held.insert(peer) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            held = self.freed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Gives it back.
    pub(super) fn give(&self, peer: SocketAddr) {
        self.lock().remove(&peer);
        self.freed.notify_all();
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
