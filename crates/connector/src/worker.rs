//! The worker half: leases, claims, pulls and pushes over one engine.
//!
//! vLLM's threads only tell ([`Worker::start`]) and ask ([`Worker::poll`]); neither waits for a peer, but for
//! blocks that vLLM takes from a prompt that is being pushed. Whatever takes a
//! round trip (connecting, rank tables, claims, routes) is a task on one thread of the worker's own, and so is waiting for
//! the end of transfers, so that a producer has its blocks back while a long step runs here. Reads whose grants are there
//! are posted by the telling thread itself, and so are writes of layers that are computed.

mod claims;
mod expecting;
mod instances;
mod lending;
pub mod mapping;
pub mod matching;
mod pushing;
mod reads;
#[cfg(test)]
mod tests;
pub mod tickets;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ropeway::{Cache, Cause, CloseReport, Completion, Engine, Error, ErrorKind, Quarantined, Result, Start};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::config::Own;
use crate::meta::{self, Ticket};
use crate::stats::Stats;
use claims::Held;
use instances::{Instances, Names};
use mapping::Mapper;
use pushing::Push;
use tickets::{Action, Reports, Tickets};

/// How long the worker half waits for what.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timing {
    /// Without a renewal, lent blocks come back after it.
    pub lease_ttl: Duration,
    /// Without a first consumer, lent blocks come back after it.
    pub first_contact_grace: Duration,
    /// To reach a producer.
    pub connect: Duration,
    /// For lent blocks to become readable, and for room to read them.
    pub claim: Duration,
}

impl Timing {
    /// As configured.
    pub fn of(own: &Own) -> Self {
        Self {
            lease_ttl: own.lease_ttl,
            first_contact_grace: own.first_contact_grace,
            connect: own.connect_timeout,
            claim: own.claim_timeout,
        }
    }
}

/// The worker half of one rank.
pub struct Worker {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    engine: Engine,
    cache: Cache,
    mapper: Box<dyn Mapper>,
    timing: Timing,
    ledger: Mutex<Ledger>,
    /// Whom we pull from.
    instances: Instances,
    /// Whom we push to.
    aims: Instances,
    names: Names,
    /// Scratch caches made so far: each needs a name.
    arenas: AtomicU64,
    stats: Mutex<Stats>,
    tasks: Handle,
    closing: Arc<Notify>,
}

/// The machine, and what goes with its passages.
#[derive(Default)]
struct Ledger {
    tickets: Tickets,
    /// Grants that nothing reads under.
    held: HashMap<Ticket, Held>,
    /// When reads that were asked for may begin.
    starts: HashMap<Ticket, Start>,
    /// Told when a read is to stop, or when a producer is to write no more.
    reading: HashMap<Ticket, Arc<Notify>>,
    /// Prompts that are written elsewhere while they are computed.
    pushes: HashMap<Ticket, Arc<Push>>,
    /// Those of which the step under way computes a part.
    stepping: Vec<Arc<Push>>,
    /// Why blocks can never be used again, when a device cannot be stopped.
    stuck: Option<String>,
}

/// What vLLM is to be told after a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Polled {
    /// Requests that are over.
    pub reports: Reports,
    /// Memory that a peer may still write was withheld too long: raise, so that a supervisor restarts the process. What,
    /// how much, and why.
    pub fatal: Option<String>,
}

impl Worker {
    /// A worker half over an engine and the cache that it has published under [`CACHE`](crate::table::CACHE).
    ///
    /// # Errors
    /// `Resource` when its thread cannot be started.
    pub fn new(engine: Engine, cache: Cache, mapper: Box<dyn Mapper>, timing: Timing) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::os("worker", "a runtime", error))?;
        let closing = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            engine,
            cache,
            mapper,
            timing,
            ledger: Mutex::default(),
            instances: Instances::default(),
            aims: Instances::default(),
            names: Names::default(),
            arenas: AtomicU64::new(0),
            stats: Mutex::default(),
            tasks: runtime.handle().clone(),
            closing: Arc::clone(&closing),
        });
        let run = move || {
            runtime.block_on(closing.notified());
            // Tasks that wait for peers are dropped with the runtime; what they held is let go.
            drop(runtime);
        };
        let thread = std::thread::Builder::new()
            .name("ropeway-worker".to_owned())
            .spawn(run)
            .map_err(|error| Error::os("worker", "its thread", error))?;
        Ok(Self { inner, thread: Some(thread) })
    }

    /// What the scheduler half puts into the rank table for this worker.
    pub fn handshake(&self) -> ropeway::Descriptor {
        self.inner.engine.descriptor()
    }

    /// Takes the scheduler half's messages of one step. `begin` is an event behind everything that was launched so far:
    /// lent blocks are readable, and loads begin, when it has fired. Waits for nothing but this: that blocks which vLLM takes
    /// from a prompt that is being pushed are read no more.
    ///
    /// # Errors
    /// The bytes are not of a scheduler half of this version; `TimedOut` when such blocks are still being read after
    /// `claim_timeout`: they must not be used then.
    pub fn start(&self, messages: &[u8], begin: &Start) -> Result<()> {
        let messages = meta::decode(messages)
            .map_err(|error| Error::new(ErrorKind::ApiMisuse, "start", error.to_string()))?;
        let mut stopped = Vec::new();
        for message in messages {
            let ticket = message.ticket();
            let action = {
                let mut ledger = self.inner.ledger();
                let action = ledger.tickets.told(message);
                if ledger.tickets.waits_for_bytes(ticket) && !matches!(action, Some(Action::Expect { .. })) {
                    ledger.starts.entry(ticket).or_insert_with(|| begin.clone());
                } else {
                    ledger.starts.remove(&ticket);
                }
                action
            };
            stopped.extend(self.inner.act(action, begin));
        }
        self.inner.settle(&stopped)
    }

    /// The KV of a layer, by its number, of all that the step under way computes, is written when `begin` has fired: what is
    /// to be pushed of it goes then. Never waits.
    pub fn layer_computed(&self, number: u32, begin: &Start) {
        self.inner.push_layer(number, begin);
    }

    /// The same for all layers of the step, and its end.
    pub fn step_computed(&self, begin: &Start) {
        self.inner.push_stepped(begin);
    }

    /// Whether the step under way computes something that is pushed.
    pub fn is_pushing(&self) -> bool {
        !self.inner.ledger().stepping.is_empty()
    }

    /// What is new since the last call. Never waits.
    pub fn poll(&self) -> Polled {
        let reports = self.inner.ledger().tickets.take_reports();
        Polled { reports, fatal: self.inner.fatal() }
    }

    /// What was counted since the last call.
    pub fn stats(&self) -> Stats {
        self.inner.stats().take()
    }

    /// Passages under way: lent, and loading.
    pub fn open(&self) -> (usize, usize) {
        self.inner.ledger().tickets.open()
    }

    /// Ends everything: leases are revoked, reads stop, peers are told. Waits up to `timeout` until nothing can touch the
    /// cache any more, and tells what is left otherwise.
    ///
    /// # Errors
    /// `Forked` in a child process.
    pub fn close(mut self, timeout: Duration) -> Result<CloseReport> {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.inner.engine.close(timeout)
    }

    fn stop(&self) {
        self.inner.closing.notify_one();
        let mut ledger = self.inner.ledger();
        ledger.reading.values().for_each(|reading| reading.notify_one());
        let held = std::mem::take(&mut ledger.held);
        drop(ledger);
        drop(held);
    }
}

impl Drop for Worker {
    /// Signals only: whoever drops it may hold a lock that a task waits for.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    /// Gives a push that must be over before the step.
    fn act(self: &Arc<Self>, action: Option<Action>, begin: &Start) -> Option<Arc<Push>> {
        match action {
            None => {}
            Some(Action::Lend { ticket, lease, blocks }) => self.lend(ticket, lease, &blocks, begin),
            Some(Action::Claim { ticket, owner, lease }) => {
                let inner = Arc::clone(self);
                self.tasks.spawn(async move { inner.claim(ticket, owner, lease).await });
            }
            Some(Action::Read { ticket, ask }) => self.read(ticket, &ask),
            Some(Action::Cancel { ticket }) => {
                let reading = self.ledger().reading.get(&ticket).cloned();
                if let Some(reading) = reading {
                    reading.notify_one();
                }
            }
            Some(Action::Release { ticket }) => {
                let held = self.ledger().held.remove(&ticket);
                drop(held);
            }
            Some(Action::Expect { ticket, lease, ask }) => self.expect(ticket, lease, &ask, begin),
            Some(Action::Aim { ticket, owner, lease, remote, from }) => {
                self.aim(ticket, owner, lease, remote, from);
            }
            Some(Action::Step { ticket, more, end }) => self.push_step(ticket, &more, end),
            Some(Action::End { ticket, complete, keeps }) => return self.push_end(ticket, complete, keeps),
        }
        None
    }

    fn fatal(&self) -> Option<String> {
        let mut ends = [Completion::Released { id: ropeway::TransferId(0), user_data: 0 }; 16];
        let stuck = self.ledger().stuck.take();
        let mut fatal = stuck.map(|why| {
            format!("blocks that the device may still write were withheld: {why}; restart this process")
        });
        loop {
            let count = self.engine.completions().drain(&mut ends);
            for end in &ends[..count] {
                if let Completion::Fatal { bytes, .. } = end {
                    let held = self.engine.quarantined();
                    let causes: Vec<String> = held.iter().map(|held| self.cause(held)).collect();
                    fatal = Some(format!(
                        "{bytes} bytes of KV cache were withheld longer than quarantine_fatal_after, since a peer may \
                         still write them: {}; restart this process",
                        causes.join(", ")
                    ));
                }
            }
            if count < ends.len() {
                return fatal;
            }
        }
    }

    /// Memory that is withheld: how much, for how long, and for whose sake.
    fn cause(&self, held: &Quarantined) -> String {
        let seconds = held.age.as_secs();
        let whose = match &held.cause {
            Cause::Transfer { peer, transfer, .. } => {
                format!("a read from {} that ended without proof ({transfer})", self.names.of(*peer))
            }
            other => format!("{other:?}"),
        };
        format!("{} bytes for {seconds} s by {whose}", held.bytes)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("engine", &self.inner.engine).field("open", &self.open()).finish()
    }
}
