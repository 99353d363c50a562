//! Plans: checked copies under a grant, and their submission.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ropeway_core::plan::CopyPlan;
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result, Runs};
use ropeway_transport::{Batch, Memory, Refusal, Rejected, State, Watcher};

use crate::event::Start;
use crate::grant::Grant;
use crate::region::RegionInner;
use crate::route::RouteInner;
use crate::shared::Shared;
use crate::transfer::{Flight, FlightPlan, Transfer};

/// A checked, merged set of copies. Nothing has moved yet, and it can be submitted more than once.
///
/// A plan does not keep regions alive: submitting one whose region is closed is an error.
#[must_use = "a plan moves nothing until it is submitted"]
pub struct Plan {
    pub(crate) route: Arc<RouteInner>,
    pub(crate) grant: Grant,
    pub(crate) op: Op,
    pub(crate) copies: Arc<CopyPlan>,
    /// By `Run::local_region`.
    pub(crate) local: Box<[std::sync::Weak<RegionInner>]>,
    /// By `Run::remote_region`.
    pub(crate) remote: Arc<[RegionId]>,
}

/// How to submit a plan.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Submit {
    start: Start,
    user_data: Option<u64>,
    abandon_after: Option<Duration>,
    notify: Option<u32>,
}

impl Submit {
    /// When the transfer may begin; at once unless said.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Reports the end to the completion queue too, with this number.
    pub fn user_data(mut self, user_data: u64) -> Self {
        self.user_data = Some(user_data);
        self
    }

    /// When the transfer is given up; `Limits::abandon_after` unless said. On links where that means tearing the link
    /// down, it does.
    pub fn abandon_after(mut self, after: Duration) -> Self {
        self.abandon_after = Some(after);
        self
    }

    /// Tells the lease's owner of the end, as bit `sequence` of the lease: arrived, or failed. Sent again for a
    /// retried transfer, it counts once.
    pub fn notify(mut self, sequence: u32) -> Self {
        self.notify = Some(sequence);
        self
    }
}

/// Why a plan was not submitted. Nothing was started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SubmitError {
    /// The named limit of `Limits` is reached; `Peer::wait_for_room` waits until it is not.
    Full {
        /// The limit.
        limit: &'static str,
    },
    /// Anything else.
    Failed(Error),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { limit } => {
                write!(f, "submit: limit {limit} is reached; wait for room with Peer::wait_for_room")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SubmitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full { .. } => None,
            Self::Failed(error) => Some(error),
        }
    }
}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Full { .. } => Self::new(ErrorKind::Full, "submit", error.to_string()),
            SubmitError::Failed(error) => error,
        }
    }
}

impl From<Error> for SubmitError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Plan {
    /// Bytes that it moves.
    pub fn bytes(&self) -> u64 {
        self.copies.total_bytes()
    }

    /// Merged runs that it moves them in.
    pub fn runs(&self) -> u64 {
        self.copies.total_runs()
    }

    /// Copies before merging: one per block (or row) and part.
    pub fn descriptors(&self) -> u64 {
        self.copies.descriptors()
    }

    /// Starts the transfer, or arms it for its event. Never blocks; one of at most 64 KiB on the same host is done when
    /// this returns.
    ///
    /// # Errors
    /// [`SubmitError::Full`] at a limit; `StaleLease`, `Closed` or `LinkLost` when the grant, a region or the peer is
    /// gone. Nothing was started.
    #[tracing::instrument(level = "debug", skip_all, fields(op = %self.op, bytes = self.bytes()))]
    pub fn submit(&self, submit: Submit) -> Result<Transfer, SubmitError> {
        let shared = self.shared()?;
        if self.grant.is_stale() {
            return Err(stale(&self.grant).into());
        }
        if self.op == Op::Read && shared.withheld_blocks.load(Ordering::Acquire) > 0 {
            let cache = &self.route.cache;
            let blocks =
                crate::quarantine::block_set(&cache.layout, self.copies.local_blocks(), &shared.limits)?;
            shared.check_withheld("submit", cache.id, &blocks)?;
        }
        let place = Place::take(&shared, &self.route, submit.user_data.is_some())?;
        let pins = self.pin()?;
        let submitted = Instant::now();
        shared.begin_use(&self.route.peer, self.grant.id(), self.op, submitted)?;
        let flight = Flight::new(FlightPlan {
            id: shared.next_transfer(),
            shared: Arc::clone(&shared),
            peer: Arc::clone(&self.route.peer),
            link: Arc::clone(&self.route.link),
            grant: self.grant.clone(),
            op: self.op,
            bytes: self.bytes(),
            runs: self.runs(),
            submitted,
            abandon_after: submit.abandon_after.unwrap_or_else(|| shared.limits.abandon_after()),
            user_data: submit.user_data,
            notify: submit.notify,
            copies: Arc::clone(&self.copies),
            cache: Arc::clone(&self.route.cache),
        });
        let watcher: Arc<dyn Watcher> = Arc::clone(&flight) as Arc<dyn Watcher>;
        let (state, done) = State::new(flight.id, submit.user_data.unwrap_or(0), Arc::clone(&pins), watcher);
        let batch = Batch {
            id: flight.id,
            op: self.op,
            grant: self.grant.id(),
            runs: Arc::clone(&self.copies) as Arc<dyn Runs>,
            local: pins,
            remote: Arc::clone(&self.remote),
            abandon_at: flight.abandon_at,
            done,
        };
        // Registered before the last look at the regions: a close either sees the flight, or is seen here.
        shared.flight_began(&flight, &batch.local);
        if let Err(error) = self.regions_open() {
            batch.done.disarm();
            shared.flight_withdrawn(&flight);
            shared.end_use(&self.route.peer, self.grant.id(), true);
            return Err(error.into());
        }
        place.keep();
        self.start(&shared, &flight, batch, submit.start)?;
        if !state.is_done() {
            shared.watch_deadlines(flight.abandon_at);
        }
        Ok(Transfer::new(state, flight))
    }

    /// Hands the batch to the link, now or when its event fires.
    fn start(
        &self,
        shared: &Arc<Shared>,
        flight: &Arc<Flight>,
        batch: Batch,
        start: Start,
    ) -> Result<(), SubmitError> {
        match start {
            Start::Now => {
                if let Err(rejected) = self.route.link.post(batch) {
                    return Err(self.rejected(shared, flight, rejected));
                }
            }
            Start::AfterEvent(event) => {
                flight.hold(batch);
                // The batch's own completer keeps the flight until it begins or is stopped; the event keeps nothing.
                let armed = Arc::downgrade(flight);
                event.when_ended(move |how| {
                    if let Some(flight) = armed.upgrade() {
                        flight.begin(how);
                    }
                });
            }
        }
        // A stop that came before the link, or the flight, had the batch went past both.
        flight.stop_again();
        Ok(())
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let shared = self.grant.0.shared.upgrade();
        let shared = shared.ok_or_else(|| Error::new(ErrorKind::Closed, "submit", "the engine is closed"))?;
        shared.check("submit")?;
        Ok(shared)
    }

    fn pin(&self) -> Result<Arc<[Arc<Memory>]>> {
        self.local
            .iter()
            .map(|region| match region.upgrade() {
                Some(region) if !region.is_closing() => Ok(Arc::clone(&region.memory)),
                _ => Err(Error::new(ErrorKind::Closed, "submit", "a local region of the plan is closed")),
            })
            .collect()
    }

    fn regions_open(&self) -> Result<()> {
        let closing =
            self.local.iter().filter_map(std::sync::Weak::upgrade).find(|region| region.is_closing());
        closing.map_or(Ok(()), |region| Err(region.closed_error("submit")))
    }

    fn rejected(&self, shared: &Arc<Shared>, flight: &Arc<Flight>, rejected: Rejected) -> SubmitError {
        rejected.batch.done.disarm();
        shared.flight_withdrawn(flight);
        shared.end_use(&self.route.peer, self.grant.id(), true);
        Place::of(shared, &self.route, flight.user_data.is_some()).give_back();
        let error = match rejected.why {
            Refusal::Full { limit } => return SubmitError::Full { limit },
            Refusal::StaleLease => stale(&self.grant),
            Refusal::RegionGone(region) => Error::new(
                ErrorKind::Closed,
                "submit",
                format!("region {region} of {} is closed; make the route anew", self.route.peer.name()),
            ),
            _ => Error::new(
                ErrorKind::LinkLost,
                "submit",
                format!("the {} link to {} is closed", self.route.link.kind(), self.route.peer.name()),
            ),
        };
        SubmitError::Failed(error)
    }
}

fn stale(grant: &Grant) -> Error {
    Error::new(
        ErrorKind::StaleLease,
        "submit",
        format!("lease {} is over; recompute the blocks, or claim a new lease", grant.id()),
    )
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("op", &self.op)
            .field("bytes", &self.bytes())
            .field("runs", &self.runs())
            .finish()
    }
}

/// The places that a transfer holds under the limits; given back on every way out until `keep`.
struct Place<'a> {
    shared: &'a Shared,
    route: &'a RouteInner,
    completion: bool,
    kept: bool,
}

impl<'a> Place<'a> {
    fn take(shared: &'a Shared, route: &'a RouteInner, completion: bool) -> Result<Self, SubmitError> {
        let full = |limit| SubmitError::Full { limit };
        if shared.in_flight.fetch_add(1, Ordering::AcqRel) >= shared.limits.transfers() {
            shared.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(full("transfers"));
        }
        if route.peer.in_flight.fetch_add(1, Ordering::AcqRel) >= shared.limits.transfers_per_peer() {
            route.peer.in_flight.fetch_sub(1, Ordering::AcqRel);
            shared.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(full("transfers_per_peer"));
        }
        if completion && let Err(limit) = shared.completions.reserve() {
            Self::of(shared, route, false).give_back();
            return Err(full(limit));
        }
        Ok(Self::of(shared, route, completion))
    }

    fn of(shared: &'a Shared, route: &'a RouteInner, completion: bool) -> Self {
        Self { shared, route, completion, kept: false }
    }

    fn keep(mut self) {
        self.kept = true;
    }

    fn give_back(self) {}
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.route.peer.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.completion {
            self.shared.completions.unreserve();
        }
    }
}
