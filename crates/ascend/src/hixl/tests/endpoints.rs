use std::net::IpAddr;

use proptest::prelude::*;
use ropeway_core::{Error, ErrorKind};

use super::super::endpoints::*;
use crate::node::{Chip, Identity, NpuIds, Source, SuperPod};

fn identity(node: &str, island: &str) -> Identity {
    Identity { node: node.into(), island: island.into(), source: Source::Given, warning: None }
}

fn ids(physical: u32) -> NpuIds {
    NpuIds { user: 0, physical, super_pod: None }
}

fn nic() -> ropeway_core::Result<IpAddr> {
    Ok(IpAddr::from([192, 168, 100, 103]))
}

fn no_nic() -> ropeway_core::Result<IpAddr> {
    Err(Error::new(ErrorKind::Unsupported, "find the NPU's network address", "/etc/hccn.conf cannot be read"))
}

#[test]
fn the_client_server_option_names_endpoints_and_island() {
    let (list, missing) = endpoints(Chip::A2, ids(3), nic(), Force::default()).unwrap().unwrap();
    assert!(missing.is_none());
    assert_eq!(
        local_comm_res(Some(&list), &identity("node-7", "node-7")),
        concat!(
            r#"{"version":"1.3","net_instance_id":"node-7","endpoint_list":["#,
            r#"{"protocol":"roce","comm_id":"192.168.100.103","placement":"device"},"#,
            r#"{"protocol":"hccs","comm_id":"3","placement":"device"}]}"#
        )
    );
}

#[test]
fn ub_is_left_to_the_library() {
    assert!(endpoints(Chip::Ascend950, ids(0), no_nic(), Force::default()).unwrap().is_none());
    assert_eq!(local_comm_res(None, &identity("n", "n")), r#"{"version":"1.3"}"#);
}

#[test]
fn without_a_network_address_hccs_is_left_and_the_file_is_named() {
    let (list, missing) = endpoints(Chip::A2, ids(3), no_nic(), Force::default()).unwrap().unwrap();
    assert_eq!(list, [Endpoint::Hccs(3)]);
    assert!(missing.unwrap().message().contains("/etc/hccn.conf"));
    let error = endpoints(Chip::A2, ids(3), no_nic(), Force { only: Some(Protocol::Roce) }).unwrap_err();
    assert!(error.message().contains("/etc/hccn.conf"));
}

#[test]
fn a_forced_protocol_is_the_only_endpoint_and_is_told_to_the_library() {
    for (only, want) in [
        (Protocol::Roce, Endpoint::Roce(nic().unwrap(), Placement::Device)),
        (Protocol::Hccs, Endpoint::Hccs(3)),
    ] {
        let force = Force { only: Some(only) };
        let (list, _) = endpoints(Chip::A3, ids(3), nic(), force).unwrap().unwrap();
        assert_eq!(list, [want]);
        assert_eq!(
            global_resource(16700, force, Chip::A3),
            format!(
                r#"{{"comm_resource_config.listen_port":"16700","comm_resource_config.protocol_desc":["{}:device"]}}"#,
                only.name()
            )
        );
    }
    assert_eq!(
        global_resource(16666, Force::default(), Chip::A2),
        r#"{"comm_resource_config.listen_port":"16666"}"#
    );
}

#[test]
fn a_rank_table_names_the_node_and_the_super_pod() {
    assert_eq!(
        rank_table(nic().ok(), ids(3), &identity("node-7", "node-7")),
        concat!(
            r#"{"version":"1.0","status":"completed","server_count":"1","server_list":[{"server_id":"node-7","#,
            r#""device":[{"device_id":"3","device_ip":"192.168.100.103"}]}]}"#
        )
    );
    let ids = NpuIds { super_pod: Some(SuperPod { id: 2, server: 1, device: 33 }), ..ids(3) };
    assert_eq!(
        rank_table(None, ids, &identity("node-7", "2")),
        concat!(
            r#"{"version":"1.2","status":"completed","server_count":"1","server_list":[{"server_id":"node-7","#,
            r#""device":[{"device_id":"3","super_device_id":"33"}]}],"#,
            r#""super_pod_list":[{"super_pod_id":"2","server_list":[{"server_id":"node-7"}]}]}"#
        )
    );
}

#[test]
fn engines_that_share_an_npu_listen_on_ports_of_their_own() {
    let ports = DevicePorts::default();
    let mut seen = std::collections::BTreeSet::new();
    for physical in 0..16 {
        for index in 0..16 {
            assert!(seen.insert(ports.port(physical, index).unwrap()));
        }
    }
    assert!(!seen.contains(&16_666), "the library's default is another program's");
    assert_eq!(ports.port(0, 16).unwrap_err().kind(), ErrorKind::ApiMisuse);
    assert_eq!(ports.port(4_000, 0).unwrap_err().kind(), ErrorKind::ApiMisuse);
}

proptest! {
    #[test]
    fn whatever_names_a_node_makes_json_that_says_the_same(
        node in "[!#-\\[\\]-~]{1,64}", physical in 0u32..64, address: u32,
    ) {
        let nic = IpAddr::from(address.to_be_bytes());
        let (list, _) = endpoints(Chip::A2, ids(physical), Ok(nic), Force::default()).unwrap().unwrap();
        let json: serde_json::Value = serde_json::from_str(&local_comm_res(Some(&list), &identity(&node, &node))).unwrap();
        prop_assert_eq!(&json["net_instance_id"], &node);
        prop_assert_eq!(&json["endpoint_list"][0]["comm_id"], &nic.to_string());
        prop_assert_eq!(&json["endpoint_list"][1]["comm_id"], &physical.to_string());
        let json: serde_json::Value = serde_json::from_str(&rank_table(Some(nic), ids(physical), &identity(&node, &node))).unwrap();
        prop_assert_eq!(&json["server_list"][0]["server_id"], &node);
    }
}
