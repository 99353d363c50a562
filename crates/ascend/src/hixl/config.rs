//! What an engine asks of HIXL, and the options that follow.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ropeway_core::{Error, ErrorKind, Result};

use super::endpoints::{
    DevicePorts, Endpoint, Force, Protocol, endpoints, global_resource, local_comm_res, rank_table,
};
use super::offer::Mode;
use super::way::{Way, Ways};
use crate::node::{Chip, Identity, Machine, NpuIds, host_address, nic_address};
use crate::npu::NpuConfig;

/// Starts of the library before giving up.
pub(super) const ATTEMPTS: usize = 16;

/// Host ports that are looked at: those in use cost no start.
const LOOKED_AT: u32 = 256;

/// The library's own defaults for RoCE.
const TRAFFIC_CLASS: u8 = 132;
const SERVICE_LEVEL: u8 = 4;

/// What to ask of HIXL. The defaults suit a node with a complete `/etc/hccn.conf`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HixlConfig {
    /// The address that peers reach; by default as [`host_address`] tells.
    pub address: Option<IpAddr>,
    /// Host ports to listen on: the first that is free.
    pub ports: RangeInclusive<u16>,
    /// Ports on the NPU's side: the n-th attempt takes the n-th, so that engines that share an NPU do not meet.
    pub device_ports: DevicePorts,
    /// The one port to take on the NPU's side.
    pub device_port: Option<u16>,
    /// Where the addresses of the NPUs' ports are; by default `/etc/hccn.conf`.
    pub hccn_conf: Option<PathBuf>,
    /// The one protocol to use. By default `ROPEWAY_HIXL_PROTOCOL` (`roce` or `hccs`), RoCE where
    /// `HCCL_INTRA_ROCE_ENABLE=1`, else the best of both.
    pub only: Option<Protocol>,
    /// The engine inside. By default `ROPEWAY_HIXL_ENGINE` (`client-server` or `communicator`), else client/server where
    /// the release has it.
    pub mode: Option<Mode>,
    /// RoCE's traffic class, a multiple of 4. By default `HCCL_RDMA_TC`, else 132.
    pub traffic_class: Option<u8>,
    /// RoCE's service level, 0 to 7. By default `HCCL_RDMA_SL`, else 4.
    pub service_level: Option<u8>,
    /// Leaves it to the library to refuse pages that are believed too small for HCCS: to find out whether it does.
    pub any_pages: bool,
}

impl HixlConfig {
    /// As an NPU was opened.
    pub fn of(npu: &NpuConfig) -> Self {
        Self {
            address: npu.address(),
            ports: npu.ports(),
            device_ports: DevicePorts::default(),
            device_port: npu.device_port(),
            hccn_conf: npu.hccn_conf().map(PathBuf::from),
            only: None,
            mode: None,
            traffic_class: npu.traffic_class(),
            service_level: npu.service_level(),
            any_pages: false,
        }
    }
}

/// What was found about our side before the library was asked.
pub(super) struct Here {
    pub(super) chip: Chip,
    pub(super) ids: NpuIds,
    pub(super) identity: Identity,
    pub(super) address: IpAddr,
    pub(super) force: Force,
    /// `None` where the library finds its own.
    pub(super) endpoints: Option<Vec<Endpoint>>,
    pub(super) nic: Option<IpAddr>,
    pub(super) mode: Option<Mode>,
    /// RoCE's traffic class and service level, where somebody asks for others than the library's.
    quality: (Option<u8>, Option<u8>),
}

/// Ports for one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ports {
    /// The host's.
    pub(super) host: u16,
    /// The NPU's.
    pub(super) device: u16,
}

impl HixlConfig {
    /// Looks at the machine.
    pub(super) fn look(
        &self,
        chip: Chip,
        ids: NpuIds,
        identity: &Identity,
        machine: &Machine,
    ) -> Result<Here> {
        let intra_roce = machine.variable("HCCL_INTRA_ROCE_ENABLE").as_deref() == Some("1");
        let only = self.only.or(named(machine, "ROPEWAY_HIXL_PROTOCOL", &PROTOCOLS)?);
        let only = only.or(intra_roce.then_some(Protocol::Roce));
        let force = Force { only: only.filter(|_| chip.has_hccs()) };
        let nic = if chip.has_hccs() {
            nic_address(ids.physical, self.hccn_conf.as_deref(), machine)
        } else {
            Err(Error::new(ErrorKind::Unsupported, "find the NPU's network address", "UB needs none"))
        };
        let known = nic.as_ref().ok().copied();
        let endpoints = match endpoints(chip, ids, nic, force)? {
            Some((list, missing)) => {
                if let Some(missing) = missing {
                    tracing::warn!("only NPUs of this island can be reached by HIXL: {}", missing.message());
                }
                Some(list)
            }
            None => None,
        };
        let quality = (self.traffic_class, self.service_level);
        if quality.0.is_some_and(|class| class % 4 != 0) || quality.1.is_some_and(|level| level > 7) {
            let message = format!(
                "{quality:?} are no traffic class (a multiple of 4) and service level (0 to 7) of RoCE"
            );
            return Err(Error::new(ErrorKind::ApiMisuse, "configure HIXL", message));
        }
        Ok(Here {
            chip,
            ids,
            address: host_address(self.address, machine)?,
            force,
            endpoints,
            nic: known,
            identity: identity.clone(),
            mode: self.mode.or(named(machine, "ROPEWAY_HIXL_ENGINE", &MODES)?),
            quality,
        })
    }

    /// Ports to try, in order. Engines of different NPUs begin at different places, so that they seldom meet; engines of
    /// one NPU begin at the same, so that the second takes another port on the NPU's side, too.
    pub(super) fn candidates(&self, ids: NpuIds) -> Result<Vec<Ports>> {
        let (first, last) = (u32::from(*self.ports.start()), u32::from(*self.ports.end()));
        let count = (last + 1).saturating_sub(first);
        let begin = (ids.physical % 4096) * ATTEMPTS as u32;
        let tries = LOOKED_AT.min(count);
        let stride = self.device_ports.stride.max(1);
        let candidate = |at: u16| {
            let host = (first + (begin + u32::from(at)) % count) as u16;
            let device = match self.device_port {
                Some(port) => port,
                None => self.device_ports.port(ids.physical, at % stride)?,
            };
            Ok(Ports { host, device })
        };
        (0..tries as u16).map(candidate).collect()
    }
}

const PROTOCOLS: [(&str, Protocol); 2] = [("roce", Protocol::Roce), ("hccs", Protocol::Hccs)];
const MODES: [(&str, Mode); 2] =
    [("client-server", Mode::ClientServer), ("communicator", Mode::Communicator)];

/// The choice that a variable names.
fn named<T: Copy>(machine: &Machine, variable: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = machine.variable(variable) else { return Ok(None) };
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    found.map(Some).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("{variable}={text}; set it to {}, or not at all", names.join(" or "));
        Error::new(ErrorKind::ApiMisuse, "configure HIXL", message)
    })
}

impl Here {
    /// The ways that peers may take to us.
    pub(super) fn ways(&self) -> Ways {
        match &self.endpoints {
            Some(list) => Ways::of(list.iter().map(|endpoint| match endpoint.protocol() {
                Protocol::Hccs => Way::Hccs,
                Protocol::Roce => Way::Roce,
            })),
            None => Ways::of([Way::Ub]),
        }
    }

    /// The name of an engine that listens on `port`.
    pub(super) fn engine(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// `GlobalResourceConfig`.
    pub(super) fn resources(&self, device_port: u16, mode: Mode) -> Result<CString> {
        // A protocol can be forced on the client/server engine only; naming one would select it.
        let force = if mode == Mode::ClientServer { self.force } else { Force::default() };
        text(global_resource(device_port, force, self.chip))
    }

    /// The class's options.
    pub(super) fn options(&self, mode: Mode, device_port: u16) -> Result<Vec<(CString, CString)>> {
        let comm = match mode {
            Mode::ClientServer => local_comm_res(self.endpoints.as_deref(), &self.identity),
            Mode::Communicator => rank_table(self.nic, self.ids, &self.identity),
        };
        let mut options = vec![
            // Without it, an address that is not registered is relayed through a pool, slowly and in silence.
            (text("BufferPool")?, text("0:0")?),
            (text("GlobalResourceConfig")?, self.resources(device_port, mode)?),
            (text("LocalCommRes")?, text(comm)?),
        ];
        // They beat HCCL's variables, so they are only given when asked for.
        if let Some(level) = self.quality.1 {
            options.push((text("RdmaServiceLevel")?, text(level.to_string())?));
        }
        if let Some(class) = self.quality.0 {
            options.push((text("RdmaTrafficClass")?, text(class.to_string())?));
        }
        Ok(options)
    }

    /// RoCE's traffic class and service level for the C functions, which take them as they are.
    pub(super) fn quality(&self, machine: &Machine) -> (u8, u8) {
        let of = |given: Option<u8>, variable, usual| {
            given.or_else(|| machine.variable(variable)?.parse().ok()).unwrap_or(usual)
        };
        (of(self.quality.0, "HCCL_RDMA_TC", TRAFFIC_CLASS), of(self.quality.1, "HCCL_RDMA_SL", SERVICE_LEVEL))
    }
}

fn text(text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|error| {
        Error::new(ErrorKind::Internal, "configure HIXL", "an option holds a NUL").with_source(error)
    })
}

/// The engines to try, best first. `capability` is what the library says of client/server, where it can tell.
pub(super) fn modes(asked: Option<Mode>, chip: Chip, capability: Option<bool>) -> Vec<Mode> {
    match (asked, chip) {
        (Some(mode), _) => vec![mode],
        // It has no other.
        (None, Chip::Ascend950) => vec![Mode::ClientServer],
        (None, _) if capability == Some(true) => vec![Mode::ClientServer, Mode::Communicator],
        (None, _) => vec![Mode::Communicator],
    }
}
