//! The next runs of one segment, as pieces of memory for a call, moved on byte by byte as the kernel takes them.

use std::sync::Arc;

use ropeway_core::{Cursor, Run, Runs};

use super::socket::Pieces;
use crate::Memory;

/// Runs expanded at a time. With blocks of 512 bytes and more that is a whole segment.
const WINDOW_RUNS: usize = 512;

/// A window on an expansion. Bound to one segment: it is empty at its end.
#[derive(Default)]
pub(super) struct Window {
    /// Allocated when the stream first moves region bytes.
    runs: Vec<Run>,
    first: usize,
    count: usize,
}

/// An expansion and where it is.
pub(super) struct Place<'a> {
    pub(super) runs: &'a dyn Runs,
    pub(super) cursor: &'a mut Cursor,
    pub(super) memory: &'a [Arc<Memory>],
}

/// The expansion names what is not there: a fault of whoever checked it, never the peer's.
#[derive(Debug)]
pub(super) struct Beyond;

impl Window {
    fn refill(&mut self, place: &mut Place<'_>, left: u32) {
        if self.first == self.count {
            if self.runs.is_empty() {
                self.runs.resize(WINDOW_RUNS, Run::default());
            }
            self.first = 0;
            self.count = place.runs.fill(place.cursor, &mut self.runs, left.into());
        }
    }

    /// Adds the next pieces of the segment, of which `left` bytes are not moved yet. All are within their memory.
    /// Leaves room for two pieces more. `Err`: nothing may be moved.
    pub(super) fn gather(
        &mut self,
        mut place: Place<'_>,
        left: u32,
        pieces: &mut Pieces,
    ) -> Result<u32, Beyond> {
        self.refill(&mut place, left);
        let mut named = 0;
        for run in &self.runs[self.first..self.count] {
            if pieces.room() <= 2 {
                break;
            }
            let memory = place.memory.get(usize::from(run.local_region)).ok_or(Beyond)?;
            let base = memory.range(run.local, run.len.into()).ok_or(Beyond)?;
            named += run.len;
            pieces.push(base.as_ptr(), run.len as usize);
        }
        if named == 0 || named > left { Err(Beyond) } else { Ok(named) }
    }

    /// Puts bytes that were received ahead where they belong; gives how many. They are moved on by `advance`.
    pub(super) fn store(&mut self, mut place: Place<'_>, left: u32, from: &[u8]) -> Result<u32, Beyond> {
        self.refill(&mut place, left);
        let mut rest = &from[..from.len().min(left as usize)];
        let mut stored = 0;
        for run in &self.runs[self.first..self.count] {
            let piece = rest.len().min(run.len as usize);
            if piece == 0 {
                break;
            }
            let memory = place.memory.get(usize::from(run.local_region)).ok_or(Beyond)?;
            memory.write(run.local, &rest[..piece]).map_err(|_| Beyond)?;
            rest = &rest[piece..];
            stored += piece as u32;
        }
        if stored == 0 { Err(Beyond) } else { Ok(stored) }
    }

    /// `bytes` of what was gathered or stored are moved.
    pub(super) fn advance(&mut self, mut bytes: u32) {
        while bytes > 0 && self.first < self.count {
            let run = &mut self.runs[self.first];
            let taken = bytes.min(run.len);
            run.local += u64::from(taken);
            run.len -= taken;
            bytes -= taken;
            if run.len == 0 {
                self.first += 1;
            }
        }
    }

    /// Forgets the rest of the segment.
    pub(super) fn clear(&mut self) {
        (self.first, self.count) = (0, 0);
    }
}
