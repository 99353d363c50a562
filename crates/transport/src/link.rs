//! The two traits between engine and transports, and what each side tells the other.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, GrantId, Op, PeerId, RegionId, Runs, StatusKind};

use crate::inbox::Inbox;
use crate::{Batch, Memory, Rejected, State};

/// The ways to move bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum TransportKind {
    /// Within one process.
    Loopback,
    /// Same host, memory in a memfd that the peer maps.
    Shm,
    /// Same host, any memory, copied by the kernel (`process_vm_readv`).
    Cma,
    /// NPUs and hosts over HCCS, RoCE or UB, by CANN's HIXL.
    Hixl,
    /// NPUs of one host, by exported keys and copies on streams.
    Ipc,
    /// NPUs, by two-rank HCCL communicators; both sides take part.
    Hccl,
    /// Any hosts.
    Tcp,
    /// In virtual time, for tests.
    Sim,
}

impl TransportKind {
    /// The name in flags, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Shm => "shm",
            Self::Cma => "cma",
            Self::Hixl => "hixl",
            Self::Ipc => "ipc",
            Self::Hccl => "hccl",
            Self::Tcp => "tcp",
            Self::Sim => "sim",
        }
    }
}

impl TransportKind {
    /// Whether it moves the memory of devices.
    pub const fn moves_devices(self) -> bool {
        matches!(self, Self::Hixl | Self::Ipc | Self::Hccl)
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a transport can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Which transport.
    pub kind: TransportKind,
    /// Whether the peer's CPU takes no part in a transfer.
    pub one_sided: bool,
    /// Whether it can export any memory, or only memory backed by a memfd.
    pub any_memory: bool,
    /// Whether it checks a lease at the target before memory is touched.
    pub target_checked: bool,
    /// Regions of ours that it can register at a time; `None` where only `Limits` bounds them.
    pub regions_max: Option<u32>,
    /// Links that it can have at a time; `None` where only `Limits` bounds them.
    pub links_max: Option<u32>,
    /// Offsets and lengths of copies must be multiples of this many bytes.
    pub alignment: u32,
}

impl Capabilities {
    /// A one-sided transport of host memory, of any memory, and without limits of its own.
    pub const fn of(kind: TransportKind) -> Self {
        Self {
            kind,
            one_sided: true,
            any_memory: true,
            target_checked: false,
            regions_max: None,
            links_max: None,
            alignment: 1,
        }
    }
}

/// A secret drawn by the session for one link; both sides know it, nobody else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkKey(pub [u8; 32]);

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// Which side of the session asked for the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Goes to the other side's endpoint.
    Active,
    /// Waits for the other side.
    Passive,
}

/// What a link is made from.
#[derive(Clone)]
pub struct LinkConfig {
    /// The peer as this engine names it.
    pub peer: PeerId,
    /// The link's secret.
    pub key: LinkKey,
    /// Who goes to whom.
    pub role: Role,
    /// What the peer's transport of the same kind offered.
    pub offer: Bytes,
    /// The engine's side of the link.
    pub sink: Arc<dyn LinkSink>,
    /// What the peer's side of this link says to ours.
    pub inbox: Inbox,
    /// Until when the rendezvous and the probe must have succeeded.
    pub deadline: Instant,
}

/// Bytes of one message between the two sides of a link, at most.
pub const MAX_LINK_MESSAGE_BYTES: usize = 32_768;

/// One per engine and kind. Knows no engine types.
pub trait Transport: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Endpoint facts for the other side, carried by the handshake: an address, a socket's name, a nonce.
    fn offer(&self) -> Bytes;

    /// Makes this side of a link. `Active`: goes to the peer, proves the way with a probe copy, and returns a usable
    /// link or the reason why this transport is not to be had; blocks until then, so never on a hot thread.
    /// `Passive`: returns at once; `sink.attached()` follows when the peer came and its probe succeeded.
    ///
    /// # Errors
    /// The reason in words that `auto` can log: other network namespace, no ptrace right, a failed probe.
    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>, Error>;

    /// Undoes what was registered natively for a region of ours that neither a transfer nor a peer uses any more. Blocks
    /// until `deadline` at most; never called on a hot thread. Links that pin the registration may be made anew for it.
    ///
    /// # Errors
    /// The native library did not let go: the region's memory must stay as it is.
    fn forget(&self, region: RegionId, deadline: Instant) -> Result<(), Error> {
        let _ = (region, deadline);
        Ok(())
    }

    /// Stops its threads and listeners, without waiting. Links are closed one by one before.
    fn close(&self);
}

/// Both roles towards one peer. Calls are per batch, never per block.
pub trait Link: Send + Sync {
    /// Which transport.
    fn kind(&self) -> TransportKind;

    /// Makes a region of the peer usable for batches; gives its length. Maps and populates where memory is mapped.
    /// Blocks until `deadline` at most; never called on a hot thread. Importing twice is one import.
    ///
    /// # Errors
    /// The peer refused or does not know the region, the descriptor is unsealed or short, the deadline passed.
    fn import(&self, region: RegionId, deadline: Instant) -> Result<u64, Error>;

    /// Makes a region of ours usable as the local side of batches: registers it where the native library asks for that.
    /// Blocks until `deadline` at most; never called on a hot thread. Adopting twice is adopting once.
    ///
    /// # Errors
    /// This link cannot move memory of that kind, and what to do about it.
    fn adopt(&self, region: RegionId, memory: &Arc<Memory>, deadline: Instant) -> Result<(), Error> {
        let _ = (region, deadline);
        if memory.device().is_some() {
            let text = "the local memory is a device's, which this transport cannot touch";
            return Err(Error::new(ErrorKind::Unsupported, "route", text));
        }
        Ok(())
    }

    /// Whether bytes between these regions, ours that were adopted and the peer's that were imported, rest in buffers on their
    /// way, since this link does not reach the memory of one by itself.
    fn stages(&self, local: &[RegionId], remote: &[RegionId]) -> bool {
        let _ = (local, remote);
        false
    }

    /// Starts a batch, or gives it back. Never blocks; a batch of at most 64 KiB may be finished inside.
    ///
    /// # Errors
    /// [`Rejected`]: nothing was started.
    fn post(&self, batch: Batch) -> Result<(), Rejected>;

    /// A hint that the caller no longer wants the batch; exactly one end still follows.
    fn cancel(&self, id: ropeway_core::TransferId);

    /// The caller's thread works for this link until `state` is terminal or `until` has passed, and sleeps when there
    /// is nothing to do.
    fn drive(&self, state: &State, until: Option<Instant>);

    /// The owner's fence word for `grant` was closed: says whether the peer's accesses under it are over. `Pending`:
    /// `sink.fenced(grant)` follows when they are.
    fn fence(&self, grant: GrantId) -> Fenced;

    /// Our region is closing: the peer must let go of its import. `Pending`: `sink.withdrawn(region)` follows.
    fn withdraw(&self, region: RegionId) -> Fenced;

    /// For a link whose two sides prove their ends to each other over the session: how long that can take at most. The
    /// session is kept for it, and ends with the link.
    fn parts_within(&self) -> Option<Duration> {
        None
    }

    /// Ends the link: no new batch, those in flight end. `sink.closed()` follows once, when nothing of this link can
    /// touch memory any more, on either side as far as this side's memory goes.
    fn close(&self);
}

/// Whether accesses are proven over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fenced {
    /// They are.
    Now,
    /// The sink will be told.
    Pending,
}

/// What a link needs from the engine, and what it tells it. One per link. Calls may come from any thread of the
/// transport, never under a lock of it.
pub trait LinkSink: Send + Sync {
    /// The passive side's peer came and its probe succeeded: the link can be used.
    fn attached(&self);

    /// Sends a message to the peer's side of this link: in order, encrypted, as long as the session lives. At most
    /// [`MAX_LINK_MESSAGE_BYTES`]; never blocks.
    ///
    /// # Errors
    /// The session is over, or the message is too long.
    fn say(&self, message: Bytes) -> Result<(), Error>;

    /// Whether our lease is open now, for access in this way: the owner's word after a one-sided read. One load.
    fn is_open(&self, grant: GrantId, op: Op) -> bool;

    /// Whether a holder of our lease may be writing: false for a lease to read, open or not. When in doubt, true.
    fn may_write(&self, grant: GrantId) -> bool {
        let _ = grant;
        true
    }

    /// Whether the peer holds a lease of ours to write that is not proven over: open, or closed and still withheld. Blocks
    /// under it are reused on the writer's word or its proven death, and never because time has passed. When in doubt, true.
    fn peer_may_write(&self) -> bool {
        true
    }

    /// The peer asks for one of our regions. Pins it until `withdrawn` or `closed`.
    ///
    /// # Errors
    /// Unknown, closing, or not open to this peer.
    fn export(&self, region: RegionId) -> Result<Arc<Memory>, Error>;

    /// The peer has let go of our region, or never had it.
    fn withdrawn(&self, region: RegionId);

    /// A target-checked transport received a request: checks lease, rights, block set, bounds and limits.
    ///
    /// The one call that comes under a lock: the stream's, so that requests are checked in the order in which they came.
    /// It must not run the caller's code; what may do so when it is dropped, a permit, goes out with the answer.
    ///
    /// # Errors
    /// What the initiator is to see.
    fn serve(&self, request: &ServeRequest<'_>) -> Result<Served, Declined>;

    /// Accesses under a grant that was `Pending` are over.
    fn fenced(&self, grant: GrantId);

    /// The link can no longer be used; why, in words. `closed` follows. Only for a link that was attached: one that never
    /// was ends with `closed(false)` alone, so that another way to the peer can be taken.
    fn lost(&self, error: Error);

    /// Nothing of this link touches our memory any more. Follows once; the key to quarantine. `peer_gone` when the peer's
    /// process is proven dead.
    fn closed(&self, peer_gone: bool);
}

/// A request from a peer.
#[derive(Debug)]
pub struct ServeRequest<'a> {
    /// Which way, as the initiator sees it.
    pub op: Op,
    /// Our lease that it names.
    pub grant: GrantId,
    /// The plan's compact form, as `Runs::encode` wrote it. Untrusted.
    pub plan: &'a [u8],
    /// First byte of the plan's byte order that this request covers.
    pub start: u64,
    /// How many bytes it covers.
    pub bytes: u64,
}

/// A request that failed a check.
pub struct Declined {
    /// The status kind that the initiator is to see.
    pub why: StatusKind,
    /// Dropped when no lock is held: the request may have counted already.
    pub permit: Option<Box<dyn Send>>,
}

impl From<StatusKind> for Declined {
    fn from(why: StatusKind) -> Self {
        Self { why, permit: None }
    }
}

/// A request that passed all checks. Counts against the peer's limits until it is dropped.
pub struct Served {
    /// Our side of the copies, `Run::local` and `Run::local_region` only: exactly the bytes that the request covers.
    pub runs: Arc<dyn Runs>,
    /// Our memory, by `Run::local_region`.
    pub memory: Arc<[Arc<Memory>]>,
    /// Dropped when the request is done: gives room back.
    pub permit: Box<dyn Send>,
}
