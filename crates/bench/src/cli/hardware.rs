//! Options of the commands that look at NPUs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Npu;

/// A native library's way between NPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum NativeWay {
    /// HIXL through its C++ class.
    Hixl,
    /// HIXL through its C functions.
    HixlC,
}

impl NativeWay {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hixl => "hixl",
            Self::HixlC => "hixl-c",
        }
    }
}

/// What is to be found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ExperimentName {
    /// What destroying a link does to DMA in flight.
    Destroy,
    /// What a transfer to a dead peer ends with, and when.
    Lost,
    /// What connecting costs.
    Connect,
    /// Which memory a link takes: page sizes, virtual memory.
    Memory,
    /// What a question to an event costs.
    Events,
}

impl ExperimentName {
    pub(crate) const ALL: [Self; 5] = [Self::Destroy, Self::Lost, Self::Connect, Self::Memory, Self::Events];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Lost => "lost",
            Self::Connect => "connect",
            Self::Memory => "memory",
            Self::Events => "events",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Experiment {
    /// What is to be found out.
    #[arg(value_enum)]
    pub(crate) name: ExperimentName,
    /// By which native calls.
    #[arg(long, value_enum, default_value_t = NativeWay::Hixl)]
    pub(crate) way: NativeWay,
    #[command(flatten)]
    pub(crate) npu: Npu,
    /// Bytes of the destination that is watched.
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 30)]
    pub(crate) bytes: u64,
    /// How long nothing must change before the watch ends, in ms: longer than RDMA's own retries.
    #[arg(long, value_name = "MS", default_value_t = 40_000)]
    pub(crate) watch_ms: u64,
}

impl Experiment {
    /// The device of the side that posts.
    pub(crate) fn near(&self) -> u32 {
        self.npu.devices.first().copied().unwrap_or(0)
    }

    /// The device of the side that is written to.
    pub(crate) fn far(&self) -> u32 {
        self.npu.devices.last().copied().unwrap_or(1)
    }
}

/// The other process of an experiment.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExperimentTarget {
    #[arg(long, value_enum)]
    pub(crate) way: NativeWay,
    #[arg(long)]
    pub(crate) device: u32,
    #[arg(long)]
    pub(crate) cann: Option<PathBuf>,
}

/// Everything that an owner of NPUs can find out, in one report.
#[derive(Args, Clone, Debug)]
pub(crate) struct Hardware {
    /// The report: one JSON object.
    #[arg(long, value_name = "FILE", default_value = "ropeway-hardware.json")]
    pub(crate) report: PathBuf,
    #[command(flatten)]
    pub(crate) npu: Npu,
    /// Seconds rather than minutes: small transfers, short watches. For a first look, and for a test of the command.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Lines that a run of the conformance suite printed, to be kept in the report.
    #[arg(long, value_name = "FILE")]
    pub(crate) conformance: Option<PathBuf>,
}
