//! Making a link: turns, root, communicator, and a probe in both directions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use ropeway_core::{Error, ErrorKind, Result, TransferId};
use ropeway_transport::{LinkSink, Memory};

use super::comm::{ABORT, Communicator, DESTROY, failed, root};
use super::hand::{Hand, Hung};
use super::mailbox::Told;
use super::rounds::Piece;
use super::turn::Turn;
use super::wire::{Message, ROOT_BYTES};
use super::worker::Command;
use super::{Ends, Shared};
use crate::device::Bound;
use crate::hbm::HbmMemory;
use crate::stream::Stream;

/// What HCCL's functions are called in errors.
const ROOT: &str = "HcclGetRootInfo";
const JOIN: &str = "HcclCommInitRootInfoConfig";
pub(super) const POST: &str = "HcclBatchSendRecv";
const END: &str = "HcclCommDestroy";

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
    pub(super) hand: &'a Hand,
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
    /// A communicator that has moved bytes both ways. Blocks until its time is over, and a moment more.
    pub(super) fn run(&mut self) -> Result<Arc<Communicator>, NoLink> {
        let memory = self.shared.npu.alloc(2 * PROBE as u64)?;
        // Before the peer is in the library, where nothing calls it back for minutes.
        let stream = self.stream()?;
        let (turn, root) = self.meet()?;
        let (comm, turn) = self.join(stream, turn, root)?;
        let (error, in_doubt) = match self.probe(&comm, &memory) {
            Ok(()) => {
                drop(turn);
                return Ok(comm);
            }
            Err(Probe::Ended(error)) => (error, false),
            Err(Probe::InDoubt(error)) => (error, true),
        };
        if in_doubt && let Err(leaked) = self.stop(&comm) {
            tracing::error!(error = %leaked, "fatal: a stream of HCCL hangs and cannot be aborted; restart the process");
            std::mem::forget((memory, comm));
            return Err(error.into());
        }
        // The stream has ended; what the library still holds goes with its destroy.
        if !destroy(self.hand, &comm, self.shared) && in_doubt {
            std::mem::forget(memory);
            return Err(error.into());
        }
        Err(NoLink { error, withheld: in_doubt.then_some(memory) })
    }

    fn stream(&self) -> Result<Stream> {
        let device = Arc::clone(&self.shared.device);
        let made = move |on: &Bound<'_>| Stream::create(&device, on);
        let made = self.hand.call("the making of a stream", self.until, made, |_, _| ());
        made.map_err(Hung::in_set_up)?
    }

    /// The NPU's turn on both sides, and the communicator's root.
    fn meet(&mut self) -> Result<(Turn, Box<[u8; ROOT_BYTES]>)> {
        let physical = self.shared.offer.physical;
        let turn = |until| {
            Turn::take(physical, until).ok_or_else(|| late("the NPU's turn, which another link has,"))
        };
        if self.ends.rank == 0 {
            let (turn, api) = (turn(self.until)?, self.shared.api);
            // The turn goes with the call: who hangs in it has it for as long.
            let made = self.hand.call(ROOT, self.until, move |_| (root(api), turn), |_, _| ());
            let (root, turn) = made.map_err(Hung::in_set_up)?;
            let root = root?;
            self.say(Message::Root(root.clone()))?;
            match self.hear()? {
                Message::Ready => Ok((turn, root)),
                other => Err(unexpected(&other)),
            }
        } else {
            let root = match self.hear()? {
                Message::Root(root) => root,
                other => return Err(unexpected(&other)),
            };
            let turn = turn(self.until)?;
            self.say(Message::Ready)?;
            Ok((turn, root))
        }
    }

    fn join(
        &self,
        stream: Stream,
        turn: Turn,
        root: Box<[u8; ROOT_BYTES]>,
    ) -> Result<(Arc<Communicator>, Turn)> {
        let (shared, rank) = (Arc::clone(self.shared), self.ends.rank);
        let join = move |_: &Bound<'_>| {
            let exec = shared.transfer_timeout;
            (Communicator::join(shared.api, stream, &root, rank, exec), turn)
        };
        let late = |_: &Bound<'_>, (comm, _turn): (Result<Communicator>, Turn)| {
            // Nothing was ever posted on it.
            if let Err(error) = comm.and_then(|comm| comm.destroy()) {
                tracing::warn!(%error, "a communicator that came too late");
            }
        };
        let (comm, turn) = self.hand.call(JOIN, self.until, join, late).map_err(Hung::in_set_up)?;
        Ok((Arc::new(comm?), turn))
    }

    fn probe(&mut self, comm: &Arc<Communicator>, memory: &Arc<Memory>) -> Result<(), Probe> {
        memory.write(0, &self.shared.offer.probe(PROBE))?;
        memory.fill(PROBE as u64, PROBE as u64, 0)?;
        let begin = HbmMemory::of(memory).map_or(0, HbmMemory::begin);
        let piece = move |at: usize| [Piece { address: begin + at as u64, len: PROBE as u32 }];
        // A hang must not keep the NPU's turn from others for the whole time that the engine gives a link.
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.min(self.shared.transfer_timeout.max(FIRST)).max(Duration::from_secs(1));
        let called = Arc::clone(comm);
        // SAFETY: both pieces lie in `memory`, which the caller keeps until the stream was seen idle. After a post that
        // failed (part of the list may have been taken), a wait that did, or a call that hangs, it has the stream aborted
        // first, or leaks both.
        let post = move |_: &Bound<'_>| unsafe { called.post(&piece(0), &piece(PROBE)) };
        let posted = self.hand.call(POST, Instant::now() + left, post, |_, _| ()).map_err(in_doubt)?;
        posted.map_err(|code| {
            Probe::InDoubt(failed(self.shared.api, code, "probe", "the first copies could not be posted"))
        })?;
        let called = Arc::clone(comm);
        let wait = move |on: &Bound<'_>| called.stream().wait(on, left);
        let waited = self.hand.call("a wait for a stream", Instant::now() + left + ABORT, wait, |_, _| ());
        waited.map_err(in_doubt)?.map_err(Probe::InDoubt)?;
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

    /// Ends what is on the stream, or gives why it may go on.
    fn stop(&self, comm: &Arc<Communicator>) -> Result<()> {
        let (called, patience) = (Arc::clone(comm), self.shared.hold);
        let stop = move |on: &Bound<'_>| {
            called.stream().abort(on)?;
            if called.is_quiet(on, patience) { Ok(()) } else { Err(late("the end of an aborted stream")) }
        };
        let until = Instant::now() + patience.max(ABORT) + ABORT;
        self.hand
            .call("a stream's abort", until, stop, |_, _| ())
            .map_err(|hung| hung.error("link over HCCL"))?
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

fn in_doubt(hung: Hung) -> Probe {
    Probe::InDoubt(hung.error("probe"))
}

/// Ends a communicator; false when that is not over, and never will be.
pub(super) fn destroy(hand: &Hand, comm: &Arc<Communicator>, shared: &Shared) -> bool {
    let called = Arc::clone(comm);
    let until = Instant::now() + DESTROY + shared.transfer_timeout;
    match hand.call(END, until, move |_| called.destroy(), |_, _| ()) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a communicator is leaked");
            true
        }
        // The library still uses it, and its stream.
        Err(_hung) => {
            std::mem::forget(Arc::clone(comm));
            false
        }
    }
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::TimedOut, "link over HCCL", format!("{what} did not come in time"))
}

fn unexpected(message: &Message) -> Error {
    let text = format!("{message:?}").chars().take(60).collect::<String>();
    Error::new(ErrorKind::Protocol, "link over HCCL", format!("the peer said {text} out of turn"))
}
