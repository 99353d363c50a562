//! A server: endpoints, regions, a listener.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::abi::{CommMem, CsEndpoint, ServerWish};
use super::wire::{Answer, Ask, Tagged};
use crate::anchor::{Anchor, HUGE_PAGE, PortClaim};
use crate::hbm::Page;
use crate::hixl::endpoint::{Placement, Protocol};
use crate::hixl::options::Options;
use crate::hixl::regions::{Regions, Span};
use crate::hixl::status::{FAILED, Outcome, PARAM_INVALID, RESOURCE_EXHAUSTED};
use crate::hixl::wire::{Published, decode, encode};
use crate::net;
use crate::topology::Chip;

/// Regions of users that a server has at most.
const REGIONS_MAX: usize = 4096;
/// Bytes of the region that the library has of its own.
const BUILTIN: u64 = 8;

/// A server of the C API.
pub(super) struct Server {
    published: Arc<Book>,
    anchor: Anchor,
    at: Option<SocketAddr>,
    device_port: u16,
    listening: Mutex<Option<(net::Server, Option<PortClaim>)>>,
    /// Device memory behind the built-in region; 0 when it is none.
    builtin: u64,
}

/// What clients can learn.
struct Book {
    endpoints: Vec<CsEndpoint>,
    anchor: Anchor,
    builtin: Tagged,
    regions: Mutex<(Regions<Entry>, usize)>,
}

struct Entry {
    tagged: Tagged,
    handle: usize,
}

impl Span for Entry {
    fn start(&self) -> u64 {
        self.tagged.region.start
    }

    fn length(&self) -> u64 {
        self.tagged.region.length
    }
}

/// Whether memory of a kind can be registered on an endpoint.
pub(super) fn fits(endpoint: &CsEndpoint, chip: Chip, host: bool, serving: bool) -> bool {
    match (endpoint.protocol, endpoint.placement) {
        (_, Placement::Device) if !host => true,
        // Host memory: as a local end on an A3 only.
        (Protocol::Hccs, _) => host && !serving && chip == Chip::A3,
        (_, Placement::Host) => host,
        (_, Placement::Device) => true,
    }
}

/// What backs memory to be registered on some of these endpoints.
pub(super) fn backing(
    anchor: &Anchor,
    endpoints: &[CsEndpoint],
    mem: &CommMem,
    serving: bool,
) -> Outcome<Published> {
    let host = match mem.kind {
        0 => false,
        1 => true,
        _ => return Err(PARAM_INVALID),
    };
    let (start, length) = (mem.address, mem.size);
    if start == 0 || length == 0 || start.checked_add(length).is_none() {
        return Err(PARAM_INVALID);
    }
    if !endpoints.iter().any(|endpoint| fits(endpoint, anchor.chip(), host, serving)) {
        return Err(PARAM_INVALID);
    }
    if host {
        let backing = anchor.host_backing(start, length).ok_or(PARAM_INVALID)?;
        return Ok(Published { start, length, host, backing });
    }
    let (backing, page) = anchor.device_backing(start, length).ok_or(PARAM_INVALID)?;
    if page < HUGE_PAGE && endpoints.iter().any(|endpoint| endpoint.protocol == Protocol::Hccs) {
        tracing::warn!(start, page, "memory for HCCS needs 2 MiB pages");
        return Err(FAILED);
    }
    Ok(Published { start, length, host, backing })
}

impl Server {
    /// `HixlCSServerCreate`.
    pub(super) fn new(wish: ServerWish, resources: Option<&str>) -> Outcome<Self> {
        let anchor = Anchor::of_thread().ok_or(FAILED)?;
        let pairs = resources.map(|text| ("GlobalResourceConfig", text));
        let options = Options::parse(pairs.into_iter())?;
        let ip = wish.at.0.parse().map_err(|_| PARAM_INVALID)?;
        let port = u16::try_from(wish.at.1).map_err(|_| PARAM_INVALID)?;
        let on_device = wish.endpoints.iter().any(|one| one.placement == Placement::Device);
        let tag = if on_device { "_hixl_builtin_dev_trans_flag" } else { "_hixl_builtin_host_trans_flag" };
        let range = anchor.hbm().alloc(anchor.device(), BUILTIN, BUILTIN, Page::Normal);
        let start = range.map_err(|_| RESOURCE_EXHAUSTED)?.va;
        let (backing, _) = anchor.device_backing(start, BUILTIN).ok_or(FAILED)?;
        let region = Published { start, length: BUILTIN, host: !on_device, backing };
        let book = Book {
            endpoints: wish.endpoints,
            anchor: anchor.clone(),
            builtin: Tagged { tag: tag.to_owned(), region },
            regions: Mutex::default(),
        };
        Ok(Self {
            published: Arc::new(book),
            anchor,
            at: (port > 0).then_some(SocketAddr::new(ip, port)),
            device_port: options.device_port,
            listening: Mutex::default(),
            builtin: start,
        })
    }

    /// `HixlCSServerRegMem`; also after clients came, who then ask again.
    pub(super) fn register(&self, tag: String, mem: &CommMem) -> Outcome<usize> {
        let region = backing(&self.anchor, &self.published.endpoints, mem, true)?;
        let mut held = self.published.regions();
        let (regions, last) = &mut *held;
        if regions.len() >= REGIONS_MAX {
            return Err(RESOURCE_EXHAUSTED);
        }
        let handle = (*last + 1) << 4;
        regions.add(Entry { tagged: Tagged { tag, region }, handle })?;
        *last += 1;
        Ok(handle)
    }

    /// `HixlCSServerUnregMem`.
    pub(super) fn unregister(&self, handle: usize) -> Outcome {
        let mut held = self.published.regions();
        held.0.remove(|entry| entry.handle == handle).map(drop).ok_or(PARAM_INVALID)
    }

    /// `HixlCSServerListen`.
    pub(super) fn listen(&self) -> Outcome {
        let Some(at) = self.at else { return Ok(()) };
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.is_some() {
            return Err(FAILED);
        }
        let nic = |one: &CsEndpoint| one.protocol == Protocol::Roce && one.placement == Placement::Device;
        let claim = if self.published.endpoints.iter().any(nic) {
            Some(self.anchor.claim_port(self.device_port).ok_or(FAILED)?)
        } else {
            None
        };
        let server = net::Server::open(at, Arc::<Book>::clone(&self.published)).map_err(|error| {
            tracing::warn!(%error, %at, "a server cannot listen");
            FAILED
        })?;
        *listening = Some((server, claim));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(fail) = self.anchor.hbm().free(self.builtin) {
            tracing::error!(%fail, "free of a built-in region");
        }
    }
}

impl Book {
    fn regions(&self) -> MutexGuard<'_, (Regions<Entry>, usize)> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl net::Handler for Book {
    fn answer(&self, _: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let answer = match decode(frame)? {
            Ask::Match { wanted, release } => {
                let named = self.endpoints.iter().any(|one| wanted.names(&one.wanted));
                if named && release == self.anchor.release() {
                    Answer::Matched(self.anchor.device())
                } else {
                    Answer::NoMatch
                }
            }
            Ask::Regions => {
                let held = self.regions();
                let users = held.0.iter().map(|entry| entry.tagged.clone());
                Answer::Regions(std::iter::once(self.builtin.clone()).chain(users).collect())
            }
        };
        Some(encode(&answer))
    }

    fn closed(&self, connection: u64) {
        tracing::debug!(connection, "a client left");
    }
}
