//! The end of a link's work: what can be said of each batch, and what has to be held.

use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{Quiet, Status, StatusKind};
use ropeway_transport::Served;

use super::super::comm::ABORT;
use super::super::pins::Ticket;
use super::super::wire::Message;
use super::{Asked, Bound, End, OnStream, Round, Worker};

impl Worker<'_> {
    /// Ends what is left, as far as that can be said now.
    pub(super) fn finish(mut self, end: End) -> Ended {
        self.end_queue(StatusKind::LinkLost);
        let may_run = |asked: &Asked| matches!(asked.state, Round::Posted { here: false, .. });
        let mut stuck = None;
        if let End::Broken(error) = &end {
            let _ = self.sink.say(Message::Broken(error.message().to_owned()).encode());
            if self.flight.is_some() {
                stuck = Some(!self.hangs && self.abort());
            }
        }
        let mut in_doubt = stuck.is_some();
        if let Some(asked) = self.asked.take() {
            let posted = may_run(&asked);
            in_doubt |= posted;
            let overdue = asked.ours.abandon_at <= Instant::now();
            let kind = if overdue { StatusKind::Abandoned } else { StatusKind::LinkLost };
            // The peer may have posted its side although we have not ours.
            let (local, remote) = (if posted { Quiet::AfterClose } else { Quiet::Yes }, Quiet::AfterClose);
            let native = if let End::Broken(error) = &end { error.native().unwrap_or(0) } else { 0 };
            self.end(asked.ours, Status { local, remote, ..Status::quiet(kind) }.with_native(native));
        }
        let mut served: Vec<_> = self.served.drain(..).collect();
        let mut held = None;
        match self.flight.take().map(|flight| flight.what) {
            Some(OnStream::Theirs(theirs)) => held = Some(theirs),
            _ if in_doubt => held = served.pop(),
            _ => {}
        }
        for theirs in served {
            drop(theirs.served);
            self.leave(theirs.ticket);
        }
        let aborted = stuck.unwrap_or(true);
        Ended { why: end, in_doubt, aborted, held: held.map(|theirs| (theirs.served, theirs.ticket)) }
    }

    /// Whether the stream takes its abort.
    fn abort(&self) -> bool {
        let comm = Arc::clone(self.native.comm);
        let abort = move |on: &Bound<'_>| comm.stream().abort(on).is_ok();
        self.native.hand.call("a stream's abort", Instant::now() + ABORT, abort, |_, _| ()).unwrap_or(false)
    }
}

/// How a link's work ended.
pub(in crate::hccl) struct Ended {
    pub(in crate::hccl) why: End,
    /// Copies may be under way that no one saw end.
    pub(in crate::hccl) in_doubt: bool,
    /// The stream took its abort.
    pub(in crate::hccl) aborted: bool,
    /// What the copies in doubt may touch of ours on the peer's behalf.
    pub(in crate::hccl) held: Option<(Served, Ticket)>,
}
