//! Cutting batches into rounds: copies that both sides post at the same time, matched by order and length.

use std::sync::Arc;

use ropeway_core::{Cursor, Run, Runs};
use ropeway_transport::Memory;

use super::wire::ROUND_ITEMS;
use crate::hbm::HbmMemory;

/// Bytes of one round, about: at 24 GB/s 1.4 ms, so that the other direction does not wait long.
const ROUND_BYTES: u64 = 32 << 20;

/// One copy of a round, on our side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) address: u64,
    pub(super) len: u32,
}

/// The initiator's next round; empty when all bytes were handed out. `None`: memory that is no NPU's.
pub(super) fn next(runs: &dyn Runs, at: &mut Cursor, local: &[Arc<Memory>]) -> Option<Vec<Piece>> {
    let mut room = [Run::default(); ROUND_ITEMS];
    let count = runs.fill(at, &mut room, ROUND_BYTES);
    room[..count].iter().map(|run| place(run, local).map(|address| Piece { address, len: run.len })).collect()
}

/// The owner's side of a round that the initiator cut into pieces of these lengths. The owner's runs are merged by its side
/// alone, so each piece lies within one of them, or within several that follow each other. `None`: it does not, or the
/// memory is no NPU's.
pub(super) fn split(runs: &dyn Runs, memory: &[Arc<Memory>], lens: &[u32]) -> Option<Vec<Piece>> {
    let mut source = Source { runs, at: runs.seek(0), room: [Run::default(); 64], have: 0, next: 0 };
    let mut pieces = Vec::with_capacity(lens.len());
    let (mut address, mut left) = (0, 0);
    for &len in lens {
        while left < u64::from(len) {
            let run = source.run()?;
            let start = place(&run, memory)?;
            if left > 0 && start != address + left {
                return None;
            }
            if left == 0 {
                address = start;
            }
            left += u64::from(run.len);
        }
        pieces.push(Piece { address, len });
        address += u64::from(len);
        left -= u64::from(len);
    }
    (left == 0 && source.run().is_none()).then_some(pieces)
}

/// Runs, one at a time.
struct Source<'a> {
    runs: &'a dyn Runs,
    at: Cursor,
    room: [Run; 64],
    have: usize,
    next: usize,
}

impl Source<'_> {
    fn run(&mut self) -> Option<Run> {
        if self.next == self.have {
            self.have = self.runs.fill(&mut self.at, &mut self.room, u64::MAX);
            self.next = 0;
        }
        let run = self.room[..self.have].get(self.next).copied();
        self.next += 1;
        run
    }
}

/// Where a run begins on our side, if it lies within an NPU's memory.
fn place(run: &Run, memory: &[Arc<Memory>]) -> Option<u64> {
    let memory = memory.get(usize::from(run.local_region))?;
    let hbm = HbmMemory::of(memory)?;
    let end = run.local.checked_add(u64::from(run.len))?;
    (end <= memory.len() && !hbm.is_suspended()).then(|| hbm.begin() + run.local)
}
