//! The main job on real input: a trace of requests, block pools of bounded size, leases, and a check of every block.

pub(crate) mod blocks;
pub(crate) mod trace;
