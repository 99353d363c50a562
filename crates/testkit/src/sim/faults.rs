//! Faults: cut connections, crashed and restarted processes, stopped ones, lost data links, sudden revocations.

use ropeway_core::GrantId;

use super::data::Phase;
use super::world::{Event, World, ms};

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        self.later(15, 120, None, Event::Fault);
        let live: Vec<usize> = self.nodes.iter().copied().filter(|life| self.lives[*life].alive).collect();
        let Some(life) = self.rng.pick(&live) else { return };
        match self.rng.below(100) {
            0..20 => self.cut_some(),
            20..32 => self.crash(life),
            32..67 => self.pause(life),
            67..80 => self.cut_data(),
            _ => self.revoke_some(life),
        }
    }

    fn cut_some(&mut self) {
        let open: Vec<usize> =
            (0..self.conns.len()).filter(|conn| self.conns[*conn].cut == [false; 2]).collect();
        if let Some(conn) = self.rng.pick(&open) {
            self.stats.cuts += 1;
            self.note_cut(conn);
        }
    }

    fn cut_data(&mut self) {
        let open = |conn: &usize| !self.conns[*conn].one_sided && self.conns[*conn].data_cut == [false; 2];
        let open: Vec<usize> = (0..self.conns.len()).filter(open).collect();
        let Some(conn) = self.rng.pick(&open) else { return };
        self.conns[conn].data_cut = [true; 2];
        for side in 0..2 {
            let life = self.conns[conn].lives[side];
            self.later(0, 30, Some(life), Event::DataLost { conn, side });
        }
    }

    fn crash(&mut self, life: usize) {
        self.stats.crashes += 1;
        self.lives[life].alive = false;
        self.lives[life].died = self.now;
        for conn in 0..self.conns.len() {
            for side in 0..2 {
                if self.conns[conn].lives[1 - side] == life {
                    // Sometimes nobody says so: only silence tells.
                    let slowest = if self.rng.chance(10) { 500 } else { 30 };
                    let other = self.conns[conn].lives[side];
                    self.later(1, slowest, Some(other), Event::Cut { conn, side });
                }
            }
        }
        let node = self.lives[life].node;
        self.later(5, 100, None, Event::Restart(node));
    }

    /// Stops a process where it stands; one that is in the middle of a copy, if there is one.
    fn pause(&mut self, life: usize) {
        let copying =
            |phase| matches!(phase, Phase::Check | Phase::Copy(_) | Phase::Scatter(_) | Phase::Confirm);
        let busy =
            self.transfers.iter().filter(|t| copying(t.phase) && self.lives[t.life].alive).map(|t| t.life);
        let busy: Vec<usize> = busy.collect();
        let life = self.rng.pick(&busy).filter(|_| self.rng.chance(70)).unwrap_or(life);
        if self.lives[life].paused {
            return;
        }
        self.stats.pauses += 1;
        self.lives[life].paused = true;
        let long = self.rng.chance(35);
        let (low, high) = if long { (250, 900) } else { (5, 150) };
        self.later(low, high, None, Event::Resume(life));
    }

    pub(super) fn resume(&mut self, life: usize) {
        self.lives[life].paused = false;
        // What came meanwhile is handled first, in its order.
        for event in std::mem::take(&mut self.lives[life].deferred) {
            if self.lives[life].alive {
                self.handle(life, event);
                self.settle(life);
            }
        }
    }

    fn revoke_some(&mut self, life: usize) {
        let offers: Vec<GrantId> = self.lives[life].engine.offers.keys().copied().collect();
        let Some(grant) = self.rng.pick(&offers).filter(|_| !self.lives[life].paused) else { return };
        let now = self.now;
        self.lives[life].engine.leases.revoke(grant, now);
        self.settle(life);
    }

    /// No more faults or load; what is stopped goes on. From here on everything has to end by itself.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        for life in 0..self.lives.len() {
            if self.lives[life].paused {
                self.at(self.now + ms(1), None, Event::Resume(life));
            }
        }
    }
}
