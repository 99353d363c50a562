//! A submitted plan, from `submit` to its one end.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ropeway_ascend::error::{Class, Code};
use ropeway_core::{
    BlockSet, CopyPlan, Error, ErrorKind, Limits, Op, Quiet, Result, Status, StatusKind, TransferId,
};
use ropeway_transport::{Batch, Link, Memory, Refusal, State, TransportKind, Watcher};

use crate::cache::CacheInner;
use crate::completion::Completion;
use crate::grant::Grant;
use crate::peer::PeerInner;
use crate::shared::Shared;

/// A transfer on its way. Its end comes exactly once: await it, or `wait`.
///
/// Dropping it detaches it: the transfer goes on, memory stays pinned, and its end is reported to
/// [`Completions`](crate::Completions).
#[must_use = "a dropped transfer goes on without anyone who waits for it; say `.detach()` if that is meant"]
pub struct Transfer {
    state: Arc<State>,
    flight: Arc<Flight>,
}

/// How a transfer went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The transfer.
    pub id: TransferId,
    /// Bytes in place.
    pub bytes: u64,
    /// Merged runs that they were moved in.
    pub runs: u64,
    /// The way that they took.
    pub transport: TransportKind,
    /// From `submit` to the end.
    pub elapsed: Duration,
}

impl Transfer {
    pub(crate) fn new(state: Arc<State>, flight: Arc<Flight>) -> Self {
        Self { state, flight }
    }

    /// The transfer's id, as completions and logs name it.
    pub fn id(&self) -> TransferId {
        self.state.id()
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.state.is_done()
    }

    /// Waits for the end, working on the transfer meanwhile. `timeout` bounds the caller only: after `None` the
    /// transfer goes on, and `wait` may be called again. No timeout waits until the end, which `abandon_after` bounds.
    ///
    /// # Errors
    /// Why it failed, which blocks are withheld, and what each side may still touch.
    pub fn wait(&self, timeout: impl Into<Option<Duration>>) -> Option<Result<Report>> {
        if let Err(forked) = self.flight.shared.origin.check("wait") {
            return Some(Err(forked));
        }
        if !self.state.is_done() {
            let until = timeout.into().map(crate::deadline::after);
            if self.flight.has_begun() {
                self.flight.link.drive(&self.state, until);
            }
            self.state.park(until)?;
        }
        self.state.status().map(|status| self.flight.outcome(status))
    }

    /// A hint that nobody wants it any more. The end still comes exactly once, and may be success.
    pub fn cancel(&self) {
        if !self.flight.shared.is_foreign() {
            self.flight.stop(StatusKind::Cancelled);
        }
    }

    /// Waits up to `timeout` until nothing of the ended transfer can touch our memory any more; `true` at once when it
    /// ended quietly, as nearly all do. `Completion::Released` tells the same.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        let shared = &self.flight.shared;
        let until = crate::deadline::after(timeout);
        loop {
            let seen = shared.progress.observe();
            if self.state.is_done() && !shared.is_withheld(self.id()) {
                return true;
            }
            if !shared.progress.wait(seen, until) {
                return false;
            }
        }
    }

    /// Lets it go on alone; its end is reported to the completion queue.
    pub fn detach(self) {}
}

impl Future for Transfer {
    type Output = Result<Report>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Report>> {
        Pin::new(&mut &*self).poll(context)
    }
}

/// As the transfer itself, for one that others hold too. The last poll's waker is the one that is woken.
impl Future for &Transfer {
    type Output = Result<Report>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Report>> {
        if let Err(forked) = self.flight.shared.origin.check("poll") {
            return Poll::Ready(Err(forked));
        }
        self.state.poll(context).map(|status| self.flight.outcome(status))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.state.is_done() && !self.flight.shared.is_foreign() {
            self.flight.detach();
        }
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("id", &self.id()).field("done", &self.is_done()).finish()
    }
}

const DETACHED: u8 = 1;
const ENDED: u8 = 2;

/// What the engine knows of a transfer in flight.
pub(crate) struct Flight {
    pub(crate) id: TransferId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<PeerInner>,
    pub(crate) link: Arc<dyn Link>,
    /// Keeps the grant from being released before everything under it has ended.
    pub(crate) grant: Grant,
    pub(crate) op: Op,
    pub(crate) bytes: u64,
    pub(crate) runs: u64,
    pub(crate) submitted: Instant,
    pub(crate) abandon_at: Instant,
    pub(crate) user_data: Option<u64>,
    pub(crate) notify: Option<u32>,
    pub(crate) copies: Arc<CopyPlan>,
    pub(crate) cache: Arc<CacheInner>,
    /// The batch, until its start event has fired.
    waiting: Mutex<Option<Box<Batch>>>,
    /// `DETACHED` and `ENDED`: whichever comes second reports the end of a transfer that nobody waits for.
    fate: AtomicU8,
    /// Why the event that it waited for failed.
    failed_start: OnceLock<Error>,
    /// Why it was stopped, the first time: a link knows only that it was.
    stopped: OnceLock<StatusKind>,
    ended: Mutex<Option<(Instant, Status)>>,
}

/// What a flight is made from; see [`Flight`].
pub(crate) struct FlightPlan {
    pub(crate) id: TransferId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<PeerInner>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) grant: Grant,
    pub(crate) op: Op,
    pub(crate) bytes: u64,
    pub(crate) runs: u64,
    pub(crate) submitted: Instant,
    pub(crate) abandon_after: Duration,
    pub(crate) user_data: Option<u64>,
    pub(crate) notify: Option<u32>,
    pub(crate) copies: Arc<CopyPlan>,
    pub(crate) cache: Arc<CacheInner>,
}

impl Flight {
    pub(crate) fn new(plan: FlightPlan) -> Arc<Self> {
        let submitted = plan.submitted;
        Arc::new(Self {
            id: plan.id,
            shared: plan.shared,
            peer: plan.peer,
            link: plan.link,
            grant: plan.grant,
            op: plan.op,
            bytes: plan.bytes,
            runs: plan.runs,
            submitted,
            abandon_at: crate::deadline::add(submitted, plan.abandon_after),
            user_data: plan.user_data,
            notify: plan.notify,
            copies: plan.copies,
            cache: plan.cache,
            waiting: Mutex::new(None),
            fate: AtomicU8::new(0),
            failed_start: OnceLock::new(),
            stopped: OnceLock::new(),
            ended: Mutex::new(None),
        })
    }

    /// Keeps the batch back until `begin`.
    pub(crate) fn hold(&self, batch: Batch) {
        *self.waiting() = Some(Box::new(batch));
    }

    /// Posts the batch that `hold` kept. A refusal at this point is the transfer's end, and so is a failed event.
    pub(crate) fn begin(&self, event: Result<()>) {
        let Some(batch) = self.waiting().take() else { return };
        if let Err(error) = event {
            let status = Status::quiet(StatusKind::Native).with_native(error.native().unwrap_or(0));
            let _ = self.failed_start.set(error);
            // SAFETY: the batch was never posted, so nothing touches either side on its behalf.
            unsafe { batch.done.finish(status) };
            return;
        }
        if self.stopped.get().is_some() {
            // SAFETY: the batch was never posted, so nothing touches either side on its behalf.
            unsafe { batch.done.finish(Status::quiet(StatusKind::Cancelled)) };
            return;
        }
        if let Err(rejected) = self.link.post(*batch) {
            let kind = match rejected.why {
                Refusal::StaleLease => StatusKind::StaleLease,
                Refusal::Closed => StatusKind::LinkLost,
                Refusal::Full { .. } => StatusKind::PeerFull,
                _ => StatusKind::Closed,
            };
            // SAFETY: a rejected batch was not started, so nothing touches either side on its behalf.
            unsafe { rejected.batch.done.finish(Status::quiet(kind)) };
        }
    }

    /// Stops it once more, if a stop came while the batch was being handed over.
    pub(crate) fn stop_again(&self) {
        if let Some(why) = self.stopped.get() {
            self.stop(*why);
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.waiting().is_none()
    }

    /// Notes why the transfer is about to end, for whoever asks; the first reason counts.
    pub(crate) fn blame(&self, why: StatusKind) {
        let _ = self.stopped.set(why);
    }

    /// Ends a batch that waits for its event, or hints to the link.
    pub(crate) fn stop(&self, why: StatusKind) {
        self.blame(why);
        let waiting = self.waiting().take();
        match waiting {
            // SAFETY: the batch was never posted, so nothing touches either side on its behalf.
            Some(batch) => unsafe { batch.done.finish(Status::quiet(StatusKind::Cancelled)) },
            None => self.link.cancel(self.id),
        }
    }

    /// How the caller is to see an end: what was stopped was stopped for a reason.
    fn seen(&self, mut status: Status) -> Status {
        if matches!(status.kind, StatusKind::Cancelled | StatusKind::Closed)
            && let Some(why) = self.stopped.get()
        {
            status.kind = *why;
        }
        status
    }

    /// Nobody waits for it any more.
    fn detach(&self) {
        if self.fate.fetch_or(DETACHED, Ordering::AcqRel) & ENDED != 0 {
            self.report_detached();
        }
    }

    /// The end of a transfer that nobody waits for goes to the completion queue, if there is room.
    fn report_detached(&self) {
        let Some((_, status)) = self.end() else { return };
        let completion = Completion::Transfer { id: self.id, user_data: 0, status: self.seen(status) };
        if self.user_data.is_none() && !self.shared.completions.push(completion) {
            tracing::warn!(transfer = self.id.0, ?status, "the end of a detached transfer found no room");
        }
    }

    fn end(&self) -> Option<(Instant, Status)> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<Box<Batch>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our blocks that the transfer touches.
    pub(crate) fn local_block_set(&self, limits: &Limits) -> Result<Arc<BlockSet>> {
        crate::quarantine::block_set(&self.cache.layout, self.copies.local_blocks(), limits)
    }

    fn outcome(&self, status: Status) -> Result<Report> {
        let status = self.seen(status);
        if !status.is_completed() {
            return Err(self.error(status));
        }
        let ended = self.end().map_or_else(Instant::now, |(at, _)| at);
        Ok(Report {
            id: self.id,
            bytes: self.bytes,
            runs: self.runs,
            transport: self.link.kind(),
            elapsed: ended.saturating_duration_since(self.submitted),
        })
    }

    /// The boxed error, built only where a caller asks.
    fn error(&self, status: Status) -> Error {
        if let Some(error) = self.failed_start.get() {
            return error.clone();
        }
        let (kind, why) = explain(status.kind);
        // What a device's library said is worth more than that it said something.
        let native = (self.link.kind().moves_devices() && status.native != 0)
            .then(|| Code::of_link(self.link.kind(), status.native));
        // A link that failed since the device is lost does not come back with a new connection.
        let class = native.map(|code| code.class).filter(|class| {
            status.kind == StatusKind::Native
                || (status.kind == StatusKind::LinkLost && class.is_device_lost())
        });
        let kind = class.map_or(kind, Class::kind);
        let why = native.map_or_else(|| why.to_owned(), |code| format!("{why}: {}", code.describe()));
        let operation = match self.op {
            Op::Read => "read",
            Op::Write => "write",
        };
        let mut message = format!(
            "transfer {} of {} bytes over {} with {}: {why} (at merged run {} of {})",
            self.id,
            self.bytes,
            self.link.kind(),
            self.peer.name(),
            status.run,
            self.runs
        );
        if status.local == Quiet::AfterClose {
            message.push_str("; its local blocks are withheld until the link is closed");
        }
        let mut error = Error::new(kind, operation, message).with_quiet(status.local, status.remote);
        if let Some(class) = class {
            error = error.with_retry(class.retry());
        }
        if status.native != 0 {
            error = error.with_native(status.native);
        }
        if status.local == Quiet::AfterClose {
            error =
                error.with_quarantine(self.copies.local_blocks().flat_map(|(_, span)| span.ids()).collect());
        }
        error
    }
}

fn explain(kind: StatusKind) -> (ErrorKind, &'static str) {
    match kind {
        StatusKind::Cancelled => (ErrorKind::Cancelled, "cancelled"),
        StatusKind::Abandoned => (ErrorKind::TimedOut, "given up after abandon_after"),
        StatusKind::StaleLease => (
            ErrorKind::StaleLease,
            "the lease ended before the last byte was confirmed; recompute or fetch anew",
        ),
        StatusKind::Denied => {
            (ErrorKind::Denied, "the peer refused: rights, bounds, or a block outside the lease")
        }
        StatusKind::PeerFull => {
            (ErrorKind::Full, "the peer serves as much as its limits allow; try again later")
        }
        StatusKind::PeerGone => (ErrorKind::PeerGone, "the peer's process is dead"),
        StatusKind::PeerUnmapped => (ErrorKind::PeerGone, "the peer's memory is not mapped"),
        StatusKind::LinkLost => (ErrorKind::LinkLost, "the connection ended; connect again"),
        StatusKind::Closed => (ErrorKind::Closed, "a region or the engine was closed"),
        StatusKind::Protocol => (ErrorKind::Protocol, "the peer broke the protocol"),
        StatusKind::Native => (ErrorKind::Resource, "the operating system or the device refused"),
        _ => (ErrorKind::Internal, "a worker failed; nothing is known of the last bytes"),
    }
}

impl Watcher for Flight {
    fn finished(&self, state: &State, status: Status, pins: Option<Arc<[Arc<Memory>]>>) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), status));
        // First: a release of the grant, which the end of its last use may send, would make it come too late.
        if let Some(sequence) = self.notify {
            self.shared.notify(&self.peer, self.grant.id(), sequence, status.is_completed());
        }
        // Without proof of quiet on the remote side, the grant's release waits for the link to close.
        self.shared.end_use(&self.peer, self.grant.id(), status.remote == Quiet::Yes);
        if let Some(pins) = pins {
            self.shared.withhold_transfer(self, pins);
        }
        self.shared.flight_ended(self);
        if let Some(user_data) = self.user_data {
            let status = self.seen(status);
            self.shared.completions.push_reserved(Completion::Transfer { id: state.id(), user_data, status });
        }
        if self.fate.fetch_or(ENDED, Ordering::AcqRel) & DETACHED != 0 {
            self.report_detached();
        }
        tracing::debug!(transfer = self.id.0, kind = ?status.kind, bytes = self.bytes, "transfer ended");
    }
}
