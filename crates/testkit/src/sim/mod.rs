//! A seeded simulation: engines made of the real session, lease, grant, directory and quarantine machines, in virtual
//! time, over a network that delays, reorders and cuts, on hosts that stop, crash and restart.
//!
//! An oracle watches flat memory images in which every block carries the stamp of its tenant. It says which promise
//! broke; the seed alone repeats the run. [`Mutation`]s break one rule each, and tests show that the oracle notices.

mod data;
mod engine;
mod faults;
mod jobs;
mod net;
mod rng;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;

pub use rng::Rng;

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Withheld blocks are freed when some time has passed.
    FreeOnTimer,
    /// A one-sided read does not look at the fence again after the copy.
    SkipRevalidation,
    /// Fences and the serving side compare slots, not generations.
    IgnoreGeneration,
    /// A notification that came twice counts twice.
    DoubleCountArrivals,
    /// The importer acknowledges a revocation while its transfers still run.
    AckEarly,
    /// The initiator looks at the fence before it publishes its cell.
    CheckBeforePublish,
    /// Proofs of closed links and dead processes are lost.
    DropProofs,
    /// Local blocks of a transfer that ended without proof are reused at once.
    ReuseUnquiet,
    /// The owner's own serving work is not counted.
    ForgetServing,
    /// A lost session is taken for proof that its peer is done.
    TrustLostSessions,
    /// News of withdrawn and republished caches is not heeded.
    MissChanges,
}

/// How large a run is, and what is broken in it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Engines at a time.
    pub nodes: usize,
    /// Blocks of each engine's cache.
    pub blocks: u32,
    /// Lease slots of each engine: few, so that they are reused while stale references are about.
    pub leases: u32,
    /// Virtual milliseconds of traffic and faults; afterwards all is healed, and everything must end.
    pub run_ms: u64,
    /// Which rule is broken.
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, blocks: 6, leases: 3, run_ms: 1_500, mutation: None }
    }
}

impl Options {
    /// Sizes drawn from the seed, so that many seeds see small and large clusters, scarce and plentiful slots.
    pub fn varied(seed: u64) -> Self {
        let mut rng = Rng::new(!seed);
        Self {
            nodes: 2 + rng.below(3) as usize,
            blocks: 3 + rng.below(6) as u32,
            leases: 1 + rng.below(4) as u32,
            run_ms: 500 + rng.below(2_000),
            mutation: None,
        }
    }
}

/// What happened in a run: tests assert over many seeds that the rare things do happen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(missing_docs, reason = "counters, named for what they count")]
pub struct Stats {
    pub events: u64,
    pub leases: u64,
    pub claims: u64,
    pub transfers: u64,
    pub completed: u64,
    pub stale: u64,
    pub link_lost: u64,
    pub indeterminate: u64,
    pub freed: u64,
    pub quarantined: u64,
    pub expired: u64,
    pub never_claimed: u64,
    pub peer_lost: u64,
    pub revoked: u64,
    pub duplicates: u64,
    pub crashes: u64,
    pub pauses: u64,
    pub cuts: u64,
    pub stale_incarnations: u64,
    pub fatal: u64,
    pub changes: u64,
    pub forsaken: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.leases += other.leases;
        self.claims += other.claims;
        self.transfers += other.transfers;
        self.completed += other.completed;
        self.stale += other.stale;
        self.link_lost += other.link_lost;
        self.indeterminate += other.indeterminate;
        self.freed += other.freed;
        self.quarantined += other.quarantined;
        self.expired += other.expired;
        self.never_claimed += other.never_claimed;
        self.peer_lost += other.peer_lost;
        self.revoked += other.revoked;
        self.duplicates += other.duplicates;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.stale_incarnations += other.stale_incarnations;
        self.fatal += other.fatal;
        self.changes += other.changes;
        self.forsaken += other.forsaken;
    }
}

/// A promise that broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// `SEED=` this to see it again.
    pub seed: u64,
    /// Virtual time.
    pub at_ms: u64,
    /// What broke.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SEED={}: at {} ms: {}", self.seed, self.at_ms, self.what)
    }
}

/// Runs one seed to its end.
///
/// # Errors
/// The first promise that broke.
pub fn run(seed: u64, options: &Options) -> Result<Stats, Violation> {
    let mut world = world::World::new(seed, options);
    while world.step() {}
    world.verdict(seed)
}
