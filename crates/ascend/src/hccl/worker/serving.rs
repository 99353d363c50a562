//! The owner's side of a round: checked before anything is posted, held until the stream has passed it.

use ropeway_core::{GrantId, Op, StatusKind};
use ropeway_transport::ServeRequest;

use super::super::rounds::{Piece, split};
use super::super::wire::Message;
use super::{End, Flight, OnStream, Theirs, Worker, broken, violated};

impl Worker<'_> {
    /// The peer asks for a round: checks it before any of our memory is touched.
    pub(super) fn serve(
        &mut self,
        batch: u64,
        op: Op,
        grant: GrantId,
        start: u64,
        lens: &[u32],
    ) -> Result<(), End> {
        let plan =
            self.plans.whole(batch).ok_or_else(|| violated("the peer asked before its plan was there"))?;
        if !self.served.is_empty() || matches!(&self.flight, Some(Flight { what: OnStream::Theirs(_), .. })) {
            return Err(broken("the peer asked for two rounds at a time"));
        }
        if self.closing.is_some() {
            self.plans.forget(batch);
            return self.say(Message::Declined { batch, why: StatusKind::Closed });
        }
        let bytes = lens.iter().map(|len| u64::from(*len)).sum();
        let ticket = self.pins.enter(grant);
        let why = match self.sink.serve(&ServeRequest { op, grant, plan: &plan, start, bytes }) {
            Err(declined) => {
                drop(declined.permit);
                declined.why
            }
            Ok(served) => match split(&*served.runs, &served.memory, lens) {
                Some(pieces) => {
                    self.served.push_back(Theirs { batch, op, pieces, served, ticket });
                    return if self.ends.rank == 1 { self.say(Message::Accept { batch }) } else { Ok(()) };
                }
                None => {
                    drop(served);
                    StatusKind::Denied
                }
            },
        };
        self.plans.forget(batch);
        self.leave(ticket);
        self.say(Message::Declined { batch, why })
    }

    pub(super) fn post_theirs(&mut self, batch: u64) -> Result<(), End> {
        let Some(theirs) = self.served.pop_front().filter(|theirs| theirs.batch == batch) else {
            return Err(broken("the peer posted a round that was not accepted"));
        };
        let (send, receive): (&[Piece], &[Piece]) = match theirs.op {
            Op::Read => (&theirs.pieces, &[]),
            Op::Write => (&[], &theirs.pieces),
        };
        let (send, receive) = (send.to_vec(), receive.to_vec());
        // SAFETY: `served` holds the memory and the lease, and is dropped only once the stream was seen idle, or never.
        let posted = unsafe { self.post(send, receive) };
        self.posted(posted, OnStream::Theirs(theirs), batch, false)
    }

    pub(super) fn theirs_ended(&mut self, theirs: Theirs) -> Result<(), End> {
        let Theirs { batch, served, ticket, .. } = theirs;
        // Its permit first: whoever is told that the lease is over finds it so.
        drop(served);
        self.leave(ticket);
        self.say(Message::Ended { batch })
    }
}
