//! The scheduler half: the life of each request, decided without I/O.
//!
//! vLLM's scheduler calls; what is for the workers is collected and goes out with the step, [`Scheduler::build_meta`].
//! What workers report comes back through [`Scheduler::update`], once every rank has reported it.
//!
//! ```text
//!  on a producer                              on a consumer
//!  new ─▶ Producing ─ finished ─▶ Lent        new ─▶ Tracked ─ allocated, tokens to load ─▶ Parked ─ received ─▶ Settled
//!           │ aborted, no blocks   │ sent         │ allocated, none to load ─▶ Settled        │ aborted
//!           ▼                      ▼              │ aborted                                   ▼
//!          gone                   gone            ▼ gone                                   Draining ─ received ─▶ gone
//! ```
//!
//! Where the producer writes, a consumer's request waits as Awaiting, without the workers, until it has blocks, and is Parked from
//! then on; a producer's is Pushing until it has finished, and Lent while the last of it is on its way.
//!
//! A Settled request is like any other: it may be preempted and computed here; it is not pulled a second time, as the
//! producer has its blocks back.

use std::collections::HashMap;
use std::fmt;

use ropeway::LeaseName;
use serde_json::Value;

use crate::config::{Role, origin};
use crate::meta::{self, Message, Ticket};
use crate::params::{Awaited, BLOCKS_MAX, GROUPS_MAX, Lent, Owner, Params, Remote};

/// Draws the name of a lease: [`ropeway::lease_name`], or a test's.
pub type DrawName = Box<dyn FnMut() -> ropeway::Result<LeaseName> + Send>;

/// What the scheduler half is told at start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What this instance may do.
    pub role: Role,
    /// A name for people.
    pub engine_id: String,
    /// Tensor, pipeline and decode-context ranks: for those who read NIXL's keys.
    pub sizes: (u32, u32, u32),
    /// Trailing prompt tokens that a consumer computes itself, and a producer does not: 1 for models with recurrent state,
    /// which cannot be taken back by a token, and 0 for others.
    pub backoff: u64,
    /// Where producers may be asked for that push to us (`http://proxy:8000`); none where nothing is pushed, by either
    /// side.
    pub metaservers: Option<Vec<String>>,
}

/// The scheduler half of one instance (of one data-parallel rank).
pub struct Scheduler {
    setup: Setup,
    draw: DrawName,
    /// Who we are to consumers, once the listener is up.
    owner: Option<Owner>,
    requests: HashMap<String, Entry>,
    outbox: Vec<Message>,
    asks: Vec<Ask>,
    tickets: Ticket,
    counts: Counts,
}

/// Something to post to a metaserver: who waits for a prompt to be computed, and where it is to be written.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask {
    /// The request.
    pub request: String,
    /// Where to.
    pub url: String,
    /// What.
    pub body: Value,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A prompt is computed here for another instance.
    Producing {
        /// Its end is left to that one.
        cut: bool,
    },
    /// A prompt is computed here whose KV is written to another instance meanwhile.
    Pushing {
        /// vLLM took its blocks for others: no more of it is sent.
        broken: bool,
        /// Tokens of the prompt, as vLLM said: what is generated is not sent.
        prompt: u64,
    },
    /// Its blocks are lent, or still being sent; vLLM keeps them until the workers report them sent.
    Lent,
    /// It was computed elsewhere; no blocks here yet.
    Tracked {
        remote: Box<Remote>,
        /// Tokens of the prompt that this instance has, as vLLM last said.
        here: u64,
    },
    /// A producer is to compute it and to write it here; no blocks here yet.
    Awaiting {
        url: String,
        /// The lease's name, drawn when vLLM asked about it first.
        lease: Option<LeaseName>,
        /// Tokens of the prompt that this instance has, as vLLM last said.
        here: u64,
    },
    /// Workers fill its blocks, or let them be filled; vLLM waits for their report.
    Parked,
    /// It ended meanwhile; vLLM keeps its blocks until the report.
    Draining,
    /// Nothing of it is with the workers any more.
    Settled,
}

/// A request as vLLM's scheduler announces it.
#[derive(Clone, Copy, Debug)]
pub struct NewRequest<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its `kv_transfer_params`; null for none.
    pub params: &'a Value,
}

/// How many tokens can be loaded beyond those that are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Matched {
    /// The tokens.
    pub tokens: u64,
    /// Whether they come between steps: whenever there are any.
    pub asynchronous: bool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Its tokens are complete: a length was reached, or the model stopped (with the first token, too).
    Complete,
    /// Aborted, failed, ignored: nobody will ask for its blocks.
    Broken,
}

/// What vLLM is told about a request that ended.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Finished {
    /// Its blocks are kept until they are reported as sent.
    pub keep_blocks: bool,
    /// What goes to the client, and from there to a consumer.
    pub params: Option<Value>,
}

/// What the scheduler half has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests whose parameters could not be used.
    pub unusable: u64,
    /// Requests lent.
    pub lent: u64,
    /// Requests pulled.
    pub pulled: u64,
    /// Requests that were let go without a pull: aborted early, or all there already.
    pub let_go: u64,
}

impl Scheduler {
    /// A scheduler half with no requests.
    pub fn new(setup: Setup, draw: DrawName) -> Self {
        Self {
            setup,
            draw,
            owner: None,
            requests: HashMap::new(),
            outbox: Vec::new(),
            asks: Vec::new(),
            tickets: 0,
            counts: Counts::default(),
        }
    }

    /// Who consumers are told to talk to. Until then nothing is lent.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = Some(owner);
    }

    /// A request has arrived. Told twice, it counts once.
    pub fn on_new_request(&mut self, request: NewRequest<'_>) {
        if self.requests.contains_key(request.id) {
            return;
        }
        let state = match Params::of(request.params) {
            Params::Plain => return,
            Params::Produce if self.setup.role.produces() => State::Producing { cut: false },
            Params::Consume(remote) if self.setup.role.consumes() => State::Tracked { remote, here: 0 },
            Params::Produce => {
                return self.unusable(request.id, "kv_role is kv_consumer, which lends nothing");
            }
            Params::Consume(_) | Params::Await(_) if !self.setup.role.consumes() => {
                return self.unusable(request.id, "kv_role is kv_producer, which takes nothing");
            }
            Params::Push(..) if !self.setup.role.produces() => {
                return self.unusable(request.id, "kv_role is kv_consumer, which sends nothing");
            }
            Params::Await(url) => match self.awaiting(url) {
                Ok(state) => state,
                Err(why) => return self.unusable(request.id, &why),
            },
            Params::Push(remote, from) if self.setup.metaservers.is_some() => {
                return self.aim(request.id, *remote, from);
            }
            Params::Push(..) => {
                return self.unusable(request.id, "mode is pull: nothing is pushed from here");
            }
            Params::Consume(_) => unreachable!("taken above, whichever the role"),
            Params::Unusable(why) => return self.unusable(request.id, &why),
        };
        if request.id.len() > meta::REQUEST_BYTES_MAX {
            return self.unusable("(a long id)", "its id is longer than 4096 bytes");
        }
        self.tickets += 1;
        let ticket = self.tickets;
        if let State::Tracked { remote, .. } = &state {
            let (owner, lease) = (remote.owner.clone(), remote.lease);
            self.outbox.push(Message::Track { ticket, request: request.id.to_owned(), owner, lease });
        }
        self.requests.insert(request.id.to_owned(), Entry { ticket, state });
    }

    fn awaiting(&self, url: String) -> Result<State, String> {
        let Some(allowed) = &self.setup.metaservers else {
            return Err("mode is pull: a metaserver is for consumers that are pushed to".to_owned());
        };
        if self.setup.backoff > 0 {
            return Err("a recurrent state is not pushed".to_owned());
        }
        match origin(&url) {
            Some(origin) if allowed.iter().any(|known| known == origin) => {
                Ok(State::Awaiting { url, lease: None, here: 0 })
            }
            _ => Err("its metaserver is not among \"metaservers\"".to_owned()),
        }
    }

    /// The workers claim the consumer's blocks while the prompt waits.
    fn aim(&mut self, request: &str, remote: Remote, from: u32) {
        if request.len() > meta::REQUEST_BYTES_MAX {
            return self.unusable("(a long id)", "its id is longer than 4096 bytes");
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let Remote { owner, lease, block_ids, .. } = remote;
        self.outbox.push(Message::Aim { ticket, owner, lease, remote: block_ids, from: from.into() });
        self.requests.insert(
            request.to_owned(),
            Entry { ticket, state: State::Pushing { broken: false, prompt: u64::MAX } },
        );
    }

    /// Whether the steps that compute it are to be told, with [`Self::computing`].
    pub fn is_pushing(&self, request: &str) -> bool {
        let pushing = |entry: &Entry| matches!(entry.state, State::Pushing { broken: false, .. });
        self.requests.get(request).is_some_and(pushing)
    }

    /// The step that is being built computes a part of it. It has `more` blocks per group than when it was told of last, and
    /// `end` of its prompt's tokens are computed once the step is done.
    pub fn computing(&mut self, request: &str, more: Vec<Vec<u32>>, end: u64) {
        if let Some(Entry { ticket, state: State::Pushing { broken: false, prompt } }) =
            self.requests.get(request)
        {
            self.outbox.push(Message::Step { ticket: *ticket, more, end: end.min(*prompt) });
        }
    }

    /// vLLM takes its blocks in the step that is being built; it may be computed again, and is not sent then.
    pub fn preempted(&mut self, request: &str) {
        let Some(Entry { ticket, state: State::Pushing { broken, .. } }) = self.requests.get_mut(request)
        else {
            return;
        };
        if !std::mem::replace(broken, true) {
            let (ticket, request) = (*ticket, request.to_owned());
            self.outbox.push(Message::End { ticket, request, complete: false, keeps: false });
        }
    }

    /// What is to be posted to metaservers.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// A metaserver could not be told of a request, or would not hear: no producer will come.
    pub fn ask_failed(&mut self, request: &str, why: &str) {
        if let Some(Entry { ticket, state: State::Parked }) = self.requests.get(request) {
            tracing::warn!(request, why, "its metaserver cannot be told");
            self.outbox.push(Message::Refuse { ticket: *ticket });
        }
    }

    /// A request has arrived whose parameters are not even JSON: Python's `json` writes `NaN`, and nests deeper than others
    /// read.
    pub fn on_unreadable(&mut self, request: &str, why: &str) {
        self.unusable(request, why);
    }

    fn unusable(&mut self, request: &str, why: &str) {
        self.counts.unusable += 1;
        tracing::warn!(request, why, "kv_transfer_params are not used; the prompt is computed here");
    }

    /// How many trailing tokens of a prompt that is computed here for another instance are to be left to that one: told
    /// once, as a prompt that was cut stays so when it is preempted and computed again.
    pub fn left_out(&mut self, request: &str, prompt: u64) -> u64 {
        let backoff = self.setup.backoff;
        match self.state(request) {
            Some(State::Producing { cut }) if !*cut && prompt > backoff => {
                *cut = true;
                backoff
            }
            _ => 0,
        }
    }

    /// How many of `prompt` tokens can be loaded beyond the first `here`, which this instance has. vLLM asks as often as
    /// it likes.
    pub fn matched(&mut self, request: &str, prompt: u64, here: u64) -> Matched {
        let backoff = self.setup.backoff;
        match self.state(request) {
            Some(State::Awaiting { .. }) => return self.awaited(request, prompt, here),
            Some(State::Pushing { prompt: known, .. }) => *known = prompt,
            _ => {}
        }
        let Some(State::Tracked { remote, here: known }) = self.state(request) else {
            return Matched::default();
        };
        *known = here;
        let wanted = prompt.saturating_sub(backoff);
        let there = match remote.tokens.map(u64::from) {
            // A state is that after the producer's last token: one that went on past where we begin, or does not say where
            // it ended, is of no use.
            Some(tokens) if backoff > 0 && tokens > wanted => 0,
            None if backoff > 0 => 0,
            tokens => tokens.unwrap_or(wanted).min(wanted),
        };
        let there = if remote.block_ids.iter().all(Vec::is_empty) { 0 } else { there };
        let tokens = there.saturating_sub(here);
        Matched { tokens, asynchronous: tokens > 0 }
    }

    /// Of a prompt that is not computed yet, all that is not here; nothing where it could not be asked for.
    fn awaited(&mut self, request: &str, prompt: u64, now: u64) -> Matched {
        let Some(entry) = self.requests.get_mut(request) else { return Matched::default() };
        let State::Awaiting { lease, here, .. } = &mut entry.state else { return Matched::default() };
        *here = now;
        if lease.is_none() && self.owner.is_some() {
            *lease = (self.draw)()
                .inspect_err(|error| tracing::error!(request, %error, "no name could be drawn"))
                .ok();
        }
        let tokens = if lease.is_some() { prompt.saturating_sub(now) } else { 0 };
        Matched { tokens, asynchronous: tokens > 0 }
    }

    /// It has blocks for what a producer will write: the workers let it, and a metaserver is asked for one.
    fn ask(&mut self, request: &str, blocks: Vec<Vec<u32>>, load: u64) {
        let Some(entry) = self.requests.get_mut(request) else { return };
        let State::Awaiting { url, lease, here } = &mut entry.state else { return };
        let (ticket, url, here) = (entry.ticket, std::mem::take(url), *here);
        let (Some(owner), Some(lease), true) = (&self.owner, *lease, load > 0) else {
            entry.state = State::Settled;
            self.counts.let_go += 1;
            return;
        };
        entry.state = State::Parked;
        self.counts.pulled += 1;
        let awaited = Awaited {
            owner,
            engine_id: &self.setup.engine_id,
            lease,
            request,
            block_ids: &blocks,
            cached: u32::try_from(here).unwrap_or(u32::MAX),
            sizes: self.setup.sizes,
        };
        let (request, body) = (request.to_owned(), awaited.to_value());
        self.asks.push(Ask { request: request.clone(), url, body });
        self.outbox.push(Message::Expect {
            ticket,
            request,
            lease,
            local: blocks,
            tokens: here..here + load,
        });
    }

    /// It has blocks now, per group with null ids kept, and `load` tokens are to be loaded into them. vLLM tells it once
    /// more after an asynchronous load, and after each preemption: only the first time counts.
    pub fn allocated(&mut self, request: &str, blocks: Vec<Vec<u32>>, load: u64) {
        let Some(entry) = self.requests.get_mut(request) else { return };
        let ticket = entry.ticket;
        if matches!(entry.state, State::Awaiting { .. }) {
            return self.ask(request, blocks, load);
        }
        let State::Tracked { remote, here } = &mut entry.state else { return };
        if load == 0 {
            entry.state = State::Settled;
            self.counts.let_go += 1;
            self.outbox.push(Message::Drop { ticket });
            return;
        }
        let remote_ids = std::mem::take(&mut remote.block_ids);
        let tokens = *here..*here + load;
        entry.state = State::Parked;
        self.counts.pulled += 1;
        let request = request.to_owned();
        self.outbox.push(Message::Pull { ticket, request, local: blocks, remote: remote_ids, tokens });
    }

    /// It ended, holding these blocks per group, with the KV of the first `tokens` tokens in them. vLLM says so once.
    pub fn finished(&mut self, request: &str, how: Finish, blocks: Vec<Vec<u32>>, tokens: u64) -> Finished {
        let Some(entry) = self.requests.get_mut(request) else { return Finished::default() };
        let ticket = entry.ticket;
        match entry.state {
            State::Producing { .. } => return self.lend(request, how, blocks, tokens),
            State::Pushing { broken, .. } => {
                let complete = how == Finish::Complete && !broken;
                return self.pushed(request, complete, blocks.iter().any(|group| !group.is_empty()));
            }
            State::Awaiting { .. } => {
                self.requests.remove(request);
                self.counts.let_go += 1;
            }
            State::Parked => {
                entry.state = State::Draining;
                self.outbox.push(Message::Drop { ticket });
            }
            State::Tracked { .. } => {
                self.requests.remove(request);
                self.counts.let_go += 1;
                self.outbox.push(Message::Drop { ticket });
            }
            State::Settled => drop(self.requests.remove(request)),
            State::Lent | State::Draining => {
                tracing::error!(request, "vLLM says twice that a request ended");
            }
        }
        Finished::default()
    }

    /// Its blocks are kept until the workers have sent them, or have stopped reading them.
    fn pushed(&mut self, request: &str, complete: bool, keeps: bool) -> Finished {
        let Some(entry) = self.requests.get_mut(request) else { return Finished::default() };
        let ticket = entry.ticket;
        if keeps {
            entry.state = State::Lent;
            self.counts.lent += 1;
        } else {
            self.requests.remove(request);
        }
        let request = request.to_owned();
        self.outbox.push(Message::End { ticket, request, complete: complete && keeps, keeps });
        Finished { keep_blocks: keeps, params: None }
    }

    fn lend(&mut self, request: &str, how: Finish, blocks: Vec<Vec<u32>>, tokens: u64) -> Finished {
        let count: usize = blocks.iter().map(Vec::len).sum();
        let lends = count > 0 && tokens > 0;
        let named = match (&self.owner, how) {
            (_, Finish::Complete) if count > BLOCKS_MAX || blocks.len() > GROUPS_MAX => {
                tracing::warn!(request, count, "nothing is lent: more blocks than a lease may hold");
                Ok(None)
            }
            (Some(owner), Finish::Complete) if lends => (self.draw)().map(|lease| Some((owner, lease))),
            (None, Finish::Complete) => {
                tracing::warn!(request, "nothing is lent: the listener is not up");
                Ok(None)
            }
            _ => Ok(None),
        };
        let (owner, lease) = match named {
            Ok(Some(named)) => named,
            Ok(None) => {
                self.requests.remove(request);
                return Finished::default();
            }
            Err(error) => {
                tracing::error!(request, %error, "nothing is lent: no name could be drawn");
                self.requests.remove(request);
                return Finished::default();
            }
        };
        let lent = Lent {
            owner,
            engine_id: &self.setup.engine_id,
            lease,
            request,
            block_ids: &blocks,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            sizes: self.setup.sizes,
        };
        let params = Some(lent.to_value());
        let entry = self.requests.get_mut(request).expect("the caller found it");
        entry.state = State::Lent;
        self.counts.lent += 1;
        let (ticket, request) = (entry.ticket, request.to_owned());
        self.outbox.push(Message::Lend { ticket, request, lease, blocks });
        Finished { keep_blocks: true, params }
    }

    /// What is for the workers since the last step.
    pub fn build_meta(&mut self) -> Vec<u8> {
        meta::encode(&self.take())
    }

    /// The same before it is encoded. At most as many as a step may carry; the rest go with the next.
    fn take(&mut self) -> Vec<Message> {
        let count = self.outbox.len().min(meta::MESSAGES_MAX);
        self.outbox.drain(..count).collect()
    }

    /// Every rank has reported these requests: their blocks were sent, or received (or will never be).
    pub fn update(&mut self, sent: &[String], received: &[String]) {
        for request in sent {
            match self.state(request) {
                Some(State::Lent) => drop(self.requests.remove(request)),
                // Another child of a MultiConnector had it.
                _ => tracing::debug!(request, "reported as sent, but it was not lent"),
            }
        }
        for request in received {
            match self.state(request) {
                Some(state @ State::Parked) => *state = State::Settled,
                Some(State::Draining) => drop(self.requests.remove(request)),
                _ => tracing::debug!(request, "reported as received, but nobody waits for it"),
            }
        }
    }

    /// Whether anything is with the workers, or about to be.
    pub fn is_busy(&self) -> bool {
        let idle = |state: &State| {
            matches!(state, State::Producing { .. } | State::Awaiting { .. } | State::Settled)
        };
        let with_workers = |entry: &Entry| !idle(&entry.state);
        !self.outbox.is_empty() || self.requests.values().any(with_workers)
    }

    /// Requests that it knows of.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it knows of none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn state(&mut self, request: &str) -> Option<&mut State> {
        self.requests.get_mut(request).map(|entry| &mut entry.state)
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("setup", &self.setup)
            .field("requests", &self.requests.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
