//! Endpoints as HIXL's C functions take them.

use std::net::IpAddr;

use ascend_sys::hixl_cs::*;

use crate::hixl::way::Way;
use crate::node::NpuIds;

/// The endpoint of an NPU for a way; `None` where the C functions are given none by us: UB, or RoCE without an address.
/// The server finds its own by protocol and address, so both sides must build the same from the same facts.
pub(in crate::hixl) fn endpoint(way: Way, ids: NpuIds, nic: Option<IpAddr>) -> Option<EndpointDesc> {
    let mut endpoint = EndpointDesc::unset();
    endpoint.loc.locType = ENDPOINT_LOC_TYPE_DEVICE;
    endpoint.loc.__bindgen_anon_1.device = EndpointLoc__bindgen_ty_1__bindgen_ty_1 {
        devPhyId: ids.physical,
        superDevId: match (way, ids.super_pod) {
            (Way::Hccs, Some(pod)) => pod.device,
            // All ones means that there is none, for HCCS alone.
            (Way::Hccs, None) => u32::MAX,
            _ => 0,
        },
        serverIdx: 0,
        superPodIdx: ids.super_pod.map_or(0, |pod| pod.id),
    };
    let address = &mut endpoint.commAddr;
    match (way, nic) {
        (Way::Hccs, _) => {
            endpoint.protocol = COMM_PROTOCOL_HCCS;
            address.type_ = COMM_ADDR_TYPE_ID;
            address.__bindgen_anon_1.id = ids.physical;
        }
        (Way::Roce, Some(IpAddr::V4(nic))) => {
            endpoint.protocol = COMM_PROTOCOL_ROCE;
            address.type_ = COMM_ADDR_TYPE_IP_V4;
            address.__bindgen_anon_1.addr = u32::from_ne_bytes(nic.octets());
        }
        (Way::Roce, Some(IpAddr::V6(nic))) => {
            endpoint.protocol = COMM_PROTOCOL_ROCE;
            address.type_ = COMM_ADDR_TYPE_IP_V6;
            address.__bindgen_anon_1.addr6 = nic.octets();
        }
        (Way::Roce, None) | (Way::Ub, _) => return None,
    }
    Some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::SuperPod;

    /// The words of the location, and the start of the address.
    fn words(endpoint: &EndpointDesc) -> ([u32; 4], [u8; 16]) {
        // SAFETY: integers without padding: any of the union's views may be read.
        let device = unsafe { endpoint.loc.__bindgen_anon_1.device };
        // SAFETY: as above.
        let raw = unsafe { endpoint.commAddr.__bindgen_anon_1.addr6 };
        ([device.devPhyId, device.superDevId, device.serverIdx, device.superPodIdx], raw)
    }

    #[test]
    fn hccs_is_named_by_physical_id_and_place_in_the_super_pod() {
        let plain = NpuIds { user: 0, physical: 5, super_pod: None };
        let made = endpoint(Way::Hccs, plain, None).unwrap();
        assert_eq!((made.protocol, made.commAddr.type_), (0, 2));
        let (location, raw) = words(&made);
        assert_eq!(location, [5, u32::MAX, 0, 0]);
        assert_eq!(raw[..5], [5, 0, 0, 0, 0xff]);
        let pod = NpuIds { super_pod: Some(SuperPod { id: 2, server: 1, device: 21 }), ..plain };
        assert_eq!(words(&endpoint(Way::Hccs, pod, None).unwrap()).0, [5, 21, 0, 2]);
    }

    #[test]
    fn roce_is_named_by_the_address_of_the_npus_port_in_network_order() {
        let ids = NpuIds { user: 0, physical: 5, super_pod: None };
        let made = endpoint(Way::Roce, ids, Some([192, 168, 0, 7].into())).unwrap();
        assert_eq!((made.protocol, made.commAddr.type_), (1, 0));
        let (location, raw) = words(&made);
        assert_eq!(location, [5, 0, 0, 0]);
        assert_eq!(raw[..4], [192, 168, 0, 7]);
        let v6 = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
        let made = endpoint(Way::Roce, ids, Some(v6.into())).unwrap();
        assert_eq!((made.commAddr.type_, words(&made).1), (1, v6.octets()));
    }

    #[test]
    fn what_the_library_must_find_itself_is_not_named() {
        let ids = NpuIds { user: 0, physical: 5, super_pod: None };
        assert!(endpoint(Way::Roce, ids, None).is_none());
        assert!(endpoint(Way::Ub, ids, Some([192, 168, 0, 7].into())).is_none());
    }

    #[test]
    fn what_is_not_set_is_all_ones() {
        let made = endpoint(Way::Hccs, NpuIds { user: 0, physical: 1, super_pod: None }, None).unwrap();
        assert!(made.raws.iter().all(|byte| *byte == 0xff));
    }
}
