//! A device transport: a native way, its posting thread, and the links over it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use ropeway_core::limits::LEASES_MAX;
use ropeway_core::{Error, ErrorKind, Limits, RegionId, Result};
use ropeway_transport::memory::fork::Origin;
use ropeway_transport::{Capabilities, Janitor, Link, LinkConfig, Memory, Role, Transport};

use super::core::{DeviceLink, LinkCore};
use super::ending::Timing;
use super::forget::Leftovers;
use super::mover::Native;
use super::poster::Poster;
use super::wire::NONCE_BYTES;

/// One native way as a transport of the engine.
pub struct DeviceTransport {
    shared: Arc<Shared>,
    capabilities: Capabilities,
    offer: Bytes,
}

/// What its links share.
pub(super) struct Shared {
    pub(super) native: Arc<dyn Native>,
    pub(super) poster: Arc<Poster>,
    pub(super) timing: Timing,
    pub(super) transfers_max: usize,
    /// Of the peer's leases, whose number is its own affair.
    pub(super) fenced_max: usize,
    pub(super) origin: Origin,
    links: AtomicU32,
    cores: Mutex<Vec<Weak<LinkCore>>>,
    pub(super) leftovers: Mutex<Leftovers>,
    /// Held while a region is let go of: one after another.
    pub(super) forgetting: Mutex<()>,
    /// How often links were paused for it.
    pub(super) pauses: AtomicU64,
    probe: Mutex<Option<Arc<Probe>>>,
}

/// Memory that probe transfers read: the nonce at its start, places to read into behind.
pub(super) struct Probe {
    pub(super) memory: Arc<Memory>,
    pub(super) nonce: [u8; NONCE_BYTES],
    slots: Mutex<Vec<u64>>,
}

impl DeviceTransport {
    /// A transport over `native`. Starts no thread before the first link.
    pub fn open(native: Arc<dyn Native>, limits: &Limits, timing: Timing, janitor: &Janitor) -> Arc<Self> {
        let (most, offer) = (native.limits(), native.offer());
        let capabilities = Capabilities {
            regions_max: most.regions,
            links_max: most.links,
            alignment: most.alignment,
            ..Capabilities::of(native.kind())
        };
        let here = Arc::clone(&native);
        let enter = move || {
            if let Err(error) = here.enter() {
                tracing::error!(%error, "the device's context cannot be installed; nothing will be moved");
            }
        };
        let shared = Arc::new(Shared {
            native,
            poster: Poster::new(enter),
            timing,
            transfers_max: limits.transfers_per_peer() as usize,
            fenced_max: LEASES_MAX as usize,
            origin: janitor.origin(),
            links: AtomicU32::new(0),
            cores: Mutex::default(),
            leftovers: Mutex::default(),
            forgetting: Mutex::default(),
            pauses: AtomicU64::new(0),
            probe: Mutex::default(),
        });
        Arc::new(Self { shared, capabilities, offer })
    }

    /// How often the posting thread looked at a link: it stands still while nothing is in flight.
    pub fn posting_turns(&self) -> u64 {
        self.shared.poster.turns()
    }
}

impl Transport for DeviceTransport {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        self.offer.clone()
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        let started = self.shared.poster.start();
        started.map_err(|error| Error::os("link", "starting the posting thread", error))?;
        self.shared.link_begins()?;
        let core = LinkCore::new(&self.shared, &config);
        self.shared.keep(&core);
        // Weakly: the session holds the inbox.
        let heard = Arc::downgrade(&core);
        config.inbox.listen(Arc::new(move |message| {
            if let Some(core) = heard.upgrade() {
                core.hear(&message);
            }
        }));
        match config.role {
            Role::Passive => core.ring(),
            Role::Active => {
                if let Err(error) = core.open_actively() {
                    core.refuse(&error);
                    return Err(error);
                }
            }
        }
        Ok(Arc::new(DeviceLink(core)))
    }

    fn forget(&self, region: RegionId, deadline: Instant) -> Result<()> {
        self.shared.forget(region, deadline)
    }

    fn close(&self) {
        self.shared.poster.stop();
        self.shared.native.close();
    }
}

impl Shared {
    fn keep(&self, core: &Arc<LinkCore>) {
        let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        cores.retain(|core| core.strong_count() > 0);
        cores.push(Arc::downgrade(core));
    }

    /// All links that are there, also those that end.
    pub(super) fn links(&self) -> Vec<Arc<LinkCore>> {
        let cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        cores.iter().filter_map(Weak::upgrade).collect()
    }

    fn link_begins(&self) -> Result<()> {
        let most = self.native.limits().links.unwrap_or(u32::MAX);
        if self.links.fetch_add(1, Ordering::SeqCst) < most {
            return Ok(());
        }
        self.links.fetch_sub(1, Ordering::SeqCst);
        let text = format!("{} can have {most} links at a time; close one first", self.native.kind());
        Err(Error::new(ErrorKind::Full, "link", text))
    }

    pub(super) fn link_ended(&self) {
        self.links.fetch_sub(1, Ordering::SeqCst);
    }

    /// The probe memory, if a link has needed it.
    pub(super) fn probe_if_any(&self) -> Option<Arc<Probe>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The probe memory; made with the first link. On slow threads.
    pub(super) fn probe(&self) -> Result<Arc<Probe>> {
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = &*probe {
            return Ok(Arc::clone(probe));
        }
        let memory = self.native.probe_memory()?;
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| Error::new(ErrorKind::Resource, "link", format!("no random bytes: {error}")))?;
        memory.write(0, &nonce)?;
        let step = NONCE_BYTES as u64;
        let slots = (1..(memory.len() / step).min(8_192)).rev().map(|slot| slot * step).collect();
        Ok(Arc::clone(probe.insert(Arc::new(Probe { memory, nonce, slots: Mutex::new(slots) }))))
    }
}

impl Probe {
    pub(super) fn take_slot(&self) -> Result<u64> {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        slot.ok_or_else(|| {
            Error::new(ErrorKind::Full, "link", "as many links as the probe memory has places")
        })
    }

    pub(super) fn give_slot(&self, slot: u64) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }
}
