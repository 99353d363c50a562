//! HIXL through its C++ class: one object for all peers.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ascend_sys::shim;
use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result};
use ropeway_transport::{Memory, Role, TransportKind};

use super::bond::{Line, Seat, Unlinked};
use super::codes;
use super::config::{Here, HixlConfig, Ports, modes};
use super::here::{Tries, cstring, ids, release};
use super::limits::{DESCS_MAX, limits};
use super::links::Links;
use super::offer::{Api, Mode, Offer};
use super::region::{Description, spans, takes};
use super::registry::{Key, Registers, Registry, Span};
use super::shim::{Hixl, code};
use super::way::Way;
use crate::curves::Cuts;
use crate::device::{Bound, Device, Work};
use crate::error::recent_text;
use crate::hbm::HUGE_PAGE;
use crate::link::{
    Connected, Desc, Holds, Imported, Mover, MoverLimits, Native, Polled, PostError, Request, Teardown,
};
use crate::npu::Npu;
use crate::slots::Slots;
use crate::stage::{Direct, Staged, Stages};

/// How long a link that is in the way may take to end.
const RESET: Duration = Duration::from_millis(500);

/// The shortest time that the library is given; less is advised against between nodes.
const TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// HIXL by its class, for one engine and one NPU.
pub struct HixlClass {
    shared: Arc<Shared>,
}

struct Shared {
    device: Arc<Device>,
    /// Ended on a slow thread of the device, when the last mover is gone.
    hixl: ManuallyDrop<Hixl>,
    offer: Offer,
    registry: Mutex<Registry>,
    /// Outbound links that the library has, as far as we know: one for each peer's engine, shared by the sessions with it.
    /// While there are any it lets go of no region.
    links: Links,
    stages: Arc<Stages>,
    any_pages: bool,
    probe: Arc<Memory>,
}

impl HixlClass {
    /// Starts HIXL for an NPU: listens on the first free port. Blocks, for seconds.
    ///
    /// # Errors
    /// `Unsupported`: there is no shim, no HIXL, or no way to any peer. `Resource`: no port of the range is free.
    pub fn open(npu: &Arc<Npu>, config: &HixlConfig) -> Result<Self> {
        let device = npu.device();
        let api = npu.cann().sys().shim();
        let api = api.map_err(|why| Error::new(ErrorKind::Unsupported, "start HIXL", why.to_string()))?;
        let here = config.look(device.chip(), ids(device)?, npu.identity(), npu.config().machine())?;
        let ports = config.candidates(here.ids)?;
        let release = release(npu.cann());
        let start = move |on: &Bound<'_>| start(on, api, &here, &ports, &release);
        let (hixl, offer) = device.call(Work::Slow, "start HIXL", start)??;
        tracing::info!(
            engine = %offer.engine, node = offer.node, island = offer.island, mode = offer.mode.name(),
            release = offer.release, "HIXL listens"
        );
        let shared = Shared {
            device: Arc::clone(device),
            hixl: ManuallyDrop::new(hixl),
            registry: Mutex::new(Registry::new(offer.mode.regions_max())),
            links: Links::default(),
            stages: Stages::new(npu, Slots::new(Arc::clone(device))),
            any_pages: config.any_pages,
            probe: npu.alloc(HUGE_PAGE)?,
            offer,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What peers are told.
    pub fn facts(&self) -> &Offer {
        &self.shared.offer
    }
}

/// One attempt for each mode and port, until one succeeds. An engine that failed to initialize is not tried again.
fn start(
    on: &Bound<'_>,
    api: &'static shim::Api,
    here: &Here,
    ports: &[Ports],
    release: &str,
) -> Result<(Hixl, Offer)> {
    let capability = Hixl::capability(api, shim::ROPEWAY_HIXL_CLIENT_SERVER_COMM);
    let mut why = None;
    for mode in modes(here.mode, here.chip, capability) {
        let mut tries = Tries::new(here, ports);
        while let Some(port) = tries.next() {
            let engine = here.engine(port.host);
            let offer = here.offer(Api::Class, mode, engine, release)?;
            let hixl = Hixl::create(api).ok_or_else(|| {
                Error::new(ErrorKind::Resource, "start HIXL", "there is no memory for its engine")
            })?;
            let Err(number) = hixl.initialize(&cstring(engine), &here.options(mode, port.device)?) else {
                return Ok((hixl, offer));
            };
            let text = recent_text(on.acl());
            hixl.end();
            let what = format!("its engine {engine} ({} mode)", mode.name());
            tries.failed(&codes::failed(number, "start HIXL", &what, text.as_deref()));
            if number != code::FAILED {
                // Not the port: no other one will do.
                break;
            }
        }
        why = Some(tries.unstarted("start HIXL"));
    }
    Err(why.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, "start HIXL", "it has no engine inside")))
}

impl Native for HixlClass {
    fn kind(&self) -> TransportKind {
        TransportKind::Hixl
    }

    fn offer(&self) -> Bytes {
        self.shared.offer.encode()
    }

    fn enter(&self) -> Result<()> {
        self.shared.device.adopt_thread().map(drop)
    }

    fn open(&self, offer: &[u8], _role: Role) -> Result<Box<dyn Mover>> {
        let peer = Offer::decode(offer)?;
        let way = self.shared.offer.way_to(&peer)?;
        let name = cstring(peer.engine);
        let seat = self.shared.links.seat(peer.engine, peer.life);
        tracing::debug!(peer = %peer.engine, node = peer.node, %way, "a way by HIXL");
        let mover = ClassMover {
            shared: Arc::clone(&self.shared),
            name,
            peer,
            way,
            seat,
            regions: HashMap::new(),
            imports: HashMap::new(),
        };
        Ok(Box::new(Staged::new(mover, DESCS_MAX, &self.shared.stages)))
    }

    fn probe_memory(&self) -> Result<Arc<Memory>> {
        Ok(Arc::clone(&self.shared.probe))
    }

    fn holds(&self, memory: &Arc<Memory>) -> Holds {
        self.shared.registry().holds(memory)
    }

    fn holds_apart(&self, memory: &Arc<Memory>) -> Holds {
        self.holds(memory)
    }

    fn limits(&self) -> MoverLimits {
        limits(&self.shared.offer)
    }
}

struct ClassMover {
    shared: Arc<Shared>,
    /// The peer's engine, as the library names it.
    name: CString,
    peer: Offer,
    way: Way,
    /// Our part in the link, which other sessions with the same engine share.
    seat: Seat,
    regions: HashMap<RegionId, Key>,
    /// The peer's, and since when the link has to know each.
    imports: HashMap<RegionId, (Description, u64)>,
}

impl ClassMover {
    /// The newest region that this mover uses, of either side.
    fn need(&self) -> u64 {
        let registry = self.shared.registry();
        let ours = self.regions.values().map(|key| registry.since(*key));
        ours.chain(self.imports.values().map(|(_, since)| *since)).max().unwrap_or(0)
    }

    fn forget(&mut self, region: RegionId) {
        if let Some((description, _)) = self.imports.remove(&region) {
            self.seat.forget(description);
        }
    }
}

/// The library's calls for one peer.
struct ToPeer<'a> {
    shared: &'a Shared,
    name: &'a CStr,
}

impl ToPeer<'_> {
    fn reset(&self) {
        if let Err(number) = self.shared.hixl.disconnect(self.name, millis(RESET)) {
            tracing::debug!(number, peer = ?self.name, "a link that was in the way could not be ended");
        }
    }

    fn try_connect(&self, until: Instant) -> Result<(), u32> {
        let left = until.saturating_duration_since(Instant::now()).max(TIMEOUT_MIN);
        self.shared.hixl.connect(self.name, millis(left))
    }
}

impl Line for ToPeer<'_> {
    fn connect(&self, until: Instant) -> Result<Connected, u32> {
        let mut answer = self.try_connect(until);
        // Left over from a peer's former life, or from a connect that was given up: not the link that was asked for.
        if let Err(code::ALREADY_CONNECTED | code::NOT_CONNECTED) = answer {
            self.reset();
            answer = self.try_connect(until);
        }
        match answer {
            Ok(()) => Ok(Connected::New),
            Err(code::ALREADY_CONNECTED) => Ok(Connected::Already),
            Err(number) => {
                if number == code::TIMEOUT {
                    // Given up by the caller, it may still be made, and would be in the way of the next one.
                    self.reset();
                }
                Err(number)
            }
        }
    }

    fn disconnect(&self, timeout: Duration) {
        match self.shared.hixl.disconnect(self.name, millis(timeout.max(TIMEOUT_MIN))) {
            Ok(()) | Err(code::NOT_CONNECTED) => {}
            Err(number) => {
                let text = recent_text(self.shared.device.acl());
                let peer = self.name.to_string_lossy();
                let error = codes::failed(number, "disconnect with HIXL", &peer, text.as_deref());
                tracing::warn!(%error, "a link may still be there");
            }
        }
    }
}

// SAFETY: `Done` is the library's word that the request completed, asked once. `Over` is only said of a post that was refused
// by a check of its parameters, `Busy` of one for which there were no streams: both before anything is submitted. A teardown
// is `Proven` only when every request of this mover had ended, and those of others go on as their movers say.
unsafe impl Mover for ClassMover {
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        let shared = &*self.shared;
        let found = spans(memory, &shared.device, (self.way, shared.offer.chip), shared.any_pages)?;
        // 256 regions are few: in communicator mode whole allocations are registered.
        let whole = found.whole.filter(|_| shared.offer.mode == Mode::Communicator);
        let key = shared.registry().add(found.span, whole, memory, shared)?;
        if let Some(before) = self.regions.insert(region, key) {
            shared.registry().remove(before, shared)?;
        }
        Ok(Description::of(found.span).encode())
    }

    fn deregister(&mut self, region: RegionId) -> Result<()> {
        match self.regions.remove(&region) {
            Some(key) => self.shared.registry().remove(key, &*self.shared),
            None => Ok(()),
        }
    }

    fn import(&mut self, region: RegionId, len: u64, description: &[u8]) -> Result<Imported> {
        let description = Description::decode(description, len)?;
        description.check_reach(self.way.reach(self.shared.offer.chip), self.way)?;
        self.forget(region);
        self.imports.insert(region, (description, self.seat.learn(description)));
        Ok(Imported { base: description.address })
    }

    fn release(&mut self, region: RegionId) -> Result<()> {
        // The library forgets the peer's regions with the link.
        self.forget(region);
        Ok(())
    }

    fn connect(&mut self, timeout: Duration) -> Result<Connected> {
        let (until, need) = (Instant::now() + timeout, self.need());
        let line = ToPeer { shared: &self.shared, name: &self.name };
        self.seat.connect(need, until, &line).map_err(|why| match why {
            Unlinked::Refused(number) => {
                let text = recent_text(self.shared.device.acl());
                codes::unconnected(&self.shared.device, number, &self.peer.engine.to_string(), text.as_deref())
            }
            Unlinked::InUse => {
                let message = format!(
                    "the link to {} has to be made anew, and what other sessions have in flight on it does not end",
                    self.peer.engine
                );
                Error::new(ErrorKind::Full, "connect with HIXL", message)
            }
        })
    }

    fn disconnect(&mut self, timeout: Duration) -> Teardown {
        let proof = self.seat.disconnect(timeout, &ToPeer { shared: &self.shared, name: &self.name });
        self.shared.registry().sweep(&*self.shared);
        proof
    }

    #[inline]
    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        let (hixl, name, device) = (&self.shared.hixl, &self.name, &self.shared.device);
        self.seat.post(|| {
            // SAFETY: the link engine keeps the memory of a request until it is `Done`, `Over`, or its link was torn down
            // and the window has passed, as this trait asks of it.
            unsafe { hixl.post(name, op, descs) }.map(Request).map_err(|number| codes::posted(device, number))
        })
    }

    #[inline]
    fn poll(&mut self, request: Request) -> Polled {
        let (hixl, device) = (&self.shared.hixl, &self.shared.device);
        self.seat.poll(|| codes::polled(device, hixl.status(request.0)))
    }

    fn cuts(&self) -> Cuts {
        self.way.cuts(&self.shared.offer, &self.peer)
    }

    fn explain(&self, number: i32) -> Error {
        let text = recent_text(self.shared.device.acl());
        let what = format!("the link to {} by {}", self.peer.engine, self.way);
        codes::explained(number, &what, text.as_deref())
    }
}

impl Direct for ClassMover {
    fn takes(&self, memory: &Arc<Memory>) -> bool {
        takes(memory, &self.shared.device, self.way, self.shared.offer.chip)
    }
}

impl Drop for ClassMover {
    fn drop(&mut self) {
        if self.seat.is_taken() || !self.regions.is_empty() {
            // The registrations count on, so their memory stays; `links` keeps the library from letting go of any.
            tracing::warn!(peer = %self.peer.engine, "a link by HIXL was left as it was; its regions stay registered");
        }
        self.imports.drain().for_each(|(_, (description, _))| self.seat.forget(description));
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers for Shared {
    fn register(&self, span: Span) -> Result<usize> {
        codes::registered(&self.device, "register with HIXL", span, self.hixl.register(span))
    }

    fn deregister(&self, handle: usize) -> Result<()> {
        codes::deregistered(&self.device, "deregister with HIXL", self.hixl.deregister(handle))
    }

    fn can_deregister(&self) -> bool {
        self.links.is_empty()
    }

    fn tick(&self) -> u64 {
        self.links.clock().tick()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.device.origin().is_foreign() {
            return;
        }
        // SAFETY: taken once, here, and not used after.
        let hixl = unsafe { ManuallyDrop::take(&mut self.hixl) };
        let registry = std::mem::replace(
            self.registry.get_mut().unwrap_or_else(PoisonError::into_inner),
            Registry::new(0),
        );
        if !self.links.is_empty() || registry.in_use() {
            tracing::error!("HIXL is left as it is: a link of it was never ended; its memory is leaked");
            std::mem::forget(registry);
            return;
        }
        self.device.retire("end HIXL", move |_| {
            registry.end(|handle| hixl.deregister(handle));
            hixl.end();
        });
    }
}

/// A time as the library takes it: above 0.
fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}
