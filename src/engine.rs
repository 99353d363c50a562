//! The engine: what a program opens, and closes.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::layout::{CacheLayout, LayoutSpec};
use ropeway_core::wire::{Auth, Descriptor, Secret};
use ropeway_core::{Error, ErrorKind, Incarnation, Limits, Result};
use ropeway_transport::{Calibration, Memory};

use crate::builder::Builder;
use crate::cache::{Cache, CacheBuilder};
use crate::completion::Completions;
use crate::control::{Purpose, Target, Wanted};
use crate::peer::Peer;
use crate::pending::{Pending, pending};
use crate::quarantine::Quarantined;
use crate::region::{Host, HostKind, Region};
use crate::secret::{AuthMode, ClusterKey, Psk};
use crate::shared::Shared;

/// The engine. Cheap to clone; closed in the background when the last handle is dropped.
///
/// ```
/// # fn main() -> ropeway::Result<()> {
/// let engine = ropeway::Engine::builder().open()?; // loopback only: no port, no file, no device
/// engine.close(std::time::Duration::from_secs(1))?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    secret: Secret,
    cluster: Option<ClusterKey>,
    calibration: Calibration,
}

/// What an engine still held when it was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// In words, one line each: transfers, leases, links. Empty: nothing can touch this engine's memory any more.
    pub held: Vec<String>,
}

impl Engine {
    /// Starts describing an engine. Without more, it is reached from this process only.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        addresses: Vec<SocketAddr>,
        secret: Secret,
        cluster: Option<ClusterKey>,
        calibration: Calibration,
    ) -> Self {
        nearby().lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shared));
        Self(Arc::new(Handle { shared, addresses, secret, cluster, calibration }))
    }

    /// The random number of this engine's life.
    pub fn incarnation(&self) -> Incarnation {
        self.shared().incarnation
    }

    /// The limits that it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.shared().limits
    }

    /// Which copy routine and how many threads suit this machine, as measured at open.
    pub fn calibration(&self) -> &Calibration {
        &self.0.calibration
    }

    /// What a peer needs to connect: incarnation, addresses and, unless a cluster key replaces it, the secret. As a string
    /// it holds the secret: carry it over a channel that you trust.
    pub fn descriptor(&self) -> Descriptor {
        let auth = match self.shared().psk.mode {
            AuthMode::Descriptor => Auth::Secret(self.0.secret.clone()),
            AuthMode::Cluster => Auth::ClusterKey,
            _ => Auth::Insecure,
        };
        Descriptor { incarnation: Some(self.incarnation()), addresses: self.0.addresses.clone(), auth }
    }

    /// Allocates a region, or adopts a memfd. Memory is populated before this returns, so that no transfer pays for it.
    ///
    /// # Errors
    /// `Resource` when there is not enough, naming the limit (the memory cgroup's too); `Full` at `Limits::regions`.
    #[tracing::instrument(level = "debug", skip_all, fields(host = ?host.0))]
    pub fn alloc(&self, host: Host) -> Result<Region> {
        let shared = self.shared();
        shared.check("alloc")?;
        let memory = match host.0 {
            HostKind::Private(bytes) => Memory::anonymous(bytes, &shared.janitor)?,
            HostKind::Shared(bytes) => Memory::shared(bytes, &shared.janitor)?,
            HostKind::Memfd(fd) => Memory::adopt(fd, &shared.janitor)?,
        };
        shared.add_region(memory).map(Region)
    }

    /// Registers memory that moves in with its owner: a `Vec<u8>`, a map. The owner is dropped, on the janitor thread, when
    /// nothing touches it any more; nobody sees its bytes as a slice until then.
    ///
    /// # Errors
    /// `ApiMisuse` for an empty one, `Full` at `Limits::regions`.
    pub fn register(&self, owner: impl AsMut<[u8]> + Send + 'static) -> Result<Region> {
        let shared = self.shared();
        shared.check("register")?;
        shared.add_region(Memory::owner(owner, &shared.janitor)?).map(Region)
    }

    /// Registers foreign memory.
    ///
    /// # Errors
    /// As [`Self::register`].
    ///
    /// # Safety
    /// Until `keep_alive` is dropped, `len` bytes from `base` on stay mapped, readable and writable, with the same
    /// physical backing (but between [`Region::suspend`] and [`Region::resume`]), and no reference to them is used while a transfer or a peer may touch them. Dropping must be
    /// sound on any thread.
    pub unsafe fn register_raw(
        &self,
        base: NonNull<u8>,
        len: u64,
        keep_alive: Box<dyn Any + Send>,
    ) -> Result<Region> {
        let shared = self.shared();
        shared.check("register")?;
        // SAFETY: the caller vouches for the range until the keep-alive is dropped, as `Memory::raw` asks.
        let memory = unsafe { Memory::raw(base.as_ptr(), len, keep_alive, &shared.janitor) }?;
        shared.add_region(memory).map(Region)
    }

    /// Starts describing a cache.
    pub fn cache(&self, name: impl Into<String>) -> CacheBuilder {
        self.build_cache(CacheLayout::builder(name))
    }

    /// Publishes a whole region as one block of raw bytes, for [`Route::read_raw`](crate::Route::read_raw): block 0 of
    /// its only group.
    ///
    /// # Errors
    /// As [`CacheBuilder::publish`].
    pub fn raw_cache(&self, name: impl Into<String>, region: &Region) -> Result<Cache> {
        let spec = CacheLayout::whole_region(name, region.id(), region.len());
        let mut builder = self.build_cache(spec);
        builder.regions.push(region.clone());
        builder.publish()
    }

    fn build_cache(&self, spec: LayoutSpec) -> CacheBuilder {
        CacheBuilder { shared: Arc::clone(self.shared()), spec, regions: Vec::new() }
    }

    /// Shows a note to peers: up to 256 KiB under a name of up to 64 characters, replaced when shown again. Whoever may
    /// connect may read it.
    ///
    /// # Errors
    /// `ApiMisuse` past these lengths; `Full` at 64 notes.
    pub fn show_note(&self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Result<()> {
        let shared = self.shared();
        shared.origin.check("note")?;
        shared.write_note(name.into(), bytes.into())
    }

    /// Connects to the engine that a descriptor names: session, then the quickest transports that work.
    ///
    /// # Errors
    /// `ApiMisuse` when the descriptor asks for a cluster key that this engine does not have. The pending answer fails
    /// with `Denied`, `StaleLease` (the engine was restarted), `Mismatch`, `LinkLost` or `TimedOut`.
    #[tracing::instrument(level = "debug", skip_all, fields(incarnation = ?descriptor.incarnation))]
    pub fn connect(&self, descriptor: &Descriptor, timeout: Duration) -> Result<Pending<Peer>> {
        self.connect_for(descriptor, timeout, Purpose::Blocks)
    }

    /// Connects to the engine that a descriptor names for what needs no transport: its notes, and claims that are only to be
    /// released. No transport is tried, so that none needs to be shared; routes of this peer fail.
    ///
    /// # Errors
    /// As [`Self::connect`], but for the transports.
    #[tracing::instrument(level = "debug", skip_all, fields(incarnation = ?descriptor.incarnation))]
    pub fn connect_control(&self, descriptor: &Descriptor, timeout: Duration) -> Result<Pending<Peer>> {
        self.connect_for(descriptor, timeout, Purpose::Control)
    }

    fn connect_for(
        &self,
        descriptor: &Descriptor,
        timeout: Duration,
        purpose: Purpose,
    ) -> Result<Pending<Peer>> {
        let shared = self.shared();
        shared.check("connect")?;
        let psk = match &descriptor.auth {
            Auth::Secret(secret) => Psk::descriptor(*secret.expose()),
            Auth::Insecure => Psk::insecure(),
            Auth::ClusterKey => Psk::cluster(self.0.cluster.as_ref().ok_or_else(|| {
                Error::new(
                    ErrorKind::ApiMisuse,
                    "connect",
                    "the descriptor asks for a cluster key; open this engine with Builder::cluster_key",
                )
            })?),
        };
        let until = crate::deadline::after(timeout);
        let (answer, answered) = pending();
        let wanted = Wanted { purpose, answer };
        let weak = Arc::downgrade(shared);
        let want = descriptor.incarnation;
        match want.and_then(find_nearby) {
            Some(target) => {
                let (near, far) = tokio_pair(shared)?;
                accept_near(&target, far)?;
                shared.control.spawn(crate::control::connect_near(weak, near, (psk, want), until, wanted));
            }
            None => {
                let target = Target { addresses: descriptor.addresses.clone(), psk, want };
                shared.control.spawn(crate::control::connect_far(weak, target, until, wanted));
            }
        }
        Ok(answered)
    }

    /// Connected peers, also those that connected to us. None in a forked child.
    pub fn peers(&self) -> Vec<Peer> {
        let shared = self.shared();
        if shared.is_foreign() {
            return Vec::new();
        }
        let peers = shared.all_peers().into_iter().filter(|peer| !peer.is_lost());
        peers.map(|peer| Peer::new(peer, shared, false)).collect()
    }

    /// Memory of ours that something that has ended may still touch, and why. Empty is what it should be.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let shared = self.shared();
        if shared.is_foreign() { Vec::new() } else { shared.quarantined() }
    }

    /// Ends of transfers, released quarantines and fatal events.
    pub fn completions(&self) -> &Completions {
        &self.shared().completions
    }

    /// Closes the engine: leases are revoked, transfers end, peers are told. Waits up to `timeout` until nothing of it can
    /// be touched by anyone, and reports what is left otherwise; memory that may still be touched stays mapped.
    ///
    /// # Errors
    /// `Forked` in a child process.
    #[tracing::instrument(level = "debug", skip_all, fields(incarnation = %self.incarnation()))]
    pub fn close(&self, timeout: Duration) -> Result<CloseReport> {
        let shared = self.shared();
        shared.origin.check("close")?;
        shared.shut();
        let until = crate::deadline::after(timeout);
        loop {
            let seen = shared.progress.observe();
            let held = shared.held();
            if held.is_empty() || !shared.progress.wait(seen, until) {
                shared.finish_close(held.is_empty());
                return Ok(CloseReport { held });
            }
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.shared.is_foreign() {
            // Signals only: a waker may be dropping the last handle on the very thread that a join would wait for.
            self.shared.shut();
            self.shared.close_when_quiet();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("incarnation", &self.incarnation())
            .field("addresses", &self.0.addresses)
            .finish()
    }
}

/// The engines of this process: they reach each other without a socket on the network.
fn nearby() -> &'static Mutex<Vec<Weak<Shared>>> {
    static NEARBY: OnceLock<Mutex<Vec<Weak<Shared>>>> = OnceLock::new();
    NEARBY.get_or_init(Mutex::default)
}

fn find_nearby(incarnation: Incarnation) -> Option<Arc<Shared>> {
    // Dropped after the lock: the last handle of an engine may run code of its own.
    let live: Vec<_> = {
        let mut engines = nearby().lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.iter().filter_map(Weak::upgrade).collect()
    };
    let usable = |engine: &Arc<Shared>| !engine.is_foreign() && !engine.is_closing();
    live.into_iter().find(|engine| engine.incarnation == incarnation && usable(engine))
}

/// Hands the other end of a socket pair to an engine of this process, as its listener would.
fn accept_near(target: &Arc<Shared>, stream: std::os::unix::net::UnixStream) -> Result<()> {
    let stream = target.control.adopt(stream).map_err(|e| Error::os("connect", "a socket pair", e))?;
    let weak = Arc::downgrade(target);
    target.control.spawn(async move {
        if let Err(error) = crate::control::accepted(weak, stream, None).await {
            tracing::info!(%error, "a connection from this process was refused");
        }
    });
    Ok(())
}

fn tokio_pair(shared: &Shared) -> Result<(tokio::net::UnixStream, std::os::unix::net::UnixStream)> {
    let pair = || {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok((shared.control.adopt(near)?, far))
    };
    pair().map_err(|e| Error::os("connect", "a socket pair", e))
}
