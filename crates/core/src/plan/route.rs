//! Routes: a local layout matched with a peer's, once.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::expansion::Lane;
use super::rect::{self, Rect, Slice};
use crate::layout::{LayoutDigest, Overlaps, Part};
use crate::{CacheLayout, Error, ErrorKind, Limits, RegionId, Result};

/// Which parts a route has.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum RouteParts<'a> {
    /// Every part of both sides; one that the other side does not have is an error.
    #[default]
    Exact,
    /// The parts that both sides have.
    Common,
    /// The named parts; both sides must have them.
    Named(&'a [&'a str]),
}

/// A local layout matched with a peer's: parts by name, group by group, slice by slice. Cheap to clone.
///
/// ```
/// use ropeway_core::{BlockId, CacheLayout, Limits, Op, RegionId, RouteMap, RouteParts, Runs, Scope, Strided};
///
/// let limits = Limits::default();
/// let region = RegionId { slot: 0, generation: 1 };
/// let layout = |blocks| {
///     CacheLayout::builder("kv")
///         .group("full", 1)
///         .part("layers.0.k", region, Strided::dense(0, 4_096, blocks))
///         .build(|_| Some(1 << 20), &limits)
/// };
/// let route = RouteMap::new(&layout(16)?, &layout(256)?, &[], RouteParts::Exact, &limits)?;
/// let ours = [BlockId(2), BlockId(3), BlockId(9)];
/// let theirs = [BlockId(70), BlockId(71), BlockId(72)];
/// let plan = route.plan(Op::Read, &[&ours], &[&theirs], &Scope::default())?;
/// assert_eq!((plan.total_bytes(), plan.descriptors(), plan.total_runs()), (3 * 4_096, 3, 2));
/// # Ok::<(), ropeway_core::Error>(())
/// ```
#[derive(Clone)]
pub struct RouteMap(pub(super) Arc<Matched>);

pub(super) struct Matched {
    pub(super) lanes: Arc<[Lane]>,
    pub(super) entries: Box<[Entry]>,
    pub(super) groups: Box<[RouteGroup]>,
    pub(super) local: RouteSide,
    pub(super) remote: RouteSide,
    pub(super) raw: bool,
    pub(super) limits: Limits,
}

/// What a route keeps of one side's layout.
pub(super) struct RouteSide {
    pub(super) cache: String,
    pub(super) groups: usize,
    pub(super) regions: Arc<[RegionId]>,
    pub(super) overlaps: Overlaps,
    /// Whether slices of one part share bytes on this side, so that it can only be read.
    pub(super) slices_overlap: bool,
    pub(super) digest: LayoutDigest,
}

/// What a lane's parts are called and how they are sliced.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) local_part: u32,
    pub(super) remote_part: u32,
    pub(super) local: Rect,
    pub(super) remote: Rect,
    pub(super) remote_block_bytes: u64,
}

/// A group of both sides.
#[derive(Clone, Debug)]
pub(super) struct RouteGroup {
    pub(super) name: String,
    pub(super) local: u16,
    pub(super) remote: u16,
    pub(super) local_ratio: u32,
    pub(super) remote_ratio: u32,
    pub(super) local_ids: u32,
    pub(super) remote_ids: u32,
}

impl RouteMap {
    /// Matches the layouts. `slices` name parts of which only a rectangle of each block travels; a part may have
    /// several. Where parts have no slice, their blocks must have the same size.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch), saying which field of which part does not fit;
    /// [`Full`](ErrorKind::Full) when slices make more than `parts_per_cache` parts.
    pub fn new(
        local: &CacheLayout,
        remote: &CacheLayout,
        slices: &[Slice],
        parts: RouteParts<'_>,
        limits: &Limits,
    ) -> Result<Self> {
        if local.is_raw() != remote.is_raw() {
            let (raw, paged) = if local.is_raw() { (local, remote) } else { (remote, local) };
            return Err(mismatch(format!(
                "cache {} is raw, cache {} is paged; a raw one goes with a raw one",
                raw.name(),
                paged.name()
            )));
        }
        if local.is_raw() && !slices.is_empty() {
            return Err(mismatch(format!("cache {} is raw; it cannot be sliced", local.name())));
        }
        let matched = Builder::new(local, remote, slices, parts).build(limits)?;
        Ok(Self(Arc::new(matched)))
    }

    /// How many parts the route has; a part with several slices counts once per slice.
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether it has none. Never: a route without parts is refused.
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    /// Whether it copies raw lists instead of blocks.
    pub fn is_raw(&self) -> bool {
        self.0.raw
    }

    /// The parts' names in the order of the route, which is that of the local layout.
    pub fn part_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The range of the route from the first to the last part whose name is wanted, for [`Scope`](super::Scope): a
    /// layer, for instance. `None` when there is no such part, or when an unwanted one lies between.
    pub fn range_of(&self, wanted: impl Fn(&str) -> bool) -> Option<Range<usize>> {
        let wanted: Vec<bool> = self.part_names().map(wanted).collect();
        let first = wanted.iter().position(|wanted| *wanted)?;
        let len = wanted[first..].iter().take_while(|wanted| **wanted).count();
        let last = wanted.iter().rposition(|wanted| *wanted)?;
        (last + 1 == first + len).then_some(first..first + len)
    }

    /// Our regions; `Run::local_region` is an index into the list.
    pub fn local_regions(&self) -> &Arc<[RegionId]> {
        &self.0.local.regions
    }

    /// The peer's regions; `Run::remote_region` is an index into the list.
    pub fn remote_regions(&self) -> &Arc<[RegionId]> {
        &self.0.remote.regions
    }
}

impl fmt::Debug for RouteMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMap")
            .field("local", &self.0.local.cache)
            .field("remote", &self.0.remote.cache)
            .field("parts", &self.len())
            .finish()
    }
}

struct Builder<'a> {
    local: &'a CacheLayout,
    remote: &'a CacheLayout,
    /// Parts of the peer by name, with their index.
    theirs: BTreeMap<&'a str, (u32, &'a Part)>,
    slices: BTreeMap<&'a str, Vec<&'a Slice>>,
    parts: RouteParts<'a>,
    entries: Vec<Entry>,
    lanes: Vec<Lane>,
    groups: Vec<RouteGroup>,
}

impl<'a> Builder<'a> {
    fn new(
        local: &'a CacheLayout,
        remote: &'a CacheLayout,
        slices: &'a [Slice],
        parts: RouteParts<'a>,
    ) -> Self {
        let mut by_name: BTreeMap<&str, Vec<&Slice>> = BTreeMap::new();
        for slice in slices {
            by_name.entry(&slice.part).or_default().push(slice);
        }
        let named = remote.parts().iter().enumerate();
        Self {
            local,
            remote,
            theirs: named.map(|(index, part)| (part.name.as_str(), (index as u32, part))).collect(),
            slices: by_name,
            parts,
            entries: Vec::new(),
            lanes: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn build(mut self, limits: &Limits) -> Result<Matched> {
        self.check_names()?;
        for (index, ours) in self.local.parts().iter().enumerate() {
            if !self.wanted(&ours.name) {
                continue;
            }
            let Some(&(remote_part, theirs)) = self.theirs.get(ours.name.as_str()) else {
                continue;
            };
            let group = self.group(ours, theirs)?;
            for (local, remote) in self.rects(ours, theirs)? {
                self.lanes.push(Lane::two_sided(
                    group,
                    (ours, local, self.local.region_of(index)),
                    (theirs, remote, self.remote.region_of(remote_part as usize)),
                ));
                self.entries.push(Entry {
                    name: ours.name.clone(),
                    local_part: index as u32,
                    remote_part,
                    local,
                    remote,
                    remote_block_bytes: theirs.strided.block_bytes,
                });
            }
        }
        self.finish(limits)
    }

    fn finish(self, limits: &Limits) -> Result<Matched> {
        if self.entries.is_empty() {
            return Err(mismatch(format!(
                "caches {} and {} have no part in common",
                self.local.name(),
                self.remote.name()
            )));
        }
        if self.entries.len() as u64 > u64::from(limits.parts_per_cache) {
            return Err(Error::new(
                ErrorKind::Full,
                "route",
                format!(
                    "{} slices of parts; limit parts_per_cache is {}",
                    self.entries.len(),
                    limits.parts_per_cache
                ),
            ));
        }
        let side = |layout: &CacheLayout, place: &dyn Fn(&Entry) -> (u32, Rect)| {
            let mut places: Vec<(u32, Rect)> = self.entries.iter().map(place).collect();
            RouteSide {
                cache: layout.name().to_owned(),
                groups: layout.groups().len(),
                regions: Arc::clone(layout.regions()),
                overlaps: layout.overlaps().clone(),
                slices_overlap: rect::overlap(&mut places).is_some(),
                digest: layout.digest(),
            }
        };
        let local = side(self.local, &|entry| (entry.local_part, entry.local));
        let remote = side(self.remote, &|entry| (entry.remote_part, entry.remote));
        Ok(Matched {
            local,
            remote,
            lanes: self.lanes.into(),
            entries: self.entries.into(),
            groups: self.groups.into(),
            raw: self.local.is_raw(),
            limits: limits.clone(),
        })
    }

    /// Every name that was asked for, by the route or a slice, is there.
    fn check_names(&self) -> Result<()> {
        let ours: std::collections::BTreeSet<&str> =
            self.local.parts().iter().map(|part| part.name.as_str()).collect();
        let missing = |name: &str| {
            let cache = if ours.contains(name) { self.remote } else { self.local };
            let side = if ours.contains(name) { "peer's" } else { "local" };
            mismatch(format!("part {name}: the {side} cache {} does not have it", cache.name()))
        };
        let both = |name: &str| ours.contains(name) && self.theirs.contains_key(name);
        match self.parts {
            RouteParts::Common => {}
            RouteParts::Named(names) => {
                if let Some(name) = names.iter().find(|name| !both(name)) {
                    return Err(missing(name));
                }
            }
            RouteParts::Exact => {
                let all = ours.iter().chain(self.theirs.keys());
                if let Some(name) = { all }.find(|name| !both(name)) {
                    return Err(missing(name));
                }
            }
        }
        match self.slices.keys().find(|name| !both(name)) {
            Some(name) if !matches!(self.parts, RouteParts::Common) => Err(missing(name)),
            Some(name) if !ours.contains(name) && !self.theirs.contains_key(name) => Err(missing(name)),
            _ => Ok(()),
        }
    }

    fn wanted(&self, name: &str) -> bool {
        match self.parts {
            RouteParts::Named(names) => names.contains(&name),
            RouteParts::Exact | RouteParts::Common => true,
        }
    }

    /// The route's group of two parts of the same name.
    fn group(&mut self, ours: &Part, theirs: &Part) -> Result<u16> {
        let local = &self.local.groups()[usize::from(ours.group)];
        let remote = &self.remote.groups()[usize::from(theirs.group)];
        if local.name != remote.name {
            return Err(mismatch(format!(
                "part {}: group is {} here and {} at the peer",
                ours.name, local.name, remote.name
            )));
        }
        let known = self.groups.iter().position(|group| group.local == ours.group);
        let index = known.unwrap_or(self.groups.len());
        if known.is_none() {
            self.groups.push(RouteGroup {
                name: local.name.clone(),
                local: ours.group,
                remote: theirs.group,
                local_ratio: local.ratio,
                remote_ratio: remote.ratio,
                local_ids: self.local.ids(ours.group.into()),
                remote_ids: self.remote.ids(theirs.group.into()),
            });
        }
        Ok(index as u16)
    }

    fn rects(&self, ours: &Part, theirs: &Part) -> Result<Vec<(Rect, Rect)>> {
        let (local, remote) = (ours.strided.block_bytes, theirs.strided.block_bytes);
        let Some(slices) = self.slices.get(ours.name.as_str()) else {
            if local != remote && !self.local.is_raw() {
                return Err(mismatch(format!(
                    "part {}: block_bytes is {local} here and {remote} at the peer; name a slice if that is meant",
                    ours.name
                )));
            }
            return Ok(vec![(Rect::whole(local), Rect::whole(remote))]);
        };
        let fit = |rect: Rect, bytes, side| {
            rect.fit(bytes).map_err(|why| mismatch(format!("part {}: {side} slice: {why}", ours.name)))
        };
        let pair = |slice: &&Slice| {
            rect::pair(&ours.name, fit(slice.local, local, "local")?, fit(slice.remote, remote, "remote")?)
        };
        slices.iter().map(pair).collect()
    }
}

fn mismatch(message: String) -> Error {
    Error::new(ErrorKind::Mismatch, "route", message)
}
