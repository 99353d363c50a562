//! The sending half of a stream. It sends in units: control messages and at most one segment of region bytes, which may
//! be followed by the end of its read. A unit that was begun is finished, if need be with zeros; between units the
//! small go first, the big take turns.

use std::collections::{HashMap, VecDeque};

use ropeway_core::{Op, Status, StatusKind};

use super::flight::Part;
use super::lane::{Broken, Conn, Effects, Lane, Step};
use super::link::LinkCore;
use super::served::Serving;
use super::socket::{self, Moved, Pieces};
use super::window::{Place, Window};
use super::wire::{HEADER_BYTES, Header, Kind, OPEN_REQUESTS_MAX, SEGMENT_BYTES_MAX, Seal};
use super::{SEGMENT_BYTES, SMALL_BYTES};

/// Control bytes that go out in one unit.
const HEAD_BYTES: usize = 16 << 10;
/// Control messages that may wait. A peer that makes us queue more does not read.
const CONTROLS_MAX: usize = 4 * OPEN_REQUESTS_MAX;
/// What the rest of a segment is filled with when its bytes may no longer be touched.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where the region bytes of the unit come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    None,
    /// A write of ours.
    Asked(u64),
    /// A read of the peer.
    Served(u64),
    /// Nowhere any more.
    Zeros,
}

#[derive(Clone, Copy)]
enum Item {
    Asked(u64),
    Served(u64),
}

/// What is to be sent and how far it got.
pub(super) struct Sender {
    pub(super) seal: Seal,
    controls: VecDeque<Header>,
    small: VecDeque<Item>,
    bulk: VecDeque<Item>,
    head: Vec<u8>,
    head_at: usize,
    source: Source,
    payload_left: u32,
    tail: Option<[u8; HEADER_BYTES]>,
    tail_at: usize,
    window: Window,
    /// The socket took less than was offered.
    pub(super) blocked: bool,
}

impl Sender {
    pub(super) fn new(seal: Seal) -> Self {
        Self {
            seal,
            controls: VecDeque::new(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            head: Vec::new(),
            head_at: 0,
            source: Source::None,
            payload_left: 0,
            tail: None,
            tail_at: 0,
            window: Window::default(),
            blocked: false,
        }
    }

    pub(super) fn queue_asked(&mut self, id: u64, bytes: u64) {
        self.queue(Item::Asked(id), bytes <= SMALL_BYTES);
    }

    pub(super) fn queue_served(&mut self, id: u64, small: bool) {
        self.queue(Item::Served(id), small);
    }

    fn queue(&mut self, item: Item, small: bool) {
        if small { self.small.push_back(item) } else { self.bulk.push_back(item) }
    }

    pub(super) fn control(&mut self, header: Header) -> Result<(), Broken> {
        self.controls.push_back(header);
        if self.controls.len() > CONTROLS_MAX {
            return Err(Broken::Protocol("it asks without reading the answers"));
        }
        Ok(())
    }

    fn unit_is_empty(&self) -> bool {
        self.head_at == self.head.len() && self.payload_left == 0 && self.tail.is_none()
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_work(&self) -> bool {
        !self.unit_is_empty() || !self.controls.is_empty() || !self.small.is_empty() || !self.bulk.is_empty()
    }

    /// Forgets everything: the stream is over.
    pub(super) fn clear(&mut self) {
        self.controls.clear();
        self.small.clear();
        self.bulk.clear();
        (self.head_at, self.payload_left, self.tail) = (self.head.len(), 0, None);
        self.source = Source::None;
        self.window.clear();
    }

    /// The rest of the segment on the wire must not touch `source`'s memory: zeros instead. Whether it was its turn.
    fn cut(&mut self, source: Source) -> bool {
        let begun = self.source == source;
        if begun {
            self.source = Source::Zeros;
            self.window.clear();
        }
        begun
    }

    pub(super) fn cut_asked(&mut self, id: u64) -> bool {
        self.cut(Source::Asked(id))
    }

    pub(super) fn is_sending_asked(&self, id: u64) -> bool {
        self.source == Source::Asked(id)
    }

    pub(super) fn is_sending_served(&self, id: u64) -> bool {
        self.source == Source::Served(id)
    }

    /// Ends a read of the peer before its time. What was begun is filled up.
    pub(super) fn end_served(&mut self, id: u64, kind: Kind, status: StatusKind) -> Result<(), Broken> {
        let header = Header::control(kind, id, status);
        if self.cut(Source::Served(id)) && self.tail.is_some() {
            // The end was sealed ahead with the last segment. With payload left, not a byte of it was sent; without, all
            // bytes went out under an open gate, and the end that says so is true.
            if self.payload_left > 0 {
                self.tail = Some(self.seal.seal_again(&header));
            }
            return Ok(());
        }
        self.control(header)
    }

    /// Puts together what goes out next. `false`: there is nothing.
    fn next_unit(&mut self, asked: &mut HashMap<u64, Part>, serving: &mut HashMap<u64, Serving>) -> bool {
        self.head.clear();
        self.head_at = 0;
        if self.head.capacity() > 4 * HEAD_BYTES {
            self.head = Vec::new();
        }
        while self.head.len() < HEAD_BYTES {
            match self.controls.pop_front() {
                Some(header) => self.head.extend_from_slice(&self.seal.seal(&header)),
                None => break,
            }
        }
        while self.source == Source::None && self.head.len() < HEAD_BYTES {
            match self.small.pop_front().or_else(|| self.bulk.pop_front()) {
                Some(Item::Asked(id)) => {
                    if let Some(part) = asked.get_mut(&id).filter(|part| part.stop.is_none()) {
                        self.begin_asked(id, part);
                    }
                }
                Some(Item::Served(id)) => {
                    if let Some(serving) = serving.get_mut(&id) {
                        self.begin_served(id, serving);
                    }
                }
                None => break,
            }
        }
        !self.head.is_empty()
    }

    fn begin_asked(&mut self, id: u64, part: &mut Part) {
        let (request, data) = match part.flight.op {
            Op::Read => (Kind::ReadRequest, None),
            Op::Write => (Kind::WriteRequest, Some(Kind::WriteData)),
        };
        if let Some(body) = part.request.take() {
            let mac = self.seal.seal_body(id, &body);
            let whole = body.len() + mac.len();
            let mut at = 0;
            for sequence in 0.. {
                let length = (whole - at).min(SEGMENT_BYTES_MAX as usize);
                let more = at + length < whole;
                let header = Header::segment(request, id, sequence, length as u32, more);
                self.head.extend_from_slice(&self.seal.seal(&header));
                let of_body = at.min(body.len())..(at + length).min(body.len());
                let of_mac = at.max(body.len()) - body.len()..(at + length).max(body.len()) - body.len();
                self.head.extend_from_slice(&body[of_body]);
                self.head.extend_from_slice(&mac[of_mac]);
                at += length;
                if !more {
                    break;
                }
            }
        }
        if let Some(kind) = data {
            self.begin_segment(kind, id, part.sequence, part.left());
            part.sequence = part.sequence.wrapping_add(1);
            self.source = Source::Asked(id);
        }
    }

    fn begin_served(&mut self, id: u64, serving: &mut Serving) {
        let length = self.begin_segment(Kind::ReadData, id, serving.sequence, serving.left);
        serving.sequence = serving.sequence.wrapping_add(1);
        self.source = Source::Served(id);
        if u64::from(length) == serving.left {
            self.tail = Some(self.seal.seal(&Header::control(Kind::End, id, StatusKind::Completed)));
            self.tail_at = 0;
        }
    }

    fn begin_segment(&mut self, kind: Kind, id: u64, sequence: u32, left: u64) -> u32 {
        let length = left.min(SEGMENT_BYTES.into()) as u32;
        let header = Header::segment(kind, id, sequence, length, false);
        self.head.extend_from_slice(&self.seal.seal(&header));
        self.payload_left = length;
        length
    }

    /// The kernel took so many bytes of the unit. Gives how many of them were region bytes.
    fn took(&mut self, mut bytes: usize) -> u32 {
        let of_head = bytes.min(self.head.len() - self.head_at);
        self.head_at += of_head;
        bytes -= of_head;
        let of_payload = bytes.min(self.payload_left as usize) as u32;
        self.payload_left -= of_payload;
        bytes -= of_payload as usize;
        self.tail_at += bytes;
        if self.tail_at == HEADER_BYTES {
            (self.tail, self.tail_at) = (None, 0);
        }
        of_payload
    }
}

impl Conn {
    /// Sends once.
    pub(super) fn send_some(
        &mut self,
        link: &LinkCore,
        lane: &Lane,
        effects: &mut Effects,
    ) -> Result<Step, Broken> {
        self.sender.blocked = false;
        if self.sender.unit_is_empty() && !self.sender.next_unit(&mut self.asked, &mut self.serving) {
            return Ok(Step { bytes: 0, again: false });
        }
        let mut pieces = Pieces::new();
        let entered = self.gather_unit(link, lane, effects, &mut pieces)?;
        // SAFETY: the pieces are the head, the tail and the zeros, which live until the call returns, and ranges that
        // `Memory::range` vouched for, of memory that `asked` or `serving` pins. Lease memory is entered: its owner
        // waits for `leave` before it lets anyone else have it.
        let moved = unsafe { socket::send(lane.fd(), &mut pieces) };
        if entered {
            lane.using.leave();
            effects.left = true;
        }
        let offered = pieces.bytes();
        match moved {
            Moved::Bytes(bytes) => {
                self.sent(bytes, effects)?;
                self.sender.blocked = bytes < offered;
                Ok(Step { bytes, again: bytes == offered })
            }
            Moved::Blocked => {
                self.sender.blocked = true;
                Ok(Step { bytes: 0, again: false })
            }
            Moved::Ended => Err(Broken::Ended),
            Moved::Broken(code) => Err(Broken::Native(code)),
        }
    }

    /// Names the rest of the unit. Gives whether a gate was entered.
    fn gather_unit(
        &mut self,
        link: &LinkCore,
        lane: &Lane,
        effects: &mut Effects,
        pieces: &mut Pieces,
    ) -> Result<bool, Broken> {
        let mut entered = false;
        if let (Source::Served(id), 1..) = (self.sender.source, self.sender.payload_left) {
            let grant = self.serving.get(&id).map(|serving| serving.grant);
            let open = grant.is_some_and(|grant| lane.using.enter(&*link.gate, grant, Op::Read));
            if open {
                entered = true;
            } else {
                lane.using.leave();
                effects.left = true;
                self.stop_serving(id, effects)?;
            }
        }
        let sender = &mut self.sender;
        let head = &sender.head[sender.head_at..];
        pieces.push(head.as_ptr().cast_mut(), head.len());
        let left = sender.payload_left;
        let place = match sender.source {
            Source::Asked(id) => self.asked.get_mut(&id).map(|part| Place {
                runs: &*part.flight.runs,
                cursor: &mut part.cursor,
                memory: &part.flight.memory,
            }),
            Source::Served(id) => self.serving.get_mut(&id).and_then(|serving| {
                let served = &serving.work.as_ref()?.served;
                Some(Place { runs: &*served.runs, cursor: &mut serving.cursor, memory: &served.memory })
            }),
            Source::None | Source::Zeros => None,
        };
        let mut named = 0;
        if left > 0 {
            named = match place {
                Some(place) => sender.window.gather(place, left, pieces).map_err(|_| {
                    lane.using.leave();
                    Broken::Internal("a checked plan names bytes beyond its memory")
                })?,
                None => left.min(ZEROS.len() as u32),
            };
            if sender.source == Source::Zeros {
                pieces.push(ZEROS.as_ptr().cast_mut(), named as usize);
            }
        }
        if let Some(tail) = sender.tail.as_ref().filter(|_| named == left) {
            let rest = &tail[sender.tail_at..];
            pieces.push(rest.as_ptr().cast_mut(), rest.len());
        }
        Ok(entered)
    }

    /// Moves everything on by what the kernel took, and ends what is ended by it.
    fn sent(&mut self, bytes: usize, effects: &mut Effects) -> Result<(), Broken> {
        let of_payload = self.sender.took(bytes);
        let source = self.sender.source;
        match source {
            Source::Asked(id) => {
                self.sender.window.advance(of_payload);
                if let Some(part) = self.asked.get_mut(&id) {
                    part.moved += u64::from(of_payload);
                }
            }
            Source::Served(id) => {
                self.sender.window.advance(of_payload);
                if let Some(serving) = self.serving.get_mut(&id) {
                    serving.left -= u64::from(of_payload);
                }
            }
            Source::None | Source::Zeros => {}
        }
        if !self.sender.unit_is_empty() {
            return Ok(());
        }
        self.sender.source = Source::None;
        match source {
            Source::Asked(id) => self.asked_unit_sent(id),
            Source::Served(id) => self.served_unit_sent(id, effects),
            Source::None | Source::Zeros => Ok(()),
        }
    }

    fn asked_unit_sent(&mut self, id: u64) -> Result<(), Broken> {
        let Some(part) = self.asked.get_mut(&id) else { return Ok(()) };
        if part.stop.is_some() {
            if !part.cancel_sent {
                part.cancel_sent = true;
                self.sender.control(Header::control(Kind::Cancel, id, StatusKind::Completed))?;
            }
        } else if part.left() > 0 {
            self.sender.queue(Item::Asked(id), part.bytes <= SMALL_BYTES);
        }
        Ok(())
    }

    fn served_unit_sent(&mut self, id: u64, effects: &mut Effects) -> Result<(), Broken> {
        let Some(serving) = self.serving.get_mut(&id) else { return Ok(()) };
        if serving.left == 0 {
            // Its end went out with it.
            effects.released.extend(self.serving.remove(&id).and_then(Serving::over));
        } else if serving.cancelled {
            effects.released.extend(self.serving.remove(&id).and_then(Serving::over));
            self.sender.control(Header::control(Kind::CancelAck, id, StatusKind::Cancelled))?;
        } else {
            let small = serving.small;
            self.sender.queue_served(id, small);
        }
        Ok(())
    }

    /// We no longer want a request of ours, or cannot wait for it: its memory is let alone at once (a read, an
    /// abandoned write) or at the segment's end (a cancelled write).
    pub(super) fn stop_asked(
        &mut self,
        id: u64,
        why: StatusKind,
        effects: &mut Effects,
    ) -> Result<(), Broken> {
        let Some(part) = self.asked.get_mut(&id) else { return Ok(()) };
        if part.is_unsent() {
            return self.end_asked(id, Status::quiet(why), effects);
        }
        part.stop.get_or_insert(why);
        let abandoned = why == StatusKind::Abandoned;
        let (is_write, told) = (part.flight.op == Op::Write, part.told);
        if abandoned && !told {
            part.told = true;
        }
        let at_boundary = if is_write && !abandoned {
            !self.sender.is_sending_asked(id)
        } else {
            self.receiver.let_alone_asked(id);
            self.sender.cut_asked(id);
            true
        };
        if let Some(part) = self.asked.get_mut(&id) {
            if at_boundary && !part.cancel_sent {
                part.cancel_sent = true;
                self.sender.control(Header::control(Kind::Cancel, id, StatusKind::Completed))?;
            }
            if abandoned && !told {
                effects.part_ended(part, Status::quiet(StatusKind::Abandoned).remote_after_close());
            }
        }
        Ok(())
    }
}
