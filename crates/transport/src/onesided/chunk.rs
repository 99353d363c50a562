//! Moving one chunk: into the fence, the bytes, a store fence, the confirmation, out of the fence.

use std::sync::Arc;

use ropeway_core::{GrantId, Op, Run, StatusKind};

use super::import::{Import, Place};
use super::link::{LinkCore, Way};
use crate::Memory;
use crate::copy::{self, Routine};
use crate::fence::Stale;

/// What all chunks of a batch have in common.
pub(super) struct Parts<'a> {
    pub(super) op: Op,
    pub(super) grant: GrantId,
    pub(super) local: &'a [Arc<Memory>],
    pub(super) remote: &'a [Arc<Import>],
    pub(super) routine: Routine,
}

/// Why a chunk is not in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    pub(crate) kind: StatusKind,
    pub(crate) native: i32,
    /// Index into the chunk's runs.
    pub(crate) run: usize,
}

impl Failed {
    pub(crate) const fn at(kind: StatusKind, run: usize) -> Self {
        Self { kind, native: 0, run }
    }
}

/// One copy with both addresses resolved. The remote one counts in the peer's address space when the kernel copies.
#[derive(Clone, Copy)]
pub(crate) struct Resolved {
    pub(crate) local: *mut u8,
    pub(crate) remote: *mut u8,
    pub(crate) len: usize,
}

impl LinkCore {
    /// Moves a chunk. `None`: all cells are taken, nothing was touched.
    pub(super) fn move_chunk(&self, parts: &Parts<'_>, runs: &[Run]) -> Option<Result<(), Failed>> {
        let Some(far) = self.far() else { return Some(Err(Failed::at(self.end_kind(), 0))) };
        let entered = match self.cells().enter(&far.fence, far.gate, parts.grant, parts.op)? {
            Ok(entered) => entered,
            Err(Stale::Gate) => return Some(Err(Failed::at(self.lost_kind(), 0))),
            Err(Stale::Grant) => return Some(Err(Failed::at(StatusKind::StaleLease, 0))),
        };
        // Asked after the cell was named, so that `recheck` sees the cell or this sees the closed link.
        if !self.is_open() {
            return Some(Err(Failed::at(self.end_kind(), 0)));
        }
        #[cfg(any(test, feature = "sim"))]
        super::pause::point(super::pause::Point::Entered, parts.grant);
        let moved = match &far.way {
            Way::Mapped => copy_all(parts, runs),
            Way::Kernel(kernel) => {
                kernel.copy_all(parts.op, runs.len(), |run| resolve(parts, &runs[run], run))
            }
        };
        copy::store_fence();
        #[cfg(any(test, feature = "sim"))]
        super::pause::point(super::pause::Point::Copied, parts.grant);
        let confirmed = entered.confirm();
        if confirmed.is_err() && parts.op == Op::Read {
            blank(parts, runs);
        }
        drop(entered);
        Some(moved.and(confirmed.map_err(|_| Failed::at(StatusKind::StaleLease, 0))))
    }
}

fn resolve(parts: &Parts<'_>, run: &Run, index: usize) -> Result<Resolved, Failed> {
    let denied = Failed::at(StatusKind::Denied, index);
    let local = parts.local.get(usize::from(run.local_region)).ok_or(denied)?;
    let remote = parts.remote.get(usize::from(run.remote_region)).ok_or(denied)?;
    let writable = match parts.op {
        Op::Read => local.is_writable(),
        Op::Write => remote.is_writable(),
    };
    if !remote.holds(run.remote, run.len) || !writable {
        return Err(denied);
    }
    let remote = match remote.place() {
        Place::Here(memory) => memory.range(run.remote, run.len.into()).ok_or(denied)?.as_ptr(),
        // Inside the memory, as checked above: the sum does not wrap.
        Place::There(address) => (address + run.remote) as *mut u8,
    };
    let local = local.range(run.local, run.len.into()).ok_or(denied)?.as_ptr();
    Ok(Resolved { local, remote, len: run.len as usize })
}

fn copy_all(parts: &Parts<'_>, runs: &[Run]) -> Result<(), Failed> {
    let from = |at: &Resolved| if parts.op == Op::Read { at.remote } else { at.local };
    let Some(first) = runs.first() else { return Ok(()) };
    let mut at = resolve(parts, first, 0)?;
    for index in 0..runs.len() {
        let to = if parts.op == Op::Read { at.local } else { at.remote };
        if to.addr().abs_diff(from(&at).addr()) < at.len {
            return Err(Failed::at(StatusKind::Denied, index));
        }
        let next = runs.get(index + 1).map(|run| resolve(parts, run, index + 1));
        let hint = next.as_ref().and_then(|next| next.as_ref().ok()).map_or(from(&at), from);
        // SAFETY: both ranges lie inside memory that the batch pins (`local`) or that the import keeps mapped
        // (`remote`), as `resolve` checked; nobody makes references to it; they do not overlap.
        unsafe { copy::copy_then(to, from(&at), at.len, hint, parts.routine) };
        match next {
            Some(next) => at = next?,
            None => break,
        }
    }
    Ok(())
}

/// Late bytes may be read, never surfaced.
fn blank(parts: &Parts<'_>, runs: &[Run]) {
    for (index, run) in runs.iter().enumerate() {
        if let Ok(at) = resolve(parts, run, index) {
            // SAFETY: inside memory that the batch pins, as `resolve` checked; this chunk alone writes it.
            unsafe { copy::fill(at.local, 0, at.len) };
        }
    }
    copy::store_fence();
}
