//! Making a link: turns, root, communicator, and a probe in both directions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use ropeway_core::{Error, ErrorKind, Result, TransferId};
use ropeway_transport::{LinkSink, Memory};

use super::comm::{Communicator, failed, root};
use super::mailbox::Told;
use super::rounds::Piece;
use super::turn::Turn;
use super::wire::Message;
use super::worker::Command;
use super::{Ends, Shared};
use crate::device::Bound;
use crate::hbm::HbmMemory;

/// Bytes that the probe moves each way.
const PROBE: usize = 4_096;

/// What the first copies may take, at least: the library may connect its NICs for them.
const FIRST: Duration = Duration::from_secs(3);

/// What the set-up of one link needs.
pub(super) struct SetUp<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) ends: &'a Ends,
    pub(super) sink: &'a dyn LinkSink,
    pub(super) commands: &'a Told,
    pub(super) until: Instant,
    /// Commands of our own side that came meanwhile, in order: no more than the engine's limits allow.
    pub(super) later: Vec<Command>,
}

/// Why there is no link.
pub(super) struct NoLink {
    pub(super) error: Error,
    /// What the network's hardware may still write.
    pub(super) withheld: Option<Arc<Memory>>,
}

impl From<Error> for NoLink {
    fn from(error: Error) -> Self {
        Self { error, withheld: None }
    }
}

impl SetUp<'_> {
    /// A communicator that has moved bytes both ways. Blocks, also beyond its time where the library does.
    pub(super) fn run(&mut self, on: &Bound<'_>) -> Result<Communicator, NoLink> {
        let physical = self.shared.offer.physical;
        let memory = self.shared.npu.alloc(2 * PROBE as u64)?;
        let (turn, root) = if self.ends.rank == 0 {
            let turn = Turn::take(physical, self.until).ok_or_else(|| late("the NPU's turn"))?;
            let root = root(self.shared.api)?;
            self.say(Message::Root(root.clone()))?;
            match self.hear()? {
                Message::Ready => {}
                other => return Err(unexpected(&other).into()),
            }
            (turn, root)
        } else {
            let root = match self.hear()? {
                Message::Root(root) => root,
                other => return Err(unexpected(&other).into()),
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
        let (error, in_doubt) = match self.probe(on, &comm, &memory) {
            Ok(()) => {
                drop(turn);
                return Ok(comm);
            }
            Err(Probe::Ended(error)) => (error, false),
            Err(Probe::InDoubt(error)) => (error, true),
        };
        if in_doubt && let Err(leaked) = stop(on, &comm, self.shared.hold) {
            tracing::error!(error = %leaked, "fatal: a stream of HCCL hangs and cannot be aborted; restart the process");
            std::mem::forget((memory, comm));
            return Err(error.into());
        }
        // The stream has ended; what the library still holds goes with its destroy.
        if let Err(error) = comm.destroy() {
            tracing::warn!(%error, "a communicator is leaked");
        }
        Err(NoLink { error, withheld: in_doubt.then_some(memory) })
    }

    fn probe(&mut self, on: &Bound<'_>, comm: &Communicator, memory: &Arc<Memory>) -> Result<(), Probe> {
        memory.write(0, &self.shared.offer.probe(PROBE))?;
        memory.fill(PROBE as u64, PROBE as u64, 0)?;
        let begin = HbmMemory::of(memory).map_or(0, HbmMemory::begin);
        let piece = |at: usize| [Piece { address: begin + at as u64, len: PROBE as u32 }];
        // SAFETY: both pieces lie in `memory`, which the caller keeps until the stream was seen idle. After a post that
        // failed (part of the list may have been taken) or a wait that did, it has the stream aborted first, or leaks it.
        let posted = unsafe { comm.post(&piece(0), &piece(PROBE)) };
        posted.map_err(|code| {
            Probe::InDoubt(failed(self.shared.api, code, "probe", "the first copies could not be posted"))
        })?;
        // A hang must not keep the NPU's turn from others for the whole time that the engine gives a link.
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.min(self.shared.transfer_timeout.max(FIRST)).max(Duration::from_secs(1));
        comm.stream().wait(on, left).map_err(Probe::InDoubt)?;
        let mut got = vec![0; PROBE];
        memory.read(PROBE as u64, &mut got)?;
        if got != self.ends.peer.probe(PROBE) {
            let message = "the probe brought other bytes than the peer sent";
            return Err(Error::new(ErrorKind::Internal, "link over HCCL", message).into());
        }
        self.say(Message::Up)?;
        match self.hear()? {
            Message::Up => Ok(()),
            other => Err(unexpected(&other).into()),
        }
    }

    /// Counts once, and only for a batch that waits here.
    fn cancel(&mut self, id: TransferId) {
        let starts = |later: &Command| matches!(later, Command::Start(ours) if ours.id == id);
        let cancels = |later: &Command| matches!(later, Command::Cancel(known) if *known == id);
        if self.later.iter().any(starts) && !self.later.iter().any(cancels) {
            self.later.push(Command::Cancel(id));
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
                Ok(Command::Violated(why)) => {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        "link over HCCL",
                        format!("the peer's side: {why}"),
                    ));
                }
                Ok(Command::Cancel(id)) => self.cancel(id),
                Ok(Command::Start(ours)) => self.later.push(Command::Start(ours)),
                Err(RecvTimeoutError::Timeout) => return Err(late("the peer")),
            }
        }
    }
}

/// How a probe failed.
enum Probe {
    /// None of its copies is under way.
    Ended(Error),
    /// Copies may be under way.
    InDoubt(Error),
}

impl From<Error> for Probe {
    fn from(error: Error) -> Self {
        Self::Ended(error)
    }
}

/// Ends what is on the stream, or gives why it may go on.
fn stop(on: &Bound<'_>, comm: &Communicator, patience: Duration) -> Result<()> {
    comm.stream().abort(on)?;
    if comm.is_quiet(on, patience) { Ok(()) } else { Err(late("the end of an aborted stream")) }
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::TimedOut, "link over HCCL", format!("{what} did not come in time"))
}

fn unexpected(message: &Message) -> Error {
    let text = format!("{message:?}").chars().take(60).collect::<String>();
    Error::new(ErrorKind::Protocol, "link over HCCL", format!("the peer said {text} out of turn"))
}
