//! One batch on its way through a lane: what is expanded, in flight, and how it will end.

use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{Cursor, GrantId, Op, RegionId, Run, Runs, Status, StatusKind, TransferId};
use ropeway_transport::{Batch, Completer, Memory};

use super::mover::{Desc, MoverLimits};
use crate::curves::{Cuts, Direction};

/// Batches up to here go before larger ones.
const SMALL_BYTES: u64 = 4 << 20;
/// Runs that are expanded at a time.
pub(super) const SCRATCH_RUNS: usize = 256;

/// A region of the peer, resolved when the batch was posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) region: RegionId,
    pub(super) base: u64,
    pub(super) len: u64,
}

/// A batch in a lane.
pub(super) struct Flight {
    pub(super) id: TransferId,
    pub(super) op: Op,
    pub(super) grant: GrantId,
    pub(super) remotes: Box<[Remote]>,
    pub(super) abandon_at: Instant,
    /// It proves the way and runs under no lease.
    pub(super) probe: bool,
    /// Native requests that are not over.
    pub(super) outstanding: u32,
    /// Something of it was posted at some time.
    pub(super) posted: bool,
    /// Waits for the owner's word.
    pub(super) confirming: bool,
    /// How it ends once nothing of it is outstanding, when that is decided already.
    pub(super) end: Option<Status>,
    runs: Arc<dyn Runs>,
    local: Arc<[Arc<Memory>]>,
    bases: Box<[u64]>,
    at: Cursor,
    left: u64,
    /// Whole runs handed out so far; never too many.
    handed: u32,
    done: Completer,
}

/// A part of a flight that was expanded but not yet taken by the mover.
pub(super) struct Piece {
    at: Cursor,
    bytes: u64,
    runs: u32,
}

/// Where a destination has to be filled with zeros before its batch ends.
pub(super) struct Blank {
    pub(super) done: Completer,
    pub(super) status: Status,
    runs: Arc<dyn Runs>,
    local: Arc<[Arc<Memory>]>,
}

impl Flight {
    pub(super) fn new(batch: Batch, remotes: Box<[Remote]>, probe: bool) -> Self {
        let Batch { id, op, grant, runs, local, abandon_at, done, .. } = batch;
        let bases = local.iter().map(|memory| address(memory)).collect();
        let left = runs.total_bytes();
        Self {
            id,
            op,
            grant,
            remotes,
            abandon_at,
            probe,
            outstanding: 0,
            posted: false,
            confirming: false,
            end: None,
            runs,
            local,
            bases,
            at: Cursor::default(),
            left,
            handed: 0,
            done,
        }
    }

    pub(super) fn is_small(&self) -> bool {
        self.left <= SMALL_BYTES
    }

    /// Whether more of it is to be posted.
    pub(super) fn has_more(&self) -> bool {
        self.left > 0 && self.end.is_none()
    }

    pub(super) fn handed(&self) -> u32 {
        self.handed
    }

    /// Whether its destination may hold bytes that nobody vouched for.
    pub(super) fn is_tainted(&self) -> bool {
        self.op == Op::Read && self.posted && !self.probe
    }

    /// Whether its owner is to be asked for its word before it ends: of whole reads, and of those that the caller cancelled or
    /// the library refused half way, so that what came may be left in place.
    pub(super) fn wants_word(&self) -> bool {
        let asks = |end: Status| matches!(end.kind, StatusKind::Cancelled | StatusKind::Native);
        self.posted && self.end.is_none_or(asks)
    }

    pub(super) fn uses(&self, region: RegionId) -> bool {
        self.remotes.iter().any(|remote| remote.region == region)
    }

    pub(super) fn is_local(&self, memory: &Arc<Memory>) -> bool {
        self.local.iter().any(|used| Arc::ptr_eq(used, memory))
    }

    /// Expands the next request into `descs`, runs in pieces as `cuts` has it. Nothing is taken before [`Self::take`].
    ///
    /// # Errors
    /// A run passes the end of a region: the plan was made for another one.
    pub(super) fn expand(
        &self,
        limits: &MoverLimits,
        cuts: &Cuts,
        scratch: &mut [Run; SCRATCH_RUNS],
        descs: &mut Vec<Desc>,
    ) -> Result<Piece, StatusKind> {
        descs.clear();
        let mut piece = Piece { at: self.at, bytes: 0, runs: 0 };
        let budget = limits.request_bytes.max(u64::from(limits.alignment));
        while descs.len() < limits.descs && piece.bytes < budget {
            let room = (limits.descs - descs.len()).min(SCRATCH_RUNS);
            let left = budget - piece.bytes;
            let before = piece.at;
            let count = self.runs.fill(&mut piece.at, &mut scratch[..room], left);
            if count == 0 {
                break;
            }
            let (mut bytes, mut whole) = (0, 0);
            for run in &scratch[..count] {
                let pushed = self.push(run, cuts, limits.descs, descs)?;
                bytes += pushed;
                if pushed < u64::from(run.len) {
                    break;
                }
                whole += 1;
            }
            if whole < count as u32 {
                // Pieces filled the request before the runs did: hand out no more than went in.
                piece.at = before;
                self.runs.fill(&mut piece.at, &mut scratch[..room], bytes);
            } else {
                // The last run may have been cut short by the budget: then it is counted with its end, or not at all.
                whole -= u32::from(bytes == left);
            }
            piece.bytes += bytes;
            piece.runs += whole;
        }
        // A plan that hands out less than it announced must not be asked for ever.
        if descs.is_empty() { Err(StatusKind::Indeterminate) } else { Ok(piece) }
    }

    /// Appends a run, whole or in pieces, as long as there is room for them. Gives how many of its bytes went in.
    #[inline]
    fn push(&self, run: &Run, cuts: &Cuts, max: usize, descs: &mut Vec<Desc>) -> Result<u64, StatusKind> {
        let whole = self.desc(run)?;
        let local_is_device = self.local[usize::from(run.local_region)].device().is_some();
        // What the peer offers on a link between devices is a device's, all but its staging memory.
        let piece = cuts.get(Direction::of(self.op, local_is_device, true)).piece(whole.len);
        let mut at = 0;
        while at < whole.len && descs.len() < max {
            let len = piece.min(whole.len - at);
            descs.push(Desc { local: whole.local + at, remote: whole.remote.wrapping_add(at), len });
            at += len;
        }
        Ok(at)
    }

    #[inline]
    fn desc(&self, run: &Run) -> Result<Desc, StatusKind> {
        let (local, remote) = (usize::from(run.local_region), usize::from(run.remote_region));
        let (base, memory) = (self.bases[local], &self.local[local]);
        let far = &self.remotes[remote];
        let len = u64::from(run.len);
        let fits = |at: u64, whole: u64| at.checked_add(len).is_some_and(|end| end <= whole);
        if !fits(run.local, memory.len()) || !fits(run.remote, far.len) {
            return Err(StatusKind::PeerUnmapped);
        }
        Ok(Desc { local: base + run.local, remote: far.base.wrapping_add(run.remote), len })
    }

    /// The mover has the piece. Gives the first run that is in it.
    pub(super) fn take(&mut self, piece: &Piece) -> u32 {
        let first = self.handed;
        self.at = piece.at;
        self.left = self.left.saturating_sub(piece.bytes);
        self.handed = first.saturating_add(piece.runs);
        self.outstanding += 1;
        self.posted = true;
        first
    }

    /// Every byte in place.
    pub(super) fn completed(&self) -> Status {
        Status::COMPLETED.with_run(u32::try_from(self.runs.total_runs()).unwrap_or(u32::MAX))
    }

    pub(super) fn into_end(self, status: Status) -> (Completer, Status) {
        (self.done, status)
    }

    pub(super) fn into_blank(self, status: Status) -> Blank {
        Blank { done: self.done, status, runs: self.runs, local: self.local }
    }
}

impl Piece {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Blank {
    /// Fills the destination with zeros. Blocks. A failure is logged: the status says that the bytes are not to be used.
    pub(super) fn fill(&self) {
        let mut at = Cursor::default();
        let mut runs = [Run::default(); SCRATCH_RUNS];
        loop {
            let count = self.runs.fill(&mut at, &mut runs, u64::MAX);
            if count == 0 {
                return;
            }
            for run in &runs[..count] {
                let memory = &self.local[usize::from(run.local_region)];
                if let Err(error) = memory.fill(run.local, run.len.into(), 0) {
                    tracing::error!(%error, "a destination was not cleared after a read that nobody vouched for");
                    return;
                }
            }
        }
    }
}

/// The address of a memory's first byte, as native libraries take it.
pub(super) fn address(memory: &Memory) -> u64 {
    match memory.device() {
        Some(range) => range.address(),
        None => memory.base().map_or(0, |base| base.addr().get() as u64),
    }
}
