//! What all handles of one engine share: its tables, its counters, and the flights in the air.
//!
//! Locks are taken in this order and never the other way: leases, grants, withheld, peers, caches, notes, regions, flights. No lock is held while a
//! link, a waker or a keep-alive is called.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_ascend::Npu;
use ropeway_core::layout::CacheLayout;
use ropeway_core::machine::directory::Directory;
use ropeway_core::{
    CacheId, Error, ErrorKind, Incarnation, Limits, PeerId, RegionId, Result, StatusKind, TransferId,
};
use ropeway_transport::janitor::Janitor;
use ropeway_transport::{Fence, Memory, Transport};

use crate::cache::CacheInner;
use crate::completion::Completions;
use crate::control::Control;
use crate::importing::Grants;
use crate::leasing::Leases;
use crate::peer::PeerInner;
use crate::progress::Progress;
use crate::quarantine::Withheld;
use crate::region::RegionInner;
use crate::secret::Psk;
use crate::table::Table;
use crate::transfer::Flight;
use ropeway_transport::memory::fork::Origin;

/// One engine.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) incarnation: Incarnation,
    /// A forked child has the tables but none of the threads: its calls are refused before they take a lock (the parent
    /// may have held it), and its drops do nothing.
    pub(crate) origin: Origin,
    pub(crate) psk: Psk,
    pub(crate) opened: Instant,
    pub(crate) control: Control,
    pub(crate) janitor: Janitor,
    pub(crate) fence: Arc<Fence>,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) npu: Option<Arc<Npu>>,
    pub(crate) completions: Completions,
    pub(crate) progress: Progress,
    pub(crate) leases: Mutex<Leases>,
    pub(crate) grants: Mutex<Grants>,
    pub(crate) withheld: Mutex<Withheld>,
    /// Blocks in quarantine, for a look without the lock.
    pub(crate) withheld_blocks: AtomicU64,
    pub(crate) peers: RwLock<Table<Arc<PeerInner>>>,
    pub(crate) caches: RwLock<Caches>,
    pub(crate) notes: RwLock<BTreeMap<String, Bytes>>,
    pub(crate) regions: RwLock<Table<Weak<RegionInner>>>,
    flights: Mutex<HashMap<TransferId, InAir, CountHash>>,
    pub(crate) in_flight: AtomicU32,
    transfers: AtomicU64,
    closing: AtomicBool,
}

/// What this engine publishes.
pub(crate) struct Caches {
    pub(crate) directory: Directory,
    pub(crate) live: HashMap<CacheId, Weak<CacheInner>>,
}

struct InAir {
    flight: Weak<Flight>,
    local: Arc<[Arc<Memory>]>,
}

/// Transfer ids are counted up here, never chosen by a peer: multiplying spreads them well enough.
#[derive(Clone, Copy, Default)]
struct CountHash;

impl BuildHasher for CountHash {
    type Hasher = CountHasher;

    fn build_hasher(&self) -> CountHasher {
        CountHasher(0)
    }
}

struct CountHasher(u64);

impl Hasher for CountHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How often flights in the air are held against their deadlines.
const DEADLINE_CHECK: Duration = Duration::from_millis(250);

/// What [`Shared`] is made from.
pub(crate) struct Parts {
    pub(crate) limits: Limits,
    pub(crate) incarnation: Incarnation,
    pub(crate) origin: Origin,
    pub(crate) psk: Psk,
    pub(crate) control: Control,
    pub(crate) janitor: Janitor,
    pub(crate) fence: Arc<Fence>,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) npu: Option<Arc<Npu>>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Result<Arc<Self>> {
        let Parts { limits, incarnation, origin, psk, control, janitor, fence, transports, npu } = parts;
        Ok(Arc::new(Self {
            completions: Completions::new(limits.completions())?,
            leases: Mutex::new(Leases::new(&limits)),
            grants: Mutex::new(Grants::new(&limits)),
            withheld: Mutex::new(Withheld::new(&limits)),
            withheld_blocks: AtomicU64::new(0),
            peers: RwLock::new(Table::new("peers", limits.peers())),
            notes: RwLock::default(),
            caches: RwLock::new(Caches { directory: Directory::new(&limits), live: HashMap::new() }),
            regions: RwLock::new(Table::new("regions", limits.regions())),
            limits,
            incarnation,
            origin,
            psk,
            opened: Instant::now(),
            control,
            janitor,
            fence,
            transports,
            npu,
            progress: Progress::default(),
            flights: Mutex::default(),
            in_flight: AtomicU32::new(0),
            transfers: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }))
    }

    /// Refuses a call in a forked child, and on an engine that is closing.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        self.origin.check(operation)?;
        if self.is_closing() {
            return Err(Error::new(ErrorKind::Closed, operation, "the engine is closed"));
        }
        Ok(())
    }

    /// Whether this process is a fork of the one that opened the engine.
    pub(crate) fn is_foreign(&self) -> bool {
        self.origin.is_foreign()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// `true` the first time.
    pub(crate) fn begin_close(&self) -> bool {
        !self.closing.swap(true, Ordering::SeqCst)
    }

    /// Milliseconds since the engine was opened: the only clock that the machines see.
    pub(crate) fn now(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(crate) fn instant(&self, at: Duration) -> Instant {
        crate::deadline::add(self.opened, at)
    }

    // Regions and caches.

    pub(crate) fn add_region(self: &Arc<Self>, memory: Arc<Memory>) -> Result<Arc<RegionInner>> {
        let mut made = None;
        write(&self.regions).insert_with(|slot, generation| {
            let region = RegionInner::new(RegionId { slot, generation }, memory, Arc::downgrade(self));
            let weak = Arc::downgrade(&region);
            made = Some(region);
            weak
        })?;
        Ok(made.expect("inserted"))
    }

    pub(crate) fn region(&self, id: RegionId) -> Option<Arc<RegionInner>> {
        read(&self.regions).at(id.slot, id.generation)?.upgrade()
    }

    pub(crate) fn forget_region(&self, id: RegionId) {
        write(&self.regions).remove(id.slot, id.generation);
    }

    /// Undoes what transports registered natively for a region that nobody uses any more.
    pub(crate) fn forget_registrations(&self, id: RegionId, until: Instant) -> Result<()> {
        self.transports.iter().try_for_each(|transport| transport.forget(id, until))
    }

    pub(crate) fn publish(
        self: &Arc<Self>,
        layout: CacheLayout,
        regions: Vec<Arc<RegionInner>>,
    ) -> Result<Arc<CacheInner>> {
        let mut caches = write(&self.caches);
        let name = layout.name();
        if caches.directory.lookup(name, None).is_ok() {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "publish",
                format!(
                    "a cache named {name} is published already; choose another name, or drop its handles, leases and \
                     routes first (it stays until its leases are free and its transfers at rest)"
                ),
            ));
        }
        let (id, changes) = caches.directory.publish(&layout)?;
        let cache = Arc::new(CacheInner { id, layout, regions, shared: Arc::downgrade(self) });
        caches.live.insert(id, Arc::downgrade(&cache));
        drop(caches);
        self.tell_changes(changes);
        Ok(cache)
    }

    pub(crate) fn unpublish(self: &Arc<Self>, id: CacheId) {
        let change = {
            let mut caches = write(&self.caches);
            caches.live.remove(&id);
            caches.directory.withdraw(id)
        };
        self.tell_changes(change.into_iter().collect());
    }

    // Peers.

    pub(crate) fn peer(&self, id: PeerId) -> Option<Arc<PeerInner>> {
        read(&self.peers).at(id.slot, id.generation).cloned()
    }

    pub(crate) fn all_peers(&self) -> Vec<Arc<PeerInner>> {
        read(&self.peers).iter().cloned().collect()
    }

    pub(crate) fn forget_peer(&self, id: PeerId) {
        write(&self.peers).remove(id.slot, id.generation);
    }

    // Flights.

    pub(crate) fn next_transfer(&self) -> TransferId {
        TransferId(self.transfers.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn flight_began(&self, flight: &Arc<Flight>, local: &Arc<[Arc<Memory>]>) {
        let in_air = InAir { flight: Arc::downgrade(flight), local: Arc::clone(local) };
        self.flights().insert(flight.id, in_air);
    }

    /// The flight was never started: no place is given back here.
    pub(crate) fn flight_withdrawn(&self, flight: &Flight) {
        self.flights().remove(&flight.id);
    }

    pub(crate) fn flight_ended(&self, flight: &Flight) {
        self.flights().remove(&flight.id);
        flight.peer.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.progress.moved();
    }

    /// Transfers that pin the memory.
    pub(crate) fn flights_on(&self, memory: &Arc<Memory>) -> Vec<TransferId> {
        let flights = self.flights();
        let pinned = |air: &InAir| air.local.iter().any(|local| Arc::ptr_eq(local, memory));
        flights.iter().filter(|(_, air)| pinned(air)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn flights_in_air(&self) -> Vec<Arc<Flight>> {
        self.flights().values().filter_map(|air| air.flight.upgrade()).collect()
    }

    pub(crate) fn has_room(&self, peer: &PeerInner) -> bool {
        peer.in_flight.load(Ordering::Acquire) < self.limits.transfers_per_peer()
            && self.in_flight.load(Ordering::Acquire) < self.limits.transfers()
    }

    /// A flight is in the air whose deadline somebody has to watch.
    pub(crate) fn watch_deadlines(&self, abandon_at: Instant) {
        self.control.wake_by(abandon_at.max(Instant::now() + DEADLINE_CHECK));
    }

    /// Gives up the flights whose time is over; says when to look again.
    pub(crate) fn check_deadlines(&self) -> Option<Instant> {
        let now = Instant::now();
        let flights = self.flights_in_air();
        flights
            .iter()
            .filter(|flight| flight.abandon_at <= now)
            .for_each(|flight| flight.stop(StatusKind::Abandoned));
        let next = flights.iter().map(|flight| flight.abandon_at).min()?;
        Some(next.max(now + DEADLINE_CHECK))
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<TransferId, InAir, CountHash>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
