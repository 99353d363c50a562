//! The structures that cross the C API, in both of their layouts: CANN 9.0 and, since 9.1, another.

use std::ffi::c_char;

use serde::{Deserialize, Serialize};

use super::wire::{Wanted, WireAddress};
use crate::ffi::{In, Text};
use crate::hixl::endpoint::{Placement, Protocol};
use crate::hixl::status::{Outcome, PARAM_INVALID};

/// `EndpointDesc`: 160 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EndpointDesc {
    /// 0 HCCS, 1 RoCE, 4 and 9 UB.
    pub protocol: i32,
    /// 0 IPv4, 1 IPv6, 2 an id, 3 an EID.
    pub address_kind: i32,
    /// The address, as its kind has it.
    pub address: [u8; 36],
    /// 0 device, 1 host.
    pub place: i32,
    /// Device: physical id, super-pod device id, server, super-pod, each a u32.
    pub location: [u8; 60],
    /// Reserved.
    pub rest: [u8; 52],
}

/// `CommMem`: 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommMem {
    /// 0 device, 1 host.
    pub kind: i32,
    /// First address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// `HixlOneSideOpDesc`: 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneSideOpDesc {
    /// Address on the server's side.
    pub remote: u64,
    /// Address on the client's.
    pub local: u64,
    /// Bytes.
    pub len: u64,
}

/// `HixlServerDesc` since 9.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct ServerDesc {
    endpoints: In<EndpointDesc>,
    ip: Text,
    port: u32,
    endpoint_count: u32,
    reserved: [u8; 104],
}

/// `HixlServerDesc` of 9.0.
#[repr(C)]
#[derive(Clone, Copy)]
struct OldServerDesc {
    ip: Text,
    port: u32,
    endpoints: In<EndpointDesc>,
    endpoint_count: u32,
}

/// `HixlClientDesc` since 9.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct ClientDesc {
    local: In<EndpointDesc>,
    remote: In<EndpointDesc>,
    ip: Text,
    port: u32,
    traffic_class: u8,
    service_level: u8,
    reserved: [u8; 98],
}

/// `HixlClientDesc` of 9.0.
#[repr(C)]
#[derive(Clone, Copy)]
struct OldClientDesc {
    ip: Text,
    port: u32,
    local: In<EndpointDesc>,
    remote: In<EndpointDesc>,
}

/// Both configurations.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    resources: *const c_char,
    reserved: [u8; 120],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(
        size_of::<EndpointDesc>() == 160 && size_of::<CommMem>() == 24 && size_of::<OneSideOpDesc>() == 24
    );
    assert!(offset_of!(EndpointDesc, place) == 44 && offset_of!(EndpointDesc, rest) == 108);
    assert!(size_of::<ServerDesc>() == 128 && offset_of!(ServerDesc, endpoint_count) == 20);
    assert!(size_of::<ClientDesc>() == 128 && offset_of!(ClientDesc, traffic_class) == 28);
    assert!(size_of::<OldServerDesc>() == 32 && offset_of!(OldServerDesc, endpoint_count) == 24);
    assert!(size_of::<OldClientDesc>() == 32 && offset_of!(OldClientDesc, remote) == 24);
    assert!(size_of::<Config>() == 128);
};

/// A server's description, read.
pub(super) struct ServerWish {
    /// Where to listen; a port of 0 is none.
    pub(super) at: (String, u32),
    /// Its endpoints.
    pub(super) endpoints: Vec<CsEndpoint>,
}

/// A client's description, read.
pub(super) struct ClientWish {
    /// Where the server listens.
    pub(super) at: (String, u32),
    /// Its own endpoint.
    pub(super) local: CsEndpoint,
    /// The server's that it wants.
    pub(super) remote: CsEndpoint,
}

/// An endpoint, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CsEndpoint {
    /// Its protocol.
    pub(super) protocol: Protocol,
    /// Where it sits.
    pub(super) placement: Placement,
    /// What it is matched by.
    pub(super) wanted: Wanted,
    /// The NPU's physical id, for one on a device.
    pub(super) physical: u32,
}

/// A description of a caller, in whichever layout the release that is played has: read it by that.
pub type Layout = In<u8>;

/// Reads a structure of the caller.
fn read<T: Copy>(from: Layout) -> Outcome<T> {
    // SAFETY: a caller of this release hands over a structure of this layout, valid for the call, or null.
    unsafe { In::from_ptr(from.as_ptr().cast::<T>()) }.get().or_else(refused)
}

fn refused<T>(_: crate::Fail) -> Outcome<T> {
    Err(PARAM_INVALID)
}

/// Reads a server's description in the layout of the release that is played.
pub(super) fn server_wish(desc: Layout, old: bool) -> Outcome<ServerWish> {
    let (ip, port, list, count) = if old {
        let desc: OldServerDesc = read(desc)?;
        (desc.ip, desc.port, desc.endpoints, desc.endpoint_count)
    } else {
        let desc: ServerDesc = read(desc)?;
        (desc.ip, desc.port, desc.endpoints, desc.endpoint_count)
    };
    // No server has so many; a wrong layout does.
    if count == 0 || count > 1024 {
        return Err(PARAM_INVALID);
    }
    let list = list.to_vec(count as usize).or_else(refused)?;
    let endpoints = list.iter().map(CsEndpoint::read).collect::<Outcome<_>>()?;
    Ok(ServerWish { at: (ip.to_text().or_else(refused)?, port), endpoints })
}

/// Reads a client's description in the layout of the release that is played.
pub(super) fn client_wish(desc: Layout, old: bool) -> Outcome<ClientWish> {
    let (ip, port, local, remote) = if old {
        let desc: OldClientDesc = read(desc)?;
        (desc.ip, desc.port, desc.local, desc.remote)
    } else {
        let desc: ClientDesc = read(desc)?;
        (desc.ip, desc.port, desc.local, desc.remote)
    };
    let endpoint = |at: In<EndpointDesc>| CsEndpoint::read(&at.get().or_else(refused)?);
    let at = (ip.to_text().or_else(refused)?, port);
    Ok(ClientWish { at, local: endpoint(local)?, remote: endpoint(remote)? })
}

/// The resources that a configuration asks for; 9.0 reads nothing of it. Without one: 103900.
pub(super) fn resources(config: Layout, old: bool) -> Outcome<Option<String>> {
    let config: Config = read(config)?;
    if old || config.resources.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, so a text that the caller's configuration points at.
    let text: Text = unsafe { In::from_ptr(config.resources) };
    text.to_text().map(Some).or_else(refused)
}

impl CsEndpoint {
    fn read(desc: &EndpointDesc) -> Outcome<Self> {
        let protocol = match desc.protocol {
            0 => Protocol::Hccs,
            1 => Protocol::Roce,
            4 | 5 => Protocol::UbCtp,
            7 => Protocol::Uboe,
            9 => Protocol::UbRtp,
            _ => return Err(PARAM_INVALID),
        };
        let placement = match desc.place {
            0 => Placement::Device,
            1 => Placement::Host,
            _ => return Err(PARAM_INVALID),
        };
        let bytes = |count: usize| desc.address[..count].to_vec();
        let address = match desc.address_kind {
            0 => WireAddress::V4(bytes(4)),
            1 => WireAddress::V6(bytes(16)),
            2 => WireAddress::Id(bytes(4)),
            3 => WireAddress::Eid(bytes(16)),
            _ => WireAddress::None,
        };
        let mut physical = [0; 4];
        physical.copy_from_slice(&desc.location[..4]);
        let physical = u32::from_ne_bytes(physical);
        Ok(Self { protocol, placement, wanted: Wanted { protocol, address }, physical })
    }
}
