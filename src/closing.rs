//! The end of an engine.

use std::sync::Arc;

use ropeway_core::StatusKind;

use crate::shared::Shared;

impl Shared {
    /// Starts the end: no new work, leases revoked, transfers cancelled, sessions told. Waits for nothing.
    pub(crate) fn shut(self: &Arc<Self>) {
        if !self.begin_close() {
            return;
        }
        tracing::info!(incarnation = %self.incarnation, "engine closing");
        for grant in self.all_leases() {
            self.revoke(grant);
        }
        for flight in self.flights_in_air() {
            flight.stop(StatusKind::Closed);
        }
        for peer in self.all_peers() {
            self.close_peer(&peer, "the engine is closing");
        }
        self.progress.moved();
    }

    /// What can still touch this engine's memory, or is touched by it.
    pub(crate) fn held(&self) -> Vec<String> {
        let mut held: Vec<String> =
            self.flights_in_air().iter().map(|flight| format!("transfer {}", flight.id)).collect();
        held.extend(self.all_leases().into_iter().map(|grant| format!("lease {grant}")));
        for peer in self.all_peers() {
            let links: Vec<_> = peer.links().iter().map(|link| link.kind().name()).collect();
            if !links.is_empty() {
                held.push(format!("{} over {}", peer.name(), links.join(", ")));
            }
        }
        held
    }

    /// Ends the threads. With something still held, they go on until it is not.
    pub(crate) fn finish_close(self: &Arc<Self>, quiet: bool) {
        if quiet {
            for transport in &self.transports {
                transport.close();
            }
            self.control.stop();
        } else {
            self.close_when_quiet();
        }
    }

    /// Ends the threads once nothing is held: looked at by the control thread's timer.
    pub(crate) fn close_when_quiet(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.control.spawn(async move {
            while !shared.held().is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            for transport in &shared.transports {
                transport.close();
            }
            shared.control.stop();
        });
    }
}
