//! Local memory that a transfer left without proof that nothing touches it any more.

use std::fmt;
use std::sync::Arc;

use ropeway_core::{BlockId, TransferId};
use ropeway_transport::{Memory, TransportKind};

/// Blocks of ours that are withheld for one transfer, with the pins that keep their memory.
pub(crate) struct Withheld {
    pub(crate) id: TransferId,
    pub(crate) over: TransportKind,
    pub(crate) user_data: Option<u64>,
    pub(crate) blocks: Arc<[BlockId]>,
    pub(crate) bytes: u64,
    #[expect(dead_code, reason = "held, not read: dropping it is what lets the memory go")]
    pub(crate) pins: Arc<[Arc<Memory>]>,
    pub(crate) since: std::time::Instant,
    pub(crate) told_fatal: bool,
}

/// What is withheld, and for whom.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// The transfer that left it.
    pub transfer: TransferId,
    /// The peer whose link has to close first.
    pub peer: String,
    /// The blocks, in the order of the plan; empty for raw lists.
    pub blocks: Vec<BlockId>,
    /// Bytes of the transfer.
    pub bytes: u64,
}

impl fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blocks ({} bytes) of transfer {} until the link to {} is closed",
            self.blocks.len(),
            self.bytes,
            self.transfer,
            self.peer
        )
    }
}
