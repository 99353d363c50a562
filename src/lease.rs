//! A lease as its owner holds it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ropeway_core::machine::lease::Outcome;
use ropeway_core::wire::{LeaseName, Token};
use ropeway_core::{GrantId, PeerId};

use crate::cache::CacheInner;
use crate::event::Start;

/// What a lease may ask for beyond blocks and rights.
#[derive(Clone, Debug)]
#[must_use]
pub struct LeaseOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) first_contact_grace: Option<Duration>,
    pub(crate) holders: Option<u32>,
    pub(crate) name: Option<LeaseName>,
    pub(crate) start: Start,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { ttl: None, first_contact_grace: None, holders: None, name: None, start: Start::Now }
    }
}

impl LeaseOptions {
    /// How long the lease lives without a renewal; `Limits::lease_ttl` unless said; at least 100 ms.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long the lease waits for a holder that it still expects; `Limits::first_contact_grace` unless said.
    pub fn first_contact_grace(mut self, grace: Duration) -> Self {
        self.first_contact_grace = Some(grace);
        self
    }

    /// How many different peers will claim it; 1 unless said, or, of a named lease, as many as the first says that asks
    /// for it. It is done when as many have released it.
    pub fn holders(mut self, holders: u32) -> Self {
        self.holders = Some(holders);
        self
    }

    /// A name by which peers can [claim](crate::Peer::claim_named) it, besides its token: drawn beforehand, with
    /// [`lease_name`](crate::lease_name), by whoever tells them. It names one lease of an engine, ever.
    pub fn name(mut self, name: LeaseName) -> Self {
        self.name = Some(name);
        self
    }

    /// When the blocks are complete; at once unless said. Claims wait until then.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }
}

/// A promise to keep a set of blocks open for peers. Dropping it revokes it, in the background.
///
/// The blocks may be reused when the lease is free: by [`Self::wait_free`], or by awaiting [`Self::freed`].
#[must_use = "dropping a lease revokes it"]
pub struct Lease(pub(crate) Arc<LeaseInner>);

pub(crate) struct LeaseInner {
    pub(crate) token: Token,
    pub(crate) cache: Arc<CacheInner>,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    freed: Option<Freed>,
    withheld_by: Vec<PeerId>,
    wakers: Vec<Waker>,
    /// Kept past the lease's end, for whoever waits; bounded by `notifications_per_lease`.
    arrived: BTreeSet<u32>,
    failed: BTreeSet<u32>,
}

/// How a lease became free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Freed {
    /// Why it ended.
    pub outcome: Outcome,
    /// Whether its blocks were in quarantine before.
    pub quarantined: bool,
}

impl Lease {
    /// The lease's id.
    pub fn id(&self) -> GrantId {
        self.0.token.grant
    }

    /// The string that lets a peer claim it. Whoever holds it and reaches the engine can: treat it as a secret.
    pub fn token(&self) -> Token {
        self.0.token
    }

    /// Ends the promise: no access may begin. The lease becomes free when those under way are proven over.
    pub fn revoke(&self) {
        if let Some(shared) = self.0.cache.shared.upgrade().filter(|shared| !shared.is_foreign()) {
            shared.revoke(self.id());
        }
    }

    /// Whether the blocks may be reused.
    pub fn is_free(&self) -> bool {
        self.0.look(|end| end.freed.is_some())
    }

    /// Whether the lease has ended while a peer may still touch its blocks; names the peers.
    pub fn withheld_by(&self) -> Vec<PeerId> {
        self.0.look(|end| end.withheld_by.clone())
    }

    /// Waits up to `timeout` until the blocks may be reused.
    pub fn wait_free(&self, timeout: Duration) -> Option<Freed> {
        self.0.wait(timeout, |end| end.freed)
    }

    /// The same as a future.
    pub fn freed(&self) -> impl Future<Output = Freed> + Send + use<> {
        Freeing(Arc::clone(&self.0))
    }

    /// Whether a holder has told that `sequence` arrived. A retried transfer counts once.
    pub fn arrived(&self, sequence: u32) -> bool {
        self.0.look(|end| end.arrived.contains(&sequence))
    }

    /// Whether the last word about `sequence` was a failure.
    pub fn failed(&self, sequence: u32) -> bool {
        self.0.look(|end| end.failed.contains(&sequence))
    }

    /// How many different sequences have arrived.
    pub fn arrivals(&self) -> u32 {
        self.0.look(|end| end.arrived.len() as u32)
    }

    /// Waits up to `timeout` until `count` different sequences have arrived; `false` when it passed first, or the lease
    /// became free before.
    pub fn wait_arrivals(&self, count: u32, timeout: Duration) -> bool {
        let enough = |end: &End| match (end.arrived.len() >= count as usize, end.freed) {
            (true, _) => Some(true),
            (false, Some(_)) => Some(false),
            (false, None) => None,
        };
        self.0.wait(timeout, enough).unwrap_or(false)
    }
}

impl LeaseInner {
    pub(crate) fn new(token: Token, cache: Arc<CacheInner>) -> Arc<Self> {
        Arc::new(Self { token, cache, end: Mutex::default(), ended: Condvar::new() })
    }

    /// The lease is free; gives the wakers to be woken once no lock is held.
    pub(crate) fn free(&self, freed: Freed) -> Vec<Waker> {
        let mut end = self.end();
        end.freed = Some(freed);
        end.withheld_by.clear();
        self.ended.notify_all();
        std::mem::take(&mut end.wakers)
    }

    /// Wakers are callers' code, and may panic.
    pub(crate) fn wake(wakers: Vec<Waker>) {
        for waker in wakers {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
    }

    pub(crate) fn withheld(&self, peers: Vec<PeerId>) {
        let mut end = self.end();
        if end.freed.is_none() {
            end.withheld_by = peers;
        }
    }

    /// Counts what a holder told of a sequence.
    pub(crate) fn told(&self, sequence: u32, failed: bool) {
        let mut end = self.end();
        if failed {
            end.failed.insert(sequence);
        } else {
            end.failed.remove(&sequence);
            end.arrived.insert(sequence);
        }
        self.ended.notify_all();
    }

    fn wait<T>(&self, timeout: Duration, ready: impl Fn(&End) -> Option<T>) -> Option<T> {
        if self.is_foreign() {
            return None;
        }
        let until = crate::deadline::after(timeout);
        let mut end = self.end();
        loop {
            if let Some(value) = ready(&end) {
                return Some(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            end = self.ended.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nothing in a forked child: a thread that is not there may hold the lock.
    fn look<T: Default>(&self, at: impl FnOnce(&End) -> T) -> T {
        if self.is_foreign() { T::default() } else { at(&self.end()) }
    }

    fn is_foreign(&self) -> bool {
        self.cache.shared.upgrade().is_some_and(|shared| shared.is_foreign())
    }

    fn end(&self) -> std::sync::MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shared) = self.0.cache.shared.upgrade().filter(|shared| !shared.is_foreign()) {
            shared.revoke(self.id());
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id()).field("free", &self.is_free()).finish()
    }
}

struct Freeing(Arc<LeaseInner>);

impl Future for Freeing {
    type Output = Freed;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Freed> {
        if self.0.is_foreign() {
            return Poll::Pending;
        }
        let mut end = self.0.end();
        if let Some(freed) = end.freed {
            return Poll::Ready(freed);
        }
        if !end.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            end.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}
