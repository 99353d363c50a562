//! One engine of the simulation: the real machines, and the glue that an engine puts between them.

use std::collections::BTreeMap;
use std::time::Duration;

use ropeway_core::machine::grants::{Ended, GrantAction};
use ropeway_core::machine::lease::{Action, LeaseTable, Outcome, Proof};
use ropeway_core::machine::quarantine::{Cause, QuarantineEvent};
use ropeway_core::machine::session::{Command, Session};
use ropeway_core::wire::FrameDecoder;
use ropeway_core::{
    BlockId, BlockSpan, CacheId, CacheLayout, Directory, GrantId, GrantTable, Incarnation, Limits, PeerId,
    Quarantine, RemoteDirectory, Rights,
};

use super::Mutation;
use super::jobs::Job;
use super::world::{Event, World, ms};

pub(super) struct Engine {
    pub(super) incarnation: Incarnation,
    pub(super) cache: CacheId,
    pub(super) directory: Directory,
    pub(super) leases: LeaseTable,
    pub(super) grants: GrantTable,
    pub(super) quarantine: Quarantine,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) last_peer: u32,
    /// What each lease of ours is for.
    pub(super) offers: BTreeMap<GrantId, Offered>,
    pub(super) jobs: BTreeMap<u64, Job>,
    pub(super) last_job: u64,
}

/// A lease that we granted: for whom, on what.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub(super) tenant: u64,
    pub(super) blocks: Vec<u32>,
    pub(super) rights: Rights,
    /// Arrivals as the engine counts them.
    pub(super) arrived: u32,
}

pub(super) struct Peer {
    pub(super) session: Session,
    pub(super) decoder: FrameDecoder,
    pub(super) conn: usize,
    pub(super) side: usize,
    /// Claims that wait for an answer, by request, and the jobs that asked.
    pub(super) asked: BTreeMap<u32, u64>,
    pub(super) remote: RemoteDirectory,
    pub(super) over: bool,
}

impl Engine {
    pub(super) fn new(number: u64, limits: &Limits, layout: &CacheLayout) -> Self {
        let mut directory = Directory::new(limits);
        let (cache, _) = directory.publish(layout).expect("an empty directory has room");
        Self {
            incarnation: Incarnation::new(number).expect("lives count from 1"),
            cache,
            directory,
            leases: LeaseTable::new(limits),
            grants: GrantTable::new(limits),
            quarantine: Quarantine::new(limits),
            peers: BTreeMap::new(),
            last_peer: 0,
            offers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
        }
    }

    pub(super) fn is_withheld(&self, block: u32) -> bool {
        self.quarantine.is_withheld(self.cache, 0, BlockId(block))
    }

    fn next_timer(&self) -> Option<Duration> {
        let sessions = self.peers.values().filter_map(|peer| peer.session.next_timer());
        let machines = [self.leases.next_timer(), self.grants.next_timer(), self.quarantine.next_timer()];
        machines.into_iter().flatten().chain(sessions).min()
    }
}

pub(super) fn ids(spans: &[BlockSpan]) -> Vec<u32> {
    spans.iter().flat_map(BlockSpan::ids).map(|id| id.0).collect()
}

impl World {
    /// Timers of all machines of a life.
    pub(super) fn wake(&mut self, life: usize) {
        let now = self.now;
        let engine = &mut self.lives[life].engine;
        engine.leases.tick(now);
        engine.grants.tick(now);
        engine.quarantine.tick(now);
        engine.peers.values_mut().for_each(|peer| peer.session.tick(now));
        self.lives[life].wake = None;
    }

    /// Does what the machines of a life ask for, until they ask for nothing; then sets its alarm clock.
    pub(super) fn settle(&mut self, life: usize) {
        loop {
            let mut quiet = true;
            while let Some(action) = self.lives[life].engine.leases.poll_action() {
                quiet = false;
                // An engine does most of this after the table's lock was let go: threads overtake each other.
                let in_order = matches!(action, Action::OpenFence { .. } | Action::CloseFence { .. });
                if !in_order && self.rng.chance(10) {
                    self.later(0, 4, Some(life), Event::Act(Box::new(action)));
                } else {
                    self.lease_action(life, action);
                }
            }
            while let Some(action) = self.lives[life].engine.grants.poll_action() {
                quiet = false;
                self.grant_action(life, action);
            }
            while let Some(event) = self.lives[life].engine.quarantine.poll_event() {
                quiet = false;
                self.quarantine_event(life, event);
            }
            let peers: Vec<PeerId> = self.lives[life].engine.peers.keys().copied().collect();
            for peer in peers {
                quiet &= !self.drain_session(life, peer);
            }
            if quiet {
                break;
            }
        }
        let now = self.now;
        let engine = &mut self.lives[life].engine;
        for (id, peer) in &mut engine.peers {
            let (ours, theirs) = (engine.grants.heartbeat_pause(*id), engine.leases.held_by(*id) > 0);
            peer.session.set_holding(ours, theirs, now);
        }
        let Some(at) = engine.next_timer().map(|at| at.max(now + ms(1))) else { return };
        if self.lives[life].wake.is_none_or(|wake| at < wake) {
            self.lives[life].wake = Some(at);
            self.at(at, Some(life), Event::Wake);
        }
    }

    pub(super) fn call(&mut self, life: usize, peer: PeerId, command: Command) -> Option<u32> {
        self.lives[life].engine.peers.get_mut(&peer)?.session.call(command).ok()
    }

    pub(super) fn lease_action(&mut self, life: usize, action: Action) {
        match action {
            Action::OpenFence { grant, .. } => {
                self.lives[life].fence.insert(grant.slot, grant.generation);
            }
            Action::CloseFence { grant } => {
                self.lives[life].fence.remove(&grant.slot);
            }
            Action::AskFence { grant, peer } => self.ask_fence(life, grant, peer),
            Action::TellRevoked { peer, grant } => {
                self.call(life, peer, Command::Revoke { grant });
            }
            Action::Decided { peer, grant, result } => {
                self.call(life, peer, Command::Decide { grant, result });
            }
            Action::Freed { grant, outcome, quarantined, .. } => {
                self.freed(life, grant, outcome, quarantined)
            }
            Action::Quarantined { grant, blocks, cache, .. } => {
                self.stats.quarantined += 1;
                let (cause, now) = (Cause::Lease { grant }, self.now);
                let result = self.lives[life].engine.quarantine.withhold(cause, cache, blocks, &[8], now);
                if let Err(error) = result {
                    self.fail(format!("quarantine: {error}"));
                }
            }
            Action::Fatal { .. } => self.stats.fatal += 1,
        }
    }

    fn freed(&mut self, life: usize, grant: GrantId, outcome: Outcome, quarantined: bool) {
        self.stats.freed += 1;
        match outcome {
            Outcome::Expired => self.stats.expired += 1,
            Outcome::NeverClaimed => self.stats.never_claimed += 1,
            Outcome::PeerLost => self.stats.peer_lost += 1,
            Outcome::Revoked => self.stats.revoked += 1,
            _ => {}
        }
        self.check_freed(life, grant);
        let Some(offered) = self.lives[life].engine.offers.remove(&grant) else {
            return self.fail(format!("lease {grant} was freed twice"));
        };
        if quarantined {
            self.lives[life].engine.quarantine.release(Cause::Lease { grant });
        } else {
            self.give_back(life, &offered.blocks);
        }
    }

    fn grant_action(&mut self, life: usize, action: GrantAction) {
        match action {
            GrantAction::SendRelease { peer, grant } => {
                self.call(life, peer, Command::Release { grant });
            }
            GrantAction::Forsake { peer, grant } => {
                self.stats.forsaken += 1;
                self.call(life, peer, Command::Forsake { grant });
            }
            GrantAction::Ended { peer, grant, why } => {
                if why == Ended::Revoked && self.broken(Mutation::AckEarly) {
                    self.call(life, peer, Command::Release { grant });
                }
                self.grant_ended(life, peer, grant);
            }
        }
    }

    fn quarantine_event(&mut self, life: usize, event: QuarantineEvent) {
        match event {
            QuarantineEvent::Released { blocks, .. } => {
                let blocks: Vec<u32> = blocks.into_iter().map(|(_, block)| block.0).collect();
                self.give_back(life, &blocks);
            }
            QuarantineEvent::Fatal { .. } => self.stats.fatal += 1,
        }
    }

    /// The fence word of a lease was closed; are the peer's accesses under it over?
    fn ask_fence(&mut self, life: usize, grant: GrantId, peer: PeerId) {
        let rights = self.lives[life].engine.offers.get(&grant).map(|offered| offered.rights);
        // A read looks at the fence again before it counts; a link that the target checks starts nothing more.
        if rights == Some(Rights::Write) && self.inside(life, grant, peer) {
            self.lives[life].engine.leases.fence_pending(grant);
            self.later(2, 6, Some(life), Event::PollFence { grant, peer });
            return;
        }
        let now = self.now;
        self.lives[life].engine.leases.prove(Proof::Fenced { peer, grant }, now);
    }

    pub(super) fn poll_fence(&mut self, life: usize, grant: GrantId, peer: PeerId) {
        if self.lives[life].engine.leases.state(grant).is_none() {
            return;
        }
        if !self.lives[life].engine.peers.contains_key(&peer) {
            // The link was closed meanwhile, and that was the proof.
            return;
        }
        if self.inside(life, grant, peer) && !self.broken(Mutation::FreeOnTimer) {
            return self.later(2, 6, Some(life), Event::PollFence { grant, peer });
        }
        let now = self.now;
        self.lives[life].engine.leases.prove(Proof::Fenced { peer, grant }, now);
    }

    /// Whether a cell of the peer's link names the lease.
    fn inside(&self, life: usize, grant: GrantId, peer: PeerId) -> bool {
        let Some(peer) = self.lives[life].engine.peers.get(&peer) else { return false };
        let conn = &self.conns[peer.conn];
        conn.one_sided && conn.cells[1 - peer.side].values().any(|cell| *cell == grant)
    }
}
