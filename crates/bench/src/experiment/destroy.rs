//! What destroying a link does to DMA in flight: does the destination change after the call has returned?
//!
//! A large WRITE is posted and its link destroyed at once. Then the target, another process, watches one word in each
//! 2 MiB of its memory for longer than RDMA's own retries take.

use std::time::{Duration, Instant};

use ropeway_core::Op;
use ropeway_transport::Role;
use serde::Serialize;
use serde_json::Value;

use super::side::{PATIENCE, Side, address, pieces, post, prepare};
use super::target::{Answer, Ask, Target, Watched};
use crate::Failure;
use crate::cli::Experiment;

/// What the destination holds, and what is written.
const OLD: u8 = 0x11;
const NEW: u8 = 0xee;
/// Bytes of a descriptor.
const PIECE: u64 = 2 << 20;
/// How long after the first post the link is destroyed.
const DELAYS_US: [u64; 4] = [0, 200, 1_000, 5_000];

#[derive(Serialize)]
struct Trial {
    delay_us: u64,
    /// How long the destroying calls took.
    destroy_ms: f64,
    /// What the mover made of it.
    proven: bool,
    /// What was posted ended before, so that nothing was in flight: the trial tells nothing.
    was_over: bool,
    watched: Watched,
}

impl Trial {
    fn was_in_flight(&self) -> bool {
        !self.was_over && self.watched.at_first < self.watched.places
    }

    fn wrote_late(&self) -> bool {
        self.watched.at_last > self.watched.at_first
    }
}

pub(super) fn run(side: &Side, options: &Experiment) -> Result<(String, Value), Failure> {
    let mut trials = Vec::new();
    for delay_us in DELAYS_US {
        trials.push(trial(side, options, Duration::from_micros(delay_us))?);
    }
    let told: Vec<&Trial> = trials.iter().filter(|trial| trial.was_in_flight()).collect();
    let late: Vec<f64> = told
        .iter()
        .filter(|trial| trial.wrote_late())
        .filter_map(|trial| trial.watched.last_change_ms)
        .collect();
    let watched = trials.iter().map(|trial| trial.watched.watched_ms).fold(0.0, f64::max) / 1e3;
    let answer = match (told.is_empty(), late.iter().copied().fold(0.0, f64::max)) {
        (true, _) => "nothing was in flight when the link was destroyed: raise --bytes".to_owned(),
        (false, latest) if !late.is_empty() => format!(
            "destroying a link does NOT quiesce it: in {} of {} trials bytes were written after the call had returned, the \
             last seen {latest:.1} ms after it",
            late.len(),
            told.len()
        ),
        _ => format!(
            "no byte was written after the destroying call had returned, in {} trials watched for {watched:.0} s",
            told.len()
        ),
    };
    Ok((answer, serde_json::to_value(&trials)?))
}

fn trial(side: &Side, options: &Experiment, delay: Duration) -> Result<Trial, Failure> {
    let mut target = Target::start(options)?;
    let far = target.region(side, options.bytes, OLD)?;
    let local = side.region(options.bytes, NEW)?;
    let mut mover = side.mover(&target.offer, Role::Active)?;
    let (_, base) = prepare(&mut *mover, &local, &far)?;
    let limits = side.native.limits();
    let descs = pieces(address(&local), base, options.bytes, PIECE.min(options.bytes));
    let posted = Instant::now();
    let open = post(&mut *mover, (limits.descs, usize::MAX), Op::Write, &descs)
        .map_err(|error| format!("nothing could be posted: {error:?}"))?;
    while posted.elapsed() < delay {
        std::thread::yield_now();
    }
    let was_over = open.iter().all(|&request| mover.poll(request) != ropeway_ascend::link::Polled::Waiting);
    let destroying = Instant::now();
    let teardown = mover.disconnect(PATIENCE);
    drop(mover);
    let destroy_ms = destroying.elapsed().as_secs_f64() * 1e3;
    let watched = match target.ask(&Ask::Watch { byte: OLD, quiet_ms: options.watch_ms })? {
        Answer::Watched(watched) => watched,
        other => return Err(format!("unexpected answer {other:?}").into()),
    };
    // The source may still be read: it stays until this process ends.
    std::mem::forget(local);
    Ok(Trial {
        delay_us: delay.as_micros() as u64,
        destroy_ms,
        proven: teardown == ropeway_ascend::link::Teardown::Proven,
        was_over,
        watched,
    })
}
