//! What a link's thread is told: by its own side as much as the engine's limits allow, by the peer up to a bound.
//!
//! The thread may sit in a native call, or wait until hardware is quiet; meanwhile the peer's messages wait here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use super::wire::{Message, PLAN_BYTES_MAX, PLAN_PIECE};
use super::worker::Command;

/// Messages of the peer that may wait: the largest plan, and what is said about rounds besides. A plan follows the last
/// one only once that has been answered. A peer that has more waiting breaks the protocol.
pub(super) const HEARD_MAX: usize = PLAN_BYTES_MAX / PLAN_PIECE + 64;

/// What the peer has put here.
#[derive(Default)]
struct Heard {
    waiting: AtomicUsize,
    broken: AtomicBool,
}

/// Tells.
#[derive(Clone)]
pub(super) struct Teller {
    commands: Sender<Command>,
    heard: Arc<Heard>,
}

/// Is told.
pub(super) struct Told {
    commands: Receiver<Command>,
    heard: Arc<Heard>,
}

pub(super) fn mailbox() -> (Teller, Told) {
    let (sender, receiver) = unbounded();
    let heard = Arc::new(Heard::default());
    (Teller { commands: sender, heard: Arc::clone(&heard) }, Told { commands: receiver, heard })
}

impl Teller {
    /// Tells something of our own side.
    ///
    /// # Errors
    /// The command back: the thread has ended.
    pub(super) fn tell(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|error| error.0)
    }

    /// A message of the peer. After one that is too many or malformed, the link breaks, and nothing more is heard.
    pub(super) fn hear(&self, message: &[u8]) {
        if self.heard.broken.load(Ordering::SeqCst) {
            return;
        }
        let decoded = if self.heard.waiting.fetch_add(1, Ordering::SeqCst) < HEARD_MAX {
            Message::decode(message).map_err(|error| format!("malformed message: {error}"))
        } else {
            Err(format!("more than {HEARD_MAX} messages wait"))
        };
        let command = match decoded {
            Ok(message) => Command::Heard(message),
            Err(_) if self.heard.broken.swap(true, Ordering::SeqCst) => return,
            Err(why) => Command::Violated(why),
        };
        // The thread has ended: nobody listens any more.
        let _ = self.tell(command);
    }
}

impl Told {
    pub(super) fn recv(&self) -> Result<Command, RecvTimeoutError> {
        self.commands.recv().map(|command| self.taken(command)).map_err(|_| RecvTimeoutError::Disconnected)
    }

    pub(super) fn recv_timeout(&self, wait: Duration) -> Result<Command, RecvTimeoutError> {
        self.commands.recv_timeout(wait).map(|command| self.taken(command))
    }

    pub(super) fn try_recv(&self) -> Result<Command, TryRecvError> {
        self.commands.try_recv().map(|command| self.taken(command))
    }

    fn taken(&self, command: Command) -> Command {
        if let Command::Heard(_) = command {
            self.heard.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        command
    }
}
