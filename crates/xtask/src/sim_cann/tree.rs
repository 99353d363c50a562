//! What is not a library: the topology, each node's `hccn.conf`, the version files, the folder that processes share.

use std::fmt::Write as _;
use std::fs;

use super::{Layout, put};

/// Packages with a version file, as the real installation names them.
const PACKAGES: &[&str] = &["runtime", "hccl", "hcomm", "hixl", "metadef"];

pub(super) fn write(layout: &Layout) -> Result<(), String> {
    let dir = &layout.dir;
    put(&dir.join("topology.json"), topology(layout))?;
    for node in 0..layout.nodes {
        put(&dir.join(format!("etc/node{node}/hccn.conf")), hccn_conf(layout, node))?;
    }
    for package in PACKAGES {
        let text = format!("Version={0}\nversion_dir={0}\n", layout.release.name());
        put(&dir.join("share/info").join(package).join("version.info"), text)?;
    }
    fs::create_dir_all(dir.join("state")).map_err(|error| format!("state: {error}"))
}

/// The address of a device's NIC: its machine and its physical id.
fn address(node: u32, device: u32) -> String {
    format!("10.77.{node}.{}", device + 1)
}

fn topology(layout: &Layout) -> String {
    let nodes = (0..layout.nodes).map(|node| {
        let devices = (0..layout.devices).map(|device| {
            format!("      {{\"physical\": {device}, \"nic\": \"{}\"}}", address(node, device))
        });
        let devices = devices.collect::<Vec<_>>().join(",\n");
        format!("    {{\"name\": \"node{node}\", \"server\": {node}, \"devices\": [\n{devices}\n    ]}}")
    });
    let nodes = nodes.collect::<Vec<_>>().join(",\n");
    let (release, chip) = (layout.release.name(), layout.chip.name());
    format!(
        "{{\n  \"version\": 1,\n  \"release\": \"{release}\",\n  \"chip\": \"{chip}\",\n  \"nodes\": [\n{nodes}\n  ]\n}}\n"
    )
}

fn hccn_conf(layout: &Layout, node: u32) -> String {
    let mut text = String::new();
    for device in 0..layout.devices {
        let _ = writeln!(text, "address_{device}={}", address(node, device));
        let _ = writeln!(text, "netmask_{device}=255.255.0.0");
    }
    text
}
