//! The consumer's side once there are blocks: plans, transfers, and their end.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ropeway::{BlockId, Error, ErrorKind, Plan, Quiet, Report, Start, Submit, SubmitError, Transfer};
use tokio::sync::Notify;

use super::Inner;
use super::claims::Held;
use super::instances::{Known, Way};
use super::tickets::{Ask, Failure};
use crate::ids::RowMove;
use crate::meta::Ticket;
use crate::stats::Loaded;

/// How often a failed transfer's memory is looked at until nothing can land there any more.
const QUIET_PAUSE: Duration = Duration::from_millis(20);

/// The pause while there is no room for a transfer.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// A read under way. The grants go last, once nothing of it moves.
struct Reading {
    transfers: Vec<Flying>,
    /// Plans for which there was no room yet.
    waiting: Vec<Plan>,
    failed: Option<Failure>,
    loaded: Loaded,
    began: Instant,
    begin: Start,
    _held: Held,
}

/// A share that lands in scratch memory, round by round, and is put in order from there.
struct Landing {
    known: Arc<Known>,
    way: Arc<Way>,
    share: usize,
    rounds: Vec<(Plan, Vec<Vec<RowMove>>)>,
}

/// The device may still write the blocks of a request, and cannot be stopped.
struct Stuck(String);

struct Flying {
    transfer: Transfer,
    ended: bool,
}

impl Inner {
    /// Posts the reads of a request on the calling thread; their end is waited for by a task.
    pub(super) fn read(self: &Arc<Self>, ticket: Ticket, ask: &Ask) {
        let stop = Arc::new(Notify::new());
        let (held, begin) = {
            let mut ledger = self.ledger();
            let held = ledger.held.remove(&ticket);
            let begin = ledger.starts.remove(&ticket).unwrap_or(Start::Now);
            ledger.reading.insert(ticket, Arc::clone(&stop));
            (held, begin)
        };
        let Some(held) = held else {
            let text = "the grants of the request are gone: the worker is closing".to_owned();
            return self.ended(ticket, Err(Failure { kind: ErrorKind::Closed, text }));
        };
        let began = Instant::now();
        let ((plans, landings), failed) = match plans(&held, ask) {
            Ok(plans) => (plans, None),
            Err(failure) => ((Vec::new(), Vec::new()), Some(failure)),
        };
        let mut reading = Reading {
            transfers: Vec::new(),
            waiting: plans,
            failed,
            loaded: Loaded::default(),
            began,
            begin,
            _held: held,
        };
        reading.post();
        reading.loaded.posting = began.elapsed();
        if landings.is_empty() && reading.is_over() {
            return self.finish(ticket, reading);
        }
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            reading.run(&stop, inner.timing.claim).await;
            for landing in landings {
                if let Err(Stuck(why)) = reading.land(landing, &stop, inner.timing.claim).await {
                    inner.ledger().stuck = Some(why);
                    // Its blocks are nobody's any more: no report, however long.
                    return pending().await;
                }
            }
            inner.finish(ticket, reading);
        });
    }

    /// Lets the grants go, then tells: a report means that the producer was told, too.
    fn finish(&self, ticket: Ticket, reading: Reading) {
        let result = match &reading.failed {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        };
        let loaded = Loaded { elapsed: reading.began.elapsed(), ..reading.loaded };
        drop(reading);
        match &result {
            Ok(()) => self.stats().loaded(loaded),
            Err(failure) if failure.kind == ErrorKind::Cancelled => {
                tracing::debug!(ticket, "a load was stopped");
            }
            Err(failure) => {
                tracing::warn!(ticket, why = failure.text, "KV was not loaded");
                self.stats().num_failed_transfers += 1;
            }
        }
        self.ended(ticket, result);
    }

    pub(super) fn ended(&self, ticket: Ticket, result: Result<(), Failure>) {
        let mut ledger = self.ledger();
        ledger.reading.remove(&ticket);
        ledger.starts.remove(&ticket);
        ledger.tickets.read(ticket, result);
    }
}

fn lists(of: &[Vec<BlockId>]) -> Vec<&[BlockId]> {
    of.iter().map(Vec::as_slice).collect()
}

fn plans(held: &Held, ask: &Ask) -> Result<(Vec<Plan>, Vec<Landing>), Failure> {
    let (mut plans, mut landings) = (Vec::new(), Vec::new());
    for source in held.sources.iter().filter(|source| !source.routes.is_empty()) {
        held.known.map.agree(source.rank, ask, &source.grant.blocks())?;
        for (share, way) in &source.routes {
            let plan = |local: &[Vec<BlockId>], remote: &[Vec<BlockId>]| {
                way.route.read(&source.grant, &lists(local), &lists(remote))
            };
            if way.arena.is_some() {
                let rounds = held.known.map.rounds(*share, ask)?.into_iter();
                let rounds = rounds.map(|ids| Ok((plan(&ids.local, &ids.remote)?, ids.moves)));
                let rounds = rounds.collect::<ropeway::Result<Vec<_>>>()?;
                landings.push(Landing {
                    known: Arc::clone(&held.known),
                    way: Arc::clone(way),
                    share: *share,
                    rounds,
                });
                continue;
            }
            let blocks = held.known.map.ids(*share, ask)?;
            if blocks.remote.iter().all(Vec::is_empty) {
                continue;
            }
            plans.push(plan(&blocks.local, &blocks.remote)?);
        }
    }
    Ok((plans, landings))
}

impl Reading {
    /// Submits what there is room for.
    fn post(&mut self) {
        while let Some(plan) = self.waiting.pop() {
            match plan.submit(Submit::default().start(self.begin.clone())) {
                Ok(transfer) => {
                    self.loaded.bytes += plan.bytes();
                    self.loaded.runs += plan.runs();
                    self.transfers.push(Flying { transfer, ended: false });
                }
                Err(SubmitError::Full { .. }) => {
                    self.waiting.push(plan);
                    return;
                }
                Err(error) => return self.fail(Error::from(error).into()),
            }
        }
        self.look();
    }

    /// One failure ends all: nothing of a request is used unless all of it came.
    fn fail(&mut self, failure: Failure) {
        self.failed.get_or_insert(failure);
        self.waiting.clear();
        self.transfers.iter().for_each(|flying| flying.transfer.cancel());
    }

    /// Takes note of those that have ended already.
    fn look(&mut self) {
        for at in 0..self.transfers.len() {
            let flying = &mut self.transfers[at];
            if !flying.ended && flying.transfer.is_done() {
                flying.ended = true;
                if let Some(Err(error)) = flying.transfer.wait(Duration::ZERO) {
                    self.fail(error.into());
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty()
            && self.transfers.iter().all(|flying| flying.ended)
            && (self.failed.is_none() || self.is_quiet())
    }

    fn is_quiet(&self) -> bool {
        self.transfers.iter().all(|flying| flying.transfer.wait_quiet(Duration::ZERO))
    }

    /// One share, unless something failed. The scratch memory is given on when nothing lands there any more.
    async fn land(&mut self, landing: Landing, stop: &Notify, room: Duration) -> Result<(), Stuck> {
        let Landing { known, way, share, rounds } = landing;
        let Some(arena) = &way.arena else { return Ok(()) };
        let _busy = arena.busy.lock().await;
        for (plan, moves) in rounds {
            if self.failed.is_some() {
                return Ok(());
            }
            self.waiting.push(plan);
            self.run(stop, room).await;
            if self.failed.is_some() {
                return Ok(());
            }
            let (known, scratch) = (Arc::clone(&known), arena.region.clone());
            let copying = move || known.map.reorder(share, &moves, &scratch);
            match tokio::task::spawn_blocking(copying).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.local() != Quiet::Yes => return Err(Stuck(error.to_string())),
                Ok(Err(error)) => self.fail(error.into()),
                Err(_) => {
                    let text = "the worker is closing".to_owned();
                    self.fail(Failure { kind: ErrorKind::Closed, text });
                }
            }
        }
        Ok(())
    }

    /// Until nothing of it moves, whatever happens.
    async fn run(&mut self, stop: &Notify, room: Duration) {
        let give_up = Instant::now() + room;
        let mut stopped = std::pin::pin!(stop.notified());
        let mut asked = false;
        while !self.waiting.is_empty() || self.transfers.iter().any(|flying| !flying.ended) {
            if !self.waiting.is_empty() {
                self.post();
                if self.waiting.is_empty() && self.transfers.iter().all(|flying| flying.ended) {
                    // Over before it could be waited for.
                    break;
                }
            }
            let crowded = !self.waiting.is_empty();
            if crowded && Instant::now() >= give_up {
                let text = "no room for the transfer within claim_timeout".to_owned();
                self.fail(Failure { kind: ErrorKind::Full, text });
            }
            tokio::select! {
                () = &mut stopped, if !asked => {
                    asked = true;
                    self.fail(Failure { kind: ErrorKind::Cancelled, text: "nobody wants it any more".to_owned() });
                }
                () = tokio::time::sleep(ROOM_PAUSE), if crowded => {}
                (at, result) = self.next(), if self.transfers.iter().any(|flying| !flying.ended) => {
                    self.transfers[at].ended = true;
                    if let Err(error) = result {
                        self.fail(error.into());
                    }
                }
                else => {}
            }
        }
        while self.failed.is_some() && !self.is_quiet() {
            tokio::time::sleep(QUIET_PAUSE).await;
        }
    }

    /// The next end among the transfers under way.
    async fn next(&mut self) -> (usize, ropeway::Result<Report>) {
        let transfers = &mut self.transfers;
        poll_fn(move |context| {
            for (at, flying) in transfers.iter_mut().enumerate().filter(|(_, flying)| !flying.ended) {
                if let Poll::Ready(result) = Future::poll(Pin::new(&mut flying.transfer), context) {
                    return Poll::Ready((at, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}
