//! The world: virtual time, the queue of what is to happen, hosts, and the memory that the oracle watches.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::machine::lease::Action;
use ropeway_core::machine::session::Command;
use ropeway_core::wire::message::{ClaimInfo, Why};
use ropeway_core::{BlockId, BlockSet, CacheLayout, GrantId, Limits, PeerId, RegionId, StatusKind, Strided};

use super::data::{Serve, Transfer};
use super::engine::Engine;
use super::jobs::Job;
use super::net::Conn;
use super::{Mutation, Options, Rng, Stats, Violation};

/// Words of a block: enough to tear it.
pub(super) const WORDS: usize = 4;

pub(super) type Block = [u64; WORDS];

/// One life of an engine process: its tables, its memory, its fence words.
pub(super) struct Life {
    pub(super) node: usize,
    pub(super) alive: bool,
    pub(super) died: Duration,
    pub(super) paused: bool,
    pub(super) deferred: Vec<Event>,
    pub(super) engine: Engine,
    pub(super) memory: Vec<Block>,
    /// To whom each block belongs now; `None`: nobody.
    pub(super) tenants: Vec<Option<u64>>,
    /// The open fence words: slot and generation.
    pub(super) fence: BTreeMap<u32, u32>,
    pub(super) wake: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Wake,
    Deliver { conn: usize, side: usize, bytes: Bytes },
    Cut { conn: usize, side: usize },
    Step(usize),
    ServeStep(usize),
    Request(usize),
    Reply { transfer: usize, result: Result<Vec<Block>, StatusKind> },
    PollFence { grant: GrantId, peer: PeerId },
    CloseLink(PeerId),
    DataLost { conn: usize, side: usize },
    DropJob(u64),
    Act(Box<Action>),
    Decide { peer: PeerId, grant: GrantId, result: Box<Result<ClaimInfo, Why>> },
    Token(Box<Job>),
    Complete(GrantId),
    Traffic,
    Fault,
    Resume(usize),
    Restart(usize),
    Calm,
}

struct Scheduled {
    at: Duration,
    number: u64,
    life: Option<usize>,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Duration,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(super) options: Options,
    pub(super) limits: Limits,
    pub(super) layout: CacheLayout,
    /// Which life each node lives now.
    pub(super) nodes: Vec<usize>,
    pub(super) hosts: Vec<u64>,
    pub(super) lives: Vec<Life>,
    pub(super) conns: Vec<Conn>,
    pub(super) transfers: Vec<Transfer>,
    pub(super) serves: Vec<Serve>,
    pub(super) last_tenant: u64,
    pub(super) calm: bool,
    pub(super) stats: Stats,
    violation: Option<String>,
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let limits = Limits::default()
            .with_lease_ttl(ms(300))
            .with_heartbeat(ms(80))
            .with_first_contact_grace(ms(400))
            .with_quarantine_fatal_after(ms(250))
            .with_leases(options.leases)
            .with_notifications_per_lease(64);
        let region = RegionId { slot: 0, generation: 1 };
        let strided = Strided::dense(0, (WORDS * 8) as u64, options.blocks);
        let layout = CacheLayout::builder("kv").group("g", 1).part("k", region, strided);
        let layout = layout.build(|_| Some(1 << 20), &limits).expect("the layout fits its region");
        let mut rng = Rng::new(seed);
        let hosts = (0..options.nodes).map(|_| rng.below(2)).collect();
        let mut world = Self {
            rng,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            scheduled: 0,
            options: options.clone(),
            limits,
            layout,
            nodes: vec![0; options.nodes],
            hosts,
            lives: Vec::new(),
            conns: Vec::new(),
            transfers: Vec::new(),
            serves: Vec::new(),
            last_tenant: 0,
            calm: false,
            stats: Stats::default(),
            violation: None,
        };
        (0..options.nodes).for_each(|node| world.start(node));
        world.later(1, 10, None, Event::Traffic);
        world.later(20, 100, None, Event::Fault);
        world.at(ms(options.run_ms), None, Event::Calm);
        world
    }

    /// Starts a new life of a node.
    pub(super) fn start(&mut self, node: usize) {
        let blocks = self.options.blocks as usize;
        let engine = Engine::new(self.lives.len() as u64 + 1, &self.limits, &self.layout);
        self.nodes[node] = self.lives.len();
        self.lives.push(Life {
            node,
            alive: true,
            died: Duration::ZERO,
            paused: false,
            deferred: Vec::new(),
            engine,
            memory: vec![[0; WORDS]; blocks],
            tenants: vec![None; blocks],
            fence: BTreeMap::new(),
            wake: None,
        });
    }

    /// Takes the next event. `false` when the run is over.
    pub(super) fn step(&mut self) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let Some(Reverse(next)) = self.queue.pop() else { return false };
        self.now = next.at;
        self.stats.events += 1;
        // Long after the calm nothing should be left to do; a queue that never empties is a violation of its own.
        if self.now > ms(self.options.run_ms + 60_000) {
            self.fail(format!("something still happens long after the calm: {:?}", next.event));
            return false;
        }
        let Some(life) = next.life else {
            self.happen(next.event);
            return true;
        };
        if !self.lives[life].alive {
            return true;
        }
        if self.lives[life].paused {
            self.lives[life].deferred.push(next.event);
            return true;
        }
        self.handle(life, next.event);
        self.settle(life);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Traffic => self.traffic(),
            Event::Fault => self.fault(),
            Event::Resume(life) => self.resume(life),
            Event::Restart(node) => self.start(node),
            Event::Calm => self.heal(),
            other => unreachable!("{other:?} happens to a life"),
        }
    }

    pub(super) fn handle(&mut self, life: usize, event: Event) {
        match event {
            Event::Wake => self.wake(life),
            Event::Deliver { conn, side, bytes } => self.deliver(life, conn, side, &bytes),
            Event::Cut { conn, side } => self.cut(life, conn, side),
            Event::Step(transfer) => self.advance(transfer),
            Event::ServeStep(serve) => self.serve_step(serve),
            Event::Request(transfer) => self.serve(transfer),
            Event::Reply { transfer, result } => self.replied(transfer, result),
            Event::PollFence { grant, peer } => self.poll_fence(life, grant, peer),
            Event::CloseLink(peer) => self.close_link(life, peer),
            Event::DataLost { conn, side } => self.data_lost(life, conn, side),
            Event::DropJob(job) => self.drop_job(life, job),
            Event::Act(action) => self.lease_action(life, *action),
            Event::Decide { peer, grant, result } => {
                self.call(life, peer, Command::Decide { grant, result: *result });
            }
            Event::Token(job) => self.start_job(life, *job),
            Event::Complete(grant) => self.complete_blocks(life, grant),
            other => unreachable!("{other:?} happens to no life"),
        }
    }

    pub(super) fn at(&mut self, at: Duration, life: Option<usize>, event: Event) {
        self.scheduled += 1;
        let number = self.scheduled;
        self.queue.push(Reverse(Scheduled { at, number, life, event }));
    }

    /// Schedules an event some milliseconds from now.
    pub(super) fn later(&mut self, low: u64, high: u64, life: Option<usize>, event: Event) {
        let delay = low + self.rng.below(high - low + 1);
        self.at(self.now + ms(delay), life, event);
    }

    pub(super) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(super) fn broken(&self, mutation: Mutation) -> bool {
        self.options.mutation == Some(mutation)
    }

    pub(super) fn block_set(&self, ids: &[u32]) -> BlockSet {
        let ids: Vec<BlockId> = ids.iter().map(|&id| BlockId(id)).collect();
        BlockSet::new(&self.layout, &[&ids], &self.limits).expect("ids of the layout, each once")
    }

    /// Takes free blocks of a life for a new tenant.
    pub(super) fn allocate(&mut self, life: usize, count: usize) -> Option<(u64, Vec<u32>)> {
        let tenants = &mut self.lives[life].tenants;
        let free: Vec<u32> = (0..tenants.len() as u32).filter(|&id| tenants[id as usize].is_none()).collect();
        if free.len() < count || count == 0 {
            return None;
        }
        self.last_tenant += 1;
        let start = self.rng.below((free.len() - count + 1) as u64) as usize;
        let taken = free[start..start + count].to_vec();
        for &id in &taken {
            let withheld = self.lives[life].engine.is_withheld(id);
            if withheld {
                self.fail(format!("block {id} was handed out from quarantine"));
            }
            self.lives[life].tenants[id as usize] = Some(self.last_tenant);
        }
        Some((self.last_tenant, taken))
    }

    pub(super) fn give_back(&mut self, life: usize, blocks: &[u32]) {
        for &id in blocks {
            self.lives[life].tenants[id as usize] = None;
        }
    }

    /// One word arrives in a block: the oracle asks whose it is now.
    pub(super) fn land(
        &mut self,
        life: usize,
        block: u32,
        word: usize,
        value: u64,
        tenant: u64,
        on_behalf: &str,
    ) {
        let target = &mut self.lives[life];
        target.memory[block as usize][word] = value;
        let owner = target.tenants[block as usize];
        if target.alive && owner != Some(tenant) {
            self.fail(format!(
                "{on_behalf}: a byte for tenant {tenant} landed in block {block} of life {life}, which is {owner:?}'s"
            ));
        }
    }

    /// The verdict, after the last event.
    pub(super) fn verdict(&mut self, seed: u64) -> Result<Stats, Violation> {
        if self.violation.is_none() {
            self.check_end();
        }
        let at_ms = self.now.as_millis() as u64;
        match self.violation.take() {
            None => Ok(self.stats),
            Some(what) => Err(Violation { seed, at_ms, what }),
        }
    }

    /// After the calm everything must have ended: transfers once, leases freed, quarantine empty, nobody busy.
    fn check_end(&mut self) {
        let open = self
            .transfers
            .iter()
            .position(|transfer| transfer.ends == 0 && self.lives[transfer.life].alive && transfer.started);
        if let Some(transfer) = open {
            self.fail(format!("transfer {transfer} never ended: {:?}", self.transfers[transfer]));
        }
        for (index, life) in self.lives.iter().enumerate().filter(|(_, life)| life.alive) {
            let engine = &life.engine;
            let left = [
                ("leases that are not free", engine.leases.live() as usize),
                ("blocks withheld by leases", engine.leases.withheld_blocks() as usize),
                ("blocks in quarantine", engine.quarantine.withheld_blocks() as usize),
                ("grants held", engine.grants.live()),
                ("jobs", engine.jobs.len()),
                ("blocks taken", life.tenants.iter().flatten().count()),
                ("open fence words", life.fence.len()),
            ];
            if let Some((what, count)) = left.into_iter().find(|(_, count)| *count > 0) {
                return self.fail(format!("life {index}: after the calm, {count} {what}"));
            }
        }
        self.check_directories();
    }
}
