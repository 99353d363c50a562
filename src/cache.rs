//! Caches: named sets of strided parts that are leased, routed and transferred by block id.

use std::fmt;
use std::sync::{Arc, Weak};

use ropeway_core::layout::{CacheLayout, LayoutSpec, Strided};
use ropeway_core::{BlockId, CacheId, Error, ErrorKind, Result, Rights};

use crate::lease::{Lease, LeaseOptions};
use crate::region::{Region, RegionInner};
use crate::shared::Shared;

/// A published cache. Cheap to clone; withdrawn from peers when the last handle, lease and route is dropped, every lease
/// on it is free (released by all who claimed it, or ended by time) and every transfer at rest. Until then its name is
/// taken.
///
/// ```
/// # fn main() -> ropeway::Result<()> {
/// use ropeway::{Engine, Host, Strided};
/// let engine = Engine::builder().open()?;
/// let region = engine.alloc(Host::private(1 << 20))?;
/// let cache = engine
///     .cache("kv")
///     .group("g0", 1)
///     .part("layers.0.k", &region, Strided { offset: 0, stride: 4096, block_bytes: 4096, blocks: 64 })
///     .part("layers.0.v", &region, Strided { offset: 1 << 18, stride: 4096, block_bytes: 4096, blocks: 64 })
///     .publish()?;
/// assert_eq!(cache.layout().parts().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Cache(pub(crate) Arc<CacheInner>);

pub(crate) struct CacheInner {
    pub(crate) id: CacheId,
    pub(crate) layout: CacheLayout,
    /// In the order of `layout.regions()`.
    pub(crate) regions: Vec<Arc<RegionInner>>,
    pub(crate) shared: Weak<Shared>,
}

/// Describes a cache; see [`Engine::cache`](crate::Engine::cache).
#[must_use = "a cache is published by `publish`"]
pub struct CacheBuilder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) spec: LayoutSpec,
    pub(crate) regions: Vec<Region>,
}

impl CacheBuilder {
    /// Adds a group: parts that share one list of block ids. `ratio` is how many consecutive blocks of each part one
    /// id names (a block manager's block of several kernel blocks); 1 is usual.
    pub fn group(mut self, name: impl Into<String>, ratio: u32) -> Self {
        self.spec = self.spec.group(name, ratio);
        self
    }

    /// Adds a part to the last group: one strided array of blocks in a region.
    pub fn part(mut self, name: impl Into<String>, region: &Region, strided: Strided) -> Self {
        self.spec = self.spec.part(name, region.id(), strided);
        if !self.regions.iter().any(|known| known.id() == region.id()) {
            self.regions.push(region.clone());
        }
        self
    }

    /// Checks the layout and makes the cache known to peers.
    ///
    /// # Errors
    /// `OutOfBounds` when a part passes the end of its region, `ApiMisuse` for doubled names or no group, `Full` at
    /// a limit; `Closed` when a region or the engine is closed.
    pub fn publish(self) -> Result<Cache> {
        self.shared.check("publish")?;
        let limits = &self.shared.limits;
        let length = |id| self.regions.iter().find(|region| region.id() == id).map(Region::len);
        let layout = self.spec.build(length, limits)?;
        let regions = layout
            .regions()
            .iter()
            .copied()
            .map(|id| {
                let region = self.regions.iter().find(|region| region.id() == id);
                let region = region.expect("the layout names only regions that were given");
                if region.0.is_closing() {
                    Err(region.0.closed_error("publish"))
                } else {
                    Ok(Arc::clone(&region.0))
                }
            })
            .collect::<Result<Vec<_>>>()?;
        self.shared.publish(layout, regions).map(Cache)
    }
}

impl Cache {
    /// The name under which peers find it.
    pub fn name(&self) -> &str {
        self.0.layout.name()
    }

    /// What it is made of.
    pub fn layout(&self) -> &CacheLayout {
        &self.0.layout
    }

    /// Promises peers that the named blocks (one list per group) stay as they are, for reading, or stay open, for
    /// writing, until they have released the lease, or it is revoked or expires. Hand `lease.token()` to the peer.
    ///
    /// # Errors
    /// `OutOfBounds` for a block id past the end, `ApiMisuse` for a list of the wrong shape,
    /// `Full` at a limit.
    pub fn lease(&self, ids: &[&[BlockId]], rights: Rights, options: LeaseOptions) -> Result<Lease> {
        let shared = self.0.shared.upgrade();
        let shared = shared.ok_or_else(|| Error::new(ErrorKind::Closed, "lease", "the engine is closed"))?;
        shared.check("lease")?;
        if let Some(region) = self.0.regions.iter().find(|region| region.is_closing()) {
            return Err(region.closed_error("lease"));
        }
        shared.grant(&self.0, ids, rights, options)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("id", &self.0.id).field("name", &self.name()).finish()
    }
}

impl Drop for CacheInner {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade().filter(|shared| !shared.is_foreign()) {
            shared.unpublish(self.id);
        }
    }
}
