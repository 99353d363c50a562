//! Routes: a local cache matched with a peer's cache once; then plans by block id.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ropeway_core::layout::CacheLayout;
use ropeway_core::plan::{CopyPlan, RawCopy, RouteMap, RouteParts, Scope, Slice};
use ropeway_core::{BlockId, CacheId, Error, ErrorKind, Limits, Op, Result};
use ropeway_transport::{Link, TransportKind};

use crate::cache::CacheInner;
use crate::grant::Grant;
use crate::peer::{Peer, PeerInner};
use crate::plan::Plan;

/// Which parts a route has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Parts {
    /// Every part of both sides; one that the other side does not have is an error.
    #[default]
    Exact,
    /// The parts that both sides have.
    Common,
    /// The named parts; both sides must have them.
    Named(Vec<String>),
}

impl Parts {
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Named(names) => names.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn as_core<'a>(&self, names: &'a [&'a str]) -> RouteParts<'a> {
        match self {
            Self::Exact => RouteParts::Exact,
            Self::Common => RouteParts::Common,
            Self::Named(_) => RouteParts::Named(names),
        }
    }
}

/// What a route is to match.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RouteOptions {
    pub(crate) parts: Parts,
    pub(crate) slices: Vec<Slice>,
    pub(crate) transport: Option<TransportKind>,
}

impl RouteOptions {
    /// Which parts must be there on both sides; all of them unless said.
    pub fn parts(mut self, parts: Parts) -> Self {
        self.parts = parts;
        self
    }

    /// Moves a rectangle of rows of each block of a part, a head slice say, instead of whole blocks.
    pub fn slice(mut self, slice: Slice) -> Self {
        self.slices.push(slice);
        self
    }

    /// Uses this transport or fails; the quickest that reaches the memory unless said.
    pub fn transport(mut self, kind: TransportKind) -> Self {
        self.transport = Some(kind);
        self
    }
}

/// A local cache matched with a peer's cache. Cheap to clone.
#[derive(Clone)]
pub struct Route(pub(crate) Arc<RouteInner>);

pub(crate) struct RouteInner {
    pub(crate) peer: Arc<PeerInner>,
    /// Keeps the connection.
    pub(crate) _handle: Peer,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) staged: bool,
    pub(crate) map: RouteMap,
    pub(crate) cache: Arc<CacheInner>,
    pub(crate) remote_cache: CacheId,
    pub(crate) remote: CacheLayout,
    pub(crate) limits: Limits,
}

impl Route {
    /// The way that its transfers take.
    pub fn transport(&self) -> TransportKind {
        self.0.link.kind()
    }

    /// Whether bytes rest in buffers on their way, since the transport does not reach the memory of one end by itself: host memory
    /// over a link between devices, a device's memory over tcp.
    pub fn is_staged(&self) -> bool {
        self.0.staged
    }

    /// The way in words, for logs: `hixl`, or `hixl, staged`.
    pub fn explanation(&self) -> String {
        let staged = if self.is_staged() { ", staged" } else { "" };
        format!("{}{staged}", self.transport())
    }

    /// Plans a read: the peer's blocks `remote_ids` into ours, `local_ids`, one list per group. The lists name as many
    /// kernel blocks; pairs are in order.
    ///
    /// # Errors
    /// `OutOfBounds` for an id past the end or a local block named twice, `Denied` for a block outside the grant,
    /// `ApiMisuse` for lists of the wrong shape.
    pub fn read(&self, grant: &Grant, local_ids: &[&[BlockId]], remote_ids: &[&[BlockId]]) -> Result<Plan> {
        self.plan(Op::Read, grant, None, local_ids, remote_ids)
    }

    /// Plans a write: our blocks `local_ids` into the peer's, `remote_ids`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, grant: &Grant, local_ids: &[&[BlockId]], remote_ids: &[&[BlockId]]) -> Result<Plan> {
        self.plan(Op::Write, grant, None, local_ids, remote_ids)
    }

    /// The parts' names, in the order in which [`Self::plan`] numbers them.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.map.part_names()
    }

    /// Plans either over a range of the route's parts, a layer say; all of them with `None`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn plan(
        &self,
        op: Op,
        grant: &Grant,
        parts: Option<Range<usize>>,
        local_ids: &[&[BlockId]],
        remote_ids: &[&[BlockId]],
    ) -> Result<Plan> {
        self.check(op, grant)?;
        let within = grant.within(&self.0.remote, &self.0.limits)?;
        let mut scope = Scope::default().within(within);
        if let Some(parts) = parts {
            scope = scope.parts(parts);
        }
        let copies = self.0.map.plan(op, local_ids, remote_ids, &scope)?;
        self.made(op, grant, copies)
    }

    /// Plans a read from a raw list, between two raw caches (see [`Engine::raw_cache`](crate::Engine::raw_cache)):
    /// offsets count from the start of their regions.
    ///
    /// # Errors
    /// `OutOfBounds` past an end or where a local byte would be written twice, `Full` past `runs_per_raw_plan`.
    pub fn read_raw(&self, grant: &Grant, list: &[RawCopy]) -> Result<Plan> {
        self.plan_raw(Op::Read, grant, list)
    }

    /// Plans a write from a raw list.
    ///
    /// # Errors
    /// As [`Self::read_raw`], for the peer's bytes.
    pub fn write_raw(&self, grant: &Grant, list: &[RawCopy]) -> Result<Plan> {
        self.plan_raw(Op::Write, grant, list)
    }

    fn plan_raw(&self, op: Op, grant: &Grant, list: &[RawCopy]) -> Result<Plan> {
        self.check(op, grant)?;
        let within = grant.within(&self.0.remote, &self.0.limits)?;
        let copies = self.0.map.raw(op, list, &Scope::default().within(within))?;
        self.made(op, grant, copies)
    }

    fn check(&self, op: Op, grant: &Grant) -> Result<()> {
        let refuse = |kind, text| Err(Error::new(kind, "plan", text));
        if !Arc::ptr_eq(&grant.0.peer, &self.0.peer) || grant.0.cache != self.0.remote_cache {
            return refuse(
                ErrorKind::ApiMisuse,
                format!(
                    "lease {} is of another peer or cache than the route; claim it of the route's peer",
                    grant.id()
                ),
            );
        }
        if !grant.rights().allow(op) {
            return refuse(
                ErrorKind::Denied,
                format!(
                    "lease {} allows {:?} only; ask its owner for a lease to {op}",
                    grant.id(),
                    grant.rights()
                ),
            );
        }
        if grant.is_stale() {
            return refuse(ErrorKind::StaleLease, format!("lease {} is over", grant.id()));
        }
        Ok(())
    }

    fn made(&self, op: Op, grant: &Grant, copies: CopyPlan) -> Result<Plan> {
        let local = copies.local_regions().iter().map(|id| {
            let region = self.0.cache.regions.iter().find(|region| region.id == *id);
            Arc::downgrade(region.expect("a plan names regions of its route's cache"))
        });
        Ok(Plan {
            local: local.collect(),
            remote: Arc::clone(copies.remote_regions()),
            route: Arc::clone(&self.0),
            grant: grant.clone(),
            op,
            copies: Arc::new(copies),
        })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("peer", &self.0.peer.id())
            .field("cache", &self.0.cache.layout.name())
            .field("way", &self.explanation())
            .finish()
    }
}
