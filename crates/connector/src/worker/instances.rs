//! Instances that this worker has met, to pull from or to push to, by incarnation: after a restart there is another.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ropeway::{Cache, ErrorKind, Host, Incarnation, Peer, PeerId, Region, Route};
use tokio::sync::Mutex as AsyncMutex;

use super::Inner;
use super::mapping::{RouteMap, Scratch};
use super::tickets::Failure;
use crate::params::Owner;
use crate::table::{self, Instance};

/// Instances that are remembered. One that was not met for long is forgotten first; meeting it again costs a handshake.
const INSTANCES_MAX: usize = 256;
/// Names of workers that are remembered.
const NAMES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Instances(Mutex<HashMap<Incarnation, Met>>);

struct Met {
    known: Arc<Once<Arc<Known>>>,
    last: Instant,
}

/// An instance whose rank table was read and fits.
pub(super) struct Known {
    pub(super) map: Box<dyn RouteMap>,
    instance: Instance,
    /// Where its scheduler half listens, for people.
    place: String,
    linked: Mutex<HashMap<usize, Arc<Once<Arc<Linked>>>>>,
}

/// Which way the bytes go: ours, or theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// We read a producer's blocks.
    Pull,
    /// We write a consumer's.
    Push,
}

/// One of its workers, connected.
pub(super) struct Linked {
    pub(super) peer: Peer,
    routes: Mutex<HashMap<usize, Arc<Once<Arc<Way>>>>>,
}

/// How a share comes.
pub(super) struct Way {
    pub(super) route: Route,
    /// Where it lands first, if it is put in order after it.
    pub(super) arena: Option<Arena>,
}

/// Scratch memory, for one round of one request at a time.
pub(super) struct Arena {
    pub(super) region: Region,
    cache: Cache,
    pub(super) busy: AsyncMutex<()>,
}

/// Something that is made once, by whoever comes first. A failure counts for all who asked before it was known; who comes
/// later tries again.
pub(super) struct Once<T>(AsyncMutex<Made<T>>);

enum Made<T> {
    No,
    Yes(T),
    Failed(Instant, Failure),
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(AsyncMutex::new(Made::No))
    }
}

impl<T: Clone> Once<T> {
    async fn get(
        &self,
        usable: impl Fn(&T) -> bool,
        make: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let asked = Instant::now();
        let mut made = self.0.lock().await;
        match &*made {
            Made::Yes(value) if usable(value) => return Ok(value.clone()),
            Made::Failed(at, failure) if *at >= asked => return Err(failure.clone()),
            _ => {}
        }
        match make.await {
            Ok(value) => {
                *made = Made::Yes(value.clone());
                Ok(value)
            }
            Err(failure) => {
                *made = Made::Failed(Instant::now(), failure.clone());
                Err(failure)
            }
        }
    }
}

/// What people call peers. Engines number them.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<PeerId, String>>);

impl Names {
    fn remember(&self, peer: PeerId, name: String) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX {
            // Those that are met again are named again.
            names.clear();
        }
        names.insert(peer, name);
    }

    /// Its name, or its number.
    pub(super) fn of(&self, peer: PeerId) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&peer).cloned().unwrap_or_else(|| format!("peer {peer}"))
    }
}

fn place<K: std::hash::Hash + Eq, T>(places: &Mutex<HashMap<K, Arc<Once<T>>>>, key: K) -> Arc<Once<T>> {
    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(places.entry(key).or_default())
}

impl Instances {
    fn place(&self, incarnation: Incarnation) -> Arc<Once<Arc<Known>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= INSTANCES_MAX && !all.contains_key(&incarnation) {
            let oldest = all.iter().min_by_key(|(_, met)| met.last).map(|(incarnation, _)| *incarnation);
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let met =
            all.entry(incarnation).or_insert_with(|| Met { known: Arc::default(), last: Instant::now() });
        met.last = Instant::now();
        Arc::clone(&met.known)
    }
}

impl Inner {
    /// The instance behind a scheduler half: its rank table, once.
    pub(super) async fn known(&self, owner: &Owner, way: Direction) -> Result<Arc<Known>, Failure> {
        let instances = match way {
            Direction::Pull => &self.instances,
            Direction::Push => &self.aims,
        };
        instances.place(owner.incarnation).get(|_| true, self.meet(owner, way)).await
    }

    async fn meet(&self, owner: &Owner, way: Direction) -> Result<Arc<Known>, Failure> {
        let met = async {
            let peer = self.engine.connect_control(&owner.descriptor(), self.timing.connect)?.await?;
            let note = peer.note(table::NOTE, self.timing.connect)?.await?;
            let mismatch = |text: String| Failure { kind: ErrorKind::Mismatch, text };
            let instance = Instance::decode(&note).map_err(|error| mismatch(error.to_string()))?;
            let map = match way {
                Direction::Pull => self.mapper.map(&instance.about)?,
                Direction::Push => self.mapper.aim(&instance.about)?,
            };
            let place =
                owner.addresses.first().map_or_else(|| "this process".to_owned(), ToString::to_string);
            Ok(Arc::new(Known { map, instance, place, linked: Mutex::default() }))
        };
        let met: Result<_, Failure> = met.await;
        if let Err(failure) = &met {
            tracing::warn!(owner = ?owner, why = failure.text, "an instance cannot be used");
            self.stats().num_failed_handshakes += 1;
        }
        met
    }

    /// A worker of the instance, connected.
    pub(super) async fn linked(&self, known: &Known, rank: usize) -> Result<Arc<Linked>, Failure> {
        let Some(descriptor) = known.instance.ranks.get(rank) else {
            let text = format!("the rank table has no rank {rank}");
            return Err(Failure { kind: ErrorKind::Mismatch, text });
        };
        let make = async {
            let connected = async { self.engine.connect(descriptor, self.timing.connect)?.await }.await;
            let peer = connected.inspect_err(|error| {
                let instance = &known.place;
                tracing::warn!(rank, instance, %error, "a worker cannot be reached");
                self.stats().num_failed_handshakes += 1;
            })?;
            self.names.remember(peer.id(), format!("worker {rank} of the instance at {}", known.place));
            Ok(Arc::new(Linked { peer, routes: Mutex::default() }))
        };
        place(&known.linked, rank).get(|linked| linked.peer.is_connected(), make).await
    }

    /// A route to it.
    pub(super) async fn route(
        &self,
        known: &Known,
        linked: &Linked,
        share: usize,
    ) -> Result<Arc<Way>, Failure> {
        let make = async {
            let arena = known.map.scratch(share).map(|scratch| self.arena(&scratch)).transpose()?;
            let cache = arena.as_ref().map_or(&self.cache, |arena| &arena.cache);
            let options = known.map.route(share);
            let pending = linked.peer.route_with(cache, table::CACHE, options, self.timing.connect)?;
            let route = pending.await.map_err(|error| {
                let Failure { kind, text } = Failure::from(error);
                let peer = self.names.of(linked.peer.id());
                Failure { kind, text: format!("{text} ({peer})") }
            })?;
            Ok(Arc::new(Way { route, arena }))
        };
        place(&linked.routes, share).get(|_| true, make).await
    }

    fn arena(&self, scratch: &Scratch) -> ropeway::Result<Arena> {
        let region = match scratch.on_device {
            true => self.engine.alloc_npu(scratch.bytes)?,
            false => self.engine.alloc(Host::private(scratch.bytes))?,
        };
        let number = self.arenas.fetch_add(1, Ordering::Relaxed);
        let mut builder = self.engine.cache(format!("scratch{number}"));
        for (group, parts) in &scratch.groups {
            builder = builder.group(group, 1);
            for (name, place) in parts {
                builder = builder.part(name, &region, *place);
            }
        }
        let cache = builder.publish()?;
        Ok(Arena { region, cache, busy: AsyncMutex::default() })
    }
}
