//! Experiments on hardware: what no document says, found out with the engine's own native calls.
//!
//! Each runs in a process of its own with a second one as the target, so that what breaks breaks alone.

mod connect;
mod destroy;
mod events;
mod lost;
mod memory;
mod side;
mod target;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::cli::{Experiment, ExperimentName, ExperimentTarget};
use crate::output;
use side::Side;

/// What an experiment found; the names are those of the JSON object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) experiment: String,
    /// The CANN is the software one: the answer is that of its script, not of an NPU.
    pub(crate) simulated: bool,
    /// In words.
    pub(crate) answer: String,
    /// What the words rest on.
    pub(crate) evidence: serde_json::Value,
}

pub(crate) fn run(options: &Experiment) -> Result<(), Failure> {
    let side = Side::open(options.way, options.near(), options.npu.cann.as_deref())?;
    let (answer, evidence) = match options.name {
        ExperimentName::Destroy => destroy::run(&side, options)?,
        ExperimentName::Lost => lost::run(&side, options)?,
        ExperimentName::Connect => connect::run(&side, options)?,
        ExperimentName::Memory => memory::run(&side, options)?,
        ExperimentName::Events => events::run(&side)?,
    };
    let outcome = Outcome {
        experiment: options.name.name().to_owned(),
        simulated: side.npu.cann().sys().is_simulated(),
        answer,
        evidence,
    };
    output::json_line(&outcome)?;
    // What was given up in mid-flight must not be freed under the hardware: the kernel takes all of it at once.
    std::process::exit(0)
}

pub(crate) fn serve(options: &ExperimentTarget) -> Result<(), Failure> {
    target::serve(options)
}
