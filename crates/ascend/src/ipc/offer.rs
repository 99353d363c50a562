//! What an engine says of itself to NPUs of the same host.

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::{Error, ErrorKind, Result};

use super::process::ProcessId;
use crate::error::check;
use crate::npu::Npu;

const VERSION: u8 = 1;
const NODE_BYTES_MAX: usize = 256;

/// Carried by the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) process: ProcessId,
    /// The process by the driver's count, which keys are given out to; 0 where this release has no keys.
    pub(super) bare_tgid: i32,
    pub(super) has_keys: bool,
    /// The device by its process's count.
    pub(super) user: u32,
    /// By the board's; `u32::MAX` when it is not known.
    pub(super) physical: u32,
    pub(super) node: String,
}

impl Offer {
    pub(super) fn of(npu: &Npu) -> Result<Self> {
        let device = npu.device();
        let mut bare_tgid = 0;
        if let Some(ipc) = &device.acl().ipc {
            let on = device.enter()?;
            // SAFETY: writes one integer to a local; the thread has the device's context.
            let code = unsafe { (ipc.aclrtDeviceGetBareTgid)(&mut bare_tgid) };
            if let Err(error) = check(on.acl(), code, "open ipc", || "the process's own number".into()) {
                tracing::info!(%error, "no keys for other processes");
                bare_tgid = 0;
            }
        }
        let ids = device.ids();
        Ok(Self {
            process: ProcessId::here()?,
            has_keys: bare_tgid > 0,
            bare_tgid,
            user: ids.user,
            physical: ids.physical.unwrap_or(u32::MAX),
            node: npu.identity().node.clone(),
        })
    }

    /// Whether both are known to be one device.
    pub(super) fn is_same_device(&self, other: &Self) -> bool {
        self.node == other.node && self.physical == other.physical && self.physical != u32::MAX
    }

    /// Whether the driver and the pid namespace give the process one number.
    pub(super) fn counts_as_the_driver(&self) -> bool {
        self.process.pid().cast_signed() == self.bare_tgid
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.node.len());
        out.put_u8(VERSION);
        out.put_u8(self.has_keys.into());
        out.put_i32_le(self.bare_tgid);
        out.put_u32_le(self.user);
        out.put_u32_le(self.physical);
        self.process.encode(&mut out);
        let node = &self.node.as_bytes()[..self.node.len().min(NODE_BYTES_MAX)];
        out.put_slice(node);
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (&keys, rest) = rest.split_first()?;
        let (tgid, rest) = rest.split_first_chunk()?;
        let (user, rest) = rest.split_first_chunk()?;
        let (physical, rest) = rest.split_first_chunk()?;
        let (process, node) = ProcessId::decode(rest)?;
        let plain = version == VERSION && keys <= 1 && node.len() <= NODE_BYTES_MAX;
        plain.then_some(Self {
            process,
            bare_tgid: i32::from_le_bytes(*tgid),
            has_keys: keys == 1,
            user: u32::from_le_bytes(*user),
            physical: u32::from_le_bytes(*physical),
            node: String::from_utf8(node.to_vec()).ok()?,
        })
    }
}

/// How messages name a failure to draw random bytes.
pub(super) fn no_random(error: getrandom::Error) -> Error {
    Error::new(ErrorKind::Resource, "open ipc", format!("no random bytes: {error}"))
}

/// Takes any bytes for an offer: what is understood is said the same.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(offer) = Offer::decode(bytes) {
        assert_eq!(Offer::decode(&offer.encode()), Some(offer));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offer_is_read_as_it_was_written(
            (tgid, keys, user, physical) in (any::<i32>(), any::<bool>(), any::<u32>(), any::<u32>()),
            node in "[a-z0-9.-]{0,64}",
        ) {
            let process = ProcessId::here().unwrap();
            let offer = Offer { process, bare_tgid: tgid, has_keys: keys, user, physical, node };
            let bytes = offer.encode();
            prop_assert_eq!(Offer::decode(&bytes), Some(offer));
        }

        #[test]
        fn no_bytes_of_a_peer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Offer::decode(&bytes);
        }
    }
}
