//! The receiving half of a stream: headers, request bodies, and region bytes scattered straight into place.

use std::collections::HashMap;

use bytes::BytesMut;
use ropeway_core::{Op, Status, StatusKind};

use super::SMALL_BYTES;
use super::flight::Part;
use super::lane::{Broken, Conn, Effects, Lane, Step};
use super::link::LinkCore;
use super::served::{Serving, refusal};
use super::socket::{self, Moved, Pieces};
use super::window::{Place, Window};
use super::wire::{
    HEADER_BYTES, Header, Kind, OPEN_REQUESTS_MAX, REQUEST_BYTES_MAX, Refused, Seal, status_from_wire,
};
use crate::{Declined, ServeRequest, Served};

/// Requests of the peer that we keep in mind: what it may have open, and as many refused writes still running out.
const SERVING_MAX: usize = 2 * OPEN_REQUESTS_MAX;
/// Bytes thrown away by one call.
const BIN_BYTES: usize = 16 << 10;
/// Bytes read beyond a header while no region bytes are expected: a small request comes whole, by one call.
const AHEAD_BYTES: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Header,
    /// A request's body: so many bytes of this segment are still to come.
    Body {
        id: u64,
        op: Op,
        left: u32,
        more: bool,
    },
    /// Region bytes.
    Data {
        to: To,
        left: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    /// A read of ours.
    Asked(u64),
    /// A write of the peer.
    Served(u64),
    /// Nowhere: cancelled, revoked, refused.
    Bin,
}

/// What is being received and how far it got.
pub(super) struct Receiver {
    seal: Seal,
    expect: Expect,
    header: [u8; HEADER_BYTES],
    have: usize,
    /// The request that is being put together, over all its segments.
    body: BytesMut,
    body_of: Option<(u64, Op, u32)>,
    window: Window,
    /// Bytes that came along with a header, and which of them are not looked at yet.
    ahead: Vec<u8>,
    ahead_at: usize,
    ahead_end: usize,
    /// The call that brought them brought all it could: there is more.
    ahead_full: bool,
}

impl Receiver {
    pub(super) fn new(seal: Seal) -> Self {
        Self {
            seal,
            expect: Expect::Header,
            header: [0; HEADER_BYTES],
            have: 0,
            body: BytesMut::new(),
            body_of: None,
            window: Window::default(),
            ahead: Vec::new(),
            ahead_at: 0,
            ahead_end: 0,
            ahead_full: false,
        }
    }

    /// Forgets everything: the stream is over.
    pub(super) fn clear(&mut self) {
        self.body = BytesMut::new();
        (self.ahead_at, self.ahead_end) = (0, 0);
        self.window.clear();
        self.expect = Expect::Header;
    }

    /// Whether bytes are there that only this stream knows of.
    pub(super) fn has_ahead(&self) -> bool {
        self.ahead_at < self.ahead_end
    }

    fn let_alone(&mut self, whose: To) {
        if let Expect::Data { to, .. } = &mut self.expect
            && *to == whose
        {
            *to = To::Bin;
            self.window.clear();
        }
    }

    /// No further byte goes into the memory of this read of ours.
    pub(super) fn let_alone_asked(&mut self, id: u64) {
        self.let_alone(To::Asked(id));
    }

    /// No further byte goes into the memory of this write of the peer.
    pub(super) fn let_alone_served(&mut self, id: u64) {
        self.let_alone(To::Served(id));
    }
}

/// Whether this thread can serve it: a device's memory is staged by who asks, not by who is asked.
fn is_the_hosts(served: &Served) -> bool {
    served.memory.iter().all(|memory| memory.device().is_none())
}

/// Where a data segment's bytes belong.
fn place<'a>(
    asked: &'a mut HashMap<u64, Part>,
    serving: &'a mut HashMap<u64, Serving>,
    to: To,
) -> Option<Place<'a>> {
    match to {
        To::Asked(id) => asked.get_mut(&id).map(|part| Place {
            runs: &*part.flight.runs,
            cursor: &mut part.cursor,
            memory: &part.flight.memory,
        }),
        To::Served(id) => serving.get_mut(&id).and_then(|serving| {
            let served = &serving.work.as_ref()?.served;
            Some(Place { runs: &*served.runs, cursor: &mut serving.cursor, memory: &served.memory })
        }),
        To::Bin => None,
    }
}

impl Conn {
    /// Receives once.
    pub(super) fn receive_some(
        &mut self,
        link: &LinkCore,
        lane: &Lane,
        effects: &mut Effects,
    ) -> Result<Step, Broken> {
        if self.receiver.has_ahead() {
            return self.receive_ahead(link, lane, effects);
        }
        let mut bin = [std::mem::MaybeUninit::<u8>::uninit(); BIN_BYTES];
        let mut pieces = Pieces::new();
        let named = self.gather_data(link, lane, effects, &mut pieces)?;
        let reads_ahead = self.receiver.expect == Expect::Header && !self.expects_data();
        match self.receiver.expect {
            Expect::Data { left, .. } => match named {
                Some(named) if named < left => {}
                Some(_) => pieces.push(self.receiver.header.as_mut_ptr(), HEADER_BYTES),
                None => pieces.push(bin.as_mut_ptr().cast(), BIN_BYTES.min(left as usize)),
            },
            Expect::Header => {
                let rest = &mut self.receiver.header[self.receiver.have..];
                pieces.push(rest.as_mut_ptr(), rest.len());
                if reads_ahead {
                    self.receiver.ahead.resize(AHEAD_BYTES, 0);
                    pieces.push(self.receiver.ahead.as_mut_ptr(), AHEAD_BYTES);
                }
            }
            Expect::Body { left, .. } => {
                // Grown as the bytes come: a peer does not make us reserve what it only announces.
                self.receiver.body.reserve(BIN_BYTES.min(left as usize));
                let room = self.receiver.body.spare_capacity_mut();
                let len = room.len().min(left as usize);
                pieces.push(room.as_mut_ptr().cast(), len);
            }
        }
        // SAFETY: the pieces are the header, what is read ahead, the bin and the body's spare room, which live until the
        // call returns and are not referred to meanwhile, and ranges that `Memory::range` vouched for, of memory that
        // `asked` or `serving` pins and to which no reference is ever made. Lease memory is entered.
        let moved = unsafe { socket::receive(lane.fd(), &mut pieces) };
        self.leave(lane, effects);
        match moved {
            Moved::Bytes(bytes) => {
                let full = bytes == pieces.bytes();
                let mut used = bytes;
                if let Expect::Header = self.receiver.expect {
                    used = bytes.min(HEADER_BYTES - self.receiver.have);
                    self.receiver.ahead_at = 0;
                    self.receiver.ahead_end = bytes - used;
                    self.receiver.ahead_full = full;
                }
                if let Expect::Body { .. } = self.receiver.expect {
                    let body = &mut self.receiver.body;
                    // SAFETY: the kernel has written so many bytes into the spare room, from its start on.
                    unsafe { body.set_len(body.len() + bytes) };
                }
                self.received(used, link, effects)?;
                Ok(Step { bytes, again: self.receiver.has_ahead() || full && self.expects() })
            }
            Moved::Blocked => Ok(Step { bytes: 0, again: false }),
            Moved::Ended => Err(Broken::Ended),
            Moved::Broken(code) => Err(Broken::Native(code)),
        }
    }

    /// Looks at bytes that came along with a header.
    fn receive_ahead(&mut self, link: &LinkCore, lane: &Lane, effects: &mut Effects) -> Result<Step, Broken> {
        let entered = self.enter_data(link, lane, effects)?;
        let receiver = &mut self.receiver;
        let ahead = &receiver.ahead[receiver.ahead_at..receiver.ahead_end];
        let used = match receiver.expect {
            Expect::Header => {
                let used = ahead.len().min(HEADER_BYTES - receiver.have);
                receiver.header[receiver.have..][..used].copy_from_slice(&ahead[..used]);
                used
            }
            Expect::Body { left, .. } => {
                let used = ahead.len().min(left as usize);
                receiver.body.extend_from_slice(&ahead[..used]);
                used
            }
            Expect::Data { to, left } => match place(&mut self.asked, &mut self.serving, to) {
                Some(place) if entered => {
                    let stored = receiver.window.store(place, left, ahead);
                    stored.map_err(|_| Broken::Internal("a checked plan names bytes beyond its memory"))?
                        as usize
                }
                _ => ahead.len().min(left as usize),
            },
        };
        receiver.ahead_at += used;
        self.leave(lane, effects);
        self.received(used, link, effects)?;
        let receiver = &self.receiver;
        let again = receiver.has_ahead() || receiver.ahead_full && self.expects();
        Ok(Step { bytes: used, again })
    }

    /// Whether region bytes may come. A guess to the safe side, kept cheap.
    fn expects_data(&self) -> bool {
        const FEW: usize = 4;
        self.asked.len() > FEW
            || self.serving.len() > FEW
            || self.asked.values().any(|part| part.flight.op == Op::Read)
            || self.serving.values().any(|serving| serving.op == Op::Write)
    }

    /// Whether anything is expected. If not, whoever polls will say when there is something after all.
    fn expects(&self) -> bool {
        !self.asked.is_empty()
            || !self.serving.is_empty()
            || self.receiver.expect != Expect::Header
            || self.receiver.have > 0
    }

    fn leave(&self, lane: &Lane, effects: &mut Effects) {
        if let Expect::Data { to: To::Served(_), .. } = self.receiver.expect {
            lane.using.leave();
            effects.left = true;
        }
    }

    /// Enters the gate of the data segment's destination, if it is a lease's. `false`: the bytes go nowhere.
    fn enter_data(&mut self, link: &LinkCore, lane: &Lane, effects: &mut Effects) -> Result<bool, Broken> {
        match self.receiver.expect {
            Expect::Data { to: To::Served(id), .. } => {
                let grant = self.serving.get(&id).map(|serving| serving.grant);
                let open = grant.is_some_and(|grant| lane.using.enter(&*link.gate, grant, Op::Write));
                if !open {
                    lane.using.leave();
                    effects.left = true;
                    self.stop_serving(id, effects)?;
                    self.receiver.let_alone_served(id);
                }
                Ok(open)
            }
            Expect::Data { to: To::Asked(_), .. } => Ok(true),
            _ => Ok(false),
        }
    }

    /// Names the rest of the data segment's destination, and enters its gate. `None`: there is none, or the bin.
    fn gather_data(
        &mut self,
        link: &LinkCore,
        lane: &Lane,
        effects: &mut Effects,
        pieces: &mut Pieces,
    ) -> Result<Option<u32>, Broken> {
        if !self.enter_data(link, lane, effects)? {
            return Ok(None);
        }
        let Expect::Data { to, left } = self.receiver.expect else { return Ok(None) };
        let place = place(&mut self.asked, &mut self.serving, to);
        match place.map(|place| self.receiver.window.gather(place, left, pieces)) {
            None => Ok(None),
            Some(Ok(named)) => Ok(Some(named)),
            Some(Err(_)) => {
                lane.using.leave();
                Err(Broken::Internal("a checked plan names bytes beyond its memory"))
            }
        }
    }

    fn received(&mut self, bytes: usize, link: &LinkCore, effects: &mut Effects) -> Result<(), Broken> {
        match self.receiver.expect {
            Expect::Header => self.receiver.have += bytes,
            Expect::Body { id, op, left, more } => {
                let left = left - bytes as u32;
                if left > 0 {
                    self.receiver.expect = Expect::Body { id, op, left, more };
                    return Ok(());
                }
                self.receiver.expect = Expect::Header;
                if !more {
                    self.asked_of_us(id, op, link, effects)?;
                }
            }
            Expect::Data { to, left } => {
                let of_data = bytes.min(left as usize) as u32;
                self.receiver.have = bytes - of_data as usize;
                self.placed(to, of_data);
                if of_data < left {
                    self.receiver.expect = Expect::Data { to, left: left - of_data };
                    return Ok(());
                }
                self.receiver.expect = Expect::Header;
                if let To::Served(id) = to {
                    self.write_may_be_placed(id, effects)?;
                }
            }
        }
        if self.receiver.have == HEADER_BYTES {
            self.receiver.have = 0;
            let header = self.receiver.seal.open(&self.receiver.header).map_err(|refused| {
                Broken::Protocol(match refused {
                    Refused::Forged => "a message's MAC does not fit",
                    Refused::Malformed => "a malformed message",
                })
            })?;
            self.dispatch(header, effects)?;
        }
        Ok(())
    }

    fn placed(&mut self, to: To, bytes: u32) {
        match to {
            To::Asked(id) => {
                self.receiver.window.advance(bytes);
                if let Some(part) = self.asked.get_mut(&id) {
                    part.moved += u64::from(bytes);
                }
            }
            To::Served(_) => self.receiver.window.advance(bytes),
            To::Bin => {}
        }
    }

    fn dispatch(&mut self, header: Header, effects: &mut Effects) -> Result<(), Broken> {
        let id = header.id;
        match header.kind {
            Kind::ReadRequest => self.begin_body(header, Op::Read),
            Kind::WriteRequest => self.begin_body(header, Op::Write),
            Kind::ReadData => self.begin_read_data(header),
            Kind::WriteData => self.begin_write_data(header),
            Kind::End => self.read_ended(id, status_from_wire(header.status), header.native, effects),
            Kind::Ack => self.write_acked(id, status_from_wire(header.status), header.native, effects),
            Kind::Cancel => self.cancelled_by_peer(id, effects),
            Kind::CancelAck => {
                // Unknown: its end came first.
                if let Some(why) = self.asked.get(&id).and_then(|part| part.stop) {
                    self.end_asked(id, Status::quiet(why), effects)?;
                }
                Ok(())
            }
        }
    }

    fn begin_body(&mut self, header: Header, op: Op) -> Result<(), Broken> {
        let receiver = &mut self.receiver;
        let expected = match receiver.body_of {
            None => {
                if self.serving.contains_key(&header.id) {
                    return Err(Broken::Protocol("two requests with one id"));
                }
                receiver.body.clear();
                0
            }
            Some((id, of, next)) if id == header.id && of == op => next,
            Some(_) => return Err(Broken::Protocol("a request inside another")),
        };
        if header.sequence != expected {
            return Err(Broken::Protocol("a request's segments are out of order"));
        }
        if receiver.body.len() + header.length as usize > REQUEST_BYTES_MAX {
            return Err(Broken::Protocol("a request is too long"));
        }
        receiver.body_of = header.more.then_some((header.id, op, expected + 1));
        receiver.expect = Expect::Body { id: header.id, op, left: header.length, more: header.more };
        Ok(())
    }

    /// A whole request is there: the engine checks it before any memory is touched.
    fn asked_of_us(&mut self, id: u64, op: Op, link: &LinkCore, effects: &mut Effects) -> Result<(), Broken> {
        let body = std::mem::take(&mut self.receiver.body);
        let request = self.receiver.seal.open_body(id, &body).map_err(|refused| {
            Broken::Protocol(match refused {
                Refused::Forged => "a request's MAC does not fit",
                Refused::Malformed => "a malformed request",
            })
        })?;
        if self.serving.len() >= SERVING_MAX {
            return Err(Broken::Protocol("more requests than it may have open"));
        }
        let (grant, start, bytes) = (request.grant, request.start, request.bytes);
        // Before the check: a revocation that comes from here on leaves its order for us.
        let ticket = link.pins.enter();
        let checked = link
            .sink
            .serve(&ServeRequest { op, grant, plan: request.plan, start, bytes })
            .and_then(|served| match served.runs.total_bytes() == bytes && is_the_hosts(&served) {
                true => Ok(served),
                false => Err(Declined { why: StatusKind::Denied, permit: Some(served.permit) }),
            });
        let (work, refused) = match checked {
            Ok(served) => (Some(ticket.passed(served)), None),
            Err(Declined { why, permit }) => {
                effects.released.push(ticket.declined(permit));
                (None, Some(refusal(why)))
            }
        };
        if let (Op::Read, Some(why)) = (op, refused) {
            return self.sender.control(Header::control(Kind::End, id, why));
        }
        let cursor = work.as_ref().map(|work| work.served.runs.seek(0)).unwrap_or_default();
        let small = bytes <= SMALL_BYTES;
        let serving = Serving { op, grant, work, cursor, left: bytes, sequence: 0, cancelled: false, small };
        self.serving.insert(id, serving);
        match (op, refused) {
            (Op::Read, _) => self.sender.queue_served(id, small),
            (Op::Write, Some(why)) => self.sender.control(Header::control(Kind::Ack, id, why))?,
            (Op::Write, None) => {}
        }
        // A long request's room is given back; a short one's is kept for the next.
        if body.capacity() <= 4 * BIN_BYTES {
            self.receiver.body = body;
            self.receiver.body.clear();
        }
        Ok(())
    }

    fn begin_read_data(&mut self, header: Header) -> Result<(), Broken> {
        let part =
            self.asked.get_mut(&header.id).filter(|part| part.flight.op == Op::Read && !part.is_unsent());
        let Some(part) = part else { return Err(Broken::Protocol("data for a read that was not asked for")) };
        // What is thrown away counts too, so that the sum of all segments is what was asked for.
        if header.sequence != part.sequence || u64::from(header.length) > part.bytes - part.announced {
            return Err(Broken::Protocol("a read's segments do not fit the request"));
        }
        part.sequence = part.sequence.wrapping_add(1);
        part.announced += u64::from(header.length);
        let to = if part.stop.is_none() { To::Asked(header.id) } else { To::Bin };
        self.receiver.expect = Expect::Data { to, left: header.length };
        Ok(())
    }

    fn begin_write_data(&mut self, header: Header) -> Result<(), Broken> {
        let serving = self.serving.get_mut(&header.id).filter(|serving| serving.op == Op::Write);
        let Some(serving) = serving else { return Err(Broken::Protocol("data for an unknown write")) };
        if header.sequence != serving.sequence || u64::from(header.length) > serving.left {
            return Err(Broken::Protocol("a write's segments do not fit the request"));
        }
        serving.sequence = serving.sequence.wrapping_add(1);
        serving.left -= u64::from(header.length);
        let to = if serving.work.is_some() {
            To::Served(header.id)
        } else {
            if serving.left == 0 {
                // Refused or revoked long ago: the last that came of it.
                self.serving.remove(&header.id);
            }
            To::Bin
        };
        self.receiver.expect = Expect::Data { to, left: header.length };
        Ok(())
    }

    /// A segment of a write is in place: was it the last?
    fn write_may_be_placed(&mut self, id: u64, effects: &mut Effects) -> Result<(), Broken> {
        if self.serving.get(&id).is_none_or(|serving| serving.left > 0) {
            return Ok(());
        }
        effects.released.extend(self.serving.remove(&id).and_then(Serving::over));
        self.sender.control(Header::control(Kind::Ack, id, StatusKind::Completed))
    }

    fn read_ended(
        &mut self,
        id: u64,
        kind: StatusKind,
        native: i32,
        effects: &mut Effects,
    ) -> Result<(), Broken> {
        let part = self.asked.get(&id).filter(|part| part.flight.op == Op::Read && !part.is_unsent());
        let Some(part) = part else {
            return Err(Broken::Protocol("the end of a read that was not asked for"));
        };
        let kind = part.stop.unwrap_or(kind);
        if kind == StatusKind::Completed && part.moved < part.bytes {
            return Err(Broken::Protocol("a read ended before its last byte"));
        }
        self.end_asked(id, Status::quiet(kind).with_native(native), effects)
    }

    fn write_acked(
        &mut self,
        id: u64,
        kind: StatusKind,
        native: i32,
        effects: &mut Effects,
    ) -> Result<(), Broken> {
        // Unknown: it was given up, or refused twice over.
        let Some(part) = self.asked.get(&id) else { return Ok(()) };
        if part.flight.op != Op::Write || part.is_unsent() {
            return Err(Broken::Protocol("an acknowledgement of what was not written"));
        }
        if kind == StatusKind::Completed && part.moved < part.bytes {
            return Err(Broken::Protocol("a write was acknowledged before its last byte"));
        }
        self.end_asked(id, Status::quiet(kind).with_native(native), effects)
    }

    /// A request of ours is over, on the peer's word or because it was never sent.
    pub(super) fn end_asked(&mut self, id: u64, status: Status, effects: &mut Effects) -> Result<(), Broken> {
        let Some(part) = self.asked.remove(&id) else { return Ok(()) };
        effects.closed += 1;
        self.receiver.let_alone_asked(id);
        self.sender.cut_asked(id);
        // The peer waits for the rest of a write that it refused: tell it that none comes.
        let unfinished = part.flight.op == Op::Write && !part.is_unsent() && part.moved < part.bytes;
        if unfinished && !part.cancel_sent {
            self.sender.control(Header::control(Kind::Cancel, id, StatusKind::Completed))?;
        }
        if !part.told {
            effects.part_ended(&part, status);
        }
        Ok(())
    }

    fn cancelled_by_peer(&mut self, id: u64, effects: &mut Effects) -> Result<(), Broken> {
        if self.sender.is_sending_served(id) {
            // The segment on the wire is the last; the answer follows it.
            if let Some(serving) = self.serving.get_mut(&id) {
                serving.cancelled = true;
            }
            return Ok(());
        }
        effects.released.extend(self.serving.remove(&id).and_then(Serving::over));
        self.sender.control(Header::control(Kind::CancelAck, id, StatusKind::Cancelled))
    }

    /// The lease under a request of the peer is closed: its memory is let go at once.
    pub(super) fn stop_serving(&mut self, id: u64, effects: &mut Effects) -> Result<(), Broken> {
        let Some(serving) = self.serving.get_mut(&id) else { return Ok(()) };
        let Some(work) = serving.work.take() else { return Ok(()) };
        effects.released.push(work.into());
        match serving.op {
            Op::Read => {
                self.serving.remove(&id);
                self.sender.end_served(id, Kind::End, StatusKind::StaleLease)
            }
            Op::Write => {
                if serving.left == 0 {
                    // Its last segment is coming in, into the bin.
                    self.serving.remove(&id);
                }
                self.receiver.let_alone_served(id);
                self.sender.control(Header::control(Kind::Ack, id, StatusKind::StaleLease))
            }
        }
    }
}
