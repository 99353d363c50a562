//! The connector's own keys, under `kv_connector_extra_config.ropeway`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ropeway::{Limits, TransportKind};
use serde_json::{Map, Value};

use super::keys::Keys;
use super::{ConfigError, Environment, OWN};

/// Who moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The consumer reads them once the prompt is computed. Works behind every router.
    #[default]
    Pull,
    /// The producer writes them layer by layer while it computes. Needs a proxy that asks the consumer first.
    Push,
}

/// Under which names metrics are given out besides the connector's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetricsAlias {
    /// No others.
    #[default]
    None,
    /// Those of vLLM's NIXL connector, for dashboards that exist.
    Nixl,
}

/// The connector's own keys; each has the name of its field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Own {
    /// The address to bind: `HCCL_IF_IP`, then `VLLM_HOST_IP`, unless said.
    pub host: Option<IpAddr>,
    /// The address that peers are told, where it is another (behind 0.0.0.0). Port 0: the one that was bound.
    pub advertise: Option<SocketAddr>,
    /// Instead of `kv_port`.
    pub port: Option<u16>,
    /// The first control port of workers; worker n takes the n-th after it. 0 takes free ones.
    pub worker_port: u16,
    /// Transports that may be used; all that there are when empty.
    pub transports: Vec<TransportKind>,
    /// Let in whoever reaches the port.
    pub insecure: bool,
    /// A key that all instances share; `ROPEWAY_PSK_FILE` unless said.
    pub psk_file: Option<PathBuf>,
    /// How long lent blocks stay without a renewal. 30 s, as with vLLM's NIXL connector.
    pub lease_ttl: Duration,
    /// How long lent blocks wait for the first consumer. 120 s: on a busy machine 30 s were too short.
    pub first_contact_grace: Duration,
    /// How long a consumer tries to reach a producer. 20 s.
    pub connect_timeout: Duration,
    /// How long a consumer waits for lent blocks to become readable. 60 s.
    pub claim_timeout: Duration,
    /// When a transfer that does not end is given up. 60 s.
    pub abandon_after: Duration,
    /// When memory that may still be written makes the worker raise. 300 s.
    pub quarantine_fatal_after: Duration,
    /// Pull or push.
    pub mode: Mode,
    /// Where a consumer that is pushed to may say that it waits: origins, as `http://proxy:8000`. A request that names
    /// another is computed here.
    pub metaservers: Vec<String>,
    /// Other names for the metrics.
    pub metrics_alias: MetricsAlias,
    /// Whether a KV cache on the CPU is put where other processes of the host can map it. Yes.
    pub shared_memory: bool,
    /// Which node this is, where addresses do not tell: pods of one node, say. For NPUs; `ROPEWAY_NODE` unless said.
    pub node: Option<String>,
}

/// Parts of one worker's cache: each head of each layer where heads lie apart in a model of many layers.
const PARTS: u32 = 16_384;

/// Every key there is.
pub(super) const NAMES: &[&str] = &[
    "host",
    "advertise",
    "port",
    "worker_port",
    "transports",
    "insecure",
    "psk_file",
    "lease_ttl",
    "first_contact_grace",
    "connect_timeout",
    "claim_timeout",
    "abandon_after",
    "quarantine_fatal_after",
    "mode",
    "metaservers",
    "metrics_alias",
    "shared_memory",
    "node",
];

const TRANSPORTS: &[TransportKind] = &[
    TransportKind::Loopback,
    TransportKind::Shm,
    TransportKind::Cma,
    TransportKind::Hixl,
    TransportKind::Ipc,
    TransportKind::Hccl,
    TransportKind::Tcp,
];

impl Own {
    pub(super) fn from_value(
        value: Option<Value>,
        lease: Option<Duration>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let value = value.unwrap_or_else(|| Value::Object(Map::new()));
        let mut keys = Keys::of(&format!("kv_connector_extra_config.{OWN}"), value)?;
        let port = |keys: &mut Keys, key: &str| {
            Ok::<_, ConfigError>(keys.integer(key, u64::from(u16::MAX))?.map(|port| port as u16))
        };
        let own = Self {
            host: address(&mut keys, "host")?.map_or_else(|| environment.host(), |host| Ok(Some(host)))?,
            advertise: advertised(&mut keys)?,
            port: port(&mut keys, "port")?,
            worker_port: port(&mut keys, "worker_port")?.unwrap_or(0),
            transports: transports(&mut keys)?,
            insecure: keys.flag("insecure")?.unwrap_or(false),
            psk_file: keys.text("psk_file")?.or_else(|| environment.psk_file.clone()).map(PathBuf::from),
            lease_ttl: keys.seconds("lease_ttl")?.or(lease).unwrap_or(Duration::from_secs(30)),
            first_contact_grace: keys.seconds("first_contact_grace")?.unwrap_or(Duration::from_secs(120)),
            connect_timeout: keys.seconds("connect_timeout")?.unwrap_or(Duration::from_secs(20)),
            claim_timeout: keys.seconds("claim_timeout")?.unwrap_or(Duration::from_secs(60)),
            abandon_after: keys.seconds("abandon_after")?.unwrap_or(Duration::from_secs(60)),
            quarantine_fatal_after: keys
                .seconds("quarantine_fatal_after")?
                .unwrap_or(Duration::from_secs(300)),
            mode: one_of(&mut keys, "mode", &[("pull", Mode::Pull), ("push", Mode::Push)])?,
            metaservers: metaservers(&mut keys)?,
            metrics_alias: one_of(
                &mut keys,
                "metrics_alias",
                &[("none", MetricsAlias::None), ("nixl", MetricsAlias::Nixl)],
            )?,
            shared_memory: keys.flag("shared_memory")?.unwrap_or(true),
            node: keys.text("node")?,
        };
        keys.finish(NAMES)?;
        own.check()?;
        Ok(own)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.insecure && self.psk_file.is_some() {
            return Err(ConfigError(format!(
                "kv_connector_extra_config.{OWN}: insecure and a key file contradict each other; drop one \
                 (ROPEWAY_PSK_FILE counts as a key file)"
            )));
        }
        self.limits()
            .validate()
            .map_err(|error| ConfigError(format!("kv_connector_extra_config.{OWN}: {error}")))
    }

    /// The engine's limits, as these keys set them.
    pub fn limits(&self) -> Limits {
        let limits = Limits::default();
        let heartbeat = limits.heartbeat().min(self.lease_ttl / 4);
        limits
            .with_lease_ttl(self.lease_ttl)
            .with_heartbeat(heartbeat)
            .with_parts_per_cache(PARTS)
            .with_first_contact_grace(self.first_contact_grace)
            .with_abandon_after(self.abandon_after)
            .with_quarantine_fatal_after(self.quarantine_fatal_after)
    }
}

fn address(keys: &mut Keys, key: &str) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = keys.text(key)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| keys.wrong(key, Some(&text), "an IP address"))
}

/// An address, or an address with a port.
fn advertised(keys: &mut Keys) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = keys.text("advertise")? else { return Ok(None) };
    let whole = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)));
    let address: SocketAddr =
        whole.map_err(|_| keys.wrong("advertise", Some(&text), "an IP address, or one with a port"))?;
    if address.ip().is_unspecified() {
        return Err(keys.wrong("advertise", Some(&text), "an address that peers can reach"));
    }
    Ok(Some(address))
}

fn transports(keys: &mut Keys) -> Result<Vec<TransportKind>, ConfigError> {
    let names = keys.list("transports")?.unwrap_or_default();
    let known: Vec<&str> = TRANSPORTS.iter().map(|kind| kind.name()).collect();
    names
        .iter()
        .map(|name| {
            let kind = TRANSPORTS.iter().find(|kind| kind.name() == name);
            kind.copied()
                .ok_or_else(|| keys.wrong("transports", Some(name), &format!("of {}", known.join(", "))))
        })
        .collect()
}

fn metaservers(keys: &mut Keys) -> Result<Vec<String>, ConfigError> {
    let origins = keys.list("metaservers")?.unwrap_or_default();
    match origins.iter().find(|text| origin(text) != Some(text.as_str())) {
        Some(wrong) => Err(keys.wrong("metaservers", Some(wrong), "of origins, as http://proxy:8000")),
        None => Ok(origins),
    }
}

/// The origin of a URL of the web: scheme, host and port as they stand, without a path.
pub(crate) fn origin(url: &str) -> Option<&str> {
    let scheme = ["http://", "https://"].iter().find(|scheme| url.starts_with(**scheme))?.len();
    let host = url[scheme..].find(['/', '?', '#']).unwrap_or(url.len() - scheme);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-:[]_".contains(letter);
    (host > 0 && url[scheme..scheme + host].chars().all(plain)).then(|| &url[..scheme + host])
}

fn one_of<T: Copy + Default>(keys: &mut Keys, key: &str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
    let Some(text) = keys.text(key)? else { return Ok(T::default()) };
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    chosen.ok_or_else(|| keys.wrong(key, Some(&text), &names.join(" or ")))
}
