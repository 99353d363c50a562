//! A batch in flight: cut into parts, one per stream, with one end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ropeway_core::{Cursor, Op, Quiet, Runs, Status, StatusKind, TransferId};

use crate::{Completer, Memory};

/// One batch, shared by the streams that carry its parts.
pub(super) struct Flight {
    pub(super) id: TransferId,
    pub(super) op: Op,
    pub(super) runs: Arc<dyn Runs>,
    pub(super) memory: Arc<[Arc<Memory>]>,
    pub(super) abandon_at: Instant,
    /// The streams that carry a part, one bit each.
    pub(super) lanes: u128,
    ending: Mutex<Ending>,
}

struct Ending {
    done: Option<Completer>,
    parts: u32,
    status: Option<Status>,
}

impl Flight {
    pub(super) fn new(
        id: TransferId,
        op: Op,
        runs: Arc<dyn Runs>,
        memory: Arc<[Arc<Memory>]>,
        abandon_at: Instant,
        lanes: u128,
        done: Completer,
    ) -> Arc<Self> {
        let ending = Mutex::new(Ending { done: Some(done), parts: lanes.count_ones(), status: None });
        Arc::new(Self { id, op, runs, memory, abandon_at, lanes, ending })
    }

    /// A part has ended; the last one gives the batch's end. The first failure names it; a side is quiet when all parts
    /// left it quiet.
    pub(super) fn part_ended(&self, part: Status) -> Option<(Completer, Status)> {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.parts = ending.parts.saturating_sub(1);
        let merged = match ending.status {
            None => part,
            Some(before) => {
                let worse = |a, b| if a == Quiet::AfterClose { a } else { b };
                let mut merged = if before.is_completed() { part } else { before };
                merged.local = worse(before.local, part.local);
                merged.remote = worse(before.remote, part.remote);
                merged
            }
        };
        ending.status = Some(merged);
        if ending.parts > 0 {
            return None;
        }
        let run = u32::try_from(self.runs.total_runs()).unwrap_or(u32::MAX);
        let status = if merged.is_completed() { merged.with_run(run) } else { merged };
        ending.done.take().map(|done| (done, status))
    }
}

/// What one stream carries of a batch.
pub(super) struct Part {
    pub(super) flight: Arc<Flight>,
    /// The request, until it is on its way.
    pub(super) request: Option<Bytes>,
    pub(super) cursor: Cursor,
    pub(super) bytes: u64,
    /// Bytes placed (read) or handed to the kernel (write).
    pub(super) moved: u64,
    /// Bytes of a read whose segments have begun to come.
    pub(super) announced: u64,
    pub(super) sequence: u32,
    /// Why we no longer want it.
    pub(super) stop: Option<StatusKind>,
    pub(super) cancel_sent: bool,
    /// The batch was told; what still comes for the id is thrown away.
    pub(super) told: bool,
}

impl Part {
    pub(super) fn new(flight: Arc<Flight>, request: Bytes, start: u64, bytes: u64) -> Self {
        let cursor = flight.runs.seek(start);
        Self {
            flight,
            request: Some(request),
            cursor,
            bytes,
            moved: 0,
            announced: 0,
            sequence: 0,
            stop: None,
            cancel_sent: false,
            told: false,
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.bytes - self.moved
    }

    /// The peer does not know of it yet.
    pub(super) fn is_unsent(&self) -> bool {
        self.request.is_some()
    }
}
