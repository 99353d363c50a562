//! The producer's side of a push: each layer's KV is on its way as soon as it is computed.
//!
//! vLLM's thread says what a step computes and which layer is done, and posts; a task of the worker's thread claims the
//! consumer's blocks, waits for the ends of transfers, and lets go. No block is written twice, but for one at the very end,
//! which carries the word that everything before it has arrived.

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use ropeway::{BlockId, Error, ErrorKind, LeaseName, Op, Plan, Start, Submit, SubmitError, Transfer};
use tokio::sync::Notify;

use super::Inner;
use super::claims::{Held, Source};
use super::instances::{Direction, Known, Way};
use super::mapping::Cut;
use super::tickets::{Ask, Failure};
use crate::meta::Ticket;
use crate::params::Owner;

/// How often a stopped transfer is looked at until it reads nothing any more.
const QUIET_PAUSE: Duration = Duration::from_millis(20);

/// The pause while there is no room for a transfer.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Writers of one rank's blocks. Their words must be below the engine's `notifications_per_lease`.
pub(in crate::worker) const WRITERS_MAX: u32 = 90;

/// What a writer tells the consumer when all of its part is written: how many writers there are, and which it is. One word
/// for one writer, the next two for two, the next three for three.
pub(super) fn word(writers: u32, place: u32) -> u32 {
    let writers = writers.min(WRITERS_MAX);
    writers * writers.saturating_sub(1) / 2 + place
}

/// Whether every writer has told its word, each of them of the same number of writers.
pub(super) fn all_written(told: u32, arrived: impl Fn(u32) -> bool) -> bool {
    told > 0 && (0..told).all(|place| arrived(word(told, place)))
}

/// A prompt that is written to another instance while it is computed.
pub(super) struct Push {
    ticket: Ticket,
    /// The consumer's block ids per group.
    remote: Vec<Vec<u32>>,
    state: Mutex<State>,
    /// Told when there is something for the task.
    changed: Notify,
    over: Condvar,
}

struct State {
    /// Our block ids per group.
    local: Vec<Vec<u32>>,
    cut: Cut,
    layers: Vec<Layer>,
    /// Tokens that are computed once the step under way is done.
    end: u64,
    targets: Option<Targets>,
    /// Transfers that the task does not know of yet.
    fresh: Vec<Transfer>,
    /// Plans for which there was no room.
    waiting: Vec<(Plan, Start)>,
    finish: Finish,
    failed: Option<Failure>,
    /// Nothing is posted any more.
    is_closed: bool,
    /// Nothing of it is read any more.
    is_over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finish {
    /// More of it is to be computed.
    No,
    /// All was computed.
    Complete,
    /// It is to stop.
    Stop,
}

struct Layer {
    number: u32,
    /// Tokens whose KV is written when `begin` has come.
    ready: u64,
    /// Tokens whose transfers were posted.
    sent: u64,
    begin: Start,
}

/// The consumer's ranks, claimed.
struct Targets {
    held: Held,
    /// By rank and route: where the parts of each layer are among the route's.
    parts: Vec<Vec<HashMap<u32, Vec<Range<usize>>>>>,
}

impl Targets {
    fn of(held: Held) -> Self {
        let parts = |source: &Source| source.routes.iter().map(|(_, way)| by_layer(way)).collect();
        Self { parts: held.sources.iter().map(parts).collect(), held }
    }
}

/// Ranges of neighbouring parts of each layer.
fn by_layer(way: &Way) -> HashMap<u32, Vec<Range<usize>>> {
    let mut layers: HashMap<u32, Vec<Range<usize>>> = HashMap::new();
    for (at, part) in way.route.parts().enumerate() {
        let Some(layer) = part.split('.').nth(1).and_then(|number| number.parse().ok()) else { continue };
        let ranges = layers.entry(layer).or_default();
        match ranges.last_mut() {
            Some(range) if range.end == at => range.end += 1,
            _ => ranges.push(at..at + 1),
        }
    }
    layers
}

impl State {
    /// Why it is to go no further.
    fn stopping(&mut self) -> Option<Failure> {
        let stopped = || Failure { kind: ErrorKind::Cancelled, text: "it was stopped".to_owned() };
        self.failed.take().or_else(|| (self.finish == Finish::Stop).then(stopped))
    }
}

impl Push {
    /// The consumer's blocks may be written from now on: what was computed before goes at once.
    fn attach(&self, held: Held) {
        let mut state = self.state();
        state.targets = Some(Targets::of(held));
        (0..state.layers.len()).for_each(|at| self.advance(&mut state, at));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, state: &State, tokens: Range<u64>) -> Ask {
        Ask { local: state.local.clone(), remote: self.remote.clone(), tokens }
    }

    /// Posts what of a layer is ready and not on its way yet.
    fn advance(&self, state: &mut State, layer: usize) {
        let whole = state.finish == Finish::Complete;
        let Layer { number, ready, sent, .. } = state.layers[layer];
        let until = if whole { ready } else { ready - ready % state.cut.tokens };
        if until <= sent || state.failed.is_some() || state.is_closed || state.finish == Finish::Stop {
            return;
        }
        let Some(targets) = &state.targets else { return };
        let ask = self.ask(state, sent..until);
        let begin = state.layers[layer].begin.clone();
        match plans(targets, number, &ask) {
            Ok(plans) => {
                state.layers[layer].sent = until;
                state.waiting.extend(plans.into_iter().map(|plan| (plan, begin.clone())));
                self.post(state);
            }
            Err(failure) => state.failed = Some(failure),
        }
        self.changed.notify_one();
    }

    /// Submits what there is room for.
    fn post(&self, state: &mut State) {
        while let Some((plan, begin)) = state.waiting.pop() {
            match plan.submit(Submit::default().start(begin.clone())) {
                Ok(transfer) => state.fresh.push(transfer),
                Err(SubmitError::Full { .. }) => return state.waiting.push((plan, begin)),
                Err(error) => {
                    state.failed.get_or_insert(Error::from(error).into());
                    state.waiting.clear();
                }
            }
        }
    }

    /// A layer's KV of the step under way is written once `begin` has come.
    fn layer(&self, number: u32, begin: &Start) {
        let mut state = self.state();
        let end = state.end;
        if let Some(at) = state.layers.iter().position(|layer| layer.number == number) {
            let layer = &mut state.layers[at];
            (layer.ready, layer.begin) = (end, begin.clone());
            self.advance(&mut state, at);
        }
    }

    /// All that the step was to compute is written once `begin` has come.
    fn stepped(&self, begin: &Start) {
        let mut state = self.state();
        let end = state.end;
        for at in 0..state.layers.len() {
            let layer = &mut state.layers[at];
            if layer.ready < end {
                (layer.ready, layer.begin) = (end, begin.clone());
            }
            self.advance(&mut state, at);
        }
    }

    fn finish(&self, how: Finish) {
        let mut state = self.state();
        state.finish = how;
        if how == Finish::Complete {
            (0..state.layers.len()).for_each(|at| self.advance(&mut state, at));
        }
        self.changed.notify_one();
    }

    /// Waits until nothing of it is read any more; whether that came in time.
    fn wait_over(&self, timeout: Duration) -> bool {
        let state = self.state();
        let waited = self.over.wait_timeout_while(state, timeout, |state| !state.is_over);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }
}

/// What moves those tokens of a layer to every target.
fn plans(targets: &Targets, layer: u32, ask: &Ask) -> Result<Vec<Plan>, Failure> {
    let mut plans = Vec::new();
    for (source, parts) in targets.held.sources.iter().zip(&targets.parts) {
        for ((share, way), parts) in source.routes.iter().zip(parts) {
            let Some(ranges) = parts.get(&layer) else { continue };
            for range in ranges {
                plans.extend(write(&targets.held.known, source, (*share, way), range, ask)?);
            }
        }
    }
    Ok(plans)
}

fn write(
    known: &Known,
    source: &Source,
    (share, way): (usize, &Arc<Way>),
    parts: &Range<usize>,
    ask: &Ask,
) -> Result<Option<Plan>, Failure> {
    let blocks = known.map.ids(share, ask)?;
    if blocks.remote.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let local: Vec<&[BlockId]> = blocks.local.iter().map(Vec::as_slice).collect();
    let remote: Vec<&[BlockId]> = blocks.remote.iter().map(Vec::as_slice).collect();
    Ok(Some(way.route.plan(Op::Write, &source.grant, Some(parts.clone()), &local, &remote)?))
}

impl Inner {
    /// A prompt is to be computed whose KV goes elsewhere.
    pub(super) fn aim(
        self: &Arc<Self>,
        ticket: Ticket,
        owner: Owner,
        lease: LeaseName,
        remote: Vec<Vec<u32>>,
        from: u64,
    ) {
        let (cut, failed) = match self.mapper.cut() {
            Ok(cut) => (cut, None),
            Err(failure) => (Cut::default(), Some(failure)),
        };
        let layer = |number: &u32| Layer { number: *number, ready: 0, sent: from, begin: Start::Now };
        let state = State {
            local: Vec::new(),
            layers: cut.layers.iter().map(layer).collect(),
            cut,
            end: 0,
            targets: None,
            fresh: Vec::new(),
            waiting: Vec::new(),
            finish: Finish::No,
            failed,
            is_closed: false,
            is_over: false,
        };
        let (changed, over) = (Notify::new(), Condvar::new());
        let push = Arc::new(Push { ticket, remote, state: Mutex::new(state), changed, over });
        self.ledger().pushes.insert(ticket, Arc::clone(&push));
        let inner = Arc::clone(self);
        self.tasks.spawn(async move { inner.push(&push, &owner, lease).await });
    }

    /// A step computes a part of it.
    pub(super) fn push_step(&self, ticket: Ticket, more: &[Vec<u32>], end: u64) {
        let mut ledger = self.ledger();
        let Some(push) = ledger.pushes.get(&ticket).cloned() else { return };
        let mut state = push.state();
        let groups = state.local.len().max(more.len());
        state.local.resize(groups, Vec::new());
        state.local.iter_mut().zip(more).for_each(|(known, more)| known.extend(more));
        state.end = state.end.max(end);
        drop(state);
        ledger.stepping.push(push);
    }

    /// Nothing more of it is computed, or it is to stop. Gives what must be over before its blocks are another's.
    pub(super) fn push_end(&self, ticket: Ticket, complete: bool, keeps: bool) -> Option<Arc<Push>> {
        let mut ledger = self.ledger();
        let Some(push) = ledger.pushes.get(&ticket).cloned() else {
            // It has failed and is over, or was never known: vLLM has its blocks back at once.
            ledger.tickets.lent_ended(ticket);
            return None;
        };
        drop(ledger);
        push.finish(if complete { Finish::Complete } else { Finish::Stop });
        (!keeps).then_some(push)
    }

    /// A layer of the step under way was launched.
    pub(super) fn push_layer(&self, number: u32, begin: &Start) {
        let stepping = self.ledger().stepping.clone();
        stepping.iter().for_each(|push| push.layer(number, begin));
    }

    /// All of the step was launched.
    pub(super) fn push_stepped(&self, begin: &Start) {
        let stepping = std::mem::take(&mut self.ledger().stepping);
        stepping.iter().for_each(|push| push.stepped(begin));
    }

    /// Waits until the blocks of stopped passages are read no more.
    pub(super) fn settle(&self, stopped: &[Arc<Push>]) -> ropeway::Result<()> {
        let until = Instant::now() + self.timing.claim;
        match stopped.iter().find(|push| !push.wait_over(until.saturating_duration_since(Instant::now()))) {
            None => Ok(()),
            Some(push) => {
                let text = format!(
                    "blocks of preempted passage {} are still being read after claim_timeout",
                    push.ticket
                );
                Err(Error::new(ErrorKind::TimedOut, "start", text))
            }
        }
    }

    async fn push(self: &Arc<Self>, push: &Arc<Push>, owner: &Owner, lease: LeaseName) {
        // It goes on when the push is stopped meanwhile: its grants are let go as they come, so that the consumer hears a word.
        let (inner, whose) = (Arc::clone(self), owner.clone());
        let claiming = tokio::spawn(async move { inner.hold(&whose, lease, Direction::Push).await });
        let closing = |_| Failure { kind: ErrorKind::Closed, text: "the worker is closing".to_owned() };
        let held = tokio::select! {
            held = claiming => held.map_err(closing).and_then(|held| held),
            failure = stopped(push) => Err(failure),
        };
        let mut flying = Vec::new();
        let result = match held {
            Ok(held) => {
                push.attach(held);
                match run(push, &mut flying).await {
                    Ok(()) => tell(push, &mut flying).await,
                    Err(failure) => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        };
        flying.append(&mut push.state().fresh);
        flying.iter().for_each(Transfer::cancel);
        while !flying.iter().all(|transfer| transfer.wait_quiet(Duration::ZERO)) {
            tokio::time::sleep(QUIET_PAUSE).await;
        }
        drop(flying);
        if let Err(failure) = &result
            && failure.kind != ErrorKind::Cancelled
        {
            tracing::warn!(
                ticket = push.ticket,
                why = failure.text,
                "a prompt's KV was not written to its consumer"
            );
            self.stats().num_failed_transfers += 1;
        }
        self.push_over(push);
    }

    /// The grants go first, so that a report means that the consumer was told.
    fn push_over(&self, push: &Push) {
        let targets = {
            let mut state = push.state();
            state.is_closed = true;
            state.waiting.clear();
            state.targets.take()
        };
        drop(targets);
        {
            let mut ledger = self.ledger();
            ledger.pushes.remove(&push.ticket);
            ledger.tickets.lent_ended(push.ticket);
        }
        push.state().is_over = true;
        push.over.notify_all();
    }
}

/// When it is to stop, or has failed before it began.
async fn stopped(push: &Push) -> Failure {
    loop {
        let failure = push.state().stopping();
        match failure {
            Some(failure) => return failure,
            None => push.changed.notified().await,
        }
    }
}

/// Until everything is written that there is, or something fails.
async fn run(push: &Push, flying: &mut Vec<Transfer>) -> Result<(), Failure> {
    loop {
        let crowded = {
            let mut state = push.state();
            push.post(&mut state);
            flying.append(&mut state.fresh);
            if let Some(failure) = state.stopping() {
                state.is_closed = true;
                return Err(failure);
            }
            let sent = state.layers.iter().all(|layer| layer.sent >= state.end);
            if state.finish == Finish::Complete && sent && state.waiting.is_empty() && flying.is_empty() {
                return Ok(());
            }
            !state.waiting.is_empty()
        };
        tokio::select! {
            () = push.changed.notified() => {}
            () = tokio::time::sleep(ROOM_PAUSE), if crowded => {}
            result = next(flying), if !flying.is_empty() => result?,
        }
    }
}

/// The next end among them; those that ended well are forgotten.
async fn next(flying: &mut Vec<Transfer>) -> Result<(), Failure> {
    let (at, result) = poll_fn(|context| {
        for (at, transfer) in flying.iter_mut().enumerate() {
            if let Poll::Ready(result) = Future::poll(Pin::new(transfer), context) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    })
    .await;
    result?;
    drop(flying.swap_remove(at));
    Ok(())
}

/// Tells every target: the last piece once more, with the word. Everything before it has arrived.
async fn tell(push: &Push, flying: &mut Vec<Transfer>) -> Result<(), Failure> {
    let mut told = {
        let state = push.state();
        let (Some(targets), end) = (&state.targets, state.end) else { return Ok(()) };
        let ask = push.ask(&state, end.saturating_sub(1)..end);
        last_pieces(targets, &ask)?
    };
    while let Some((plan, word)) = told.pop() {
        match plan.submit(Submit::default().notify(word)) {
            Ok(transfer) => flying.push(transfer),
            Err(SubmitError::Full { .. }) => {
                told.push((plan, word));
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            Err(error) => return Err(Error::from(error).into()),
        }
    }
    while !flying.is_empty() {
        next(flying).await?;
    }
    Ok(())
}

/// A piece for each target, and its word.
fn last_pieces(targets: &Targets, ask: &Ask) -> Result<Vec<(Plan, u32)>, Failure> {
    let mut pieces = Vec::new();
    for (source, parts) in targets.held.sources.iter().zip(&targets.parts) {
        let of = source.routes.iter().zip(parts);
        let one = of.flat_map(|((share, way), parts)| {
            parts.values().flatten().map(move |range| (*share, way, range))
        });
        for (share, way, range) in one {
            let range = range.start..range.start + 1;
            if let Some(plan) = write(&targets.held.known, source, (share, way), &range, ask)? {
                pieces.push((plan, source.word));
                break;
            }
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_written_when_every_writer_says_so_and_never_before() {
        let told = |words: &[u32]| all_written(words.len() as u32, |word| words.contains(&word));
        assert!(!told(&[]));
        assert!(told(&[word(1, 0)]));
        assert!(!told(&[word(2, 0)]), "one of two");
        assert!(!told(&[word(2, 1)]), "one of two");
        assert!(told(&[word(2, 0), word(2, 1)]));
        assert!(!told(&[word(3, 0), word(3, 2)]), "two of three");
        assert!(!told(&[word(2, 0), word(3, 1)]), "they do not agree how many they are");
        let all: Vec<u32> =
            (1..=WRITERS_MAX).flat_map(|of| (0..of).map(move |place| word(of, place))).collect();
        assert!(all.iter().enumerate().all(|(at, word)| at as u32 == *word), "no two are alike");
        assert!(all.len() < ropeway::Limits::default().notifications_per_lease() as usize);
    }
}
