//! Batches whose local end is in a device's memory, which no socket reaches: piece by piece through two host buffers, one on the
//! wire while the other is filled from the device or emptied into it.
//!
//! A piece is a batch of its own to the streams, over a range of the plan's byte order. What the device does is waited for on a
//! thread of the link alone. A batch ends when its pieces have and the last copy has returned, and the link is closed after that.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ropeway_core::{Cursor, Error, Op, Quiet, Run, Runs, Status, StatusKind, TransferId};

use super::link::LinkCore;
use super::wire::OPEN_REQUESTS_MAX;
use crate::{Batch, Memory, Refusal, Rejected, State, Watcher};

/// Bytes of one piece, and of one buffer.
const PIECE: u64 = 4 << 20;
/// Pieces of a batch that are under way, and buffers of a link.
const PIECES: usize = 2;
/// Set in the ids of pieces; the engine counts its transfers from 1.
const PIECE_BIT: u64 = 1 << 63;
/// How long to wait for room on the streams.
const PAUSE: Duration = Duration::from_micros(200);
/// Runs expanded at a time, and the most that is copied at a time.
const RUNS: usize = 256;
const SCRATCH: usize = 1 << 20;

/// What waits for the link's staging thread.
#[derive(Default)]
pub(super) struct Stage {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Batch>,
    current: Option<TransferId>,
    cancelled: HashSet<TransferId>,
    /// Pieces that are on the streams.
    pieces: Vec<TransferId>,
    next_piece: u64,
    running: bool,
    /// The link is torn down, and this thread tells it when it is done.
    ending: bool,
}

impl Queue {
    fn knows(&self, id: TransferId) -> bool {
        self.current == Some(id) || self.waiting.iter().any(|batch| batch.id == id)
    }
}

/// Whether any of it needs the stage.
pub(super) fn is_staged(batch: &Batch) -> bool {
    batch.local.iter().any(|memory| memory.device().is_some())
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the link's thread, unless it is there.
    ///
    /// # Errors
    /// None is to be had.
    pub(super) fn start(&self, link: &Arc<LinkCore>) -> Result<(), Error> {
        let mut queue = self.lock();
        if queue.running || queue.ending {
            return Ok(());
        }
        let link = Arc::clone(link);
        std::thread::Builder::new()
            .name("ropeway-tcp-stage".into())
            .spawn(move || link.stage.work(&link))
            .map_err(|error| Error::os("route", "the staging thread cannot be started", error))?;
        queue.running = true;
        Ok(())
    }

    pub(super) fn post(&self, batch: Batch) -> Result<(), Rejected> {
        let mut queue = self.lock();
        let why = match () {
            () if queue.ending || !queue.running => Some(Refusal::Closed),
            () if queue.waiting.len() >= OPEN_REQUESTS_MAX => {
                Some(Refusal::Full { limit: "transfers_per_peer" })
            }
            () => None,
        };
        if let Some(why) = why {
            return Err(Rejected { batch: Box::new(batch), why });
        }
        queue.waiting.push_back(batch);
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    /// Marks a batch; gives the pieces to cancel. `None`: it is not one of these.
    pub(super) fn cancel(&self, id: TransferId) -> Option<Vec<TransferId>> {
        let mut queue = self.lock();
        if !queue.knows(id) {
            return None;
        }
        queue.cancelled.insert(id);
        Some(if queue.current == Some(id) { queue.pieces.clone() } else { Vec::new() })
    }

    /// The link is torn down. False: a copy may be under way, and the thread tells `closed` when all have ended.
    pub(super) fn end(&self) -> bool {
        let mut queue = self.lock();
        queue.ending = true;
        let running = queue.running;
        drop(queue);
        self.changed.notify_all();
        !running
    }

    fn work(&self, link: &Arc<LinkCore>) {
        let mut buffers = Vec::new();
        loop {
            let batch = {
                let mut queue = self.lock();
                loop {
                    if let Some(batch) = queue.waiting.pop_front() {
                        queue.current = Some(batch.id);
                        break batch;
                    }
                    if queue.ending {
                        queue.running = false;
                        drop(queue);
                        link.sink.closed(false);
                        return;
                    }
                    queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let id = batch.id;
            let Moving { status, done } = self.run(link, batch, &mut buffers);
            {
                let mut queue = self.lock();
                queue.current = None;
                queue.cancelled.remove(&id);
            }
            // SAFETY: every piece has ended, and says what it left; no copy of this thread is under way, which alone touches the
            // device's memory for this batch, but one that failed without being over, which the status tells.
            unsafe { done.finish(status) };
        }
    }

    fn run(&self, link: &Arc<LinkCore>, batch: Batch, buffers: &mut Vec<Arc<Memory>>) -> Moving {
        let Batch { id, op, grant, runs, local, remote, abandon_at, done } = batch;
        let mut mover =
            Mover { stage: self, link, id, op, runs: &runs, local: &local, ended: None, scratch: Vec::new() };
        let make = |range: &Linear, buffer: &Arc<Memory>, piece: TransferId| {
            let pins: Arc<[Arc<Memory>]> = [Arc::clone(buffer)].into();
            let (state, done) = State::new(piece, 0, Arc::clone(&pins), Arc::new(Nobody));
            let batch = Batch {
                id: piece,
                op,
                grant,
                runs: Arc::new(range.clone()),
                local: pins,
                remote: Arc::clone(&remote),
                abandon_at,
                done,
            };
            (batch, state)
        };
        let status = mover.go(buffers, abandon_at, &make);
        Moving { status, done }
    }
}

struct Moving {
    status: Status,
    done: crate::Completer,
}

/// Nobody is told of a piece.
struct Nobody;

impl Watcher for Nobody {
    fn finished(&self, _: &State, _: Status, _: Option<Arc<[Arc<Memory>]>>) {}
}

/// A range of a plan's byte order, in one buffer.
#[derive(Clone)]
struct Linear {
    plan: Arc<dyn Runs>,
    start: u64,
    len: u64,
}

impl Runs for Linear {
    fn total_bytes(&self) -> u64 {
        self.len
    }

    fn total_runs(&self) -> u64 {
        1
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        let len = (self.len - at.byte).min(bytes).min(PIECE);
        match out.first_mut() {
            Some(run) if len > 0 => *run = Run { local: at.byte, len: len as u32, ..Run::default() },
            _ => return 0,
        }
        at.byte += len;
        1
    }

    fn seek(&self, byte: u64) -> Cursor {
        Cursor { byte: byte.min(self.len), ..Cursor::default() }
    }

    fn encode(&self, out: &mut BytesMut) {
        self.plan.encode(out);
    }
}

/// A batch on its way.
struct Mover<'a> {
    stage: &'a Stage,
    link: &'a Arc<LinkCore>,
    id: TransferId,
    op: Op,
    runs: &'a Arc<dyn Runs>,
    local: &'a [Arc<Memory>],
    /// Why no more is begun; both sides' quiet is the worst of all that ended.
    ended: Option<Status>,
    scratch: Vec<u8>,
}

struct Flying {
    range: Linear,
    buffer: Arc<Memory>,
    state: Arc<State>,
}

type Make<'m> = dyn Fn(&Linear, &Arc<Memory>, TransferId) -> (Batch, Arc<State>) + 'm;

impl Mover<'_> {
    fn go(&mut self, buffers: &mut Vec<Arc<Memory>>, abandon_at: Instant, make: &Make<'_>) -> Status {
        let total = self.runs.total_bytes();
        let mut next = 0;
        let mut flying = VecDeque::new();
        loop {
            while self.ended.is_none() && flying.len() < PIECES && next < total {
                let range = Linear { plan: Arc::clone(self.runs), start: next, len: PIECE.min(total - next) };
                next += range.len;
                let Some(buffer) = self.buffer(buffers) else { break };
                flying.extend(self.begin(range, buffer, abandon_at, make));
            }
            let Some(Flying { range, buffer, state }) = flying.pop_front() else { break };
            let status = state.park(None).unwrap_or(Status::INDETERMINATE);
            self.stage.lock().pieces.retain(|piece| *piece != state.id());
            if !status.is_completed() {
                self.fail(status);
            } else if self.op == Op::Read && self.ended.is_none() {
                self.copy(&range, &buffer);
            }
            match status.local {
                Quiet::Yes => buffers.push(buffer),
                Quiet::AfterClose => std::mem::forget(buffer),
            }
        }
        let run = u32::try_from(self.runs.total_runs()).unwrap_or(u32::MAX);
        self.ended.unwrap_or(Status::COMPLETED.with_run(run))
    }

    fn fail(&mut self, status: Status) {
        let worse = |a, b| if a == Quiet::AfterClose { a } else { b };
        self.ended = Some(match self.ended {
            None => status,
            Some(before) => Status {
                local: worse(before.local, status.local),
                remote: worse(before.remote, status.remote),
                ..before
            },
        });
    }

    fn buffer(&mut self, buffers: &mut Vec<Arc<Memory>>) -> Option<Arc<Memory>> {
        if let Some(buffer) = buffers.pop() {
            return Some(buffer);
        }
        match self.local.first()?.beside(PIECE) {
            Ok(buffer) => Some(buffer),
            Err(error) => {
                tracing::warn!(%error, "no buffer to stage through");
                self.fail(
                    Status::quiet(StatusKind::Native).with_native(error.native().unwrap_or(libc::ENOMEM)),
                );
                None
            }
        }
    }

    /// Puts a piece on the streams, filled from the device where it is to be written.
    fn begin(
        &mut self,
        range: Linear,
        buffer: Arc<Memory>,
        abandon_at: Instant,
        make: &Make<'_>,
    ) -> Option<Flying> {
        if self.op == Op::Write && !self.copy(&range, &buffer) {
            return None;
        }
        loop {
            let piece = {
                let mut queue = self.stage.lock();
                if queue.cancelled.contains(&self.id) {
                    drop(queue);
                    self.fail(Status::quiet(StatusKind::Cancelled));
                    return None;
                }
                queue.next_piece += 1;
                let piece = TransferId(PIECE_BIT | queue.next_piece);
                queue.pieces.push(piece);
                piece
            };
            let (batch, state) = make(&range, &buffer, piece);
            let Err(Rejected { batch, why }) = self.link.post_from(batch, range.start) else {
                // Cancelled between the look and the post: nobody else cancels it.
                if self.stage.lock().cancelled.contains(&self.id) {
                    self.link.cancel(piece);
                }
                return Some(Flying { range, buffer, state });
            };
            batch.done.disarm();
            self.stage.lock().pieces.retain(|other| *other != piece);
            let kind = match why {
                Refusal::Full { .. } if Instant::now() < abandon_at => None,
                Refusal::Full { .. } => Some(StatusKind::Abandoned),
                _ => Some(StatusKind::LinkLost),
            };
            if let Some(kind) = kind {
                self.fail(Status::quiet(kind));
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Copies a piece between its buffer and its places, in the direction of the batch. Blocks. False: it failed.
    fn copy(&mut self, range: &Linear, buffer: &Memory) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(SCRATCH, 0);
        let copied = self.copy_runs(range, buffer, &mut scratch);
        self.scratch = scratch;
        let Err(error) = copied else { return true };
        tracing::warn!(transfer = %self.id, %error, "a staged copy failed");
        let status = Status::quiet(StatusKind::Native).with_native(error.native().unwrap_or(libc::EIO));
        self.fail(Status { local: error.local(), ..status });
        false
    }

    fn copy_runs(&self, range: &Linear, buffer: &Memory, scratch: &mut [u8]) -> Result<(), Error> {
        let mut cursor = self.runs.seek(range.start);
        let mut runs = [Run::default(); RUNS];
        let mut at = 0;
        while at < range.len {
            let count = self.runs.fill(&mut cursor, &mut runs, range.len - at);
            let beyond =
                || Error::new(ropeway_core::ErrorKind::Internal, "stage", "a plan ends before its bytes");
            if count == 0 {
                return Err(beyond());
            }
            for run in &runs[..count] {
                let memory = self.local.get(usize::from(run.local_region)).ok_or_else(beyond)?;
                let mut done = 0;
                while done < u64::from(run.len) {
                    let part = &mut scratch[..(u64::from(run.len) - done).min(SCRATCH as u64) as usize];
                    match self.op {
                        Op::Read => {
                            buffer.read(at, part)?;
                            memory.write(run.local + done, part)?;
                        }
                        Op::Write => {
                            memory.read(run.local + done, part)?;
                            buffer.write(at, part)?;
                        }
                    }
                    at += part.len() as u64;
                    done += part.len() as u64;
                }
            }
        }
        Ok(())
    }
}
