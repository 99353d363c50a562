//! The session machine itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::heartbeats::Heartbeats;
use super::{Command, Event, MAX_OUTPUTS, MAX_REQUESTS, MAX_WATCHED, Output, Refusal, SessionConfig, Side};
use bytes::Bytes;

use crate::layout::MAX_NAME_BYTES;
use crate::wire::hello::{Hello, MAX_OFFER_BYTES, MAX_OFFERS};
use crate::wire::message::{CacheInfo, ClaimInfo, MAX_LINK_BYTES, MAX_NOTE_NAME_BYTES, Message, Why};
use crate::wire::{Hidden, Token};
use crate::{CacheId, Error, ErrorKind, GrantId, Incarnation, Result};

/// A session. Drain [`Self::poll_output`] after every call; ask [`Self::next_timer`] again after every call.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    phase: Phase,
    version: u8,
    peer: Option<Incarnation>,
    /// The longest frame that the peer takes.
    peer_frame_bytes: u32,
    outputs: VecDeque<Output>,
    next_request: u32,
    asked: BTreeMap<u32, Asked>,
    /// Requests of the peer that wait for us.
    served: BTreeMap<u32, Served>,
    watched: BTreeSet<String>,
    next_link: u32,
    beats: Heartbeats,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Handshake { until: Duration },
    Established,
    Closed,
}

#[derive(Debug)]
enum Asked {
    Claim(GrantId),
    Lookup(String),
    Find,
    Note,
}

/// What the peer asked, and we have not answered.
#[derive(Debug)]
enum Served {
    Claim(GrantId),
    Lookup(String),
    Find,
    Note(String),
}

impl Session {
    /// Starts the handshake: the client's `Hello` is the first output.
    ///
    /// # Errors
    /// [`ErrorKind::ApiMisuse`] when the introduction passes the limits of the wire.
    pub fn new(config: SessionConfig, now: Duration) -> Result<Self> {
        let long = config.hello.offers.iter().find(|offer| offer.bytes.len() > MAX_OFFER_BYTES);
        if config.hello.offers.len() > MAX_OFFERS || long.is_some() {
            let text =
                format!("at most {MAX_OFFERS} offers of at most {MAX_OFFER_BYTES} bytes fit the handshake");
            return Err(Error::new(ErrorKind::ApiMisuse, "session", text));
        }
        let mut session = Self {
            phase: Phase::Handshake { until: now.saturating_add(config.handshake) },
            version: 0,
            peer: None,
            peer_frame_bytes: 0,
            outputs: VecDeque::new(),
            next_request: 0,
            asked: BTreeMap::new(),
            served: BTreeMap::new(),
            watched: BTreeSet::new(),
            next_link: match config.side {
                Side::Client => 0,
                Side::Server => 1,
            },
            beats: Heartbeats::new(config.heartbeat, config.silence, now),
            config,
        };
        if session.config.side == Side::Client {
            session.send(Message::Hello(session.config.hello.clone()));
        }
        Ok(session)
    }

    /// The negotiated version; 0 before. It stays after the end, for what is still to be sent.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Whether the handshake is done and the session not over.
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The peer's life, once it has introduced itself.
    pub fn peer(&self) -> Option<Incarnation> {
        self.peer
    }

    /// A message came. Messages after the end are ignored.
    pub fn handle(&mut self, message: Message, now: Duration) {
        self.beats.heard(now);
        match self.phase {
            Phase::Closed => {}
            Phase::Handshake { .. } => self.introduce(message),
            Phase::Established if self.outputs.len() + 2 > MAX_OUTPUTS => {
                self.close(Why::Full, "outputs are not taken: MAX_OUTPUTS".into(), true);
            }
            Phase::Established => self.converse(message),
        }
    }

    /// Says something. Gives the number of the request or link where the command makes one, else 0.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] before and after the session; [`ErrorKind::Full`] at [`MAX_REQUESTS`] or [`MAX_OUTPUTS`];
    /// [`ErrorKind::ApiMisuse`] for a name too long; [`ErrorKind::StaleLease`] for a token of another incarnation.
    pub fn call(&mut self, command: Command) -> Result<u32> {
        if let Command::Goodbye { why, text } = command {
            self.close(why, text, true);
            return Ok(0);
        }
        if !self.is_established() {
            return Err(Error::new(ErrorKind::Closed, "session", "no session is established with the peer"));
        }
        if self.outputs.len() >= MAX_OUTPUTS {
            return Err(full(format!("{MAX_OUTPUTS} outputs wait; the limit is MAX_OUTPUTS")));
        }
        match command {
            Command::Claim { token } => return self.claim(token),
            Command::Lookup { name, known } => return self.lookup(name, known),
            Command::LinkOpen { kind, key } => {
                let link = self.next_link;
                self.next_link = link.wrapping_add(2);
                self.send(Message::LinkOpen { link, kind, key });
                return Ok(link);
            }
            Command::Decide { grant, result } => self.decide(grant, &result),
            Command::Answer { request, result } => self.answer(request, result),
            Command::Find { name, holders } => {
                let request = self.number(Asked::Find)?;
                self.send(Message::Find { request, name, holders });
                return Ok(request);
            }
            Command::Locate { request, result } => self.locate(request, result),
            Command::ReadNote { name } => return self.read_note(name),
            Command::TellNote { request, result } => self.tell_note(request, result),
            Command::Changed { cache, version, live, name } if self.watched.contains(&name) => {
                self.send(Message::CacheChanged { cache, version, live, name });
            }
            Command::Changed { .. } | Command::Goodbye { .. } => {}
            Command::Release { grant } => self.send(Message::Release { grant }),
            Command::Forsake { grant } => self.send(Message::Forsake { grant }),
            Command::Revoke { grant } => self.send(Message::Revoked { grant }),
            Command::Notify { grant, sequence, failed } => {
                self.send(Message::Notify { grant, sequence, failed });
            }
            Command::RefuseNotify { grant, sequence, why } => {
                self.send(Message::NotifyRefused { grant, sequence, why });
            }
            Command::LinkReady { link } => self.send(Message::LinkReady { link }),
            Command::LinkFailed { link, text } => self.send(Message::LinkFailed { link, text }),
            Command::LinkSay { bytes, .. } if bytes.len() > MAX_LINK_BYTES => {
                let text = format!("a link message of {} bytes; {MAX_LINK_BYTES} are allowed", bytes.len());
                return Err(Error::new(ErrorKind::ApiMisuse, "session", text));
            }
            Command::LinkSay { link, bytes } => self.send(Message::LinkSay { link, bytes }),
        }
        Ok(0)
    }

    /// What is held between the two engines: `ours` of the peer, as the longest pause between heartbeats that keeps
    /// it, `theirs` of us. Heartbeats run only while something is, so tell each change.
    pub fn set_holding(&mut self, ours: Option<Duration>, theirs: bool, now: Duration) {
        self.beats.set_holding(ours, theirs, now);
    }

    /// Runs timers: the handshake's end, heartbeats, silence.
    pub fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Closed => {}
            Phase::Handshake { until } => {
                if now >= until {
                    self.close(Why::Silent, "the handshake did not finish in time".into(), false);
                }
            }
            Phase::Established => self.beat(now),
        }
    }

    /// When [`Self::tick`] wants to be called next. `None` while nothing is held: an idle session sleeps.
    pub fn next_timer(&self) -> Option<Duration> {
        match self.phase {
            Phase::Closed => None,
            Phase::Handshake { until } => Some(until),
            Phase::Established => self.beats.next_timer(),
        }
    }

    /// The connection under the session ended.
    pub fn connection_lost(&mut self, text: impl Into<String>) {
        self.close(Why::Other, text.into(), false);
    }

    /// The next output. Call until `None` after every other call.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn introduce(&mut self, message: Message) {
        match (self.config.side, message) {
            (Side::Server, Message::Hello(hello)) => match self.meet(&hello) {
                Ok(version) => {
                    let mut answer = self.config.hello.clone();
                    answer.expects = Some(hello.incarnation);
                    self.send(Message::HelloAck(version, answer));
                    self.establish(version, hello);
                }
                Err((why, text)) => {
                    self.send(Message::Refuse(why, text.clone()));
                    self.close(why, text, false);
                }
            },
            (Side::Client, Message::HelloAck(version, hello)) => match self.meet(&hello) {
                Ok(chosen) if chosen == version => self.establish(version, hello),
                Ok(chosen) => {
                    let text = format!("the peer chose protocol version {version}; both speak {chosen}");
                    self.close(Why::Protocol, text, false);
                }
                Err((why, text)) => self.close(why, text, false),
            },
            (Side::Client, Message::Refuse(why, text)) => self.finish(why, text, true),
            (_, other) => {
                let text = format!("message {} before the handshake was done", other.kind());
                self.close(Why::Protocol, text, false);
            }
        }
    }

    /// Whether we talk to the engine that introduced itself, and in which version: the newest that both speak.
    fn meet(&self, hello: &Hello) -> Result<u8, (Why, String)> {
        let mine = &self.config.hello;
        if let Some(expected) = mine.expects.filter(|expected| *expected != hello.incarnation) {
            let text = format!("engine {expected} is gone; {} answers at its address", hello.incarnation);
            return Err((Why::StaleIncarnation, text));
        }
        if let Some(expected) = hello.expects.filter(|expected| *expected != mine.incarnation) {
            let text = format!("engine {expected} is gone; this is {}", mine.incarnation);
            return Err((Why::StaleIncarnation, text));
        }
        let version = mine.version_max.min(hello.version_max);
        if version == 0 || version < mine.version_min.max(hello.version_min) {
            let text = format!(
                "no protocol version in common: {}..={} here, {}..={} there",
                mine.version_min, mine.version_max, hello.version_min, hello.version_max
            );
            return Err((Why::Version, text));
        }
        Ok(version)
    }

    fn establish(&mut self, version: u8, peer: Hello) {
        self.peer = Some(peer.incarnation);
        self.beats.set_peer_pause(Duration::from_millis(peer.limits.heartbeat_ms.into()));
        self.peer_frame_bytes = peer.limits.control_frame_bytes;
        self.phase = Phase::Established;
        self.version = version;
        self.event(Event::Established { version, peer });
    }

    fn converse(&mut self, message: Message) {
        match message {
            Message::Hello(_) | Message::HelloAck(..) | Message::Refuse(..) => {
                self.close(Why::Protocol, "a handshake message after the handshake".into(), true);
            }
            Message::Claim { request, cache, grant, secret } => {
                if self.accept(request, Served::Claim(grant)) {
                    self.event(Event::ClaimAsked { request, cache, grant, secret });
                }
            }
            Message::Lookup { request, name, known } => {
                if self.accept(request, Served::Lookup(name.clone())) {
                    self.event(Event::LookupAsked { request, name, known });
                }
            }
            Message::Find { request, name, holders } => {
                if self.accept(request, Served::Find) {
                    self.event(Event::FindAsked { request, name, holders });
                }
            }
            Message::ReadNote { request, name } => {
                if self.accept(request, Served::Note(name.clone())) {
                    self.event(Event::NoteAsked { request, name });
                }
            }
            Message::Located { request, cache, grant } => match self.asked.remove(&request) {
                Some(Asked::Find) => self.event(Event::Located { request, result: Ok((cache, grant)) }),
                _ => self.unasked(request),
            },
            Message::Note { request, bytes } => match self.asked.remove(&request) {
                Some(Asked::Note) => self.event(Event::NoteAnswered { request, result: Ok(bytes) }),
                _ => self.unasked(request),
            },
            Message::Claimed { request, info } => self.claimed(request, info),
            Message::Found { request, info } => match self.asked.remove(&request) {
                Some(Asked::Lookup(name)) => {
                    self.event(Event::LookupAnswered { request, name, result: Ok(info) });
                }
                _ => self.unasked(request),
            },
            Message::Refused { request, why, text } => self.refused(request, Refusal { why, text }),
            Message::Release { grant } => self.event(Event::Released { grant }),
            Message::Forsake { grant } => self.event(Event::Forsaken { grant }),
            Message::Revoked { grant } => self.event(Event::Revoked { grant }),
            Message::Heartbeat { sequence } => {
                self.event(Event::Renewed);
                self.send(Message::HeartbeatAck { sequence });
            }
            Message::HeartbeatAck { sequence } => self.confirmed(sequence),
            Message::CacheChanged { cache, version, live, name } => {
                self.event(Event::CacheChanged { cache, version, live, name });
            }
            Message::Notify { grant, sequence, failed } => {
                self.event(Event::Notified { grant, sequence, failed });
            }
            Message::NotifyRefused { grant, sequence, why } => {
                self.event(Event::NotifyRefused { grant, sequence, why });
            }
            Message::LinkOpen { link, kind, key } => self.event(Event::LinkOpen { link, kind, key }),
            Message::LinkReady { link } => self.event(Event::LinkReady { link }),
            Message::LinkFailed { link, text } => self.event(Event::LinkFailed { link, text }),
            Message::LinkSay { link, bytes } => self.event(Event::LinkSaid { link, bytes }),
            Message::Goodbye(why, text) => self.finish(why, text, true),
        }
    }

    fn claim(&mut self, token: Token) -> Result<u32> {
        if Some(token.incarnation) != self.peer {
            let text = format!("the token is of engine {}, which is not this peer's life", token.incarnation);
            return Err(Error::new(ErrorKind::StaleLease, "claim", text));
        }
        let request = self.number(Asked::Claim(token.grant))?;
        let Token { cache, grant, secret, .. } = token;
        self.send(Message::Claim { request, cache, grant, secret: Hidden(secret) });
        Ok(request)
    }

    fn lookup(&mut self, name: String, known: Option<CacheId>) -> Result<u32> {
        if name.len() > MAX_NAME_BYTES {
            let text =
                format!("a cache's name of {} bytes; at most {MAX_NAME_BYTES} are allowed", name.len());
            return Err(Error::new(ErrorKind::ApiMisuse, "route", text));
        }
        let request = self.number(Asked::Lookup(name.clone()))?;
        self.send(Message::Lookup { request, name, known });
        Ok(request)
    }

    fn read_note(&mut self, name: String) -> Result<u32> {
        if name.len() > MAX_NOTE_NAME_BYTES {
            let text =
                format!("a note's name of {} bytes; at most {MAX_NOTE_NAME_BYTES} are allowed", name.len());
            return Err(Error::new(ErrorKind::ApiMisuse, "note", text));
        }
        let request = self.number(Asked::Note)?;
        self.send(Message::ReadNote { request, name });
        Ok(request)
    }

    fn number(&mut self, asked: Asked) -> Result<u32> {
        if self.asked.len() >= MAX_REQUESTS {
            return Err(full(format!(
                "{MAX_REQUESTS} requests wait for the peer; the limit is MAX_REQUESTS"
            )));
        }
        // Answers may stay out for long, so a number that came round again may still be taken.
        while self.asked.contains_key(&self.next_request) {
            self.next_request = self.next_request.wrapping_add(1);
        }
        let request = self.next_request;
        self.next_request = request.wrapping_add(1);
        self.asked.insert(request, asked);
        Ok(request)
    }

    /// Whether a request of the peer is taken up; refuses it past the limit, ends the session when its number is in use.
    fn accept(&mut self, request: u32, asked: Served) -> bool {
        if self.served.contains_key(&request) {
            self.close(Why::Protocol, format!("request {request} was asked twice"), true);
            return false;
        }
        if self.served.len() >= MAX_REQUESTS {
            self.send(Message::Refused { request, why: Why::Full, text: "limit MAX_REQUESTS".into() });
            return false;
        }
        self.served.insert(request, asked);
        true
    }

    fn decide(&mut self, grant: GrantId, result: &Result<ClaimInfo, Why>) {
        let on_grant = |asked: &Served| matches!(asked, Served::Claim(claimed) if *claimed == grant);
        let waiting = self.served.iter().filter(|(_, asked)| on_grant(asked)).map(|(request, _)| *request);
        for request in waiting.collect::<Vec<_>>() {
            self.served.remove(&request);
            let text = format!("lease {grant}");
            match result {
                Ok(info) if !self.answer_fits(request, Message::Claimed { request, info: info.clone() }) => {
                    // The peer never hears that it holds the lease, so it will not release it either.
                    self.event(Event::Released { grant });
                }
                Ok(_) => {}
                Err(why) => self.send(Message::Refused { request, why: *why, text }),
            }
        }
    }

    fn answer(&mut self, request: u32, result: Result<CacheInfo, Why>) {
        let Some(Served::Lookup(name)) = self.served.remove(&request) else { return };
        match result {
            Ok(info) => {
                if self.answer_fits(request, Message::Found { request, info })
                    && self.watched.len() < MAX_WATCHED
                {
                    self.watched.insert(name);
                }
            }
            Err(why) => self.send(Message::Refused { request, why, text: format!("cache {name:?}") }),
        }
    }

    fn locate(&mut self, request: u32, result: Result<(CacheId, GrantId), Why>) {
        let Some(Served::Find) = self.served.remove(&request) else { return };
        self.send(match result {
            Ok((cache, grant)) => Message::Located { request, cache, grant },
            Err(why) => Message::Refused { request, why, text: "lease of that name".into() },
        });
    }

    fn tell_note(&mut self, request: u32, result: Result<Bytes, Why>) {
        let Some(Served::Note(name)) = self.served.remove(&request) else { return };
        match result {
            Ok(bytes) => drop(self.answer_fits(request, Message::Note { request, bytes })),
            Err(why) => self.send(Message::Refused { request, why, text: format!("note {name:?}") }),
        }
    }

    /// Sends an answer whose length depends on us, or a refusal when the peer takes no frame of that length.
    fn answer_fits(&mut self, request: u32, answer: Message) -> bool {
        let (bytes, limit) = (answer.frame_bytes_max(), self.peer_frame_bytes);
        let fits = bytes <= limit.into();
        if fits {
            self.send(answer);
        } else {
            let text = format!("the answer takes {bytes} bytes; your limit control_frame_bytes is {limit}");
            self.send(Message::Refused { request, why: Why::Full, text });
        }
        fits
    }

    fn claimed(&mut self, request: u32, info: ClaimInfo) {
        match self.asked.remove(&request) {
            Some(Asked::Claim(grant)) if grant == info.grant => {
                self.event(Event::ClaimAnswered { request, grant, result: Ok(info) });
            }
            Some(Asked::Claim(grant)) => {
                let text = format!("claim of lease {grant} was answered with lease {}", info.grant);
                self.close(Why::Protocol, text, true);
            }
            _ => self.unasked(request),
        }
    }

    fn refused(&mut self, request: u32, refusal: Refusal) {
        match self.asked.remove(&request) {
            Some(Asked::Claim(grant)) => {
                self.event(Event::ClaimAnswered { request, grant, result: Err(refusal) });
            }
            Some(Asked::Lookup(name)) => {
                self.event(Event::LookupAnswered { request, name, result: Err(refusal) });
            }
            Some(Asked::Find) => self.event(Event::Located { request, result: Err(refusal) }),
            Some(Asked::Note) => self.event(Event::NoteAnswered { request, result: Err(refusal) }),
            None => self.unasked(request),
        }
    }

    fn unasked(&mut self, request: u32) {
        self.close(Why::Protocol, format!("an answer to request {request}, which was not asked"), true);
    }

    fn beat(&mut self, now: Duration) {
        if self.outputs.len() + 2 > MAX_OUTPUTS {
            return;
        }
        if let Some(sequence) = self.beats.due(now) {
            self.send(Message::Heartbeat { sequence });
        }
        if let Some(since) = self.beats.fell_silent(now) {
            self.event(Event::Silent { since });
        }
    }

    fn confirmed(&mut self, sequence: u64) {
        match self.beats.confirm(sequence) {
            Ok(Some(sent)) => self.event(Event::Confirmed { sent }),
            Ok(None) => {}
            Err(text) => self.close(Why::Protocol, text, true),
        }
    }

    /// Ends the session from our side; `tell`: whether the peer hears why.
    fn close(&mut self, why: Why, text: String, tell: bool) {
        if tell && self.is_established() {
            self.send(Message::Goodbye(why, text.clone()));
        }
        self.finish(why, text, false);
    }

    fn finish(&mut self, why: Why, text: String, by_peer: bool) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.asked.clear();
        self.served.clear();
        self.watched.clear();
        self.event(Event::Closed { why, text, by_peer });
    }

    fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(message));
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

fn full(text: String) -> Error {
    Error::new(ErrorKind::Full, "session", text)
}
