//! Copies between host memory and a device where no link does it: through two pinned buffers on two streams, so that one
//! is filled or emptied while the other is on its way.

use std::sync::Arc;
use std::time::Duration;

use ropeway_core::{Error, ErrorKind, Op, Quiet, Result};
use ropeway_transport::copy::{self, Routine};
use ropeway_transport::{Janitor, Memory};

use crate::device::{Bound, Device};
use crate::pinned;
use crate::stream::{Stream, Way};

/// Bytes of one buffer, unless said otherwise.
pub const STAGE: u64 = 8 << 20;

/// One piece to copy: contiguous on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Offset in the host's memory.
    pub host: u64,
    /// Offset in the device's memory.
    pub device: u64,
    /// Bytes.
    pub len: u64,
}

/// Two pinned buffers and their streams. Its calls block: they belong on a copying or slow thread.
pub struct Staging {
    stages: [Stage; 2],
    bytes: u64,
    broken: bool,
}

struct Stage {
    stream: Stream,
    buffer: Arc<Memory>,
    /// What is in the buffer and must be copied to the host, as (offset in the buffer, piece).
    landing: Vec<(u64, Piece)>,
    busy: bool,
}

impl Staging {
    /// Two buffers of `bytes` bytes each, at least one page. `on` must be of `device`.
    ///
    /// # Errors
    /// `Full`: no stream is left. `Resource`: not so much pinned memory.
    pub fn new(device: &Arc<Device>, on: &Bound<'_>, bytes: u64, janitor: &Janitor) -> Result<Self> {
        let bytes = bytes.max(4096);
        let stage = || {
            let stream = Stream::create(device, on)?;
            let buffer = pinned::alloc(device, bytes, janitor)?;
            Ok::<_, Error>(Stage { stream, buffer, landing: Vec::new(), busy: false })
        };
        Ok(Self { stages: [stage()?, stage()?], bytes, broken: false })
    }

    /// Copies pieces of `host` to the device's memory from `base` on, and returns when they are there.
    ///
    /// # Errors
    /// `OutOfBounds`: a piece passes the end of `host`. `TimedOut` and others: part of the bytes may be there; when
    /// `local()` is `AfterClose`, the device may still write them.
    ///
    /// # Safety
    /// Each piece's range from `base` on is memory of this device that stays mapped and writable until this returns, and for ever
    /// when it returns an error with `local()` not `Yes`.
    pub unsafe fn to_device(
        &mut self,
        on: &Bound<'_>,
        host: &Memory,
        base: u64,
        pieces: impl IntoIterator<Item = Piece>,
        timeout: Duration,
    ) -> Result<()> {
        self.check()?;
        // SAFETY: passed on.
        let outcome = unsafe { self.pass(on, Op::Write, host, base, pieces, timeout) };
        self.settle(on, host, outcome, timeout)
    }

    /// Copies pieces of the device's memory from `base` on to `host`, and returns when they are there.
    ///
    /// # Errors
    /// As [`Self::to_device`], and `Denied`: `host` cannot be written.
    ///
    /// # Safety
    /// As [`Self::to_device`], to be read instead of written.
    pub unsafe fn to_host(
        &mut self,
        on: &Bound<'_>,
        host: &Memory,
        base: u64,
        pieces: impl IntoIterator<Item = Piece>,
        timeout: Duration,
    ) -> Result<()> {
        self.check()?;
        if !host.is_writable() {
            return Err(Error::new(
                ErrorKind::Denied,
                "stage",
                "the host's memory is mapped to be read only",
            ));
        }
        // SAFETY: passed on.
        let outcome = unsafe { self.pass(on, Op::Read, host, base, pieces, timeout) };
        self.settle(on, host, outcome, timeout)
    }

    /// Puts all pieces on the streams: a `Write` to the device, a `Read` to the buffers, out of which [`Stage::land`] takes them.
    unsafe fn pass(
        &mut self,
        on: &Bound<'_>,
        op: Op,
        host: &Memory,
        base: u64,
        pieces: impl IntoIterator<Item = Piece>,
        timeout: Duration,
    ) -> Result<()> {
        let room = self.bytes;
        let mut at = 0;
        let mut fill = 0;
        for piece in pieces {
            let mut rest = piece;
            while rest.len > 0 {
                if fill == room {
                    (at, fill) = (1 - at, 0);
                }
                if fill == 0 {
                    self.stages[at].land(on, host, timeout)?;
                }
                let part = rest.take(room - fill);
                check_range(host, part.host, part.len)?;
                let stage = &mut self.stages[at];
                let (buffer, device) = (stage.address(fill)?, base + part.device);
                let (to, from, way) = match op {
                    Op::Read => (buffer, device, Way::ToHost),
                    Op::Write => (device, buffer, Way::ToDevice),
                };
                match op {
                    Op::Read => stage.landing.push((fill, part)),
                    Op::Write => move_bytes(&stage.buffer, fill, host, part.host, part.len)?,
                }
                stage.busy = true;
                // SAFETY: the caller vouches for the device's range; the buffer is ours until the stream has passed.
                unsafe { stage.stream.copy(on, to, from, part.len, way) }?;
                fill += part.len;
            }
        }
        Ok(())
    }

    /// Waits for both stages; after a failure, aborts both and finds out whether they are quiet.
    fn settle(
        &mut self,
        on: &Bound<'_>,
        host: &Memory,
        outcome: Result<()>,
        timeout: Duration,
    ) -> Result<()> {
        let outcome =
            outcome.and_then(|()| self.stages.iter_mut().try_for_each(|stage| stage.land(on, host, timeout)));
        let Err(error) = outcome else { return Ok(()) };
        // Both, whatever the first one says.
        let quiet = self.stages.each_mut().map(|stage| stage.stop(on));
        if quiet == [true, true] {
            return Err(error);
        }
        self.broken = true;
        let remote = error.remote();
        Err(error.with_quiet(Quiet::AfterClose, remote))
    }

    fn check(&self) -> Result<()> {
        if !self.broken {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Closed,
            "stage",
            "an earlier copy could not be ended, so its buffers are not quiet; the device is to be reset",
        ))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.broken {
            // The device may still write to them: a leak is better.
            for stage in &self.stages {
                std::mem::forget(stage.buffer.clone());
            }
        }
    }
}

impl Stage {
    /// Waits until the stream has passed everything, and brings what landed to the host.
    fn land(&mut self, on: &Bound<'_>, host: &Memory, timeout: Duration) -> Result<()> {
        if !self.busy {
            return Ok(());
        }
        self.stream.wait(on, timeout)?;
        self.busy = false;
        for (at, piece) in self.landing.drain(..) {
            move_bytes(host, piece.host, &self.buffer, at, piece.len)?;
        }
        Ok(())
    }

    /// Ends what is in flight; whether it is over.
    fn stop(&mut self, on: &Bound<'_>) -> bool {
        self.landing.clear();
        if !std::mem::take(&mut self.busy) {
            return true;
        }
        self.stream.stop(on)
    }

    fn address(&self, at: u64) -> Result<u64> {
        check_range(&self.buffer, at, 0).map(|first| first.addr().get() as u64)
    }
}

impl Piece {
    /// Splits off the first `len` bytes at most.
    fn take(&mut self, len: u64) -> Self {
        let part = Self { len: self.len.min(len), ..*self };
        self.host += part.len;
        self.device += part.len;
        self.len -= part.len;
        part
    }
}

fn check_range(memory: &Memory, at: u64, len: u64) -> Result<std::ptr::NonNull<u8>> {
    memory.range(at, len).ok_or_else(|| {
        Error::new(
            ErrorKind::OutOfBounds,
            "stage",
            format!("{len} bytes at {at} pass the end of the host's memory ({})", memory.len()),
        )
    })
}

/// Copies between two pieces of host memory that peers may touch.
pub(crate) fn move_bytes(to: &Memory, to_at: u64, from: &Memory, from_at: u64, len: u64) -> Result<()> {
    let to = check_range(to, to_at, len)?;
    let from = check_range(from, from_at, len)?;
    // SAFETY: both ranges were checked and are mapped while their memory lives; one is a buffer of our own, so they are
    // apart; the written one is our buffer, or was checked to be writable.
    unsafe { copy::copy(to.as_ptr(), from.as_ptr(), len as usize, Routine::Plain) };
    copy::store_fence();
    Ok(())
}
