//! The messages of the control session.

use bytes::{BufMut, Bytes, BytesMut};

use super::{BlockSpans, Hello, Hidden, LeaseName, Reader, WireError};
use crate::layout::{LayoutDigest, MAX_NAME_BYTES};
use crate::{CacheId, GrantId, Rights};
use std::sync::Arc;

/// Characters of a reason in words.
pub const MAX_TEXT_BYTES: usize = 512;
/// Characters of a note's name.
pub const MAX_NOTE_NAME_BYTES: usize = 64;
/// Bytes of a note.
pub const MAX_NOTE_BYTES: usize = 262_144;
/// Bytes of one message between the two sides of a link.
pub const MAX_LINK_BYTES: usize = 32_768;

/// Why a peer said no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Why {
    /// No protocol version in common.
    Version = 1,
    /// The engine that was meant is gone; this one is its successor.
    StaleIncarnation = 2,
    /// A limit is reached.
    Full = 3,
    /// The lease or cache is of the past.
    Stale = 4,
    /// A wrong secret, or no right.
    Denied = 5,
    /// There is no such cache.
    NotFound = 6,
    /// The engine or session is closing.
    Closed = 7,
    /// The peer broke the protocol.
    Protocol = 8,
    /// Something else; the text tells.
    Other = 9,
    /// The peer fell silent while leases were held.
    Silent = 10,
}

impl Why {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Version,
            2 => Self::StaleIncarnation,
            3 => Self::Full,
            4 => Self::Stale,
            5 => Self::Denied,
            6 => Self::NotFound,
            7 => Self::Closed,
            8 => Self::Protocol,
            9 => Self::Other,
            10 => Self::Silent,
            value => {
                return Err(WireError::Unknown { what: "reason", value: value.into() });
            }
        })
    }

    /// The kind of error that a caller sees.
    pub fn kind(self) -> crate::ErrorKind {
        use crate::ErrorKind as Kind;
        match self {
            Self::Version => Kind::Mismatch,
            Self::StaleIncarnation | Self::Silent => Kind::PeerGone,
            Self::Full => Kind::Full,
            Self::Stale => Kind::StaleLease,
            Self::Denied => Kind::Denied,
            Self::NotFound => Kind::Mismatch,
            Self::Closed => Kind::Closed,
            Self::Protocol => Kind::Protocol,
            Self::Other => Kind::LinkLost,
        }
    }
}

/// What a claim gives: the lease as its importer sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimInfo {
    /// The lease.
    pub grant: GrantId,
    /// The cache whose blocks it covers.
    pub cache: CacheId,
    /// What it allows.
    pub rights: Rights,
    /// How long it lives without a renewal, in milliseconds.
    pub ttl_ms: u32,
    /// The blocks.
    pub blocks: Arc<BlockSpans>,
}

/// A cache as its owner describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheInfo {
    /// The cache.
    pub cache: CacheId,
    /// Counts the owner's publications; a higher one is newer.
    pub version: u64,
    /// Digest of the cache's shape.
    pub digest: LayoutDigest,
    /// The layout in its own wire form; empty when the asker named the same publication.
    pub layout: Bytes,
}

/// A message of the control session. `docs/PROTOCOL.md` has the byte layouts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each variant says what its fields are; docs/PROTOCOL.md has them one by one"
)]
pub enum Message {
    /// First message of the connecting side.
    Hello(Hello),
    /// Answer of the accepting side: the version chosen, and its own introduction.
    HelloAck(u8, Hello),
    /// The accepting side will not talk.
    Refuse(Why, String),
    /// Asks to hold a lease.
    Claim { request: u32, cache: CacheId, grant: GrantId, secret: Hidden<u128> },
    /// The asker holds the lease.
    Claimed { request: u32, info: ClaimInfo },
    /// The request of that number is refused.
    Refused { request: u32, why: Why, text: String },
    /// The importer's word that nothing it started touches the blocks any more.
    Release { grant: GrantId },
    /// The owner ends the lease; `Release` is expected when the importer's transfers are quiet.
    Revoked { grant: GrantId },
    /// Renews all leases that the sender holds of the receiver.
    Heartbeat { sequence: u64 },
    /// The renewal of that number was counted.
    HeartbeatAck { sequence: u64 },
    /// Asks for a cache by name; the layout is left out of the answer when the cache is `known`.
    Lookup { request: u32, name: String, known: Option<CacheId> },
    /// The cache.
    Found { request: u32, info: CacheInfo },
    /// A cache that the receiver has looked up was published anew (`live`) or withdrawn.
    CacheChanged { cache: CacheId, version: u64, live: bool, name: String },
    /// Something that the lease's holder counts by sequence has arrived, or has failed.
    Notify { grant: GrantId, sequence: u32, failed: bool },
    /// A notification was not counted.
    NotifyRefused { grant: GrantId, sequence: u32, why: Why },
    /// The sender is about to make a data link and has drawn its key.
    LinkOpen { link: u32, kind: u8, key: Hidden<[u8; 32]> },
    /// The receiver of `LinkOpen` waits for the sender.
    LinkReady { link: u32 },
    /// The link is not to be had, or no more.
    LinkFailed { link: u32, text: String },
    /// What one side of a link says to the other; only their transport knows what it means.
    LinkSay { link: u32, bytes: Bytes },
    /// The sender ends the session.
    Goodbye(Why, String),
    /// The importer no longer uses the lease but cannot vouch that the blocks are quiet: no `Release`. The owner ends the
    /// lease and finds its own proof.
    Forsake { grant: GrantId },
    /// Asks for the lease of that name; `holders` is how many peers will claim it, where the owner does not know.
    Find { request: u32, name: LeaseName, holders: u32 },
    /// The lease of the name asked for: to be claimed with the name's secret.
    Located { request: u32, cache: CacheId, grant: GrantId },
    /// Asks for a note of the receiver.
    ReadNote { request: u32, name: String },
    /// The note.
    Note { request: u32, bytes: Bytes },
}

impl Message {
    /// Whether it belongs to the handshake, whose layout is frozen.
    pub fn is_handshake(&self) -> bool {
        matches!(self, Self::Hello(_) | Self::HelloAck(..) | Self::Refuse(..))
    }

    /// Its number on the wire.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::HelloAck(..) => 2,
            Self::Refuse(..) => 3,
            Self::Claim { .. } => 16,
            Self::Claimed { .. } => 17,
            Self::Refused { .. } => 18,
            Self::Release { .. } => 19,
            Self::Revoked { .. } => 20,
            Self::Heartbeat { .. } => 21,
            Self::HeartbeatAck { .. } => 22,
            Self::Lookup { .. } => 23,
            Self::Found { .. } => 24,
            Self::CacheChanged { .. } => 25,
            Self::Notify { .. } => 26,
            Self::NotifyRefused { .. } => 27,
            Self::LinkOpen { .. } => 28,
            Self::LinkReady { .. } => 29,
            Self::LinkFailed { .. } => 30,
            Self::Goodbye(..) => 31,
            Self::Forsake { .. } => 32,
            Self::LinkSay { .. } => 33,
            Self::Find { .. } => 34,
            Self::Located { .. } => 35,
            Self::ReadNote { .. } => 36,
            Self::Note { .. } => 37,
        }
    }

    /// Bytes that the message's frame takes, or a little more. Only three kinds grow with what an engine holds; the rest
    /// stays below the smallest `control_frame_bytes` that limits allow.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        match self {
            Self::Claimed { info, .. } => {
                128 + info.blocks.0.iter().map(|spans| 4 + 8 * spans.len() as u64).sum::<u64>()
            }
            Self::Found { info, .. } => 128 + info.layout.len() as u64,
            Self::Note { bytes, .. } => 128 + bytes.len() as u64,
            _ => 65_536,
        }
    }

    pub(super) fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::HelloAck(version, hello) => {
                out.put_u8(*version);
                hello.encode(out);
            }
            Self::Refuse(why, text) | Self::Goodbye(why, text) => {
                out.put_u8(*why as u8);
                put_text(out, text, MAX_TEXT_BYTES);
            }
            Self::Claim { request, cache, grant, secret } => {
                out.put_u32_le(*request);
                out.put_u64_le(cache.to_bits());
                out.put_u64_le(grant.to_bits());
                out.put_u128_le(secret.0);
            }
            Self::Claimed { request, info } => {
                out.put_u32_le(*request);
                info.encode(out);
            }
            Self::Refused { request, why, text } => {
                out.put_u32_le(*request);
                out.put_u8(*why as u8);
                put_text(out, text, MAX_TEXT_BYTES);
            }
            Self::Release { grant } | Self::Revoked { grant } | Self::Forsake { grant } => {
                out.put_u64_le(grant.to_bits());
            }
            Self::Heartbeat { sequence } | Self::HeartbeatAck { sequence } => out.put_u64_le(*sequence),
            Self::Lookup { request, name, known } => {
                out.put_u32_le(*request);
                put_text(out, name, MAX_NAME_BYTES);
                out.put_u64_le(known.map_or(0, |cache| cache.to_bits()));
            }
            Self::Found { request, info } => {
                out.put_u32_le(*request);
                info.encode(out);
            }
            Self::CacheChanged { cache, version, live, name } => {
                out.put_u64_le(cache.to_bits());
                out.put_u64_le(*version);
                out.put_u8((*live).into());
                put_text(out, name, MAX_NAME_BYTES);
            }
            Self::Notify { grant, sequence, failed } => {
                out.put_u64_le(grant.to_bits());
                out.put_u32_le(*sequence);
                out.put_u8((*failed).into());
            }
            Self::NotifyRefused { grant, sequence, why } => {
                out.put_u64_le(grant.to_bits());
                out.put_u32_le(*sequence);
                out.put_u8(*why as u8);
            }
            Self::Find { .. } | Self::Located { .. } | Self::ReadNote { .. } | Self::Note { .. } => {
                self.encode_search(out);
            }
            Self::LinkOpen { .. }
            | Self::LinkReady { .. }
            | Self::LinkSay { .. }
            | Self::LinkFailed { .. } => {
                self.encode_link(out);
            }
        }
    }

    fn encode_search(&self, out: &mut BytesMut) {
        match self {
            Self::Find { request, name, holders } => {
                out.put_u32_le(*request);
                out.put_u64_le(name.key);
                out.put_u128_le(name.secret);
                out.put_u32_le(*holders);
            }
            Self::Located { request, cache, grant } => {
                out.put_u32_le(*request);
                out.put_u64_le(cache.to_bits());
                out.put_u64_le(grant.to_bits());
            }
            Self::ReadNote { request, name } => {
                out.put_u32_le(*request);
                put_text(out, name, MAX_NOTE_NAME_BYTES);
            }
            Self::Note { request: number, bytes } => put_numbered(out, *number, bytes),
            _ => unreachable!("{} is no search", self.kind()),
        }
    }

    fn encode_link(&self, out: &mut BytesMut) {
        match self {
            Self::LinkOpen { link, kind, key } => {
                out.put_u32_le(*link);
                out.put_u8(*kind);
                out.put_slice(&key.0);
            }
            Self::LinkReady { link } => out.put_u32_le(*link),
            Self::LinkSay { link, bytes } => put_numbered(out, *link, bytes),
            Self::LinkFailed { link, text } => {
                out.put_u32_le(*link);
                put_text(out, text, MAX_TEXT_BYTES);
            }
            _ => unreachable!("{} is nothing of a link", self.kind()),
        }
    }

    pub(super) fn decode_body(kind: u8, from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            1 => Self::Hello(Hello::decode(from)?),
            2 => Self::HelloAck(from.u8()?, Hello::decode(from)?),
            3 => Self::Refuse(Why::from_byte(from.u8()?)?, reason(from)?),
            16 => Self::Claim {
                request: from.u32()?,
                cache: from.cache()?,
                grant: from.grant()?,
                secret: Hidden(from.u128()?),
            },
            17 => Self::Claimed { request: from.u32()?, info: ClaimInfo::decode(from)? },
            18 => {
                Self::Refused { request: from.u32()?, why: Why::from_byte(from.u8()?)?, text: reason(from)? }
            }
            19 => Self::Release { grant: from.grant()? },
            20 => Self::Revoked { grant: from.grant()? },
            21 => Self::Heartbeat { sequence: from.u64()? },
            22 => Self::HeartbeatAck { sequence: from.u64()? },
            23 => Self::Lookup {
                request: from.u32()?,
                name: from.text("cache name", MAX_NAME_BYTES)?.to_owned(),
                known: match from.u64()? {
                    0 => None,
                    bits => Some(CacheId::from_bits(bits)),
                },
            },
            24 => Self::Found { request: from.u32()?, info: CacheInfo::decode(from)? },
            25 => Self::CacheChanged {
                cache: from.cache()?,
                version: from.u64()?,
                live: from.bool("cache flag")?,
                name: from.text("cache name", MAX_NAME_BYTES)?.to_owned(),
            },
            26 => Self::Notify {
                grant: from.grant()?,
                sequence: from.u32()?,
                failed: from.bool("notification flag")?,
            },
            27 => Self::NotifyRefused {
                grant: from.grant()?,
                sequence: from.u32()?,
                why: Why::from_byte(from.u8()?)?,
            },
            28 => Self::LinkOpen { link: from.u32()?, kind: from.u8()?, key: Hidden(from.array()?) },
            29 => Self::LinkReady { link: from.u32()? },
            30 => Self::LinkFailed { link: from.u32()?, text: reason(from)? },
            33 => Self::LinkSay {
                link: from.u32()?,
                bytes: Bytes::copy_from_slice(from.bytes("link message", MAX_LINK_BYTES)?),
            },
            31 => Self::Goodbye(Why::from_byte(from.u8()?)?, reason(from)?),
            32 => Self::Forsake { grant: from.grant()? },
            34..=37 => Self::decode_search(kind, from)?,
            value => {
                return Err(WireError::Unknown { what: "message kind", value: value.into() });
            }
        })
    }

    fn decode_search(kind: u8, from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            34 => Self::Find {
                request: from.u32()?,
                name: LeaseName { key: from.u64()?, secret: from.u128()? },
                holders: from.u32()?,
            },
            35 => Self::Located { request: from.u32()?, cache: from.cache()?, grant: from.grant()? },
            36 => Self::ReadNote {
                request: from.u32()?,
                name: from.text("note name", MAX_NOTE_NAME_BYTES)?.to_owned(),
            },
            _ => Self::Note {
                request: from.u32()?,
                bytes: Bytes::copy_from_slice(from.bytes("note", MAX_NOTE_BYTES)?),
            },
        })
    }
}

fn reason(from: &mut Reader<'_>) -> Result<String, WireError> {
    Ok(from.text("reason", MAX_TEXT_BYTES)?.to_owned())
}

fn put_numbered(out: &mut BytesMut, number: u32, bytes: &Bytes) {
    out.put_u32_le(number);
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// Writes a u16 length and the text, cut at a character when it is longer than `limit`.
pub(super) fn put_text(out: &mut BytesMut, text: &str, limit: usize) {
    let cut = (0..=text.len().min(limit)).rfind(|&at| text.is_char_boundary(at)).unwrap_or(0);
    out.put_u16_le(cut as u16);
    out.put_slice(&text.as_bytes()[..cut]);
}

impl ClaimInfo {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.grant.to_bits());
        out.put_u64_le(self.cache.to_bits());
        out.put_u8(match self.rights {
            Rights::Read => 1,
            Rights::Write => 2,
        });
        out.put_u32_le(self.ttl_ms);
        self.blocks.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            grant: from.grant()?,
            cache: from.cache()?,
            rights: match from.u8()? {
                1 => Rights::Read,
                2 => Rights::Write,
                value => {
                    return Err(WireError::Unknown { what: "rights", value: value.into() });
                }
            },
            ttl_ms: from.u32()?,
            blocks: Arc::new(BlockSpans::decode(from)?),
        })
    }
}

impl CacheInfo {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.cache.to_bits());
        out.put_u64_le(self.version);
        out.put_slice(&self.digest.0);
        out.put_u32_le(self.layout.len() as u32);
        out.put_slice(&self.layout);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            cache: from.cache()?,
            version: from.u64()?,
            digest: LayoutDigest(from.array()?),
            // The frame's own cap bounds the layout.
            layout: Bytes::copy_from_slice(from.bytes("layout", u32::MAX as usize)?),
        })
    }
}
