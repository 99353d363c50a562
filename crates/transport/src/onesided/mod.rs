//! The one-sided engine: what loopback, shm and cma have in common.
//!
//! The initiator moves all bytes itself, so a target stays idle. A link differs from another only in how it gets at the
//! peer's memory (an `Arc`, a map, the kernel) and in how the two sides talk about imports. Everything else is here:
//! batches are cut into chunks that a [`Crew`] of copy threads and the thread in `drive` claim one by one, each chunk
//! stays inside the owner's [`Fence`], and each batch ends once.

mod chunk;
mod claims;
mod crew;
mod import;
mod job;
mod link;
#[cfg(all(loom, test))]
mod models;
#[cfg(any(test, feature = "sim"))]
pub mod pause;
mod proofs;
mod regions;
#[cfg(all(not(loom), test))]
pub(crate) mod rig;
#[cfg(all(not(loom), test))]
mod tests;

use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Limits, Result};

use crate::fence::Fence;
use crate::memory::fork::Origin;
use crate::rendezvous::Host;
use crate::{Calibration, Janitor};
pub(crate) use chunk::{Failed, Resolved};
pub use crew::Crew;
pub(crate) use import::Answer;
pub(crate) use link::{Far, LinkCore, Path, Way};

/// What an engine gives to its one-sided transports.
#[derive(Clone)]
pub struct OneSidedConfig {
    /// Peers, leases and transfers that there must be room for.
    pub limits: Limits,
    /// Copy threads beside the ones that sit in `drive`. 0: one stands by for batches that nobody waits for.
    pub copy_threads: usize,
    /// Which copy routine suits a batch.
    pub calibration: Calibration,
    /// Lets maps of peers' memory go.
    pub janitor: Janitor,
    /// Whether peers in other processes may come: the fence lies in a memfd then, and a socket listens.
    pub same_host: bool,
}

/// Shared by the loopback, shm and cma transports of one engine.
pub struct OneSided {
    pub(crate) fence: Arc<Fence>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) host: Arc<Host>,
    pub(crate) config: OneSidedConfig,
    /// The name of this engine on this host, drawn at random.
    pub(crate) nonce: [u8; 16],
    origin: Origin,
}

impl OneSided {
    /// Makes the fence, the crew and the side channel. Threads start with the first link.
    ///
    /// # Errors
    /// `Resource` when the operating system refuses memory, descriptors or randomness.
    pub fn open(config: OneSidedConfig) -> Result<Arc<Self>> {
        let mut nonce = [0; 16];
        random(&mut nonce)?;
        // One peer may have a link of each of the three kinds, and one more that is not yet proven closed.
        let gates = config.limits.peers().saturating_mul(4);
        let leases = config.limits.leases();
        let fence = if config.same_host {
            Fence::shared(gates, leases, u64::from_le_bytes(nonce[..8].try_into().expect("8 bytes")))?
        } else {
            Fence::private(gates, leases)
        };
        let fence = Arc::new(fence);
        let host = Host::open(&config, nonce, &fence)?;
        let crew = Crew::open(config.copy_threads);
        Ok(Arc::new(Self { fence, crew, host, origin: config.janitor.origin(), config, nonce }))
    }

    /// The owner's words: the engine opens and closes its grants here.
    pub fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    /// The copy threads.
    pub fn crew(&self) -> &Arc<Crew> {
        &self.crew
    }

    /// Stops the threads, without waiting, once every link has ended. Does nothing in a forked child, where there are
    /// none and locks may be held for ever.
    pub fn close(&self) {
        if self.origin.is_foreign() {
            return;
        }
        self.host.stop();
        self.crew.stop();
    }
}

impl Drop for OneSided {
    fn drop(&mut self) {
        self.close();
    }
}

/// Fills `bytes` from the kernel's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::new(ErrorKind::Resource, "random", error.to_string()))
}
