//! Connections that have not proven yet which link they belong to: few, for a short time, with a fixed small buffer each.

use std::collections::HashMap;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind};

use super::attach::{self, CLAIM_BYTES, Claim, LinkId, Nonce};
use super::io::{LISTENER, Shared};
use super::lane::{Lane, Watch};
use super::link::LinkCore;
use super::{LANES_MAX, socket};
use crate::LinkKey;

/// How long a connection may stay without having proven what it is for.
const CLAIM_WITHIN: Duration = Duration::from_secs(5);
/// How long the listener rests when the system has no descriptor left.
const REST: Duration = Duration::from_millis(100);
const READABLE: Watch = Watch { readable: true, writable: false };

/// Links that wait for their peer.
#[derive(Default)]
pub(super) struct Expected(Mutex<HashMap<LinkId, Waiting>>);

struct Waiting {
    link: Arc<LinkCore>,
    key: LinkKey,
    deadline: Instant,
    lanes: Vec<Option<Lane>>,
}

impl Expected {
    pub(super) fn add(&self, link: Arc<LinkCore>, key: LinkKey, deadline: Instant) {
        let waiting = Waiting { link, key, deadline, lanes: Vec::new() };
        self.lock().insert(LinkId::of(&key), waiting);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LinkId, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owned by the I/O thread.
pub(super) struct Acceptor {
    listener: Option<TcpListener>,
    expected: Arc<Expected>,
    unattached: HashMap<u64, Unattached>,
    most: usize,
    rest_until: Option<Instant>,
}

struct Unattached {
    stream: TcpStream,
    nonce: Nonce,
    buffer: [u8; CLAIM_BYTES],
    have: usize,
    claim: Option<Claim>,
    deadline: Instant,
}

impl Acceptor {
    pub(super) fn new(listener: Option<TcpListener>, expected: Arc<Expected>, most: u32) -> Self {
        let most = most as usize;
        Self { listener, expected, unattached: HashMap::new(), most, rest_until: None }
    }

    pub(super) fn close(&mut self, shared: &Shared) {
        if let Some(listener) = self.listener.take() {
            shared.unwatch(listener.as_fd());
        }
        self.unattached.clear();
        let waiting: Vec<_> = self.expected.lock().drain().map(|(_, waiting)| waiting.link).collect();
        for link in waiting {
            link.die(Error::new(ErrorKind::Closed, "link", "the tcp transport was closed"));
        }
    }

    /// The link is over, attached or not.
    pub(super) fn forget(&mut self, link: &Arc<LinkCore>) {
        let mut expected = self.expected.lock();
        let lanes: Vec<_> = expected.extract_if(|_, waiting| Arc::ptr_eq(&waiting.link, link)).collect();
        drop(expected);
        drop(lanes);
    }

    /// Takes in what waits at the listener.
    pub(super) fn accept(&mut self, shared: &Shared) {
        // A bounded number at a time: the streams come first.
        for _ in 0..16 {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, from)) => {
                    if self.unattached.len() >= self.most {
                        tracing::warn!(%from, most = self.most, "tcp data connection refused: too many unattached");
                        continue;
                    }
                    if let Err(error) = self.greet(shared, stream) {
                        tracing::debug!(%from, %error, "tcp data connection dropped");
                    }
                }
                Err(error) if error.kind() == IoKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), IoKind::Interrupted | IoKind::ConnectionAborted) => {}
                Err(error) => {
                    tracing::warn!(%error, "no data connection can be taken in now");
                    shared.unwatch(listener.as_fd());
                    let until = Instant::now() + REST;
                    self.rest_until = Some(until);
                    shared.wake_at(until);
                    return;
                }
            }
        }
    }

    fn greet(&mut self, shared: &Shared, mut stream: TcpStream) -> Result<(), Error> {
        let failed = |error| Error::os("accept", "the connection cannot be used", error);
        stream.set_nonblocking(true).map_err(failed)?;
        socket::tune(&stream);
        let nonce = attach::nonce()?;
        // A fresh connection's buffer takes 28 bytes, or the connection is not worth waiting for.
        stream.write_all(&attach::hello(&nonce)).map_err(failed)?;
        let token = shared.token();
        shared.watch_new(stream.as_fd(), token, READABLE)?;
        let deadline = Instant::now() + CLAIM_WITHIN;
        shared.wake_at(deadline);
        let buffer = [0; CLAIM_BYTES];
        self.unattached.insert(token, Unattached { stream, nonce, buffer, have: 0, claim: None, deadline });
        Ok(())
    }

    /// Reads a claim as it comes.
    pub(super) fn read(&mut self, shared: &Shared, token: u64) {
        let Some(connection) = self.unattached.get_mut(&token) else { return };
        let why = match connection.read() {
            Ok(false) => return,
            Ok(true) => return self.match_claim(shared, token),
            Err(why) => why,
        };
        self.drop_connection(shared, token, why);
    }

    fn drop_connection(&mut self, shared: &Shared, token: u64, why: &str) {
        if let Some(connection) = self.unattached.remove(&token) {
            shared.unwatch(connection.stream.as_fd());
            let from = connection.stream.peer_addr().ok();
            tracing::warn!(?from, why, "tcp data connection dropped before it was attached");
        }
    }

    /// A link was added that unattached connections may have come too early for.
    pub(super) fn match_claims(&mut self, shared: &Shared) {
        let claimed = |(token, connection): (&u64, &Unattached)| connection.claim.map(|_| *token);
        let tokens: Vec<_> = self.unattached.iter().filter_map(claimed).collect();
        for token in tokens {
            self.match_claim(shared, token);
        }
        let next = self.expected.lock().values().map(|waiting| waiting.deadline).min();
        if let Some(next) = next {
            shared.wake_at(next);
        }
    }

    fn match_claim(&mut self, shared: &Shared, token: u64) {
        let Some(connection) = self.unattached.get_mut(&token) else { return };
        let Some(claim) = connection.claim else { return };
        let mut expected = self.expected.lock();
        // Not yet: the session may be slower than the stream. The deadline ends the wait.
        let Some(waiting) = expected.get_mut(&claim.link) else { return };
        let outcome = waiting.take(&claim, connection);
        let complete = outcome.is_ok() && waiting.lanes.iter().all(Option::is_some);
        let complete = if complete { expected.remove(&claim.link) } else { None };
        drop(expected);
        match outcome {
            Err(why) => self.drop_connection(shared, token, why),
            Ok(()) => {
                if let Some(connection) = self.unattached.remove(&token) {
                    shared.unwatch(connection.stream.as_fd());
                }
            }
        }
        if let Some(Waiting { link, lanes, .. }) = complete {
            match link.attach(lanes.into_iter().flatten().collect()) {
                Ok(()) => link.sink.attached(),
                Err(error) => link.die(error),
            }
        }
    }

    /// Drops what is overdue; gives the next limit.
    pub(super) fn expire(&mut self, shared: &Shared, now: Instant) -> Option<Instant> {
        let overdue =
            |(token, connection): (&u64, &Unattached)| (connection.deadline <= now).then_some(*token);
        for token in self.unattached.iter().filter_map(overdue).collect::<Vec<_>>() {
            self.drop_connection(shared, token, "no valid claim in time");
        }
        let late: Vec<_> = self.expected.lock().extract_if(|_, waiting| waiting.deadline <= now).collect();
        for (_, waiting) in late {
            let why = "the peer's data streams did not come in time; is the data port reachable from there?";
            waiting.link.die(Error::new(ErrorKind::TimedOut, "link", why));
        }
        if self.rest_until.is_some_and(|until| until <= now) {
            self.rest_until = None;
            if let Some(listener) = &self.listener
                && let Err(error) = shared.watch_new(listener.as_fd(), LISTENER, READABLE)
            {
                tracing::error!(%error, "the tcp data listener cannot be watched any more");
            }
        }
        let waiting = self.expected.lock().values().map(|waiting| waiting.deadline).min();
        let unattached = self.unattached.values().map(|connection| connection.deadline).min();
        [waiting, unattached, self.rest_until].into_iter().flatten().min()
    }
}

impl Unattached {
    /// Whether a whole claim is there.
    fn read(&mut self) -> Result<bool, &'static str> {
        if self.claim.is_some() {
            // It waits for its link; the peer must not send before it was welcomed.
            return Err("it spoke before it was welcomed, or went away");
        }
        while self.have < CLAIM_BYTES {
            match self.stream.read(&mut self.buffer[self.have..]) {
                Ok(0) => return Err("it went away without a claim"),
                Ok(count) => self.have += count,
                Err(error) if error.kind() == IoKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(_) => return Err("it broke without a claim"),
            }
        }
        self.claim = Some(Claim::decode(&self.buffer)?);
        Ok(true)
    }
}

impl Waiting {
    /// Checks the claim, welcomes the peer and keeps the stream.
    fn take(&mut self, claim: &Claim, connection: &mut Unattached) -> Result<(), &'static str> {
        if !claim.holds(&self.key, &connection.nonce) {
            return Err("its claim is false: a wrong secret or a recorded claim");
        }
        if usize::from(claim.lanes) > LANES_MAX || claim.lanes < 2 {
            return Err("its number of streams is not allowed");
        }
        if self.lanes.is_empty() {
            self.lanes.resize_with(claim.lanes.into(), || None);
        }
        if self.lanes.len() != usize::from(claim.lanes) || self.lanes[usize::from(claim.lane)].is_some() {
            return Err("its stream does not fit the link's others");
        }
        let stream = connection.stream.try_clone().map_err(|_| "no descriptor for it")?;
        let (theirs, ours) = attach::seals(&self.key, claim, &connection.nonce);
        let lane = Lane::new(claim.lane, stream, ours, theirs).map_err(|_| "no descriptor for it")?;
        let welcome = attach::welcome(&self.key, claim, &connection.nonce);
        connection.stream.write_all(&welcome).map_err(|_| "it does not take its welcome")?;
        self.lanes[usize::from(claim.lane)] = Some(lane);
        Ok(())
    }
}
