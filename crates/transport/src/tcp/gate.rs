//! The target's check: whether a lease is open, asked around each call that touches memory under it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ropeway_core::{GrantId, Op};

use crate::{Fence, Fenced};

/// The owner's word on its leases: one load. The engine's fence.
pub trait Gate: Send + Sync {
    /// Whether memory may be touched under `grant` in this way now. SeqCst, or stronger than what closes it.
    fn is_open(&self, grant: GrantId, op: Op) -> bool;
}

impl Gate for Fence {
    fn is_open(&self, grant: GrantId, op: Op) -> bool {
        Fence::is_open(self, grant, op)
    }
}

/// What the thread that serves a stream touches memory for. One per stream; written under the stream's lock.
#[derive(Default)]
pub(super) struct Using(AtomicU64);

impl Using {
    /// Publishes the grant, then asks the gate. `false`: no memory may be touched; `leave` follows all the same.
    pub(super) fn enter(&self, gate: &dyn Gate, grant: GrantId, op: Op) -> bool {
        // SeqCst on both sides: either the owner's look at this cell sees the grant, or the gate is seen closed.
        self.0.store(grant.to_bits(), Ordering::SeqCst);
        gate.is_open(grant, op)
    }

    /// The call has returned: the kernel touches nothing any more.
    pub(super) fn leave(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    fn names(&self, grant: GrantId) -> bool {
        self.0.load(Ordering::SeqCst) == grant.to_bits()
    }
}

/// Grants whose end somebody waits for.
#[derive(Default)]
pub(super) struct Fencing {
    waiting: AtomicUsize,
    grants: Mutex<Vec<GrantId>>,
}

impl Fencing {
    /// The gate of `grant` is closed: are all streams out of it?
    pub(super) fn fence<'a>(&self, grant: GrantId, mut streams: impl Iterator<Item = &'a Using>) -> Fenced {
        {
            let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
            if !grants.contains(&grant) {
                grants.push(grant);
            }
            self.waiting.store(grants.len(), Ordering::SeqCst);
        }
        if streams.any(|using| using.names(grant)) {
            return Fenced::Pending;
        }
        // Not there any more: a stream that left meanwhile has seen it and tells the sink.
        if self.take(grant) { Fenced::Now } else { Fenced::Pending }
    }

    fn take(&self, grant: GrantId) -> bool {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let found = grants.iter().position(|waiting| *waiting == grant);
        if let Some(at) = found {
            grants.swap_remove(at);
        }
        self.waiting.store(grants.len(), Ordering::SeqCst);
        found.is_some()
    }

    /// Whether a stream that has just left has to look.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes one grant that no stream is in any more.
    pub(super) fn take_over<'a, I>(&self, streams: impl Fn() -> I) -> Option<GrantId>
    where
        I: Iterator<Item = &'a Using>,
    {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let at = grants.iter().position(|grant| !streams().any(|using| using.names(*grant)))?;
        let grant = grants.swap_remove(at);
        self.waiting.store(grants.len(), Ordering::SeqCst);
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Switch(AtomicBool);

    impl Gate for Switch {
        fn is_open(&self, _: GrantId, _: Op) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    const GRANT: GrantId = GrantId { slot: 3, generation: 7 };

    #[test]
    fn a_fence_waits_for_the_stream_that_is_inside() {
        let (gate, using, fencing) = (Switch(AtomicBool::new(true)), Using::default(), Fencing::default());
        assert_eq!(fencing.fence(GRANT, [&using].into_iter()), Fenced::Now);
        assert!(!fencing.is_awaited());
        assert!(using.enter(&gate, GRANT, Op::Read));
        gate.0.store(false, Ordering::SeqCst);
        assert_eq!(fencing.fence(GRANT, [&using].into_iter()), Fenced::Pending);
        assert_eq!(fencing.take_over(|| [&using].into_iter()), None);
        using.leave();
        assert!(fencing.is_awaited());
        assert_eq!(fencing.take_over(|| [&using].into_iter()), Some(GRANT));
        assert!(!fencing.is_awaited());
        assert!(!using.enter(&gate, GRANT, Op::Read));
        using.leave();
    }
}
