//! Names of engines: "ip", "ip:port" and "[v6]:port".

use std::net::{IpAddr, SocketAddr};

/// A parsed engine name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineName {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The port; nothing, or 0, for an engine that does not listen.
    pub(crate) port: Option<u16>,
}

impl EngineName {
    /// Reads a name; nothing when the address cannot be read or the port is no port.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse() {
            return Some(Self { ip, port: None });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, rest) = rest.split_once(']')?;
            let ip = IpAddr::V6(ip.parse().ok()?);
            return match rest.strip_prefix(':') {
                Some(port) => Some(Self { ip, port: Some(decimal(port)?) }),
                None => rest.is_empty().then_some(Self { ip, port: None }),
            };
        }
        let (ip, port) = text.split_once(':')?;
        Some(Self { ip: IpAddr::V4(ip.parse().ok()?), port: Some(decimal(port)?) })
    }

    /// Where it listens, if it does.
    pub(crate) fn listener(&self) -> Option<SocketAddr> {
        self.port.filter(|port| *port > 0).map(|port| SocketAddr::new(self.ip, port))
    }
}

/// A port in plain digits: no sign, no blanks.
fn decimal(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::EngineName;

    #[test]
    fn names_are_read_as_hixl_reads_them() {
        let port = |text| EngineName::parse(text).map(|name| name.port);
        assert_eq!(port("10.0.0.1"), Some(None));
        assert_eq!(port("10.0.0.1:26000"), Some(Some(26_000)));
        assert_eq!(port("[fe80::1]:26000"), Some(Some(26_000)));
        assert_eq!(port("fe80::1"), Some(None));
        for wrong in
            ["10.0.0.1:65536", "10.0.0:1", "", "host:1", "10.0.0.1:", "10.0.0.1:-1", "[::1]1", "10.0.0.1:1:2"]
        {
            assert_eq!(port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn port_zero_means_no_listener() {
        assert!(EngineName::parse("127.0.0.1:0").unwrap().listener().is_none());
        assert!(EngineName::parse("127.0.0.1:9").unwrap().listener().is_some());
    }
}
