//! What a native library must be able to do for the link engine: [`Native`], one per engine and library, and [`Mover`],
//! one per peer.
//!
//! # Threads
//! The engine keeps these rules; an implementation may rely on them.
//!
//! - A mover is called by **one thread at a time**: every method takes `&mut self`, and the engine holds it in a mutex. A
//!   native client that belongs to one mover alone needs no lock of its own. What movers of one [`Native`] share (HIXL's
//!   one object for all peers) is called from several threads at once, for different peers, and must bear that.
//! - **The posting thread** (one per `Native`) calls [`Mover::post`] and [`Mover::poll`], and nothing else. They must never
//!   wait: not for a lock that a slow call holds, not for the peer, not for a submission queue (answer
//!   [`PostError::Busy`]). While a slow call has the mover, the posting thread passes it over and serves other peers.
//! - **Slow threads** call everything else. Each may take as long as the time it is given, and longer where the
//!   library gives no way to bound it: only this one peer waits.
//! - [`Native::enter`] is called once on each of these threads before its first call: installs the device's context.
//! - [`Mover::connect`] and [`Mover::disconnect`] are only called while no request is outstanding that can still end by
//!   itself: the engine waits for those, or gives them up first.
//!
//! # Addresses
//! A [`Desc`] holds addresses, not regions: `local` is the address of our memory (a device's virtual address, or the host's),
//! `remote` counts from what [`Mover::import`] answered. The engine has checked bounds on both sides, and that each
//! descriptor lies in one registered and one imported region. A length is never 0.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::{Error, Op, RegionId, Result};
use ropeway_transport::{Memory, Role, TransportKind};

use crate::curves::Cuts;

/// One library's way to peers. One per engine.
pub trait Native: Send + Sync + 'static {
    /// Which transport it is offered as.
    fn kind(&self) -> TransportKind;

    /// What the peers' side of the same kind has to know before a link: an address, the host, a release. Carried by the
    /// handshake, so at most 1 KiB.
    fn offer(&self) -> Bytes;

    /// Installs the device's context on this thread, a thread of the link engine's.
    ///
    /// # Errors
    /// The device is gone.
    fn enter(&self) -> Result<()>;

    /// A mover to the peer that offered `offer`. Touches no network: [`Mover::connect`] does. On a slow thread.
    ///
    /// # Errors
    /// Why this way does not lead there, in words that `auto` can log: another host, the same device, another release.
    fn open(&self, offer: &[u8], role: Role) -> Result<Box<dyn Mover>>;

    /// Memory for probe transfers, of the kind that links move: at least 4 KiB, and what the library asks of a region. Kept
    /// by the engine as long as the transport; asked for once, on a slow thread.
    ///
    /// # Errors
    /// No memory is to be had.
    fn probe_memory(&self) -> Result<Arc<Memory>>;

    /// Limits that hold for each mover.
    fn limits(&self) -> MoverLimits;

    /// Whether the library still has memory registered that every mover has deregistered.
    fn holds(&self, memory: &Arc<Memory>) -> Holds {
        let _ = memory;
        if self.limits().reconnect_for_regions { Holds::WhileConnected } else { Holds::No }
    }

    /// The same while no mover is connected.
    fn holds_apart(&self, memory: &Arc<Memory>) -> Holds {
        let _ = memory;
        Holds::No
    }

    /// The engine is closing: every mover is disconnected and dropped, or never will be. Frees what can be freed at once
    /// without waiting.
    fn close(&self) {}
}

/// Whether a library lets go of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// It has.
    No,
    /// Once no mover is connected.
    WhileConnected,
    /// Another region that is in use is part of the same registration.
    ForAnother,
}

/// What a mover can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoverLimits {
    /// Descriptors of one request, at most; at least 1.
    pub descs: usize,
    /// Bytes of one request, about: a request ends with the descriptor that reaches it. Small enough that a small batch of
    /// the same peer does not wait long behind it, large enough to fill the way.
    pub request_bytes: u64,
    /// Requests of one mover in flight, at most; at least 1. Two keep most ways full.
    pub requests: usize,
    /// Registrations that the library takes at a time, all movers together. [`Mover::register`] keeps it: only there is it
    /// known which regions share one, as the pieces of an allocation do.
    pub regions: Option<u32>,
    /// Movers that can be connected at a time.
    pub links: Option<u32>,
    /// Addresses and lengths must be multiples of this many bytes; 1 where any will do.
    pub alignment: u32,
    /// Regions that either side registers after [`Mover::connect`] can be used only after the link was disconnected and
    /// connected anew (HIXL's C++ class). The engine then does so before the next batch, when nothing is in flight.
    pub reconnect_for_regions: bool,
    /// Host memory can be the local end of a request, by itself or staged. Where not, the engine refuses to adopt it.
    pub host_memory: bool,
}

/// One copy of a request: a piece that lies in one piece on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Desc {
    /// Address of our bytes.
    pub local: u64,
    /// Address of the peer's bytes: [`Imported::base`] and an offset.
    pub remote: u64,
    /// Bytes; never 0.
    pub len: u64,
}

/// A request in flight: the mover's own number, unique among those that it has not reported as over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request(pub u64);

/// A peer's region, as descriptors name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The address of its first byte in [`Desc::remote`].
    pub base: u64,
}

/// What became of [`Mover::connect`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connected {
    /// The link is made.
    New,
    /// It was there already (HIXL's 103903). Regions that came later may be missing from it.
    Already,
}

/// What [`Mover::disconnect`] proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teardown {
    /// Nothing that this mover ever posted touches memory any more, on either side: its streams are drained, its requests
    /// all ended.
    Proven,
    /// The library said that the link is gone, or said nothing: what the hardware had may still go on for its retry window.
    /// The engine holds the memory until then.
    Unproven,
    /// Something that was posted may still be under way, and no time is known after which it is not (copies by a device of
    /// this host that neither ended nor let themselves be aborted). The engine never calls the link quiet: its memory stays
    /// withheld until the process ends.
    Never,
}

/// No room now (203900, a full submission queue, no free stream): nothing was started. The engine tries again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy {
    /// The library's number; 0 where the mover itself has no room.
    pub code: i32,
}

/// Why nothing is in flight after [`Mover::post`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostError {
    /// Back-pressure.
    Busy(Busy),
    /// The library refused; see the failure for what it means to the link.
    Failed(Failure),
    /// Refused as a whole before any of it was started, and the link can no longer be used: a side has lost the regions
    /// that it had registered (103900 from HIXL). The engine disconnects; it makes a promise as [`Failure::Over`] does.
    Cut {
        /// The library's number.
        code: i32,
    },
}

/// A native failure, and what is known after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The request is over and its bytes are not all there; nothing of it touches memory any more, and the link works on: a
    /// refused parameter (103900), an address that is not registered, a copy that ended with an error on a stream that was
    /// drained.
    Over {
        /// The library's number.
        code: i32,
    },
    /// The link can no longer be used, and what was posted on it, this request or any other, may still touch memory on both
    /// sides: a timeout (103901), a failed data path (503900), a link that is gone (103902). The engine disconnects, and holds
    /// memory as [`Teardown`] asks. Neither `post` nor `poll` is called again.
    Latched {
        /// The library's number.
        code: i32,
    },
}

impl Failure {
    /// The library's number.
    pub fn code(self) -> i32 {
        match self {
            Self::Over { code } | Self::Latched { code } => code,
        }
    }
}

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// Its bytes are on the way.
    Waiting,
    /// Every byte is in place, visible to the owner of the memory, and nothing of the request touches memory any more. The
    /// number is free again: it is not polled any more.
    Done,
    /// It ended otherwise; it is not polled any more.
    Failed(Failure),
}

/// One native way to one peer. Dropped on a slow thread, after `disconnect`, `release` of every import and `deregister` of
/// every region; or after less, when a step failed: then what cannot be freed safely is to be leaked.
///
/// # Safety
/// [`Polled::Done`], [`Failure::Over`], [`PostError::Busy`] and [`Teardown::Proven`] are promises about memory: from
/// that moment on nothing of what they speak of reads or writes a byte on either side. The engine frees and reuses memory on
/// them.
pub unsafe trait Mover: Send {
    /// Registers a region of ours, so that it can be the local end of requests and the peer can import it; gives what the
    /// peer's [`Self::import`] needs, at most 4 KiB. Called once per region and link; movers that share registrations
    /// count. Keeps `memory` as long as it is natively registered, also beyond `deregister` where the library refuses to let
    /// go (HIXL: while links exist).
    ///
    /// # Errors
    /// `Full`: [`MoverLimits::regions`] are registered. Or this way cannot use that memory (VMM memory without a key, small pages, host memory), and the mend.
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes>;

    /// The region is not used on this link any more: neither by us nor by the peer, which has released it or is gone.
    ///
    /// # Errors
    /// The library refused. The mover keeps the memory.
    fn deregister(&mut self, region: RegionId) -> Result<()>;

    /// Makes a region of the peer usable: `description` is what the peer's [`Self::register`] gave, and untrusted.
    ///
    /// # Errors
    /// The description is malformed, or the library refused.
    fn import(&mut self, region: RegionId, len: u64, description: &[u8]) -> Result<Imported>;

    /// Lets go of a region of the peer: no request names it any more. The peer is told after this returned.
    ///
    /// # Errors
    /// The library refused; the peer is not told, and waits for the link's end.
    fn release(&mut self, region: RegionId) -> Result<()>;

    /// Makes the link in our direction: from here on requests of ours run. The other direction is the other side's own.
    /// The regions registered and imported so far are usable after it. Called again after `disconnect`, and where
    /// [`MoverLimits::reconnect_for_regions`] asks for it.
    ///
    /// # Errors
    /// The peer is not to be reached within `timeout`; with the library's number.
    fn connect(&mut self, timeout: Duration) -> Result<Connected>;

    /// Ends the link in our direction. Never fails: what cannot be proven is [`Teardown::Unproven`]. A second call, or one
    /// without a link, does nothing and answers as is true.
    fn disconnect(&mut self, timeout: Duration) -> Teardown;

    /// Starts a request: `descs` has 1 to [`MoverLimits::descs`] entries, and is only lent. Never waits.
    ///
    /// # Errors
    /// Nothing is in flight, or the link is latched.
    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError>;

    /// Asks for a request. In any order; each until it gives something else than [`Polled::Waiting`], and never after.
    fn poll(&mut self, request: Request) -> Polled;

    /// Into which pieces the engine is to cut merged runs, by direction: what the link that [`Self::connect`] made is
    /// fastest at. Asked after each `connect`. By default runs go whole.
    fn cuts(&self) -> Cuts {
        Cuts::WHOLE
    }

    /// Whether requests in flight go on only when they are polled, as staged ones do: then the engine asks often.
    fn is_driven(&self) -> bool {
        false
    }

    /// Whether a registered region is a local end through a stage only.
    fn stages(&self, region: RegionId) -> bool {
        let _ = region;
        false
    }

    /// Whether the peer's process is proven dead: a pidfd, on the same host. Called on slow threads and on the posting
    /// thread, and does not wait.
    fn is_peer_gone(&mut self) -> bool {
        false
    }

    /// What the library says of a number, for messages; fetched only when one is made.
    fn explain(&self, code: i32) -> Error;
}
