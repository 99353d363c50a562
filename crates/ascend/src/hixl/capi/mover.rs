//! One client of HIXL's: one peer, one direction.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ascend_sys::hixl_cs::EndpointDesc;
use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result};
use ropeway_transport::Memory;

use super::Shared;
use super::calls::Client;
use crate::curves::Cuts;
use crate::error::recent_text;
use crate::hixl::codes;
use crate::hixl::here::cstring;
use crate::hixl::limits::DESCS_MAX;
use crate::hixl::offer::Offer;
use crate::hixl::region::{Description, spans, takes};
use crate::hixl::registry::{Key, Registers, Registry, Span};
use crate::hixl::way::Way;
use crate::link::{Connected, Desc, Failure, Imported, Mover, Polled, PostError, Request, Teardown};
use crate::stage::Direct;

/// The shortest time that the library is given; it takes 0 for a time that is over, and latches.
const TIMEOUT_MIN: Duration = Duration::from_millis(200);

pub(super) struct CMover {
    shared: Arc<Shared>,
    peer: Offer,
    way: Way,
    ends: (EndpointDesc, EndpointDesc),
    address: CString,
    client: Option<Client>,
    /// Requests of this client, or the last one, of which the library has not said that they completed; those that failed
    /// stay.
    outstanding: u32,
    regions: HashMap<RegionId, Ours>,
    imports: HashMap<RegionId, Description>,
    /// Memory that the client still has, though nobody asks for it any more.
    held: Vec<Arc<Memory>>,
}

/// A region of ours.
struct Ours {
    /// Its registration with the server.
    key: Key,
    span: Span,
    memory: Arc<Memory>,
}

impl CMover {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: Offer,
        way: Way,
        ends: (EndpointDesc, EndpointDesc),
    ) -> Self {
        let address = cstring(peer.engine.ip());
        let (client, outstanding) = (None, 0);
        let (regions, imports, held) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { shared, peer, way, ends, address, client, outstanding, regions, imports, held }
    }

    /// A client with everything registered, connected, that sees what was imported.
    fn build(&self, until: Instant) -> Result<Client> {
        let failed = |number| {
            let text = recent_text(self.shared.device.acl());
            codes::unconnected(&self.shared.device, number, &self.peer.engine.to_string(), text.as_deref())
        };
        let client = Client::create(
            self.shared.api,
            (&self.ends.0, &self.ends.1),
            (&self.address, self.peer.engine.port()),
            self.shared.quality,
            &self.shared.resources,
            DESCS_MAX,
        );
        let mut client = client.map_err(failed)?;
        match self.prepare(&mut client, until) {
            Ok(()) => Ok(client),
            Err(error) => {
                // It never posted, so nothing is in flight. What it registered may stay so.
                if client.end().is_err() {
                    let known: Vec<_> = self.regions.values().map(|ours| Arc::clone(&ours.memory)).collect();
                    std::mem::forget(known);
                }
                Err(error)
            }
        }
    }

    fn prepare(&self, client: &mut Client, until: Instant) -> Result<()> {
        // The same rules as the server's: overlaps are refused, pieces of one range are one registration.
        let mut local = Registry::new(self.shared.offer.mode.regions_max());
        let once = Once { client: std::cell::RefCell::new(client), shared: &self.shared };
        for ours in self.in_order() {
            local.add(ours.span, None, &ours.memory, &once)?;
        }
        let failed = |number| {
            let text = recent_text(self.shared.device.acl());
            codes::unconnected(&self.shared.device, number, &self.peer.engine.to_string(), text.as_deref())
        };
        client.connect(millis(until)).map_err(failed)?;
        if self.imports.is_empty() {
            return Ok(());
        }
        let there = client.remote_memory(millis(until)).map_err(failed)?;
        for (region, wanted) in &self.imports {
            if !there.iter().any(|span| wanted.lies_in(*span)) {
                let message = format!(
                    "region {region} of the peer is not open at its server; refresh the peer's directory"
                );
                return Err(Error::new(ErrorKind::LinkLost, "connect with HIXL", message));
            }
        }
        Ok(())
    }

    /// Outer ranges before the ranges within them.
    fn in_order(&self) -> Vec<&Ours> {
        let mut ours: Vec<_> = self.regions.values().collect();
        ours.sort_by_key(|ours| (ours.span.address, std::cmp::Reverse(ours.span.len)));
        ours
    }

    /// Ends the client, if there is one, and lets go of what it alone kept. False: nothing is known of its end, so the memory
    /// of everything that it may have registered is leaked.
    fn end(&mut self) -> bool {
        let Some(client) = self.client.take() else { return true };
        let held = std::mem::take(&mut self.held);
        let Err(number) = client.end() else { return true };
        let text = recent_text(self.shared.device.acl());
        let error =
            codes::failed(number, "disconnect with HIXL", &self.peer.engine.to_string(), text.as_deref());
        tracing::warn!(%error, "a client of HIXL did not end well; the memory of its regions is leaked");
        let known: Vec<_> = self.regions.values().map(|ours| Arc::clone(&ours.memory)).collect();
        std::mem::forget((held, known));
        false
    }
}

/// Registers with a client while it is built.
struct Once<'a> {
    client: std::cell::RefCell<&'a mut Client>,
    shared: &'a Shared,
}

impl Registers for Once<'_> {
    fn register(&self, span: Span) -> Result<usize> {
        let done = self.client.borrow_mut().register(span).map(|()| 0);
        codes::registered(&self.shared.device, "register with HIXL's client", span, done)
    }

    fn deregister(&self, _handle: usize) -> Result<()> {
        Ok(())
    }

    fn can_deregister(&self) -> bool {
        false
    }
}

// SAFETY: as for the class's mover: `Done` is the library's word, asked once; `Over` and `Busy` are refusals before anything is
// submitted; a teardown is `Proven` only when every request had ended.
unsafe impl Mover for CMover {
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        let shared = &*self.shared;
        let found = spans(memory, &shared.device, (self.way, shared.offer.chip), shared.any_pages)?;
        let key = shared.registry().add(found.span, None, memory, shared)?;
        let ours = Ours { key, span: found.span, memory: Arc::clone(memory) };
        if let Some(before) = self.regions.insert(region, ours) {
            shared.registry().remove(before.key, shared)?;
        }
        Ok(Description::of(found.span).encode())
    }

    fn deregister(&mut self, region: RegionId) -> Result<()> {
        let Some(ours) = self.regions.remove(&region) else { return Ok(()) };
        let removed = self.shared.registry().remove(ours.key, &*self.shared);
        if self.client.is_some() {
            // The client holds it to its end, whatever the server has done.
            self.held.push(ours.memory);
        }
        removed
    }

    fn import(&mut self, region: RegionId, len: u64, description: &[u8]) -> Result<Imported> {
        let description = Description::decode(description, len)?;
        description.check_reach(self.way.reach(self.shared.offer.chip), self.way)?;
        self.imports.insert(region, description);
        Ok(Imported { base: description.address })
    }

    fn release(&mut self, region: RegionId) -> Result<()> {
        self.imports.remove(&region);
        Ok(())
    }

    fn connect(&mut self, timeout: Duration) -> Result<Connected> {
        // Nothing is in flight: a client that is there already is one that lacks later regions.
        self.end();
        self.client = Some(self.build(Instant::now() + timeout)?);
        self.outstanding = 0;
        Ok(Connected::New)
    }

    fn disconnect(&mut self, _timeout: Duration) -> Teardown {
        // What is outstanding stays counted: a second call proves no more than this one.
        if self.end() && self.outstanding == 0 { Teardown::Proven } else { Teardown::Unproven }
    }

    #[inline]
    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        let Some(client) = &mut self.client else {
            let code = crate::hixl::shim::code::NOT_CONNECTED.cast_signed();
            return Err(PostError::Failed(Failure::Latched { code }));
        };
        // SAFETY: the link engine keeps the memory of a request until it is `Done`, `Over`, or its link was torn down and the
        // window has passed, as this trait asks of it.
        match unsafe { client.post(op, descs) } {
            Ok(request) => {
                self.outstanding += 1;
                Ok(Request(request))
            }
            Err(number) => {
                let refused = codes::posted(&self.shared.device, number);
                if matches!(refused, PostError::Failed(Failure::Latched { .. })) {
                    // Part of it may be on its way, and nothing will tell its end.
                    self.outstanding += 1;
                }
                Err(refused)
            }
        }
    }

    #[inline]
    fn poll(&mut self, request: Request) -> Polled {
        let Some(client) = &mut self.client else {
            let code = crate::hixl::shim::code::NOT_CONNECTED.cast_signed();
            return Polled::Failed(Failure::Latched { code });
        };
        let polled = codes::polled(&self.shared.device, client.status(request.0));
        if polled == Polled::Done {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        polled
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

impl Direct for CMover {
    fn takes(&self, memory: &Arc<Memory>) -> bool {
        takes(memory, &self.shared.device, self.way, self.shared.offer.chip)
    }
}

impl Drop for CMover {
    fn drop(&mut self) {
        if self.client.is_some() || !self.regions.is_empty() {
            tracing::warn!(peer = %self.peer.engine, "a link by HIXL was left as it was; its regions stay registered");
            let kept =
                (self.client.take(), std::mem::take(&mut self.regions), std::mem::take(&mut self.held));
            std::mem::forget(kept);
        }
    }
}

fn millis(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now()).max(TIMEOUT_MIN);
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}
