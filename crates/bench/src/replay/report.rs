//! What a replay counted, and how it is printed.

use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Failure;
use crate::cli::{Replay, Verify};
use crate::output;
use crate::pd;
use crate::replay::trace::Request;
use crate::stats::gb;

/// A pool at the end of a replay.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct PoolUse {
    pub(crate) blocks: u32,
    /// The most blocks that requests held at a time.
    pub(crate) peak_blocks: u32,
    /// Prefix entries dropped to make room.
    pub(crate) evicted: u64,
}

/// Counts and times of a replay.
pub(crate) struct Tally {
    requests: u64,
    tokens: u64,
    blocks: u64,
    blocks_moved: u64,
    bytes_moved: u64,
    pub(crate) lost: u64,
    wrong: u64,
    pub(crate) wall_s: f64,
    pub(crate) leases: u64,
    pub(crate) producer: PoolUse,
    pub(crate) consumer: PoolUse,
    pub(crate) consumer_cpu_s: f64,
    pub(crate) producer_cpu_s: f64,
    /// From the moment that a request was due to the beginning of its transfer, µs.
    queueing: Histogram<u64>,
    /// From there to the last byte in place, µs.
    transfer: Histogram<u64>,
    /// Both together.
    total: Histogram<u64>,
    transferring_s: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self {
            requests: 0,
            tokens: 0,
            blocks: 0,
            blocks_moved: 0,
            bytes_moved: 0,
            lost: 0,
            wrong: 0,
            wall_s: 0.0,
            leases: 0,
            producer: PoolUse::default(),
            consumer: PoolUse::default(),
            consumer_cpu_s: 0.0,
            producer_cpu_s: 0.0,
            queueing: histogram(),
            transfer: histogram(),
            total: histogram(),
            transferring_s: 0.0,
        }
    }
}

impl Tally {
    pub(crate) fn count(&mut self, request: &Request, blocks: u32, moved: u32, wrong: u64) {
        self.requests += 1;
        self.tokens += u64::from(request.input_length);
        self.blocks += u64::from(blocks);
        self.blocks_moved += u64::from(moved);
        self.wrong += wrong;
    }

    pub(crate) fn time(&mut self, due: Instant, began: Instant, ended: Instant, bytes: u64) {
        self.bytes_moved += bytes;
        self.transferring_s += (ended - began).as_secs_f64();
        let us = |from: Instant, to: Instant| to.saturating_duration_since(from).as_micros() as u64;
        for (histogram, value) in [
            (&mut self.queueing, us(due, began)),
            (&mut self.transfer, us(began, ended)),
            (&mut self.total, us(due, ended)),
        ] {
            histogram.record(value).expect("the histogram grows as needed");
        }
    }
}

/// What the tally does not know.
pub(crate) struct Context<'a> {
    pub(crate) transport: &'static str,
    pub(crate) requests: &'a [Request],
    pub(crate) block_bytes: u64,
}

#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| pd::at(histogram, quantile) / 1e3;
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

/// What `replay` prints; the names are those of the JSON line.
#[derive(Serialize)]
struct Figures<'a> {
    command: &'static str,
    model: &'a str,
    transport: &'static str,
    verify: Verify,
    requests: u64,
    tokens: u64,
    blocks: u64,
    leases: u64,
    bytes_moved: u64,
    bytes_reused: u64,
    wall_s: f64,
    /// Bytes moved over the whole time, idle moments included.
    gbps: f64,
    /// Bytes moved over the sum of the times that transfers took.
    gbps_per_transfer: f64,
    speedup_asked: f64,
    /// How much faster than in the trace the last request was done.
    speedup_achieved: f64,
    queueing: Percentiles,
    transfer: Percentiles,
    total: Percentiles,
    producer_pool: PoolUse,
    consumer_pool: PoolUse,
    consumer_cpu_s: f64,
    producer_cpu_s: f64,
    lost: u64,
    wrong: u64,
    verified: bool,
}

/// # Errors
/// Something was lost or wrong.
pub(crate) fn print(options: &Replay, context: &Context<'_>, tally: &Tally) -> Result<(), Failure> {
    let span_ms = context.requests[context.requests.len() - 1].timestamp - context.requests[0].timestamp;
    let not_done = context.requests.len() as u64 - tally.requests;
    let lost = tally.lost + not_done;
    let figures = Figures {
        command: "replay",
        model: &options.model,
        transport: context.transport,
        verify: options.verify,
        requests: tally.requests,
        tokens: tally.tokens,
        blocks: tally.blocks,
        leases: tally.leases,
        bytes_moved: tally.bytes_moved,
        bytes_reused: (tally.blocks - tally.blocks_moved) * context.block_bytes,
        wall_s: tally.wall_s,
        gbps: gb(tally.bytes_moved) / tally.wall_s,
        gbps_per_transfer: gb(tally.bytes_moved) / tally.transferring_s.max(1e-9),
        speedup_asked: options.speedup,
        speedup_achieved: span_ms as f64 / 1e3 / tally.wall_s,
        queueing: Percentiles::of(&tally.queueing),
        transfer: Percentiles::of(&tally.transfer),
        total: Percentiles::of(&tally.total),
        producer_pool: tally.producer,
        consumer_pool: tally.consumer,
        consumer_cpu_s: tally.consumer_cpu_s,
        producer_cpu_s: tally.producer_cpu_s,
        lost,
        wrong: tally.wrong,
        verified: lost == 0 && tally.wrong == 0,
    };
    if options.json {
        output::json_line(&figures)?;
    } else {
        table(&figures)?;
    }
    match figures.verified {
        true => Ok(()),
        false => Err(format!("{lost} requests lost, {} blocks wrong", tally.wrong).into()),
    }
}

fn table(figures: &Figures<'_>) -> std::io::Result<()> {
    let times = |p: Percentiles| {
        format!("p50 {:.1}, p99 {:.1}, p999 {:.1}, max {:.1}", p.p50_ms, p.p99_ms, p.p999_ms, p.max_ms)
    };
    let pool = |pool: PoolUse| {
        format!(
            "{} of {} blocks at the peak, {} prefixes evicted",
            pool.peak_blocks, pool.blocks, pool.evicted
        )
    };
    output::facts(
        &format!(
            "Replay over {}: {} requests, {}",
            figures.transport,
            output::grouped(figures.requests),
            figures.model
        ),
        &[
            ("tokens", output::grouped(figures.tokens)),
            ("bytes moved", output::bytes(figures.bytes_moved)),
            ("bytes reused", output::bytes(figures.bytes_reused)),
            ("leases", output::grouped(figures.leases)),
            ("wall time", format!("{:.1} s", figures.wall_s)),
            (
                "throughput",
                format!(
                    "{:.2} GB/s ({:.2} each transfer by itself)",
                    figures.gbps, figures.gbps_per_transfer
                ),
            ),
            (
                "speedup",
                format!("{:.2} asked, {:.2} achieved", figures.speedup_asked, figures.speedup_achieved),
            ),
            ("queueing, ms", times(figures.queueing)),
            ("transfer, ms", times(figures.transfer)),
            ("arrival to done, ms", times(figures.total)),
            ("producer's pool", pool(figures.producer_pool)),
            ("consumer's pool", pool(figures.consumer_pool)),
            (
                "CPU seconds",
                format!("consumer {:.1}, producer {:.1}", figures.consumer_cpu_s, figures.producer_cpu_s),
            ),
            ("lost requests", figures.lost.to_string()),
            ("wrong blocks", figures.wrong.to_string()),
        ],
    )
}
