//! Making a link: turns, root, communicator, and a probe in both directions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{LinkSink, Memory};

use super::comm::{Communicator, root};
use super::rounds::Piece;
use super::turn::Turn;
use super::wire::Message;
use super::worker::Command;
use super::{Ends, Shared};
use crate::device::Bound;
use crate::hbm::HbmMemory;

/// Bytes that the probe moves each way.
const PROBE: usize = 4_096;

/// What the set-up of one link needs.
pub(super) struct SetUp<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) ends: &'a Ends,
    pub(super) sink: &'a dyn LinkSink,
    pub(super) commands: &'a Receiver<Command>,
    pub(super) until: Instant,
    /// Commands that came meanwhile and are not about the set-up, in order.
    pub(super) later: Vec<Command>,
}

impl SetUp<'_> {
    /// A communicator that has moved bytes both ways. Blocks, also beyond its time where the library does.
    pub(super) fn run(&mut self, on: &Bound<'_>) -> Result<Communicator> {
        let physical = self.shared.offer.physical;
        let (turn, root) = if self.ends.rank == 0 {
            let turn = Turn::take(physical, self.until).ok_or_else(|| late("the NPU's turn"))?;
            let root = root(self.shared.api)?;
            self.say(Message::Root(root.clone()))?;
            match self.hear()? {
                Message::Ready => {}
                other => return Err(unexpected(&other)),
            }
            (turn, root)
        } else {
            let root = match self.hear()? {
                Message::Root(root) => root,
                other => return Err(unexpected(&other)),
            };
            let turn = Turn::take(physical, self.until).ok_or_else(|| late("the NPU's turn"))?;
            self.say(Message::Ready)?;
            (turn, root)
        };
        let shared = self.shared;
        let comm = Communicator::join(
            shared.api,
            &shared.device,
            on,
            &root,
            self.ends.rank,
            shared.transfer_timeout,
        )?;
        match self.probe(on, &comm) {
            Ok(()) => {
                drop(turn);
                Ok(comm)
            }
            Err(error) => {
                // The streams are drained or aborted; what the library still holds goes with its destroy.
                let _ = comm.destroy();
                Err(error)
            }
        }
    }

    fn probe(&mut self, on: &Bound<'_>, comm: &Communicator) -> Result<()> {
        let memory = self.shared.npu.alloc(2 * PROBE as u64)?;
        memory.write(0, &self.shared.offer.probe(PROBE))?;
        memory.fill(PROBE as u64, PROBE as u64, 0)?;
        let begin = HbmMemory::of(&memory).map_or(0, HbmMemory::begin);
        let piece = |at: usize| [Piece { address: begin + at as u64, len: PROBE as u32 }];
        // SAFETY: both pieces lie in `memory`, which is kept until the stream is idle, or leaked.
        let posted = unsafe { comm.post(&piece(0), &piece(PROBE)) };
        posted.map_err(|code| super::comm::failed(self.shared.api, code, "probe", "the first copies"))?;
        let left = self.until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        if let Err(error) = comm.stream().wait(on, left) {
            abort_and_leak(on, comm, memory);
            return Err(error);
        }
        let mut got = vec![0; PROBE];
        memory.read(PROBE as u64, &mut got)?;
        if got != self.ends.peer.probe(PROBE) {
            let message = "the probe brought other bytes than the peer sent";
            return Err(Error::new(ErrorKind::Internal, "link over HCCL", message));
        }
        self.say(Message::Up)?;
        match self.hear()? {
            Message::Up => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn say(&self, message: Message) -> Result<()> {
        self.sink.say(message.encode())
    }

    /// The peer's next message about the set-up.
    fn hear(&mut self) -> Result<Message> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(left) {
                Ok(Command::Heard(Message::Refused(why))) => {
                    return Err(Error::new(
                        ErrorKind::LinkLost,
                        "link over HCCL",
                        format!("the peer: {why}"),
                    ));
                }
                Ok(Command::Heard(message)) => return Ok(message),
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Closed, "link over HCCL", "the link was closed"));
                }
                Ok(later) => self.later.push(later),
                Err(RecvTimeoutError::Timeout) => return Err(late("the peer")),
            }
        }
    }
}

/// What the hardware may still write must not be given to others.
fn abort_and_leak(on: &Bound<'_>, comm: &Communicator, memory: Arc<Memory>) {
    if let Err(error) = comm.stream().abort(on) {
        tracing::warn!(%error, "a probe's stream could not be aborted");
    }
    std::mem::forget(memory);
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::TimedOut, "link over HCCL", format!("{what} did not come in time"))
}

fn unexpected(message: &Message) -> Error {
    let text = format!("{message:?}").chars().take(60).collect::<String>();
    Error::new(ErrorKind::Protocol, "link over HCCL", format!("the peer said {text} out of turn"))
}
