//! CANN, NPUs, their network.

use std::path::Path;

use ropeway_ascend::node::Machine;

use super::Finding;

/// What was found of Ascend.
pub(super) struct Ascend {
    pub(super) findings: Vec<Finding>,
    pub(super) simulated: bool,
}

pub(super) fn look(_machine: &Machine, _cann: Option<&Path>) -> Ascend {
    Ascend { findings: Vec::new(), simulated: false }
}
