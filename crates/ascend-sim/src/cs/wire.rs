//! What clients and servers of the C API say to each other, and how endpoints are matched.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::hixl::endpoint::Protocol;
use crate::hixl::wire::Published;
use crate::topology::DeviceKey;

/// From a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Links to the endpoint, if the server has it and is of the same release: the real messages are raw structures
    /// that changed between releases.
    Match {
        /// The endpoint.
        wanted: Wanted,
        /// The client's release.
        release: (u32, u32),
    },
    /// Tells all regions.
    Regions,
}

/// From a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The endpoint is there, on this device.
    Matched(DeviceKey),
    /// It is not.
    NoMatch,
    /// All regions, the built-in one first.
    Regions(Vec<Tagged>),
}

/// A region and its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tagged {
    /// As it was registered.
    pub(super) tag: String,
    /// The region.
    pub(super) region: Published,
}

/// What an endpoint is found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Its protocol.
    pub(super) protocol: Protocol,
    /// Its address.
    pub(super) address: WireAddress,
}

/// An address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WireAddress {
    /// Of a NIC.
    V4(Vec<u8>),
    /// Of a NIC.
    V6(Vec<u8>),
    /// Of a device: its physical id.
    Id(Vec<u8>),
    /// Of a UB port.
    Eid(Vec<u8>),
    /// Of no kind that is known.
    None,
}

impl Wanted {
    /// Whether it names this endpoint: each protocol looks at its own kind of address only.
    pub(super) fn names(&self, other: &Self) -> bool {
        let kind = match self.protocol {
            Protocol::Hccs => matches!(self.address, WireAddress::Id(_)),
            Protocol::Roce | Protocol::Uboe => {
                matches!(self.address, WireAddress::V4(_) | WireAddress::V6(_))
            }
            Protocol::UbCtp | Protocol::UbRtp => matches!(self.address, WireAddress::Eid(_)),
        };
        kind && self == other
    }

    /// The address of a NIC as text.
    pub(super) fn nic(&self) -> Option<String> {
        match &self.address {
            WireAddress::V4(bytes) => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).to_string()),
            WireAddress::V6(bytes) => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Wanted, WireAddress};

    #[test]
    fn an_address_that_is_none_for_its_protocol_matches_nothing() {
        let end = |protocol, address| Wanted { protocol, address };
        let id = || WireAddress::Id(vec![1, 0, 0, 0]);
        let (hccs, roce) = (end(Protocol::Hccs, id()), end(Protocol::Roce, id()));
        assert!(hccs.names(&hccs));
        assert!(!roce.names(&roce), "not even itself");
        let nic = |last| end(Protocol::Roce, WireAddress::V4(vec![10, 0, 0, last]));
        assert!(nic(1).names(&nic(1)) && !nic(1).names(&nic(2)));
    }
}
