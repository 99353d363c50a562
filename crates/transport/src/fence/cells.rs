//! The initiator's side of the fence: cells that name the grant in use.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, GrantId, Op, Result};

use super::words::{HEADER_WORDS, Words};
use super::{FenceView, GateId, Stale, expected};
use crate::sync::atomic::{AtomicU64, Ordering, fence};

const MAGIC: u64 = u64::from_le_bytes(*b"RWCELLS1");
/// Cells of one link: as many chunks of it can move at a time.
pub const CELLS: usize = 64;
/// Words from one cell to the next: a cache line, so that copy threads do not share one.
const STRIDE: usize = 8;
const COUNT: usize = HEADER_WORDS + CELLS * STRIDE;

/// The cells of one link's initiator; written by it only.
pub struct Cells {
    words: Arc<Words>,
    free: AtomicU64,
}

/// A peer's cells, for the owner to look at.
#[derive(Clone)]
pub struct CellsView {
    words: Arc<Words>,
}

/// A chunk's stay inside the fence. Dropping it, after a store fence, says that the chunk touches nothing any more.
#[must_use]
pub struct Entered<'a> {
    cells: &'a Cells,
    view: &'a FenceView,
    cell: usize,
    grant: GrantId,
    op: Op,
}

impl Cells {
    /// Cells in plain memory, for owners in this process.
    pub fn private() -> Self {
        Self::over(Words::plain(COUNT), 0)
    }

    /// Cells that an owner on this host can map.
    ///
    /// # Errors
    /// `Resource` when there is no memory or descriptor for the segment.
    pub fn shared(nonce: u64) -> Result<Self> {
        Ok(Self::over(Words::shared("ropeway-cells", COUNT)?, nonce))
    }

    fn over(words: Words, nonce: u64) -> Self {
        words.at(0).store(MAGIC, Ordering::Relaxed);
        words.at(1).store(nonce, Ordering::Relaxed);
        words.at(2).store(CELLS as u64, Ordering::SeqCst);
        Self { words: Arc::new(words), free: AtomicU64::new(u64::MAX) }
    }

    /// For an owner in this process.
    pub fn view(&self) -> CellsView {
        CellsView { words: Arc::clone(&self.words) }
    }

    /// The segment's descriptor, for an owner on this host.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.words.fd()
    }

    /// Goes in: names `grant` in a free cell, then asks the owner's words whether the access may start.
    ///
    /// # Errors
    /// [`Stale`]: nothing may be touched. `None` when all cells are taken.
    pub fn enter<'a>(
        &'a self,
        view: &'a FenceView,
        gate: GateId,
        grant: GrantId,
        op: Op,
    ) -> Option<Result<Entered<'a>, Stale>> {
        let entered = Entered { cells: self, view, cell: self.take()?, grant, op };
        self.cell(entered.cell).store(grant.to_bits(), Ordering::SeqCst);
        // The store above comes before the loads below in the one order of all SeqCst operations; the owner stores its
        // words before it loads the cells. loom knows SeqCst accesses as Release and Acquire, hence the fence for it.
        #[cfg(all(loom, test))]
        fence(Ordering::SeqCst);
        Some(if !view.is_gate_open(gate) {
            Err(Stale::Gate)
        } else if !view.is_open(grant, op) {
            Err(Stale::Grant)
        } else {
            Ok(entered)
        })
    }

    fn cell(&self, cell: usize) -> &AtomicU64 {
        self.words.at(HEADER_WORDS + cell * STRIDE)
    }

    fn take(&self) -> Option<usize> {
        let mut free = self.free.load(Ordering::Relaxed);
        while free != 0 {
            let cell = free.trailing_zeros() as usize;
            match self.free.compare_exchange_weak(
                free,
                free & !(1 << cell),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(cell),
                Err(now) => free = now,
            }
        }
        None
    }
}

impl Entered<'_> {
    /// Whether the grant stayed open: what was read until now is what the owner lent. Only then may it be surfaced.
    ///
    /// # Errors
    /// [`Stale::Grant`]: the bytes read may be someone else's.
    pub fn confirm(&self) -> Result<(), Stale> {
        // The chunk's loads come before the load of the word.
        fence(Ordering::Acquire);
        let word = self.view.grant(self.grant.slot).ok_or(Stale::Grant)?;
        if word.load(Ordering::Relaxed) == expected(self.grant, self.op) { Ok(()) } else { Err(Stale::Grant) }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // Release orders ordinary stores; streaming ones only the kernel's own fence, which each chunk ends with.
        self.cells.cell(self.cell).store(0, Ordering::Release);
        self.cells.free.fetch_or(1 << self.cell, Ordering::Release);
    }
}

impl CellsView {
    /// Maps a peer's segment for reading.
    ///
    /// # Errors
    /// `Protocol` when it is unsealed, short, or not what the peer says.
    pub fn map(fd: OwnedFd) -> Result<Self> {
        let words = Words::peer(fd, COUNT)?;
        if words.at(0).load(Ordering::SeqCst) != MAGIC || words.at(2).load(Ordering::SeqCst) != CELLS as u64 {
            return Err(Error::new(
                ErrorKind::Protocol,
                "fence",
                "the peer's cells segment has a wrong header",
            ));
        }
        Ok(Self { words: Arc::new(words) })
    }

    /// The number by which an owner proves that it mapped this segment.
    pub fn nonce(&self) -> u64 {
        self.words.at(1).load(Ordering::SeqCst)
    }

    /// Whether a chunk under `grant` may be moving. To be asked after the grant was closed.
    pub fn named_by(&self, grant: GrantId) -> bool {
        self.any(|bits| bits == grant.to_bits())
    }

    /// Whether any chunk may be moving. To be asked after the gate was closed.
    pub fn is_busy(&self) -> bool {
        self.any(|bits| bits != 0)
    }

    fn any(&self, test: impl Fn(u64) -> bool) -> bool {
        (0..CELLS).any(|cell| test(self.words.at(HEADER_WORDS + cell * STRIDE).load(Ordering::SeqCst)))
    }
}
