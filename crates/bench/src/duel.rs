//! One measurement: the engine and the C reference move the same bytes in turns, and every byte is compared each time.

use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ropeway::{Engine, Grant};

use crate::Failure;
use crate::cli::Op;
use crate::control::{Answer, Ask, Memory};
use crate::engine::{self, Connection, Published};
use crate::far::Far;
use crate::output;
use crate::pattern::{self, Side};
use crate::pool::Pool;
use crate::reference::{self, Crew, Desc, Routine};
use crate::stats::{Pairs, Rep};
use crate::usage;
use crate::work::{self, Spec, Work};

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) spec: Spec,
    pub(crate) op: Op,
    pub(crate) memory: Memory,
    /// The producer's.
    pub(crate) far_memory: Memory,
    pub(crate) rounds: u32,
    pub(crate) warmup: u32,
    /// How often a round moves the work: batches that are over in microseconds are moved several times, and once before
    /// the clock starts, so that they are in cache.
    pub(crate) again: u32,
    /// Threads of the reference: as many as the engine copies with. 0: no reference.
    pub(crate) reference_threads: u32,
    /// Where the reference's sockets go.
    pub(crate) reference_host: SocketAddr,
    /// Connections of the engine's tcp link.
    pub(crate) streams: u32,
    pub(crate) seed: u64,
}

/// What was measured.
pub(crate) struct Outcome {
    pub(crate) transport: &'static str,
    /// Bytes of one round.
    pub(crate) bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) runs: u64,
    pub(crate) pairs: Pairs,
    /// From plan to arrival, of each request, ns.
    pub(crate) latency: Histogram<u64>,
    /// From token to grant, ns.
    pub(crate) claim: Histogram<u64>,
    /// Name and threads of the reference.
    pub(crate) reference: Option<(String, u32)>,
}

/// Both sides, connected.
pub(crate) struct Duel<'a> {
    plan: Plan,
    far: &'a mut Far,
    work: Work,
    pool: Arc<Pool>,
    published: Published,
    connection: Connection,
    reference: Option<Reference>,
}

impl<'a> Duel<'a> {
    /// Makes pools on both sides, publishes and matches them.
    pub(crate) fn new(
        plan: Plan,
        engine: &Engine,
        far: &'a mut Far,
        descriptor: &ropeway::Descriptor,
    ) -> Result<Self, Failure> {
        let work = Work::new(&plan.spec)?;
        let pool = Arc::new(Pool::of(plan.memory, work.pool_bytes)?);
        pattern::poison(&pool);
        let there = far.ask(Ask::Pool { spec: plan.spec.clone(), memory: plan.far_memory, op: plan.op })?;
        // The reference maps the producer's memory before the engine seals it.
        let mapped = match (&there, plan.reference_threads) {
            (Answer::Pool { file: Some(file), bytes, .. }, 1..) => map_far(far, *file, *bytes)?,
            _ => None,
        };
        far.tell(Ask::Publish)?;
        let published = Published::new(engine, &pool, plan.memory, &work.groups)?;
        let connection = Connection::new(engine, descriptor, &published)?;
        let mut duel = Self { plan, far, work, pool, published, connection, reference: None };
        if duel.plan.reference_threads > 0 {
            duel.reference = duel.make_reference(&there, mapped)?;
        }
        Ok(duel)
    }

    /// Takes turns: warm-up rounds, then those that count.
    ///
    /// # Errors
    /// A byte is wrong, or a side failed; that the producer has died, if it has.
    pub(crate) fn run(&mut self, what: &str) -> Result<Outcome, Failure> {
        self.rounds(what).map_err(|failure| self.far.explain(failure))
    }

    fn rounds(&mut self, what: &str) -> Result<Outcome, Failure> {
        let mut outcome = Outcome {
            transport: self.connection.transport(),
            bytes: self.work.bytes() * u64::from(self.plan.again),
            descriptors: 0,
            runs: 0,
            pairs: Pairs::default(),
            latency: histogram(),
            claim: histogram(),
            reference: None,
        };
        self.reset_source()?;
        if let Some(mut reference) = self.reference.take() {
            self.choose_routine(&mut reference)?;
            outcome.reference = Some((reference.name(), reference.crew.threads()));
            self.reference = Some(reference);
        }
        let rounds = self.plan.warmup + self.plan.rounds;
        let bar = output::progress(u64::from(rounds), what);
        for round in 0..rounds {
            if round == self.plan.warmup {
                outcome.pairs = Pairs::default();
                outcome.latency.reset();
                outcome.claim.reset();
            }
            if round % 2 == 0 {
                self.engine_turn(&mut outcome)?;
                self.reference_turn(&mut outcome)?;
            } else {
                self.reference_turn(&mut outcome)?;
                self.engine_turn(&mut outcome)?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(outcome)
    }

    /// Ends the reference, the pools and their leases; what is still held is an error.
    pub(crate) fn close(self) -> Result<(), Failure> {
        drop(self.reference);
        drop(self.connection.route);
        self.far.ask(Ask::Close)?;
        self.published.close()?;
        self.connection.peer.close(Duration::from_secs(30))?;
        Ok(())
    }

    fn engine_turn(&mut self, outcome: &mut Outcome) -> Result<(), Failure> {
        self.poison()?;
        let grants = self.claim(&mut outcome.claim)?;
        if self.plan.again > 1 {
            self.move_all(&grants, 1, &mut histogram())?;
        }
        rest();
        let (near, far) = (usage::cpu_seconds(None)?, self.far.cpu_seconds()?);
        let start = Instant::now();
        (outcome.descriptors, outcome.runs) =
            self.move_all(&grants, self.plan.again, &mut outcome.latency)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_initiator = usage::cpu_seconds(None)? - near;
        let cpu_target = self.far.cpu_seconds()? - far;
        outcome.pairs.engine.push(Rep { seconds, cpu_initiator, cpu_target });
        drop(grants);
        self.far.tell(Ask::Settle)?;
        self.verify("engine")
    }

    fn claim(&mut self, times: &mut Histogram<u64>) -> Result<Vec<Grant>, Failure> {
        let mut grants = Vec::new();
        for request in 0..self.work.requests.len() {
            let Answer::Lease { token } = self.far.ask(Ask::Lease { request })? else {
                return Err("the producer gave no lease".into());
            };
            let start = Instant::now();
            grants.push(self.connection.claim(&token)?);
            record(times, start.elapsed());
        }
        Ok(grants)
    }

    /// From block ids to arrival, all requests in flight at once. Returns copies before and after merging.
    fn move_all(
        &self,
        grants: &[Grant],
        times: u32,
        latency: &mut Histogram<u64>,
    ) -> Result<(u64, u64), Failure> {
        let (mut descriptors, mut runs) = (0, 0);
        let mut plans = Vec::with_capacity(grants.len());
        for again in 0..times {
            let mut flights = Vec::with_capacity(grants.len());
            for (i, (grant, request)) in grants.iter().zip(&self.work.requests).enumerate() {
                let start = Instant::now();
                if again == 0 {
                    let plan = self.connection.plan(grant, request, self.plan.op)?;
                    (descriptors, runs) = (descriptors + plan.descriptors(), runs + plan.runs());
                    plans.push(plan);
                }
                flights.push((start, engine::submit(&self.connection, &plans[i])?));
            }
            for (start, transfer) in flights {
                engine::wait(&transfer)?;
                record(latency, start.elapsed());
            }
        }
        Ok((descriptors, runs))
    }

    fn reference_turn(&mut self, outcome: &mut Outcome) -> Result<(), Failure> {
        let Some(mut reference) = self.reference.take() else { return Ok(()) };
        let rep = self.reference_rep(&mut reference);
        self.reference = Some(reference);
        outcome.pairs.reference.push(rep?);
        self.verify("reference")
    }

    fn reference_rep(&mut self, reference: &mut Reference) -> Result<Rep, Failure> {
        self.poison()?;
        if self.plan.again > 1 {
            reference.go(self.plan.op, &self.pool)?;
        }
        rest();
        let (near, far) = (usage::cpu_seconds(None)?, self.far.cpu_seconds()?);
        let start = Instant::now();
        for _ in 0..self.plan.again {
            reference.go(self.plan.op, &self.pool)?;
        }
        Ok(Rep {
            seconds: start.elapsed().as_secs_f64(),
            cpu_initiator: usage::cpu_seconds(None)? - near,
            cpu_target: self.far.cpu_seconds()? - far,
        })
    }

    /// Copies with the better routine of the two on this work, as measured here: the one that costs less CPU time, which
    /// neighbours on the machine disturb least.
    fn choose_routine(&mut self, reference: &mut Reference) -> Result<(), Failure> {
        let Way::Copy { .. } = reference.way else { return Ok(()) };
        let mut best = (f64::INFINITY, Routine::Plain);
        for _ in 0..4 {
            for routine in Routine::ALL {
                reference.routine = routine;
                let cpu = self.reference_rep(reference)?.cpu();
                if cpu < best.0 {
                    best = (cpu, routine);
                }
            }
        }
        reference.routine = best.1;
        Ok(())
    }

    fn reset_source(&mut self) -> Result<(), Failure> {
        let seed = self.plan.seed;
        match work::destination(self.plan.op) {
            Side::Local => self.far.tell(Ask::Fill { seed }),
            Side::Remote => Ok(self.published.fill(&self.pool, seed)?),
        }
    }

    fn poison(&mut self) -> Result<(), Failure> {
        match work::destination(self.plan.op) {
            Side::Local => Ok(self.published.poison(&self.pool)?),
            Side::Remote => self.far.tell(Ask::Poison),
        }
    }

    fn verify(&mut self, who: &str) -> Result<(), Failure> {
        let seed = self.plan.seed;
        let verified = match work::destination(self.plan.op) {
            Side::Local => self.published.verify(&self.pool, seed, &self.work.list(), Side::Local),
            Side::Remote => self.far.tell(Ask::Verify { seed }),
        };
        verified.map_err(|error| format!("not verified after the {who}'s turn: {error}").into())
    }

    fn make_reference(&mut self, there: &Answer, mapped: Option<Pool>) -> Result<Option<Reference>, Failure> {
        let Answer::Pool { base, .. } = there else { return Err("the producer made no pool".into()) };
        let threads = self.plan.reference_threads;
        let way = match (self.connection.transport(), self.far.pool(), mapped) {
            ("loopback" | "shm", Some(pool), _) => Way::Copy { remote: pool },
            ("shm", None, Some(mapped)) => Way::Copy { remote: Arc::new(mapped) },
            ("cma", _, _) => {
                let Answer::Hello { pid, .. } = self.far.ask(Ask::Hello)? else {
                    return Err("the producer did not say who it is".into());
                };
                Way::Kernel { pid, base: *base }
            }
            ("tcp", _, _) => Way::Sockets(self.connect_streams()?),
            _ => return Ok(None),
        };
        let threads = if matches!(way, Way::Sockets(_)) { self.plan.streams } else { threads };
        let list = self.work.merged();
        Ok(Some(Reference { crew: Crew::open(threads)?, way, routine: Routine::Plain, list }))
    }

    fn connect_streams(&mut self) -> Result<Vec<TcpStream>, Failure> {
        let streams = self.plan.streams;
        let Answer::Listening { port } = self.far.ask(Ask::Stream { streams })? else {
            return Err("the producer does not listen".into());
        };
        let mut address = self.plan.reference_host;
        address.set_port(port);
        (0..streams)
            .map(|_| {
                let socket = TcpStream::connect(address)?;
                reference::tune(&socket);
                Ok(socket)
            })
            .collect()
    }
}

/// The C reference with its way to the other side's memory.
struct Reference {
    crew: Crew,
    way: Way,
    routine: Routine,
    list: Vec<Desc>,
}

enum Way {
    Copy { remote: Arc<Pool> },
    Kernel { pid: i32, base: u64 },
    Sockets(Vec<TcpStream>),
}

impl Reference {
    fn go(&mut self, op: Op, local: &Pool) -> io::Result<()> {
        match &self.way {
            Way::Copy { remote } => self.crew.copy(op, self.routine, local, remote, &self.list),
            Way::Kernel { pid, base } => self.crew.cma(op, *pid, local, *base, &self.list),
            Way::Sockets(sockets) => self.crew.stream(op, sockets, local, &self.list),
        }
    }

    fn name(&self) -> String {
        match &self.way {
            Way::Copy { .. } => format!("C copy, {}", self.routine.name()),
            Way::Kernel { .. } => "C process_vm, 1,024 pieces a call".to_owned(),
            Way::Sockets(_) => "C sockets".to_owned(),
        }
    }
}

/// The producer's memfd, through its open descriptor: only where the producer is a child on this host.
fn map_far(far: &mut Far, file: i32, bytes: u64) -> Result<Option<Pool>, Failure> {
    let Far::Child(_) = far else { return Ok(None) };
    let Answer::Hello { pid, .. } = far.ask(Ask::Hello)? else {
        return Err("the producer did not say who it is".into());
    };
    let path = format!("/proc/{pid}/fd/{file}");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(|error| format!("the producer's memory ({path}): {error}"))?;
    let pool = Pool::adopt(OwnedFd::from(file), bytes as usize)?;
    pool.touch();
    Ok(Some(pool))
}

/// Before either turn: whoever has just computed a lot (the poison) is the first to be taken off a busy core, and whoever
/// has just slept the last.
fn rest() {
    std::thread::sleep(Duration::from_millis(1));
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

fn record(histogram: &mut Histogram<u64>, taken: Duration) {
    histogram.record(taken.as_nanos() as u64).expect("the histogram grows as needed");
}
