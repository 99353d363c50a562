//! The `hccl` transport: communicators of two ranks, matched by the session. For CANN without HIXL, and only when asked for.
//!
//! HCCL is two-sided: both ranks post copies that match, or both hang. So nothing is posted before the session has matched it:
//! the initiator sends its plan and the lengths of its copies, the owner checks lease, rights and bounds, and both post.
//! A link has threads of its own, since a rank that dies hangs the other in the library: one that knows what is under way, and
//! its hand, which makes the native calls. A call that does not return breaks this link, and no other.

mod comm;
mod hand;
mod link;
mod mailbox;
mod offer;
mod pins;
mod plans;
mod rounds;
mod setup;
#[cfg(test)]
mod tests;
mod turn;
mod wire;
mod worker;

#[cfg(fuzzing)]
pub(crate) use {offer::fuzz as fuzz_offer, wire::fuzz};

use std::sync::Arc;
use std::time::Duration;

use ascend_sys::hccl;
use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Limits, Result};
use ropeway_transport::{Capabilities, Link, LinkConfig, Transport, TransportKind};

use crate::device::Device;
use crate::npu::Npu;
use link::HcclLink;
use offer::Offer;

/// The transport of one engine.
pub struct Hccl {
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

struct Shared {
    npu: Arc<Npu>,
    device: Arc<Device>,
    api: &'static hccl::Api,
    offer: Offer,
    transfers_max: usize,
    /// What a round may take before the library counts as hanging.
    transfer_timeout: Duration,
    /// How long memory is held after copies that nobody saw end.
    hold: Duration,
}

/// Who is who on a link.
struct Ends {
    peer: Offer,
    rank: u32,
}

impl Hccl {
    /// The transport of an NPU. Makes no communicator yet.
    ///
    /// # Errors
    /// `Unsupported`: HCCL is not installed, or the NPU does not tell its physical id.
    pub fn open(npu: &Arc<Npu>, limits: &Limits) -> Result<Arc<Self>> {
        let unsupported = |message: String| Error::new(ErrorKind::Unsupported, "open hccl", message);
        let api = npu.cann().sys().hccl().map_err(|why| unsupported(why.to_string()))?;
        let device = npu.device();
        let physical = device.ids().physical;
        let physical =
            physical.ok_or_else(|| unsupported("this CANN does not tell the NPU's physical id".into()))?;
        let release =
            [c"hcomm", c"hccl", c"runtime"].into_iter().find_map(|package| npu.cann().version(package));
        let shared = Shared {
            api,
            offer: Offer {
                node: npu.identity().node.clone(),
                physical,
                nonce: nonce(),
                release: release.unwrap_or_else(|| "unknown".into()).chars().take(64).collect(),
            },
            transfers_max: limits.transfers_per_peer() as usize,
            transfer_timeout: npu.config().transfer_timeout(),
            hold: npu.config().hold(),
            device: Arc::clone(device),
            npu: Arc::clone(npu),
        };
        let capabilities =
            Capabilities { one_sided: false, target_checked: true, ..Capabilities::of(TransportKind::Hccl) };
        Ok(Arc::new(Self { shared: Arc::new(shared), capabilities }))
    }
}

impl Transport for Hccl {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        self.shared.offer.encode()
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        let peer = Offer::decode(&config.offer)?;
        self.shared.offer.check(&peer)?;
        let rank = match self.shared.rank_towards(&peer) {
            Some(rank) => rank,
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "link over HCCL", "both ends are one engine"));
            }
        };
        Ok(HcclLink::open(&self.shared, Ends { peer, rank }, config)?)
    }

    fn close(&self) {}
}

impl Shared {
    /// The smaller name is rank 0, and takes its turn first.
    fn rank_towards(&self, peer: &Offer) -> Option<u32> {
        match self.offer.cmp(peer) {
            std::cmp::Ordering::Less => Some(0),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(1),
        }
    }
}

/// A number that no other engine draws, for practical purposes: the hasher's keys are random.
fn nonce() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
