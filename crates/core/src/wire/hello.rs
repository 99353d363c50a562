//! How an engine introduces itself. The layout is frozen: it is what versions are negotiated with.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::put_text;
use super::{Reader, WireError};
use crate::Incarnation;

/// Characters of a build's version string.
pub const MAX_BUILD_BYTES: usize = 64;
/// Bytes of one transport's offer.
pub const MAX_OFFER_BYTES: usize = 2_048;
/// Transports that one engine may offer.
pub const MAX_OFFERS: usize = 16;

/// Where an engine's process runs. Equal values are a hint that a same-host transport may work, never a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostIdentity {
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Inode of the network namespace; 0 when unknown.
    pub net_namespace: u64,
    /// Inode of the pid namespace; 0 when unknown.
    pub pid_namespace: u64,
    /// The process, in its own pid namespace.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
}

/// What an engine accepts from the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerLimits {
    /// Longest control frame.
    pub control_frame_bytes: u32,
    /// Grants that the peer may hold of this engine.
    pub grants_per_peer: u32,
    /// Requests that this engine serves for the peer at a time.
    pub served_requests: u32,
    /// Bytes that this engine serves for the peer at a time.
    pub served_bytes: u64,
    /// Pause between this engine's heartbeats while it holds grants.
    pub heartbeat_ms: u32,
}

/// One transport's endpoint facts; only that transport knows what they mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which transport, as `docs/PROTOCOL.md` numbers them. Unknown ones are skipped by the receiver.
    pub kind: u8,
    /// Its facts.
    pub bytes: Bytes,
}

/// How an engine introduces itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub version_min: u8,
    /// Newest protocol version it speaks.
    pub version_max: u8,
    /// Its life.
    pub incarnation: Incarnation,
    /// The life of the other engine that it wants to talk to, where the descriptor told.
    pub expects: Option<Incarnation>,
    /// Optional abilities, a bit each; unknown bits are ignored.
    pub capabilities: u64,
    /// Where it runs.
    pub host: HostIdentity,
    /// Its build, for people: `ropeway 0.1.0 (abc1234)`.
    pub build: String,
    /// What it accepts.
    pub limits: PeerLimits,
    /// Its transports, best first.
    pub offers: Vec<Offer>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u64_le(self.incarnation.get());
        out.put_u64_le(self.expects.map_or(0, Incarnation::get));
        out.put_u64_le(self.capabilities);
        out.put_slice(&self.host.boot_id);
        out.put_u64_le(self.host.net_namespace);
        out.put_u64_le(self.host.pid_namespace);
        out.put_u32_le(self.host.pid);
        out.put_u32_le(self.host.uid);
        put_text(out, &self.build, MAX_BUILD_BYTES);
        out.put_u32_le(self.limits.control_frame_bytes);
        out.put_u32_le(self.limits.grants_per_peer);
        out.put_u32_le(self.limits.served_requests);
        out.put_u64_le(self.limits.served_bytes);
        out.put_u32_le(self.limits.heartbeat_ms);
        let offers = &self.offers[..self.offers.len().min(MAX_OFFERS)];
        out.put_u8(offers.len() as u8);
        for offer in offers {
            out.put_u8(offer.kind);
            out.put_u32_le(offer.bytes.len() as u32);
            out.put_slice(&offer.bytes);
        }
        // Room for fields of later versions: a reader skips what it does not know.
        out.put_u32_le(0);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let hello = Self {
            version_min: from.u8()?,
            version_max: from.u8()?,
            incarnation: from.incarnation()?,
            expects: Incarnation::new(from.u64()?),
            capabilities: from.u64()?,
            host: HostIdentity {
                boot_id: from.array()?,
                net_namespace: from.u64()?,
                pid_namespace: from.u64()?,
                pid: from.u32()?,
                uid: from.u32()?,
            },
            build: from.text("build", MAX_BUILD_BYTES)?.to_owned(),
            limits: PeerLimits {
                control_frame_bytes: from.u32()?,
                grants_per_peer: from.u32()?,
                served_requests: from.u32()?,
                served_bytes: from.u64()?,
                heartbeat_ms: from.u32()?,
            },
            offers: {
                let count = usize::from(from.u8()?);
                if count > MAX_OFFERS {
                    return Err(WireError::TooLong { what: "offers", limit: MAX_OFFERS as u64 });
                }
                let mut offers = Vec::with_capacity(count);
                for _ in 0..count {
                    let kind = from.u8()?;
                    let bytes = Bytes::copy_from_slice(from.bytes("offer", MAX_OFFER_BYTES)?);
                    offers.push(Offer { kind, bytes });
                }
                offers
            },
        };
        from.bytes("later fields", 65_536)?;
        if hello.version_min > hello.version_max {
            return Err(WireError::Value { what: "version range" });
        }
        Ok(hello)
    }
}
