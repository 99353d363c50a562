//! The simulated machines: servers, nodes on them, their devices and NICs.
//!
//! A *server* is one machine: its devices share HCCS on an A2. A *node* is what one process sees of a server: the
//! whole of it, or, as a container does, some of its devices under an address of its own. Two nodes with the same
//! `server` are two pods on one machine.

mod chip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use chip::Chip;

use crate::fail::{Done, Fail, code};

/// Names one physical device: which machine, which of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceKey {
    /// The machine.
    pub server: u32,
    /// The device's physical id there.
    pub physical: u32,
}

/// A topology as written in `topology.json`. Whatever is left out is filled in by [`Topology::parse`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Of this format: 1.
    pub version: u32,
    /// The CANN release that is played: `8.5.0`, `9.0.0` or `9.1.0`.
    #[serde(default = "default_release")]
    pub release: String,
    /// Chip of the nodes that name none.
    #[serde(default)]
    pub chip: Chip,
    /// The nodes; the first is the one of a process that names none.
    pub nodes: Vec<Node>,
    /// The folder that the paths here start from: the file's own.
    #[serde(skip)]
    pub root: PathBuf,
}

/// What one process sees of a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique.
    pub name: String,
    /// The machine it is on; by default its index, so each node is a machine of its own.
    #[serde(default)]
    pub server: Option<u32>,
    /// The super-pod it belongs to (A3): HCCS reaches all of it.
    #[serde(default)]
    pub super_pod: u32,
    /// Its chip; the topology's if absent.
    #[serde(default)]
    pub chip: Option<Chip>,
    /// Its host address; really 127.0.0.1, since all nodes are simulated on one machine.
    #[serde(default = "default_ip")]
    pub ip: String,
    /// The folder with its `hccn.conf`, relative to the topology's; `etc/<name>` if absent.
    #[serde(default)]
    pub etc: Option<PathBuf>,
    /// Its devices in order of their logical ids.
    pub devices: Vec<Device>,
}

/// One NPU as a node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its id on the machine, as in `hccn.conf`.
    pub physical: u32,
    /// HBM in MiB; by default 65,536.
    #[serde(default = "default_hbm")]
    pub hbm_mib: u64,
    /// The address of its NIC; `10.77.<server>.<physical + 1>` if absent, none if empty.
    #[serde(default)]
    pub nic: Option<String>,
    /// Its id in the super-pod; `server << 16 | physical` if absent.
    #[serde(default)]
    pub super_pod_device: Option<u32>,
}

/// How two devices reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// They are one and the same device.
    pub same: bool,
    /// Over HCCS: same server on an A2, same super-pod on an A3.
    pub hccs: bool,
    /// Over RoCE: both have a NIC, and are not the same device.
    pub roce: bool,
    /// On one machine: key-based IPC and peer access can work.
    pub same_server: bool,
}

fn default_release() -> String {
    "9.1.0".to_owned()
}

fn default_ip() -> String {
    "127.0.0.1".to_owned()
}

fn default_hbm() -> u64 {
    65_536
}

impl Topology {
    /// Reads a file; paths in it are relative to its folder.
    ///
    /// # Errors
    /// INVALID_FILE when it cannot be read or is not sound.
    pub fn read(path: &Path) -> Done<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fail::new(code::INVALID_FILE, format!("{}: {error}", path.display())))?;
        let root = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        Self::parse(&text, root)
    }

    /// Reads JSON and fills in what was left out.
    ///
    /// # Errors
    /// INVALID_FILE when it is not sound.
    pub fn parse(text: &str, root: PathBuf) -> Done<Self> {
        let wrong = |text: String| Fail::new(code::INVALID_FILE, format!("topology: {text}"));
        let mut it: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        it.root = root;
        if it.version != 1 || it.nodes.is_empty() {
            return Err(wrong(format!(
                "version {} with {} nodes; want version 1",
                it.version,
                it.nodes.len()
            )));
        }
        let (mut names, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for (index, node) in it.nodes.iter_mut().enumerate() {
            let server = *node.server.get_or_insert(index as u32);
            node.chip.get_or_insert(it.chip);
            node.etc.get_or_insert_with(|| Path::new("etc").join(&node.name));
            if node.name.is_empty() || node.name.contains('/') || !names.insert(node.name.clone()) {
                return Err(wrong(format!("node name {:?} is empty, a path or taken", node.name)));
            }
            for device in &mut node.devices {
                let id = device.physical;
                device.nic.get_or_insert_with(|| format!("10.77.{server}.{}", id + 1));
                device.super_pod_device.get_or_insert(server << 16 | id);
                if !ends.insert((node.name.clone(), id)) {
                    return Err(wrong(format!("{} has device {id} twice", node.name)));
                }
            }
        }
        Ok(it)
    }

    /// A topology of `nodes` like machines with `devices` each, all filled in.
    ///
    /// # Errors
    /// None in practice; what [`Topology::parse`] would refuse.
    pub fn uniform(chip: Chip, release: &str, nodes: u32, devices: u32) -> Done<Self> {
        let nodes = (0..nodes).map(|n| {
            let devices: Vec<_> =
                (0..devices).map(|physical| serde_json::json!({ "physical": physical })).collect();
            serde_json::json!({ "name": format!("node{n}"), "devices": devices })
        });
        let nodes: Vec<_> = nodes.collect();
        let text = serde_json::json!({ "version": 1, "release": release, "chip": chip, "nodes": nodes });
        Self::parse(&text.to_string(), PathBuf::new())
    }

    /// Index of the node with this name, or the first for `None`.
    ///
    /// # Errors
    /// INVALID_PARAM when there is none of this name.
    pub fn node(&self, name: Option<&str>) -> Done<usize> {
        let Some(name) = name else { return Ok(0) };
        self.nodes.iter().position(|node| node.name == name).ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            Fail::new(code::INVALID_PARAM, format!("no node {name:?} in the topology, which has {names:?}"))
        })
    }

    /// Finds a device by its key, with the node that has it (the first, if several see it).
    #[must_use]
    pub fn device(&self, key: DeviceKey) -> Option<(&Node, &Device)> {
        let nodes = self.nodes.iter().filter(|node| node.server() == key.server);
        nodes
            .flat_map(|node| node.devices.iter().map(move |device| (node, device)))
            .find(|(_, device)| device.physical == key.physical)
    }

    /// Finds a device by its NIC's address.
    #[must_use]
    pub fn by_nic(&self, address: &str) -> Option<DeviceKey> {
        self.keys().find(|key| self.device(*key).is_some_and(|(_, device)| device.nic() == Some(address)))
    }

    /// Every physical device, each once or, where several nodes see it, several times.
    pub fn keys(&self) -> impl Iterator<Item = DeviceKey> + '_ {
        self.nodes.iter().flat_map(|node| node.devices.iter().map(|device| node.key(device)))
    }

    /// How two devices reach each other; nothing for devices that are not in the topology.
    #[must_use]
    pub fn reach(&self, one: DeviceKey, other: DeviceKey) -> Reach {
        let same = one == other;
        let same_server = one.server == other.server;
        let (Some((near, a)), Some((far, b))) = (self.device(one), self.device(other)) else {
            return Reach { same: false, hccs: false, roce: false, same_server: false };
        };
        let hccs = match (near.chip(), far.chip()) {
            (Chip::A2, Chip::A2) => same_server,
            (Chip::A3, Chip::A3) => near.super_pod == far.super_pod,
            _ => false,
        };
        Reach { same, hccs, roce: !same && a.nic().is_some() && b.nic().is_some(), same_server }
    }
}

impl Node {
    /// The machine it is on.
    #[must_use]
    pub fn server(&self) -> u32 {
        self.server.unwrap_or(0)
    }

    /// The chip of its devices.
    #[must_use]
    pub fn chip(&self) -> Chip {
        self.chip.unwrap_or_default()
    }

    /// The key of one of its devices.
    #[must_use]
    pub fn key(&self, device: &Device) -> DeviceKey {
        DeviceKey { server: self.server(), physical: device.physical }
    }

    /// Its `hccn.conf` in the words of the real file.
    #[must_use]
    pub fn hccn_conf(&self) -> String {
        let mut text = String::new();
        for device in &self.devices {
            if let Some(nic) = device.nic() {
                let id = device.physical;
                let kind = if nic.contains(':') { "IPv6address" } else { "address" };
                text += &format!("{kind}_{id}={nic}\nnetmask_{id}=255.255.0.0\nsend_arp_status_{id}=1\n");
            }
        }
        text
    }
}

impl Device {
    /// The address of its NIC, if it has one.
    #[must_use]
    pub fn nic(&self) -> Option<&str> {
        self.nic.as_deref().filter(|nic| !nic.is_empty())
    }

    /// HBM in bytes.
    #[must_use]
    pub fn hbm(&self) -> u64 {
        self.hbm_mib << 20
    }

    /// Its id in the super-pod.
    #[must_use]
    pub fn super_pod_device(&self) -> u32 {
        self.super_pod_device.unwrap_or(self.physical)
    }
}

#[cfg(test)]
mod tests;
