//! What the two sides of a link say to each other over the session's message channel.
//!
//! Little endian. Byte 0 is the version, byte 1 the kind; then the fields. The session delivers in order, whole and
//! encrypted, at most [`MAX_LINK_MESSAGE_BYTES`] each. Everything from the peer is checked here; nothing is trusted after.

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::{ErrorKind, GrantId, RegionId};
use ropeway_transport::link::MAX_LINK_MESSAGE_BYTES;

/// The version that this build speaks.
const VERSION: u8 = 1;
/// Grants of one [`Message::Confirm`], at most.
pub(super) const CONFIRM_MAX: usize = 1_024;
/// Bytes of a native description, at most.
pub(super) const DESCRIPTION_MAX: usize = 4_096;
/// Bytes of a text, at most; longer ones are cut when they are said.
const TEXT_MAX: usize = 1_024;
/// Bytes that prove a way: what a probe transfer has to bring.
pub(super) const NONCE_BYTES: usize = 64;

/// A region of the sender's, for the receiver to import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offered {
    pub(super) region: RegionId,
    pub(super) len: u64,
    /// What the native library of the other side needs to reach it.
    pub(super) description: Bytes,
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The active side's probe region, and the bytes that a read of its start must bring.
    Open { probe: Offered, nonce: [u8; NONCE_BYTES] },
    /// The passive side's, after its own probe succeeded.
    Opened { probe: Offered, nonce: [u8; NONCE_BYTES] },
    /// The active side's probe succeeded, too: the link is there.
    Ready,
    /// There will be no link.
    Refused { text: String },
    /// The sender wants to import a region of the receiver's.
    Ask { region: RegionId },
    /// Here it is.
    Answer(Offered),
    /// Not to be had.
    Deny { region: RegionId, kind: ErrorKind, text: String },
    /// The sender's region is closing: let go of it.
    Withdraw { region: RegionId },
    /// The sender has let go of the receiver's region, or never had it.
    Withdrawn { region: RegionId },
    /// Are these leases of the receiver's still open to be read?
    Confirm { sequence: u64, grants: Vec<GrantId> },
    /// One answer for each grant of the question, in its order.
    Confirmed { sequence: u64, open: Vec<bool> },
    /// The lease is over: tell when no write under it is under way any more.
    Fence { grant: GrantId },
    /// None is, and none will be.
    Fenced { grant: GrantId },
    /// The sender starts nothing on this link any more; nor must the receiver.
    Closing,
    /// Nothing that the sender started on this link touches the receiver's memory any more.
    Quiet,
}

/// Why a message was not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        out.put_u8(self.kind());
        match self {
            Self::Open { probe, nonce } | Self::Opened { probe, nonce } => {
                put_offered(&mut out, probe);
                out.put_slice(nonce);
            }
            Self::Ready | Self::Closing | Self::Quiet => {}
            Self::Refused { text } => put_text(&mut out, text),
            Self::Ask { region } | Self::Withdraw { region } | Self::Withdrawn { region } => {
                out.put_u64_le(region.to_bits());
            }
            Self::Answer(offered) => put_offered(&mut out, offered),
            Self::Deny { region, kind, text } => {
                out.put_u64_le(region.to_bits());
                out.put_u8(number(*kind));
                put_text(&mut out, text);
            }
            Self::Confirm { sequence, grants } => {
                debug_assert!(grants.len() <= CONFIRM_MAX, "the lane asks for so many at a time");
                out.put_u64_le(*sequence);
                out.put_u16_le(grants.len() as u16);
                grants.iter().for_each(|grant| out.put_u64_le(grant.to_bits()));
            }
            Self::Confirmed { sequence, open } => {
                out.put_u64_le(*sequence);
                out.put_u16_le(open.len() as u16);
                let bits = open.chunks(8).map(|some| {
                    some.iter().enumerate().fold(0, |byte, (bit, open)| byte | u8::from(*open) << bit)
                });
                bits.for_each(|byte: u8| out.put_u8(byte));
            }
            Self::Fence { grant } | Self::Fenced { grant } => out.put_u64_le(grant.to_bits()),
        }
        debug_assert!(out.len() <= MAX_LINK_MESSAGE_BYTES, "every field is capped");
        out.freeze()
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 1,
            Self::Opened { .. } => 2,
            Self::Ready => 3,
            Self::Refused { .. } => 4,
            Self::Ask { .. } => 5,
            Self::Answer(_) => 6,
            Self::Deny { .. } => 7,
            Self::Withdraw { .. } => 8,
            Self::Withdrawn { .. } => 9,
            Self::Confirm { .. } => 10,
            Self::Confirmed { .. } => 11,
            Self::Fence { .. } => 12,
            Self::Fenced { .. } => 13,
            Self::Closing => 14,
            Self::Quiet => 15,
        }
    }

    /// Reads one whole message.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_LINK_MESSAGE_BYTES {
            return Err(Malformed("too long"));
        }
        let mut from = Reader(bytes);
        if from.u8()? != VERSION {
            return Err(Malformed("another version"));
        }
        let message = match from.u8()? {
            1 => Self::Open { probe: from.offered()?, nonce: from.nonce()? },
            2 => Self::Opened { probe: from.offered()?, nonce: from.nonce()? },
            3 => Self::Ready,
            4 => Self::Refused { text: from.text()? },
            5 => Self::Ask { region: from.region()? },
            6 => Self::Answer(from.offered()?),
            7 => Self::Deny { region: from.region()?, kind: kind(from.u8()?), text: from.text()? },
            8 => Self::Withdraw { region: from.region()? },
            9 => Self::Withdrawn { region: from.region()? },
            10 => Self::Confirm { sequence: from.u64()?, grants: from.grants()? },
            11 => Self::Confirmed { sequence: from.u64()?, open: from.bits()? },
            12 => Self::Fence { grant: GrantId::from_bits(from.u64()?) },
            13 => Self::Fenced { grant: GrantId::from_bits(from.u64()?) },
            14 => Self::Closing,
            15 => Self::Quiet,
            _ => return Err(Malformed("an unknown kind")),
        };
        if from.0.is_empty() { Ok(message) } else { Err(Malformed("bytes after the end")) }
    }
}

fn put_offered(out: &mut BytesMut, offered: &Offered) {
    out.put_u64_le(offered.region.to_bits());
    out.put_u64_le(offered.len);
    debug_assert!(offered.description.len() <= DESCRIPTION_MAX, "checked where it was made");
    out.put_u16_le(offered.description.len() as u16);
    out.put_slice(&offered.description);
}

fn put_text(out: &mut BytesMut, text: &str) {
    let end = (0..=text.len().min(TEXT_MAX)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

const KINDS: [ErrorKind; 9] = [
    ErrorKind::Closed,
    ErrorKind::Denied,
    ErrorKind::Unsupported,
    ErrorKind::Resource,
    ErrorKind::Full,
    ErrorKind::StaleLease,
    ErrorKind::ApiMisuse,
    ErrorKind::TimedOut,
    ErrorKind::Internal,
];

fn number(kind: ErrorKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1) as u8
}

fn kind(number: u8) -> ErrorKind {
    KINDS.get(usize::from(number)).copied().unwrap_or(ErrorKind::Internal)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn region(&mut self) -> Result<RegionId, Malformed> {
        Ok(RegionId::from_bits(self.u64()?))
    }

    fn nonce(&mut self) -> Result<[u8; NONCE_BYTES], Malformed> {
        self.array()
    }

    fn offered(&mut self) -> Result<Offered, Malformed> {
        let (region, len) = (self.region()?, self.u64()?);
        let count = usize::from(self.u16()?);
        if len == 0 || count > DESCRIPTION_MAX {
            return Err(Malformed("a region without bytes, or with too long a description"));
        }
        Ok(Offered { region, len, description: Bytes::copy_from_slice(self.take(count)?) })
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let count = usize::from(self.u16()?);
        if count > TEXT_MAX {
            return Err(Malformed("too long a text"));
        }
        let text =
            std::str::from_utf8(self.take(count)?).map_err(|_| Malformed("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn grants(&mut self) -> Result<Vec<GrantId>, Malformed> {
        let count = usize::from(self.u16()?);
        if count == 0 || count > CONFIRM_MAX {
            return Err(Malformed("no grant, or too many"));
        }
        let bytes = self.take(count * 8)?;
        let grant = |word: &[u8]| u64::from_le_bytes(word.try_into().expect("chunks of eight"));
        Ok(bytes.chunks_exact(8).map(|word| GrantId::from_bits(grant(word))).collect())
    }

    fn bits(&mut self) -> Result<Vec<bool>, Malformed> {
        let count = usize::from(self.u16()?);
        if count == 0 || count > CONFIRM_MAX {
            return Err(Malformed("no answer, or too many"));
        }
        let bytes = self.take(count.div_ceil(8))?;
        Ok((0..count).map(|bit| bytes[bit / 8] & 1 << (bit % 8) != 0).collect())
    }
}

/// Takes any bytes for a message: what is understood is said the same.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants() -> impl Strategy<Value = Vec<GrantId>> {
        proptest::collection::vec(any::<u64>().prop_map(GrantId::from_bits), 1..=CONFIRM_MAX)
    }

    fn offered() -> impl Strategy<Value = Offered> {
        let description = proptest::collection::vec(any::<u8>(), 0..=DESCRIPTION_MAX);
        (any::<u64>(), 1..u64::MAX, description).prop_map(|(region, len, description)| Offered {
            region: RegionId::from_bits(region),
            len,
            description: description.into(),
        })
    }

    fn nonce() -> impl Strategy<Value = [u8; NONCE_BYTES]> {
        any::<[u8; 32]>().prop_map(|half| std::array::from_fn(|i| half[i % 32] ^ i as u8))
    }

    fn message() -> impl Strategy<Value = Message> {
        let region = || any::<u64>().prop_map(RegionId::from_bits);
        let grant = || any::<u64>().prop_map(GrantId::from_bits);
        let text = || "[a-zåäö ]{0,300}";
        prop_oneof![
            (offered(), nonce()).prop_map(|(probe, nonce)| Message::Open { probe, nonce }),
            (offered(), nonce()).prop_map(|(probe, nonce)| Message::Opened { probe, nonce }),
            Just(Message::Ready),
            text().prop_map(|text| Message::Refused { text }),
            region().prop_map(|region| Message::Ask { region }),
            offered().prop_map(Message::Answer),
            (region(), 0..KINDS.len(), text()).prop_map(|(region, kind, text)| Message::Deny {
                region,
                kind: KINDS[kind],
                text
            }),
            region().prop_map(|region| Message::Withdraw { region }),
            region().prop_map(|region| Message::Withdrawn { region }),
            (any::<u64>(), grants()).prop_map(|(sequence, grants)| Message::Confirm { sequence, grants }),
            (any::<u64>(), proptest::collection::vec(any::<bool>(), 1..=CONFIRM_MAX))
                .prop_map(|(sequence, open)| Message::Confirmed { sequence, open }),
            grant().prop_map(|grant| Message::Fence { grant }),
            grant().prop_map(|grant| Message::Fenced { grant }),
            Just(Message::Closing),
            Just(Message::Quiet),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_what_is_heard(message in message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_LINK_MESSAGE_BYTES);
            prop_assert_eq!(Message::decode(&bytes), Ok(message.clone()));
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                prop_assert!(Message::decode(&bytes[..cut]).is_err());
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            prop_assert!(Message::decode(&longer).is_err());
        }

        #[test]
        fn no_bytes_of_a_peer_panic_and_what_passes_is_said_the_same(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            kind in 0..20_u8,
        ) {
            if let [first, second, ..] = &mut bytes[..] {
                (*first, *second) = (VERSION, kind);
            }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_letter() {
        let text = "ä".repeat(TEXT_MAX);
        let said = Message::Refused { text }.encode();
        let Ok(Message::Refused { text }) = Message::decode(&said) else { panic!("it is a refusal") };
        assert_eq!(text, "ä".repeat(TEXT_MAX / 2));
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = Message::Ready.encode().to_vec();
        bytes[0] = VERSION + 1;
        assert_eq!(Message::decode(&bytes), Err(Malformed("another version")));
    }
}
