//! `run`: a raw batch, for comparison with other programs on the same list.

use std::net::SocketAddr;

use serde::Serialize;

use crate::Failure;
use crate::cli::Run;
use crate::control::{Answer, Ask};
use crate::duel::{Duel, Plan};
use crate::engine;
use crate::output;
use crate::pd;
use crate::stats::Rep;
use crate::work::Spec;
use crate::workload;

/// The one object that `run` prints.
#[derive(Serialize)]
struct Figures<'a> {
    transport: &'static str,
    workload: &'a str,
    op: &'static str,
    bytes: u64,
    descriptors: usize,
    /// Seconds of each repetition: from the list to the last byte in place.
    reps: Vec<f64>,
    /// Mean CPU seconds of a repetition.
    cpu_initiator_s: f64,
    cpu_target_s: f64,
    verified: bool,
    /// The CANN is the software one: the figures say nothing about an NPU. Left out where no NPU was used.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    simulated: bool,
}

pub(crate) fn run(options: &Run) -> Result<(), Failure> {
    let list = workload::read_triples(&options.desc, options.pool)?;
    let (bytes, descriptors) = (workload::bytes(&list), list.len());
    let spec = Spec::Raw {
        pool: options.pool,
        list: list.into_iter().map(|desc| (desc.local, desc.remote, desc.len)).collect(),
    };
    let plan = Plan {
        spec,
        op: options.op,
        memory: pd::memory(options.engine.transport),
        far_memory: pd::memory(options.engine.transport),
        rounds: options.reps,
        warmup: options.warmup,
        again: 1,
        reference_threads: 0,
        reference_host: SocketAddr::from(([127, 0, 0, 1], 0)),
        streams: options.engine.streams,
        seed: 1,
    };
    let engine = engine::open(&options.engine, None, &crate::cli::Auth::default())?;
    let mut far = pd::start_producer(&options.engine)?;
    let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
        return Err("the producer did not say who it is".into());
    };
    let mut duel = Duel::new(plan, &engine, &mut far, &descriptor.parse()?)?;
    let outcome = duel.run("raw batch")?;
    duel.close()?;
    let reps = &outcome.pairs.engine;
    let mean = |of: fn(&Rep) -> f64| reps.iter().map(of).sum::<f64>() / reps.len() as f64;
    output::json_line(&Figures {
        transport: outcome.transport,
        workload: &options.name,
        op: options.op.name(),
        bytes,
        descriptors,
        reps: reps.iter().map(|rep| rep.seconds).collect(),
        cpu_initiator_s: mean(|rep| rep.cpu_initiator),
        cpu_target_s: mean(|rep| rep.cpu_target),
        verified: true,
        simulated: engine::is_simulated(&options.engine)?,
    })?;
    Ok(())
}
