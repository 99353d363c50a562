use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use ropeway_core::ErrorKind;

use super::*;

/// A folder that plays the machine's root; removed at the end.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ropeway-node-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn machine(&self, variables: &[(&str, &str)]) -> Machine {
        Machine::at(&self.0, variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const BOOT: &str = "proc/sys/kernel/random/boot_id";

#[test]
fn two_pods_of_one_node_are_one_island_whatever_their_addresses() {
    let root = Root::new();
    root.file(BOOT, "5c3e1d1e-0000-4000-8000-000000000001\n");
    let pod = |ip: &str| root.machine(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("POD_IP", ip)]);
    let one = Identity::find(None, None, &pod("10.0.0.1")).unwrap();
    let two = Identity::find(None, None, &pod("10.0.0.2")).unwrap();
    assert_eq!(one, two);
    assert_eq!(one.source, Source::BootId);
    assert!(one.warning.unwrap().contains("ROPEWAY_NODE"));
}

#[test]
fn the_first_source_that_names_the_node_wins() {
    let root = Root::new();
    root.file(BOOT, "boot\n").file("etc/machine-id", "machine\n");
    let all = [("ROPEWAY_NODE", "own"), ("NODE_NAME", "kube"), ("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    let find = |given, variables: &[_]| Identity::find(given, None, &root.machine(variables)).unwrap();
    assert_eq!(find(Some("given"), &all).node, "given");
    assert_eq!(find(None, &all).node, "own");
    assert_eq!(find(None, &all[1..]).node, "kube");
    // Outside a pod a variable of that name means something else.
    assert_eq!(find(None, &all[1..2]).node, "boot");
    std::fs::remove_file(root.0.join(BOOT)).unwrap();
    let last = find(None, &all[2..]);
    assert_eq!((last.node.as_str(), last.source), ("machine", Source::MachineId));
    assert!(last.warning.is_some());
}

#[test]
fn a_super_pod_is_one_island_of_several_nodes() {
    let root = Root::new();
    let find = |node| Identity::find(Some(node), Some(7), &root.machine(&[])).unwrap();
    let (one, two) = (find("one"), find("two"));
    assert_eq!((one.island.as_str(), two.island.as_str()), ("7", "7"));
    assert_ne!(one.node, two.node);
}

#[test]
fn a_name_that_would_break_the_json_is_refused() {
    let machine = Root::new().machine(&[]);
    for name in ["", "a b", "a\"b", "a\\b", "a\nb", "knot\u{e9}", &"x".repeat(129)] {
        let error = Identity::find(Some(name), None, &machine).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{name:?}");
    }
    assert!(Identity::find(Some(&"x".repeat(128)), None, &machine).is_ok());
}

#[test]
fn nothing_that_names_the_node_is_an_error_with_the_mend() {
    let error = Identity::find(None, None, &Root::new().machine(&[])).unwrap_err();
    assert!(error.message().contains("ROPEWAY_NODE"), "{error}");
}

#[test]
fn hccn_conf_is_read_as_it_is_found_in_the_field() {
    let text = "\u{feff}# written by hccn_tool\r\naddress_0=192.168.100.101\r\nnetmask_0=255.255.255.0\nsend_arp_status_0=1\n\
                gateway_0 = 192.168.100.1\n address_1 = 192.168.100.102/24 # second\nIPv6address_2=2001:db8::2/64\n\
                address_x=1.2.3.4\naddress_9999=1.2.3.4\naddress_3=not an address\nnonsense\n\naddress_1=192.168.100.103";
    let hccn = Hccn::parse(text);
    let address = |id| hccn.nic(id).and_then(Nic::address).map(|address| address.to_string());
    assert_eq!(address(0).as_deref(), Some("192.168.100.101"));
    assert_eq!(hccn.nic(0).unwrap().netmask.unwrap().to_string(), "255.255.255.0");
    assert_eq!(hccn.nic(0).unwrap().gateway.unwrap().to_string(), "192.168.100.1");
    assert_eq!(address(1).as_deref(), Some("192.168.100.103"), "the last line wins");
    assert_eq!(address(2).as_deref(), Some("2001:db8::2"));
    assert_eq!(address(3), None);
    assert_eq!(hccn.nics().count(), 3);
    assert_eq!(hccn.ignored(), 5);
}

#[test]
fn a_missing_hccn_conf_is_named_with_the_mend() {
    let root = Root::new();
    let pod = root.machine(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("PATH", "")]);
    let error = nic_address(3, None, &pod).unwrap_err();
    assert!(error.message().contains("/etc/hccn.conf") && error.message().contains("mount"), "{error}");
    root.file("etc/hccn.conf", "address_0=10.1.0.1\naddress_1=10.1.0.2\n");
    let error = nic_address(3, None, &pod).unwrap_err();
    assert!(error.message().contains("address_3") && error.message().contains("NPU 0, 1"), "{error}");
    assert_eq!(nic_address(1, None, &pod).unwrap(), IpAddr::from([10, 1, 0, 2]));
}

#[test]
fn another_file_can_be_named() {
    let root = Root::new();
    root.file("here/hccn.conf", "address_5=10.1.0.5\n");
    let machine = root.machine(&[("ROPEWAY_HCCN_CONF", "/here/hccn.conf")]);
    assert_eq!(nic_address(5, None, &machine).unwrap(), IpAddr::from([10, 1, 0, 5]));
}

#[test]
fn the_tool_is_asked_where_the_file_is_silent() {
    let root = Root::new();
    let tool = "usr/local/bin/hccn_tool";
    let script = "#!/bin/sh\n[ \"$3\" = -ip ] && [ $2 = 0 ] && { echo ipaddr:10.2.0.1; echo netmask:255.255.255.0; exit 0; }\n\
                  [ \"$3\" = -inet6 ] && [ $2 = 1 ] && { echo 'inet6 addr: 2001:db8::7/64'; exit 0; }\nexit 1\n";
    root.file(tool, script);
    make_executable(&root.0.join(tool));
    let machine = root.machine(&[]);
    assert_eq!(nic_address(0, None, &machine).unwrap(), IpAddr::from([10, 2, 0, 1]));
    assert_eq!(nic_address(1, None, &machine).unwrap().to_string(), "2001:db8::7");
    assert!(nic_address(2, None, &machine).is_err());
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_a_panic(text in "\\PC{0,200}") {
        let _ = Hccn::parse(&text);
    }

    #[test]
    fn near_misses_are_parsed_without_a_panic(
        lines in prop::collection::vec("[ #a-zA-Z6_=./:0-9\t\r]{0,40}", 0..20),
    ) {
        let hccn = Hccn::parse(&lines.join("\n"));
        prop_assert!(hccn.nics().all(|(id, _)| id <= 4095));
    }

    #[test]
    fn what_is_written_is_read_back(ports in prop::collection::btree_map(0u32..64, any::<(u32, bool)>(), 0..16)) {
        let mut text = String::new();
        for (id, (address, spaced)) in &ports {
            let gap = if *spaced { " " } else { "" };
            let address = std::net::Ipv4Addr::from(*address);
            text += &format!("{gap}address_{id}{gap}={gap}{address}{gap}\n");
        }
        let hccn = Hccn::parse(&text);
        prop_assert_eq!(hccn.ignored(), 0);
        for (id, (address, _)) in &ports {
            prop_assert_eq!(hccn.nic(*id).unwrap().v4, Some(std::net::Ipv4Addr::from(*address)));
        }
        prop_assert_eq!(hccn.nics().count(), ports.len());
    }
}
