//! The host thread: connections, handshakes of the passive side, messages, and the search for proofs.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind, Result};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::greeting::{Meeting, Nonces, broken};
use super::host::{Command, Host, Wire};
use super::message::{Facts, Message, Probe, code_kind, kind_code as error_code};
use super::process::Process;
use super::socket::{self, Received};
use crate::onesided::{Answer, LinkCore};

const WAKE: u64 = 0;
const LISTENER: u64 = 1;
/// First pause between two looks for a proof, and the longest.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);
/// How long a stranger may take to greet.
const GREETING: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };
/// How long after the end of a connection its process may take to be seen dead.
const DEATH: Duration = Duration::from_millis(20);
/// How long the listener rests when a peer cannot be accepted.
const REST: Duration = Duration::from_millis(100);
/// The longest sleep: a longer one does not fit the milliseconds that older kernels take.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Messages taken of one connection before others have their turn.
const TURN: usize = 64;

pub(super) struct Peers {
    host: Arc<Host>,
    epoll: OwnedFd,
    listener: Option<OwnedFd>,
    conns: HashMap<u64, Conn>,
    expected: Vec<Meeting>,
    expiring: Vec<(Arc<LinkCore>, Instant)>,
    watched: Vec<Arc<LinkCore>>,
    look: Duration,
    /// The listener is not watched until then.
    rest_until: Option<Instant>,
    stopping: bool,
}

struct Conn {
    socket: OwnedFd,
    process: Arc<Process>,
    stage: Stage,
    out: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// When this stage has to be over.
    deadline: Option<Instant>,
    ended: bool,
}

enum Stage {
    /// Nothing came yet.
    Silent,
    /// Said which link it wants; our side of it has not come yet.
    Early {
        tag: [u8; 16],
        nonce: [u8; 32],
    },
    /// Has our challenge.
    Challenged {
        meeting: Meeting,
        nonces: Nonces,
    },
    Linked {
        link: Arc<LinkCore>,
        wire: Arc<Wire>,
    },
}

impl Peers {
    pub(super) fn new(host: Arc<Host>, listener: Option<OwnedFd>) -> Result<Self> {
        let failed = |errno: Errno| Error::os("link", "epoll", errno.into());
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&epoll, host.wake(), EventData::new_u64(WAKE), EventFlags::IN).map_err(failed)?;
        if let Some(listener) = &listener {
            epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN).map_err(failed)?;
        }
        Ok(Self {
            host,
            epoll,
            listener,
            conns: HashMap::new(),
            expected: Vec::new(),
            expiring: Vec::new(),
            watched: Vec::new(),
            look: LOOK_FIRST,
            rest_until: None,
            stopping: false,
        })
    }

    pub(super) fn run(mut self) {
        while !(self.stopping && self.conns.is_empty() && self.watched.is_empty() && self.host.end()) {
            let timeout = self.timeout();
            let mut events = [const { MaybeUninit::<Event>::uninit() }; 32];
            let ready: Vec<(u64, EventFlags)> = match epoll::wait(&self.epoll, &mut events, timeout.as_ref())
            {
                Ok((ready, _)) => ready.iter().map(|event| (event.data.u64(), event.flags)).collect(),
                Err(Errno::INTR) => Vec::new(),
                Err(errno) => {
                    tracing::error!(%errno, "the host thread's epoll failed; same-host links cannot be served");
                    return;
                }
            };
            // The sinks are the engine's code: a panic there must not take every link along.
            let turn = catch_unwind(AssertUnwindSafe(|| {
                for command in self.host.take_commands() {
                    self.obey(command);
                }
                for (token, flags) in ready {
                    self.serve(token, flags);
                }
                self.keep_time();
            }));
            if turn.is_err() {
                tracing::error!("a panic on the host thread; it goes on");
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let deadlines = self.conns.values().filter_map(|conn| conn.deadline);
        let expected = self.expected.iter().map(|meeting| meeting.deadline);
        let expiring = self.expiring.iter().map(|(_, deadline)| *deadline);
        let next = deadlines
            .chain(expected)
            .chain(expiring)
            .chain(self.rest_until)
            .min()
            .map(|at| at.saturating_duration_since(now));
        let look = (!self.watched.is_empty()).then_some(self.look);
        let wait = match (next, look) {
            (Some(next), Some(look)) => next.min(look),
            (next, look) => next.or(look)?,
        };
        let wait = wait.min(SLEEP_MAX);
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() })
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Expect(meeting) => self.expect(meeting),
            Command::Adopt { link, wire, socket, process } => {
                let conn = Conn {
                    socket,
                    process,
                    stage: Stage::Linked { link, wire: Arc::clone(&wire) },
                    out: VecDeque::new(),
                    deadline: None,
                    ended: false,
                };
                self.insert(wire.id, conn);
            }
            Command::Expire(link, deadline) => self.expiring.push((link, deadline)),
            Command::Watch(link) => {
                self.look = LOOK_FIRST;
                if !self.watched.iter().any(|watched| Arc::ptr_eq(watched, &link)) {
                    self.watched.push(link);
                }
                self.look_for_proofs();
            }
            Command::Returned(link, region) => link.returned(region),
            Command::Lose(link, error) => link.lose(error),
            Command::Send(id, message) => self.send(id, &message, None),
            Command::Stop => {
                self.stopping = true;
                self.expected.clear();
                self.expiring.clear();
                if let Some(listener) = self.listener.take() {
                    let _ = epoll::delete(&self.epoll, &listener);
                }
                let links = self.conns.values().filter_map(Conn::link).cloned();
                for link in links.collect::<Vec<_>>() {
                    link.end(ropeway_core::StatusKind::Closed);
                }
                self.conns.retain(|_, conn| conn.link().is_some());
            }
        }
    }

    fn insert(&mut self, id: u64, conn: Conn) {
        let added = epoll::add(&self.epoll, &conn.socket, EventData::new_u64(id << 1), EventFlags::IN)
            .and_then(|()| {
                epoll::add(&self.epoll, conn.process.pidfd(), EventData::new_u64(id << 1 | 1), EventFlags::IN)
            });
        self.conns.insert(id, conn);
        if let Err(errno) = added {
            self.drop_conn(id, Error::os("link", "epoll", errno.into()));
        }
    }

    fn serve(&mut self, token: u64, flags: EventFlags) {
        match token {
            WAKE => {}
            LISTENER => self.accept(),
            _ if token & 1 == 1 => self.died(token >> 1),
            _ => {
                if flags.contains(EventFlags::OUT) {
                    self.flush(token >> 1);
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.receive(token >> 1);
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..TURN {
            let Some(listener) = &self.listener else { return };
            let socket = match socket::accept(listener.as_fd()) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => {
                    tracing::warn!(%errno, "accepting a peer on the host socket");
                    // Out of descriptors, the peer stays in the backlog and epoll would tell of it again at once. The
                    // links must not wait for that.
                    let _ = epoll::delete(&self.epoll, listener);
                    self.rest_until = Some(Instant::now() + REST);
                    return;
                }
            };
            let greeting = self.conns.values().filter(|conn| conn.link().is_none()).count();
            let refuse = |reason: &str| {
                let message = Message::Refused { reason: reason.into() };
                let _ = socket::send(socket.as_fd(), &message.encode(), &[]);
            };
            if greeting >= self.host.handshakes_max {
                refuse("as many handshakes are going on as the limit `handshakes` allows; try again");
                continue;
            }
            let process = match Process::of(socket.as_fd()) {
                Ok(process) => Arc::new(process),
                Err(error) => {
                    refuse(error.message());
                    continue;
                }
            };
            let id = self.host.new_wire().id;
            let deadline = Some(Instant::now() + GREETING);
            let conn =
                Conn { socket, process, stage: Stage::Silent, out: VecDeque::new(), deadline, ended: false };
            self.insert(id, conn);
        }
    }

    fn receive(&mut self, id: u64) {
        for _ in 0..TURN {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            if conn.ended {
                return;
            }
            match socket::receive(conn.socket.as_fd()) {
                Received::Message { bytes, fds } => match Message::decode(&bytes) {
                    Some(message) => {
                        if let Err(error) = self.take(id, message, fds) {
                            self.drop_conn(id, error);
                            return;
                        }
                    }
                    None => return self.drop_conn(id, broken("the peer sent garbage on the host socket")),
                },
                Received::Nothing => return,
                Received::End => return self.hung_up(id),
                Received::Oversized => {
                    return self.drop_conn(id, broken("the peer sent an oversized message"));
                }
                Received::Failed(errno) => {
                    return self.drop_conn(id, Error::os("link", "the host socket", errno.into()));
                }
            }
        }
    }

    fn take(&mut self, id: u64, message: Message, fds: Vec<OwnedFd>) -> Result<()> {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        if let Stage::Linked { link, wire } = &conn.stage {
            let (link, wire) = (Arc::clone(link), Arc::clone(wire));
            return self.take_linked(id, &link, &wire, message, fds);
        }
        match (std::mem::replace(&mut conn.stage, Stage::Silent), message) {
            (Stage::Silent, Message::Hello { tag, nonce, .. }) => {
                match self.expected.iter().position(|meeting| meeting.tag == tag) {
                    Some(index) => {
                        let meeting = self.expected.swap_remove(index);
                        self.challenge(id, meeting, nonce)
                    }
                    None => {
                        conn.stage = Stage::Early { tag, nonce };
                        Ok(())
                    }
                }
            }
            (Stage::Challenged { meeting, nonces }, Message::Proof { facts, probe, mac }) => {
                let result = self.prove(id, &meeting, &nonces, (&facts, &probe, &mac), fds);
                if result.is_err() {
                    // The true peer may still come.
                    self.expected.push(meeting);
                }
                result
            }
            (Stage::Challenged { meeting, .. }, Message::Refused { reason }) => {
                let why = format!("the peer refused the link: {reason}");
                meeting.link.lose(Error::new(ErrorKind::Unsupported, "link", why.clone()));
                Err(Error::new(ErrorKind::Unsupported, "link", why))
            }
            (Stage::Challenged { meeting, .. }, _) => {
                self.expected.push(meeting);
                Err(broken("the peer's greeting is out of turn"))
            }
            _ => Err(broken("the peer's greeting is out of turn")),
        }
    }

    fn expect(&mut self, meeting: Meeting) {
        let early = self.conns.iter().find_map(|(id, conn)| match conn.stage {
            Stage::Early { tag, nonce } if tag == meeting.tag => Some((*id, nonce)),
            _ => None,
        });
        match early {
            Some((id, nonce)) => {
                if let Err(error) = self.challenge(id, meeting, nonce) {
                    self.drop_conn(id, error);
                }
            }
            None => self.expected.push(meeting),
        }
    }

    fn challenge(&mut self, id: u64, meeting: Meeting, active: [u8; 32]) -> Result<()> {
        let mut passive = [0; 32];
        crate::onesided::random(&mut passive)?;
        let nonces = Nonces { active, passive };
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let message = meeting.challenge(&self.host, &nonces);
        let sent = socket::send(conn.socket.as_fd(), &message.encode(), &meeting.fds(&self.host)?);
        conn.deadline = Some(meeting.deadline.min(Instant::now() + GREETING));
        conn.stage = Stage::Challenged { meeting, nonces };
        sent.map_err(|errno| Error::os("link", "greeting the peer", errno.into()))
    }

    fn prove(
        &mut self,
        id: u64,
        meeting: &Meeting,
        nonces: &Nonces,
        (facts, probe, mac): (&Facts, &Probe, &[u8; 32]),
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        meeting.check_proof(nonces, facts, probe, mac)?;
        meeting.check_probe(&self.host, probe)?;
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let met = meeting.meet(&conn.process, facts, fds).inspect_err(|error| {
            // Our own way to the peer does not work: that will not mend itself.
            meeting.link.lose(error.clone());
        })?;
        let ready = meeting.ready(nonces, met.probe);
        let wire = self.host.wire(id);
        if !meeting.link.attach(met.far(Arc::clone(&wire), Arc::clone(&conn.process))) {
            return Err(Error::new(ErrorKind::Closed, "link", "the link was closed while it was made"));
        }
        conn.stage = Stage::Linked { link: Arc::clone(&meeting.link), wire };
        conn.deadline = None;
        tracing::debug!(kind = meeting.link.kind().name(), peer = %meeting.link.peer(), "link open");
        // Told first: when the message cannot be sent, the link is lost, and only an attached one may be.
        meeting.link.sink().attached();
        self.send(id, &ready, None);
        Ok(())
    }

    fn take_linked(
        &mut self,
        id: u64,
        link: &Arc<LinkCore>,
        wire: &Wire,
        message: Message,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        match message {
            Message::Import { request, region } => {
                let (message, fd) = match link.answer(region) {
                    Ok((answer, fd)) => {
                        let Answer { len, address, writable, .. } = answer;
                        (Message::Imported { request, len, address, writable }, fd)
                    }
                    Err(error) => {
                        let (kind, reason) = (error_code(error.kind()), error.message().to_owned());
                        (Message::Denied { request, kind, reason }, None)
                    }
                };
                self.send(id, &message, fd);
            }
            Message::Imported { request, len, address, writable } => {
                let answer = Answer { len, address, writable, memfd: fds.into_iter().next() };
                if let Some(region) = wire.answer(request, Ok(answer)) {
                    self.send(id, &Message::Released { region }, None);
                }
            }
            Message::Denied { request, kind, reason } => {
                wire.answer(request, Err(Error::new(code_kind(kind), "import", reason)));
            }
            Message::Withdraw { region } => link.withdrawn_by_owner(region),
            Message::Released { region } => link.returned(region),
            Message::Goodbye => {
                wire.end();
                link.lose(Error::new(ErrorKind::LinkLost, "link", "the peer closed the link"));
            }
            Message::Refused { reason } => {
                wire.end();
                link.lose(Error::new(
                    ErrorKind::LinkLost,
                    "link",
                    format!("the peer gave the link up: {reason}"),
                ));
            }
            _ => return Err(broken("the peer sent a message out of turn")),
        }
        Ok(())
    }

    fn send(&mut self, id: u64, message: &Message, fd: Option<OwnedFd>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.ended {
            return;
        }
        if conn.out.len() >= self.host.queue_max {
            return self.drop_conn(
                id,
                Error::new(ErrorKind::LinkLost, "link", "the peer does not read its messages"),
            );
        }
        conn.out.push_back((message.encode(), fd));
        self.flush(id);
    }

    fn flush(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let result = conn.flush();
        let flags = if conn.out.is_empty() { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
        let modified = epoll::modify(&self.epoll, &conn.socket, EventData::new_u64(id << 1), flags);
        match result.and(modified) {
            // The end is seen, and told apart from death, where messages are received.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET | Errno::NOENT) => {}
            Err(errno) => self.drop_conn(id, Error::os("link", "the host socket", errno.into())),
        }
    }

    /// The other end is closed: perhaps its process is dying, which is told better than a lost link.
    fn hung_up(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let _ = epoll::delete(&self.epoll, &conn.socket);
        match &conn.stage {
            Stage::Linked { wire, .. } => {
                wire.end();
                conn.ended = true;
                conn.out.clear();
                conn.deadline = Some(Instant::now() + DEATH);
            }
            _ => self
                .drop_conn(id, Error::new(ErrorKind::LinkLost, "link", "the peer hung up in the handshake")),
        }
    }

    fn died(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.process.is_gone() {
            return;
        }
        let error =
            Error::new(ErrorKind::PeerGone, "link", format!("process {} is dead", conn.process.pid()));
        match conn.link().cloned() {
            Some(link) => {
                let _ = epoll::delete(&self.epoll, conn.process.pidfd());
                let _ = epoll::delete(&self.epoll, &conn.socket);
                if let Stage::Linked { wire, .. } = &conn.stage {
                    wire.end();
                }
                conn.ended = true;
                conn.deadline = None;
                link.lose(error);
                self.obey(Command::Watch(link));
            }
            None => self.drop_conn(id, error),
        }
    }

    /// Ends a connection that cannot go on. A link's stays until its accesses are proven over: the pidfd is one proof.
    fn drop_conn(&mut self, id: u64, error: Error) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        tracing::debug!(%error, "host connection ended");
        if !conn.ended {
            let refused = Message::Refused { reason: error.message().into() };
            let _ = socket::send(conn.socket.as_fd(), &refused.encode(), &[]);
            let _ = epoll::delete(&self.epoll, &conn.socket);
        }
        match conn.link().cloned() {
            Some(link) => {
                if let Stage::Linked { wire, .. } = &conn.stage {
                    wire.end();
                }
                conn.ended = true;
                conn.deadline = None;
                link.lose(error);
            }
            None => {
                if let Some(Conn { stage: Stage::Challenged { meeting, .. }, .. }) = self.conns.remove(&id) {
                    self.expected.push(meeting);
                }
            }
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        let late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let late_conns: Vec<u64> =
            self.conns.iter().filter(|(_, conn)| late(conn.deadline)).map(|(id, _)| *id).collect();
        for id in late_conns {
            self.drop_conn(id, Error::new(ErrorKind::LinkLost, "link", "the connection to the peer ended"));
        }
        let (late, kept) = std::mem::take(&mut self.expected).into_iter().partition(|m| m.deadline <= now);
        self.expected = kept;
        let late: Vec<Meeting> = late;
        let links = late.into_iter().map(|meeting| meeting.link);
        let (expired, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.expiring).into_iter().partition(|(_, deadline)| *deadline <= now);
        self.expiring = kept;
        for link in links.chain(expired.into_iter().map(|(link, _)| link)) {
            link.give_up_waiting();
        }
        if self.rest_until.is_some_and(|until| until <= now) {
            self.end_rest(now);
        }
        self.look_for_proofs();
        self.conns.retain(|_, conn| !conn.link().is_some_and(|link| link.is_closed()));
    }

    fn end_rest(&mut self, now: Instant) {
        self.rest_until = None;
        let Some(listener) = &self.listener else { return };
        if let Err(errno) = epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN) {
            tracing::warn!(%errno, "the host socket's listener rests on");
            self.rest_until = Some(now + REST);
        }
    }

    fn look_for_proofs(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        self.watched.retain(|link| link.recheck());
        self.look = (self.look * 2).min(LOOK_LAST);
    }
}

impl Conn {
    fn link(&self) -> Option<&Arc<LinkCore>> {
        match &self.stage {
            Stage::Linked { link, .. } => Some(link),
            _ => None,
        }
    }

    fn flush(&mut self) -> std::result::Result<(), Errno> {
        while let Some((bytes, fd)) = self.out.front() {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            match socket::send(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.out.pop_front()),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
