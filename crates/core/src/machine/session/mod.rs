//! A session with one peer, after the encrypted channel is up: introductions, then requests and answers, leases,
//! heartbeats, and the end.
//!
//! The machine decides what may be said when; what a lease or a cache is, the tables know. Silence of the peer only
//! starts a revocation ([`Event::Silent`]); it proves nothing.

mod heartbeats;
mod protocol;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
pub use protocol::Session;

use crate::wire::hello::Hello;
use crate::wire::message::{CacheInfo, ClaimInfo, Message, Why};
use crate::wire::{Hidden, LeaseName, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Token};
use crate::{CacheId, GrantId, Limits, Result};

/// Requests of one side that may wait for an answer at a time.
pub const MAX_REQUESTS: usize = 1_024;

/// Caches of which one peer may ask to hear changes.
pub const MAX_WATCHED: usize = 1_024;

/// Outputs that may wait to be taken. A caller that drains after every call never meets it.
pub const MAX_OUTPUTS: usize = 4_096;

/// Who speaks first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Connected; sends `Hello`.
    Client,
    /// Was connected to; answers it.
    Server,
}

/// What a session says or has to tell. Taken with [`Session::poll_output`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this, framed with [`Session::version`].
    Send(Message),
    /// Something happened.
    Event(Event),
}

/// What the engine hears of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "fields are those of the message that each variant names")]
pub enum Event {
    /// The handshake is done: the version, and who the peer is.
    Established { version: u8, peer: Hello },
    /// `Claim`: the peer asks to hold a lease; answer with [`Command::Decide`], now or later.
    ClaimAsked { request: u32, cache: CacheId, grant: GrantId, secret: Hidden<u128> },
    /// Our claim was answered.
    ClaimAnswered { request: u32, grant: GrantId, result: Result<ClaimInfo, Refusal> },
    /// `Release`: the peer acknowledges that nothing it started touches the blocks.
    Released { grant: GrantId },
    /// `Forsake`: the peer no longer uses the lease but cannot vouch for quiet: revoke it, and wait for other proof.
    Forsaken { grant: GrantId },
    /// `Revoked`: the owner ends a lease of ours.
    Revoked { grant: GrantId },
    /// `Heartbeat`: renew what the peer holds of us.
    Renewed,
    /// `HeartbeatAck`: what we hold of the peer was renewed by the heartbeat that we sent at `sent`.
    Confirmed { sent: Duration },
    /// `Lookup`: the peer asks for a cache; answer with [`Command::Answer`].
    LookupAsked { request: u32, name: String, known: Option<CacheId> },
    /// Our lookup was answered.
    LookupAnswered { request: u32, name: String, result: Result<CacheInfo, Refusal> },
    /// `Find`: the peer asks for a lease by its name; answer with [`Command::Locate`].
    FindAsked { request: u32, name: LeaseName, holders: u32 },
    /// Our search was answered.
    Located { request: u32, result: Result<(CacheId, GrantId), Refusal> },
    /// `ReadNote`: the peer asks for a note; answer with [`Command::TellNote`].
    NoteAsked { request: u32, name: String },
    /// Our question for a note was answered.
    NoteAnswered { request: u32, result: Result<Bytes, Refusal> },
    /// `CacheChanged`: a cache that we have looked up was published anew or withdrawn.
    CacheChanged { cache: CacheId, version: u64, live: bool, name: String },
    /// `Notify`: a sequence of a lease of ours arrived or failed.
    Notified { grant: GrantId, sequence: u32, failed: bool },
    /// `NotifyRefused`: the owner did not count our notification.
    NotifyRefused { grant: GrantId, sequence: u32, why: Why },
    /// `LinkOpen`: the peer is about to make a data link.
    LinkOpen { link: u32, kind: u8, key: Hidden<[u8; 32]> },
    /// `LinkReady`: the peer waits for our link.
    LinkReady { link: u32 },
    /// `LinkFailed`: the link is not to be had.
    LinkFailed { link: u32, text: String },
    /// `LinkSay`: what the peer's side of a link says to ours.
    LinkSaid { link: u32, bytes: Bytes },
    /// Nothing was heard for longer than the silence limit while leases are held between us: revoke, and wait for proof.
    /// Said once until the peer is heard again.
    Silent { since: Duration },
    /// The session is over; the last event. Everything asked and not answered has failed.
    Closed { why: Why, text: String, by_peer: bool },
}

/// A peer's no to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// In words.
    pub text: String,
}

/// What the engine wants said.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "fields are those of the message that each variant names")]
pub enum Command {
    /// Ask to hold a lease: [`Session::call`] gives the request's number.
    Claim { token: Token },
    /// Answer all claims of the peer on this lease that wait.
    Decide { grant: GrantId, result: Result<ClaimInfo, Why> },
    /// Acknowledge that nothing we started touches the blocks.
    Release { grant: GrantId },
    /// Tell the owner that we no longer use the lease but cannot vouch for quiet.
    Forsake { grant: GrantId },
    /// Tell the holder that its lease ends.
    Revoke { grant: GrantId },
    /// Ask for a cache by name; the layout is left out of the answer when the cache is `known`.
    Lookup { name: String, known: Option<CacheId> },
    /// Answer a lookup.
    Answer { request: u32, result: Result<CacheInfo, Why> },
    /// Ask for a lease by its name.
    Find { name: LeaseName, holders: u32 },
    /// Answer a search.
    Locate { request: u32, result: Result<(CacheId, GrantId), Why> },
    /// Ask for a note by its name.
    ReadNote { name: String },
    /// Answer a question for a note.
    TellNote { request: u32, result: Result<Bytes, Why> },
    /// A cache of ours was published anew or withdrawn: said only if the peer has looked it up.
    Changed { cache: CacheId, version: u64, live: bool, name: String },
    /// Tell a lease's owner that a sequence arrived or failed.
    Notify { grant: GrantId, sequence: u32, failed: bool },
    /// Tell the holder that its notification was not counted.
    RefuseNotify { grant: GrantId, sequence: u32, why: Why },
    /// We are about to make a data link. The numbers of the two sides do not clash: the client's are even.
    LinkOpen { kind: u8, key: Hidden<[u8; 32]> },
    /// We wait for the peer's link.
    LinkReady { link: u32 },
    /// A link is not to be had.
    LinkFailed { link: u32, text: String },
    /// A link's side of ours says something to the peer's.
    LinkSay { link: u32, bytes: Bytes },
    /// End the session.
    Goodbye { why: Why, text: String },
}

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Who speaks first.
    pub side: Side,
    /// How we introduce ourselves; the version range and `expects` are part of it.
    pub hello: Hello,
    /// Longest pause between heartbeats while we hold grants; see [`Session::set_holding`]. A minute at most.
    pub heartbeat: Duration,
    /// How long the peer may be silent while leases are held between us; three pauses between its heartbeats, as it
    /// announces them, or ours, if that is longer.
    pub silence: Duration,
    /// How long the handshake may take.
    pub handshake: Duration,
}

impl SessionConfig {
    /// A session with the times of `limits`; `hello`'s version range is set to what this build speaks.
    pub fn new(side: Side, mut hello: Hello, limits: &Limits) -> Self {
        (hello.version_min, hello.version_max) = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
        Self {
            side,
            hello,
            heartbeat: limits.heartbeat(),
            silence: limits.lease_ttl(),
            handshake: Duration::from_secs(10),
        }
    }
}
