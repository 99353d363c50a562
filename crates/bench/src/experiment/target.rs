//! The other process of an experiment: owns memory, is written to, watches, or dies.

use std::io::{self, BufReader, BufWriter};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_ascend::link::Mover;
use ropeway_transport::{Memory, Role};
use serde::{Deserialize, Serialize};

use super::side::{Far, Side, region_id};
use crate::Failure;
use crate::cli::{Experiment, ExperimentTarget};
use crate::control;

/// A piece of memory of which one word is looked at in every sweep.
const STEP: u64 = 2 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Hello,
    /// Make a region, all bytes alike, and register it for the peer with this offer.
    Region {
        offer: Vec<u8>,
        bytes: u64,
        byte: u8,
    },
    /// Look for words that are not `byte` any more, from now until none has changed for `quiet_ms`.
    Watch {
        byte: u8,
        quiet_ms: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Hello { offer: Vec<u8> },
    Region { len: u64, description: Vec<u8> },
    Watched(Watched),
    Failed { reason: String },
}

/// What was seen of a destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Watched {
    /// Places that were looked at.
    pub(super) places: u64,
    /// Those that had been written when they were first looked at.
    pub(super) at_first: u64,
    /// Those written in the end.
    pub(super) at_last: u64,
    /// From the beginning to the last change that was seen.
    pub(super) last_change_ms: Option<f64>,
    /// How long one look at all places took: later changes are not told apart finer than that.
    pub(super) sweep_ms: f64,
    pub(super) watched_ms: f64,
}

/// The target, as the experiment sees it; killed when dropped.
pub(super) struct Target {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<ChildStdout>,
    pub(super) offer: Vec<u8>,
}

impl Target {
    pub(super) fn start(options: &Experiment) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("experiment-target").args(["--way", options.way.name()]);
        command.args(["--device", &options.far().to_string()]);
        if let Some(cann) = &options.npu.cann {
            command.arg("--cann").arg(cann);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = BufWriter::new(child.stdin.take().expect("the child's input is piped"));
        let from = BufReader::new(child.stdout.take().expect("the child's output is piped"));
        let mut target = Self { child, to, from, offer: Vec::new() };
        match target.ask(&Ask::Hello)? {
            Answer::Hello { offer } => target.offer = offer,
            other => return Err(format!("unexpected answer {other:?}").into()),
        }
        Ok(target)
    }

    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        control::send(&mut self.to, ask)?;
        match control::receive(&mut self.from)?.ok_or("the target has ended")? {
            Answer::Failed { reason } => Err(format!("target: {reason}").into()),
            answer => Ok(answer),
        }
    }

    pub(super) fn region(&mut self, ours: &Side, bytes: u64, byte: u8) -> Result<Far, Failure> {
        let offer = ours.native.offer().to_vec();
        match self.ask(&Ask::Region { offer, bytes, byte })? {
            Answer::Region { len, description } => Ok(Far { region: region_id(0), len, description }),
            other => Err(format!("unexpected answer {other:?}").into()),
        }
    }

    /// As a crash ends it.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Best effort: its input ends with this process, and so does it.
        let _ = self.kill();
    }
}

struct Serving {
    side: Side,
    /// The way back to the experiment, which holds what it has registered.
    movers: Vec<Box<dyn Mover>>,
    memory: Option<Arc<Memory>>,
}

pub(super) fn serve(options: &ExperimentTarget) -> Result<(), Failure> {
    let side = Side::open(options.way, options.device, options.cann.as_deref())?;
    let mut serving = Serving { side, movers: Vec::new(), memory: None };
    let (mut from, mut to) = (BufReader::new(io::stdin()), BufWriter::new(io::stdout()));
    while let Some(ask) = control::receive(&mut from)? {
        let answer = serving.answer(ask).unwrap_or_else(|error| Answer::Failed { reason: error.to_string() });
        control::send(&mut to, &answer)?;
    }
    // The kernel takes everything at once: nothing is freed piecemeal under a peer that may still write.
    std::process::exit(0)
}

impl Serving {
    fn answer(&mut self, ask: Ask) -> Result<Answer, Failure> {
        match ask {
            Ask::Hello => Ok(Answer::Hello { offer: self.side.native.offer().to_vec() }),
            Ask::Region { offer, bytes, byte } => {
                let memory = self.side.region(bytes, byte)?;
                let mut mover = self.side.mover(&offer, Role::Passive)?;
                let description = mover.register(region_id(0), &memory)?.to_vec();
                self.movers.push(mover);
                self.memory = Some(memory);
                Ok(Answer::Region { len: bytes, description })
            }
            Ask::Watch { byte, quiet_ms } => {
                let memory = self.memory.as_ref().ok_or("there is no region to watch")?;
                Ok(Answer::Watched(watch(memory, byte, Duration::from_millis(quiet_ms))?))
            }
        }
    }
}

/// Looks at one word of each step, last ones first: writes come in order, so the last are the most likely to come late.
fn watch(memory: &Memory, byte: u8, quiet: Duration) -> Result<Watched, Failure> {
    let start = Instant::now();
    let places = memory.len().div_ceil(STEP);
    let mut open: Vec<u64> = (0..places).rev().map(|place| place * STEP).collect();
    let (mut at_first, mut sweep_ms, mut last_change) = (None, 0.0, None);
    let mut quiet_since = start;
    while quiet_since.elapsed() < quiet && !open.is_empty() {
        let (sweep, before) = (Instant::now(), open.len());
        let mut failed = None;
        open.retain(|&at| match untouched(memory, at, byte) {
            Ok(untouched) => untouched,
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        if at_first.is_none() {
            at_first = Some(places - open.len() as u64);
            sweep_ms = sweep.elapsed().as_secs_f64() * 1e3;
        } else if open.len() < before {
            last_change = Some(start.elapsed().as_secs_f64() * 1e3);
        }
        if open.len() < before {
            quiet_since = Instant::now();
        }
        // A full sweep of a device's memory must not load the way that is watched.
        std::thread::sleep(Duration::from_millis(1));
    }
    let at_last = places - open.len() as u64;
    Ok(Watched {
        places,
        at_first: at_first.unwrap_or(at_last),
        at_last,
        last_change_ms: last_change,
        sweep_ms,
        watched_ms: start.elapsed().as_secs_f64() * 1e3,
    })
}

fn untouched(memory: &Memory, at: u64, byte: u8) -> ropeway::Result<bool> {
    let mut word = [0; 8];
    memory.read(at, &mut word)?;
    Ok(word == [byte; 8])
}
