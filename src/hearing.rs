//! What a session says, carried to the tables; and the requests that go the other way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ropeway_core::machine::directory::Change;
use ropeway_core::machine::session::{Command, Event};
use ropeway_core::plan::RouteMap;
use ropeway_core::wire::hello::{Hello, HostIdentity, Offer, PeerLimits};
use ropeway_core::wire::message::{CacheInfo, Why};
use ropeway_core::wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, decode_layout};
use ropeway_core::{CacheId, Error, ErrorKind, GrantId, Incarnation, RegionId, Result};
use ropeway_transport::{Link, TransportKind};

use crate::cache::Cache;
use crate::claiming::not_located;
use crate::control::Waiting;
use crate::linking::wire_kind;
use crate::notes::not_noted;
use crate::peer::{Peer, PeerInner};
use crate::pending::{Pending, pending};
use crate::route::{Route, RouteInner, RouteOptions};
use crate::shared::Shared;

impl Shared {
    /// Carries an event of a session to the tables. No lock is held.
    pub(crate) fn hear(self: &Arc<Self>, peer: &Arc<PeerInner>, event: Event) {
        match event {
            Event::ClaimAsked { cache, grant, secret, .. } => self.claim_asked(peer, cache, grant, secret.0),
            Event::ClaimAnswered { request, grant, result } => {
                let result = result.map_err(|refusal| (refusal.why, refusal.text));
                self.claim_answered(peer, request, grant, result);
            }
            Event::Released { grant } => {
                self.with_leases(|leases, now| leases.table.release(peer.id(), grant, now));
            }
            Event::Forsaken { grant } => {
                self.with_leases(|leases, now| leases.table.forsaken(peer.id(), grant, now));
            }
            Event::Revoked { grant } => self.with_grants(|grants, _| grants.table.revoked(peer.id(), grant)),
            Event::Renewed => {
                self.with_leases(|leases, now| leases.table.renew(peer.id(), now));
            }
            Event::Confirmed { sent } => {
                self.with_grants(|grants, _| grants.table.renewed_at(peer.id(), sent));
            }
            Event::Notified { grant, sequence, failed } => {
                if let Err(why) = self.notified(peer.id(), grant, sequence, failed) {
                    let _ = peer.session.say(self, peer, Command::RefuseNotify { grant, sequence, why });
                }
            }
            Event::NotifyRefused { grant, sequence, why } => {
                tracing::warn!(peer = %peer.id(), %grant, sequence, ?why, "a notification was not counted");
            }
            Event::LinkOpen { link, kind, key } => self.expect_link(peer, link, kind, key.0),
            Event::LinkReady { link } => {
                if let Some(answer) = peer.session.take_link(link) {
                    let _ = answer.send(Ok(()));
                }
            }
            Event::LinkFailed { link, text } => self.link_failed(peer, link, text),
            Event::LinkSaid { link, bytes } => {
                if !peer.deliver(link, bytes) {
                    self.close_peer(peer, "messages of a link came before the link, too many of them");
                }
            }
            Event::Silent { since } => self.silent(peer, since),
            Event::Closed { why, text, by_peer } => {
                tracing::info!(peer = %peer.id(), ?why, %text, by_peer, "session over");
                self.session_over(peer);
            }
            Event::CacheChanged { cache, version, name, live } => {
                let change = Change { cache, version, live, name };
                if lock(&peer.directory).changed(&change) {
                    tracing::info!(peer = %peer.id(), ?change, "a cache has changed; its routes are of the past");
                }
            }
            other => self.hear_question(peer, other),
        }
        self.refresh_holding(peer);
    }

    /// What one side asks and the other answers.
    fn hear_question(self: &Arc<Self>, peer: &Arc<PeerInner>, event: Event) {
        match event {
            Event::FindAsked { request, name, holders } => self.find_asked(peer, request, &name, holders),
            Event::Located { request, result } => {
                if let Some(Waiting::Find { answer, .. }) = peer.session.take_waiting(request) {
                    answer(result.map_err(|no| not_located(no.why, &no.text)));
                }
            }
            Event::NoteAsked { request, name } => self.note_asked(peer, request, &name),
            Event::NoteAnswered { request, result } => {
                if let Some(Waiting::Note { answer, .. }) = peer.session.take_waiting(request) {
                    answer.give(result.map_err(|no| not_noted(no.why, &no.text)));
                }
            }
            Event::LookupAsked { request, name, known } => self.lookup_asked(peer, request, &name, known),
            Event::LookupAnswered { request, result, .. } => {
                if let Some(Waiting::Lookup { answer, .. }) = peer.session.take_waiting(request) {
                    answer(
                        result.map_err(|no| Error::new(no.why.kind(), "route", refused(no.why, &no.text))),
                    );
                }
            }
            other => tracing::debug!(?other, "session event"),
        }
    }

    /// Heartbeats run while something is held, and only then.
    pub(crate) fn refresh_holding(self: &Arc<Self>, peer: &Arc<PeerInner>) {
        // Looked up and told under one lock: the last word must be the newest. The tables' own locks, and not
        // `with_leases`: what those would do besides may come back here.
        let _order = lock(&peer.holding);
        let ours = lock(&self.grants).table.heartbeat_pause(peer.id());
        let theirs = lock(&self.leases).table.held_by(peer.id()) > 0;
        peer.session.set_holding(self, ours, theirs);
    }

    pub(crate) fn tick_sessions(self: &Arc<Self>) -> Option<Instant> {
        let peers = self.all_peers();
        let sessions = peers.iter().filter_map(|peer| {
            self.refresh_holding(peer);
            peer.session.tick(self, peer)
        });
        let first = sessions.min();
        self.with_grants(|grants, now| grants.table.tick(now));
        let grants = self.with_grants(|grants, _| grants.table.next_timer()).map(|at| self.instant(at));
        first.into_iter().chain(grants).min()
    }

    /// The peer was not heard for too long while leases are held: a dead connection, or a stopped process.
    fn silent(self: &Arc<Self>, peer: &Arc<PeerInner>, since: Duration) {
        let holding = self.with_grants(|grants, _| grants.table.needs_heartbeat(peer.id()))
            || self.with_leases(|leases, _| leases.table.held_by(peer.id()) > 0);
        if holding {
            let text = format!("silent since {:?} after this engine's start", since);
            let _ = peer.session.say(self, peer, Command::Goodbye { why: Why::Silent, text });
        }
    }

    fn lookup_asked(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        request: u32,
        name: &str,
        known: Option<CacheId>,
    ) {
        let result = crate::shared::read(&self.caches).directory.lookup(name, known);
        let _ = peer.session.say(self, peer, Command::Answer { request, result });
    }

    pub(crate) fn route(
        self: &Arc<Self>,
        peer: &Peer,
        cache: &Cache,
        name: &str,
        options: RouteOptions,
        timeout: Duration,
    ) -> Result<Pending<Route>> {
        let (answer, answered) = pending();
        let until = crate::deadline::after(timeout);
        let known = lock(&peer.0.inner.directory).known(name);
        let lookup = Command::Lookup { name: name.to_owned(), known };
        let (shared, peer_of, cache, name) =
            (Arc::downgrade(self), peer.clone(), cache.clone(), name.to_owned());
        let found = move |found: Result<CacheInfo>| {
            let Some(shared) = shared.upgrade() else { return };
            // Imports map and populate memory: not on the control thread.
            let work = Arc::clone(&shared);
            shared.control.spawn_blocking(move || {
                let made =
                    found.and_then(|info| work.make_route(&peer_of, &cache, &name, &info, &options, until));
                answer.give(made);
            });
        };
        let inner = &peer.0.inner;
        inner.session.ask(self, inner, lookup, Waiting::Lookup { answer: Box::new(found), until })?;
        Ok(answered)
    }

    #[tracing::instrument(level = "debug", skip_all, fields(peer = %peer.0.inner.id(), cache = name))]
    fn make_route(
        &self,
        peer: &Peer,
        cache: &Cache,
        name: &str,
        info: &CacheInfo,
        options: &RouteOptions,
        until: Instant,
    ) -> Result<Route> {
        let info = &lock(&peer.0.inner.directory).found(name, info.clone())?;
        let spec = decode_layout(&info.layout, &self.limits)
            .map_err(|e| Error::new(ErrorKind::Protocol, "route", format!("the peer's layout: {e}")))?;
        // The lengths of the peer's regions are its own to check; offsets past them are refused there or at import.
        let remote = spec.build(|_| Some(u64::MAX), &self.limits)?;
        let names: Vec<&str> = options.parts.names();
        let parts = options.parts.as_core(&names);
        let map = RouteMap::new(cache.layout(), &remote, &options.slices, parts, &self.limits)?;
        let link = self.choose_link(&peer.0.inner, cache, map.remote_regions(), options.transport, until)?;
        let ours: Vec<_> = cache.0.regions.iter().map(|region| region.id).collect();
        Ok(Route(Arc::new(RouteInner {
            staged: link.stages(&ours, map.remote_regions())
                || !link.kind().moves_devices()
                    && cache.0.regions.iter().any(|region| region.memory.device().is_some()),
            peer: Arc::clone(&peer.0.inner),
            _handle: peer.clone(),
            link,
            map,
            cache: Arc::clone(&cache.0),
            remote_cache: info.cache,
            remote,
            limits: self.limits.clone(),
        })))
    }

    /// The best link that reaches all the regions, on both sides.
    fn choose_link(
        &self,
        peer: &PeerInner,
        cache: &Cache,
        regions: &[RegionId],
        wanted: Option<TransportKind>,
        until: Instant,
    ) -> Result<Arc<dyn Link>> {
        let mut reasons = Vec::new();
        for link in peer.usable_links() {
            if wanted.is_some_and(|wanted| wanted != link.kind()) {
                continue;
            }
            let mut ours = cache.0.regions.iter();
            let reached = ours
                .try_for_each(|region| link.adopt(region.id, &region.memory, until))
                .and_then(|()| regions.iter().try_for_each(|region| link.import(*region, until).map(drop)));
            match reached {
                Ok(()) => return Ok(link),
                Err(error) => reasons.push(format!("{}: {}", link.kind(), error.message())),
            }
        }
        for (kind, why) in peer.refused().iter() {
            reasons.push(format!("{kind}: {why}"));
        }
        let text = format!("no transport reaches the cache of {}: {}", peer.name(), reasons.join("; "));
        Err(Error::new(ErrorKind::Unsupported, "route", text))
    }

    /// How this engine introduces itself.
    pub(crate) fn hello(&self, expects: Option<Incarnation>) -> Hello {
        let limits = &self.limits;
        Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            incarnation: self.incarnation,
            expects,
            capabilities: 0,
            host: host_identity(),
            build: format!("ropeway {} ({})", env!("CARGO_PKG_VERSION"), env!("ROPEWAY_GIT")),
            limits: PeerLimits {
                control_frame_bytes: limits.control_frame_bytes(),
                grants_per_peer: limits.grants_per_peer(),
                served_requests: limits.served_requests_per_peer(),
                served_bytes: limits.served_bytes_per_peer(),
                heartbeat_ms: u32::try_from(limits.heartbeat().as_millis()).unwrap_or(u32::MAX),
            },
            offers: self
                .transports
                .iter()
                .map(|transport| Offer {
                    kind: wire_kind(transport.capabilities().kind),
                    bytes: transport.offer(),
                })
                .collect(),
        }
    }

    /// Tells a lease's owner that a sequence arrived or failed.
    pub(crate) fn notify(
        self: &Arc<Self>,
        peer: &Arc<PeerInner>,
        grant: GrantId,
        sequence: u32,
        completed: bool,
    ) {
        let told = peer.session.say(self, peer, Command::Notify { grant, sequence, failed: !completed });
        if let Err(error) = told {
            tracing::warn!(peer = %peer.id(), %grant, sequence, %error, "a notification was not sent");
        }
    }
}

impl Shared {
    /// Tells peers that looked a cache up that it changed.
    pub(crate) fn tell_changes(self: &Arc<Self>, changes: Vec<Change>) {
        for Change { cache, version, live, name } in changes {
            for peer in self.all_peers() {
                let name = name.clone();
                let _ = peer.session.say(self, &peer, Command::Changed { cache, version, live, name });
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn refused(why: Why, text: &str) -> String {
    let reason = match why {
        Why::Stale => "it has ended: released, revoked or expired",
        Why::Denied => "the token's secret is not its own",
        Why::Full => "the owner has no room for another holder",
        Why::NotFound => "the peer publishes nothing of that name",
        _ => "the peer refused",
    };
    format!("{text}: {reason}")
}

/// Where this process runs. Equal values are a hint only; transports prove themselves.
fn host_identity() -> HostIdentity {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &str| std::fs::metadata(path).map(|meta| meta.ino()).unwrap_or(0);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut boot_id = [0; 16];
    let digits: Vec<u8> = boot.bytes().filter_map(|c| (c as char).to_digit(16)).map(|d| d as u8).collect();
    for (byte, pair) in boot_id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    HostIdentity {
        boot_id,
        net_namespace: inode("/proc/self/ns/net"),
        pid_namespace: inode("/proc/self/ns/pid"),
        pid: std::process::id(),
        uid: rustix::process::getuid().as_raw(),
    }
}
