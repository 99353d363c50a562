//! Engine descriptors: where an engine listens and what authenticates a peer towards it, as one string.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Reader, Secret, WireError, text};
use crate::Incarnation;

const PREFIX: &str = "ropeway1:";

/// Addresses of one descriptor.
pub const MAX_ADDRESSES: usize = 8;

/// How a peer proves that it may talk to the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// By the secret of this descriptor: holding the descriptor is enough.
    Secret(Secret),
    /// By a key that both engines were given; it is not part of the descriptor.
    ClusterKey,
    /// Not at all.
    Insecure,
}

/// Names an engine. It rides in request parameters; `Display` gives the whole string, the secret included, `Debug`
/// hides the secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The engine's life; `None` for a descriptor made from an address only, which accepts any.
    pub incarnation: Option<Incarnation>,
    /// Where it listens, best first. Empty: reachable within its process only.
    pub addresses: Vec<SocketAddr>,
    /// How to authenticate.
    pub auth: Auth,
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.incarnation.map_or(0, Incarnation::get).to_le_bytes());
        match &self.auth {
            Auth::Secret(secret) => {
                bytes.push(1);
                bytes.extend_from_slice(secret.expose());
            }
            Auth::ClusterKey => bytes.push(2),
            Auth::Insecure => bytes.push(3),
        }
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
        f.write_str(PREFIX)?;
        f.write_str(&text::seal(PREFIX, &bytes))
    }
}

impl FromStr for Descriptor {
    type Err = WireError;

    fn from_str(descriptor: &str) -> Result<Self, WireError> {
        let what = "engine descriptor";
        let body = descriptor.strip_prefix(PREFIX).ok_or(WireError::Value { what })?;
        let bytes = text::open(PREFIX, what, body, 320)?;
        let mut from = Reader::new(&bytes);
        let incarnation = Incarnation::new(from.u64()?);
        let auth = match from.u8()? {
            1 => Auth::Secret(Secret::new(from.array()?)),
            2 => Auth::ClusterKey,
            3 => Auth::Insecure,
            value => {
                return Err(WireError::Unknown { what: "authentication", value: value.into() });
            }
        };
        let count = usize::from(from.u8()?);
        if count > MAX_ADDRESSES {
            return Err(WireError::TooLong { what: "addresses", limit: MAX_ADDRESSES as u64 });
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let ip = match from.u8()? {
                4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>()?)),
                6 => IpAddr::V6(Ipv6Addr::from(from.array::<16>()?)),
                value => {
                    return Err(WireError::Unknown { what: "address family", value: value.into() });
                }
            };
            addresses.push(SocketAddr::new(ip, from.u16()?));
        }
        from.finish()?;
        Ok(Self { incarnation, addresses, auth })
    }
}
