//! `pd`: prompts of a model, from a producer process to a consumer process.

use std::net::SocketAddr;

use hdrhistogram::Histogram;
use ropeway_ascend::curves::Direction;
use serde::Serialize;

use crate::Failure;
use crate::cli::{self, Op, Pd, Transport};
use crate::control::{Answer, Ask, Memory};
use crate::duel::{Duel, Outcome, Plan};
use crate::engine;
use crate::far::Far;
use crate::model;
use crate::output;
use crate::producer::Producer;
use crate::serve;
use crate::stats::{Quartiles, gb};
use crate::usage;
use crate::work::Spec;

/// A median of paired ratios needs this many pairs.
const ROUNDS_MIN: u32 = 15;

/// What `pd` prints; the names are those of the JSON line.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) command: &'static str,
    pub(crate) model: String,
    pub(crate) tokens: u32,
    pub(crate) transport: &'static str,
    pub(crate) op: &'static str,
    /// As HIXL's benchmark names it; `null` where no NPU is used.
    pub(crate) direction: Option<&'static str>,
    /// The CANN is the software one: no figure says anything about an NPU.
    pub(crate) simulated: bool,
    pub(crate) fragmentation: f64,
    pub(crate) requests: u64,
    pub(crate) concurrency: u32,
    /// Bytes of one request.
    pub(crate) bytes: u64,
    /// Copies of one request, before and after merging.
    pub(crate) descriptors: u64,
    pub(crate) runs: u64,
    pub(crate) gbps: f64,
    pub(crate) gbps_best: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) claim_p50_us: f64,
    pub(crate) cpu_s_per_gb_consumer: f64,
    /// 0 for loopback, where one process is both.
    pub(crate) cpu_s_per_gb_producer: f64,
    pub(crate) reference: Option<String>,
    pub(crate) reference_threads: u32,
    pub(crate) reference_gbps: Option<f64>,
    pub(crate) share_of_limit: Option<Quartiles>,
    pub(crate) share_of_limit_cpu: Option<Quartiles>,
    pub(crate) rounds: usize,
    pub(crate) verified: bool,
}

pub(crate) fn run(options: &Pd) -> Result<(), Failure> {
    if options.list_models {
        return Ok(list_models()?);
    }
    model::find(&options.model)?;
    let engine = engine::open(&options.engine, None, &options.auth)?;
    let (mut far, host) = match &options.peer {
        Some(peer) => serve::connect(peer, &options.auth)?,
        None => (start_producer(&options.engine)?, SocketAddr::from(([127, 0, 0, 1], 0))),
    };
    let descriptor = match (&options.peer, far.ask(Ask::Hello)?) {
        (Some(peer), _) => serve::descriptor(peer, &options.auth)?,
        (None, Answer::Hello { descriptor, .. }) => descriptor.parse()?,
        (None, other) => return Err(format!("unexpected answer {other:?}").into()),
    };
    let mut duel =
        Duel::new(plan(options, host, engine.calibration().threads()), &engine, &mut far, &descriptor)?;
    let outcome = duel.run("moving prompts")?;
    duel.close()?;
    print(options, &outcome)
}

/// In this process for loopback, else in a child.
pub(crate) fn start_producer(options: &cli::Engine) -> Result<Far, Failure> {
    match options.transport {
        Transport::Loopback => {
            let engine = engine::open(options, None, &cli::Auth::default())?;
            Ok(Far::Here(Box::new(Producer::new(engine))))
        }
        _ => Ok(Far::spawn(options)?),
    }
}

/// The kind of memory in which a transport shows what it can do: only shm needs a memfd.
pub(crate) fn memory(transport: Transport) -> Memory {
    match transport {
        Transport::Hixl | Transport::Ipc | Transport::Hccl => Memory::Device,
        Transport::Auto | Transport::Shm => Memory::Shared,
        Transport::Loopback | Transport::Cma | Transport::Tcp => Memory::Private,
    }
}

fn op(op: ropeway_core::Op) -> Op {
    if op == ropeway_core::Op::Read { Op::Read } else { Op::Write }
}

/// Which memory is copied where, when NPUs are part of it.
fn direction(options: &Pd) -> Option<Direction> {
    let op = match options.op {
        Op::Read => ropeway_core::Op::Read,
        Op::Write => ropeway_core::Op::Write,
    };
    let device = options.engine.transport.is_device();
    options.direction.or(device.then(|| Direction::of(op, true, true)))
}

fn plan(options: &Pd, reference_host: SocketAddr, threads: u32) -> Plan {
    let rounds = options.requests.div_ceil(options.concurrency).max(ROUNDS_MIN);
    let side = |device| if device { Memory::Device } else { Memory::Pinned };
    let (op, memory, far_memory) = match direction(options) {
        Some(direction) => {
            (op(direction.op()), side(direction.local_is_device()), side(direction.remote_is_device()))
        }
        None => (options.op, memory(options.engine.transport), memory(options.engine.transport)),
    };
    Plan {
        spec: Spec::Prompts {
            model: options.model.clone(),
            tokens: options.tokens,
            requests: options.concurrency,
            fragmentation: options.fragmentation,
            seed: options.seed,
        },
        op,
        memory,
        far_memory,
        rounds,
        warmup: 2,
        again: 1,
        reference_threads: if options.no_reference { 0 } else { threads },
        reference_host,
        streams: options.engine.streams,
        seed: options.seed,
    }
}

fn figures(options: &Pd, outcome: &Outcome, simulated: bool) -> Figures {
    let engine = &outcome.pairs.engine;
    let speed = Quartiles::of(engine.iter().map(|rep| rep.gbps(outcome.bytes)));
    let best = engine.iter().map(|rep| rep.gbps(outcome.bytes)).fold(0.0, f64::max);
    let moved = gb(outcome.bytes) * engine.len() as f64;
    let sum = |of: fn(&crate::stats::Rep) -> f64| engine.iter().map(of).sum::<f64>() / moved;
    let reference = outcome.pairs.reference.iter().map(|rep| rep.gbps(outcome.bytes));
    let each = u64::from(options.concurrency);
    let op = direction(options).map_or(options.op, |direction| op(direction.op()));
    Figures {
        command: "pd",
        model: options.model.clone(),
        tokens: options.tokens,
        transport: outcome.transport,
        op: op.name(),
        direction: direction(options).map(Direction::name),
        simulated,
        fragmentation: options.fragmentation,
        requests: engine.len() as u64 * each,
        concurrency: options.concurrency,
        bytes: outcome.bytes / each,
        descriptors: outcome.descriptors / each,
        runs: outcome.runs / each,
        gbps: speed.median,
        gbps_best: best,
        p50_ms: at(&outcome.latency, 0.5) / 1e6,
        p99_ms: at(&outcome.latency, 0.99) / 1e6,
        p999_ms: at(&outcome.latency, 0.999) / 1e6,
        claim_p50_us: at(&outcome.claim, 0.5) / 1e3,
        cpu_s_per_gb_consumer: sum(|rep| rep.cpu_initiator),
        cpu_s_per_gb_producer: sum(|rep| rep.cpu_target),
        reference: outcome.reference.as_ref().map(|(name, _)| name.clone()),
        reference_threads: outcome.reference.as_ref().map_or(0, |(_, threads)| *threads),
        reference_gbps: (reference.len() > 0).then(|| Quartiles::of(reference).median),
        share_of_limit: outcome.pairs.share_of_limit(),
        share_of_limit_cpu: outcome.pairs.share_of_cpu(),
        rounds: engine.len(),
        verified: true,
    }
}

pub(crate) fn at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64
}

fn print(options: &Pd, outcome: &Outcome) -> Result<(), Failure> {
    let figures = figures(options, outcome, engine::is_simulated(&options.engine)?);
    if options.json {
        return Ok(output::json_line(&figures)?);
    }
    let title = format!(
        "{} prompts of {} tokens of {}, {} at a time, fragmentation {:.2}",
        figures.requests,
        output::grouped(figures.tokens.into()),
        figures.model,
        figures.concurrency,
        figures.fragmentation
    );
    let share = |share: Option<Quartiles>| match share {
        Some(q) => {
            format!("{:.3}  (quartiles {:.3} to {:.3}, {} pairs)", q.median, q.low, q.high, figures.rounds)
        }
        None => "not measured".to_owned(),
    };
    let reference = match (&figures.reference, figures.reference_gbps) {
        (Some(name), Some(gbps)) => {
            format!("{gbps:.2} GB/s  ({name}, threads: {})", figures.reference_threads)
        }
        _ => "none for this way".to_owned(),
    };
    output::facts(
        &title,
        &[
            ("transport", way(&figures)),
            ("bytes", format!("{} a prompt", output::bytes(figures.bytes))),
            (
                "descriptors",
                format!(
                    "{} before merging, {} after",
                    output::grouped(figures.descriptors),
                    output::grouped(figures.runs)
                ),
            ),
            ("gbps", format!("{:.2} GB/s median, {:.2} best", figures.gbps, figures.gbps_best)),
            (
                "latency",
                format!(
                    "p50 {:.2} ms, p99 {:.2} ms, p999 {:.2} ms",
                    figures.p50_ms, figures.p99_ms, figures.p999_ms
                ),
            ),
            ("claim of a lease", format!("p50 {:.0} µs", figures.claim_p50_us)),
            (
                "CPU s per GB",
                format!(
                    "consumer {:.4}, producer {:.4}",
                    figures.cpu_s_per_gb_consumer, figures.cpu_s_per_gb_producer
                ),
            ),
            ("reference", reference),
            ("share_of_limit", share(figures.share_of_limit)),
            ("  per CPU second", share(figures.share_of_limit_cpu)),
            ("verified", "every byte of every prompt".to_owned()),
        ],
    )?;
    Ok(())
}

fn way(figures: &Figures) -> String {
    let direction = figures.direction.map(|direction| format!(", {direction}")).unwrap_or_default();
    let simulated = if figures.simulated { " (SIMULATED: says nothing about an NPU)" } else { "" };
    format!("{}, {}{direction}{simulated}", figures.transport, figures.op)
}

fn list_models() -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = model::all()
        .map(|shape| {
            let planes: Vec<String> = shape
                .planes
                .iter()
                .map(|plane| {
                    format!("{} × {} {}", plane.layers, output::block(plane.block_bytes), plane.name)
                })
                .collect();
            vec![
                shape.name.to_owned(),
                shape.parts().to_string(),
                output::bytes(shape.prompt_bytes(8192)),
                planes.join(", "),
            ]
        })
        .collect();
    output::table(
        "Built-in KV cache shapes, blocks of 128 tokens",
        &["model", "parts", "8,192 tokens", "blocks a layer"],
        &rows,
    )?;
    output::line(format_args!("{} cores here", usage::cores()))
}
