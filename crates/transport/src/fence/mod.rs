//! The same-host fence: how the owner of memory stops accesses that do not pass through it.
//!
//! Every engine owns one [`Fence`]: a word per lease slot and per link, written by the owner only. Every initiator owns
//! [`Cells`] for each of its links: in one it names the grant it is using, for as long as a chunk moves. Order decides:
//!
//! | initiator, per chunk ([`Cells::enter`]) | owner, to revoke ([`Fence::close`]) |
//! |---|---|
//! | store cell (SeqCst) | store grant word closed (SeqCst) |
//! | load gate and grant word (SeqCst) | load all cells (SeqCst) ([`CellsView::named_by`]) |
//! | copy, store fence | |
//! | READ: re-load grant word ([`Entered::confirm`]) | |
//! | clear cell (Release) | |
//!
//! Of the two first loads at least one sees the other side's store: either the initiator does not start, or the owner
//! sees that it may have. Words of the other side are untrusted: loaded once, and compared, never followed.

mod cells;
#[cfg(all(loom, test))]
mod models;
#[cfg(all(not(loom), test))]
mod tests;
mod words;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, GrantId, Op, Result, Rights};

use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Mutex, lock};
pub use cells::{CELLS, Cells, CellsView, Entered};
use words::{HEADER_WORDS, Words};

const MAGIC: u64 = u64::from_le_bytes(*b"RWFENCE1");
/// Grant and gate words: the generation is the upper half.
const OPEN: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 4;

/// A link, as the owner's fence names it: a gate word that is open while the link is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GateId {
    /// Index of the word.
    pub slot: u32,
    /// Counts the links that used it.
    pub generation: u32,
}

impl fmt::Debug for GateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GateId({}.{})", self.slot, self.generation)
    }
}

impl GateId {
    const fn word(self) -> u64 {
        (self.generation as u64) << 32 | OPEN
    }
}

/// Why an access may not start, or was not confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// The owner closed the link.
    Gate,
    /// The owner closed the grant, or never opened it.
    Grant,
}

/// The owner's words: which grants and links are open.
pub struct Fence {
    view: FenceView,
    gates: Mutex<Gates>,
}

struct Gates {
    free: Vec<u32>,
    generations: Vec<u32>,
}

/// A fence as an initiator sees it: its own engine's, a neighbour's in this process, or a peer's by a read-only map.
#[derive(Clone)]
pub struct FenceView {
    words: Arc<Words>,
    gates: u32,
    grants: u32,
}

impl Fence {
    /// A fence in plain memory, for engines that open only loopback and tcp.
    pub fn private(gates: u32, grants: u32) -> Self {
        Self::over(Words::plain(Self::count(gates, grants)), gates, grants, 0)
    }

    /// A fence that peers of the host can map. `nonce` lets them prove that they did.
    ///
    /// # Errors
    /// `Resource` when there is no memory or descriptor for the segment.
    pub fn shared(gates: u32, grants: u32, nonce: u64) -> Result<Self> {
        let words = Words::shared("ropeway-fence", Self::count(gates, grants))?;
        Ok(Self::over(words, gates, grants, nonce))
    }

    fn over(words: Words, gates: u32, grants: u32, nonce: u64) -> Self {
        words.at(0).store(MAGIC, Ordering::Relaxed);
        words.at(1).store(nonce, Ordering::Relaxed);
        words.at(2).store(counts(gates, grants), Ordering::SeqCst);
        let free = (0..gates).rev().collect();
        let view = FenceView { words: Arc::new(words), gates, grants };
        Self { view, gates: Mutex::new(Gates { free, generations: vec![0; gates as usize] }) }
    }

    fn count(gates: u32, grants: u32) -> usize {
        HEADER_WORDS + gates as usize + grants as usize
    }

    /// For initiators in this process.
    pub fn view(&self) -> &FenceView {
        &self.view
    }

    /// The segment's descriptor, for peers of the host.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.view.words.fd()
    }

    /// Gates and grants that there is room for.
    pub fn capacity(&self) -> (u32, u32) {
        (self.view.gates, self.view.grants)
    }

    /// Opens a grant, before its first importer hears of it. The slot's former tenant must have been proven over.
    ///
    /// # Errors
    /// `ApiMisuse` when the slot is beyond the segment.
    pub fn open(&self, grant: GrantId, rights: Rights) -> Result<()> {
        let word = self.view.grant(grant.slot).ok_or_else(|| {
            Error::new(
                ErrorKind::ApiMisuse,
                "fence",
                format!("lease slot {} passes the fence's end ({})", grant.slot, self.view.grants),
            )
        })?;
        let right = match rights {
            Rights::Read => READ,
            Rights::Write => WRITE,
        };
        word.store(u64::from(grant.generation) << 32 | right | OPEN, Ordering::SeqCst);
        Ok(())
    }

    /// Closes a grant: no access under it starts from here on, and no read under it is confirmed. The rights stay
    /// readable. Does nothing when the slot has another tenant.
    pub fn close(&self, grant: GrantId) {
        if let Some(word) = self.view.grant(grant.slot) {
            let now = word.load(Ordering::Relaxed);
            if now >> 32 == u64::from(grant.generation) {
                word.store(now & !OPEN, Ordering::SeqCst);
                // What the owner does to the blocks next must not become visible before the word.
                fence(Ordering::SeqCst);
            }
        }
    }

    /// Whether `grant` is open for `op`.
    pub fn is_open(&self, grant: GrantId, op: Op) -> bool {
        self.view.is_open(grant, op)
    }

    /// Whether accesses under `grant` can leave bytes behind after it was closed. False only for grants that are known
    /// to be for reading.
    pub fn may_write(&self, grant: GrantId) -> bool {
        let Some(word) = self.view.grant(grant.slot) else { return false };
        let now = word.load(Ordering::Relaxed);
        !(now >> 32 == u64::from(grant.generation) && now & READ != 0)
    }

    /// Opens a gate for a new link.
    ///
    /// # Errors
    /// `Full` when every gate is in use or withheld.
    pub fn open_gate(&self) -> Result<GateId> {
        let mut gates = lock(&self.gates);
        let slot = gates.free.pop().ok_or_else(|| {
            Error::new(
                ErrorKind::Full,
                "link",
                format!("all {} link gates are in use: limit `peers`", self.view.gates),
            )
        })?;
        let generation = &mut gates.generations[slot as usize];
        *generation += 1;
        let gate = GateId { slot, generation: *generation };
        self.gate_word(gate).store(gate.word(), Ordering::SeqCst);
        Ok(gate)
    }

    /// Closes a link's gate: no access through the link starts from here on.
    pub fn close_gate(&self, gate: GateId) {
        self.gate_word(gate).store(u64::from(gate.generation) << 32, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Gives a closed gate's slot back, once the link's accesses are proven over.
    pub fn recycle_gate(&self, gate: GateId) {
        let mut gates = lock(&self.gates);
        // A generation that would come round again retires its slot.
        if gates.generations[gate.slot as usize] == gate.generation && gate.generation != u32::MAX {
            debug_assert!(!gates.free.contains(&gate.slot), "a gate is given back once");
            gates.free.push(gate.slot);
        }
    }

    fn gate_word(&self, gate: GateId) -> &AtomicU64 {
        self.view.gate(gate.slot).expect("gates are handed out by this fence")
    }
}

impl FenceView {
    /// Maps a peer's segment for reading.
    ///
    /// # Errors
    /// `Protocol` when it is unsealed, short, or not what the peer says.
    pub fn map(fd: OwnedFd, gates: u32, grants: u32) -> Result<Self> {
        let words = Words::peer(fd, Fence::count(gates, grants))?;
        if words.at(0).load(Ordering::SeqCst) != MAGIC
            || words.at(2).load(Ordering::SeqCst) != counts(gates, grants)
        {
            return Err(Error::new(
                ErrorKind::Protocol,
                "fence",
                "the peer's fence segment has a wrong header",
            ));
        }
        Ok(Self { words: Arc::new(words), gates, grants })
    }

    /// The number by which a peer proves that it mapped this segment.
    pub fn nonce(&self) -> u64 {
        self.words.at(1).load(Ordering::SeqCst)
    }

    /// Whether `grant` is open for `op`.
    pub fn is_open(&self, grant: GrantId, op: Op) -> bool {
        self.grant(grant.slot).is_some_and(|word| word.load(Ordering::SeqCst) == expected(grant, op))
    }

    /// Whether the link's gate is open.
    pub fn is_gate_open(&self, gate: GateId) -> bool {
        self.gate(gate.slot).is_some_and(|word| word.load(Ordering::SeqCst) == gate.word())
    }

    fn gate(&self, slot: u32) -> Option<&AtomicU64> {
        (slot < self.gates).then(|| self.words.at(HEADER_WORDS + slot as usize))
    }

    fn grant(&self, slot: u32) -> Option<&AtomicU64> {
        (slot < self.grants).then(|| self.words.at(HEADER_WORDS + self.gates as usize + slot as usize))
    }
}

fn counts(gates: u32, grants: u32) -> u64 {
    u64::from(gates) << 32 | u64::from(grants)
}

/// The word of a grant that is open for `op`.
fn expected(grant: GrantId, op: Op) -> u64 {
    let right = match op {
        Op::Read => READ,
        Op::Write => WRITE,
    };
    u64::from(grant.generation) << 32 | right | OPEN
}
