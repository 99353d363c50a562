//! Caches.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use ropeway::{LeaseOptions, Rights, Start, Strided};

use crate::blocks;
use crate::event::Event;
use crate::fault::{Result, misuse};
use crate::lease::Lease;
use crate::naming::parse_name;
use crate::region::Region;
use crate::seconds::optional;

/// Describes a cache: groups, and the parts of each. Its methods return it, so that they can be chained.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct CacheBuilder(Mutex<Option<ropeway::CacheBuilder>>);

impl CacheBuilder {
    pub(crate) fn new(inner: ropeway::CacheBuilder) -> Self {
        Self(Mutex::new(Some(inner)))
    }

    fn take(&self) -> Result<ropeway::CacheBuilder> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| misuse("cache", "this description was published already; begin another"))
    }

    fn put(&self, inner: ropeway::CacheBuilder) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(inner);
    }
}

#[pymethods]
impl CacheBuilder {
    /// Adds a group: parts that share one list of block ids. `ratio` is how many consecutive blocks of each part one id
    /// names.
    #[pyo3(signature = (name, ratio = 1))]
    fn group(slf: Bound<'_, Self>, name: String, ratio: u32) -> Result<Bound<'_, Self>> {
        let builder = slf.get();
        builder.put(builder.take()?.group(name, ratio));
        Ok(slf)
    }

    /// Adds a part to the last group: `blocks` blocks of `block_bytes` bytes each in a region, the first at `offset`, their
    /// beginnings `stride` bytes apart (next to each other unless said).
    #[pyo3(signature = (name, region, *, block_bytes, blocks, offset = 0, stride = None))]
    fn part<'py>(
        slf: Bound<'py, Self>,
        name: String,
        region: &Region,
        block_bytes: u64,
        blocks: u32,
        offset: u64,
        stride: Option<u64>,
    ) -> Result<Bound<'py, Self>> {
        let builder = slf.get();
        let strided = Strided { offset, stride: stride.unwrap_or(block_bytes), block_bytes, blocks };
        builder.put(builder.take()?.part(name, &region.inner, strided));
        Ok(slf)
    }

    /// Checks the layout and makes the cache known to peers.
    fn publish(&self, py: Python<'_>) -> Result<Cache> {
        let builder = self.take()?;
        Ok(Cache(py.detach(|| builder.publish())?))
    }
}

/// A published cache: named parts whose blocks are leased and transferred by id. Withdrawn when the last object that uses it
/// is gone.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Cache(pub(crate) ropeway::Cache);

#[pymethods]
impl Cache {
    /// The name under which peers find it.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// The names of its parts.
    #[getter]
    fn parts(&self) -> Vec<String> {
        self.0.layout().parts().iter().map(|part| part.name.clone()).collect()
    }

    /// Promises peers that the named blocks stay as they are (rights "read") or stay open to be written ("write"), until
    /// they have released the lease, or it is revoked or expires. `ids`: one list per group; `ttl` and `first_contact_grace`
    /// in seconds; `holders`: how many peers will claim it (1 unless said; with a name, the first claim says); `after`: the
    /// event at which the blocks are complete; `name`: what `lease_name()` gave, by which peers can claim it as well.
    #[pyo3(signature = (
        ids, rights = "read", *, ttl = None, first_contact_grace = None, holders = None, after = None, name = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, which Python names")]
    fn lease(
        &self,
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        rights: &str,
        ttl: Option<f64>,
        first_contact_grace: Option<f64>,
        holders: Option<u32>,
        after: Option<&Event>,
        name: Option<&str>,
    ) -> Result<Lease> {
        let rights = match rights {
            "read" => Rights::Read,
            "write" => Rights::Write,
            other => {
                return Err(misuse("lease", format!("rights {other:?}; there are \"read\" and \"write\"")));
            }
        };
        let mut options = LeaseOptions::default();
        if let Some(holders) = holders {
            options = options.holders(holders);
        }
        if let Some(name) = name {
            options = options.name(parse_name(name)?);
        }
        if let Some(ttl) = optional("ttl", ttl)? {
            options = options.ttl(ttl);
        }
        if let Some(grace) = optional("first_contact_grace", first_contact_grace)? {
            options = options.first_contact_grace(grace);
        }
        if let Some(event) = after {
            options = options.start(Start::AfterEvent(event.0.clone()));
        }
        let ids = blocks::lists(ids)?;
        let lease = py.detach(|| self.0.lease(&blocks::borrowed(&ids), rights, options))?;
        Ok(Lease::new(lease))
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Cache {:?} of {} parts>", self.0.name(), self.0.layout().parts().len())
    }
}
