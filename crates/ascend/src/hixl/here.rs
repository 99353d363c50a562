//! Facts that both of HIXL's interfaces need from the device and its CANN.

use std::ffi::CString;
use std::fmt;
use std::net::SocketAddr;

use ropeway_core::{Error, ErrorKind, Result};

use super::config::{Here, Ports};
use super::offer::{Api, Mode, Offer};
use crate::cann::Cann;
use crate::device::Device;
use crate::node::NpuIds;

/// The NPU's numbers. Without the physical one neither endpoint nor port can be named.
pub(super) fn ids(device: &Device) -> Result<NpuIds> {
    let ids = device.ids();
    let physical = ids.physical.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "start HIXL",
            format!("this CANN does not tell the physical id of device {}, by which HIXL names it", ids.user),
        )
    })?;
    Ok(NpuIds { user: ids.user, physical, super_pod: ids.super_pod })
}

/// HIXL's release: of its own package where it is one, else of what it is shipped with. `unknown` is equal to itself only.
pub(super) fn release(cann: &Cann) -> String {
    let found = [c"hixl", c"hcomm", c"runtime"].into_iter().find_map(|package| cann.version(package));
    let found = found.unwrap_or_else(|| {
        tracing::warn!("CANN tells no version: whether both ends have the same HIXL cannot be checked");
        "unknown".to_owned()
    });
    found.chars().filter(char::is_ascii_graphic).take(64).collect()
}

impl Here {
    /// What peers are told, once an engine listens.
    pub(super) fn offer(&self, api: Api, mode: Mode, engine: SocketAddr, release: &str) -> Result<Offer> {
        let life = getrandom::u64().map_err(|error| {
            Error::new(ErrorKind::Resource, "start HIXL", format!("no random number is to be had: {error}"))
        })?;
        Ok(Offer {
            api,
            mode,
            release: release.to_owned(),
            engine,
            node: self.identity.node.clone(),
            island: self.identity.island.clone(),
            chip: self.chip,
            ids: self.ids,
            ways: self.ways(),
            nic: self.nic,
            life,
        })
    }
}

/// A number or an address as C takes it; neither holds a NUL.
pub(super) fn cstring(value: impl fmt::Display) -> CString {
    CString::new(value.to_string()).unwrap_or_default()
}

/// No attempt succeeded.
pub(super) fn unstarted(operation: &'static str, why: &str, ports: &[Ports]) -> Error {
    let tried: Vec<_> = ports.iter().map(|ports| ports.host.to_string()).collect();
    let message = format!("{why}; host ports tried: {}", tried.join(", "));
    Error::new(ErrorKind::Resource, operation, message)
}
