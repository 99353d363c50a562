//! What the engine's other threads may ask of the host thread, and the thread's life.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{Error, ErrorKind, RegionId, Result};
use rustix::event::EventfdFlags;

use super::greeting::{Guard, Meeting};
use super::message::Message;
use super::peers::Peers;
use super::process::Process;
use super::socket;
use crate::fence::Fence;
use crate::janitor::Janitor;
use crate::onesided::{Answer, LinkCore, OneSidedConfig, Path};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, lock};

/// One per engine.
pub(crate) struct Host {
    /// `None` once the thread has ended: a command that nobody obeys would keep its link, and that this, for ever.
    commands: Mutex<Option<Vec<Command>>>,
    wake: OwnedFd,
    listener: Mutex<Option<OwnedFd>>,
    started: Mutex<bool>,
    fence: Arc<Fence>,
    guard: Option<Guard>,
    wires: AtomicU64,
    pub(super) janitor: Janitor,
    pub(super) handshakes_max: usize,
    pub(super) queue_max: usize,
}

/// What the thread is asked to do.
pub(super) enum Command {
    /// A passive side waits for its peer.
    Expect(Meeting),
    /// An active side has met its peer.
    Adopt {
        link: Arc<LinkCore>,
        wire: Arc<Wire>,
        socket: OwnedFd,
        process: Arc<Process>,
    },
    /// A passive loopback side gives up at this moment.
    Expire(Arc<LinkCore>, Instant),
    /// A proof is missing: look for it again and again.
    Watch(Arc<LinkCore>),
    /// A neighbour has let go of a region of ours.
    Returned(Arc<LinkCore>, RegionId),
    /// The other side ended the link.
    Lose(Arc<LinkCore>, Error),
    Send(u64, Message),
    Stop,
}

/// A connection of a link, as other threads name it, and the answers that they wait for on it.
pub(crate) struct Wire {
    pub(super) id: u64,
    waiting: Mutex<Waiting>,
    answered: Condvar,
}

#[derive(Default)]
struct Waiting {
    next: u32,
    answers: HashMap<u32, (RegionId, Option<Result<Answer>>)>,
    /// Asked for, and no longer waited for: an answer has to be let go of.
    given_up: HashMap<u32, RegionId>,
    ended: bool,
}

impl Host {
    pub(crate) fn open(config: &OneSidedConfig, nonce: [u8; 16], fence: &Arc<Fence>) -> Result<Arc<Self>> {
        let failed = |what: &str, errno: rustix::io::Errno| Error::os("open", what, errno.into());
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd", errno))?;
        let (listener, guard) = if config.same_host {
            let listener = socket::listen(&nonce).map_err(|errno| failed("the host socket", errno))?;
            let mut word = [0; 8];
            crate::onesided::random(&mut word)?;
            (Some(listener), Some(Guard::new(u64::from_le_bytes(word))?))
        } else {
            (None, None)
        };
        Ok(Arc::new(Self {
            commands: Mutex::new(Some(Vec::new())),
            wake,
            listener: Mutex::new(listener),
            started: Mutex::new(false),
            fence: Arc::clone(fence),
            guard,
            wires: AtomicU64::new(1),
            janitor: config.janitor.clone(),
            handshakes_max: config.limits.handshakes() as usize,
            queue_max: config.limits.regions() as usize * 2 + 64,
        }))
    }

    /// Starts the thread, once.
    pub(crate) fn start(self: &Arc<Self>) -> Result<()> {
        let mut started = lock(&self.started);
        if *started {
            return Ok(());
        }
        let listener = lock(&self.listener).take();
        let peers = Peers::new(Arc::clone(self), listener)?;
        std::thread::Builder::new()
            .name("ropeway-host".into())
            .spawn(move || peers.run())
            .map_err(|error| Error::os("link", "starting the host thread", error))?;
        *started = true;
        Ok(())
    }

    /// The thread ends once its links have.
    pub(crate) fn stop(&self) {
        // Nobody comes any more, also when the thread never ran.
        drop(lock(&self.listener).take());
        self.tell(Command::Stop);
    }

    pub(crate) fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    pub(super) fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    pub(crate) fn janitor(&self) -> &Janitor {
        &self.janitor
    }

    pub(crate) fn expect(&self, meeting: Meeting) {
        self.tell(Command::Expect(meeting));
    }

    pub(crate) fn expire(&self, link: Arc<LinkCore>, deadline: Instant) {
        self.tell(Command::Expire(link, deadline));
    }

    pub(crate) fn adopt(&self, link: Arc<LinkCore>, wire: Arc<Wire>, socket: OwnedFd, process: Arc<Process>) {
        self.tell(Command::Adopt { link, wire, socket, process });
    }

    pub(crate) fn watch(&self, link: Arc<LinkCore>) {
        self.tell(Command::Watch(link));
    }

    pub(crate) fn returned(&self, link: Arc<LinkCore>, region: RegionId) {
        self.tell(Command::Returned(link, region));
    }

    pub(crate) fn withdraw(&self, wire: &Wire, region: RegionId) {
        self.tell(Command::Send(wire.id, Message::Withdraw { region }));
    }

    pub(crate) fn release(&self, wire: &Wire, region: RegionId) {
        self.tell(Command::Send(wire.id, Message::Released { region }));
    }

    /// Tells the other side that the link ends.
    pub(crate) fn goodbye(&self, link: &LinkCore) {
        match link.far().map(|far| &far.path) {
            Some(Path::Neighbour(neighbour)) => {
                if let Some(neighbour) = neighbour.upgrade() {
                    let error = Error::new(ErrorKind::LinkLost, "link", "the peer closed the link");
                    neighbour.host().lose(Arc::clone(&neighbour), error);
                }
            }
            Some(Path::Socket { wire, .. }) => {
                wire.end();
                self.tell(Command::Send(wire.id, Message::Goodbye));
            }
            None => {}
        }
    }

    fn lose(&self, link: Arc<LinkCore>, error: Error) {
        self.tell(Command::Lose(link, error));
    }

    pub(crate) fn new_wire(&self) -> Arc<Wire> {
        self.wire(self.wires.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn wire(&self, id: u64) -> Arc<Wire> {
        Arc::new(Wire { id, waiting: Mutex::new(Waiting::default()), answered: Condvar::new() })
    }

    /// Asks the peer for a region and waits for the answer.
    pub(crate) fn import(&self, wire: &Wire, region: RegionId, deadline: Instant) -> Result<Answer> {
        let request = {
            let mut waiting = lock(&wire.waiting);
            if waiting.ended {
                return Err(ended());
            }
            waiting.next = waiting.next.wrapping_add(1);
            let request = waiting.next;
            waiting.answers.insert(request, (region, None));
            request
        };
        self.tell(Command::Send(wire.id, Message::Import { request, region }));
        wire.wait(request, region, deadline)
    }

    fn tell(&self, command: Command) {
        match &mut *lock(&self.commands) {
            Some(commands) => commands.push(command),
            None => return,
        }
        self.ring();
    }

    fn ring(&self) {
        // Full means that it rings already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn take_commands(&self) -> Vec<Command> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        lock(&self.commands).as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The thread ends, unless there is something to obey.
    pub(super) fn end(&self) -> bool {
        let mut commands = lock(&self.commands);
        let end = commands.as_ref().is_none_or(Vec::is_empty);
        if end {
            *commands = None;
        }
        end
    }
}

impl Wire {
    /// Hands an answer to who waits for it. Gives the region when nobody does any more and it has to be let go of.
    pub(super) fn answer(&self, request: u32, answer: Result<Answer>) -> Option<RegionId> {
        let mut waiting = lock(&self.waiting);
        if let Some((_, place)) = waiting.answers.get_mut(&request) {
            *place = Some(answer);
            drop(waiting);
            self.answered.notify_all();
            return None;
        }
        waiting.given_up.remove(&request).filter(|_| answer.is_ok())
    }

    /// No answer will come any more.
    pub(super) fn end(&self) {
        lock(&self.waiting).ended = true;
        self.answered.notify_all();
    }

    fn wait(&self, request: u32, region: RegionId, deadline: Instant) -> Result<Answer> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(answer) = waiting.answers.get_mut(&request).and_then(|(_, answer)| answer.take()) {
                waiting.answers.remove(&request);
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting.ended || left.is_zero() {
                waiting.answers.remove(&request);
                return Err(if waiting.ended {
                    ended()
                } else {
                    waiting.given_up.insert(request, region);
                    let why = format!("the peer did not answer for region {region} before the deadline");
                    Error::new(ErrorKind::TimedOut, "import", why)
                });
            }
            waiting =
                self.answered.wait_timeout(waiting, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::LinkLost, "import", "the link ended")
}
