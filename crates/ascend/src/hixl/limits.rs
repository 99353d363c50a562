//! What a link by HIXL takes.

use super::offer::Offer;
use crate::link::MoverLimits;

/// Descriptors of one request: the library starts a kernel for each 128, and waits for a notify after 1,920.
pub(super) const DESCS_MAX: usize = 1_920;

/// Limits that both interfaces have.
pub(super) fn limits(offer: &Offer) -> MoverLimits {
    MoverLimits {
        descs: DESCS_MAX,
        // At the published 24 to 165 GB/s, 0.2 to 1.4 ms.
        request_bytes: 32 << 20,
        requests: 2,
        regions: Some(offer.mode.regions_max()),
        links: offer.mode.links_max(),
        alignment: 1,
        reconnect_for_regions: true,
        // Staged where a way does not take it.
        host_memory: true,
    }
}
