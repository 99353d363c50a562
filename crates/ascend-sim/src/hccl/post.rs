//! Sends and receives on a stream: their turn comes when the stream reaches them, and it waits for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Outcome;
use super::abi::{SendRecvItem, element};
use super::comm::Comm;
use super::matching::{Buffer, Op};
use super::result::{PARA, PTR, RUNTIME, SUSPENDING};
use crate::acl::stream;
use crate::anchor;
use crate::work::Gate;

/// One item, checked.
struct Item {
    send: bool,
    rank: u32,
    number: u64,
    op: Arc<Op>,
    buffer: Buffer,
    hangs: bool,
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
        let site = comm.anchor.site(if send { "send" } else { "receive" }, None);
        let hangs = anchor::fault("hang", site).is_some();
        posted.push(Item { send, rank: item.rank, number, op, buffer, hangs });
    }
    if posted.is_empty() {
        return Ok(());
    }
    let waiting = Waiting(posted.iter().map(|item| Arc::clone(&item.op)).collect());
    let matcher = Arc::clone(&comm.matcher);
    stream.queue.mark(move || {
        for Item { send, rank, number, op, buffer, hangs } in posted {
            match (hangs, send) {
                (true, _) => matcher.hang(),
                (false, true) => matcher.send(rank, number, &op, buffer),
                (false, false) => matcher.receive(rank, number, &op, buffer),
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
