//! A batch that is too big to be moved inside `post`: chunks, claimed one by one under a plain mutex.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{GrantId, Op, Runs, Status, StatusKind, TransferId};

use super::chunk::{Failed, Parts};
use super::claims::{Chunk, Claim, Claims, Ended};
use super::import::Import;
use super::link::LinkCore;
use crate::copy::Routine;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::{Batch, Memory};

/// Batches up to here go before larger ones.
const SMALL_BYTES: u64 = 4 << 20;

/// A batch in flight.
pub(super) struct Job {
    link: Arc<LinkCore>,
    id: TransferId,
    op: Op,
    grant: GrantId,
    runs: Arc<dyn Runs>,
    local: Arc<[Arc<Memory>]>,
    remote: Box<[Arc<Import>]>,
    routine: Routine,
    bytes: u64,
    abandon_at: Instant,
    posted: Instant,
    drivers: AtomicU32,
    claims: Claims,
}

impl Job {
    pub(super) fn new(
        link: Arc<LinkCore>,
        batch: Batch,
        remote: Box<[Arc<Import>]>,
        routine: Routine,
    ) -> Arc<Self> {
        let bytes = batch.runs.total_bytes();
        let threads = link.crew.size() + 1;
        Arc::new(Self {
            link,
            id: batch.id,
            op: batch.op,
            grant: batch.grant,
            runs: batch.runs,
            local: batch.local,
            remote,
            routine,
            bytes,
            abandon_at: batch.abandon_at,
            posted: Instant::now(),
            drivers: AtomicU32::new(0),
            claims: Claims::new(bytes, threads, batch.done),
        })
    }

    pub(super) fn id(&self) -> TransferId {
        self.id
    }

    pub(super) fn is_small(&self) -> bool {
        self.bytes <= SMALL_BYTES
    }

    /// Whether a thread that waits for it works on it.
    pub(super) fn is_driven(&self) -> bool {
        self.drivers.load(Ordering::Relaxed) != 0
    }

    pub(super) fn posted(&self) -> Instant {
        self.posted
    }

    /// Counts a waiting thread in, until the guard is dropped.
    pub(super) fn driven(&self) -> Driven<'_> {
        self.drivers.fetch_add(1, Ordering::Relaxed);
        Driven(self)
    }

    /// Takes the next chunk. False when none is left to take; then the batch has ended, or ends with the chunks that
    /// others are moving.
    pub(super) fn claim(&self, chunk: &mut Chunk, now: Instant) -> bool {
        match self.claims.claim(&*self.runs, now >= self.abandon_at, chunk) {
            Claim::Taken => true,
            Claim::Nothing => false,
            Claim::Ended(ended) => {
                self.finish(ended);
                false
            }
        }
    }

    /// Whether a chunk can be claimed.
    pub(super) fn has_more(&self) -> bool {
        self.claims.has_more()
    }

    /// Moves a claimed chunk and takes note of its end. A panic ends the batch as indeterminate; the thread lives on.
    pub(super) fn run(&self, chunk: &Chunk) {
        let parts = Parts {
            op: self.op,
            grant: self.grant,
            local: &self.local,
            remote: &self.remote,
            routine: self.routine,
        };
        let moved = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match self.link.move_chunk(&parts, chunk.runs()) {
                    Some(moved) => return moved,
                    // As many chunks of this link are moving as it has cells.
                    None => std::thread::yield_now(),
                }
            }
        }));
        let failed = match moved {
            Ok(Ok(())) => None,
            Ok(Err(failed)) => Some(failed.status(chunk.first())),
            Err(_) => Some(Status::INDETERMINATE),
        };
        if let Some(ended) = self.claims.moved(failed) {
            self.finish(ended);
        }
    }

    /// No further chunk is claimed; the batch ends when those that are moving have ended.
    pub(super) fn stop(&self, kind: StatusKind) {
        if let Some(ended) = self.claims.stop(kind) {
            self.finish(ended);
        }
    }

    /// The caller wants no more of it.
    pub(super) fn cancel(&self) {
        let late = Instant::now() >= self.abandon_at;
        self.stop(if late { StatusKind::Abandoned } else { StatusKind::Cancelled });
    }

    fn finish(&self, Ended { done, status }: Ended) {
        // Room first: whoever sees the end may post again.
        let _telling = self.link.telling();
        self.link.forget(self);
        if status.kind == StatusKind::Indeterminate {
            drop(done);
        } else {
            // SAFETY: no chunk is moving, and none will be claimed, as `Ended` says. Each chunk ended with a store
            // fence. The target takes no part.
            unsafe { done.finish(status) };
        }
    }
}

impl Failed {
    pub(super) fn status(&self, first: u32) -> Status {
        Status::quiet(self.kind).with_native(self.native).with_run(first.saturating_add(self.run as u32))
    }
}

/// See [`Job::driven`].
pub(super) struct Driven<'a>(&'a Job);

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.0.drivers.fetch_sub(1, Ordering::Relaxed);
    }
}
