//! Host memory as the local end: a device cannot copy between the host and another device's memory, so bytes rest in our own
//! device's memory on their way, and in pinned memory where the host's is not pinned.
//!
//! Each request has a stage of its own, and a mover has two: while one is on its stream, the other is filled or emptied. The host's
//! part is cut small, since it runs on the posting thread.

use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Op, Result};
use ropeway_transport::Memory;
use ropeway_transport::copy::{self, Routine};

use crate::device::Bound;
use crate::link::Desc;
use crate::npu::Npu;
use crate::stream::{Stream, Way};

/// Bytes of one stage: what the host copies at a time.
const STAGE: u64 = 512 << 10;

/// Room for bytes on their way.
pub(super) struct Stage {
    device: Arc<Memory>,
    pinned: Arc<Memory>,
}

impl Stage {
    /// Blocks: on slow threads.
    pub(super) fn new(npu: &Npu) -> Result<Self> {
        Ok(Self { device: npu.alloc(STAGE)?, pinned: npu.alloc_pinned(STAGE)? })
    }

    fn device_at(&self, at: u64) -> u64 {
        self.device.device().map_or(0, |range| range.address()) + at
    }

    fn pinned_at(&self, at: u64) -> u64 {
        self.pinned.range(at, 0).map_or(0, |byte| byte.addr().get() as u64)
    }
}

/// Our host memory by address.
#[derive(Default)]
pub(super) struct Hosts(Vec<(u64, Arc<Memory>)>);

impl Hosts {
    pub(super) fn add(&mut self, memory: &Arc<Memory>) -> Result<()> {
        let base = memory.base().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "register", "memory that is neither the host's nor an NPU's")
        })?;
        self.0.push((base.addr().get() as u64, Arc::clone(memory)));
        Ok(())
    }

    pub(super) fn remove(&mut self, memory: &Arc<Memory>) {
        if let Some(at) = self.0.iter().position(|(_, known)| Arc::ptr_eq(known, memory)) {
            self.0.swap_remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The memory in which an address lies, and where.
    pub(super) fn find(&self, address: u64) -> Option<(&Arc<Memory>, u64)> {
        self.0.iter().find_map(|(base, memory)| {
            let at = address.checked_sub(*base).filter(|at| *at < memory.len())?;
            Some((memory, at))
        })
    }
}

/// A request some of whose local ends are in host memory.
pub(super) struct Staged {
    op: Op,
    descs: Vec<Desc>,
    /// The next descriptor, and how much of it went before.
    next: usize,
    done: u64,
    stage: Stage,
    /// What is in the stage: where, and which bytes of the host.
    pieces: Vec<Piece>,
}

struct Piece {
    memory: Arc<Memory>,
    host: u64,
    at: u64,
    len: u64,
}

impl Staged {
    pub(super) fn new(op: Op, descs: &[Desc], stage: Stage) -> Self {
        Self { op, descs: descs.to_vec(), next: 0, done: 0, stage, pieces: Vec::new() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.next == self.descs.len()
    }

    pub(super) fn into_stage(self) -> Stage {
        self.stage
    }

    /// Submits what fits into the stage. What was submitted before must be over, and [`Self::land`] called.
    ///
    /// # Errors
    /// The library, or the host's memory, refused; something may be on the stream.
    pub(super) fn submit(&mut self, on: &Bound<'_>, hosts: &Hosts, stream: &Stream) -> Result<()> {
        let mut fill = 0;
        let mut remote = Vec::new();
        while fill < STAGE
            && let Some(desc) = self.descs.get(self.next)
        {
            let Some((memory, at)) = hosts.find(desc.local) else {
                // In our device's memory: no rest on the way.
                self.direct(on, stream, desc.local, desc.remote, desc.len)?;
                self.next += 1;
                continue;
            };
            let len = (desc.len - self.done).min(STAGE - fill);
            let piece = Piece { memory: Arc::clone(memory), host: at + self.done, at: fill, len };
            if self.op == Op::Write {
                piece.carry(&self.stage.pinned, false)?;
            }
            remote.push((desc.remote + self.done, fill, len));
            self.pieces.push(piece);
            fill += len;
            self.done += len;
            if self.done == desc.len {
                (self.next, self.done) = (self.next + 1, 0);
            }
        }
        if fill == 0 {
            return Ok(());
        }
        let (device, pinned) = (self.stage.device_at(0), self.stage.pinned_at(0));
        if self.op == Op::Write {
            // SAFETY: both are the stage's, which lives until the stream has passed, of which `fill` bytes are used.
            unsafe { stream.copy(on, device, pinned, fill, Way::ToDevice) }?;
        }
        for (remote, at, len) in remote {
            self.direct(on, stream, self.stage.device_at(at), remote, len)?;
        }
        if self.op == Op::Read {
            // SAFETY: as above.
            unsafe { stream.copy(on, pinned, device, fill, Way::ToHost) }?;
        }
        Ok(())
    }

    /// Between our device's memory and the peer's.
    fn direct(&self, on: &Bound<'_>, stream: &Stream, local: u64, remote: u64, len: u64) -> Result<()> {
        let (to, from) = match self.op {
            Op::Read => (local, remote),
            Op::Write => (remote, local),
        };
        // SAFETY: ours is the stage's or a registered region's, the peer's an imported one's: the engine keeps both, and has
        // checked the bounds, until this request is reported as over.
        unsafe { stream.copy(on, to, from, len, Way::Device) }
    }

    /// The stream has passed: what was read goes to the host.
    pub(super) fn land(&mut self) -> Result<()> {
        let pieces = std::mem::take(&mut self.pieces);
        if self.op == Op::Read {
            pieces.iter().try_for_each(|piece| piece.carry(&self.stage.pinned, true))?;
        }
        Ok(())
    }
}

impl Piece {
    /// Copies between the host's memory and the pinned stage.
    fn carry(&self, pinned: &Memory, to_host: bool) -> Result<()> {
        let beyond = || Error::new(ErrorKind::OutOfBounds, "stage", "a piece passes the end of its memory");
        let host = self.memory.range(self.host, self.len).ok_or_else(beyond)?;
        let rest = pinned.range(self.at, self.len).ok_or_else(beyond)?;
        let (to, from) = if to_host { (host, rest) } else { (rest, host) };
        // SAFETY: both ranges were checked and are mapped while their memory lives, which this piece and the stage hold; they
        // are apart, for the stage is ours alone; the engine reads into writable memory only, as was checked when it was
        // registered.
        unsafe { copy::copy(to.as_ptr(), from.as_ptr(), self.len as usize, Routine::Plain) };
        copy::store_fence();
        Ok(())
    }
}
