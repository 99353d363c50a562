//! HIXL through its C functions (CANN 9.1 and later): a server for all peers, and a client for each.

mod calls;
mod endpoint;
mod mover;

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ascend_sys::hixl_cs;
use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{Memory, Role, TransportKind};

use super::codes;
use super::config::{Here, HixlConfig, Ports};
use super::endpoints::Protocol;
use super::here::{Tries, cstring, ids, release};
use super::limits::{DESCS_MAX, limits};
use super::offer::{Api, Mode, Offer};
use super::registry::{Registers, Registry, Span};
use super::shim::code;
use super::way::Way;
use crate::device::{Bound, Device, Work};
use crate::error::recent_text;
use crate::hbm::HUGE_PAGE;
use crate::link::{Mover, MoverLimits, Native};
use crate::npu::Npu;
use crate::slots::Slots;
use crate::stage::{Staged, Stages};
use calls::Server;
use endpoint::endpoint;
use mover::CMover;

/// HIXL by its C functions, for one engine and one NPU.
pub struct HixlC {
    shared: Arc<Shared>,
}

struct Shared {
    device: Arc<Device>,
    api: &'static hixl_cs::Api,
    /// Ended on a slow thread of the device, when the last mover is gone.
    server: ManuallyDrop<Server>,
    offer: Offer,
    /// What the server has opened to peers' clients.
    registry: Mutex<Registry>,
    /// `GlobalResourceConfig`, for clients too.
    resources: CString,
    quality: (u8, u8),
    stages: Arc<Stages>,
    any_pages: bool,
    probe: Arc<Memory>,
}

impl HixlC {
    /// Starts HIXL's server for an NPU: listens on the first free port. Blocks.
    ///
    /// # Errors
    /// `Unsupported`: this release has no C functions, or those of 9.0; a 950, whose UB only the class finds; no way to
    /// any peer. `Resource`: no port of the range is free.
    pub fn open(npu: &Arc<Npu>, config: &HixlConfig) -> Result<Self> {
        let unsupported =
            |message: String| Error::new(ErrorKind::Unsupported, "start HIXL's server", message);
        let api = npu.cann().sys().hixl_cs().map_err(|why| unsupported(why.to_string()))?;
        let (device, machine) = (npu.device(), npu.config().machine());
        let here = config.look(device.chip(), ids(device)?, npu.identity(), machine)?;
        if here.endpoints.is_none() {
            return Err(unsupported(format!(
                "on {} only HIXL's class finds UB's endpoints; turn the C interface off",
                here.chip
            )));
        }
        let quality = here.quality(machine);
        let ports = config.candidates(here.ids)?;
        let release = release(npu.cann());
        let start = move |on: &Bound<'_>| start(on, api, &here, &ports, &release);
        let (server, resources, offer) = device.call(Work::Slow, "start HIXL's server", start)??;
        tracing::info!(server = %offer.engine, node = offer.node, release = offer.release, "HIXL's server listens");
        let shared = Shared {
            device: Arc::clone(device),
            api,
            server: ManuallyDrop::new(server),
            registry: Mutex::new(Registry::new(offer.mode.regions_max())),
            resources,
            quality,
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

/// One attempt for each port, until one succeeds.
fn start(
    on: &Bound<'_>,
    api: &'static hixl_cs::Api,
    here: &Here,
    ports: &[Ports],
    release: &str,
) -> Result<(Server, CString, Offer)> {
    let ways = here.endpoints.iter().flatten().map(|known| match known.protocol() {
        Protocol::Hccs => Way::Hccs,
        Protocol::Roce => Way::Roce,
    });
    let list: Vec<_> = ways.filter_map(|way| endpoint(way, here.ids, here.nic)).collect();
    let address = cstring(here.address);
    let mut tries = Tries::new(here, ports);
    while let Some(port) = tries.next() {
        let resources = here.resources(port.device, Mode::ClientServer)?;
        let engine = here.engine(port.host);
        let offer = here.offer(Api::C, Mode::ClientServer, engine, release)?;
        let number = match Server::listen(api, &list, &address, port.host, &resources) {
            Ok(server) => return Ok((server, resources, offer)),
            Err(number) => number,
        };
        let text = recent_text(on.acl());
        tries.failed(&codes::failed(number, "start HIXL's server", &format!("on {engine}"), text.as_deref()));
        if number != code::FAILED {
            break;
        }
    }
    Err(tries.unstarted("start HIXL's server"))
}

impl Native for HixlC {
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
        let ours = &self.shared.offer;
        let way = ours.way_to(&peer)?;
        let ends =
            endpoint(way, ours.ids, ours.nic).zip(endpoint(way, peer.ids, peer.nic)).ok_or_else(|| {
                let message = format!("the peer offers {way} and does not say by which endpoint");
                Error::new(ErrorKind::Protocol, "link over HIXL", message)
            })?;
        let mover = CMover::new(Arc::clone(&self.shared), peer, way, ends);
        Ok(Box::new(Staged::new(mover, DESCS_MAX, &self.shared.stages)))
    }

    fn probe_memory(&self) -> Result<Arc<Memory>> {
        Ok(Arc::clone(&self.shared.probe))
    }

    fn limits(&self) -> MoverLimits {
        limits(&self.shared.offer)
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server's side. It lets go of a region whatever clients do: the link engine asks only after they have let go.
impl Registers for Shared {
    fn register(&self, span: Span) -> Result<usize> {
        codes::registered(&self.device, "register with HIXL's server", span, self.server.register(span))
    }

    fn deregister(&self, handle: usize) -> Result<()> {
        codes::deregistered(&self.device, "deregister with HIXL's server", self.server.unregister(handle))
    }

    fn can_deregister(&self) -> bool {
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.device.origin().is_foreign() {
            return;
        }
        // SAFETY: taken once, here, and not used after.
        let server = unsafe { ManuallyDrop::take(&mut self.server) };
        let registry = self.registry.get_mut().unwrap_or_else(PoisonError::into_inner);
        let registry = std::mem::replace(registry, Registry::new(0));
        if registry.in_use() {
            tracing::error!(
                "HIXL's server is left as it is: a link of it was never ended; its memory is leaked"
            );
            std::mem::forget((server, registry));
            return;
        }
        self.device.retire("end HIXL's server", move |_| {
            registry.end(|handle| server.unregister(handle));
            server.end();
        });
    }
}
