//! A client: one directed link to one endpoint of a server. Calls on it wait for one another.

use std::collections::HashMap;
use std::ffi::CString;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::abi::{ClientWish, CommMem, CsEndpoint};
use super::server::backing;
use super::wire::{Answer, Ask, Tagged};
use crate::anchor::{self, Anchor};
use crate::dma::{Mover, Request};
use crate::hixl::batch::{Op, Post, SimHixlDesc, Tables};
use crate::hixl::endpoint::{Placement, Protocol, Way};
use crate::hixl::link::status_of;
use crate::hixl::regions::Regions;
use crate::hixl::status::*;
use crate::hixl::wire::{Published, Reached, decode, encode, open_all};
use crate::model::{Mode, Scope};
use crate::net::{Broken, Channel, Watch};
use crate::topology::DeviceKey;

/// Batches that nobody asked the end of.
const OPEN_MAX: usize = 4096;

/// A client of the C API.
pub(super) struct Client {
    anchor: Anchor,
    at: SocketAddr,
    /// The server's address as text, for fault scripts.
    remote: String,
    local: CsEndpoint,
    wanted: CsEndpoint,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    near: Regions<Reached>,
    /// Starts of regions by their handles.
    handles: HashMap<usize, u64>,
    link: Option<Link>,
    open: HashMap<usize, Arc<Request>>,
    last: usize,
    /// What `GetRemoteMem` gave out last.
    listed: Option<Listed>,
}

struct Link {
    channel: Channel,
    watch: Watch,
    mover: Mover,
    way: Way,
    far: Regions<Reached>,
}

/// Lists in the library's memory, until the next call or the end.
pub(super) struct Listed {
    memory: Box<[CommMem]>,
    _texts: Vec<CString>,
    /// Pointers to the texts.
    tags: Box<[usize]>,
}

impl Listed {
    /// Addresses of both lists, and how long they are.
    fn parts(&self) -> (usize, usize, u32) {
        (self.memory.as_ptr() as usize, self.tags.as_ptr() as usize, self.memory.len() as u32)
    }

    fn new(tagged: &[Tagged]) -> Self {
        let memory = tagged.iter().map(|one| {
            let Published { start, length, host, .. } = one.region;
            CommMem { kind: i32::from(host), address: start, size: length }
        });
        let texts: Vec<CString> =
            tagged.iter().map(|one| CString::new(one.tag.clone()).unwrap_or_default()).collect();
        let tags = texts.iter().map(|text| text.as_ptr() as usize).collect();
        Self { memory: memory.collect(), _texts: texts, tags }
    }
}

fn after(timeout_ms: u32) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms.into())
}

impl Client {
    /// `HixlCSClientCreate`.
    pub(super) fn new(wish: ClientWish) -> Outcome<Self> {
        let anchor = Anchor::of_thread().ok_or(FAILED)?;
        let ip = wish.at.0.parse().map_err(|_| PARAM_INVALID)?;
        let port = u16::try_from(wish.at.1).ok().filter(|port| *port > 0).ok_or(PARAM_INVALID)?;
        if wish.local.protocol != wish.remote.protocol {
            return Err(PARAM_INVALID);
        }
        let at = SocketAddr::new(ip, port);
        let (local, wanted) = (wish.local, wish.remote);
        Ok(Self { anchor, at, remote: at.to_string(), local, wanted, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `HixlCSClientRegMem`: also an identical range a second time is refused.
    pub(super) fn register(&self, mem: &CommMem) -> Outcome<usize> {
        let published = backing(&self.anchor, std::slice::from_ref(&self.local), mem, false)?;
        let reached = Reached::open(&published).map_err(|_| FAILED)?;
        let mut inner = self.inner();
        inner.near.add(reached)?;
        inner.last += 1;
        let handle = inner.last << 4;
        inner.handles.insert(handle, mem.address);
        Ok(handle)
    }

    /// `HixlCSClientUnregMem`: also while connected.
    pub(super) fn unregister(&self, handle: usize) -> Outcome {
        let mut inner = self.inner();
        let start = inner.handles.remove(&handle).ok_or(PARAM_INVALID)?;
        inner.near.remove(|region| region.start == start).map(drop).ok_or(PARAM_INVALID)
    }

    /// `HixlCSClientConnect`: a second time links anew.
    pub(super) fn connect(&self, timeout_ms: u32) -> Outcome {
        let mut inner = self.inner();
        let site = self.anchor.site("connect", Some(&self.remote));
        if !self.anchor.works() {
            return Err(FAILED);
        }
        if anchor::fault("out_of_streams", site).is_some() {
            return Err(RESOURCE_EXHAUSTED);
        }
        if let Some(hit) = anchor::fault("refuse", site) {
            return Err(hit.code(FAILED.cast_signed()).cast_unsigned());
        }
        if let Some(hit) = anchor::fault("blackhole_connect", site) {
            std::thread::sleep(hit.ms(u64::from(timeout_ms)));
            return Err(status_of(Broken::Timeout));
        }
        let deadline = after(timeout_ms);
        let mut channel = Channel::open(self.at, deadline).map_err(status_of)?;
        let ask = Ask::Match { wanted: self.wanted.wanted.clone(), release: self.anchor.release() };
        let far = match decode(&channel.ask(&encode(&ask), deadline).map_err(status_of)?) {
            Some(Answer::Matched(far)) => far,
            _ => return Err(FAILED),
        };
        let way = self.way(far).ok_or(FAILED)?;
        let mut tagged = fetch(&mut channel, deadline)?;
        if anchor::fault("peer_restart", site).is_some() {
            tagged.truncate(1);
        }
        let watch = channel.watch().ok_or(FAILED)?;
        self.take_down(&mut inner);
        inner.listed = None;
        inner.link = Some(Link { channel, watch, mover: Mover::new(), way, far: reached(&tagged) });
        Ok(())
    }

    /// The way to the server's device, if the machines have it.
    fn way(&self, far: DeviceKey) -> Option<Way> {
        let (near, machines) = (self.anchor.device(), self.anchor.machines());
        let reach = machines.reach(near, far);
        let nic =
            |end: &CsEndpoint, device| end.wanted.nic().and_then(|nic| machines.by_nic(&nic)) == Some(device);
        let works = match (self.local.protocol, self.local.placement) {
            (Protocol::Hccs, _) => reach.hccs && self.local.physical == near.physical,
            (Protocol::Roce, Placement::Device) => {
                (reach.roce || reach.same) && nic(&self.local, near) && nic(&self.wanted, far)
            }
            _ => true,
        };
        let scope = if near.server == far.server { Scope::OneHost } else { Scope::TwoHosts };
        let link = self.local.protocol.link();
        works.then_some(Way { link, chip: self.anchor.chip(), mode: Mode::ClientServer, scope })
    }

    /// `HixlCSClientGetRemoteMem`: asks anew; addresses of the two lists and their length.
    pub(super) fn remote_memory(&self, timeout_ms: u32) -> Outcome<(usize, usize, u32)> {
        let mut inner = self.inner();
        let link = inner.link.as_mut().ok_or(PARAM_INVALID)?;
        let tagged = fetch(&mut link.channel, after(timeout_ms))?;
        link.far = reached(&tagged);
        Ok(inner.listed.insert(Listed::new(&tagged)).parts())
    }

    /// `HixlCSClientBatchPutAsync` and its kin.
    pub(super) fn post(&self, op: Op, descs: &[SimHixlDesc]) -> Outcome<usize> {
        let mut inner = self.inner();
        if inner.open.len() >= OPEN_MAX {
            return Err(RESOURCE_EXHAUSTED);
        }
        let request = self.submit(&inner, op, descs, None)?;
        inner.last += 1;
        let handle = inner.last << 4;
        inner.open.insert(handle, request);
        Ok(handle)
    }

    /// `HixlCSClientBatchPutSync` and its kin: holds up all other calls. No time at all is a timeout, too.
    pub(super) fn run(&self, op: Op, descs: &[SimHixlDesc], timeout_ms: u32) -> Outcome {
        let inner = self.inner();
        let timeout = Duration::from_millis(timeout_ms.into());
        let request = self.submit(&inner, op, descs, Some(timeout))?;
        let end = if timeout_ms == 0 { None } else { request.wait(Instant::now() + timeout) };
        match end {
            Some(true) => Ok(()),
            Some(false) => Err(FAILED),
            None => {
                if let Some(link) = &inner.link {
                    link.mover.latch();
                }
                Err(TIMEOUT)
            }
        }
    }

    fn submit(
        &self,
        inner: &Inner,
        op: Op,
        descs: &[SimHixlDesc],
        timeout: Option<Duration>,
    ) -> Outcome<Arc<Request>> {
        let link = inner.link.as_ref().ok_or(PARAM_INVALID)?;
        if link.mover.is_latched() || !self.anchor.works() {
            return Err(FAILED);
        }
        if descs.is_empty() || descs.iter().any(|desc| desc.local == 0 || desc.remote == 0) {
            return Err(PARAM_INVALID);
        }
        let tables = Tables { near: &inner.near, far: &link.far, way: link.way, staging: None };
        let batch = tables.check(op, descs.iter().copied())?;
        let gone = link.watch.is_closed();
        Post { mover: &link.mover, anchor: &self.anchor, remote: &self.remote, gone }.post(op, batch, timeout)
    }

    /// `HixlCSClientQueryCompleteStatus`: the end is told once.
    pub(super) fn status(&self, handle: usize) -> Outcome<u32> {
        let mut inner = self.inner();
        let end = inner.open.get(&handle).ok_or(PARAM_INVALID)?.end();
        let Some(well) = end else { return Ok(transfer::WAITING) };
        inner.open.remove(&handle);
        Ok(if well { transfer::COMPLETED } else { transfer::FAILED })
    }

    /// `HixlCSClientDestroy`.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        self.take_down(&mut inner);
        *inner = Inner::default();
    }

    fn take_down(&self, inner: &mut Inner) {
        if let Some(link) = inner.link.take() {
            link.mover.end(anchor::quiesce(self.anchor.site("destroy", Some(&self.remote))));
        }
    }
}

/// Asks for all regions.
fn fetch(channel: &mut Channel, deadline: Instant) -> Outcome<Vec<Tagged>> {
    match decode(&channel.ask(&encode(&Ask::Regions), deadline).map_err(status_of)?) {
        Some(Answer::Regions(tagged)) => Ok(tagged),
        _ => Err(FAILED),
    }
}

fn reached(tagged: &[Tagged]) -> Regions<Reached> {
    let regions: Vec<Published> = tagged.iter().map(|one| one.region.clone()).collect();
    open_all(&regions)
}
