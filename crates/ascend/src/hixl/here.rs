//! Facts that both of HIXL's interfaces need from the device and its CANN.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::{fmt, io};

use ropeway_core::{Error, ErrorKind, Result};

use super::config::{ATTEMPTS, Here, Ports};
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

/// The ports that may be tried, one after the other: those that something listens on cost no start of the library.
pub(super) struct Tries<'a> {
    ports: std::slice::Iter<'a, Ports>,
    address: IpAddr,
    left: usize,
    /// The ports that were looked at, and why the last one will not do.
    looked_at: Vec<u16>,
    why: String,
}

impl<'a> Tries<'a> {
    pub(super) fn new(here: &Here, ports: &'a [Ports]) -> Self {
        let (looked_at, why) = (Vec::new(), String::new());
        Self { ports: ports.iter(), address: here.address, left: ATTEMPTS, looked_at, why }
    }

    /// The next one, or nothing.
    pub(super) fn next(&mut self) -> Option<Ports> {
        self.left = self.left.checked_sub(1)?;
        for port in self.ports.by_ref() {
            self.looked_at.push(port.host);
            let at = SocketAddr::new(self.address, port.host);
            match TcpListener::bind(at) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    self.why = format!("the host's port {at} is in use");
                }
                // Whatever else it is, the library may know better.
                _ => return Some(*port),
            }
        }
        None
    }

    /// The library does not start on the last one.
    pub(super) fn failed(&mut self, error: &Error) {
        tracing::debug!(%error, "HIXL does not start this way");
        error.message().clone_into(&mut self.why);
    }

    /// None did.
    pub(super) fn unstarted(&self, operation: &'static str) -> Error {
        let shown = self.looked_at.iter().take(ATTEMPTS).map(u16::to_string);
        let mut tried = shown.collect::<Vec<_>>().join(", ");
        if let Some(more) = self.looked_at.len().checked_sub(ATTEMPTS).filter(|more| *more > 0) {
            tried.push_str(&format!(" and {more} more"));
        }
        Error::new(ErrorKind::Resource, operation, format!("{}; host ports tried: {tried}", self.why))
    }
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
