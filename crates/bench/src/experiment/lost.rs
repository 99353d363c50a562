//! What a transfer to a peer that has died ends with, and when: the library's own number and words.

use std::time::{Duration, Instant};

use ropeway_ascend::link::{Failure as Native, Polled, PostError};
use ropeway_core::Op;
use ropeway_transport::Role;
use serde::Serialize;
use serde_json::Value;

use super::side::{Side, address, pieces, prepare, wait};
use super::target::Target;
use crate::Failure;
use crate::cli::Experiment;

#[derive(Serialize)]
struct Ended {
    /// What was tried.
    what: &'static str,
    /// The library's number; `null` when it did not end.
    code: Option<i32>,
    latched: bool,
    completed: bool,
    words: String,
    ms: f64,
}

pub(super) fn run(side: &Side, options: &Experiment) -> Result<(String, Value), Failure> {
    let mut target = Target::start(options)?;
    let far = target.region(side, options.bytes, 0)?;
    let local = side.region(options.bytes, 1)?;
    let mut mover = side.mover(&target.offer, Role::Active)?;
    let (_, base) = prepare(&mut *mover, &local, &far)?;
    let descs = pieces(address(&local), base, options.bytes, 2 << 20);
    target.kill()?;
    let patience = Duration::from_millis(options.watch_ms.max(1_000));
    let mut ended = Vec::new();
    for what in ["first transfer after the peer died", "second transfer after the peer died"] {
        let start = Instant::now();
        let first = &descs[..descs.len().min(side.native.limits().descs)];
        let polled = match mover.post(Op::Write, first) {
            Ok(request) => wait(&mut *mover, request, patience),
            Err(PostError::Failed(failure)) => Polled::Failed(failure),
            Err(PostError::Busy(busy)) => Polled::Failed(Native::Over { code: busy.code }),
            Err(PostError::Cut { code }) => Polled::Failed(Native::Over { code }),
        };
        let code = match polled {
            Polled::Failed(failure) => Some(failure.code()),
            _ => None,
        };
        let words = code.map(|code| mover.explain(code).to_string()).unwrap_or_default();
        ended.push(Ended {
            what,
            code,
            latched: matches!(polled, Polled::Failed(Native::Latched { .. })),
            completed: polled == Polled::Done,
            words,
            ms: start.elapsed().as_secs_f64() * 1e3,
        });
        if polled == Polled::Waiting || matches!(polled, Polled::Failed(Native::Latched { .. })) {
            break;
        }
    }
    std::mem::forget(local);
    let first = &ended[0];
    let answer = match (first.code, first.completed) {
        (Some(code), _) => {
            format!("a transfer to a dead peer ends with {code} after {:.0} ms: {}", first.ms, first.words)
        }
        (None, true) => {
            format!("a transfer to a dead peer is reported as COMPLETED after {:.0} ms", first.ms)
        }
        (None, false) => format!("a transfer to a dead peer has not ended after {:.0} ms", first.ms),
    };
    Ok((answer, serde_json::to_value(&ended)?))
}
