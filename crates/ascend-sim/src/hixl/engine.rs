//! One initialised engine: its identity, its regions, and the links that it opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::address::EngineName;
use super::connects::Connects;
use super::endpoint::{Endpoint, Engine as Kind, Identity, Placement, Protocol};
use super::link::{Link, Making, status_of};
use super::options::{Options, Wanted};
use super::passive::{Local, Passive, check_notify};
use super::regions::Clash;
use super::requests::Requests;
use super::status::*;
use super::wire::{Published, Reached};
use crate::anchor::{self, Anchor, PortClaim};
use crate::dma::Backing;
use crate::net::{Broken, Server};
use crate::topology::Chip;

/// Links of one engine in communicator mode, and the most that `channel_pool.max_channel` allows.
const REGIONS_COMMUNICATOR_MAX: usize = 256;
/// Regions of a client/server engine.
const REGIONS_MAX: usize = 4096;

/// An engine between `Initialize` and `Finalize`.
pub(crate) struct Engine {
    /// What peers see of it.
    pub(crate) passive: Arc<Passive>,
    /// The context of the thread that initialised it.
    pub(crate) anchor: Anchor,
    /// As given.
    pub(crate) options: Options,
    /// What was posted.
    pub(crate) requests: Mutex<Requests>,
    /// Asynchronous connects and disconnects.
    pub(crate) connects: Connects,
    links: Mutex<HashMap<String, Arc<Slot>>>,
    /// Regions of no bytes: they spoil every later connect.
    poison: Mutex<Vec<usize>>,
    handles: AtomicUsize,
    intra_roce: bool,
    server: Mutex<Option<Server>>,
    _port: Option<PortClaim>,
}

/// The place of a link: at most one, and one thread at a time opens or closes it.
#[derive(Default)]
struct Slot {
    gate: Mutex<()>,
    link: Mutex<Option<Arc<Link>>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a call that may take so many milliseconds gives up.
pub(crate) fn deadline(timeout_ms: i32) -> Outcome<Instant> {
    match u64::try_from(timeout_ms) {
        Ok(ms) if ms > 0 => Ok(Instant::now() + Duration::from_millis(ms)),
        _ => Err(PARAM_INVALID),
    }
}

impl Engine {
    /// `Initialize`.
    pub(crate) fn open(name: &str, options: Options) -> Outcome<Self> {
        let parsed = EngineName::parse(name).ok_or(PARAM_INVALID)?;
        let anchor = Anchor::of_thread().ok_or(FAILED)?;
        let intra_roce = std::env::var("HCCL_INTRA_ROCE_ENABLE").is_ok_and(|value| value == "1");
        let mode = kind(&options, &anchor)?;
        let identity = Identity {
            name: name.to_owned(),
            process: anchor.process(),
            release: anchor.release(),
            device: anchor.device(),
            chip: anchor.chip(),
            mode,
            net_instance: net_instance(&options, &anchor, &parsed),
            endpoints: if mode == Kind::ClientServer {
                endpoints(&options, &anchor, intra_roce)?
            } else {
                Vec::new()
            },
        };
        let roce =
            mode == Kind::Communicator || identity.endpoints.iter().any(|one| one.protocol == Protocol::Roce);
        let passive = Arc::new(Passive::new(identity));
        let (mut server, mut port) = (None, None);
        if let Some(at) = parsed.listener() {
            if roce && anchor.chip() != Chip::A950 {
                port = Some(anchor.claim_port(options.device_port).ok_or(FAILED)?);
            }
            let opened = Server::open(at, Arc::<Passive>::clone(&passive));
            let opened = opened.map_err(|error| {
                tracing::warn!(%error, %at, "an engine cannot listen");
                FAILED
            })?;
            tracing::debug!(at = %opened.at(), "an engine listens");
            server = Some(opened);
        }
        Ok(Self {
            passive,
            anchor,
            requests: Mutex::default(),
            connects: Connects::new(options.connect_threads, options.connect_queue),
            options,
            links: Mutex::default(),
            poison: Mutex::default(),
            handles: AtomicUsize::new(1),
            intra_roce,
            server: Mutex::new(server),
            _port: port,
        })
    }

    /// `Finalize`: hangs up on everybody.
    pub(crate) fn close(&self) {
        self.connects.end();
        let links: Vec<Arc<Slot>> = held(&self.links).drain().map(|(_, slot)| slot).collect();
        for slot in links {
            if let Some(link) = held(&slot.link).take() {
                self.take_down(&link);
            }
        }
        held(&self.requests).clear();
        drop(held(&self.server).take());
    }

    /// Calls that use the device run under the context that `Initialize` saw.
    pub(crate) fn check_context(&self) -> Outcome {
        if self.anchor.is_current() { Ok(()) } else { Err(FAILED) }
    }

    /// `RegisterMem`.
    pub(crate) fn register(&self, start: u64, length: u64, host: bool) -> Outcome<usize> {
        self.check_context()?;
        if start == 0 || start.checked_add(length).is_none() {
            return Err(PARAM_INVALID);
        }
        let mut regions = self.passive.regions();
        match regions.clash(start, length) {
            Some(Clash::Same(known)) => return Ok(known.handle),
            Some(Clash::Overlap) => return Err(PARAM_INVALID),
            None => {}
        }
        let most = match self.passive.identity.mode {
            Kind::Communicator => REGIONS_COMMUNICATOR_MAX,
            Kind::ClientServer | Kind::Fabric => REGIONS_MAX,
        };
        if regions.len() >= most {
            return Err(RESOURCE_EXHAUSTED);
        }
        let handle = self.handles.fetch_add(1, Ordering::Relaxed) << 4;
        let backing = if length == 0 { Backing::Nothing } else { self.backing(start, length, host)? };
        let published = Published { start, length, host, backing };
        let reached = Reached::open(&published).map_err(|fail| {
            tracing::warn!(%fail, start, length, "a region cannot be mapped");
            FAILED
        })?;
        regions.add(Local { published, reached, handle })?;
        if length == 0 {
            held(&self.poison).push(handle);
        }
        Ok(handle)
    }

    fn backing(&self, start: u64, length: u64, host: bool) -> Outcome<Backing> {
        if host {
            return self.anchor.host_backing(start, length).ok_or(PARAM_INVALID);
        }
        let (backing, page) = self.anchor.device_backing(start, length).ok_or(PARAM_INVALID)?;
        let hccs = self.passive.identity.endpoints.iter().any(|one| one.protocol == Protocol::Hccs);
        if hccs && page < anchor::HUGE_PAGE {
            tracing::warn!(start, page, "memory for HCCS needs 2 MiB pages");
            return Err(FAILED);
        }
        Ok(backing)
    }

    /// `DeregisterMem`.
    pub(crate) fn deregister(&self, handle: usize) -> Outcome {
        if held(&self.links).values().any(|slot| held(&slot.link).is_some()) {
            return Err(FAILED);
        }
        let mut regions = self.passive.regions();
        regions.remove(|region| region.handle == handle).ok_or(PARAM_INVALID)?;
        held(&self.poison).retain(|poison| *poison != handle);
        Ok(())
    }

    fn slot(&self, remote: &str) -> Arc<Slot> {
        Arc::clone(held(&self.links).entry(remote.to_owned()).or_default())
    }

    /// The link to a peer, opened on demand where that is asked for.
    pub(crate) fn link(&self, remote: &str, deadline: Instant) -> Outcome<Arc<Link>> {
        let known = held(&self.links).get(remote).and_then(|slot| held(&slot.link).clone());
        if !self.options.auto_connect {
            return known.ok_or(NOT_CONNECTED);
        }
        match known {
            Some(link) if !link.is_gone() => return Ok(link),
            // Broken: let go of it.
            Some(_) => drop(self.disconnect(remote)),
            None => {}
        }
        match self.connect(remote, deadline) {
            Ok(()) | Err(ALREADY_CONNECTED) => {}
            Err(other) => return Err(other),
        }
        held(&self.slot(remote).link).clone().ok_or(NOT_CONNECTED)
    }

    /// `Connect`.
    pub(crate) fn connect(&self, remote: &str, deadline: Instant) -> Outcome {
        let at = EngineName::parse(remote).and_then(|name| name.listener()).ok_or(PARAM_INVALID)?;
        if !held(&self.poison).is_empty() || remote == self.passive.identity.name {
            return Err(PARAM_INVALID);
        }
        let slot = self.slot(remote);
        let _gate = held(&slot.gate);
        if held(&slot.link).is_some() {
            return Err(ALREADY_CONNECTED);
        }
        let open = held(&self.links).values().filter(|slot| held(&slot.link).is_some()).count();
        if open >= self.options.channels {
            return Err(RESOURCE_EXHAUSTED);
        }
        let site = |op| self.anchor.site(op, Some(remote));
        if anchor::fault("out_of_streams", site("connect")).is_some() {
            return Err(RESOURCE_EXHAUSTED);
        }
        if let Some(hit) = anchor::fault("refuse", site("connect")) {
            return Err(hit.code(FAILED.cast_signed()).cast_unsigned());
        }
        if let Some(hit) = anchor::fault("blackhole_connect", site("connect")) {
            let until = hit.get("ms").map_or(deadline, |_| Instant::now() + hit.ms(0));
            self.connects.sleep_until(until);
            return Err(status_of(Broken::Timeout));
        }
        let restarted = anchor::fault("peer_restart", site("connect"));
        let making = Making {
            near: &self.passive,
            at,
            intra_roce: self.intra_roce,
            machines: self.anchor.machines(),
            forgotten: restarted.is_some(),
        };
        let link = Link::open(&making, deadline)?;
        *held(&slot.link) = Some(Arc::new(link));
        Ok(())
    }

    /// `Disconnect`.
    pub(crate) fn disconnect(&self, remote: &str) -> Outcome {
        let slot = held(&self.links).get(remote).cloned().ok_or(NOT_CONNECTED)?;
        let _gate = held(&slot.gate);
        let link = held(&slot.link).take().ok_or(NOT_CONNECTED)?;
        self.take_down(&link);
        Ok(())
    }

    /// Ends what is under way on a link, as the hardware would; its requests are no longer known.
    fn take_down(&self, link: &Arc<Link>) {
        held(&self.requests).forget(link);
        link.mover.end(anchor::quiesce(self.anchor.site("disconnect", Some(&link.peer.name))));
    }

    /// `SendNotify`.
    pub(crate) fn notify(&self, remote: &str, name: &[u8], message: &[u8], timeout_ms: i32) -> Outcome {
        let deadline = deadline(timeout_ms)?;
        check_notify(name, message)?;
        self.link(remote, deadline)?.notify(name, message, deadline)
    }

    /// Peers that were connected asynchronously, and how far that is.
    pub(crate) fn async_statuses(&self) -> BTreeMap<String, u32> {
        self.connects.statuses()
    }
}

/// Which engine the options and the chip come to.
fn kind(options: &Options, anchor: &Anchor) -> Outcome<Kind> {
    match (options.engine, anchor.chip()) {
        (Wanted::Fabric, Chip::A3) => Ok(Kind::Fabric),
        (Wanted::Fabric, _) => Err(UNSUPPORTED),
        // Releases before 9.1 know no version 1.3.
        (Wanted::ClientServer, _) if anchor.release() < (9, 1) => Err(PARAM_INVALID),
        (Wanted::ClientServer, _) | (Wanted::Default, Chip::A950) => Ok(Kind::ClientServer),
        (Wanted::Communicator | Wanted::Default, _) => Ok(Kind::Communicator),
    }
}

/// The island that HCCS does not leave: as given, else the super-pod (A3) or the host's address (A2, 950).
fn net_instance(options: &Options, anchor: &Anchor, name: &EngineName) -> String {
    match (&options.net_instance, anchor.chip()) {
        (Some(given), _) => given.clone(),
        (None, Chip::A3) => anchor.super_pod().to_string(),
        (None, _) => name.ip.to_string(),
    }
}

/// The endpoints of a client/server engine: as given, else made from the device's ids and `hccn.conf`.
fn endpoints(options: &Options, anchor: &Anchor, intra_roce: bool) -> Outcome<Vec<Endpoint>> {
    let mut list = match &options.endpoints {
        Some(given) if !given.is_empty() => given.clone(),
        _ if anchor.chip() == Chip::A950 => vec![Endpoint {
            protocol: Protocol::UbCtp,
            placement: Placement::Device,
            id: format!(
                "{:032x}",
                u64::from(anchor.device().server) << 32 | u64::from(anchor.device().physical)
            ),
        }],
        _ => {
            let nic = anchor.nic().ok_or(PARAM_INVALID)?;
            let mut made = vec![Endpoint { protocol: Protocol::Roce, placement: Placement::Device, id: nic }];
            if !intra_roce {
                let id = anchor.device().physical.to_string();
                made.push(Endpoint { protocol: Protocol::Hccs, placement: Placement::Device, id });
            }
            made
        }
    };
    if let Some(allowed) = &options.protocols {
        list.retain(|one| allowed.contains(&(one.protocol, one.placement)));
        if list.is_empty() {
            return Err(PARAM_INVALID);
        }
    }
    Ok(list)
}
