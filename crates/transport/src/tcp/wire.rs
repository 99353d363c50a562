//! The data stream's messages: a 40-byte header, then a control body or region bytes. Layout in `docs/PROTOCOL.md`.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use ropeway_core::{GrantId, StatusKind};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 40;
/// The part of a header that its MAC covers.
const COVERED_BYTES: usize = 24;
/// Bytes of a MAC.
pub(super) const MAC_BYTES: usize = 16;
/// No segment is longer; a longer length ends the link.
pub(super) const SEGMENT_BYTES_MAX: u32 = 1 << 20;
/// Bytes before the plan in a request's body.
pub(super) const REQUEST_FIXED_BYTES: usize = 24;
/// No request body is longer, all its segments together: a raw plan of 2^20 entries fits.
pub(super) const REQUEST_BYTES_MAX: usize = 32 << 20;
/// Requests that one side may have open on one stream. More end the link.
pub(super) const OPEN_REQUESTS_MAX: usize = 1024;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Initiator to owner: send me these bytes. Body: grant, start, bytes, plan, MAC.
    ReadRequest = 1,
    /// Initiator to owner: these bytes follow. Body as above.
    WriteRequest = 2,
    /// Owner to initiator: bytes of a read.
    ReadData = 3,
    /// Initiator to owner: bytes of a write.
    WriteData = 4,
    /// Owner to initiator: the read is over, `status` says how.
    End = 5,
    /// Owner to initiator: the write is placed, or why it will not be.
    Ack = 6,
    /// Initiator to owner: stop. For a write, no more data follows.
    Cancel = 7,
    /// Owner to initiator: nothing is done for this id any more.
    CancelAck = 8,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::ReadRequest,
            2 => Self::WriteRequest,
            3 => Self::ReadData,
            4 => Self::WriteData,
            5 => Self::End,
            6 => Self::Ack,
            7 => Self::Cancel,
            8 => Self::CancelAck,
            _ => return None,
        })
    }

    fn has_payload(self) -> bool {
        matches!(self, Self::ReadRequest | Self::WriteRequest | Self::ReadData | Self::WriteData)
    }

    fn may_continue(self) -> bool {
        matches!(self, Self::ReadRequest | Self::WriteRequest)
    }
}

/// A message's header without its MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The initiator's transfer id.
    pub(super) id: u64,
    /// Counts the segments of one id in one direction.
    pub(super) sequence: u32,
    /// Bytes that follow the header.
    pub(super) length: u32,
    /// What it is.
    pub(super) kind: Kind,
    /// The request's body goes on in the next segment.
    pub(super) more: bool,
    /// How it ended; 0 (completed) where the kind tells nothing.
    pub(super) status: u16,
    /// The native error number that goes with the status.
    pub(super) native: i32,
}

impl Header {
    /// A message without a body.
    pub(super) fn control(kind: Kind, id: u64, status: StatusKind) -> Self {
        Self { id, sequence: 0, length: 0, kind, more: false, status: status_to_wire(status), native: 0 }
    }

    /// One segment of region bytes or of a request's body.
    pub(super) fn segment(kind: Kind, id: u64, sequence: u32, length: u32, more: bool) -> Self {
        Self { id, sequence, length, kind, more, status: 0, native: 0 }
    }

    fn covered(&self) -> [u8; COVERED_BYTES] {
        let mut bytes = [0; COVERED_BYTES];
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16] = self.kind as u8;
        bytes[17] = self.more.into();
        bytes[18..20].copy_from_slice(&self.status.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.native.to_le_bytes());
        bytes
    }

    /// Decodes what a MAC has vouched for. `None`: the peer speaks another protocol, or breaks this one.
    fn from_covered(bytes: &[u8; COVERED_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = Kind::from_wire(bytes[16])?;
        let header = Self {
            id: u64::from(word(0)) | u64::from(word(4)) << 32,
            sequence: word(8),
            length: word(12),
            kind,
            more: match bytes[17] {
                0 => false,
                1 if kind.may_continue() => true,
                _ => return None,
            },
            status: u16::from_le_bytes([bytes[18], bytes[19]]),
            native: word(20) as i32,
        };
        let fits = if kind.has_payload() {
            (1..=SEGMENT_BYTES_MAX).contains(&header.length)
        } else {
            header.length == 0 && header.sequence == 0
        };
        fits.then_some(header)
    }
}

/// Why a message was refused. The link ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// The MAC does not fit: another key, a changed, lost, repeated or reordered message.
    Forged,
    /// The MAC fits, the content is not allowed.
    Malformed,
}

/// Makes or checks the MACs of one direction of one stream. Each message takes the next number of a counter, so one
/// that is repeated, left out or moved does not verify.
pub(super) struct Seal {
    key: [u8; 32],
    counter: u64,
}

impl Seal {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, counter: 0 }
    }

    fn mac(&self, domain: u8, number: u64, bytes: &[u8]) -> Blake2sMac<U16> {
        let mut mac =
            <Blake2sMac<U16> as KeyInit>::new_from_slice(&self.key).expect("blake2s takes 32 bytes of key");
        mac.update(&[domain]);
        mac.update(&number.to_le_bytes());
        mac.update(bytes);
        mac
    }

    /// The next message's header on the wire.
    pub(super) fn seal(&mut self, header: &Header) -> [u8; HEADER_BYTES] {
        self.counter += 1;
        self.seal_again(header)
    }

    /// Another header under the last one's number, where not a byte of the last one was sent.
    pub(super) fn seal_again(&self, header: &Header) -> [u8; HEADER_BYTES] {
        let covered = header.covered();
        let mut bytes = [0; HEADER_BYTES];
        bytes[..COVERED_BYTES].copy_from_slice(&covered);
        bytes[COVERED_BYTES..].copy_from_slice(&self.mac(0, self.counter, &covered).finalize().into_bytes());
        bytes
    }

    /// Checks the next header.
    pub(super) fn open(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<Header, Refused> {
        self.counter += 1;
        let (covered, mac) =
            bytes.split_first_chunk::<COVERED_BYTES>().expect("a header is longer than 24 bytes");
        self.mac(0, self.counter, covered).verify_slice(mac).map_err(|_| Refused::Forged)?;
        Header::from_covered(covered).ok_or(Refused::Malformed)
    }

    /// The MAC of a whole request body. Bound to the id, not to the counter, so that it can be made ahead; the headers
    /// around it are counted, and an id is used once.
    pub(super) fn seal_body(&self, id: u64, body: &[u8]) -> [u8; MAC_BYTES] {
        self.mac(1, id, body).finalize().into_bytes().into()
    }

    /// Checks a whole request body against the MAC at its end and gives what is before.
    pub(super) fn open_body<'a>(&self, id: u64, body: &'a [u8]) -> Result<RequestBody<'a>, Refused> {
        let (body, mac) = body.split_last_chunk::<MAC_BYTES>().ok_or(Refused::Malformed)?;
        self.mac(1, id, body).verify_slice(mac).map_err(|_| Refused::Forged)?;
        RequestBody::decode(body).ok_or(Refused::Malformed)
    }
}

/// A request's body without its MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestBody<'a> {
    pub(super) grant: GrantId,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) plan: &'a [u8],
}

impl<'a> RequestBody<'a> {
    /// The words before the plan.
    pub(super) fn fixed(grant: GrantId, start: u64, bytes: u64) -> [u8; REQUEST_FIXED_BYTES] {
        let mut out = [0; REQUEST_FIXED_BYTES];
        out[0..8].copy_from_slice(&grant.to_bits().to_le_bytes());
        out[8..16].copy_from_slice(&start.to_le_bytes());
        out[16..24].copy_from_slice(&bytes.to_le_bytes());
        out
    }

    fn decode(body: &'a [u8]) -> Option<Self> {
        let (grant, rest) = body.split_first_chunk::<8>()?;
        let (start, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, plan) = rest.split_first_chunk::<8>()?;
        let (start, bytes) = (u64::from_le_bytes(*start), u64::from_le_bytes(*bytes));
        start.checked_add(bytes)?;
        (bytes > 0).then_some(Self {
            grant: GrantId::from_bits(u64::from_le_bytes(*grant)),
            start,
            bytes,
            plan,
        })
    }
}

/// A status on the wire. Numbers are never reused.
pub(super) fn status_to_wire(kind: StatusKind) -> u16 {
    match kind {
        StatusKind::Completed => 0,
        StatusKind::Cancelled => 1,
        StatusKind::Abandoned => 2,
        StatusKind::StaleLease => 3,
        StatusKind::Denied => 4,
        StatusKind::PeerFull => 5,
        StatusKind::PeerUnmapped => 6,
        StatusKind::Closed => 7,
        StatusKind::Protocol => 8,
        StatusKind::Native => 9,
        _ => 10,
    }
}

/// The other way; what a newer peer may say is a refusal whose reason we do not know.
pub(super) fn status_from_wire(status: u16) -> StatusKind {
    match status {
        0 => StatusKind::Completed,
        1 => StatusKind::Cancelled,
        2 => StatusKind::Abandoned,
        3 => StatusKind::StaleLease,
        4 => StatusKind::Denied,
        5 => StatusKind::PeerFull,
        6 => StatusKind::PeerUnmapped,
        7 => StatusKind::Closed,
        8 => StatusKind::Protocol,
        9 => StatusKind::Native,
        _ => StatusKind::Denied,
    }
}

/// Takes any bytes for a header and a request's body: what is accepted is what an encoder writes.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<COVERED_BYTES>() else { return };
    if let Some(header) = Header::from_covered(head) {
        assert!(header.length <= SEGMENT_BYTES_MAX);
        assert_eq!(header.covered(), *head);
    }
    if let Some(body) = RequestBody::decode(rest) {
        assert!(body.start.checked_add(body.bytes).is_some());
        assert_eq!(body.plan.len() + REQUEST_FIXED_BYTES, rest.len());
    }
    assert!(Seal::new([3; 32]).open_body(1, bytes).is_err(), "no input finds a MAC");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_comes_back_and_counts() {
        let (mut ours, mut theirs) = (Seal::new([1; 32]), Seal::new([1; 32]));
        for sequence in 0..3 {
            let header = Header::segment(Kind::ReadData, 77, sequence, 4096, false);
            assert_eq!(theirs.open(&ours.seal(&header)), Ok(header));
        }
    }

    #[test]
    fn repeated_and_changed_headers_are_forged() {
        let (mut ours, mut theirs) = (Seal::new([1; 32]), Seal::new([1; 32]));
        let wire = ours.seal(&Header::control(Kind::Cancel, 5, StatusKind::Completed));
        assert!(theirs.open(&wire).is_ok());
        assert_eq!(theirs.open(&wire), Err(Refused::Forged), "a repeated message takes another number");
        let mut wire = ours.seal(&Header::control(Kind::Cancel, 5, StatusKind::Completed));
        wire[0] ^= 1;
        let mut theirs = Seal { key: [1; 32], counter: 1 };
        assert_eq!(theirs.open(&wire), Err(Refused::Forged));
        assert_eq!(Seal::new([2; 32]).open(&wire), Err(Refused::Forged));
    }

    #[test]
    fn an_oversized_segment_is_malformed() {
        let mut ours = Seal::new([1; 32]);
        let wire = ours.seal(&Header::segment(Kind::ReadData, 1, 0, SEGMENT_BYTES_MAX + 1, false));
        assert_eq!(Seal::new([1; 32]).open(&wire), Err(Refused::Malformed));
        let wire = Seal::new([1; 32]).seal(&Header::segment(Kind::End, 1, 0, 1, false));
        assert_eq!(Seal::new([1; 32]).open(&wire), Err(Refused::Malformed), "an end has no body");
    }

    #[test]
    fn statuses_come_back() {
        for kind in [
            StatusKind::Completed,
            StatusKind::Cancelled,
            StatusKind::StaleLease,
            StatusKind::Denied,
            StatusKind::PeerFull,
            StatusKind::PeerUnmapped,
            StatusKind::Closed,
            StatusKind::Protocol,
        ] {
            assert_eq!(status_from_wire(status_to_wire(kind)), kind);
        }
        assert_eq!(status_from_wire(999), StatusKind::Denied);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_header_decoder_panic(bytes: [u8; COVERED_BYTES]) {
            if let Some(header) = Header::from_covered(&bytes) {
                prop_assert!(header.length <= SEGMENT_BYTES_MAX);
                prop_assert_eq!(header.covered(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_body_decoder_panic(bytes: Vec<u8>) {
            if let Some(body) = RequestBody::decode(&bytes) {
                prop_assert!(body.start.checked_add(body.bytes).is_some());
                prop_assert_eq!(body.plan.len() + REQUEST_FIXED_BYTES, bytes.len());
            }
            prop_assert!(Seal::new([3; 32]).open_body(1, &bytes).is_err());
        }

        #[test]
        fn a_sealed_body_opens_only_whole(plan: Vec<u8>, start in 0..1u64 << 40, bytes in 1..1u64 << 40, flip: prop::sample::Index) {
            let seal = Seal::new([3; 32]);
            let mut body = RequestBody::fixed(GrantId { slot: 4, generation: 9 }, start, bytes).to_vec();
            body.extend_from_slice(&plan);
            body.extend_from_slice(&seal.seal_body(8, &body));
            let opened = seal.open_body(8, &body).unwrap();
            prop_assert_eq!(seal.open_body(9, &body), Err(Refused::Forged), "a body belongs to one id");
            prop_assert_eq!((opened.start, opened.bytes, opened.plan), (start, bytes, &plan[..]));
            let at = flip.index(body.len());
            body[at] ^= 0x40;
            prop_assert_eq!(seal.open_body(8, &body), Err(Refused::Forged));
        }
    }
}
