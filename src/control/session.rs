//! One session: core's machine between the encrypted stream and the engine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ropeway_core::machine::session::{Command, Event, Output, Session as Machine, SessionConfig, Side};
use ropeway_core::wire::hello::Hello;
use ropeway_core::wire::message::{CacheInfo, Why};
use ropeway_core::wire::{FrameDecoder, Hidden, encode_frame};
use ropeway_core::{CacheId, Error, ErrorKind, GrantId, Incarnation, PeerId, Result};
use ropeway_transport::{Inbox, TransportKind};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::secure::{self, Secured, Stream};
use super::{HANDSHAKE, dial};
use crate::control::Purpose;
use crate::control::Wanted;
use crate::grant::Grant;
use crate::linking::wire_kind;
use crate::peer::{Peer, PeerInner};
use crate::pending::Answer;
use crate::secret::Psk;
use crate::shared::{Shared, write};

/// Frames that may wait for a peer that does not read its control connection.
const MAX_OUTGOING: usize = 8_192;
/// And their bytes.
const MAX_OUTGOING_BYTES: usize = 64 << 20;
/// How long what is queued at a session's end may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The engine's hold on a session. Calls may come from any thread.
pub(crate) struct Session {
    inner: Mutex<Inner>,
    outgoing: mpsc::Sender<Bytes>,
    /// The outgoing queue overflowed: the connection is to be dropped.
    stuck: AtomicBool,
    /// Wakes the reader when the session ended without the stream's doing.
    over: tokio::sync::Notify,
    /// Wakes the writer, which then sends what is queued and closes the stream.
    ended: Arc<tokio::sync::Notify>,
    /// Bytes that wait to be written.
    queued_bytes: Arc<AtomicUsize>,
    pub(crate) hello: Hello,
}

struct Inner {
    machine: Machine,
    waiting: HashMap<u32, Waiting>,
    links: HashMap<u32, LinkAnswer>,
}

/// Who waits for the answer to a request.
pub(crate) enum Waiting {
    /// A claim; the handle keeps the connection for the grant to come.
    Claim {
        answer: Answer<Grant>,
        until: Instant,
        peer: Peer,
    },
    Lookup {
        answer: Then<CacheInfo>,
        until: Instant,
    },
    Find {
        answer: Then<(CacheId, GrantId)>,
        until: Instant,
    },
    Note {
        answer: Answer<Bytes>,
        until: Instant,
    },
}

/// What is done with an answer that leads on to something else.
type Then<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Told when the peer waits for our link, or why it does not.
pub(crate) type LinkAnswer = crossbeam_channel::Sender<Result<(), String>>;

impl Session {
    /// Says something; `waiting` gets the answer, also the error that this returns.
    pub(crate) fn ask(
        &self,
        shared: &Arc<Shared>,
        peer: &Arc<PeerInner>,
        command: Command,
        waiting: Waiting,
    ) -> Result<()> {
        let until = waiting.until();
        let asked = {
            let mut inner = self.lock();
            match inner.machine.call(command) {
                Ok(request) => {
                    inner.waiting.insert(request, waiting);
                    Ok(self.drain(&mut inner))
                }
                Err(error) => Err((error, waiting)),
            }
        };
        let events = match asked {
            Ok(events) => events,
            Err((error, waiting)) => {
                waiting.fail(error.clone());
                return Err(error);
            }
        };
        shared.control.wake_by(until);
        self.after(shared, peer, events);
        Ok(())
    }

    /// Says something that has no answer.
    pub(crate) fn say(&self, shared: &Arc<Shared>, peer: &Arc<PeerInner>, command: Command) -> Result<()> {
        let events = {
            let mut inner = self.lock();
            inner.machine.call(command)?;
            self.drain(&mut inner)
        };
        self.after(shared, peer, events);
        Ok(())
    }

    /// Queues something that has no answer, and gives back what is to be heard of it: for callers that hold a lock.
    pub(crate) fn queue(&self, command: Command) -> Vec<Event> {
        let mut inner = self.lock();
        // A session that is over says nothing.
        let _ = inner.machine.call(command);
        self.drain(&mut inner)
    }

    /// Announces a link; the number, and the answer through `answer`.
    pub(crate) fn open_link(
        &self,
        shared: &Arc<Shared>,
        peer: &Arc<PeerInner>,
        (kind, inbox): (TransportKind, &Inbox),
        key: [u8; 32],
        answer: LinkAnswer,
    ) -> Result<u32> {
        let (link, events) = {
            let mut inner = self.lock();
            let open = Command::LinkOpen { kind: wire_kind(kind), key: Hidden(key) };
            let link = inner.machine.call(open)?;
            // Before the peer can hear of the link, and so speak on it.
            peer.open_inbox(link, kind, inbox);
            inner.links.insert(link, answer);
            (link, self.drain(&mut inner))
        };
        self.after(shared, peer, events);
        Ok(link)
    }

    pub(crate) fn take_link(&self, link: u32) -> Option<LinkAnswer> {
        self.lock().links.remove(&link)
    }

    pub(crate) fn take_waiting(&self, request: u32) -> Option<Waiting> {
        self.lock().waiting.remove(&request)
    }

    /// Tells the machine what is held between the two engines: heartbeats run only while something is.
    pub(crate) fn set_holding(&self, shared: &Arc<Shared>, ours: Option<Duration>, theirs: bool) {
        let next = {
            let mut inner = self.lock();
            inner.machine.set_holding(ours, theirs, shared.now());
            inner.machine.next_timer()
        };
        if let Some(at) = next {
            shared.control.wake_by(shared.instant(at));
        }
    }

    /// Runs the machine's timers, and ends requests whose time is over.
    pub(crate) fn tick(&self, shared: &Arc<Shared>, peer: &Arc<PeerInner>) -> Option<Instant> {
        let now = Instant::now();
        let (events, late, next) = {
            let mut inner = self.lock();
            inner.machine.tick(shared.now());
            let events = self.drain(&mut inner);
            let numbers: Vec<u32> =
                inner.waiting.iter().filter(|(_, w)| w.until() <= now).map(|(request, _)| *request).collect();
            let late: Vec<Waiting> =
                numbers.iter().filter_map(|request| inner.waiting.remove(request)).collect();
            let waits = inner.waiting.values().map(Waiting::until).min();
            let timer = inner.machine.next_timer().map(|at| shared.instant(at));
            (events, late, waits.into_iter().chain(timer).min())
        };
        for waiting in late {
            waiting.fail(Error::new(
                ErrorKind::TimedOut,
                "session",
                format!("no answer from {} in time", peer.name()),
            ));
        }
        self.after(shared, peer, events);
        next
    }

    fn handle(&self, shared: &Arc<Shared>, peer: &Arc<PeerInner>, message: ropeway_core::wire::Message) {
        let events = {
            let mut inner = self.lock();
            inner.machine.handle(message, shared.now());
            self.drain(&mut inner)
        };
        self.after(shared, peer, events);
    }

    /// The stream ended.
    fn lost(&self, shared: &Arc<Shared>, peer: &Arc<PeerInner>, why: &str) {
        let events = {
            let mut inner = self.lock();
            inner.machine.connection_lost(why);
            self.drain(&mut inner)
        };
        self.after(shared, peer, events);
    }

    /// Queues frames in the machine's order, under its lock; gives the events back.
    fn drain(&self, inner: &mut Inner) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(output) = inner.machine.poll_output() {
            match output {
                Output::Send(message) => {
                    let mut frame = BytesMut::new();
                    encode_frame(&message, inner.machine.version(), &mut frame);
                    let bytes = frame.len();
                    let queued = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
                    let sent = self.outgoing.try_send(frame.freeze());
                    // One frame alone always goes: its own size is bounded.
                    let too_much = queued > bytes && queued > MAX_OUTGOING_BYTES;
                    if too_much || matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                        self.stuck.store(true, Ordering::Release);
                        inner.machine.connection_lost("the peer does not read its control connection");
                    }
                }
                Output::Event(event) => events.push(event),
            }
        }
        events
    }

    pub(crate) fn after(&self, shared: &Arc<Shared>, peer: &Arc<PeerInner>, events: Vec<Event>) {
        for event in events {
            if let Event::Closed { why, text, by_peer } = &event {
                self.fail_all(*why, text, *by_peer);
            }
            let closed = matches!(event, Event::Closed { .. });
            shared.hear(peer, event);
            if closed {
                self.over.notify_one();
                self.ended.notify_one();
            }
        }
        let next = self.lock().machine.next_timer();
        if let Some(at) = next {
            shared.control.wake_by(shared.instant(at));
        }
    }

    fn fail_all(&self, why: Why, text: &str, by_peer: bool) {
        let (waiting, links) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.waiting), std::mem::take(&mut inner.links))
        };
        let whose = if by_peer { "the peer ended the session" } else { "the session ended" };
        for waiting in waiting.into_values() {
            waiting.fail(Error::new(why.kind(), "session", format!("{whose}: {text}")));
        }
        for link in links.into_values() {
            let _ = link.send(Err(format!("{whose}: {text}")));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn until(&self) -> Instant {
        match self {
            Self::Claim { until, .. }
            | Self::Lookup { until, .. }
            | Self::Find { until, .. }
            | Self::Note { until, .. } => *until,
        }
    }

    pub(crate) fn fail(self, error: Error) {
        match self {
            Self::Claim { answer, .. } => answer.give(Err(error)),
            Self::Lookup { answer, .. } => answer(Err(error)),
            Self::Find { answer, .. } => answer(Err(error)),
            Self::Note { answer, .. } => answer.give(Err(error)),
        }
    }
}

/// A stranger has connected: handshake, then the session until its end.
pub(crate) async fn accepted<S: Stream + 'static>(
    shared: Weak<Shared>,
    stream: S,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<()> {
    let strong = upgrade(&shared)?;
    let secured = secure::within(HANDSHAKE, secure::respond(stream, strong.incarnation, &strong.psk)).await?;
    let met = secure::within(HANDSHAKE, meet(&strong, secured, Side::Server, None)).await?;
    drop(permit);
    let (peer, met) = met.enlist(&strong)?;
    let _reading = strong.control.use_stream();
    drop(strong);
    converse(shared, peer, met.reader, met.decoder).await;
    Ok(())
}

/// Where a peer is reached over the network.
pub(crate) struct Target {
    pub(crate) addresses: Vec<std::net::SocketAddr>,
    pub(crate) psk: Psk,
    pub(crate) want: Option<Incarnation>,
}

/// Connects to an engine of this process; `wanted` gets the peer.
pub(crate) async fn connect_near(
    shared: Weak<Shared>,
    stream: tokio::net::UnixStream,
    (psk, want): (Psk, Option<Incarnation>),
    until: Instant,
    wanted: Wanted,
) {
    let left = until.saturating_duration_since(Instant::now());
    let met = secure::within(left, introduce(&shared, stream, &psk, want)).await;
    settle(shared, met, until, wanted).await;
}

/// Connects over the network; `wanted` gets the peer.
pub(crate) async fn connect_far(shared: Weak<Shared>, target: Target, until: Instant, wanted: Wanted) {
    let left = until.saturating_duration_since(Instant::now());
    let met = secure::within(left, async {
        let stream = dial(&target.addresses).await?;
        introduce(&shared, stream, &target.psk, target.want).await
    })
    .await;
    settle(shared, met, until, wanted).await;
}

async fn introduce<S: Stream>(
    shared: &Weak<Shared>,
    stream: S,
    psk: &Psk,
    want: Option<Incarnation>,
) -> Result<Met<S>> {
    let secured = secure::initiate(stream, psk, want).await?;
    meet(&*upgrade(shared)?, secured, Side::Client, want).await
}

/// Puts a peer that was met into the tables, makes the links, if any are wanted, on a thread that may block, then listens
/// until the end.
async fn settle<S: Stream + 'static>(
    shared: Weak<Shared>,
    met: Result<Met<S>>,
    until: Instant,
    Wanted { purpose, answer }: Wanted,
) {
    let enlisted = met.and_then(|met| {
        let strong = upgrade(&shared)?;
        let enlisted = met.enlist(&strong)?;
        Ok((strong, enlisted))
    });
    let (strong, (peer, met)) = match enlisted {
        Ok(enlisted) => enlisted,
        Err(error) => return answer.give(Err(error)),
    };
    match purpose {
        Purpose::Blocks => {
            let (linking, linked) = (Arc::clone(&strong), Arc::clone(&peer));
            strong.control.spawn_blocking(move || linking.open_links(&linked, until, answer));
        }
        Purpose::Control => strong.without_links(&peer, answer),
    }
    let _reading = strong.control.use_stream();
    drop(strong);
    converse(shared, peer, met.reader, met.decoder).await;
}

/// A peer that has introduced itself and is not in the tables yet.
struct Met<S> {
    machine: Option<Machine>,
    reader: secure::RecordReader<tokio::io::ReadHalf<S>>,
    writer: Option<secure::RecordWriter<tokio::io::WriteHalf<S>>>,
    decoder: FrameDecoder,
    hello: Hello,
}

/// Runs the machine's own handshake.
async fn meet<S: Stream>(
    shared: &Shared,
    secured: Secured<S>,
    side: Side,
    want: Option<Incarnation>,
) -> Result<Met<S>> {
    let Secured { mut reader, mut writer, .. } = secured;
    let config = SessionConfig::new(side, shared.hello(want), &shared.limits);
    let mut machine = Machine::new(config, shared.now())?;
    let mut decoder = FrameDecoder::new(shared.limits.control_frame_bytes());
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Send(message) => {
                    let mut frame = BytesMut::new();
                    encode_frame(&message, machine.version(), &mut frame);
                    writer.send(&frame).await?;
                }
                Output::Event(Event::Established { version, peer }) => {
                    decoder.set_version(version);
                    // What the machine says next goes out through the session's own queue.
                    while let Some(Output::Send(message)) = machine.poll_output() {
                        let mut frame = BytesMut::new();
                        encode_frame(&message, version, &mut frame);
                        writer.send(&frame).await?;
                    }
                    return Ok(Met {
                        machine: Some(machine),
                        reader,
                        writer: Some(writer),
                        decoder,
                        hello: peer,
                    });
                }
                Output::Event(Event::Closed { why, text, .. }) => {
                    return Err(Error::new(why.kind(), "handshake", text));
                }
                Output::Event(_) => {}
            }
        }
        match decoder.next_message().map_err(garbage)? {
            Some(message) => machine.handle(message, shared.now()),
            None => match reader.next().await? {
                Some(bytes) => decoder.push(bytes).map_err(garbage)?,
                None => machine.connection_lost("the peer ended the stream during the handshake"),
            },
        }
    }
}

impl<S: Stream + 'static> Met<S> {
    /// Puts the peer into the tables and starts its writer.
    fn enlist(mut self, shared: &Arc<Shared>) -> Result<(Arc<PeerInner>, Self)> {
        shared.check("connect")?;
        let (outgoing, queue) = mpsc::channel(MAX_OUTGOING);
        let (ended, queued_bytes) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
        let machine = self.machine.take().expect("a peer is enlisted once");
        let writer = self.writer.take().expect("a peer is enlisted once");
        let incarnation = self.hello.incarnation;
        let session = Session {
            inner: Mutex::new(Inner { machine, waiting: HashMap::new(), links: HashMap::new() }),
            outgoing,
            stuck: AtomicBool::new(false),
            over: tokio::sync::Notify::new(),
            ended: Arc::clone(&ended),
            queued_bytes: Arc::clone(&queued_bytes),
            hello: self.hello.clone(),
        };
        let mut made = None;
        write(&shared.peers).insert_with(|slot, generation| {
            let peer =
                Arc::new(PeerInner::new(PeerId { slot, generation }, incarnation, session, &shared.limits));
            made = Some(Arc::clone(&peer));
            peer
        })?;
        let peer = made.expect("inserted");
        tracing::info!(peer = %peer.id(), %incarnation, build = %self.hello.build, "session established");
        let writing = shared.control.use_stream();
        tokio::spawn(async move {
            let _writing = writing;
            write_frames(writer, queue, ended, queued_bytes).await;
        });
        shared.progress.moved();
        Ok((peer, self))
    }
}

async fn write_frames<W: tokio::io::AsyncWrite + Unpin>(
    mut writer: secure::RecordWriter<W>,
    mut queue: mpsc::Receiver<Bytes>,
    ended: Arc<tokio::sync::Notify>,
    queued_bytes: Arc<AtomicUsize>,
) {
    let mut write = async |frame: Bytes| {
        queued_bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        writer.send(&frame).await.inspect_err(|error| tracing::debug!(%error, "control write"))
    };
    let over = tokio::select! {
        () = ended.notified() => true,
        () = async {
            while let Some(frame) = queue.recv().await {
                if write(frame).await.is_err() {
                    break;
                }
            }
        } => false,
    };
    if over {
        // The last frames say why. A peer that does not read them is not waited for.
        let rest = async {
            while let Ok(frame) = queue.try_recv() {
                if write(frame).await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }
    let _ = tokio::time::timeout(LAST_WORDS, writer.shut()).await;
}

/// Ends the session when its task ends, whatever ends it: a panic too.
struct Conversation<'a> {
    shared: &'a Weak<Shared>,
    peer: &'a Arc<PeerInner>,
    why: String,
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            self.peer.session.lost(&shared, self.peer, &self.why);
        }
    }
}

/// Reads until the session is over.
async fn converse<R: tokio::io::AsyncRead + Unpin>(
    shared: Weak<Shared>,
    peer: Arc<PeerInner>,
    mut reader: secure::RecordReader<R>,
    mut decoder: FrameDecoder,
) {
    let session = &peer.session;
    let mut conversation =
        Conversation { shared: &shared, peer: &peer, why: "the session's task failed".to_owned() };
    conversation.why = loop {
        loop {
            let Some(shared) = shared.upgrade() else { return };
            match decoder.next_message() {
                Ok(Some(message)) => session.handle(&shared, &peer, message),
                Ok(None) => break,
                Err(error) => {
                    let text = error.to_string();
                    let _ = session.say(&shared, &peer, Command::Goodbye { why: Why::Protocol, text });
                    break;
                }
            }
        }
        if peer.is_lost() || session.stuck.load(Ordering::Acquire) {
            break "over".to_owned();
        }
        let next = tokio::select! {
            next = reader.next() => next,
            () = session.over.notified() => continue,
        };
        match next {
            Ok(Some(bytes)) => {
                if let Err(error) = decoder.push(bytes) {
                    break error.to_string();
                }
            }
            Ok(None) => break "the peer ended the connection".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    drop(conversation);
    // What the peer still says is not heard; but closed with it unread, the socket would take our last words back.
    let _ = tokio::time::timeout(LAST_WORDS, reader.drain()).await;
}

fn garbage(error: ropeway_core::wire::WireError) -> Error {
    Error::new(ErrorKind::Protocol, "handshake", error.to_string())
}

fn upgrade(shared: &Weak<Shared>) -> Result<Arc<Shared>> {
    shared.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "session", "the engine is closed"))
}

#[cfg(test)]
mod tests;
