//! A mover that stages what the native one does not take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result};
use ropeway_transport::Memory;

use super::Stages;
use super::flow::{Broken, Flow, Remains, Tools, Turn};
use super::hosts::Hosts;
use super::places::{Place, Room};
use crate::curves::Cuts;
use crate::link::{Busy, Connected, Desc, Failure, Imported, Mover, Polled, PostError, Request, Teardown};

/// How the native mover names the stage's memory: no engine hands this id out.
const STAGE: RegionId = RegionId { slot: u32::MAX - 1, generation: u32::MAX };
/// What a peer is told of a region that is a local end only.
const NOT_AT_ALL: &[u8] = &[u8::MAX];
/// Set in the numbers of staged requests. Native ones are counted, or addresses, and never come that far.
const STAGED: u64 = 1 << 63;
/// Places of one request: one is on its way while the other is filled or emptied.
const PLACES_EACH: usize = 2;

/// A native mover that says what it takes by itself.
pub(crate) trait Direct: Mover {
    /// Whether its requests can have this memory as an end.
    fn takes(&self, memory: &Arc<Memory>) -> bool;
}

/// See the module.
pub(crate) struct Staged<M: Direct> {
    inner: M,
    descs_max: usize,
    stages: Arc<Stages>,
    /// There while any region is staged.
    room: Option<Room>,
    hosts: Hosts,
    flying: HashMap<u64, Flow>,
    next: u64,
    /// The library may still touch them: for others once this link's regions are let go of, and not before.
    given_up: Vec<Place>,
    /// A copy of ours neither ended nor let itself be stopped.
    lost: bool,
}

impl<M: Direct> Staged<M> {
    pub(crate) fn new(inner: M, descs_max: usize, stages: &Arc<Stages>) -> Self {
        Self {
            inner,
            descs_max,
            stages: Arc::clone(stages),
            room: None,
            hosts: Hosts::default(),
            flying: HashMap::new(),
            next: 0,
            given_up: Vec::new(),
            lost: false,
        }
    }

    fn register_host(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        if !memory.is_writable() {
            let text = format!("region {region} is mapped to be read only");
            return Err(Error::new(ErrorKind::Denied, "register", text));
        }
        if self.room.is_none() {
            let device = Arc::clone(self.stages.device());
            let on = device.bound().map_or_else(|| device.adopt_thread(), Ok)?;
            let room = self.stages.open(&on)?;
            self.inner.register(STAGE, &room.device)?;
            self.room = Some(room);
        }
        self.hosts.add(region, memory)?;
        Ok(Bytes::from_static(NOT_AT_ALL))
    }

    /// The last staged region is gone, and by the engine's rules nothing of this link touches memory any more.
    fn let_room_go(&mut self) -> Result<()> {
        if !self.hosts.is_empty() || self.room.take().is_none() {
            return Ok(());
        }
        if !self.lost {
            self.given_up.drain(..).for_each(|place| self.stages.give(place));
        }
        self.inner.deregister(STAGE)
    }

    fn post_staged(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        let busy = PostError::Busy(Busy { code: 0 });
        let places: Vec<_> = (0..PLACES_EACH).map_while(|_| self.stages.take()).collect();
        if places.is_empty() {
            return Err(busy);
        }
        let mut flow = Flow::new(op, descs, places);
        let refused = match self.advance(&mut flow) {
            Ok(Turn::Waiting) if !flow.is_begun() => Some(busy),
            Ok(Turn::Over(Some(code))) => Some(PostError::Failed(Failure::Over { code })),
            Err(Broken { code, cut: true }) if !flow.is_begun() => Some(PostError::Cut { code }),
            Ok(_) => None,
            Err(Broken { code, .. }) => {
                // The engine takes it for begun, and so do we: `disconnect` finds out.
                self.keep(flow);
                return Err(PostError::Failed(Failure::Latched { code }));
            }
        };
        match refused {
            None => Ok(self.keep(flow)),
            Some(refused) => {
                flow.places().for_each(|place| self.stages.give(place));
                Err(refused)
            }
        }
    }

    fn keep(&mut self, flow: Flow) -> Request {
        let number = self.next | STAGED;
        self.next += 1;
        self.flying.insert(number, flow);
        Request(number)
    }

    fn advance(&mut self, flow: &mut Flow) -> Result<Turn, Broken> {
        let broken = Broken { code: 0, cut: false };
        let device = Arc::clone(self.stages.device());
        let (Some(on), Some(room)) = (device.bound(), &self.room) else { return Err(broken) };
        flow.advance(&mut Tools {
            on: &on,
            inner: &mut self.inner,
            hosts: &self.hosts,
            room,
            stages: &self.stages,
            descs_max: self.descs_max,
        })
    }

    fn poll_staged(&mut self, request: Request) -> Polled {
        let Some(mut flow) = self.flying.remove(&request.0) else {
            return Polled::Failed(Failure::Latched { code: 0 });
        };
        match self.advance(&mut flow) {
            Ok(Turn::Waiting) => {
                self.flying.insert(request.0, flow);
                Polled::Waiting
            }
            Ok(Turn::Over(failed)) => {
                flow.places().for_each(|place| self.stages.give(place));
                failed.map_or(Polled::Done, |code| Polled::Failed(Failure::Over { code }))
            }
            Err(Broken { code, .. }) => {
                self.flying.insert(request.0, flow);
                Polled::Failed(Failure::Latched { code })
            }
        }
    }

    /// What is in flight is given up: the copies are ended here, the native requests by the native mover.
    fn end_all(&mut self, timeout: Duration, is_native_proven: bool) {
        if self.flying.is_empty() {
            return;
        }
        let device = Arc::clone(self.stages.device());
        let on = device.bound().map_or_else(|| device.adopt_thread(), Ok).ok();
        for (_, flow) in std::mem::take(&mut self.flying) {
            let ended: Vec<_> = flow.end(on.as_ref(), self.stages.slots(), timeout).collect();
            for (place, remains) in ended {
                match remains {
                    Remains::Nothing => self.stages.give(place),
                    Remains::Native if is_native_proven => self.stages.give(place),
                    Remains::Native => self.given_up.push(place),
                    Remains::Copy => self.lose(),
                }
            }
        }
    }

    /// Something may be under way for ever: the stage's memory is never let go of, and the place never used again.
    fn lose(&mut self) {
        self.lost = true;
        std::mem::forget(Arc::clone(&self.stages));
    }
}

// SAFETY: a staged request is `Done` or `Over` when each of its native requests was, by the native mover's word, and each of its
// copies has passed its stream, or nothing was submitted; `Busy` and `Cut` are said of one of which nothing was submitted. A
// teardown is no better than the native one's, and `Never` when a copy is not proven over. All else is the native mover's.
unsafe impl<M: Direct> Mover for Staged<M> {
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        if self.inner.takes(memory) {
            return self.inner.register(region, memory);
        }
        self.register_host(region, memory)
    }

    fn deregister(&mut self, region: RegionId) -> Result<()> {
        if !self.hosts.remove(region) {
            return self.inner.deregister(region);
        }
        self.let_room_go()
    }

    fn import(&mut self, region: RegionId, len: u64, description: &[u8]) -> Result<Imported> {
        if description == NOT_AT_ALL {
            let text =
                format!("the peer's region {region} is host memory that this way does not reach; take tcp");
            return Err(Error::new(ErrorKind::Unsupported, "import", text));
        }
        self.inner.import(region, len, description)
    }

    fn release(&mut self, region: RegionId) -> Result<()> {
        self.inner.release(region)
    }

    fn connect(&mut self, timeout: Duration) -> Result<Connected> {
        self.inner.connect(timeout)
    }

    fn disconnect(&mut self, timeout: Duration) -> Teardown {
        let proof = self.inner.disconnect(timeout);
        self.end_all(timeout, proof == Teardown::Proven);
        if self.lost { Teardown::Never } else { proof }
    }

    #[inline]
    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        if self.hosts.is_empty() || !descs.iter().any(|desc| self.hosts.find(desc.local).is_some()) {
            return self.inner.post(op, descs);
        }
        self.post_staged(op, descs)
    }

    #[inline]
    fn poll(&mut self, request: Request) -> Polled {
        if request.0 & STAGED == 0 { self.inner.poll(request) } else { self.poll_staged(request) }
    }

    fn is_driven(&self) -> bool {
        !self.flying.is_empty()
    }

    fn stages(&self, region: RegionId) -> bool {
        self.hosts.has(region)
    }

    fn cuts(&self) -> Cuts {
        self.inner.cuts()
    }

    fn is_peer_gone(&mut self) -> bool {
        self.inner.is_peer_gone()
    }

    fn explain(&self, code: i32) -> Error {
        self.inner.explain(code)
    }
}

impl<M: Direct> Drop for Staged<M> {
    fn drop(&mut self) {
        // After `disconnect` nothing flies, and after the last `deregister` no place is given up. Before, the engine knows nothing of
        // their end: the memory of the stage is leaked, with what may be on streams.
        let left = std::mem::take(&mut self.flying);
        if !left.is_empty() || !self.given_up.is_empty() {
            tracing::warn!("a link was left as it was; the memory that it staged through is leaked");
            self.lose();
        }
        std::mem::forget(left);
    }
}
