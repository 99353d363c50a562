//! Addresses of the NPUs' network ports: `/etc/hccn.conf`, else `hccn_tool`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ropeway_core::{Error, ErrorKind, Result};

use super::Machine;

/// Physical ids above this are no NPU of any machine.
const PHYSICAL_ID_MAX: u32 = 4095;

/// Where the tool lies; the last is looked for in `PATH`.
const TOOLS: [&str; 3] =
    ["/usr/local/Ascend/driver/tools/hccn_tool", "/usr/local/bin/hccn_tool", "hccn_tool"];

/// The usual place of the file, and the variable that names another one.
const FILE: &str = "/etc/hccn.conf";
const FILE_VARIABLE: &str = "ROPEWAY_HCCN_CONF";

/// One NPU's network port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Nic {
    /// `address_<physical id>`.
    pub v4: Option<Ipv4Addr>,
    /// `netmask_<physical id>`.
    pub netmask: Option<Ipv4Addr>,
    /// `gateway_<physical id>`.
    pub gateway: Option<IpAddr>,
    /// `IPv6address_<physical id>`, without the length of its prefix.
    pub v6: Option<Ipv6Addr>,
}

impl Nic {
    /// The address that HIXL would take: IPv4 before IPv6.
    pub fn address(&self) -> Option<IpAddr> {
        self.v4.map(IpAddr::V4).or(self.v6.map(IpAddr::V6))
    }
}

/// A parsed `hccn.conf`, by physical id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hccn {
    nics: BTreeMap<u32, Nic>,
    ignored: usize,
}

impl Hccn {
    /// Reads what can be read: lines `key_<physical id>=value`, spaces around any part, `#` before a remark. A line that
    /// says something else is counted and left out; the last of two lines wins.
    pub fn parse(text: &str) -> Self {
        let mut hccn = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim_matches(['\u{feff}', ' ', '\t', '\r']);
            if !line.is_empty() && hccn.line(line).is_none() {
                hccn.ignored += 1;
            }
        }
        hccn.nics.retain(|_, nic| *nic != Nic::default());
        hccn
    }

    /// One port, by the NPU's physical id.
    pub fn nic(&self, physical: u32) -> Option<&Nic> {
        self.nics.get(&physical)
    }

    /// The ports, by physical id.
    pub fn nics(&self) -> impl Iterator<Item = (u32, &Nic)> {
        self.nics.iter().map(|(id, nic)| (*id, nic))
    }

    /// Lines that said nothing that is understood.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        let (name, id) = key.trim().rsplit_once('_')?;
        let id = id.parse().ok().filter(|id| *id <= PHYSICAL_ID_MAX)?;
        let value = value.trim();
        let address = || value.split('/').next().unwrap_or_default().trim();
        let nic = self.nics.entry(id).or_default();
        match name.to_ascii_lowercase().as_str() {
            "address" => nic.v4 = Some(address().parse().ok()?),
            "netmask" => nic.netmask = Some(value.parse().ok()?),
            "gateway" | "ipv6gateway" => nic.gateway = Some(value.parse().ok()?),
            "ipv6address" => nic.v6 = Some(address().parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

/// The address of an NPU's network port: by `file`, else the file that `ROPEWAY_HCCN_CONF` names, else
/// `/etc/hccn.conf`; where that is silent, as `hccn_tool` tells.
///
/// # Errors
/// `Unsupported`, with what was looked at and how to mend it.
pub fn nic_address(physical: u32, file: Option<&Path>, machine: &Machine) -> Result<IpAddr> {
    let file = file.map(|file| file.display().to_string());
    let file = file.or_else(|| machine.variable(FILE_VARIABLE)).unwrap_or_else(|| FILE.to_owned());
    let found = match machine.read(&file) {
        Ok(text) => {
            let hccn = Hccn::parse(&text);
            if let Some(address) = hccn.nic(physical).and_then(Nic::address) {
                return Ok(address);
            }
            let known: Vec<_> = hccn.nics().map(|(id, _)| id.to_string()).collect();
            let known = if known.is_empty() { "no NPU".into() } else { format!("NPU {}", known.join(", ")) };
            format!("{file} has no address_{physical} (it names {known}; ids are physical ones)")
        }
        Err(error) => format!("{file} cannot be read ({error})"),
    };
    for tool in TOOLS {
        if let Some(address) = ask(Path::new(tool), physical, machine) {
            return Ok(address);
        }
    }
    let mend = if machine.in_container() {
        "mount the node's /etc/hccn.conf into the container, read-only"
    } else {
        "set the port's address with `hccn_tool -i <id> -ip -s`, which also writes the file"
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        "find the NPU's network address",
        format!("{found}, and hccn_tool gives no address of NPU {physical}; {mend}"),
    ))
}

fn ask(tool: &Path, physical: u32, machine: &Machine) -> Option<IpAddr> {
    let id = physical.to_string();
    let v4 = machine.ask(tool, &["-i", &id, "-ip", "-g"]).ok();
    let v6 = || machine.ask(tool, &["-i", &id, "-inet6", "-g"]).ok();
    let find = |text: String, want: fn(&IpAddr) -> bool| told(&text).find(want);
    // IPv4 comes first and its mask follows it.
    v4.and_then(|text| find(text, IpAddr::is_ipv4)).or_else(|| find(v6()?, IpAddr::is_ipv6))
}

/// The addresses in what the tool prints, in order: `ipaddr:192.0.2.1`, `inet6 addr: 2001:db8::1/64`.
fn told(text: &str) -> impl Iterator<Item = IpAddr> {
    text.split(|c: char| c.is_whitespace() || c == ',' || c == '=').filter_map(|word| {
        let word = word.split('/').next().unwrap_or_default();
        let after = word.split_once(':').map(|(_, after)| after);
        word.parse().ok().or_else(|| after?.parse().ok())
    })
}
