//! The host address under which peers reach this process.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use ropeway_core::{Error, ErrorKind, Result};

use super::Machine;

/// Variables that name the address, best first: ours, HCCL's, the downward API's.
const VARIABLES: [&str; 3] = ["ROPEWAY_HOST_IP", "HCCL_IF_IP", "POD_IP"];

/// The address that HIXL listens on and peers are told: `given`, else a variable, else the source address of the
/// default route, else loopback, which only peers of this host reach.
///
/// # Errors
/// `ApiMisuse` for a variable that holds no address.
pub fn host_address(given: Option<IpAddr>, machine: &Machine) -> Result<IpAddr> {
    if let Some(given) = given {
        return Ok(given);
    }
    for variable in VARIABLES {
        if let Some(text) = machine.variable(variable) {
            return text.parse().map_err(|_| {
                let message =
                    format!("{variable}={text} is no IP address; set it to this pod's or host's own");
                Error::new(ErrorKind::ApiMisuse, "find the host's address", message)
            });
        }
    }
    Ok(routed().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// The source address towards a documentation address: a route look-up, no packet leaves.
fn routed() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}
