//! The command line. Names and defaults here are what scripts rely on.

mod hardware;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use hardware::{Experiment, ExperimentName, ExperimentTarget, Hardware, NativeWay};

/// Moves the KV cache of prompts between processes, checks every byte, and says how near the machine's limit it was.
#[derive(Parser, Debug)]
#[command(
    name = "ropeway-bench",
    version,
    after_help = "Figures are decimal (1 GB = 10^9 bytes). The exit code is 0 only when nothing was lost or wrong.\n\
                  RUST_LOG=debug shows what the engine does (on stderr)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Moves prompts of a model from a producer process to a consumer process.
    #[command(after_help = PD_EXAMPLES)]
    Pd(Pd),
    /// Waits for `pd --peer` from another machine or network namespace.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Replays a trace of requests: the main job on real input.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Measures what this machine can do at best, without the engine.
    #[command(after_help = "Examples:\n  ropeway-bench limits\n  ropeway-bench limits --quick --json")]
    Limits(Limits),
    /// Moves a raw list of copies and prints one JSON object.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Predicts from published curves how long a prompt takes between NPUs, link by link. Nothing is measured.
    #[command(after_help = MODEL_EXAMPLES)]
    Model(Model),
    /// Says what this machine has, what is wrong with it, and how to mend it.
    #[command(after_help = DOCTOR_NOTES)]
    Doctor(Doctor),
    /// Measures the engine against the C reference for every transport and several block sizes.
    #[command(
        after_help = "Examples:\n  ropeway-bench targets\n  ropeway-bench targets --transport shm --json"
    )]
    Targets(Targets),
    /// Finds out on NPUs what no document says, and writes one report: doctor, transfers, experiments.
    #[command(after_help = HARDWARE_NOTES)]
    Hardware(Hardware),
    /// Finds out one thing on NPUs, with the engine's own native calls; prints one JSON object.
    Experiment(Experiment),
    /// The other process of an experiment; it talks on stdin and stdout.
    #[command(hide = true)]
    ExperimentTarget(ExperimentTarget),
    /// The producer that another command starts; it talks on stdin and stdout.
    #[command(hide = true)]
    Producer(Producer),
}

const PD_EXAMPLES: &str = "Examples:
  ropeway-bench pd                                     8,192 tokens of DeepSeek-V2-Lite, the best transport there is
  ropeway-bench pd --transport tcp --op write          the producer's blocks are written to by the consumer
  ropeway-bench pd --model Qwen3-8B --fragmentation 0  blocks in one piece
  ropeway-bench pd --peer 10.0.0.7:7100 --key-file k   the producer is `serve` on another machine
  ropeway-bench pd --transport hixl --devices 0,1      from NPU 1 to NPU 0
  ropeway-bench pd --transport hixl --direction rD2H   from an NPU into host memory";

const SERVE_EXAMPLES: &str = "Examples:
  ropeway-bench serve --listen 127.0.0.1:7100                prints a descriptor for `pd --peer`
  ropeway-bench serve --listen 10.0.0.7:7100 --key-file key  any peer that holds the same key file";

const REPLAY_EXAMPLES: &str = "Examples:
  ropeway-bench replay --trace conversation.jsonl --speedup 4
  ropeway-bench replay --trace conversation.jsonl --sample 1/20 --transport tcp
  ropeway-bench replay --trace conversation.jsonl --limit 100 --verify full";

const RUN_EXAMPLES: &str = "Examples:
  ropeway-bench run --desc list.u64 --pool 268435456 --transport shm --reps 20 --name mla-8k

FILE holds little-endian u64 triples: local offset, remote offset, bytes.";

const MODEL_EXAMPLES: &str = "Examples:
  ropeway-bench model                                      8,192 tokens of DeepSeek-V2-Lite in one piece
  ropeway-bench model --model Qwen3-32B --fragmentation 1  no block follows its neighbour
  ropeway-bench model --direction rD2H --json              into host memory

The curves are those of HIXL's own benchmark (benchmarks/performance_en.md, 2026-08-22), taken by its makers.";

const DOCTOR_NOTES: &str = "The exit code is 0 when nothing is wrong, 1 when something is, and 3 when nothing is but there is no CANN:
then everything works but the NPU transports.";

const HARDWARE_NOTES: &str = "Takes about a quarter of an hour, and two NPUs that nothing else uses. `cargo xtask hardware` runs the conformance suite
before, and keeps what it said in the same report. docs/HARDWARE.md says which questions are settled by what.";

/// Which way to move the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Transport {
    /// What the engine's probes choose.
    Auto,
    /// Both sides in one process.
    Loopback,
    /// Shared memory of two processes on one host.
    Shm,
    /// The kernel copies between two processes on one host.
    Cma,
    /// Sockets.
    Tcp,
    /// HIXL, between NPUs and hosts.
    Hixl,
    /// Exported memory and copies on streams, between NPUs of one host.
    Ipc,
    /// Communicators of two ranks, between NPUs.
    Hccl,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Loopback => "loopback",
            Self::Shm => "shm",
            Self::Cma => "cma",
            Self::Tcp => "tcp",
            Self::Hixl => "hixl",
            Self::Ipc => "ipc",
            Self::Hccl => "hccl",
        }
    }

    /// Whether it moves the memory of NPUs.
    pub(crate) const fn is_device(self) -> bool {
        matches!(self, Self::Hixl | Self::Ipc | Self::Hccl)
    }
}

/// Who moves: the consumer reads the producer's blocks, or writes to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// The initiator reads the peer's blocks.
    Read = 0,
    /// The initiator writes to the peer's blocks.
    Write = 1,
}

impl Op {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// How the engine may move bytes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Engine {
    /// Which transport; auto takes what the engine's probes choose.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub(crate) transport: Transport,
    /// Threads that copy, the waiting one included (0: as the engine's calibration chooses).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) copy_threads: u32,
    /// Data connections of a tcp peer.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) streams: u32,
    #[command(flatten)]
    pub(crate) npu: Npu,
}

/// Which NPUs, and through which CANN.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Npu {
    /// NPUs: the consumer's, then the producer's (one: both have it). Without it, none, or 0,1 for hixl, ipc and hccl.
    #[arg(long, value_name = "ID,ID", value_delimiter = ',', num_args = 1..=2)]
    pub(crate) devices: Vec<u32>,
    /// The CANN to use (a folder with lib64); by default where the engine looks (ROPEWAY_CANN_PATH first).
    #[arg(long, value_name = "DIR")]
    pub(crate) cann: Option<PathBuf>,
    /// hixl by its C functions (CANN 9.1 and later) instead of its C++ class. Both sides the same.
    #[arg(long)]
    pub(crate) c_api: bool,
}

impl Engine {
    pub(crate) fn new(transport: Transport, copy_threads: u32, streams: u32) -> Self {
        Self { transport, copy_threads, streams, npu: Npu::default() }
    }

    /// The NPU of the consumer, if it is to have one.
    pub(crate) fn device(&self) -> Option<u32> {
        self.npu.devices.first().copied().or(self.transport.is_device().then_some(0))
    }

    /// The same for the producer.
    pub(crate) fn of_producer(&self) -> Self {
        let device = self.npu.devices.last().copied().or(self.transport.is_device().then_some(1));
        let npu = Npu { devices: device.into_iter().collect(), ..self.npu.clone() };
        Self { npu, ..self.clone() }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Pd {
    /// Whose KV cache (a name from `--list-models`).
    #[arg(long, value_name = "NAME", default_value = "DeepSeek-V2-Lite")]
    pub(crate) model: String,
    /// Print the built-in model shapes and end.
    #[arg(long)]
    pub(crate) list_models: bool,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: u32,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// Which way the consumer moves the bytes.
    #[arg(long, value_enum, default_value_t = Op::Read)]
    pub(crate) op: Op,
    /// Which memory is copied where, as HIXL's benchmark names it (D device, H host, r the producer's): for hixl, ipc
    /// and hccl, which take rD2D or D2rD if it is not given.
    #[arg(long, value_name = "NAME", value_parser = direction, conflicts_with = "op")]
    pub(crate) direction: Option<ropeway_ascend::curves::Direction>,
    /// Share of the blocks that do not follow their neighbour, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub(crate) fragmentation: f64,
    /// Prompts to move, at least (rounded up to whole rounds; at least 15 rounds are taken).
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Prompts in flight at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) concurrency: u32,
    /// Draws block ids and contents.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Leave the C reference out: no `share_of_limit`.
    #[arg(long)]
    pub(crate) no_reference: bool,
    /// A running `serve`: the descriptor that it printed, or its address with --key-file or --insecure.
    #[arg(long, value_name = "DESCRIPTOR|ADDR")]
    pub(crate) peer: Option<String>,
    #[command(flatten)]
    pub(crate) auth: Auth,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Who may connect.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Auth {
    /// The cluster key that both sides hold.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) key_file: Option<PathBuf>,
    /// No secret at all: anyone who reaches the port may read and write the benchmark's memory.
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    /// Address for sessions; the benchmark's own control connection uses the next port.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: std::net::SocketAddr,
    /// The most memory that a peer may ask for, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 8_000_000_000)]
    pub(crate) pool_max: u64,
    /// Data connections of a tcp peer.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) streams: u32,
    #[command(flatten)]
    pub(crate) npu: Npu,
    /// End after this many peers (0: never).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) peers: u32,
    #[command(flatten)]
    pub(crate) auth: Auth,
}

/// How arrived blocks are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verify {
    /// 64 bytes at both ends of each part of a block: hash id, part, generation.
    Stamps,
    /// Every byte.
    Full,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Replay {
    /// Requests, one JSON object a line: timestamp (ms), input_length, output_length, hash_ids (512 tokens each).
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,
    /// Whose KV cache.
    #[arg(long, value_name = "NAME", default_value = "DeepSeek-V2-Lite")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// How much faster than in the trace requests arrive.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub(crate) speedup: f64,
    /// Bytes of the producer's block pool.
    #[arg(long, value_name = "BYTES", default_value_t = 6_000_000_000)]
    pub(crate) producer_pool: u64,
    /// Bytes of the consumer's block pool.
    #[arg(long, value_name = "BYTES", default_value_t = 6_000_000_000)]
    pub(crate) consumer_pool: u64,
    /// Requests in work at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) concurrency: u32,
    /// How arrived blocks are checked.
    #[arg(long, value_enum, default_value_t = Verify::Stamps)]
    pub(crate) verify: Verify,
    /// Only the first N requests.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Only every K-th request, as 1/K; arrival times stay.
    #[arg(long, value_name = "1/K", value_parser = sample, default_value = "1/1")]
    pub(crate) sample: usize,
    /// Leave bad lines out instead of stopping at the first.
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Limits {
    /// A tenth of the work: a first impression.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON lines instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Run {
    /// Little-endian u64 triples: local offset, remote offset, bytes.
    #[arg(long, value_name = "FILE")]
    pub(crate) desc: PathBuf,
    /// Bytes of each side's pool.
    #[arg(long, value_name = "BYTES")]
    pub(crate) pool: u64,
    /// Which way the initiator moves the bytes.
    #[arg(long, value_enum, default_value_t = Op::Read)]
    pub(crate) op: Op,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// Repetitions that count.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) reps: u32,
    /// Repetitions before them that do not.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) warmup: u32,
    /// The workload's name in the output.
    #[arg(long, value_name = "S", default_value = "unnamed")]
    pub(crate) name: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Model {
    /// Whose KV cache (a name from `pd --list-models`).
    #[arg(long, value_name = "NAME", default_value = "DeepSeek-V2-Lite")]
    pub(crate) model: String,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) tokens: u32,
    /// Share of the blocks that do not follow their neighbour, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) fragmentation: f64,
    /// Which memory is copied where, as HIXL's benchmark names it (D device, H host, r remote); rD2D is the consumer's
    /// READ, D2rD the producer's WRITE.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "rD2D,D2rD", value_parser = direction)]
    pub(crate) direction: Vec<ropeway_ascend::curves::Direction>,
    /// Draws block ids.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the table as the documents have it.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Doctor {
    /// The CANN to look at (a folder with lib64); by default where the engine would look.
    #[arg(long, value_name = "DIR")]
    pub(crate) cann: Option<PathBuf>,
    /// Leave NPUs out.
    #[arg(long, conflicts_with = "cann")]
    pub(crate) host_only: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Targets {
    /// Only this transport. hixl: what a peer that swallows connects costs the transfers to another one, on the software
    /// CANN.
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transport>,
    /// Only blocks of so many bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) block: Option<u64>,
    /// Only cases with so many copy threads (tcp: streams).
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Interleaved rounds of each case.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) npu: Npu,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Producer {
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// The process that started this one; it ends with it.
    #[arg(long)]
    pub(crate) parent: i32,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

fn direction(text: &str) -> Result<ropeway_ascend::curves::Direction, String> {
    let all = ropeway_ascend::curves::Direction::ALL;
    all.into_iter().find(|direction| direction.name() == text).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|direction| direction.name()).collect();
        format!("a direction is one of {}", names.join(", "))
    })
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a speedup is a number above 0".to_owned()),
    }
}

fn sample(text: &str) -> Result<usize, String> {
    match text.strip_prefix("1/").map(str::parse::<usize>) {
        Some(Ok(k)) if k > 0 => Ok(k),
        _ => Err("a sample is written 1/K, for example 1/20".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            "pd --fragmentation 1.1",
            "pd --tokens 0",
            "pd --key-file k --insecure",
            "replay --trace t --sample 2/3",
            "replay --trace t --sample 1/0",
            "replay --trace t --speedup 0",
            "run --desc d",
            "model --direction d2rd",
            "model --json --markdown",
        ] {
            let words = ["ropeway-bench"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
