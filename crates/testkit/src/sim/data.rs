//! Data links: one-sided copies behind fence words and cells, and requests that the target checks and serves. Word by
//! word, with time in between, so that copies tear and come late.

use ropeway_core::machine::quarantine::Cause;
use ropeway_core::machine::session::Command;
use ropeway_core::wire::message::Why;
use ropeway_core::{GrantId, Op, PeerId, Quiet, StatusKind, TransferId};
use std::sync::Arc;

use super::Mutation;
use super::world::{Block, Event, WORDS, World, ms};

/// One transfer, and what its initiator does for it.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) life: usize,
    pub(super) owner: usize,
    pub(super) conn: usize,
    pub(super) side: usize,
    pub(super) peer: PeerId,
    pub(super) grant: GrantId,
    pub(super) op: Op,
    /// Remote and local block of each piece.
    pub(super) pieces: Vec<(u32, u32)>,
    pub(super) tenant: u64,
    pub(super) local_tenant: u64,
    pub(super) job: u64,
    pub(super) sequence: u32,
    pub(super) piece: usize,
    pub(super) phase: Phase,
    pub(super) ends: u32,
    pub(super) started: bool,
    pub(super) cancel: bool,
    pub(super) data: Vec<Block>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Write the cell.
    Publish,
    /// Look at the owner's gate and fence word.
    Check,
    /// Copy a word.
    Copy(usize),
    /// A read looks at the fence word again.
    Confirm,
    /// Clear the cell.
    Clear,
    /// The target works.
    Waiting,
    /// The target's answer is put in place.
    Scatter(usize),
    /// Nothing of it runs any more.
    Over,
}

/// A request that the owner serves.
pub(super) struct Serve {
    transfer: usize,
    life: usize,
    grant: GrantId,
    word: usize,
    collected: Vec<Block>,
    pub(super) over: bool,
}

impl World {
    pub(super) fn begin(&mut self, mut transfer: Transfer) {
        let (number, life) = (self.transfers.len(), transfer.life);
        transfer.started = true;
        self.stats.transfers += 1;
        let conn = &self.conns[transfer.conn];
        let (one_sided, owner, lost) = (conn.one_sided, transfer.owner, conn.data_cut[transfer.side]);
        if !one_sided {
            transfer.phase = Phase::Waiting;
        } else if self.broken(Mutation::CheckBeforePublish) {
            transfer.phase = Phase::Check;
        }
        self.transfers.push(transfer);
        if one_sided {
            self.later(0, 2, Some(life), Event::Step(number));
        } else if lost {
            self.over(number, StatusKind::LinkLost, Quiet::Yes);
        } else {
            self.later(0, 8, Some(owner), Event::Request(number));
        }
    }

    /// The next step of the initiator.
    pub(super) fn advance(&mut self, number: usize) {
        let transfer = &self.transfers[number];
        let (side, conn, grant, life) = (transfer.side, transfer.conn, transfer.grant, transfer.life);
        let late = self.broken(Mutation::CheckBeforePublish);
        let next = match transfer.phase {
            Phase::Publish => {
                if !late && self.refused(number) {
                    return;
                }
                self.conns[conn].cells[side].insert(number, grant);
                if late { Phase::Copy(0) } else { Phase::Check }
            }
            Phase::Check => {
                if late && self.refused(number) {
                    return;
                }
                if !self.is_open(number) {
                    self.conns[conn].cells[side].remove(&number);
                    return self.over(number, StatusKind::StaleLease, Quiet::Yes);
                }
                if late { Phase::Publish } else { Phase::Copy(0) }
            }
            Phase::Copy(word) => {
                self.copy_word(number, word);
                if word == 0 {
                    self.perhaps_panic(number);
                }
                match (word + 1 < WORDS, self.transfers[number].op) {
                    (true, _) => Phase::Copy(word + 1),
                    (false, Op::Read) => Phase::Confirm,
                    (false, Op::Write) => Phase::Clear,
                }
            }
            Phase::Confirm => {
                if !self.is_open(number) && !self.broken(Mutation::SkipRevalidation) {
                    self.zero(number);
                    self.conns[conn].cells[side].remove(&number);
                    return self.over(number, StatusKind::StaleLease, Quiet::Yes);
                }
                Phase::Clear
            }
            Phase::Clear => {
                self.conns[conn].cells[side].remove(&number);
                let transfer = &mut self.transfers[number];
                transfer.piece += 1;
                if transfer.piece == transfer.pieces.len() || transfer.ends > 0 {
                    return self.over(number, StatusKind::Completed, Quiet::Yes);
                }
                if late { Phase::Check } else { Phase::Publish }
            }
            Phase::Scatter(word) => match self.scatter(number, word) {
                Some(next) => next,
                None => return self.over(number, StatusKind::Completed, Quiet::Yes),
            },
            Phase::Waiting | Phase::Over => return,
        };
        self.transfers[number].phase = next;
        let slow = self.rng.chance(4);
        self.later(0, if slow { 50 } else { 2 }, Some(life), Event::Step(number));
    }

    /// A word of the target's answer goes to its place; `None` after the last.
    fn scatter(&mut self, number: usize, word: usize) -> Option<Phase> {
        let transfer = &self.transfers[number];
        let (life, piece, tenant) = (transfer.life, transfer.piece, transfer.local_tenant);
        let (local, value) = (transfer.pieces[piece].1, transfer.data[piece][word]);
        self.land(life, local, word, value, tenant, "the answer to a read");
        let transfer = &mut self.transfers[number];
        if word + 1 < WORDS {
            return Some(Phase::Scatter(word + 1));
        }
        transfer.piece += 1;
        (transfer.piece < transfer.pieces.len()).then_some(Phase::Scatter(0))
    }

    /// Before a piece: ends the transfer that was cancelled or whose link is lost.
    fn refused(&mut self, number: usize) -> bool {
        let transfer = &self.transfers[number];
        let peer = self.lives[transfer.life].engine.peers.get(&transfer.peer);
        let lost = self.conns[transfer.conn].cut[transfer.side] || peer.is_none_or(|peer| peer.over);
        if lost {
            self.over(number, StatusKind::LinkLost, Quiet::Yes);
        } else if transfer.cancel {
            self.over(number, StatusKind::Cancelled, Quiet::Yes);
        } else {
            return false;
        }
        true
    }

    /// What the owner's gate and fence word say of the lease.
    fn is_open(&self, number: usize) -> bool {
        let transfer = &self.transfers[number];
        let word = self.lives[transfer.owner].fence.get(&transfer.grant.slot);
        let named = |generation: &u32| {
            *generation == transfer.grant.generation || self.broken(Mutation::IgnoreGeneration)
        };
        self.conns[transfer.conn].gate[1 - transfer.side] && word.is_some_and(named)
    }

    fn copy_word(&mut self, number: usize, word: usize) {
        let transfer = &self.transfers[number];
        let (life, owner, tenant) = (transfer.life, transfer.owner, transfer.tenant);
        let (remote, local) = transfer.pieces[transfer.piece];
        match transfer.op {
            Op::Read => {
                let (value, tenant) =
                    (self.lives[owner].memory[remote as usize][word], transfer.local_tenant);
                self.land(life, local, word, value, tenant, "a one-sided read");
            }
            Op::Write => self.land(owner, remote, word, tenant, tenant, "a one-sided write"),
        }
    }

    fn zero(&mut self, number: usize) {
        let transfer = &self.transfers[number];
        let (life, local, tenant) = (transfer.life, transfer.pieces[transfer.piece].1, transfer.local_tenant);
        (0..WORDS).for_each(|word| self.land(life, local, word, 0, tenant, "the end of a stale read"));
    }

    /// A copy worker panics: the transfer ends with nothing known, its last copy goes on for a while.
    fn perhaps_panic(&mut self, number: usize) {
        if self.calm || self.transfers[number].ends > 0 || !self.rng.chance(2) {
            return;
        }
        self.end(number, StatusKind::Indeterminate, Quiet::AfterClose, Quiet::AfterClose);
        let (life, peer) = (self.transfers[number].life, self.transfers[number].peer);
        self.call(life, peer, Command::Goodbye { why: Why::Other, text: "only closing proves".into() });
    }

    /// Nothing of the transfer runs any more.
    fn over(&mut self, number: usize, kind: StatusKind, remote: Quiet) {
        self.transfers[number].phase = Phase::Over;
        if self.transfers[number].ends == 0 {
            self.end(number, kind, Quiet::Yes, remote);
        }
    }

    /// The terminal status: to the grant table, the quarantine, and the job.
    fn end(&mut self, number: usize, kind: StatusKind, local: Quiet, remote: Quiet) {
        let transfer = &mut self.transfers[number];
        transfer.ends += 1;
        let (life, peer, grant, op) = (transfer.life, transfer.peer, transfer.grant, transfer.op);
        let (job, sequence, ends) = (transfer.job, transfer.sequence, transfer.ends);
        if ends > 1 {
            return self.fail(format!("transfer {number} ended {ends} times"));
        }
        match kind {
            StatusKind::Completed => self.stats.completed += 1,
            StatusKind::StaleLease => self.stats.stale += 1,
            StatusKind::LinkLost => self.stats.link_lost += 1,
            StatusKind::Indeterminate => self.stats.indeterminate += 1,
            _ => {}
        }
        if op == Op::Read {
            self.surface(number, kind, local);
        }
        self.lives[life].engine.grants.end_use(peer, grant, remote == Quiet::Yes);
        self.transfer_ended(life, job, sequence, kind);
    }

    /// A read's destination: what a completed one shows, and when the blocks may be reused.
    fn surface(&mut self, number: usize, kind: StatusKind, quiet: Quiet) {
        let transfer = &self.transfers[number];
        let (life, peer, tenant) = (transfer.life, transfer.peer, transfer.tenant);
        let blocks: Vec<u32> = transfer.pieces.iter().map(|piece| piece.1).collect();
        if kind == StatusKind::Completed {
            let memory = &self.lives[life].memory;
            let strange = blocks.iter().flat_map(|id| memory[*id as usize]).find(|word| *word != tenant);
            if let Some(word) = strange {
                self.fail(format!("transfer {number}: a completed read of tenant {tenant} shows {word}"));
            }
        }
        if quiet == Quiet::Yes || self.broken(Mutation::ReuseUnquiet) {
            return self.give_back(life, &blocks);
        }
        let (set, cache) = (Arc::new(self.block_set(&blocks)), self.lives[life].engine.cache);
        let cause = Cause::Transfer { peer, link: 0, transfer: TransferId(number as u64) };
        let now = self.now;
        if let Err(error) = self.lives[life].engine.quarantine.withhold(cause, cache, set, &[8], now) {
            self.fail(format!("quarantine: {error}"));
        }
    }

    /// The owner receives a request: checks it before memory is touched.
    pub(super) fn serve(&mut self, number: usize) {
        let transfer = &self.transfers[number];
        let (owner, conn, side) = (transfer.owner, transfer.conn, 1 - transfer.side);
        if self.conns[conn].cut[side] || self.conns[conn].data_cut[side] {
            return;
        }
        let (peer, op, mut grant) = (self.conns[conn].peers[side], transfer.op, transfer.grant);
        let pieces = transfer.pieces.clone();
        if self.broken(Mutation::IgnoreGeneration) {
            let current = self.lives[owner].engine.offers.keys().find(|id| id.slot == grant.slot);
            grant = current.copied().unwrap_or(grant);
        }
        let leases = &mut self.lives[owner].engine.leases;
        match leases.serve_begin(peer, grant, op) {
            Ok(set) => {
                let inside = |id: u32| set.contains(0, one(id));
                if !pieces.iter().all(|(remote, _)| inside(*remote)) {
                    leases.serve_end(grant);
                    return self.reply(number, Err(StatusKind::Denied));
                }
                if self.broken(Mutation::ForgetServing) {
                    self.lives[owner].engine.leases.serve_end(grant);
                }
                let serve = Serve {
                    transfer: number,
                    life: owner,
                    grant,
                    word: 0,
                    collected: Vec::new(),
                    over: false,
                };
                self.serves.push(serve);
                self.later(0, 2, Some(owner), Event::ServeStep(self.serves.len() - 1));
            }
            Err(kind) => self.reply(number, Err(kind)),
        }
    }

    pub(super) fn serve_step(&mut self, index: usize) {
        let serve = &self.serves[index];
        let (number, owner, word) = (serve.transfer, serve.life, serve.word);
        let transfer = &self.transfers[number];
        let (conn, side, op, tenant) = (transfer.conn, 1 - transfer.side, transfer.op, transfer.tenant);
        let remote = transfer.pieces[word / WORDS].0;
        let total = transfer.pieces.len() * WORDS;
        if self.conns[conn].cut[side] || self.conns[conn].data_cut[side] {
            return self.served(index);
        }
        match op {
            Op::Write => self.land(owner, remote, word % WORDS, tenant, tenant, "a served write"),
            Op::Read => {
                let value = self.lives[owner].memory[remote as usize][word % WORDS];
                let collected = &mut self.serves[index].collected;
                if word % WORDS == 0 {
                    collected.push([0; WORDS]);
                }
                collected[word / WORDS][word % WORDS] = value;
            }
        }
        self.serves[index].word += 1;
        if word + 1 < total {
            let slow = self.rng.chance(4);
            return self.later(0, if slow { 40 } else { 2 }, Some(owner), Event::ServeStep(index));
        }
        let collected = std::mem::take(&mut self.serves[index].collected);
        self.served(index);
        self.reply(number, Ok(collected));
    }

    fn served(&mut self, index: usize) {
        let (life, grant) = (self.serves[index].life, self.serves[index].grant);
        self.serves[index].over = true;
        if !self.broken(Mutation::ForgetServing) {
            self.lives[life].engine.leases.serve_end(grant);
        }
    }

    fn reply(&mut self, transfer: usize, result: Result<Vec<Block>, StatusKind>) {
        let life = self.transfers[transfer].life;
        self.later(0, 8, Some(life), Event::Reply { transfer, result });
    }

    pub(super) fn replied(&mut self, number: usize, result: Result<Vec<Block>, StatusKind>) {
        let transfer = &mut self.transfers[number];
        if transfer.phase != Phase::Waiting {
            return;
        }
        match (result, transfer.op) {
            (Err(kind), _) => self.over(number, kind, Quiet::Yes),
            (Ok(_), Op::Write) => self.over(number, StatusKind::Completed, Quiet::Yes),
            (Ok(data), Op::Read) => {
                transfer.data = data;
                transfer.phase = Phase::Scatter(0);
                let life = transfer.life;
                self.later(0, 2, Some(life), Event::Step(number));
            }
        }
    }

    /// The link is lost: what waits for the target ends, its remote side unknown.
    pub(super) fn end_waiting(&mut self, conn: usize, side: usize) {
        for number in 0..self.transfers.len() {
            let transfer = &self.transfers[number];
            if (transfer.conn, transfer.side, transfer.phase) == (conn, side, Phase::Waiting) {
                self.over(number, StatusKind::LinkLost, Quiet::AfterClose);
            }
        }
    }

    /// The data link of a connection is lost, the session goes on.
    pub(super) fn data_lost(&mut self, life: usize, conn: usize, side: usize) {
        self.end_waiting(conn, side);
        if self.busy(conn, side) {
            return self.later(2, 5, Some(life), Event::DataLost { conn, side });
        }
        let peer = self.conns[conn].peers[side];
        self.lives[life].engine.grants.link_closed(peer);
        self.lives[life].engine.quarantine.link_closed(peer, 0);
    }

    /// Whether anything of this side of a link still runs.
    pub(super) fn busy(&self, conn: usize, side: usize) -> bool {
        let own = |transfer: &Transfer| {
            (transfer.conn, transfer.side) == (conn, side) && transfer.phase != Phase::Over
        };
        let serving = |serve: &Serve| {
            let transfer = &self.transfers[serve.transfer];
            !serve.over && (transfer.conn, 1 - transfer.side) == (conn, side)
        };
        self.transfers.iter().any(own) || self.serves.iter().any(serving)
    }

    /// The oracle at the moment a lease is freed: nobody may be at work under it.
    pub(super) fn check_freed(&mut self, life: usize, grant: GrantId) {
        let inside = |transfer: &Transfer| {
            transfer.op == Op::Write
                && (transfer.owner, transfer.grant) == (life, grant)
                && matches!(transfer.phase, Phase::Copy(_))
                && self.lives[transfer.life].alive
        };
        if let Some(number) = self.transfers.iter().position(inside) {
            return self.fail(format!("lease {grant} was freed while transfer {number} writes under it"));
        }
        let served = |serve: &Serve| !serve.over && (serve.life, serve.grant) == (life, grant);
        if self.serves.iter().any(served) {
            self.fail(format!("lease {grant} was freed while its owner serves a request under it"));
        }
    }

    /// Ends in time what a paused or slow process would do later.
    pub(super) fn note_cut(&mut self, conn: usize) {
        for side in 0..2 {
            let life = self.conns[conn].lives[side];
            let at = self.now + ms(self.rng.below(40));
            self.at(at, Some(life), Event::Cut { conn, side });
        }
    }
}

fn one(id: u32) -> ropeway_core::BlockSpan {
    ropeway_core::BlockSpan { first: ropeway_core::BlockId(id), count: 1 }
}
