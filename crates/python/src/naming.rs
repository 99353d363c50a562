//! Names that Python makes: of an engine by its address alone, and of leases.

use std::net::{SocketAddr, ToSocketAddrs};

use pyo3::prelude::*;
use ropeway::{Auth, Descriptor, Incarnation, LeaseName};

use crate::fault::{Result, misuse};

/// A name for a lease, which may be told before the lease is granted: a fresh one, or the one that 24 bytes make, which must be a
/// secret that nobody guesses. Whoever holds it and reaches the engine can claim the lease. It names one lease of an engine, ever.
#[pyfunction]
#[pyo3(signature = (raw = None))]
pub(crate) fn lease_name(raw: Option<&[u8]>) -> Result<String> {
    let Some(raw) = raw else { return Ok(ropeway::lease_name()?.to_string()) };
    let (Some((key, secret)), 24) = (raw.split_first_chunk::<8>(), raw.len()) else {
        return Err(misuse("lease name", format!("{} bytes; a name has 24", raw.len())));
    };
    let secret = secret.try_into().expect("24 bytes less 8 are 16");
    Ok(LeaseName { key: u64::from_le_bytes(*key), secret: u128::from_le_bytes(secret) }.to_string())
}

/// The inverse of [`lease_name`].
pub(crate) fn parse_name(name: &str) -> Result<LeaseName> {
    name.parse().map_err(|error| misuse("lease name", format!("this is no lease's name: {error}")))
}

/// The descriptor of an engine of which only "host:port" is known, that takes a cluster key or, with `cluster_key` False, lets
/// in everyone. Any engine that answers there is accepted unless `incarnation` says which.
#[pyfunction]
#[pyo3(signature = (address, *, cluster_key, incarnation = None))]
pub(crate) fn descriptor_of(
    py: Python<'_>,
    address: &str,
    cluster_key: bool,
    incarnation: Option<&str>,
) -> Result<String> {
    let addresses: Vec<SocketAddr> = py
        .detach(|| address.to_socket_addrs().map(Iterator::collect))
        .map_err(|error| misuse("connect", format!("{address:?} is no \"host:port\": {error}")))?;
    let incarnation = match incarnation {
        None => None,
        Some(text) => {
            let parsed = u64::from_str_radix(text, 16).ok().and_then(Incarnation::new);
            Some(parsed.ok_or_else(|| misuse("connect", format!("{text:?} is no incarnation")))?)
        }
    };
    let auth = if cluster_key { Auth::ClusterKey } else { Auth::Insecure };
    Ok(Descriptor { incarnation, addresses, auth }.to_string())
}
