//! What the facts stand on: engines of one transport, with memory that crashes late touches where it can.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use ropeway::{
    BlockId, Cache, Descriptor, Engine, Grant, Host, Limits, Peer, Region, Rights, Route, Strided,
    TransportKind,
};
use ropeway_transport::memory::guard::{Guarded, Protection};

use super::npu::{self, Api, Held};
use super::owner::{Layout, Owner, OwnerCache, OwnerLease, Terms};
use crate::watchdog::WAIT;

/// A transport under test.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// Which.
    pub kind: TransportKind,
    /// Data connections per tcp peer.
    pub streams: u32,
    /// Whether the owner is in a process of its own.
    pub apart: bool,
    /// The interface to NPUs, for transports between them.
    pub npu: Option<Api>,
    /// Whether the owner's NPU is on another node, in another process.
    pub across: bool,
    /// Which sides' regions are in the memory of an NPU.
    pub hbm: Hbm,
}

/// Whose regions are in the memory of an NPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hbm {
    /// Nobody's.
    None,
    /// The owner's, and those of importers that give out leases, too.
    Owner,
    /// Those of importers that give out no leases.
    Importer,
    /// Everybody's.
    Both,
}

/// What a side does in a fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Gives out leases on its blocks.
    Owner,
    /// Uses the owner's.
    Importer,
    /// An importer that gives out leases, too.
    Both,
}

/// An engine with one region.
pub struct Side {
    /// The engine.
    pub engine: Engine,
    /// Its region.
    pub region: Region,
    memory: Backing,
}

/// What a region's memory is, as far as the test can tell.
enum Backing {
    /// The engine's own.
    Engine,
    /// Pages of the test's.
    Pages(Arc<Guarded>),
    /// A device's; held until the engine lets go of it.
    Device(Held),
}

/// Two engines that are connected. The owner gives out leases on its blocks; the importer's transfers use them.
pub struct Pair {
    /// Gives out leases.
    pub owner: Owner,
    /// Reads and writes the owner's blocks.
    pub importer: Side,
    /// The owner, as the importer sees it.
    pub peer: Peer,
}

impl Ground {
    /// A transport as it is without settings.
    pub fn of(kind: TransportKind) -> Self {
        let npu = kind.moves_devices().then_some(Api::Class);
        let hbm = if npu.is_some() { Hbm::Both } else { Hbm::None };
        Self { kind, streams: 1, apart: false, npu, across: false, hbm }
    }

    /// The same with importers whose region is in the memory of an NPU, for a transport between hosts.
    pub fn into_hbm(self) -> Self {
        Self { npu: Some(Api::Class), hbm: Hbm::Importer, ..self }
    }

    /// The same with importers whose region is in host memory, which the transport reaches through a stage only.
    pub fn into_host(self) -> Self {
        Self { hbm: Hbm::Owner, ..self }
    }

    /// The same with the owner on another node, of simulated ones.
    pub fn across(self) -> Self {
        Self { apart: true, across: true, ..self }
    }

    /// The same over another interface to NPUs.
    pub fn over(self, api: Api) -> Self {
        Self { npu: Some(api), ..self }
    }

    /// The same with the owner in a process of its own.
    pub fn apart(self) -> Self {
        Self { apart: true, ..self }
    }

    /// An engine that has only this transport.
    pub fn engine(&self, owner: bool, limits: Limits) -> Engine {
        let here = "127.0.0.1:0".parse().expect("an address");
        let mut builder =
            Engine::builder().limits(limits.with_streams(self.streams)).listen(here).transports(&[self.kind]);
        if let Some(api) = self.npu {
            builder = builder.npu(api.config(owner));
        }
        builder.open().expect("engine")
    }

    /// An engine with a region of `bytes`, between guard pages unless peers are to map it, or in HBM.
    pub fn side(&self, bytes: u64, part: Part, limits: Limits) -> Side {
        let engine = self.engine(part == Part::Owner, limits);
        if part != Part::Importer && self.kind == TransportKind::Shm {
            let region = engine.alloc(Host::shared(bytes)).expect("shared memory");
            return Side { engine, region, memory: Backing::Engine };
        }
        if self.is_hbm(part) {
            let (region, held) = npu::region(&engine, bytes);
            return Side { engine, region, memory: Backing::Device(held) };
        }
        let guard = Arc::new(Guarded::new(bytes as usize).expect("guarded pages"));
        assert_eq!(guard.len() as u64, bytes, "regions of tests are whole pages");
        let base: NonNull<u8> = guard.base();
        let keep_alive = Box::new(Arc::clone(&guard));
        // SAFETY: `keep_alive` keeps the pages mapped, and no reference to them is ever made. A test takes away the
        // right to touch them only where a terminal status has said that nobody does.
        let region = unsafe { engine.register_raw(base, bytes, keep_alive) }.expect("registered pages");
        Side { engine, region, memory: Backing::Pages(guard) }
    }

    fn is_hbm(&self, part: Part) -> bool {
        match self.hbm {
            Hbm::None => false,
            Hbm::Owner => part != Part::Importer,
            Hbm::Importer => part == Part::Importer,
            Hbm::Both => true,
        }
    }

    /// An owner with a region of `bytes`, here or in a process of its own.
    pub fn owner(&self, bytes: u64, limits: Limits) -> Owner {
        if self.apart {
            Owner::there(self, bytes, &limits)
        } else {
            Owner::here(self.side(bytes, Part::Owner, limits))
        }
    }

    /// Two connected engines with a region of `bytes` each. The importer's is guarded whatever the transport, since
    /// nobody imports it.
    pub fn pair(&self, bytes: u64) -> Pair {
        self.pair_with(bytes, Limits::default())
    }

    /// The same with limits.
    pub fn pair_with(&self, bytes: u64, limits: Limits) -> Pair {
        let owner = self.owner(bytes, limits.clone());
        let importer = self.side(bytes, Part::Importer, limits);
        let peer = connect(&importer, &owner.engine.descriptor());
        assert_eq!(peer.transports(), [self.kind], "{:?}", peer.refused_transports());
        Pair { owner, importer, peer }
    }
}

/// Connects `from` to an engine.
pub(super) fn connect(from: &Side, to: &Descriptor) -> Peer {
    from.engine.connect(to, WAIT).expect("connect").wait().expect("connected")
}

impl Side {
    /// Publishes a cache.
    pub fn publish(&self, name: &str, layout: &Layout) -> Cache {
        layout.publish(name, &self.engine, &self.region).expect("published")
    }

    /// Publishes `kv`: one group, one dense part over the whole region.
    pub fn dense(&self, block: u64) -> Cache {
        let blocks = (self.region.len() / block) as u32;
        let builder = self.engine.cache("kv").group("g0", 1);
        builder.part("p", &self.region, Strided::dense(0, block, blocks)).publish().expect("published")
    }

    /// Drops every handle. What comes back tells whether the region's memory was let go of.
    pub fn drop_all(self) -> impl Fn() -> bool {
        let Self { engine, region, memory } = self;
        drop((region, engine));
        move || match &memory {
            Backing::Engine => true,
            Backing::Pages(guard) => Arc::strong_count(guard) == 1,
            Backing::Device(held) => Arc::strong_count(held) == 1,
        }
    }

    /// From here on a touch of the region's pages is a crash (where the test owns them).
    pub fn forbid(&self) {
        if let Backing::Pages(guard) = &self.memory {
            guard.protect(0..guard.len(), Protection::None).expect("mprotect");
        }
    }

    /// Lets the test look at the pages again.
    pub fn allow(&self) {
        if let Backing::Pages(guard) = &self.memory {
            guard.protect(0..guard.len(), Protection::ReadWrite).expect("mprotect");
        }
    }
}

impl Pair {
    /// Matches the caches named `kv`.
    pub fn route(&self, importers: &Cache) -> Route {
        self.peer.route(importers, "kv", WAIT).expect("route").wait().expect("routed")
    }

    /// A lease of the owner and the importer's grant under it.
    pub fn lease(&self, owners: &OwnerCache, ids: &[&[BlockId]], rights: Rights) -> (OwnerLease, Grant) {
        self.lease_with(owners, ids, rights, Terms::default())
    }

    /// The same on other terms.
    pub fn lease_with(
        &self,
        owners: &OwnerCache,
        ids: &[&[BlockId]],
        rights: Rights,
        terms: Terms<'_>,
    ) -> (OwnerLease, Grant) {
        let lease = owners.lease(ids, rights, terms).expect("lease");
        let grant = self.peer.claim(&lease.token(), WAIT).expect("claim").wait().expect("claimed");
        (lease, grant)
    }

    /// After a status that called both sides quiet: whoever touches the pages within the next moment crashes.
    pub fn expect_quiet(&self) {
        self.owner.forbid();
        self.importer.forbid();
        std::thread::sleep(Duration::from_millis(3));
        self.owner.allow();
        self.importer.allow();
    }

    /// Closes both engines. Nothing may be left that could touch memory: its pages are forbidden from then on.
    ///
    /// # Panics
    /// When something is still held.
    pub fn close(self) {
        let Self { owner, importer, peer } = self;
        drop(peer);
        let held = importer.engine.close(WAIT).expect("close").held;
        assert!(held.is_empty(), "left after close: {held:?}");
        let held = owner.engine.close(WAIT);
        assert!(held.is_empty(), "left with the owner after close: {held:?}");
        importer.forbid();
        owner.forbid();
    }
}

/// Block ids.
pub(super) fn ids(range: std::ops::Range<u32>) -> Vec<BlockId> {
    range.map(BlockId).collect()
}
