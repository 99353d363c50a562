//! The load: owners that lease blocks, and jobs that claim, transfer, notify and let go.

use std::sync::Arc;

use ropeway_core::machine::directory::Change;
use ropeway_core::machine::lease::LeaseRequest;
use ropeway_core::machine::session::Command;
use ropeway_core::wire::Token;
use ropeway_core::wire::message::ClaimInfo;
use ropeway_core::{CacheLayout, GrantId, Op, PeerId, RegionId, Rights, StatusKind};

use super::Mutation;
use super::data::{Phase, Transfer};
use super::engine::{Offered, ids};
use super::world::{Event, WORDS, World};

/// A cache that comes and goes.
const AUX: &str = "aux";

/// A token on its way through an importer.
#[derive(Clone, Debug)]
pub(super) struct Job {
    token: Token,
    node: usize,
    tenant: u64,
    blocks: Vec<u32>,
    rights: Rights,
    peer: Option<PeerId>,
    phase: JobPhase,
    /// Indices of blocks to write yet; some come twice, as a retried layer does.
    left: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JobPhase {
    Connecting,
    Claiming,
    Running,
    Done,
}

impl World {
    /// An owner leases some blocks and sends out tokens.
    pub(super) fn traffic(&mut self) {
        if self.calm {
            return;
        }
        self.later(2, 30, None, Event::Traffic);
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let life = self.nodes[node];
        if !self.lives[life].alive || self.lives[life].paused {
            return;
        }
        if self.rng.chance(10) {
            self.republish(life);
        }
        let count = 1 + self.rng.below(3) as usize;
        let Some((tenant, blocks)) = self.allocate(life, count) else { return };
        let rights = if self.rng.chance(50) { Rights::Read } else { Rights::Write };
        let holders = 1 + u32::from(self.rng.chance(20));
        let request = LeaseRequest {
            expected_holders: Some(holders),
            pending: self.rng.chance(25),
            ..LeaseRequest::new(
                &self.limits,
                self.lives[life].engine.cache,
                Arc::new(self.block_set(&blocks)),
                rights,
            )
        };
        let pending = request.pending;
        if !pending && rights == Rights::Read {
            self.stamp(life, tenant, &blocks);
        }
        let (secret, now) = (u128::from(self.rng.bits()), self.now);
        let engine = &mut self.lives[life].engine;
        let Ok(grant) = engine.leases.grant(request, secret, now) else {
            return self.give_back(life, &blocks);
        };
        self.stats.leases += 1;
        let token = Token { incarnation: engine.incarnation, cache: engine.cache, grant, secret };
        engine.offers.insert(grant, Offered { tenant, blocks: blocks.clone(), rights, arrived: 0 });
        if pending {
            self.later(5, 60, Some(life), Event::Complete(grant));
        }
        let job = Job {
            token,
            node,
            tenant,
            blocks,
            rights,
            peer: None,
            phase: JobPhase::Connecting,
            left: Vec::new(),
        };
        self.send_tokens(&job, holders);
        self.settle(life);
    }

    /// Tokens travel outside: they come late, twice, or not at all.
    fn send_tokens(&mut self, job: &Job, holders: u32) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != job.node).collect();
        for _ in 0..holders {
            let Some(node) = self.rng.pick(&others) else { return };
            let copies = [1, 1, 1, 1, 1, 1, 1, 1, 2, 0][self.rng.below(10) as usize];
            for _ in 0..copies {
                let slowest = if self.rng.chance(8) { 600 } else { 40 };
                let life = self.nodes[node];
                self.later(0, slowest, Some(life), Event::Token(Box::new(job.clone())));
            }
        }
    }

    fn stamp(&mut self, life: usize, tenant: u64, blocks: &[u32]) {
        for &id in blocks {
            self.lives[life].memory[id as usize] = [tenant; WORDS];
        }
    }

    /// The events of a pending lease have fired.
    pub(super) fn complete_blocks(&mut self, life: usize, grant: GrantId) {
        let Some(offered) = self.lives[life].engine.offers.get(&grant).cloned() else { return };
        if offered.rights == Rights::Read {
            self.stamp(life, offered.tenant, &offered.blocks);
        }
        let now = self.now;
        self.lives[life].engine.leases.ready(grant, now);
    }

    /// A token arrives at an importer.
    pub(super) fn start_job(&mut self, life: usize, mut job: Job) {
        let engine = &self.lives[life].engine;
        let fits = |id: &PeerId| {
            let peer = &engine.peers[id];
            let remote = &self.lives[self.conns[peer.conn].lives[1]];
            peer.side == 0 && !peer.over && remote.engine.incarnation == job.token.incarnation
        };
        let known = engine.peers.keys().copied().find(fits);
        let again = self.rng.chance(10);
        let peer = known.filter(|_| !again).or_else(|| self.connect(life, job.node, job.token.incarnation));
        let Some(peer) = peer else { return };
        job.peer = Some(peer);
        let engine = &mut self.lives[life].engine;
        engine.last_job += 1;
        engine.jobs.insert(engine.last_job, job);
        if engine.peers[&peer].remote.current("kv").is_some() {
            self.claim_waiting(life, peer);
        }
    }

    /// The session is up: look the cache up, unless the peer connected to us.
    pub(super) fn peer_ready(&mut self, life: usize, id: PeerId) {
        let peer = &self.lives[life].engine.peers[&id];
        if peer.side == 0 {
            let known = peer.remote.known("kv");
            self.call(life, id, Command::Lookup { name: "kv".into(), known });
            self.look_up_aux(life, id);
        }
    }

    fn look_up_aux(&mut self, life: usize, id: PeerId) {
        let known = self.lives[life].engine.peers[&id].remote.known(AUX);
        self.call(life, id, Command::Lookup { name: AUX.into(), known });
    }

    /// Publishes a second cache, which nothing is leased from, anew, or withdraws it.
    pub(super) fn republish(&mut self, life: usize) {
        let withdraw = self.rng.chance(30);
        let layout = CacheLayout::whole_region(AUX, RegionId { slot: 1, generation: 1 }, 8);
        let layout = layout.build(|_| Some(8), &self.limits).expect("the layout fits its region");
        let directory = &mut self.lives[life].engine.directory;
        let changes = match directory.lookup(AUX, None) {
            Ok(info) if withdraw => directory.withdraw(info.cache).into_iter().collect(),
            _ => directory.publish(&layout).expect("there is room for two").1,
        };
        let peers: Vec<PeerId> = self.lives[life].engine.peers.keys().copied().collect();
        for Change { cache, version, live, name } in changes {
            self.stats.changes += 1;
            for &peer in &peers {
                self.call(life, peer, Command::Changed { cache, version, live, name: name.clone() });
            }
        }
        self.settle(life);
    }

    pub(super) fn cache_changed(&mut self, life: usize, id: PeerId, change: &Change) {
        if self.broken(Mutation::MissChanges) {
            return;
        }
        let Some(peer) = self.lives[life].engine.peers.get_mut(&id) else { return };
        if peer.remote.changed(change) && self.rng.chance(50) {
            self.look_up_aux(life, id);
        }
    }

    /// After the calm, what counts as current at a peer is what its owner has published.
    pub(super) fn check_directories(&mut self) {
        let mut strange = None;
        for life in self.lives.iter().filter(|life| life.alive) {
            for peer in life.engine.peers.values().filter(|peer| peer.side == 0 && !peer.over) {
                let owner = &self.lives[self.conns[peer.conn].lives[1]];
                if let Some(known) = peer.remote.current(AUX).filter(|_| owner.alive) {
                    let now = owner.engine.directory.lookup(AUX, None).map(|info| info.cache);
                    strange = strange.or((now != Ok(known.cache)).then_some((known.cache, now)));
                }
            }
        }
        if let Some((known, now)) = strange {
            self.fail(format!("a peer takes cache {known} for current, its owner has {now:?}"));
        }
    }

    /// Claims for all jobs that waited for the peer.
    pub(super) fn claim_waiting(&mut self, life: usize, peer: PeerId) {
        let jobs = &self.lives[life].engine.jobs;
        let waiting: Vec<u64> = jobs
            .iter()
            .filter(|(_, job)| job.peer == Some(peer) && job.phase == JobPhase::Connecting)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let now = self.now;
            let engine = &mut self.lives[life].engine;
            let Some(job) = engine.jobs.get_mut(&id) else { continue };
            let token = job.token;
            job.phase = JobPhase::Claiming;
            if engine.grants.claim_sent(peer, token.grant, now).is_err() {
                engine.jobs.remove(&id);
                continue;
            }
            match self.call(life, peer, Command::Claim { token }) {
                Some(request) => {
                    if let Some(peer) = self.lives[life].engine.peers.get_mut(&peer) {
                        peer.asked.insert(request, id);
                    }
                }
                None => {
                    self.lives[life].engine.grants.claim_failed(peer, token.grant);
                    self.lives[life].engine.jobs.remove(&id);
                }
            }
        }
    }

    pub(super) fn claim_answered(
        &mut self,
        life: usize,
        peer: PeerId,
        request: u32,
        grant: GrantId,
        info: Option<ClaimInfo>,
    ) {
        let now = self.now;
        let engine = &mut self.lives[life].engine;
        let id = engine.peers.get_mut(&peer).and_then(|peer| peer.asked.remove(&request));
        let Some(info) = info else {
            engine.grants.claim_failed(peer, grant);
            if let Some(id) = id {
                engine.jobs.remove(&id);
            }
            return;
        };
        let blocks = ids(info.blocks.0.first().map_or(&[], Vec::as_slice));
        engine.grants.claimed(peer, info, now);
        let Some((id, job)) = id.and_then(|id| Some((id, engine.jobs.get_mut(&id)?))) else {
            return engine.grants.drop_handle(peer, grant);
        };
        job.phase = JobPhase::Running;
        if blocks != job.blocks {
            let meant = job.blocks.clone();
            return self.fail(format!("lease {grant} covers {blocks:?}, its token was for {meant:?}"));
        }
        if job.rights == Rights::Write {
            let mut left: Vec<usize> = (0..blocks.len()).chain(0..blocks.len()).collect();
            left.truncate(blocks.len() + self.rng.below(2) as usize);
            job.left = left;
        }
        self.run_job(life, id);
    }

    /// Starts the next transfer of a job.
    fn run_job(&mut self, life: usize, id: u64) {
        let Some(job) = self.lives[life].engine.jobs.get_mut(&id) else { return };
        let next = job.left.pop();
        let (job, op) = (job.clone(), if job.rights == Rights::Read { Op::Read } else { Op::Write });
        let (Some(peer), grant, now) = (job.peer, job.token.grant, self.now) else { return };
        let plan = match (op, next) {
            (Op::Read, _) => self.allocate(life, job.blocks.len()).map(|(tenant, local)| {
                (tenant, job.blocks.iter().copied().zip(local).collect::<Vec<_>>(), 0)
            }),
            (Op::Write, Some(index)) => Some((0, vec![(job.blocks[index], 0)], index as u32)),
            (Op::Write, None) => None,
        };
        let Some((local_tenant, pieces, sequence)) = plan else { return self.finish_job(life, id) };
        let engine = &mut self.lives[life].engine;
        let begun = engine.grants.begin_use(peer, grant, op, now);
        let ends = engine.peers.get(&peer).map(|peer| (peer.conn, peer.side));
        let (Ok(()), Some((conn, side))) = (begun, ends) else {
            if begun.is_ok() {
                engine.grants.end_use(peer, grant, true);
            }
            let local: Vec<u32> = pieces.iter().map(|piece| piece.1).collect();
            if op == Op::Read {
                self.give_back(life, &local);
            }
            return self.finish_job(life, id);
        };
        self.begin(Transfer {
            life,
            owner: self.conns[conn].lives[1 - side],
            conn,
            side,
            peer,
            grant,
            op,
            pieces,
            tenant: job.tenant,
            local_tenant,
            job: id,
            sequence,
            piece: 0,
            phase: Phase::Publish,
            ends: 0,
            started: false,
            cancel: false,
            data: Vec::new(),
        });
    }

    pub(super) fn transfer_ended(&mut self, life: usize, id: u64, sequence: u32, kind: StatusKind) {
        let Some(job) = self.lives[life].engine.jobs.get(&id).filter(|job| job.phase == JobPhase::Running)
        else {
            return;
        };
        let (Some(peer), grant) = (job.peer, job.token.grant) else { return };
        if job.rights == Rights::Read {
            return self.finish_job(life, id);
        }
        let failed = kind != StatusKind::Completed;
        self.call(life, peer, Command::Notify { grant, sequence, failed });
        if failed {
            return self.finish_job(life, id);
        }
        self.run_job(life, id);
    }

    /// The job lets its grant go, at once or after having kept it for a while.
    fn finish_job(&mut self, life: usize, id: u64) {
        let Some(job) = self.lives[life].engine.jobs.get_mut(&id) else { return };
        job.phase = JobPhase::Done;
        if self.rng.chance(30) {
            return self.later(1, 500, Some(life), Event::DropJob(id));
        }
        self.drop_job(life, id);
    }

    pub(super) fn drop_job(&mut self, life: usize, id: u64) {
        let engine = &mut self.lives[life].engine;
        let Some(job) = engine.jobs.remove(&id) else { return };
        if let (Some(peer), JobPhase::Running | JobPhase::Done) = (job.peer, job.phase) {
            engine.grants.drop_handle(peer, job.token.grant);
        }
    }

    /// The session of these jobs is over.
    pub(super) fn end_jobs_of(&mut self, life: usize, peer: PeerId) {
        let jobs = &self.lives[life].engine.jobs;
        let ended: Vec<u64> =
            jobs.iter().filter(|(_, job)| job.peer == Some(peer)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.drop_job(life, id));
    }

    /// A grant ended: its transfers are cancelled, which is a hint.
    pub(super) fn grant_ended(&mut self, life: usize, peer: PeerId, grant: GrantId) {
        for transfer in &mut self.transfers {
            if (transfer.life, transfer.peer, transfer.grant) == (life, peer, grant) {
                transfer.cancel = true;
            }
        }
    }
}
