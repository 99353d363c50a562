//! Links: which transports are tried for a peer, and what links ask of the engine.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::machine::lease::Proof;
use ropeway_core::machine::session::Command;
use ropeway_core::plan::{PlanRequest, ServedRuns};
use ropeway_core::{Error, ErrorKind, GrantId, Op, PeerId, RegionId, Result, StatusKind};
use ropeway_transport::{
    Declined, Inbox, LinkConfig, LinkKey, LinkSink, Memory, Role, ServeRequest, Served, Transport,
    TransportKind,
};

use crate::peer::{Peer, PeerInner};
use crate::pending::Answer;
use crate::secret::random;
use crate::shared::Shared;

/// How long the passive side waits for a peer that has announced itself.
const ATTACH: Duration = Duration::from_secs(20);

/// How long a session may go on after one of its links is lost.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The numbers of the transports on the wire.
pub(crate) fn wire_kind(kind: TransportKind) -> u8 {
    match kind {
        TransportKind::Loopback => 1,
        TransportKind::Shm => 2,
        TransportKind::Cma => 3,
        TransportKind::Tcp => 4,
        TransportKind::Sim => 5,
        TransportKind::Hixl => 6,
        TransportKind::Ipc => 7,
        TransportKind::Hccl => 8,
        _ => 255,
    }
}

fn from_wire(kind: u8) -> Option<TransportKind> {
    use TransportKind::{Cma, Hccl, Hixl, Ipc, Loopback, Shm, Sim, Tcp};
    let known = [Loopback, Shm, Cma, Tcp, Sim, Hixl, Ipc, Hccl];
    known.into_iter().find(|known| wire_kind(*known) == kind)
}

/// Of a device's library alone, its failure is the connection's: what helps is known. What failed without its word is the
/// session's matter.
fn no_transport(text: String, failures: &[(TransportKind, Error)]) -> Error {
    let told = |why: &Error| why.native().is_some() || why.kind() == ErrorKind::TimedOut;
    match failures {
        [(kind, why)] if kind.moves_devices() && told(why) => {
            let error = Error::new(why.kind(), "connect", text).with_retry(why.retry());
            why.native().map_or(error.clone(), |number| error.with_native(number))
        }
        _ => Error::new(ErrorKind::LinkLost, "connect", text),
    }
}

impl Shared {
    /// The connecting side: tries the transports that both offer, best first, and gives the peer to whoever waits.
    /// Blocks; runs on a thread of its own.
    #[tracing::instrument(level = "debug", skip_all, fields(peer = %peer.id()))]
    pub(crate) fn open_links(self: &Arc<Self>, peer: &Arc<PeerInner>, until: Instant, answer: Answer<Peer>) {
        let mut failures = Vec::new();
        for transport in self.transports.clone() {
            let kind = transport.capabilities().kind;
            if !self.is_wanted(peer, kind) {
                continue;
            }
            let Some(offer) = offered(peer, kind) else {
                peer.refuse_transport(kind, "the peer does not offer it".into());
                continue;
            };
            if let Err(error) = self.open_link(peer, &*transport, offer, until) {
                peer.refuse_transport(kind, error.message().to_owned());
                failures.push((kind, error));
            }
        }
        if peer.usable_links().is_empty() {
            let reasons: Vec<_> = peer.refused().iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
            let text = format!("no transport reaches {}: {}", peer.name(), reasons.join("; "));
            self.close_peer(peer, "no transport");
            answer.give(Err(no_transport(text, &failures)));
        } else {
            answer.give(Ok(Peer::new(Arc::clone(peer), self, true)));
        }
    }

    /// The connecting side, for a connection without transports: its session ends with no copy to be waited for.
    pub(crate) fn without_links(self: &Arc<Self>, peer: &Arc<PeerInner>, answer: Answer<Peer>) {
        for transport in &self.transports {
            let why = "the connection is for control only; use Engine::connect for transfers";
            peer.refuse_transport(transport.capabilities().kind, why.into());
        }
        answer.give(Ok(Peer::new(Arc::clone(peer), self, true)));
    }

    /// Whether a transport adds anything to those that work already.
    fn is_wanted(&self, peer: &PeerInner, kind: TransportKind) -> bool {
        let have: Vec<_> = peer.usable_links().iter().map(|link| link.kind()).collect();
        let same_process = have.contains(&TransportKind::Loopback);
        // cma reaches what shm does not: memory outside a memfd. Where both work, tcp has nothing to add.
        let same_host = have.contains(&TransportKind::Shm) && have.contains(&TransportKind::Cma);
        match kind {
            // They reach what the others do not: a device's memory.
            TransportKind::Loopback | TransportKind::Hixl | TransportKind::Ipc | TransportKind::Hccl => true,
            // And the memory of an NPU, with what peers have in host memory.
            TransportKind::Tcp => !same_process && (!same_host || self.npu.is_some()),
            _ => !same_process,
        }
    }

    fn open_link(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        transport: &dyn Transport,
        offer: Bytes,
        until: Instant,
    ) -> Result<()> {
        let kind = transport.capabilities().kind;
        let key = random()?;
        let (ready, answer) = crossbeam_channel::bounded(1);
        let inbox = Inbox::default();
        let link = peer.session.open_link(self, peer, (kind, &inbox), key, ready)?;
        match answer.recv_deadline(until) {
            Ok(Ok(())) => {}
            Ok(Err(text)) => {
                peer.close_inbox(link);
                return Err(Error::new(ErrorKind::Unsupported, "connect", text));
            }
            Err(_) => {
                peer.close_inbox(link);
                let text = "the peer did not answer in time";
                let _ = peer.session.say(self, peer, Command::LinkFailed { link, text: text.into() });
                return Err(Error::new(ErrorKind::TimedOut, "connect", text));
            }
        }
        let made = transport.link(LinkConfig {
            peer: peer.id(),
            key: LinkKey(key),
            role: Role::Active,
            offer,
            sink: Sink::of(self, peer, kind, link),
            inbox,
            deadline: until,
        });
        match made {
            Ok(made) => {
                if !peer.add_link(Arc::clone(&made), true) {
                    return Err(Error::new(ErrorKind::LinkLost, "connect", "the link was lost at once"));
                }
                // A session that ended before the link was in the table has not closed it.
                if peer.is_lost() {
                    made.close();
                }
                Ok(())
            }
            Err(error) => {
                peer.close_inbox(link);
                let text = error.message().to_owned();
                let _ = peer.session.say(self, peer, Command::LinkFailed { link, text });
                Err(error)
            }
        }
    }

    /// The accepting side: the peer is about to come over a transport.
    pub(crate) fn expect_link(self: &Arc<Self>, peer: &Arc<PeerInner>, link: u32, kind: u8, key: [u8; 32]) {
        let made = from_wire(kind)
            .and_then(|kind| self.transports.iter().find(|transport| transport.capabilities().kind == kind))
            .ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "accept", "this engine does not offer that transport")
            })
            .and_then(|transport| {
                let kind = transport.capabilities().kind;
                if peer.link(kind).is_some() {
                    let text = format!("there is a {kind} link already");
                    return Err(Error::new(ErrorKind::Protocol, "accept", text));
                }
                let inbox = Inbox::default();
                peer.open_inbox(link, kind, &inbox);
                let made = transport.link(LinkConfig {
                    peer: peer.id(),
                    key: LinkKey(key),
                    role: Role::Passive,
                    offer: offered(peer, kind).unwrap_or_default(),
                    sink: Sink::of(self, peer, kind, link),
                    inbox,
                    deadline: Instant::now() + ATTACH,
                })?;
                peer.expect(link, kind);
                peer.add_link(Arc::clone(&made), false);
                // A session that ended before the link was in the table has not closed it.
                if peer.is_lost() {
                    made.close();
                }
                Ok(())
            });
        let answer = match made {
            Ok(()) => Command::LinkReady { link },
            Err(error) => {
                peer.close_inbox(link);
                Command::LinkFailed { link, text: error.message().to_owned() }
            }
        };
        let _ = peer.session.say(self, peer, answer);
    }

    /// The other side could not make, or no longer expects, a link.
    pub(crate) fn link_failed(self: &Arc<Self>, peer: &Arc<PeerInner>, link: u32, text: String) {
        if let Some(answer) = peer.session.take_link(link) {
            let _ = answer.send(Err(text));
            return;
        }
        if let Some(kind) = peer.expected(link) {
            peer.refuse_transport(kind, text);
            if let Some(link) = peer.link(kind) {
                link.close();
            }
        }
    }

    /// Ends the session and all links of a peer; nothing is waited for. Links whose sides prove their ends over the session
    /// go first: it follows when they are closed, or when they would have spoken by now.
    pub(crate) fn close_peer(self: &Arc<Self>, peer: &Arc<PeerInner>, why: &str) {
        let talking: Vec<_> =
            peer.links().into_iter().filter_map(|link| Some((link.parts_within()?, link))).collect();
        let longest = talking.iter().map(|(within, _)| *within).max();
        let Some(longest) = longest.filter(|_| !peer.is_lost()) else {
            return self.say_goodbye(peer, why);
        };
        if !peer.begin_parting(why) {
            return;
        }
        talking.iter().for_each(|(_, link)| link.close());
        let (weak, peer) = (Arc::downgrade(self), Arc::clone(peer));
        self.control.spawn(async move {
            tokio::time::sleep(longest).await;
            if let (Some(shared), Some(why)) = (weak.upgrade(), peer.end_parting()) {
                shared.say_goodbye(&peer, &why);
            }
        });
    }

    fn say_goodbye(self: &Arc<Self>, peer: &Arc<PeerInner>, why: &str) {
        use ropeway_core::wire::message::Why;
        let goodbye = Command::Goodbye { why: Why::Closed, text: why.to_owned() };
        let _ = peer.session.say(self, peer, goodbye);
    }

    /// The session is over: leases are revoked, grants end, links close. No proof of anything.
    pub(crate) fn session_over(self: &Arc<Self>, peer: &Arc<PeerInner>) {
        if !peer.mark_lost() {
            return;
        }
        // Said before the grants end: it is the connection that ended, not the leases.
        let why = if self.is_closing() { StatusKind::Closed } else { StatusKind::LinkLost };
        let flights = self.flights_in_air();
        flights.iter().filter(|flight| flight.peer.id() == peer.id()).for_each(|flight| flight.blame(why));
        self.with_leases(|leases, now| leases.table.peer_lost(peer.id(), now));
        self.with_grants(|grants, _| grants.table.peer_lost(peer.id()));
        let links = peer.links();
        if links.is_empty() {
            self.links_closed(peer, false);
        }
        for link in links {
            link.close();
        }
        self.progress.moved();
    }

    fn link_closed(self: &Arc<Self>, peer: &Arc<PeerInner>, kind: TransportKind, peer_gone: bool) {
        tracing::info!(peer = %peer.id(), transport = %kind, peer_gone, "link closed");
        // While the link is in the table: without it an engine that closes would take its threads to be done with.
        let talks = peer.links().iter().any(|link| link.kind() != kind && link.parts_within().is_some());
        if let Some(why) = if talks { None } else { peer.end_parting() } {
            self.say_goodbye(peer, &why);
        }
        peer.remove_link(kind);
        for region in self.all_regions() {
            region.withdrawn(peer.id(), kind);
        }
        self.release_link(peer.id(), kind);
        if peer_gone || peer.links().is_empty() {
            self.links_closed(peer, peer_gone);
        }
        self.progress.moved();
    }

    /// Nothing of the peer can touch our memory any more.
    fn links_closed(self: &Arc<Self>, peer: &Arc<PeerInner>, peer_gone: bool) {
        let id = peer.id();
        let proof = if peer_gone { Proof::ProcessGone { peer: id } } else { Proof::LinkClosed { peer: id } };
        if peer.is_lost() || peer_gone {
            self.with_leases(|leases, now| leases.table.prove(proof, now));
            self.with_grants(|grants, _| grants.table.link_closed(id));
        }
        if peer.is_lost() && peer.links().is_empty() {
            self.forget_peer(id);
        }
    }
}

fn offered(peer: &PeerInner, kind: TransportKind) -> Option<Bytes> {
    let offers = &peer.session.hello.offers;
    offers.iter().find(|offer| offer.kind == wire_kind(kind)).map(|offer| offer.bytes.clone())
}

/// The engine's side of one link. Keeps the peer until the link has told its end, however late; not the engine.
struct Sink {
    shared: Weak<Shared>,
    peer: Arc<PeerInner>,
    kind: TransportKind,
    /// The link's number in the session.
    link: u32,
}

impl Sink {
    fn of(shared: &Arc<Shared>, peer: &Arc<PeerInner>, kind: TransportKind, link: u32) -> Arc<dyn LinkSink> {
        Arc::new(Self { shared: Arc::downgrade(shared), peer: Arc::clone(peer), kind, link })
    }

    fn both(&self) -> Option<(Arc<Shared>, Arc<PeerInner>)> {
        Some((self.shared.upgrade()?, Arc::clone(&self.peer)))
    }
}

impl LinkSink for Sink {
    fn attached(&self) {
        if let Some((shared, peer)) = self.both() {
            peer.link_attached(self.kind);
            tracing::info!(peer = %peer.id(), transport = %self.kind, "link attached");
            shared.progress.moved();
        }
    }

    fn say(&self, message: Bytes) -> Result<()> {
        let gone = || Error::new(ErrorKind::Closed, "link message", "the engine is closed");
        let (shared, peer) = self.both().ok_or_else(gone)?;
        peer.session.say(&shared, &peer, Command::LinkSay { link: self.link, bytes: message })
    }

    fn is_open(&self, grant: GrantId, op: Op) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.fence.is_open(grant, op))
    }

    fn may_write(&self, grant: GrantId) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.fence.may_write(grant))
    }

    fn peer_may_write(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.peer_may_write(self.peer.id()))
    }

    fn export(&self, region: RegionId) -> Result<Arc<Memory>> {
        let gone = || Error::new(ErrorKind::Closed, "import", format!("region {region} is not open here"));
        let (shared, peer) = self.both().ok_or_else(gone)?;
        let found = shared.region(region).ok_or_else(gone)?;
        if !shared.is_published(region) {
            let text = format!("region {region} belongs to no published cache");
            return Err(Error::new(ErrorKind::Denied, "import", text));
        }
        if found.memory.device().is_some() && !self.kind.moves_devices() {
            let text = format!("region {region} is in a device's memory, which {} cannot touch", self.kind);
            return Err(Error::new(ErrorKind::Unsupported, "import", text));
        }
        found.export(peer.id(), self.kind)
    }

    fn withdrawn(&self, region: RegionId) {
        if let Some((shared, peer)) = self.both() {
            if let Some(region) = shared.region(region) {
                region.withdrawn(peer.id(), self.kind);
            }
            shared.progress.moved();
        }
    }

    fn serve(&self, request: &ServeRequest<'_>) -> Result<Served, Declined> {
        let (shared, peer) = self.both().ok_or(StatusKind::Closed)?;
        let room = Room::take(&shared, &peer, request)?;
        let ServeRequest { op, grant, plan, start, bytes } = *request;
        let (cache, blocks) = shared.with_leases(|leases, _| {
            let blocks = leases.table.serve_begin(peer.id(), grant, op)?;
            let cache = leases.cache_of(grant).expect("a lease that is served has its handle");
            Ok::<_, StatusKind>((cache, blocks))
        })?;
        let permit = Permit { shared: Arc::downgrade(&shared), grant, _room: room };
        let served = || -> Result<_> {
            let request = PlanRequest::decode(plan, &shared.limits)?;
            request.check_within(&blocks)?;
            let runs = ServedRuns::new(&cache.layout, &request, op, start, bytes, &shared.limits)?;
            let memory = runs.local_regions().iter().map(|id| {
                let region = cache.regions.iter().find(|region| region.id == *id && !region.is_closing());
                region
                    .map(|region| Arc::clone(&region.memory))
                    .ok_or_else(|| Error::new(ErrorKind::Closed, "serve", format!("region {id} is closed")))
            });
            let memory = memory.collect::<Result<_>>()?;
            Ok((Arc::new(runs), memory))
        };
        match served() {
            Ok((runs, memory)) => Ok(Served { runs, memory, permit: Box::new(permit) }),
            Err(error) => {
                tracing::warn!(peer = %peer.id(), %grant, %error, "a request was refused");
                let why = match error.kind() {
                    ErrorKind::Closed => StatusKind::Closed,
                    ErrorKind::Protocol => StatusKind::Protocol,
                    ErrorKind::Full => StatusKind::PeerFull,
                    _ => StatusKind::Denied,
                };
                // Its drop may free the lease, which wakes the caller's tasks: not under the stream's lock.
                Err(Declined { why, permit: Some(Box::new(permit)) })
            }
        }
    }

    fn fenced(&self, grant: GrantId) {
        if let Some((shared, peer)) = self.both() {
            shared.fenced(grant, peer.id());
        }
    }

    fn lost(&self, error: Error) {
        if let Some((shared, peer)) = self.both() {
            tracing::warn!(peer = %peer.id(), transport = %self.kind, %error, "link lost");
            peer.refuse_transport(self.kind, error.message().to_owned());
            if !peer.link_unusable(self.kind) {
                // The peer tried this way and found it closed: it takes another one.
                return;
            }
            // A data connection that broke is a peer that must be met anew: its grants and routes are void. But what
            // it said before, a release or a goodbye, may still be on its way over the control connection.
            let last_words = if error.kind() == ErrorKind::PeerGone { Duration::ZERO } else { LAST_WORDS };
            let weak = Arc::downgrade(&shared);
            shared.control.spawn(async move {
                tokio::time::sleep(last_words).await;
                if let Some(shared) = weak.upgrade() {
                    shared.close_peer(&peer, error.message());
                }
            });
        }
    }

    fn closed(&self, peer_gone: bool) {
        if let Some((shared, peer)) = self.both() {
            shared.link_closed(&peer, self.kind, peer_gone);
        }
    }
}

/// A peer's share of what we serve at a time.
struct Room {
    peer: Arc<PeerInner>,
    bytes: u64,
}

impl Room {
    fn take(shared: &Shared, peer: &Arc<PeerInner>, request: &ServeRequest<'_>) -> Result<Self, StatusKind> {
        let requests = peer.served_requests.fetch_add(1, Ordering::AcqRel) + 1;
        let bytes =
            peer.served_bytes.fetch_add(request.bytes, Ordering::AcqRel).saturating_add(request.bytes);
        let room = Self { peer: Arc::clone(peer), bytes: request.bytes };
        // One request alone is always let in: its own size is bounded by the cache that it names.
        let too_many = requests > shared.limits.served_requests_per_peer();
        let too_much = requests > 1 && bytes > shared.limits.served_bytes_per_peer();
        if too_many || too_much { Err(StatusKind::PeerFull) } else { Ok(room) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.peer.served_requests.fetch_sub(1, Ordering::AcqRel);
        self.peer.served_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Held while a request is served: the lease is not free before it is dropped.
struct Permit {
    shared: Weak<Shared>,
    grant: GrantId,
    _room: Room,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.with_leases(|leases, _| leases.table.serve_end(self.grant));
        }
    }
}

impl Shared {
    pub(crate) fn all_regions(&self) -> Vec<Arc<crate::region::RegionInner>> {
        crate::shared::read(&self.regions).iter().filter_map(Weak::upgrade).collect()
    }

    fn is_published(&self, region: RegionId) -> bool {
        // Dropped after the lock: the last handle of a cache takes it to withdraw the cache.
        let live: Vec<_> =
            crate::shared::read(&self.caches).live.values().filter_map(Weak::upgrade).collect();
        live.iter().any(|cache| cache.regions.iter().any(|known| known.id == region))
    }

    /// Sends a lease's end to its holder, or our release to its owner.
    pub(crate) fn tell(self: &Arc<Self>, peer: PeerId, command: Command) {
        // A peer whose session is over hears nothing; its proofs come from its links.
        if let Some(peer) = self.peer(peer) {
            let _ = peer.session.say(self, &peer, command);
            self.refresh_holding(&peer);
        }
    }
}
