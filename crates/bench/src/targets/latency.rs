//! One small read at a time: alone, and beside a large transfer on the same link.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ropeway::{Engine, Peer};
use serde::Serialize;

use crate::Failure;
use crate::cli::{self, Auth, Op, Targets, Transport};
use crate::control::{Answer, Ask};
use crate::engine::{self, Connection, Published};
use crate::far::Far;
use crate::output;
use crate::pattern::{self, Side};
use crate::pd;
use crate::pool::Pool;
use crate::reference::{self, Crew, Desc, Routine};
use crate::usage;
use crate::work::{Copies, Request, Spec, Work};

const SMALL: u64 = 4096;
const LARGE: u64 = 1 << 30;
const ROUNDS: usize = 40;
const EACH: usize = 50;

/// Times of small reads, and of what they are compared with.
#[derive(Serialize)]
pub(super) struct Figures {
    command: &'static str,
    what: &'static str,
    transport: &'static str,
    engine_p50_us: f64,
    engine_p99_us: f64,
    reference: &'static str,
    reference_p50_us: f64,
    reference_p99_us: f64,
    wanted: &'static str,
    met: bool,
}

pub(super) fn all(options: &Targets) -> Result<Vec<Figures>, Failure> {
    let mut all = Vec::new();
    for transport in [Transport::Loopback, Transport::Shm, Transport::Cma, Transport::Tcp] {
        if options.transport.is_some_and(|only| only != transport) {
            continue;
        }
        all.extend(measure(transport)?);
    }
    if options.transport.is_none_or(|only| only == Transport::Tcp) {
        all.push(idle()?);
    }
    Ok(all)
}

/// A consumer and a producer with raw pools, a grant on all of it, and the two plans.
struct Bench {
    far: Far,
    pool: std::sync::Arc<Pool>,
    connection: Connection,
    published: Published,
    _engine: Engine,
}

impl Bench {
    fn new(transport: Transport, bytes: u64) -> Result<Self, Failure> {
        let options = cli::Engine::new(transport, 1, 1);
        let engine = engine::open(&options, None, &Auth::default())?;
        let mut far = pd::start_producer(&options)?;
        let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
            return Err("the producer did not say who it is".into());
        };
        let spec = Spec::Raw { pool: bytes, list: vec![(0, 0, bytes)] };
        let memory = pd::memory(transport);
        far.ask(Ask::Pool { spec: spec.clone(), memory, op: Op::Read })?;
        far.tell(Ask::Publish)?;
        far.tell(Ask::Fill { seed: 3 })?;
        let work = Work::new(&spec)?;
        let pool = std::sync::Arc::new(Pool::of(memory, work.pool_bytes)?);
        pattern::poison(&pool);
        let published = Published::new(&engine, &pool, memory, &[])?;
        let connection = Connection::new(&engine, &descriptor.parse()?, &published)?;
        Ok(Self { far, pool, connection, published, _engine: engine })
    }

    fn grant(&mut self) -> Result<ropeway::Grant, Failure> {
        match self.far.ask(Ask::Lease { request: 0 })? {
            Answer::Lease { token } => Ok(self.connection.claim(&token)?),
            other => Err(format!("unexpected answer {other:?}").into()),
        }
    }

    fn plan(&self, grant: &ropeway::Grant, list: Vec<Desc>) -> Result<ropeway::Plan, Failure> {
        Ok(self.connection.plan(grant, &Request { copies: Copies::Raw, list }, Op::Read)?)
    }

    /// `EACH` small reads, one after the other.
    fn small(&self, plan: &ropeway::Plan, times: &mut Histogram<u64>) -> Result<(), Failure> {
        for _ in 0..EACH {
            let start = Instant::now();
            let transfer = engine::submit(&self.connection, plan)?;
            engine::wait(&transfer)?;
            times.record(start.elapsed().as_nanos() as u64)?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), Failure> {
        let peer: Peer = self.connection.peer;
        drop(self.connection.route);
        self.far.ask(Ask::Close)?;
        self.published.close()?;
        Ok(peer.close(Duration::from_secs(30))?)
    }
}

fn measure(transport: Transport) -> Result<Vec<Figures>, Failure> {
    let bytes = if transport == Transport::Tcp { LARGE } else { 1 << 20 };
    let mut bench = Bench::new(transport, bytes)?;
    let grant = bench.grant()?;
    let small = bench.plan(&grant, vec![Desc { local: 0, remote: 0, len: SMALL }])?;
    let (mut ours, mut theirs) = (histogram(), histogram());
    let mut reference = Reference::new(transport, &mut bench)?;
    for _ in 0..ROUNDS {
        bench.small(&small, &mut ours)?;
        reference.times(&mut theirs)?;
    }
    let at = |times: &Histogram<u64>, quantile| pd::at(times, quantile) / 1e3;
    let (p50, bare) = (at(&ours, 0.5), at(&theirs, 0.5));
    let (wanted, met) = match transport {
        Transport::Tcp => ("at most 1.5 × the ping-pong", p50 <= 1.5 * bare),
        // Two more calls of the kernel are the price of knowing that the process is still the same.
        Transport::Cma => ("(no target)", true),
        _ => ("under 1 µs above", p50 < bare + 1.0),
    };
    let mut all = vec![Figures {
        command: "targets",
        what: "one 4 KiB read",
        transport: transport.name(),
        engine_p50_us: p50,
        engine_p99_us: at(&ours, 0.99),
        reference: reference.name(),
        reference_p50_us: bare,
        reference_p99_us: at(&theirs, 0.99),
        wanted,
        met,
    }];
    if transport == Transport::Tcp {
        all.push(beside(&bench, &grant, &small, &ours)?);
    }
    drop((small, grant));
    bench.far.tell(Ask::Settle)?;
    drop(reference);
    bench.close()?;
    Ok(all)
}

/// Small reads while 1 GiB moves over the same link.
fn beside(
    bench: &Bench,
    grant: &ropeway::Grant,
    small: &ropeway::Plan,
    alone: &Histogram<u64>,
) -> Result<Figures, Failure> {
    let large = bench.plan(grant, vec![Desc { local: SMALL, remote: SMALL, len: LARGE - SMALL }])?;
    let mut times = histogram();
    while times.len() < 300 {
        let transfer = engine::submit(&bench.connection, &large)?;
        while !transfer.is_done() {
            let start = Instant::now();
            engine::wait(&engine::submit(&bench.connection, small)?)?;
            times.record(start.elapsed().as_nanos() as u64)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        engine::wait(&transfer)?;
    }
    let whole = [Desc { local: 0, remote: 0, len: LARGE }];
    pattern::verify(&bench.pool, 3, &whole, Side::Local).map_err(|wrong| wrong.to_string())?;
    let at = |times: &Histogram<u64>, quantile| pd::at(times, quantile) / 1e3;
    Ok(Figures {
        command: "targets",
        what: "one 4 KiB read beside 1 GiB",
        transport: "tcp",
        engine_p50_us: at(&times, 0.5),
        engine_p99_us: at(&times, 0.99),
        reference: "the same read alone",
        reference_p50_us: at(alone, 0.5),
        reference_p99_us: at(alone, 0.99),
        wanted: "p99 within 10 × of alone",
        met: at(&times, 0.99) <= 10.0 * at(alone, 0.99),
    })
}

/// CPU time of an engine with ten connected peers and no lease, in 10 s.
fn idle() -> Result<Figures, Failure> {
    let options = cli::Engine::new(Transport::Tcp, 1, 1);
    let engine = engine::open(&options, None, &Auth::default())?;
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut far = Far::spawn(&options)?;
        let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
            return Err("the producer did not say who it is".into());
        };
        let peer = engine.connect(&descriptor.parse()?, Duration::from_secs(30))?.wait()?;
        peers.push((far, peer));
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = usage::cpu_seconds(None)?;
    std::thread::sleep(Duration::from_secs(10));
    let used_us = (usage::cpu_seconds(None)? - before) * 1e6;
    Ok(Figures {
        command: "targets",
        what: "CPU time of 10 s with ten idle peers",
        transport: "tcp",
        engine_p50_us: used_us,
        engine_p99_us: used_us,
        reference: "nothing",
        reference_p50_us: 0.0,
        reference_p99_us: 0.0,
        wanted: "under 1,000 µs",
        met: used_us < 1000.0,
    })
}

/// What a small read is compared with.
enum Reference {
    Copy { crew: Crew, from: Pool, to: Pool },
    Kernel { crew: Crew, to: Pool, from: Pool },
    Ping(TcpStream),
}

impl Reference {
    fn new(transport: Transport, bench: &mut Bench) -> Result<Self, Failure> {
        let pools = || -> std::io::Result<(Pool, Pool)> {
            let (from, to) = (Pool::private(1 << 20)?, Pool::private(1 << 20)?);
            pattern::fill(&from, 3);
            pattern::poison(&to);
            Ok((from, to))
        };
        match transport {
            Transport::Tcp => {
                let Answer::Listening { port } = bench.far.ask(Ask::Pong)? else {
                    return Err("the producer does not listen".into());
                };
                let socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
                reference::tune(&socket);
                Ok(Self::Ping(socket))
            }
            Transport::Cma => {
                let (from, to) = pools()?;
                Ok(Self::Kernel { crew: Crew::open(1)?, to, from })
            }
            _ => {
                let (from, to) = pools()?;
                Ok(Self::Copy { crew: Crew::open(1)?, from, to })
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Copy { .. } => "bare copy",
            Self::Kernel { .. } => "bare process_vm_readv",
            Self::Ping(_) => "blocking ping-pong of 8 bytes",
        }
    }

    fn times(&mut self, times: &mut Histogram<u64>) -> Result<(), Failure> {
        let list = [Desc { local: 0, remote: 0, len: SMALL }];
        match self {
            Self::Ping(socket) => {
                for ns in reference::ping(socket, EACH)? {
                    times.record(ns)?;
                }
            }
            Self::Copy { crew, from, to } => {
                for _ in 0..EACH {
                    let start = Instant::now();
                    crew.copy(Op::Read, Routine::Plain, to, from, &list)?;
                    times.record(start.elapsed().as_nanos() as u64)?;
                }
            }
            Self::Kernel { crew, to, from } => {
                let pid = std::process::id() as i32;
                for _ in 0..EACH {
                    let start = Instant::now();
                    crew.cma(Op::Read, pid, to, from.base() as u64, &list)?;
                    times.record(start.elapsed().as_nanos() as u64)?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn print(all: &[Figures]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|figures| {
            vec![
                format!("{}, {}", figures.what, figures.transport),
                format!("{:.2}", figures.engine_p50_us),
                format!("{:.2}", figures.engine_p99_us),
                figures.reference.to_owned(),
                format!("{:.2}", figures.reference_p50_us),
                format!("{:.2}", figures.reference_p99_us),
                figures.wanted.to_owned(),
                if figures.met { "yes" } else { "NO" }.to_owned(),
            ]
        })
        .collect();
    output::table(
        "Small reads and idleness",
        &["what", "p50 µs", "p99 µs", "compared with", "p50 µs", "p99 µs", "wanted", "met"],
        &rows,
    )
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}
