//! A batch of descriptors, checked against what a link can reach, and posted to it. HIXL's two faces share it.

use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Way;
use super::regions::{Regions, Span};
use super::status::{FAILED, Outcome, PARAM_INVALID, RESOURCE_EXHAUSTED};
use super::wire::Reached;
use crate::anchor::{self, Anchor};
use crate::dma::{Ending, Job, Move, Mover, Reach, Request, plan};
use crate::model::{Direction, Figures};

/// One range to move: the layout of HIXL's descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimHixlDesc {
    /// Address on this side.
    pub local: u64,
    /// Address on the peer's.
    pub remote: u64,
    /// Bytes.
    pub len: u64,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// From the peer.
    Read,
    /// To the peer.
    Write,
}

impl Op {
    /// HIXL's number.
    pub(crate) fn parse(number: u32) -> Outcome<Self> {
        match number {
            0 => Ok(Self::Read),
            1 => Ok(Self::Write),
            _ => Err(PARAM_INVALID),
        }
    }

    /// As a fault script names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Requests that may be under way on a link.
const LOAD_MAX: usize = 4096;

/// What a link can reach.
pub(crate) struct Tables<'a> {
    /// Regions of this side.
    pub(crate) near: &'a Regions<Reached>,
    /// Regions of the peer.
    pub(crate) far: &'a Regions<Reached>,
    /// What carries the bytes.
    pub(crate) way: Way,
    /// Processes of both sides, where memory that nobody registered is moved through buffers.
    pub(crate) staging: Option<(i32, i32)>,
}

/// A checked batch.
pub(crate) struct Batch {
    /// Its copies; none when no bytes are to be moved.
    moves: Vec<Move>,
    /// By the link model; zero when nothing is timed.
    takes: Duration,
    /// How many descriptors it had.
    count: usize,
}

/// A region, or memory that goes through buffers.
enum End<'a> {
    Region(&'a Reached),
    Staged(Reach),
}

impl End<'_> {
    fn host(&self) -> bool {
        match self {
            Self::Region(region) => region.host,
            Self::Staged(_) => true,
        }
    }

    fn reach(&self) -> &Reach {
        match self {
            Self::Region(region) => &region.reach,
            Self::Staged(reach) => reach,
        }
    }

    fn is_staged(&self) -> bool {
        matches!(self, Self::Staged(_))
    }
}

/// Regions with a guess: the next look-up is often for the same one.
struct Lookup<'a> {
    regions: &'a Regions<Reached>,
    last: Option<&'a Reached>,
    staging: Option<i32>,
}

impl<'a> Lookup<'a> {
    fn find(&mut self, start: u64, length: u64) -> Outcome<End<'a>> {
        let holds = |region: &&Reached| {
            let inside = start.wrapping_sub(region.start());
            inside < region.length() && length <= region.length() - inside
        };
        if let Some(region) = self.last.filter(holds) {
            return Ok(End::Region(region));
        }
        if let Some(region) = self.regions.find(start, length) {
            self.last = Some(region);
            return Ok(End::Region(region));
        }
        let process = self.staging.ok_or(PARAM_INVALID)?;
        Reach::host(process, start, length).map(End::Staged).ok_or(PARAM_INVALID)
    }
}

impl Tables<'_> {
    /// Checks descriptors; one that is wrong spoils the batch. Nothing is allocated per descriptor but its copy.
    pub(crate) fn check(&self, op: Op, descs: impl ExactSizeIterator<Item = SimHixlDesc>) -> Outcome<Batch> {
        let count = descs.len();
        let (moved, timed) = (anchor::moves_data(), anchor::is_timed());
        let mut moves = Vec::with_capacity(if moved { count } else { 0 });
        let mut near = Lookup { regions: self.near, last: None, staging: self.staging.map(|both| both.0) };
        let mut far = Lookup { regions: self.far, last: None, staging: self.staging.map(|both| both.1) };
        let mut first = None;
        let mut figures = None;
        let mut nanoseconds = 0.0;
        for desc in descs {
            if desc.len == 0 {
                return Err(PARAM_INVALID);
            }
            let (here, there) = (near.find(desc.local, desc.len)?, far.find(desc.remote, desc.len)?);
            let kind = (here.host(), there.host());
            // Buffers are device memory on both sides, and for one kind of copy at a time.
            let staged = here.is_staged() || there.is_staged();
            if !staged && !self.way.carries(kind.0, kind.1) {
                return Err(PARAM_INVALID);
            }
            let (known, _) = *first.get_or_insert((kind, staged));
            if first != Some((kind, staged)) && (staged || first.is_some_and(|(_, staged)| staged)) {
                return Err(PARAM_INVALID);
            }
            if moved {
                let (near, far) = ((here.reach(), desc.local), (there.reach(), desc.remote));
                let (from, to) = if op == Op::Write { (near, far) } else { (far, near) };
                if !plan(&mut moves, from, to, desc.len) {
                    return Err(PARAM_INVALID);
                }
            }
            if timed {
                if figures.is_none() || known != kind {
                    first = Some((kind, staged));
                    figures = Some(self.figures(op, kind));
                }
                nanoseconds += figures.flatten().map_or(0.0, |figures| figures.nanoseconds(desc.len));
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time, far below 2^64 ns"
        )]
        let takes = Duration::from_nanos(nanoseconds as u64);
        Ok(Batch { moves, takes, count })
    }

    fn figures(&self, op: Op, (near_host, far_host): (bool, bool)) -> Option<Figures> {
        let Way { chip, scope, link, mode } = self.way;
        Figures::find(chip, scope, link, mode, Direction::of(op == Op::Write, near_host, far_host))
    }
}

/// A link's part in posting.
pub(crate) struct Post<'a> {
    /// Moves the bytes.
    pub(crate) mover: &'a Mover,
    /// Whose device it is.
    pub(crate) anchor: &'a Anchor,
    /// The peer's name.
    pub(crate) remote: &'a str,
    /// The peer hung up.
    pub(crate) gone: bool,
}

impl Post<'_> {
    /// Posts a batch: what the fault script and the link model say becomes of it. `timeout` is what a caller who waits
    /// will wait.
    pub(crate) fn post(&self, op: Op, batch: Batch, timeout: Option<Duration>) -> Outcome<Arc<Request>> {
        let hit = |name| anchor::fault(name, self.anchor.site(op.name(), Some(self.remote)));
        if self.mover.is_latched() {
            return Err(FAILED);
        }
        if self.mover.load() >= LOAD_MAX {
            return Err(RESOURCE_EXHAUSTED);
        }
        if !anchor::has_faults() && !self.gone && batch.moves.is_empty() && batch.takes.is_zero() {
            return Ok(Arc::new(Request::ended(true)));
        }
        if hit("out_of_streams").is_some() {
            return Err(RESOURCE_EXHAUSTED);
        }
        if let Some(hit) = hit("refuse") {
            return Err(hit.code(FAILED.cast_signed()).cast_unsigned());
        }
        if let Some(hit) = hit("stall") {
            std::thread::sleep(hit.ms(100));
        }
        let mut takes = batch.takes;
        if let Some(hit) = hit("slow") {
            // Posting itself is slow, whoever waits for what.
            let count = u32::try_from(batch.count).unwrap_or(u32::MAX);
            std::thread::sleep(
                Duration::from_micros(hit.number("us_per_descriptor", 0)).saturating_mul(count),
            );
            takes += hit.ms(0);
        }
        if let Some(hit) = hit("late_completion") {
            takes += timeout.unwrap_or_default() + hit.ms(100);
        }
        let ending = if self.gone {
            takes = takes.max(rdma_window());
            Ending::Unanswered
        } else if let Some(hit) = hit("partial_write") {
            Ending::Broken(hit.fraction())
        } else if ["lost_link", "ecc", "peer_restart"].iter().any(|name| hit(name).is_some()) {
            Ending::Broken(0.0)
        } else {
            Ending::Well
        };
        let request = Arc::<Request>::default();
        let job = Job { moves: batch.moves, takes, ending, request: Arc::clone(&request) };
        if self.mover.post(job) { Ok(request) } else { Err(RESOURCE_EXHAUSTED) }
    }
}

/// How long RDMA tries to reach somebody who is not there: retries by timeouts of 4.096 us << n.
fn rdma_window() -> Duration {
    let variable = |name, default, low, high| {
        let given = std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
        given.filter(|value| (low..=high).contains(value)).unwrap_or(default)
    };
    let once = Duration::from_nanos(4096 << variable("HCCL_RDMA_TIMEOUT", 20, 5, 20));
    once * variable("HCCL_RDMA_RETRY_CNT", 7, 1, 7)
}
