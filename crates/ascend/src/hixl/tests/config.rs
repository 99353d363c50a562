use std::collections::BTreeSet;
use std::net::IpAddr;

use ropeway_core::ErrorKind;

use super::super::config::*;
use super::super::endpoints::Protocol;
use super::super::offer::Mode;
use super::super::way::{Way, Ways};
use crate::node::{Chip, Identity, Machine, NpuIds, Source};
use crate::npu::NpuConfig;

fn config() -> HixlConfig {
    HixlConfig { address: Some(IpAddr::from([10, 0, 0, 1])), ..HixlConfig::of(&NpuConfig::new(0)) }
}

fn ids(physical: u32) -> NpuIds {
    NpuIds { user: 0, physical, super_pod: None }
}

fn identity() -> Identity {
    Identity { node: "node-7".into(), island: "node-7".into(), source: Source::Given, warning: None }
}

/// A machine with an `hccn.conf` for NPUs 0 to 3, and these variables.
struct Here(std::path::PathBuf);

impl Here {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("ropeway-hixl-{}-{name}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        let conf: String = (0..4).map(|id| format!("address_{id}=10.1.0.{}\n", id + 1)).collect();
        std::fs::write(root.join("etc/hccn.conf"), conf).unwrap();
        Self(root)
    }

    fn machine(&self, variables: &[(&str, &str)]) -> Machine {
        Machine::at(&self.0, variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_options_turn_staging_off_and_name_our_endpoints() {
    let here = Here::new("options");
    let found = config().look(Chip::A2, ids(3), &identity(), &here.machine(&[])).unwrap();
    let options = found.options(Mode::ClientServer, 16_748).unwrap();
    let options: Vec<_> =
        options.iter().map(|(key, value)| (key.to_str().unwrap(), value.to_str().unwrap())).collect();
    assert_eq!(
        options,
        [
            ("BufferPool", "0:0"),
            ("GlobalResourceConfig", r#"{"comm_resource_config.listen_port":"16748"}"#),
            (
                "LocalCommRes",
                concat!(
                    r#"{"version":"1.3","net_instance_id":"node-7","endpoint_list":["#,
                    r#"{"protocol":"roce","comm_id":"10.1.0.4","placement":"device"},"#,
                    r#"{"protocol":"hccs","comm_id":"3","placement":"device"}]}"#
                )
            ),
        ]
    );
    assert_eq!(found.ways(), Ways::of([Way::Hccs, Way::Roce]));
}

#[test]
fn class_and_level_are_only_given_when_asked_for_and_the_c_functions_get_hccls() {
    let here = Here::new("quality");
    let npu = NpuConfig::new(0).with_traffic_class(100).with_service_level(3);
    let asked = HixlConfig { address: config().address, ..HixlConfig::of(&npu) };
    let found = asked.look(Chip::A2, ids(0), &identity(), &here.machine(&[])).unwrap();
    let options = found.options(Mode::Communicator, 1).unwrap();
    let value =
        |key: &str| options.iter().find(|(known, _)| known.to_str() == Ok(key)).unwrap().1.to_str().unwrap();
    assert_eq!((value("RdmaTrafficClass"), value("RdmaServiceLevel")), ("100", "3"));
    let machine = here.machine(&[("HCCL_RDMA_TC", "64")]);
    let found = config().look(Chip::A2, ids(0), &identity(), &machine).unwrap();
    assert_eq!(found.options(Mode::Communicator, 1).unwrap().len(), 3);
    assert_eq!(found.quality(&machine), (64, 4));
    let wrong = HixlConfig { traffic_class: Some(101), ..config() };
    assert_eq!(
        wrong.look(Chip::A2, ids(0), &identity(), &machine).err().unwrap().kind(),
        ErrorKind::ApiMisuse
    );
}

#[test]
fn a_protocol_is_forced_by_setting_variable_or_hccls_own() {
    let here = Here::new("force");
    let look = |config: &HixlConfig, variables: &[_]| {
        config.look(Chip::A2, ids(0), &identity(), &here.machine(variables)).unwrap().ways()
    };
    assert_eq!(look(&config(), &[("HCCL_INTRA_ROCE_ENABLE", "1")]), Ways::of([Way::Roce]));
    assert_eq!(look(&config(), &[("HCCL_INTRA_ROCE_ENABLE", "0")]), Ways::of([Way::Roce, Way::Hccs]));
    let both = [("HCCL_INTRA_ROCE_ENABLE", "1"), ("ROPEWAY_HIXL_PROTOCOL", "hccs")];
    assert_eq!(look(&config(), &both), Ways::of([Way::Hccs]));
    let set = HixlConfig { only: Some(Protocol::Roce), ..config() };
    assert_eq!(look(&set, &both), Ways::of([Way::Roce]));
    let wrong = here.machine(&[("ROPEWAY_HIXL_PROTOCOL", "rdma")]);
    let error = config().look(Chip::A2, ids(0), &identity(), &wrong).err().unwrap();
    assert!(error.message().contains("roce or hccs"), "{error}");
}

#[test]
fn engines_of_one_npu_differ_on_both_sides_from_the_second_attempt_on() {
    let config = config();
    let mut hosts = BTreeSet::new();
    for physical in 0..16 {
        let ports = config.candidates(ids(physical)).unwrap();
        assert_eq!(ports.len(), 256);
        let devices: BTreeSet<_> = ports[..16].iter().map(|ports| ports.device).collect();
        assert_eq!(devices.len(), 16);
        assert!(ports.iter().all(|ports| config.ports.contains(&ports.host)));
        assert!(hosts.insert(ports[0].host), "two NPUs begin at one port");
    }
    let narrow = HixlConfig { ports: 65_535..=65_535, ..config.clone() };
    assert_eq!(narrow.candidates(ids(5)).unwrap().len(), 1);
    let fixed = HixlConfig { device_port: Some(9), ..config };
    assert!(fixed.candidates(ids(5)).unwrap().iter().all(|ports| ports.device == 9));
}

#[test]
fn the_engine_inside_follows_what_the_library_says() {
    use Mode::{ClientServer, Communicator};
    assert_eq!(modes(None, Chip::A2, Some(true)), [ClientServer, Communicator]);
    assert_eq!(modes(None, Chip::A2, Some(false)), [Communicator]);
    assert_eq!(modes(None, Chip::A3, None), [Communicator]);
    assert_eq!(modes(None, Chip::Ascend950, None), [ClientServer]);
    assert_eq!(modes(Some(Communicator), Chip::A2, Some(true)), [Communicator]);
}
