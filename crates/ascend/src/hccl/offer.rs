//! What two engines tell each other before they make a communicator.

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::wire::{Reader, WireError};
use ropeway_core::{Error, ErrorKind, Result};

const VERSION: u8 = 1;
const NAME_BYTES_MAX: usize = 128;

/// One engine's facts. Compared field by field they also say who is rank 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Offer {
    pub(super) node: String,
    pub(super) physical: u32,
    /// Drawn by the engine: the order of two engines on one NPU, and what a probe brings.
    pub(super) nonce: u64,
    pub(super) release: String,
}

impl Offer {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(VERSION);
        out.put_u32_le(self.physical);
        out.put_u64_le(self.nonce);
        for text in [&self.node, &self.release] {
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let read = || {
            let mut from = Reader::new(bytes);
            let version = from.u8()?;
            if version != VERSION {
                return Err(WireError::Unknown { what: "version of an hccl offer", value: version.into() });
            }
            let (physical, nonce) = (from.u32()?, from.u64()?);
            let node = from.text("node", NAME_BYTES_MAX)?.to_owned();
            let release = from.text("release", NAME_BYTES_MAX)?.to_owned();
            Ok(Self { node, physical, nonce, release })
        };
        Ok(read()?)
    }

    /// Whether a communicator can join the two.
    ///
    /// # Errors
    /// One NPU, or unlike releases.
    pub(super) fn check(&self, peer: &Self) -> Result<()> {
        if self.node == peer.node && self.physical == peer.physical {
            let message = format!(
                "both ends are on NPU {} of node {}, which HCCL does not join with itself; ipc copies within it",
                self.physical, self.node
            );
            return Err(Error::new(ErrorKind::Unsupported, "link over HCCL", message));
        }
        if self.release != peer.release {
            let message =
                format!("HCCL's release differs: {} here, {} at the peer", self.release, peer.release);
            return Err(Error::new(ErrorKind::Mismatch, "link over HCCL", message));
        }
        Ok(())
    }

    /// What rank's probe sends: words that nobody else's does.
    pub(super) fn probe(&self, bytes: usize) -> Vec<u8> {
        let words = (0..bytes as u64 / 8).map(|at| self.nonce.rotate_left(at as u32 % 64) ^ at);
        words.flat_map(u64::to_le_bytes).collect()
    }
}

/// Takes any bytes for an offer: what is understood is said the same.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(offer) = Offer::decode(bytes) {
        assert_eq!(Offer::decode(&offer.encode()).ok(), Some(offer));
    }
}
