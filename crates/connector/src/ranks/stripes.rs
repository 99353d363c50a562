//! Which slots of a request a context-parallel rank holds.

use crate::layout::grain::gcd;
use crate::layout::{Context, GroupInfo};

use super::topology::{Rank, Topology};

/// Steps after which two ranks are taken to have slots in common.
const STEPS_MAX: u64 = 1 << 20;

/// Every `of`-th stripe of `slots` slots, beginning with the `rank`-th.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stripe {
    /// Which.
    pub rank: u32,
    /// Of how many; 1 where a rank holds all slots.
    pub of: u32,
    /// Slots of a stripe.
    pub slots: u32,
}

impl Stripe {
    /// All slots.
    pub const ALL: Self = Self { rank: 0, of: 1, slots: 1 };

    /// What `rank` holds of the group; `None` when stripes cut slots, or blocks cut stripes.
    pub(super) fn of(rank: Rank, topology: &Topology, group: &GroupInfo) -> Option<Self> {
        if topology.contexts() == 1 || group.context == Context::Replicated || group.is_state() {
            return Some(Self::ALL);
        }
        let slots = topology.stripe_tokens / group.tokens_per_slot;
        let cut = !topology.stripe_tokens.is_multiple_of(group.tokens_per_slot)
            || slots == 0
            || !group.block_slots.is_multiple_of(slots);
        (!cut).then_some(Self { rank: rank.context(topology), of: topology.contexts(), slots })
    }

    /// The place of a request's slot among those that the stripe's rank holds; `None` when another does.
    pub fn place(&self, slot: u64) -> Option<u64> {
        if self.of == 1 {
            return Some(slot);
        }
        let (slots, of) = (u64::from(self.slots), u64::from(self.of));
        let turn = slot / slots;
        (turn % of == u64::from(self.rank)).then(|| turn / of * slots + slot % slots)
    }

    /// Runs of slots that never cross a stripe's end have this length, or a divisor of it; 0 for any.
    pub(crate) fn grain(&self) -> u64 {
        if self.of == 1 { 0 } else { self.slots.into() }
    }

    /// Whether two ranks of two instances hold a slot in common.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let step = gcd(self.grain(), other.grain()).max(1);
        let period = |stripe: &Self| u64::from(stripe.of) * u64::from(stripe.slots);
        let all = (period(self) / gcd(period(self), period(other))).saturating_mul(period(other));
        // Odd lengths from a peer: a rank that is asked for nothing does no harm.
        all / step > STEPS_MAX
            || (0..all / step).any(|at| self.place(at * step).is_some() && other.place(at * step).is_some())
    }
}
