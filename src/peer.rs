//! Another engine: its session, its links, and what is claimed of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::wire::LeaseName;
use ropeway_core::{Error, ErrorKind, Incarnation, Limits, PeerId, RemoteDirectory, Result};
use ropeway_transport::{Inbox, Link, TransportKind};

use crate::cache::Cache;
use crate::control::Session;
use crate::grant::Grant;
use crate::pending::Pending;
use crate::route::{Route, RouteOptions};
use crate::shared::Shared;

/// A connected engine. Cheap to clone. When this side made the connection, it ends with the last handle, grant and route.
#[derive(Clone)]
pub struct Peer(pub(crate) Arc<PeerHandle>);

/// What the user's handles share; the tables hold [`PeerInner`].
pub(crate) struct PeerHandle {
    pub(crate) inner: Arc<PeerInner>,
    pub(crate) shared: Weak<Shared>,
    /// This side connected: the connection ends with the last handle.
    owns: bool,
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        if self.owns
            && let Some(shared) = self.shared.upgrade().filter(|shared| !shared.is_foreign())
        {
            shared.close_peer(&self.inner, "the last handle was dropped");
        }
    }
}

pub(crate) struct PeerInner {
    id: PeerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) session: Session,
    links: RwLock<BTreeMap<TransportKind, LinkEntry>>,
    /// Links that closed before the thread that made them had put them into the table. Locked after it.
    early_ends: Mutex<BTreeSet<TransportKind>>,
    /// Transports that were tried and are not to be had, with the reason.
    refused: Mutex<BTreeMap<TransportKind, String>>,
    /// What is known of the peer's caches.
    pub(crate) directory: Mutex<RemoteDirectory>,
    /// Held while what is held is told to the session: the last word must be the newest.
    pub(crate) holding: Mutex<()>,
    /// Passive links by the number that the peer gave them.
    expected: Mutex<BTreeMap<u32, TransportKind>>,
    /// What the peer's sides of links say to ours, by the links' numbers.
    inboxes: Mutex<BTreeMap<u32, (TransportKind, Inbox)>>,
    pub(crate) in_flight: AtomicU32,
    pub(crate) served_requests: AtomicU32,
    pub(crate) served_bytes: std::sync::atomic::AtomicU64,
    lost: AtomicBool,
    /// Why the session is about to end, once links have ended that need it.
    parting: Mutex<Option<String>>,
}

#[derive(Clone)]
struct LinkEntry {
    link: Arc<dyn Link>,
    /// Active links are usable at once, passive ones when the peer has come.
    usable: bool,
}

impl Peer {
    pub(crate) fn new(inner: Arc<PeerInner>, shared: &Arc<Shared>, owns: bool) -> Self {
        Self(Arc::new(PeerHandle { inner, shared: Arc::downgrade(shared), owns }))
    }

    /// Its number in this engine, as texts and [`Quarantined`](crate::Quarantined) name it.
    pub fn id(&self) -> PeerId {
        self.0.inner.id()
    }

    /// The peer's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.0.inner.incarnation
    }

    /// Whether the session lives.
    pub fn is_connected(&self) -> bool {
        !self.0.inner.is_lost()
    }

    /// The ways to this peer that work, best first.
    pub fn transports(&self) -> Vec<TransportKind> {
        self.0.inner.usable_links().iter().map(|link| link.kind()).collect()
    }

    /// The ways that were tried and do not work, each with its reason.
    pub fn refused_transports(&self) -> Vec<(TransportKind, String)> {
        self.0.inner.refused().iter().map(|(kind, why)| (*kind, why.clone())).collect()
    }

    /// Asks for the lease that a token names. The grant that comes back is renewed until its last clone is dropped.
    ///
    /// # Errors
    /// The token is of another engine or incarnation, or the peer is lost; the pending answer fails with `StaleLease`
    /// or `Denied` when the lease is over or the token is not its own.
    pub fn claim(&self, token: &ropeway_core::wire::Token, timeout: Duration) -> Result<Pending<Grant>> {
        self.shared("claim")?.claim(self, token, timeout)
    }

    /// Asks for the lease of that name, which may be told before it is granted. `holders` is how many peers will claim it
    /// of this owner, this one among them; the first word counts.
    ///
    /// # Errors
    /// As [`Self::claim`]. While the peer has no lease of the name, the answer fails with [`Retry::Later`].
    ///
    /// [`Retry::Later`]: crate::Retry::Later
    pub fn claim_named(&self, name: &LeaseName, holders: u32, timeout: Duration) -> Result<Pending<Grant>> {
        self.shared("claim")?.claim_named(self, *name, holders, timeout)
    }

    /// Reads a note that the peer shows; see [`Engine::show_note`](crate::Engine::show_note).
    ///
    /// # Errors
    /// The peer is lost; the pending answer fails with `Mismatch` when it shows no such note.
    pub fn note(&self, name: &str, timeout: Duration) -> Result<Pending<Bytes>> {
        self.shared("note")?.read_note(self, name, timeout)
    }

    /// Matches a local cache with the peer's cache `name`, whole parts on both sides, and imports its memory.
    ///
    /// # Errors
    /// The peer is lost; the pending answer fails with `Mismatch`, naming the field that differs.
    pub fn route(&self, cache: &Cache, name: &str, timeout: Duration) -> Result<Pending<Route>> {
        self.route_with(cache, name, RouteOptions::default(), timeout)
    }

    /// As [`Self::route`], over slices or a subset of the parts, or over a named transport.
    ///
    /// # Errors
    /// As [`Self::route`].
    pub fn route_with(
        &self,
        cache: &Cache,
        name: &str,
        options: RouteOptions,
        timeout: Duration,
    ) -> Result<Pending<Route>> {
        self.shared("route")?.route(self, cache, name, options, timeout)
    }

    /// Waits until a transfer to this peer can be submitted, up to `timeout`; `false` when it passed first.
    pub fn wait_for_room(&self, timeout: Duration) -> bool {
        let Some(shared) = self.0.shared.upgrade().filter(|shared| !shared.is_foreign()) else {
            return false;
        };
        let until = crate::deadline::after(timeout);
        loop {
            let seen = shared.progress.observe();
            if shared.has_room(&self.0.inner) {
                return true;
            }
            if !shared.progress.wait(seen, until) {
                return false;
            }
        }
    }

    /// Ends the connection: grants are released, transfers end, links close. Waits up to `timeout` until nothing of this
    /// peer can touch our memory.
    ///
    /// # Errors
    /// `TimedOut`, naming the links that are not proven closed.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        let Some(shared) = self.0.shared.upgrade() else { return Ok(()) };
        shared.origin.check("peer close")?;
        shared.close_peer(&self.0.inner, "closed by this side");
        let until = crate::deadline::after(timeout);
        loop {
            let seen = shared.progress.observe();
            let open: Vec<_> = self.0.inner.links().iter().map(|link| link.kind().name()).collect();
            if open.is_empty() {
                return Ok(());
            }
            if !shared.progress.wait(seen, until) {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "peer close",
                    format!(
                        "{} may still touch memory over {} after {timeout:?}",
                        self.0.inner.name(),
                        open.join(", ")
                    ),
                ));
            }
        }
    }

    fn shared(&self, operation: &'static str) -> Result<Arc<Shared>> {
        let shared = self.0.shared.upgrade();
        let shared =
            shared.ok_or_else(|| Error::new(ErrorKind::Closed, operation, "the engine is closed"))?;
        shared.check(operation)?;
        if self.0.inner.is_lost() {
            return Err(Error::new(
                ErrorKind::LinkLost,
                operation,
                format!("the session with {} ended; connect again", self.0.inner.name()),
            ));
        }
        Ok(shared)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("incarnation", &self.incarnation())
            .field("transports", &self.transports())
            .finish()
    }
}

impl PeerInner {
    pub(crate) fn new(id: PeerId, incarnation: Incarnation, session: Session, limits: &Limits) -> Self {
        Self {
            id,
            incarnation,
            session,
            links: RwLock::default(),
            early_ends: Mutex::default(),
            refused: Mutex::default(),
            directory: Mutex::new(RemoteDirectory::new(limits)),
            holding: Mutex::default(),
            expected: Mutex::default(),
            inboxes: Mutex::default(),
            in_flight: AtomicU32::new(0),
            served_requests: AtomicU32::new(0),
            served_bytes: std::sync::atomic::AtomicU64::new(0),
            lost: AtomicBool::new(false),
            parting: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id
    }

    /// How messages name the peer.
    pub(crate) fn name(&self) -> String {
        format!("peer {} (incarnation {})", self.id, self.incarnation)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Marks the session as ended; `true` the first time.
    pub(crate) fn mark_lost(&self) -> bool {
        !self.lost.swap(true, Ordering::AcqRel)
    }

    /// The session is to end when its links have. `false` when that was so already.
    pub(crate) fn begin_parting(&self, why: &str) -> bool {
        let mut parting = self.parting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = parting.is_none();
        parting.get_or_insert_with(|| why.to_owned());
        first
    }

    /// It may end now; why, for the one caller that ends it.
    pub(crate) fn end_parting(&self) -> Option<String> {
        self.parting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `false` when the link ended before it came here; then it is not kept.
    pub(crate) fn add_link(&self, link: Arc<dyn Link>, usable: bool) -> bool {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if self.early_ends().remove(&link.kind()) {
            return false;
        }
        links.insert(link.kind(), LinkEntry { link, usable });
        true
    }

    /// The peer has come and its probe succeeded.
    pub(crate) fn link_attached(&self, kind: TransportKind) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = links.get_mut(&kind) {
            entry.usable = true;
        }
    }

    /// The link is lost; it stays in the table until it is proven closed. Whether it had been usable.
    pub(crate) fn link_unusable(&self, kind: TransportKind) -> bool {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.get_mut(&kind).is_none_or(|entry| std::mem::take(&mut entry.usable))
    }

    /// The peer announced a link under this number.
    pub(crate) fn expect(&self, link: u32, kind: TransportKind) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(link, kind);
    }

    pub(crate) fn expected(&self, link: u32) -> Option<TransportKind> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&link)
    }

    /// A link is about to be made; its peer's side may speak at once.
    pub(crate) fn open_inbox(&self, link: u32, kind: TransportKind, inbox: &Inbox) {
        self.inboxes().insert(link, (kind, inbox.clone()));
    }

    /// The link was not made.
    pub(crate) fn close_inbox(&self, link: u32) {
        let closed = self.inboxes().remove(&link);
        if let Some((_, inbox)) = closed {
            inbox.close();
        }
    }

    /// What the peer's side of a link said. `false` when it says too much too early.
    pub(crate) fn deliver(&self, link: u32, message: Bytes) -> bool {
        let inbox = self.inboxes().get(&link).map(|(_, inbox)| inbox.clone());
        inbox.is_none_or(|inbox| inbox.deliver(message))
    }

    fn inboxes(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, (TransportKind, Inbox)>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a closed link out.
    pub(crate) fn remove_link(&self, kind: TransportKind) {
        let ended = self.links.write().unwrap_or_else(PoisonError::into_inner).remove(&kind);
        if ended.is_none() {
            self.early_ends().insert(kind);
        }
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, expected| *expected != kind);
        let mut closed = Vec::new();
        self.inboxes().retain(|_, (of, inbox)| {
            let keep = *of != kind;
            if !keep {
                closed.push(inbox.clone());
            }
            keep
        });
        closed.iter().for_each(Inbox::close);
    }

    fn early_ends(&self) -> std::sync::MutexGuard<'_, BTreeSet<TransportKind>> {
        self.early_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn links(&self) -> Vec<Arc<dyn Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().map(|entry| Arc::clone(&entry.link)).collect()
    }

    /// Usable links, best first (the order of [`TransportKind`]).
    pub(crate) fn usable_links(&self) -> Vec<Arc<dyn Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().filter(|entry| entry.usable).map(|entry| Arc::clone(&entry.link)).collect()
    }

    pub(crate) fn link(&self, kind: TransportKind) -> Option<Arc<dyn Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&kind).map(|entry| Arc::clone(&entry.link))
    }

    pub(crate) fn refuse_transport(&self, kind: TransportKind, why: String) {
        tracing::info!(peer = %self.id, transport = %kind, %why, "transport not to be had");
        self.refused().insert(kind, why);
    }

    pub(crate) fn refused(&self) -> std::sync::MutexGuard<'_, BTreeMap<TransportKind, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
