//! An instance as vLLM would run it: one scheduler half with its listener, a worker half for each rank.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ropeway::{
    BlockId, Descriptor, Engine, ErrorKind, Host, Limits, Region, RouteOptions, Start, Strided,
    TransportKind, lease_name,
};
use ropeway_transport::sim::Fabric;
use serde_json::{Value, json};

use crate::config::Role;
use crate::ids::{Ids, RowMove};
use crate::params::Owner;
use crate::scheduler::{Finish, NewRequest, Scheduler, Setup};
use crate::table::{CACHE, Instance as Shown, NOTE};
use crate::worker::mapping::{Blocks, Cut, Mapper, Open, Pull, RouteMap, Scratch};
use crate::worker::tickets::{Ask, FailedLoad, Failure};
use crate::worker::{Timing, Worker};

pub(super) const BLOCK: u64 = 8192;
/// When withheld memory is fatal, over a fabric.
const FATAL: Duration = Duration::from_millis(400);
pub(super) const WAIT: Duration = Duration::from_secs(60);
const BLOCKS: u64 = 16;
const TOKENS: u64 = 16;

#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) transport: TransportKind,
    pub(super) grace: Duration,
    pub(super) dtype: &'static str,
    /// To reach a producer.
    pub(super) connect: Duration,
    /// Instead of a transport.
    pub(super) fabric: Option<&'static Fabric>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: TransportKind::Loopback,
            grace: WAIT,
            dtype: "float32",
            connect: WAIT,
            fabric: None,
        }
    }
}

/// A prompt of `tokens`, in those blocks on either side; the first `hit` tokens are here already.
pub(super) struct Request {
    pub(super) there: Vec<u32>,
    pub(super) here: Vec<u32>,
    pub(super) hit: u64,
    pub(super) tokens: u64,
}

pub(super) struct Instance {
    scheduler: Mutex<Scheduler>,
    listener: Engine,
    pub(super) workers: Vec<Rank>,
    options: Options,
    /// How many ranks have reported a request.
    reported: Mutex<BTreeMap<String, usize>>,
}

pub(super) struct Rank {
    pub(super) worker: Worker,
    region: Region,
}

fn engine(options: Options) -> Engine {
    let builder = Engine::builder().listen("127.0.0.1:0".parse().expect("an address"));
    let limits = Limits::default().with_quarantine_fatal_after(FATAL).with_abandon_after(FATAL / 2);
    let builder = match options.fabric {
        Some(fabric) => builder.limits(limits).transports(&[]).transport(fabric.transport()),
        None => builder.transports(&[options.transport]),
    };
    builder.open().expect("an engine opens")
}

impl Instance {
    pub(super) fn open(ranks: usize, options: Options) -> Self {
        let workers: Vec<Rank> = (0..ranks).map(|rank| Rank::open(rank, ranks, options)).collect();
        let reached = workers.iter().map(|rank| rank.worker.handshake()).collect();
        Self::of(workers, reached, options)
    }

    /// With workers that are reached there, and are not all of this process.
    pub(super) fn of(workers: Vec<Rank>, reached: Vec<Descriptor>, options: Options) -> Self {
        let ranks = reached.len();
        let listener = Engine::builder().listen("127.0.0.1:0".parse().expect("an address"));
        let listener = listener.transports(&[]).open().expect("a listener opens");
        let about = json!({"ranks": ranks, "dtype": options.dtype});
        let table = Shown { about, ranks: reached };
        listener.show_note(NOTE, table.encode()).expect("the note is shown");
        let setup = Setup {
            role: Role::Both,
            engine_id: "0".to_owned(),
            sizes: (ranks as u32, 1, 1),
            backoff: 0,
            metaservers: None,
        };
        let mut scheduler = Scheduler::new(setup, Box::new(lease_name));
        scheduler.set_owner(Owner::of(&listener.descriptor()).expect("an engine names itself"));
        let scheduler = Mutex::new(scheduler);
        Self { scheduler, listener, workers, options, reported: Mutex::default() }
    }

    /// Another life of the same instance.
    pub(super) fn restart(self) -> Self {
        let (ranks, options) = (self.workers.len(), self.options);
        self.listener.close(WAIT).expect("it closes");
        for rank in self.workers {
            rank.worker.close(WAIT).expect("it closes");
        }
        Self::open(ranks, options)
    }

    pub(super) fn into_workers(self) -> Vec<Rank> {
        self.workers
    }

    pub(super) fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().expect("no test panics in it")
    }

    /// Puts recognisable bytes into the blocks of a prompt.
    pub(super) fn fill(&self, request: &Request) {
        for rank in &self.workers {
            for block in &request.there {
                rank.region.fill(u64::from(*block) * BLOCK, BLOCK, 0x40 + *block as u8).expect("in bounds");
            }
        }
    }

    pub(super) fn holds(&self, block: u32, byte: u8) {
        for rank in &self.workers {
            let mut bytes = vec![!byte; BLOCK as usize];
            rank.region.read(u64::from(block) * BLOCK, &mut bytes).expect("in bounds");
            assert!(bytes.iter().all(|is| *is == byte), "block {block} holds {:?} …", &bytes[..4]);
        }
    }

    /// Every block that was to be loaded holds what the producer's did.
    pub(super) fn check(&self, request: &Request) {
        let loaded = (request.hit / TOKENS) as usize;
        for (here, there) in request.here.iter().zip(&request.there).skip(loaded) {
            self.holds(*here, 0x40 + *there as u8);
        }
    }

    /// Computes a prompt for another instance; what that is told.
    pub(super) fn compute(&self, id: &str, request: &Request, begin: &Start) -> Value {
        let (params, messages) = self.computed_but_not_told(id, request);
        self.tell(&messages, begin);
        params
    }

    pub(super) fn computed_but_not_told(&self, id: &str, request: &Request) -> (Value, Vec<u8>) {
        let mut scheduler = self.scheduler();
        let params = json!({"do_remote_decode": true, "do_remote_prefill": false});
        scheduler.on_new_request(NewRequest { id, params: &params });
        let finished = scheduler.finished(id, Finish::Complete, vec![request.there.clone()], request.tokens);
        assert!(finished.keep_blocks);
        (finished.params.expect("it is lent"), scheduler.build_meta())
    }

    pub(super) fn arrive(&self, id: &str, params: &Value) {
        self.scheduler().on_new_request(NewRequest { id, params });
    }

    pub(super) fn allocate(&self, id: &str, request: &Request) {
        let mut scheduler = self.scheduler();
        let matched = scheduler.matched(id, request.tokens, request.hit);
        assert_eq!(matched.tokens, request.tokens - request.hit);
        scheduler.allocated(id, vec![request.here.clone()], matched.tokens);
    }

    /// Arrival, admission and a step.
    pub(super) fn consume(&self, id: &str, request: &Request, params: &Value, begin: &Start) {
        self.arrive(id, params);
        self.step(begin);
        self.allocate(id, request);
        self.step(begin);
    }

    pub(super) fn step(&self, begin: &Start) {
        let messages = self.scheduler().build_meta();
        self.tell(&messages, begin);
    }

    pub(super) fn tell(&self, messages: &[u8], begin: &Start) {
        for rank in &self.workers {
            rank.worker.start(messages, begin).expect("they are of this version");
        }
    }

    /// What every rank has reported by now: sent, received, and what failed on any.
    fn poll(&self) -> (Vec<String>, Vec<String>, Vec<FailedLoad>) {
        let (mut sent, mut received, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut reported = self.reported.lock().expect("no test panics in it");
        for rank in &self.workers {
            let polled = rank.worker.poll();
            assert_eq!(polled.fatal, None);
            failed.extend(polled.reports.failed);
            for (ids, all) in [(polled.reports.sent, &mut sent), (polled.reports.received, &mut received)] {
                for id in ids {
                    let count = reported.entry(id.clone()).or_default();
                    *count += 1;
                    if *count == self.workers.len() {
                        reported.remove(&id);
                        all.push(id);
                    }
                }
            }
        }
        self.scheduler().update(&sent, &received);
        (sent, received, failed)
    }

    /// The next that are reported as sent.
    pub(super) fn sent(&self) -> Vec<String> {
        let mut all = Vec::new();
        wait("blocks that are lent", || {
            let (sent, received, _) = self.poll();
            assert!(received.is_empty(), "{received:?} is reported, too");
            all.extend(sent);
            !all.is_empty()
        });
        all
    }

    pub(super) fn received(&self) -> (Vec<String>, Vec<FailedLoad>) {
        self.received_all(1)
    }

    /// The next `count` that are reported as received, and the failures among them.
    pub(super) fn received_all(&self, count: usize) -> (Vec<String>, Vec<FailedLoad>) {
        let mut all = (Vec::new(), Vec::new());
        wait("a load", || {
            let (sent, received, failed) = self.poll();
            assert!(sent.is_empty(), "{sent:?} is reported, too");
            all.0.extend(received);
            all.1.extend(failed);
            all.0.len() >= count
        });
        all
    }

    /// Nothing is reported for a while.
    pub(super) fn stays_silent(&self) {
        for _ in 0..30 {
            assert_eq!(self.poll(), (vec![], vec![], vec![]));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn wait_until_held(&self) {
        wait("a grant", || self.workers.iter().all(|rank| !rank.worker.inner.ledger().held.is_empty()));
    }

    pub(super) fn wait_until_reading(&self) {
        wait("a read", || self.workers.iter().all(|rank| !rank.worker.inner.ledger().reading.is_empty()));
    }

    /// Nothing is left over anywhere.
    pub(super) fn is_idle(&self) {
        for rank in &self.workers {
            wait("nothing under way", || rank.worker.open() == (0, 0));
            let ledger = rank.worker.inner.ledger();
            assert_eq!((ledger.held.len(), ledger.starts.len(), ledger.reading.len()), (0, 0, 0));
            drop(ledger);
            assert!(rank.worker.inner.engine.quarantined().is_empty());
        }
        assert!(!self.scheduler().is_busy());
    }
}

impl Rank {
    fn open(rank: usize, ranks: usize, options: Options) -> Self {
        let engine = engine(options);
        let region = engine.alloc(Host::private(BLOCKS * BLOCK)).expect("room for a region");
        let part = Strided::dense(0, BLOCK, BLOCKS as u32);
        let cache = engine.cache(CACHE).group("g0", 1).part("p", &region, part);
        let cache = cache.publish().expect("the cache is sound");
        let timing = Timing {
            lease_ttl: WAIT,
            first_contact_grace: options.grace,
            connect: options.connect,
            claim: WAIT,
        };
        let mapper = Box::new(Whole { rank, ranks, dtype: options.dtype });
        let worker = Worker::new(engine, cache, mapper, timing).expect("a worker starts");
        Self { worker, region }
    }
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT;
    while !ready() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Every rank holds the whole cache: consumer rank n reads from producer rank n, or the last.
#[derive(Clone)]
struct Whole {
    rank: usize,
    ranks: usize,
    dtype: &'static str,
}

struct WholeMap {
    ours: Whole,
    theirs: usize,
}

impl Mapper for Whole {
    fn lent(&self, blocks: &[Vec<u32>]) -> Result<Vec<Vec<BlockId>>, Failure> {
        Ok(blocks.iter().map(|group| group.iter().copied().map(BlockId).collect()).collect())
    }

    fn map(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure> {
        if about["dtype"] != self.dtype {
            let text = format!("dtype is {} here and {} at the peer", self.dtype, about["dtype"]);
            return Err(Failure { kind: ErrorKind::Mismatch, text });
        }
        let theirs = about["ranks"].as_u64().expect("the harness says it") as usize;
        Ok(Box::new(WholeMap { ours: self.clone(), theirs }))
    }

    fn aim(&self, about: &Value) -> Result<Box<dyn RouteMap>, Failure> {
        self.map(about)
    }

    fn awaited(&self, blocks: &[Vec<u32>], from: u64) -> Result<Open, Failure> {
        let rest: Vec<Vec<u32>> =
            blocks.iter().map(|group| group[(from / TOKENS) as usize..].to_vec()).collect();
        let bytes = rest.iter().map(|group| group.len() as u64 * BLOCK).sum();
        Ok(Open { blocks: self.lent(&rest)?, bytes })
    }

    fn cut(&self) -> Result<Cut, Failure> {
        Ok(Cut { layers: vec![0], tokens: TOKENS })
    }
}

impl RouteMap for WholeMap {
    fn pulls(&self, _: u64) -> Result<Vec<Pull>, Failure> {
        let source = |rank: usize| rank.min(self.theirs - 1);
        let readers = |rank| (0..self.ours.ranks).filter(|reader| source(*reader) == rank).count() as u32;
        let mine = source(self.ours.rank);
        let mut pulls = vec![Pull { rank: mine, holders: readers(mine), place: 0, shares: vec![mine] }];
        if self.ours.rank == 0 {
            let idle = (0..self.theirs).filter(|rank| readers(*rank) == 0);
            pulls.extend(idle.map(|rank| Pull { rank, holders: 1, place: 0, shares: vec![] }));
        }
        Ok(pulls)
    }

    fn route(&self, _: usize) -> RouteOptions {
        RouteOptions::default()
    }

    fn scratch(&self, _: usize) -> Option<Scratch> {
        None
    }

    fn rounds(&self, _: usize, _: &Ask) -> Result<Vec<Ids>, Failure> {
        unreachable!("every share lands where it belongs")
    }

    fn reorder(&self, _: usize, _: &[Vec<RowMove>], _: &Region) -> ropeway::Result<()> {
        unreachable!("every share lands where it belongs")
    }

    /// The engine's own checks are what these tests look at.
    fn agree(&self, _: usize, _: &Ask, _: &[Vec<BlockId>]) -> Result<(), Failure> {
        Ok(())
    }

    fn ids(&self, _: usize, ask: &Ask) -> Result<Blocks, Failure> {
        let range = (ask.tokens.start / TOKENS) as usize..ask.tokens.end.div_ceil(TOKENS) as usize;
        let pick = |groups: &[Vec<u32>]| -> Result<Vec<Vec<BlockId>>, Failure> {
            let group = groups.first().and_then(|group| group.get(range.clone()));
            let short = || Failure { kind: ErrorKind::OutOfBounds, text: "too few blocks".to_owned() };
            Ok(vec![group.ok_or_else(short)?.iter().copied().map(BlockId).collect()])
        };
        Ok(Blocks { local: pick(&ask.local)?, remote: pick(&ask.remote)? })
    }
}
