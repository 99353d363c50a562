//! The side channel's messages. Decoders take any bytes and never panic; a message has exactly its length.

use ropeway_core::{ErrorKind, RegionId};

pub(super) const MAGIC: [u8; 4] = *b"RWHC";
pub(super) const VERSION: u16 = 1;
/// Bytes of the longest reason.
const REASON_MAX: usize = 512;

/// What one side tells of itself; its descriptors are the fence and the cells, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) gates: u32,
    pub(super) grants: u32,
    /// The receiver's gate in the sender's fence.
    pub(super) gate_slot: u32,
    pub(super) gate_generation: u32,
    /// Where the sender's guard words lie in its address space.
    pub(super) guard: u64,
}

/// What one side read of the other's memory, to prove that it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    pub(super) fence: u64,
    pub(super) cells: u64,
    /// 0 where the kernel does not copy.
    pub(super) guard: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// Active: which link, and a fresh nonce.
    Hello { kind: u8, tag: [u8; 16], nonce: [u8; 32] },
    /// Passive: a fresh nonce, its facts; both descriptors.
    Challenge { nonce: [u8; 32], facts: Facts, mac: [u8; 32] },
    /// Active: its facts and its probe; both descriptors.
    Proof { facts: Facts, probe: Probe, mac: [u8; 32] },
    /// Passive: its probe. The link is open.
    Ready { probe: Probe, mac: [u8; 32] },
    /// Either: no link, and why.
    Refused { reason: String },
    /// Asks for a region of the receiver.
    Import { request: u32, region: RegionId },
    /// The region: mapped from the descriptor that comes along, or copied at the address.
    Imported { request: u32, len: u64, address: u64, writable: bool },
    /// Not to be had.
    Denied { request: u32, kind: u8, reason: String },
    /// The sender's region is closing: let go of it.
    Withdraw { region: RegionId },
    /// The sender let go of one import.
    Released { region: RegionId },
    /// The sender ends the link.
    Goodbye,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Hello { kind, tag, nonce } => {
                out.push(1);
                out.extend(MAGIC);
                out.extend(VERSION.to_le_bytes());
                out.push(*kind);
                out.extend(tag);
                out.extend(nonce);
            }
            Self::Challenge { nonce, facts, mac } => {
                out.push(2);
                out.extend(nonce);
                facts.encode(&mut out);
                out.extend(mac);
            }
            Self::Proof { facts, probe, mac } => {
                out.push(3);
                facts.encode(&mut out);
                probe.encode(&mut out);
                out.extend(mac);
            }
            Self::Ready { probe, mac } => {
                out.push(4);
                probe.encode(&mut out);
                out.extend(mac);
            }
            Self::Refused { reason } => {
                out.push(5);
                text(reason, &mut out);
            }
            Self::Import { request, region } => {
                out.push(6);
                out.extend(request.to_le_bytes());
                out.extend(region.to_bits().to_le_bytes());
            }
            Self::Imported { request, len, address, writable } => {
                out.push(7);
                out.extend(request.to_le_bytes());
                out.extend(len.to_le_bytes());
                out.extend(address.to_le_bytes());
                out.push(u8::from(*writable));
            }
            Self::Denied { request, kind, reason } => {
                out.push(8);
                out.extend(request.to_le_bytes());
                out.push(*kind);
                text(reason, &mut out);
            }
            Self::Withdraw { region } => {
                out.push(9);
                out.extend(region.to_bits().to_le_bytes());
            }
            Self::Released { region } => {
                out.push(10);
                out.extend(region.to_bits().to_le_bytes());
            }
            Self::Goodbye => out.push(11),
        }
        out
    }

    /// `None` for anything that is not exactly one message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let mut rest = Reader(rest);
        let message = match kind {
            1 => {
                if rest.take::<4>()? != MAGIC || u16::from_le_bytes(rest.take()?) != VERSION {
                    return None;
                }
                Self::Hello { kind: rest.take::<1>()?[0], tag: rest.take()?, nonce: rest.take()? }
            }
            2 => Self::Challenge { nonce: rest.take()?, facts: rest.facts()?, mac: rest.take()? },
            3 => Self::Proof { facts: rest.facts()?, probe: rest.probe()?, mac: rest.take()? },
            4 => Self::Ready { probe: rest.probe()?, mac: rest.take()? },
            5 => Self::Refused { reason: rest.text()? },
            6 => Self::Import { request: rest.u32()?, region: rest.region()? },
            7 => Self::Imported {
                request: rest.u32()?,
                len: rest.u64()?,
                address: rest.u64()?,
                writable: rest.bool()?,
            },
            8 => Self::Denied { request: rest.u32()?, kind: rest.take::<1>()?[0], reason: rest.text()? },
            9 => Self::Withdraw { region: rest.region()? },
            10 => Self::Released { region: rest.region()? },
            11 => Self::Goodbye,
            _ => return None,
        };
        rest.0.is_empty().then_some(message)
    }
}

impl Facts {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.gates, self.grants, self.gate_slot, self.gate_generation] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.guard.to_le_bytes());
    }
}

impl Probe {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.fence, self.cells, self.guard] {
            out.extend(word.to_le_bytes());
        }
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    let text = text.replace(char::is_control, " ");
    let mut end = text.len().min(REASON_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend((end as u16).to_le_bytes());
    out.extend(&text.as_bytes()[..end]);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take()?))
    }

    fn region(&mut self) -> Option<RegionId> {
        Some(RegionId::from_bits(self.u64()?))
    }

    fn facts(&mut self) -> Option<Facts> {
        Some(Facts {
            gates: self.u32()?,
            grants: self.u32()?,
            gate_slot: self.u32()?,
            gate_generation: self.u32()?,
            guard: self.u64()?,
        })
    }

    fn probe(&mut self) -> Option<Probe> {
        Some(Probe { fence: self.u64()?, cells: self.u64()?, guard: self.u64()? })
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        if len > REASON_MAX {
            return None;
        }
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        // It ends in logs: no control characters.
        String::from_utf8(text.to_vec()).ok().filter(|text| !text.contains(char::is_control))
    }

    fn bool(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

/// The error kinds that an owner may answer with.
const KINDS: [ErrorKind; 6] = [
    ErrorKind::Closed,
    ErrorKind::Denied,
    ErrorKind::StaleLease,
    ErrorKind::Unsupported,
    ErrorKind::Full,
    ErrorKind::Resource,
];

pub(super) fn kind_code(kind: ErrorKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u8
}

pub(super) fn code_kind(code: u8) -> ErrorKind {
    KINDS.get(usize::from(code)).copied().unwrap_or(ErrorKind::Closed)
}

/// Takes any bytes for a message: what is accepted has one form.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
        assert!(bytes.len() <= super::socket::MESSAGE_MAX);
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> Vec<Message> {
        let facts = Facts { gates: 4, grants: 9, gate_slot: 2, gate_generation: 7, guard: 1 << 40 };
        let probe = Probe { fence: 1, cells: 2, guard: 3 };
        let region = RegionId { slot: 3, generation: 1 };
        vec![
            Message::Hello { kind: 1, tag: [7; 16], nonce: [8; 32] },
            Message::Challenge { nonce: [1; 32], facts, mac: [2; 32] },
            Message::Proof { facts, probe, mac: [3; 32] },
            Message::Ready { probe, mac: [4; 32] },
            Message::Refused { reason: "no right to read process 7".into() },
            Message::Import { request: 9, region },
            Message::Imported { request: 9, len: 4096, address: 1 << 46, writable: true },
            Message::Denied { request: 9, kind: 1, reason: "region 3.1 is closing".into() },
            Message::Withdraw { region },
            Message::Released { region },
            Message::Goodbye,
        ]
    }

    #[test]
    fn a_message_comes_back_as_it_was_and_no_prefix_or_longer_one_does() {
        for message in messages() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).as_ref(), Some(&message));
            for cut in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..cut]), None, "{message:?} cut to {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Message::decode(&longer), None, "{message:?} with a byte more");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_decoded_to_what_encodes_within_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in 1u8..=12,
        ) {
            let bytes = [&[kind][..], &bytes].concat();
            if let Some(message) = Message::decode(&bytes) {
                prop_assert!(bytes.len() <= super::super::socket::MESSAGE_MAX);
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
