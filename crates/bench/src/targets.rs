//! `targets`: the engine against the C reference, for every transport and several block sizes.

mod devices;
mod latency;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::Failure;
use crate::cli::{self, Auth, Op, Targets, Transport};
use crate::control::{Answer, Ask};
use crate::duel::{Duel, Plan};
use crate::engine;
use crate::output;
use crate::pd;
use crate::stats::Quartiles;
use crate::usage;
use crate::work::Spec;

/// Larger than most caches, on both sides.
const COLD: u64 = 192 << 20;
/// A batch that stays in cache.
const HOT: u64 = 2 << 20;

/// One comparison.
#[derive(Clone, Copy, Debug)]
struct Case {
    transport: Transport,
    op: Op,
    block: u64,
    pool: u64,
    /// Copy threads, or streams for tcp.
    threads: u32,
    /// Every core is busy with something else, too.
    hogged: bool,
    /// The share of the reference that is wanted.
    target: f64,
}

/// One comparison's figures.
#[derive(Serialize)]
struct Figures {
    command: &'static str,
    transport: &'static str,
    op: &'static str,
    block_bytes: u64,
    batch_bytes: u64,
    temperature: &'static str,
    threads: u32,
    hogged: bool,
    gbps: f64,
    reference_gbps: f64,
    share_of_limit: Quartiles,
    share_of_limit_cpu: Quartiles,
    /// CPU seconds of the target per GB.
    target_cpu_s_per_gb: f64,
    target: f64,
    met: bool,
    pairs: usize,
}

pub(crate) fn run(options: &Targets) -> Result<(), Failure> {
    if options.transport.is_some_and(Transport::is_device) {
        return Ok(output::json_line(&devices::run(options)?)?);
    }
    let wanted = |case: &Case| {
        options.transport.is_none_or(|only| only == case.transport)
            && options.block.is_none_or(|only| only == case.block)
            && options.threads.is_none_or(|only| only == case.threads)
    };
    let cases: Vec<Case> = cases().into_iter().filter(wanted).collect();
    let bar = output::progress(cases.len() as u64, "comparing");
    let mut all = Vec::new();
    for case in cases {
        let figures = compare(case, options.rounds).map_err(|error| format!("{case:?}: {error}"))?;
        if options.json {
            output::json_line(&figures)?;
        }
        all.push(figures);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let small = options.block.is_none() && options.threads.is_none();
    let latencies = if small { latency::all(options)? } else { Vec::new() };
    if options.json {
        return Ok(latencies.iter().try_for_each(output::json_line)?);
    }
    print(&all)?;
    if small {
        latency::print(&latencies)?;
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let cores = usage::cores();
    let base = Case {
        transport: Transport::Shm,
        op: Op::Read,
        block: 128 << 10,
        pool: COLD,
        threads: 1,
        hogged: false,
        target: 0.95,
    };
    let mut cases = Vec::new();
    for transport in [Transport::Loopback, Transport::Shm] {
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            for pool in [COLD, HOT] {
                for (block, target) in [(4 << 10, 0.9), (16 << 10, 0.95), (128 << 10, 0.95)] {
                    cases.push(Case { transport, block, pool, threads, target, ..base });
                }
            }
        }
        cases.push(Case { transport, op: Op::Write, ..base });
    }
    for block in [4 << 10, 16 << 10, 128 << 10] {
        cases.push(Case { transport: Transport::Cma, block, ..base });
    }
    cases.push(Case { transport: Transport::Cma, op: Op::Write, ..base });
    for op in [Op::Read, Op::Write] {
        for block in [4 << 10, 16 << 10, 64 << 10, 256 << 10] {
            cases.push(Case { transport: Transport::Tcp, op, block, target: 0.9, ..base });
        }
        cases.push(Case { transport: Transport::Tcp, op, threads: 4, target: 0.9, ..base });
    }
    for transport in [Transport::Shm, Transport::Tcp] {
        cases.push(Case { transport, hogged: true, target: 0.5, ..base });
    }
    cases
}

fn compare(case: Case, rounds: u32) -> Result<Figures, Failure> {
    let tcp = case.transport == Transport::Tcp;
    let (copy_threads, streams) = if tcp { (1, case.threads) } else { (case.threads, 1) };
    let options = cli::Engine::new(case.transport, copy_threads, streams);
    let plan = Plan {
        spec: Spec::Scattered { block: case.block, bytes: case.pool, pool: case.pool, seed: case.block },
        op: case.op,
        memory: pd::memory(case.transport),
        far_memory: pd::memory(case.transport),
        rounds,
        warmup: 2,
        // A batch in cache is over in 50 us.
        again: if case.pool == HOT { 64 } else { 1 },
        reference_threads: case.threads,
        reference_host: SocketAddr::from(([127, 0, 0, 1], 0)),
        streams: options.streams,
        seed: 5,
    };
    let engine = engine::open(&options, None, &Auth::default())?;
    let mut far = pd::start_producer(&options)?;
    let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
        return Err("the producer did not say who it is".into());
    };
    let mut duel = Duel::new(plan, &engine, &mut far, &descriptor.parse()?)?;
    let hogs = case.hogged.then(Hogs::start);
    let outcome = duel.run(case.transport.name());
    drop(hogs);
    let outcome = outcome?;
    duel.close()?;
    let share = outcome.pairs.share_of_limit().ok_or("there was no reference for this way")?;
    let speed =
        |reps: &[crate::stats::Rep]| Quartiles::of(reps.iter().map(|rep| rep.gbps(outcome.bytes))).median;
    let engine_reps = &outcome.pairs.engine;
    let target_cpu: f64 = engine_reps.iter().map(|rep| rep.cpu_target).sum();
    Ok(Figures {
        command: "targets",
        transport: outcome.transport,
        op: case.op.name(),
        block_bytes: case.block,
        batch_bytes: case.pool,
        temperature: if case.pool == HOT { "hot" } else { "cold" },
        threads: case.threads,
        hogged: case.hogged,
        gbps: speed(engine_reps),
        reference_gbps: speed(&outcome.pairs.reference),
        share_of_limit: share,
        share_of_limit_cpu: outcome.pairs.share_of_cpu().ok_or("there was no reference for this way")?,
        target_cpu_s_per_gb: target_cpu / crate::stats::gb(outcome.bytes * engine_reps.len() as u64),
        target: case.target,
        met: share.median >= case.target,
        pairs: engine_reps.len(),
    })
}

fn print(all: &[Figures]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|figures| {
            let share = figures.share_of_limit;
            vec![
                format!(
                    "{} {}{}",
                    figures.transport,
                    figures.op,
                    if figures.hogged { ", hogged" } else { "" }
                ),
                output::block(figures.block_bytes),
                figures.temperature.to_owned(),
                figures.threads.to_string(),
                format!("{:.2}", figures.gbps),
                format!("{:.2}", figures.reference_gbps),
                format!("{:.3}", share.median),
                format!("{:.3}–{:.3}", share.low, share.high),
                format!("{:.3}", figures.share_of_limit_cpu.median),
                format!("{:.4}", figures.target_cpu_s_per_gb),
                format!("{:.2}", figures.target),
                if figures.met { "yes" } else { "NO" }.to_owned(),
            ]
        })
        .collect();
    output::table(
        "Engine against the C reference: medians of paired ratios (cold: 192 MiB batches, hot: 2 MiB batches)",
        &[
            "way",
            "block",
            "batch",
            "threads",
            "GB/s",
            "C GB/s",
            "share",
            "quartiles",
            "share, CPU",
            "target CPU s/GB",
            "wanted",
            "met",
        ],
        &rows,
    )
}

/// Keeps every core busy until it is dropped.
struct Hogs(Arc<AtomicBool>);

impl Hogs {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..usage::cores() {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut x = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..10_000 {
                        x = std::hint::black_box(x.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    }
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
