//! Sends and receives on a stream: their turn comes when the stream reaches them, and it waits for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Outcome;
use super::abi::{SendRecvItem, element};
use super::comm::Comm;
use super::matching::{Buffer, Op, Torn};
use super::result::{PARA, PTR, RUNTIME, SUSPENDING};
use crate::acl::stream;
use crate::anchor;
use crate::fail::code;
use crate::work::Gate;

/// One item, checked.
struct Item {
    send: bool,
    rank: u32,
    number: u64,
    op: Arc<Op>,
    buffer: Buffer,
    fate: Fate,
}

/// What the fault script has for an item.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    /// It never ends.
    Hangs,
    /// It never ends, and the library says that the other rank is lost.
    Lost,
    /// It ends with this error, and nothing moves.
    Fails(i32),
    /// A part of its bytes moves, then it ends with this error; 0 for none.
    Torn(f64, i32),
}

impl Fate {
    fn of(comm: &Comm, send: bool) -> Self {
        let site = comm.anchor.site(if send { "send" } else { "receive" }, None);
        let hit = |name| anchor::fault(name, site);
        if hit("hang").is_some() {
            Self::Hangs
        } else if hit("lost_link").is_some() {
            Self::Lost
        } else if let Some(hit) = hit("device_lost") {
            Self::Fails(hit.code(code::RT_LOST_HEARTBEAT))
        } else if hit("ecc").is_some() {
            Self::Fails(code::RT_HBM_MULTI_BIT_ECC)
        } else if let Some(hit) = hit("partial_write").filter(|_| !send) {
            Self::Torn(hit.fraction(), hit.code(code::RT_DRV_INTERNAL))
        } else {
            Self::Well
        }
    }
}

/// What a stream waits for; told when the stream no longer does.
struct Waiting(Vec<Arc<Op>>);

impl Waiting {
    fn gate(&self) -> Gate {
        if self.0.iter().any(|op| op.end().is_none()) {
            return Gate::Shut;
        }
        self.0.iter().filter_map(|op| op.end()).find(|end| *end != 0).map_or(Gate::Open, Gate::Fail)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for op in &self.0 {
            op.abandon();
        }
    }
}

/// Posts items that run side by side.
pub(super) fn post(comm: &Arc<Comm>, items: &[SendRecvItem], stream: usize) -> Outcome {
    if comm.suspended.load(Ordering::Acquire) {
        return Err(SUSPENDING);
    }
    let stream = stream::usable(stream, "hccl").map_err(|_| RUNTIME)?;
    if stream.context.key != comm.anchor.device() {
        return Err(RUNTIME);
    }
    // All are checked before any is counted.
    let checked = items.iter().map(|item| check(comm, item)).collect::<Outcome<Vec<Option<Buffer>>>>()?;
    comm.buffers()?;
    let mut posted = Vec::new();
    for (item, buffer) in items.iter().zip(checked) {
        let Some(buffer) = buffer else { continue };
        let send = item.kind == 0;
        let (number, op) = comm.next(item.rank, send);
        posted.push(Item { send, rank: item.rank, number, op, buffer, fate: Fate::of(comm, send) });
    }
    if posted.is_empty() {
        return Ok(());
    }
    let waiting = Waiting(posted.iter().map(|item| Arc::clone(&item.op)).collect());
    let matcher = Arc::clone(&comm.matcher);
    stream.queue.mark(move || {
        for Item { send, rank, number, op, buffer, fate } in posted {
            match (fate, send) {
                (Fate::Hangs, _) => matcher.hang(),
                (Fate::Lost, _) => matcher.lose(),
                (Fate::Fails(code), _) => op.finish(code),
                (Fate::Torn(fraction, code), _) => {
                    matcher.receive(rank, number, &op, buffer, Torn(fraction, code));
                }
                (Fate::Well, true) => matcher.send(rank, number, &op, buffer),
                (Fate::Well, false) => matcher.receive(rank, number, &op, buffer, Torn::NOT),
            }
        }
    });
    stream.queue.gate(move || waiting.gate());
    Ok(())
}

/// The memory of an item; none where there is nothing to move.
fn check(comm: &Comm, item: &SendRecvItem) -> Outcome<Option<Buffer>> {
    if item.kind > 1 || item.rank == comm.rank || item.rank as usize >= comm.members.len() {
        return Err(PARA);
    }
    let length = item.count.checked_mul(element(item.data_type)?).ok_or(PARA)?;
    if item.buffer == 0 {
        return Err(PTR);
    }
    if length == 0 {
        return Ok(None);
    }
    let (backing, _) = comm.anchor.device_backing(item.buffer, length).ok_or(PARA)?;
    Ok(Some(Buffer { start: item.buffer, length, backing }))
}
