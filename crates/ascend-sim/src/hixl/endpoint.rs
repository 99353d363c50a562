//! Endpoints, and which link two engines come to.

use serde::{Deserialize, Serialize};

use crate::model::{Link, Mode, Scope};
use crate::topology::{Chip, DeviceKey, Topology};

/// What carries the bytes, as HIXL names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// Between the devices of a server or super-pod.
    Hccs,
    /// RDMA.
    Roce,
    /// UB inside a group.
    UbCtp,
    /// UB over Ethernet.
    Uboe,
    /// UB, routed.
    UbRtp,
}

/// Where an endpoint sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Placement {
    /// On the NPU.
    Device,
    /// On the host.
    Host,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Where it sits.
    pub(crate) placement: Placement,
    /// Address of a NIC, physical id (HCCS), or EID (UB).
    pub(crate) id: String,
}

/// An entry of `endpoint_list` as written.
#[derive(Deserialize)]
pub(crate) struct EndpointEntry {
    protocol: String,
    comm_id: serde_json::Value,
    #[serde(default)]
    placement: Option<String>,
}

impl Protocol {
    /// By its name in options.
    pub(crate) fn read(name: &str) -> Option<Self> {
        match name {
            "hccs" => Some(Self::Hccs),
            "roce" => Some(Self::Roce),
            "ub_ctp" => Some(Self::UbCtp),
            "uboe" => Some(Self::Uboe),
            "ub_rtp" => Some(Self::UbRtp),
            _ => None,
        }
    }

    /// The link that it makes.
    pub(crate) fn link(self) -> Link {
        match self {
            Self::Hccs => Link::Hccs,
            Self::Roce => Link::Roce,
            Self::UbCtp | Self::Uboe | Self::UbRtp => Link::Ub,
        }
    }
}

impl Placement {
    /// By its name in options.
    pub(crate) fn read(name: &str) -> Option<Self> {
        match name {
            "device" => Some(Self::Device),
            "host" => Some(Self::Host),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Checks an entry: a NIC has an address, an NPU a number, UB an EID of 32 digits.
    pub(crate) fn read(entry: &EndpointEntry) -> Option<Self> {
        let protocol = Protocol::read(&entry.protocol)?;
        let placement = Placement::read(entry.placement.as_deref().unwrap_or("device"))?;
        let id = match &entry.comm_id {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let fits = match protocol {
            Protocol::Roce | Protocol::Uboe => id.parse::<std::net::IpAddr>().is_ok(),
            Protocol::Hccs => placement == Placement::Device && id.parse::<u32>().is_ok(),
            Protocol::UbCtp | Protocol::UbRtp => {
                id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
        };
        fits.then_some(Self { protocol, placement, id })
    }
}

/// What an engine tells its peer of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its name.
    pub(crate) name: String,
    /// Its process.
    pub(crate) process: i32,
    /// Its release: the real control messages differ between releases.
    pub(crate) release: (u32, u32),
    /// Its device.
    pub(crate) device: DeviceKey,
    /// Its chip.
    pub(crate) chip: Chip,
    /// Which engine it is.
    pub(crate) mode: Engine,
    /// The island that HCCS does not leave.
    pub(crate) net_instance: String,
    /// Ways in and out.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Which of HIXL's engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Engine {
    /// Client and server.
    ClientServer,
    /// Two-rank communicators.
    Communicator,
    /// Fabric memory.
    Fabric,
}

/// What two engines agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The link.
    pub(crate) link: Link,
    /// Chip of the asking side.
    pub(crate) chip: Chip,
    /// Whose figures it follows.
    pub(crate) mode: Mode,
    /// In one machine or two.
    pub(crate) scope: Scope,
}

impl Way {
    /// Whether bytes can go between these kinds of memory over it.
    pub(crate) fn carries(&self, local_host: bool, remote_host: bool) -> bool {
        match (self.link, self.chip) {
            (Link::Hccs, Chip::A3) => !remote_host,
            (Link::Hccs, _) => !remote_host && !local_host,
            _ => true,
        }
    }
}

/// The order in which a client/server engine tries ways, inside an island.
const INSIDE: [(Protocol, Placement); 6] = [
    (Protocol::UbCtp, Placement::Device),
    (Protocol::Hccs, Placement::Device),
    (Protocol::Uboe, Placement::Device),
    (Protocol::UbRtp, Placement::Device),
    (Protocol::Roce, Placement::Device),
    (Protocol::Roce, Placement::Host),
];

/// Between islands: without those that do not leave one.
const BETWEEN: [(Protocol, Placement); 4] = [
    (Protocol::Uboe, Placement::Device),
    (Protocol::UbRtp, Placement::Device),
    (Protocol::Roce, Placement::Device),
    (Protocol::Roce, Placement::Host),
];

/// The way between two engines, or nothing when there is none. What the sides say of themselves chooses it, as in the
/// real library; whether the machines have it decides if it works.
pub(crate) fn choose(near: &Identity, far: &Identity, intra_roce: bool, machines: &Topology) -> Option<Way> {
    let scope = if near.device.server == far.device.server { Scope::OneHost } else { Scope::TwoHosts };
    let way = |link, mode| Way { link, chip: near.chip, mode, scope };
    if near.mode != far.mode || near.release != far.release {
        return None;
    }
    let reach = machines.reach(near.device, far.device);
    match near.mode {
        Engine::ClientServer => {
            let inside = near.net_instance == far.net_instance;
            let order: &[_] = if inside { &INSIDE } else { &BETWEEN };
            let (protocol, placement) = *order.iter().find(|kind| has(near, **kind) && has(far, **kind))?;
            let works = match (protocol, placement) {
                (Protocol::Hccs, _) => reach.hccs && own_hccs(near) && own_hccs(far),
                (Protocol::Roce, Placement::Device) => {
                    (reach.roce || reach.same) && own_nic(near, machines) && own_nic(far, machines)
                }
                _ => true,
            };
            works.then(|| way(protocol.link(), Mode::ClientServer))
        }
        // A communicator cannot hold one NPU twice.
        Engine::Communicator if reach.same => None,
        Engine::Communicator if reach.hccs && !intra_roce => Some(way(Link::Hccs, Mode::Communicator)),
        Engine::Communicator if reach.roce => Some(way(Link::Roce, Mode::Communicator)),
        Engine::Communicator => None,
        Engine::Fabric => (reach.hccs || reach.same).then(|| way(Link::Fabric, Mode::FabricAicpu)),
    }
}

fn has(side: &Identity, kind: (Protocol, Placement)) -> bool {
    side.endpoints.iter().any(|one| (one.protocol, one.placement) == kind)
}

/// Whether the HCCS endpoint names the NPU that the engine is on.
fn own_hccs(side: &Identity) -> bool {
    let mut named = side.endpoints.iter().filter(|one| one.protocol == Protocol::Hccs);
    named.any(|one| one.id.parse() == Ok(side.device.physical))
}

/// Whether the NIC that an endpoint names is the NPU's.
fn own_nic(side: &Identity, machines: &Topology) -> bool {
    let nics = side
        .endpoints
        .iter()
        .filter(|one| one.protocol == Protocol::Roce && one.placement == Placement::Device);
    nics.into_iter().any(|one| machines.by_nic(&one.id) == Some(side.device))
}

#[cfg(test)]
mod tests;
