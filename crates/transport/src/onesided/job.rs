//! A batch that is too big to be moved inside `post`: chunks, claimed one by one under a plain mutex.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_core::{Cursor, GrantId, Op, Run, Runs, Status, StatusKind, TransferId};

use super::chunk::{Failed, Parts};
use super::import::Import;
use super::link::LinkCore;
use crate::copy::Routine;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::{Batch, Completer, Memory};

/// Runs of one chunk: what lies on a copy thread's stack.
pub(super) const CHUNK_RUNS: usize = 256;
/// Bytes of a chunk while much is left; towards the end chunks shrink, so that threads end together.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNK_BYTES_MIN: u64 = 128 << 10;
/// Batches up to here go before larger ones.
const SMALL_BYTES: u64 = 4 << 20;

/// A claimed piece of a batch, on the claiming thread's stack.
pub(super) struct Chunk {
    runs: [Run; CHUNK_RUNS],
    count: usize,
    /// Number of the first of the runs among the batch's merged runs.
    first: u32,
    bytes: u64,
}

impl Chunk {
    pub(super) const fn new() -> Self {
        const NONE: Run = Run { local: 0, remote: 0, len: 0, local_region: 0, remote_region: 0 };
        Self { runs: [NONE; CHUNK_RUNS], count: 0, first: 0, bytes: 0 }
    }
}

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
    claims: Mutex<Claims>,
}

struct Claims {
    at: Cursor,
    left: u64,
    /// Merged runs handed out whole or begun.
    runs: u32,
    last: Option<Run>,
    moving: u32,
    end: Option<Status>,
    done: Option<Completer>,
}

impl Job {
    pub(super) fn new(
        link: Arc<LinkCore>,
        batch: Batch,
        remote: Box<[Arc<Import>]>,
        routine: Routine,
    ) -> Arc<Self> {
        let bytes = batch.runs.total_bytes();
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
            claims: Mutex::new(Claims {
                at: Cursor::default(),
                left: bytes,
                runs: 0,
                last: None,
                moving: 0,
                end: None,
                done: Some(batch.done),
            }),
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

    pub(super) fn age(&self) -> Duration {
        self.posted.elapsed()
    }

    /// Counts a waiting thread in, until the guard is dropped.
    pub(super) fn driven(&self) -> Driven<'_> {
        self.drivers.fetch_add(1, Ordering::Relaxed);
        Driven(self)
    }

    /// Takes the next chunk. False when none is left to take; then the batch has ended, or ends with the chunks that
    /// others are moving.
    pub(super) fn claim(&self, chunk: &mut Chunk) -> bool {
        let mut claims = lock(&self.claims);
        if claims.left == 0 || claims.end.is_some() {
            return false;
        }
        if Instant::now() >= self.abandon_at {
            claims.stop(Status::quiet(StatusKind::Abandoned));
            self.settle(claims);
            return false;
        }
        let budget = (claims.left / 4).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES);
        let filled =
            catch_unwind(AssertUnwindSafe(|| self.runs.fill(&mut claims.at, &mut chunk.runs, budget)));
        let Ok(count @ 1..=CHUNK_RUNS) = filled else {
            // It panicked, or yields less than it announced: nothing can be said of this batch.
            claims.end = Some(Status::INDETERMINATE);
            self.settle(claims);
            return false;
        };
        chunk.count = count;
        chunk.bytes = chunk.runs[..count].iter().map(|run| u64::from(run.len)).sum();
        claims.left = claims.left.saturating_sub(chunk.bytes);
        let goes_on = claims.last.is_some_and(|last| continues(&last, &chunk.runs[0]));
        chunk.first = claims.runs - u32::from(goes_on);
        claims.runs = chunk.first.saturating_add(count as u32);
        claims.last = Some(chunk.runs[count - 1]);
        claims.moving += 1;
        true
    }

    /// Whether a chunk can be claimed.
    pub(super) fn has_more(&self) -> bool {
        let claims = lock(&self.claims);
        claims.left != 0 && claims.end.is_none()
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
                match self.link.move_chunk(&parts, &chunk.runs[..chunk.count]) {
                    Some(moved) => return moved,
                    // As many chunks of this link are moving as it has cells.
                    None => std::thread::yield_now(),
                }
            }
        }));
        let mut claims = lock(&self.claims);
        claims.moving -= 1;
        match moved {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => claims.stop(failed.status(chunk.first)),
            Err(_) => claims.end = Some(Status::INDETERMINATE),
        }
        self.settle(claims);
    }

    /// No further chunk is claimed; the batch ends when those that are moving have ended.
    pub(super) fn stop(&self, kind: StatusKind) {
        let mut claims = lock(&self.claims);
        if claims.left != 0 {
            // The last run handed out may have been cut.
            let status = Status::quiet(kind).with_run(claims.runs.saturating_sub(1));
            claims.stop(status);
            self.settle(claims);
        }
    }

    /// The caller wants no more of it.
    pub(super) fn cancel(&self) {
        let late = Instant::now() >= self.abandon_at;
        self.stop(if late { StatusKind::Abandoned } else { StatusKind::Cancelled });
    }

    fn settle(&self, mut claims: MutexGuard<'_, Claims>) {
        if claims.moving != 0 || (claims.left != 0 && claims.end.is_none()) {
            return;
        }
        let Some(done) = claims.done.take() else { return };
        let status = claims.end.unwrap_or(Status::COMPLETED.with_run(claims.runs));
        drop(claims);
        self.link.forget(self);
        if status.kind == StatusKind::Indeterminate {
            drop(done);
        } else {
            // SAFETY: no chunk is moving, and none will be claimed: both were seen under the mutex, and `claim` asks
            // for `left` and `end` under it. Each chunk ended with a store fence. The target takes no part.
            unsafe { done.finish(status) };
        }
    }
}

impl Claims {
    /// The first failure is kept, but for the number of the run, which is the lowest of all.
    fn stop(&mut self, status: Status) {
        let run = self.end.map_or(status.run, |end| end.run.min(status.run));
        self.end = Some(self.end.unwrap_or(status).with_run(run));
    }
}

impl Failed {
    pub(super) fn status(&self, first: u32) -> Status {
        Status::quiet(self.kind).with_native(self.native).with_run(first.saturating_add(self.run as u32))
    }
}

/// Whether `next` is the rest of the run that `last` was cut from: the plan would have merged them otherwise.
fn continues(last: &Run, next: &Run) -> bool {
    let len = u64::from(last.len);
    last.local_region == next.local_region
        && last.remote_region == next.remote_region
        && last.local + len == next.local
        && last.remote + len == next.remote
}

/// See [`Job::driven`].
pub(super) struct Driven<'a>(&'a Job);

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.0.drivers.fetch_sub(1, Ordering::Relaxed);
    }
}
