//! From a framework's block ids to what a route's plan wants, share by share.
//!
//! ```
//! use ropeway_connector::ids::Request;
//! # use ropeway_connector::layout::*;
//! # use ropeway_connector::ranks::*;
//! # let view = View { layer: 0, plane: "latent".into(), group: 0, storage: 0, offset: 0, element_bytes: 2,
//! #     shape: vec![8, 128, 512], strides: vec![65536, 512, 1], axes: vec![Axis::Block, Axis::Slot, Axis::Content],
//! #     heads: Heads::Replicated, format: Format::Rows };
//! # let spec = CacheSpec::new(vec![GroupInfo::full(0, 128)], &[view], &[1 << 20], Shard::WHOLE)?;
//! # let side = Side { topology: Topology::tensor(1), layers: 1, stages: vec![spec.shape()] };
//! # let rank = Rank { pp: 0, pcp: 0, tp: 0 };
//! let map = RankMap::new(spec, side.clone(), side, rank, 0)?;
//! let request = Request { local: &[vec![5, 2]], remote: &[vec![1, 7]], tokens: 128..200 };
//! for pull in map.pulls(request_key("cmpl-1"))?.iter() {
//!     for share in &pull.shares {
//!         let ids = share.ids(&request)?;
//!         // 72 tokens of block 2 here and 7 there, in kernel blocks of 16: route.read(&grant, local, remote).
//!         assert_eq!((ids.local[0].len(), ids.local[0][0].0, ids.remote[0][0].0), (5, 2 * 8, 7 * 8));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;

use ropeway::BlockId;

use crate::layout::grain::gcd;
use crate::layout::{GroupShape, Keeps};
use crate::ranks::{Land, Share, SharedGroup, Stripe};

/// Which tokens of a request are wanted, and in which blocks they are.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Our manager's lists of block ids, each from the request's first token, null ids kept; see
    /// [`GroupInfo::list`](crate::layout::GroupInfo::list).
    pub local: &'a [Vec<u32>],
    /// The producer's, as its `request_finished` was given them: likewise.
    pub remote: &'a [Vec<u32>],
    /// From the first token that we do not have to one past the last that the producer computed.
    pub tokens: Range<u64>,
}

/// What a share's plan wants, and what is to be done after it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ids {
    /// A list for each group of our cache, or of the scratch cache where the share lands whole.
    pub local: Vec<Vec<BlockId>>,
    /// A list for each group of the producer's cache.
    pub remote: Vec<Vec<BlockId>>,
    /// Where the share lands whole: rows to be moved out of scratch, for each of [`Share::groups`].
    pub moves: Vec<Vec<RowMove>>,
}

/// Neighbouring rows of a landed block that are neighbours in one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowMove {
    /// The landed block.
    pub scratch: u32,
    /// The first row in it.
    pub from: u32,
    /// Our kernel block.
    pub block: u32,
    /// The first row in it.
    pub to: u32,
    /// How many.
    pub rows: u32,
}

/// Ids that do not cover the request: which list, and where it ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct IdsError(String);

impl Ids {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.remote.iter().all(Vec::is_empty)
    }
}

impl Share {
    /// Kernel blocks of a request on both sides: pairs in order, group by group.
    ///
    /// # Errors
    /// A list that ends before the wanted tokens do, or has null ids among them.
    pub fn ids(&self, request: &Request<'_>) -> Result<Ids, IdsError> {
        let groups =
            |number: fn(&SharedGroup) -> usize| self.groups.iter().map(number).max().map_or(0, |max| max + 1);
        let whole = matches!(self.land, Land::Whole(_));
        let local = if whole { self.groups.len() } else { groups(|group| group.local) };
        let mut ids = Ids {
            local: vec![Vec::new(); local],
            remote: vec![Vec::new(); groups(|group| group.remote)],
            moves: Vec::new(),
        };
        for (index, group) in self.groups.iter().enumerate() {
            let ours = Lists::new("our", &group.ours, request.local);
            let theirs = Lists::new("the producer's", &group.theirs, request.remote);
            let pairs = Pairs { group, ours, theirs };
            let remote = &mut ids.remote[group.remote];
            if whole {
                let landed = pairs.landed(&request.tokens)?;
                ids.local[index] = (0..landed.remote.len() as u32).map(BlockId).collect();
                *remote = landed.remote;
                ids.moves.push(landed.moves);
            } else {
                pairs.paired(&request.tokens, &mut ids.local[group.local], remote)?;
            }
        }
        Ok(ids)
    }
}

/// One side's blocks of one group.
#[derive(Clone, Copy)]
struct Lists<'a> {
    whose: &'static str,
    group: &'a GroupShape,
    ids: &'a [u32],
    has_null: bool,
}

impl<'a> Lists<'a> {
    fn new(whose: &'static str, group: &'a GroupShape, lists: &'a [Vec<u32>]) -> Self {
        let ids = lists.get(group.info.list).map_or(&[][..], Vec::as_slice);
        Self { whose, group, ids, has_null: group.info.has_null() }
    }

    /// The kernel block of the place-th slot that the rank holds; `None` where there is no block.
    #[inline]
    fn kernel(&self, place: u64) -> Result<Option<u32>, IdsError> {
        let (block_slots, slots) =
            (u64::from(self.group.info.block_slots), u64::from(self.group.kernel_slots));
        let block = place / block_slots;
        let Some(&id) = usize::try_from(block).ok().and_then(|block| self.ids.get(block)) else {
            return Err(self.short(block));
        };
        if id == 0 && self.has_null {
            return Ok(None);
        }
        let kernel = u64::from(id) * (block_slots / slots) + place % block_slots / slots;
        u32::try_from(kernel).map(Some).map_err(|_| self.short(block))
    }

    /// The block of the state, before `spare` others.
    fn state(&self) -> Result<Option<u32>, IdsError> {
        let Keeps::State { spare } = self.group.info.keeps else { unreachable!("asked of states only") };
        let last = self.ids.len().checked_sub(spare as usize + 1);
        let Some(last) = last else { return Err(self.short(spare.into())) };
        Ok(Some(self.ids[last]).filter(|id| *id != 0))
    }

    #[cold]
    fn short(&self, block: u64) -> IdsError {
        IdsError(format!(
            "group {}: {} list has {} block ids; block {block} of the request is wanted",
            self.group.info.name,
            self.whose,
            self.ids.len()
        ))
    }
}

/// Blocks of both sides, as they grow.
struct Landed {
    remote: Vec<BlockId>,
    moves: Vec<RowMove>,
}

/// Both sides of one group.
struct Pairs<'a> {
    group: &'a SharedGroup,
    ours: Lists<'a>,
    theirs: Lists<'a>,
}

/// Slots that travel, in a count that both sides' stripes are seen from.
struct Reach {
    slots: Range<u64>,
    /// From here on there must be blocks.
    needed: u64,
    ours: Stripe,
    theirs: Stripe,
}

impl Pairs<'_> {
    fn reach(&self, tokens: &Range<u64>) -> Reach {
        let info = &self.group.ours.info;
        let per_slot = u64::from(info.tokens_per_slot);
        let (mut first, end) = (tokens.start / per_slot, tokens.end.div_ceil(per_slot));
        let mut needed = first;
        if let Keeps::Window { tokens: window } = info.keeps {
            let begin = tokens.end.saturating_sub(window.into()) / per_slot;
            let block = u64::from(info.block_slots) * u64::from(self.group.our_stripe.of);
            needed = needed.max(begin);
            first = first.max(begin / block * block);
        }
        let (ours, theirs) = (self.group.our_stripe, self.group.their_stripe);
        if ours != theirs || ours.of == 1 {
            return Reach { slots: first..end, needed, ours, theirs };
        }
        // Both ranks hold the same slots: count those alone.
        let held = |slot| held_before(ours, slot);
        Reach { slots: held(first)..held(end), needed: held(needed), ours: Stripe::ALL, theirs: Stripe::ALL }
    }

    /// Kernel block for kernel block.
    fn paired(
        &self,
        tokens: &Range<u64>,
        local: &mut Vec<BlockId>,
        remote: &mut Vec<BlockId>,
    ) -> Result<(), IdsError> {
        if self.group.ours.info.is_state() {
            if let Some((ours, theirs)) = self.states(tokens)? {
                local.push(BlockId(ours));
                remote.push(BlockId(theirs));
            }
            return Ok(());
        }
        let reach = self.reach(tokens);
        let slots = u64::from(self.group.ours.kernel_slots);
        let units = reach.slots.start / slots..reach.slots.end.div_ceil(slots);
        if reach.slots.is_empty() {
            return Ok(());
        }
        let room = (units.end - units.start) / u64::from(reach.ours.of.max(reach.theirs.of)) + 1;
        // Lists bound it: a hostile count of tokens does not.
        let room = room.min(self.theirs.ids.len() as u64 * u64::from(self.group.theirs.kernels()));
        local.reserve(room as usize);
        remote.reserve(room as usize);
        for unit in units {
            let slot = unit * slots;
            let (Some(here), Some(there)) = (reach.ours.place(slot), reach.theirs.place(slot)) else {
                continue;
            };
            if let Some((ours, theirs)) = self.pair(here, there, slot + slots > reach.needed)? {
                local.push(BlockId(ours));
                remote.push(BlockId(theirs));
            }
        }
        Ok(())
    }

    #[inline]
    fn pair(&self, here: u64, there: u64, needed: bool) -> Result<Option<(u32, u32)>, IdsError> {
        let Some(ours) = self.ours.kernel(here)? else { return Ok(None) };
        match self.theirs.kernel(there) {
            Ok(Some(theirs)) => Ok(Some((ours, theirs))),
            Ok(None) if !needed => Ok(None),
            Ok(None) => Err(self.absent(there)),
            Err(short) => Err(short),
        }
    }

    #[cold]
    fn absent(&self, place: u64) -> IdsError {
        IdsError(format!(
            "group {}: the producer has given up the block of its slot {place}, which is wanted here",
            self.group.ours.info.name
        ))
    }

    fn states(&self, tokens: &Range<u64>) -> Result<Option<(u32, u32)>, IdsError> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let Some(ours) = self.ours.state()? else { return Ok(None) };
        let theirs = self.theirs.state()?.ok_or_else(|| self.absent(0))?;
        Ok(Some((ours, theirs)))
    }

    /// The producer's kernel blocks in order, and which rows of them go where.
    fn landed(&self, tokens: &Range<u64>) -> Result<Landed, IdsError> {
        let mut landed = Landed { remote: Vec::new(), moves: Vec::new() };
        if self.group.ours.info.is_state() {
            if let Some((block, theirs)) = self.states(tokens)? {
                landed.add(theirs, RowMove { scratch: 0, from: 0, block, to: 0, rows: 1 });
            }
            return Ok(landed);
        }
        let reach = self.reach(tokens);
        let (here, there) =
            (u64::from(self.group.ours.kernel_slots), u64::from(self.group.theirs.kernel_slots));
        let step = [there, reach.ours.grain(), reach.theirs.grain()].into_iter().fold(here, gcd);
        if reach.slots.is_empty() {
            return Ok(landed);
        }
        for unit in reach.slots.start / step..reach.slots.end.div_ceil(step) {
            let slot = unit * step;
            let (Some(ours), Some(theirs)) = (reach.ours.place(slot), reach.theirs.place(slot)) else {
                continue;
            };
            if let Some((block, remote)) = self.pair(ours, theirs, slot + step > reach.needed)? {
                let (from, to) = ((theirs % there) as u32, (ours % here) as u32);
                landed.add(remote, RowMove { scratch: 0, from, block, to, rows: step as u32 });
            }
        }
        Ok(landed)
    }
}

impl Landed {
    /// Rows of the producer's kernel block `remote`; the block after the last one, or the last one again.
    fn add(&mut self, remote: u32, mut rows: RowMove) {
        if self.remote.last() != Some(&BlockId(remote)) {
            self.remote.push(BlockId(remote));
        }
        rows.scratch = self.remote.len() as u32 - 1;
        if let Some(last) = self.moves.last_mut()
            && (last.scratch, last.block) == (rows.scratch, rows.block)
            && (last.from + last.rows, last.to + last.rows) == (rows.from, rows.to)
        {
            last.rows += rows.rows;
            return;
        }
        self.moves.push(rows);
    }
}

/// Slots before `slot` that the stripe's rank holds.
fn held_before(stripe: Stripe, slot: u64) -> u64 {
    let slots = u64::from(stripe.slots);
    let turn = slots * u64::from(stripe.of);
    let begun = (slot % turn).saturating_sub(u64::from(stripe.rank) * slots).min(slots);
    slot / turn * slots + begun
}

#[cfg(test)]
mod tests;
