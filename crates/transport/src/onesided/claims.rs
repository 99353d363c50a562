//! Which chunks of a batch are claimed, and when it has ended: the part of a job under its mutex.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ropeway_core::{Cursor, Run, Runs, Status, StatusKind};

use crate::Completer;
use crate::sync::{Mutex, lock};

/// Runs of one chunk: what lies on a copy thread's stack.
pub(super) const CHUNK_RUNS: usize = if cfg!(all(loom, test)) { 2 } else { 256 };
/// Bytes of a chunk while much is left; towards the end chunks shrink, so that the threads end together.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNK_BYTES_MIN: u64 = 128 << 10;

/// A claimed piece of a batch, on the claiming thread's stack.
pub(super) struct Chunk {
    runs: [Run; CHUNK_RUNS],
    count: usize,
    /// Number of the first of the runs among the batch's merged runs.
    first: u32,
}

impl Chunk {
    pub(super) const fn new() -> Self {
        const NONE: Run = Run { local: 0, remote: 0, len: 0, local_region: 0, remote_region: 0 };
        Self { runs: [NONE; CHUNK_RUNS], count: 0, first: 0 }
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    pub(super) fn first(&self) -> u32 {
        self.first
    }
}

/// The claims of one batch. Every call that can end the batch gives [`Ended`] to exactly one caller.
pub(super) struct Claims {
    inner: Mutex<Inner>,
    /// What is left is divided by this for the next chunk.
    share: u64,
}

struct Inner {
    at: Cursor,
    left: u64,
    /// Merged runs handed out whole or begun.
    runs: u32,
    last: Option<Run>,
    moving: u32,
    end: Option<Status>,
    done: Option<Completer>,
}

/// What came of an attempt to claim.
pub(super) enum Claim {
    /// The chunk is the caller's, who calls [`Claims::moved`] after it.
    Taken,
    /// Nothing is left to take; the batch has ended, or ends with the chunks that others are moving.
    Nothing,
    /// This attempt ended the batch.
    Ended(Ended),
}

/// No chunk of the batch is moving, and none will be claimed: it is the holder's to finish.
#[must_use]
pub(super) struct Ended {
    pub(super) done: Completer,
    pub(super) status: Status,
}

impl Claims {
    /// For so many threads.
    pub(super) fn new(bytes: u64, threads: usize, done: Completer) -> Self {
        let share = if threads == 1 { 1 } else { threads as u64 * 2 };
        let inner = Mutex::new(Inner {
            at: Cursor::default(),
            left: bytes,
            runs: 0,
            last: None,
            moving: 0,
            end: None,
            done: Some(done),
        });
        Self { inner, share }
    }

    /// Takes the next chunk of `runs`, unless the batch is `late`.
    pub(super) fn claim(&self, runs: &dyn Runs, late: bool, chunk: &mut Chunk) -> Claim {
        let mut inner = lock(&self.inner);
        if inner.left == 0 || inner.end.is_some() {
            return Claim::Nothing;
        }
        if late {
            inner.stop(StatusKind::Abandoned);
            return inner.settle().map_or(Claim::Nothing, Claim::Ended);
        }
        let budget = (inner.left / self.share).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES);
        let filled = catch_unwind(AssertUnwindSafe(|| runs.fill(&mut inner.at, &mut chunk.runs, budget)));
        let Ok(count @ 1..=CHUNK_RUNS) = filled else {
            // It panicked, or yields less than it announced: nothing can be said of this batch.
            inner.end = Some(Status::INDETERMINATE);
            return inner.settle().map_or(Claim::Nothing, Claim::Ended);
        };
        chunk.count = count;
        inner.took(chunk);
        Claim::Taken
    }

    /// Whether a chunk can be claimed.
    pub(super) fn has_more(&self) -> bool {
        let inner = lock(&self.inner);
        inner.left != 0 && inner.end.is_none()
    }

    /// A claimed chunk has ended, in place or as `failed` says.
    pub(super) fn moved(&self, failed: Option<Status>) -> Option<Ended> {
        let mut inner = lock(&self.inner);
        inner.moving -= 1;
        match failed {
            None => {}
            Some(status) if status.kind == StatusKind::Indeterminate => inner.end = Some(status),
            Some(status) => inner.fail(status),
        }
        inner.settle()
    }

    /// No further chunk is claimed.
    pub(super) fn stop(&self, kind: StatusKind) -> Option<Ended> {
        let mut inner = lock(&self.inner);
        if inner.left == 0 {
            return None;
        }
        inner.stop(kind);
        inner.settle()
    }
}

impl Inner {
    fn took(&mut self, chunk: &mut Chunk) {
        let runs = &chunk.runs[..chunk.count];
        let bytes: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
        self.left = self.left.saturating_sub(bytes);
        let goes_on = self.last.is_some_and(|last| continues(&last, &runs[0]));
        self.last = runs.last().copied();
        chunk.first = self.runs - u32::from(goes_on);
        self.runs = chunk.first.saturating_add(chunk.count as u32);
        self.moving += 1;
    }

    fn stop(&mut self, kind: StatusKind) {
        // The last run handed out may have been cut.
        self.fail(Status::quiet(kind).with_run(self.runs.saturating_sub(1)));
    }

    /// The first failure is kept, but for the number of the run, which is the lowest of all.
    fn fail(&mut self, status: Status) {
        let run = self.end.map_or(status.run, |end| end.run.min(status.run));
        self.end = Some(self.end.unwrap_or(status).with_run(run));
    }

    fn settle(&mut self) -> Option<Ended> {
        if self.moving != 0 || (self.left != 0 && self.end.is_none()) {
            return None;
        }
        let status = self.end.unwrap_or(Status::COMPLETED.with_run(self.runs));
        self.done.take().map(|done| Ended { done, status })
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
