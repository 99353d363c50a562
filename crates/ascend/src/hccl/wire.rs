//! What the two sides of a link say to each other over the session.
//!
//! Little endian; byte 0 is the kind. Everything from the peer is checked here or, where it depends on what is under way,
//! by the [worker](super::worker).

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::wire::{Reader, WireError};
use ropeway_core::{GrantId, Op, StatusKind};

/// Bytes of `HcclRootInfo`.
pub(super) const ROOT_BYTES: usize = 4_108;
/// Copies of one round, at most.
pub(super) const ROUND_ITEMS: usize = 256;
/// Plan bytes of one message, at most.
pub(super) const PLAN_PIECE: usize = 16_384;
/// Plan bytes of one batch, at most.
pub(super) const PLAN_BYTES_MAX: usize = 4 << 20;
/// Bytes of a text, at most; longer ones are cut when they are said.
const TEXT_MAX: usize = 1_024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// Rank 0 holds its NPU's turn: here is the communicator's root.
    Root(Box<[u8; ROOT_BYTES]>),
    /// Rank 1 holds its NPU's turn, too: both initialise now.
    Ready,
    /// The sender's probe arrived.
    Up,
    /// There will be no link.
    Refused(String),
    /// A piece of a batch's plan, in order; `total` bytes in all.
    Plan { batch: u64, total: u32, piece: Bytes },
    /// Serve these bytes of the plan, as copies of these lengths.
    Ask { batch: u64, op: Op, grant: GrantId, start: u64, lens: Vec<u32> },
    /// The round is not to be had, and the batch ends.
    Declined { batch: u64, why: StatusKind },
    /// From rank 1: the round that rank 0 asked for can be posted.
    Accept { batch: u64 },
    /// From rank 0: it has posted this round; `mine` when it asked for it.
    Post { batch: u64, mine: bool },
    /// The owner's side of the round is done.
    Ended { batch: u64 },
    /// The batch is over: its plan can be forgotten.
    Forget { batch: u64 },
    /// The communicator cannot be used any more.
    Broken(String),
    /// The sender begins nothing any more.
    Closing,
}

/// Status kinds that a refusal can carry, with their numbers.
const REFUSALS: [(u8, StatusKind); 6] = [
    (1, StatusKind::Denied),
    (2, StatusKind::StaleLease),
    (3, StatusKind::PeerFull),
    (4, StatusKind::Closed),
    (5, StatusKind::Protocol),
    (6, StatusKind::PeerUnmapped),
];

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Self::Root(root) => {
                out.put_u8(1);
                out.put_slice(&root[..]);
            }
            Self::Ready => out.put_u8(2),
            Self::Up => out.put_u8(3),
            Self::Refused(text) => put_text(&mut out, 4, text),
            Self::Plan { batch, total, piece } => {
                out.put_u8(5);
                out.put_u64_le(*batch);
                out.put_u32_le(*total);
                out.put_slice(piece);
            }
            Self::Ask { batch, op, grant, start, lens } => {
                out.put_u8(6);
                out.put_u64_le(*batch);
                out.put_u8((*op == Op::Write).into());
                out.put_u64_le(grant.to_bits());
                out.put_u64_le(*start);
                lens.iter().for_each(|len| out.put_u32_le(*len));
            }
            Self::Declined { batch, why } => {
                out.put_u8(7);
                out.put_u64_le(*batch);
                let known = REFUSALS.iter().find(|(_, kind)| kind == why);
                out.put_u8(known.map_or(1, |(number, _)| *number));
            }
            Self::Accept { batch } => put_batch(&mut out, 8, *batch),
            Self::Post { batch, mine } => {
                put_batch(&mut out, 9, *batch);
                out.put_u8((*mine).into());
            }
            Self::Ended { batch } => put_batch(&mut out, 10, *batch),
            Self::Forget { batch } => put_batch(&mut out, 11, *batch),
            Self::Broken(text) => put_text(&mut out, 12, text),
            Self::Closing => out.put_u8(13),
        }
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader::new(bytes);
        let message = match from.u8()? {
            1 => Self::Root(Box::new(from.array()?)),
            2 => Self::Ready,
            3 => Self::Up,
            4 => Self::Refused(text(&mut from)?),
            5 => {
                let (batch, total) = (from.u64()?, from.u32()?);
                let left = from.left();
                let fits =
                    (1..=PLAN_PIECE).contains(&left) && (left..=PLAN_BYTES_MAX).contains(&(total as usize));
                if !fits {
                    return Err(WireError::Value { what: "piece of a plan" });
                }
                Self::Plan { batch, total, piece: Bytes::copy_from_slice(from.take(left)?) }
            }
            6 => ask(&mut from)?,
            7 => {
                let (batch, number) = (from.u64()?, from.u8()?);
                let known = REFUSALS.iter().find(|(known, _)| *known == number);
                Self::Declined { batch, why: known.map_or(StatusKind::Denied, |(_, kind)| *kind) }
            }
            8 => Self::Accept { batch: from.u64()? },
            9 => Self::Post { batch: from.u64()?, mine: from.bool("side of a round")? },
            10 => Self::Ended { batch: from.u64()? },
            11 => Self::Forget { batch: from.u64()? },
            12 => Self::Broken(text(&mut from)?),
            13 => Self::Closing,
            value => return Err(WireError::Unknown { what: "message of an hccl link", value: value.into() }),
        };
        from.finish()?;
        Ok(message)
    }
}

fn ask(from: &mut Reader<'_>) -> Result<Message, WireError> {
    let batch = from.u64()?;
    let op = if from.bool("direction")? { Op::Write } else { Op::Read };
    let (grant, start) = (from.grant()?, from.u64()?);
    let count = from.left() / 4;
    if !(1..=ROUND_ITEMS).contains(&count) {
        return Err(WireError::Value { what: "number of copies of a round" });
    }
    let lens = (0..count).map(|_| from.u32()).collect::<Result<Vec<_>, _>>()?;
    let sum = lens.iter().try_fold(start, |sum, len| sum.checked_add(u64::from(*len)));
    if lens.contains(&0) || sum.is_none() {
        return Err(WireError::Value { what: "length of a copy" });
    }
    Ok(Message::Ask { batch, op, grant, start, lens })
}

fn put_batch(out: &mut BytesMut, kind: u8, batch: u64) {
    out.put_u8(kind);
    out.put_u64_le(batch);
}

fn put_text(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

fn text(from: &mut Reader<'_>) -> Result<String, WireError> {
    Ok(from.text("text", TEXT_MAX)?.to_owned())
}

/// Takes any bytes for a message: what is understood is said the same.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}
