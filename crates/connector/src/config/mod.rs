//! What the user asked for: vLLM's `kv_transfer_config` and the connector's own keys in it.
//!
//! vLLM's fields are taken as people write them: `kv_port` as a string, fields that only older versions have, sizes of the
//! prefill and decode instances under the extra config. Sizes are hints ([`Hints`]), since the handshake is the truth. The
//! connector's own keys stand under `kv_connector_extra_config.ropeway` ([`Own`]); there a name that it does not know is an
//! error, which names the nearest one that it does.

pub(crate) mod keys;
mod migrate;
mod own;
#[cfg(test)]
mod tests;

pub use migrate::{Migrated, migrate};
pub(crate) use own::origin;
pub use own::{MetricsAlias, Mode, Own};

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

use keys::Keys;

/// The port of a scheduler half that names none: free, and advertised with each request.
pub const PORT_ANY: u16 = 0;

/// Where the connector's own keys stand.
pub(crate) const OWN: &str = "ropeway";

/// Whether an instance computes prompts for others, or takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `kv_producer`: prefill.
    Producer,
    /// `kv_consumer`: decode.
    Consumer,
    /// `kv_both`: what each request says.
    Both,
}

impl Role {
    /// Whether it may lend blocks.
    pub fn produces(self) -> bool {
        self != Self::Consumer
    }

    /// Whether it may pull blocks.
    pub fn consumes(self) -> bool {
        self != Self::Producer
    }
}

/// What vLLM does with a request whose load failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FailurePolicy {
    /// The request ends with an error: vLLM's default.
    #[default]
    Fail,
    /// The blocks are computed here.
    Recompute,
}

/// How large an instance was said to be. Nothing is decided by it; a difference from what the handshake says is a warning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Data-parallel ranks.
    pub dp: Option<u32>,
    /// Tensor-parallel ranks.
    pub tp: Option<u32>,
    /// Pipeline stages.
    pub pp: Option<u32>,
}

/// The declared sizes of both kinds of instances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Under `prefill`.
    pub prefill: Size,
    /// Under `decode`.
    pub decode: Size,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `kv_role`.
    pub role: Role,
    /// `engine_id`, if one is set. A name for people only: instances are told apart by their incarnations.
    pub engine_id: Option<String>,
    /// `kv_port`, or the connector's own `port`: where data-parallel rank 0's scheduler half listens.
    pub port: u16,
    /// `kv_load_failure_policy`.
    pub failure_policy: FailurePolicy,
    /// Declared sizes.
    pub hints: Hints,
    /// `enforce_handshake_compat` set to false, as for vLLM's NIXL connector: models, frameworks and their versions may
    /// differ, since bytes are read alike all the same.
    pub lenient: bool,
    /// The connector's own keys.
    pub own: Own,
    /// What was ignored, and why, for the log.
    pub warnings: Vec<String>,
}

/// What is wrong with a configuration: the key, the value, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// What the surroundings say where the configuration is silent. [`Environment::of_process`] reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// `HCCL_IF_IP`: the address that Ascend deployments give each pod.
    pub hccl_if_ip: Option<String>,
    /// `VLLM_HOST_IP`.
    pub host_ip: Option<String>,
    /// `ROPEWAY_PSK_FILE`: a key that all instances share.
    pub psk_file: Option<String>,
}

impl Environment {
    /// What this process was given.
    pub fn of_process() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            hccl_if_ip: read("HCCL_IF_IP"),
            host_ip: read("VLLM_HOST_IP"),
            psk_file: read("ROPEWAY_PSK_FILE"),
        }
    }

    fn host(&self) -> Result<Option<IpAddr>, ConfigError> {
        let named = [("HCCL_IF_IP", &self.hccl_if_ip), ("VLLM_HOST_IP", &self.host_ip)];
        let Some((name, value)) = named.into_iter().find_map(|(name, value)| Some((name, value.as_ref()?)))
        else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| {
            ConfigError(format!("{name}={value} is not an IP address; set it to the address of this pod"))
        })
    }
}

/// Fields of vLLM that say nothing to this connector.
const INERT: &[&str] = &[
    "kv_connector",
    "kv_connector_module_path",
    "kv_buffer_device",
    "kv_buffer_size",
    "kv_rank",
    "kv_parallel_size",
    "kv_ip",
    "enable_permute_local_kv",
];

impl Config {
    /// Reads `kv_transfer_config` as JSON text.
    ///
    /// # Errors
    /// The first key that is wrong: what it holds, and what it may hold.
    pub fn from_json(json: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(json)
            .map_err(|error| ConfigError(format!("kv_transfer_config is not JSON: {error}")))?;
        Self::from_value(value, environment)
    }

    /// Reads `kv_transfer_config`.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_value(value: Value, environment: &Environment) -> Result<Self, ConfigError> {
        let mut fields = Keys::of("kv_transfer_config", value)?;
        let role = match fields.text("kv_role")?.as_deref() {
            Some("kv_producer") => Role::Producer,
            Some("kv_consumer") => Role::Consumer,
            Some("kv_both") => Role::Both,
            other => return Err(fields.wrong("kv_role", other, "kv_producer, kv_consumer or kv_both")),
        };
        let failure_policy = match fields.text("kv_load_failure_policy")?.as_deref() {
            None | Some("fail") => FailurePolicy::Fail,
            Some("recompute") => FailurePolicy::Recompute,
            other => return Err(fields.wrong("kv_load_failure_policy", other, "fail or recompute")),
        };
        let engine_id = fields.text("engine_id")?;
        let port = fields.integer("kv_port", u64::from(u16::MAX))?.map(|port| port as u16);
        let extra = fields.take("kv_connector_extra_config").unwrap_or_else(|| Value::Object(Map::new()));
        INERT.iter().for_each(|field| drop(fields.take(field)));
        let mut warnings: Vec<String> = fields
            .rest()
            .map(|field| format!("kv_transfer_config.{field} is none of vLLM's fields; ignored"))
            .collect();

        let mut extra = Keys::of("kv_connector_extra_config", extra)?;
        let hints = Hints { prefill: size(&mut extra, "prefill")?, decode: size(&mut extra, "decode")? };
        // What people who come from vLLM's NIXL connector have set already.
        let lease = extra.seconds("kv_lease_duration")?;
        let lenient = !extra.flag("enforce_handshake_compat")?.unwrap_or(true);
        let own = Own::from_value(extra.take(OWN), lease, environment)?;
        if own.mode == Mode::Push && role.consumes() && own.metaservers.is_empty() {
            return Err(ConfigError(format!(
                "kv_connector_extra_config.{OWN}.mode is push, and metaservers is empty: name the origins of the proxies that \
                 this consumer may answer, as [\"http://proxy:8000\"]"
            )));
        }
        warnings.extend(extra.misplaced(own::NAMES).map(|(name, meant)| {
            format!(
                "kv_connector_extra_config.{name} has no effect there; write it under \"{OWN}\" as {meant}"
            )
        }));
        let port = own.port.or(port).unwrap_or(PORT_ANY);
        Ok(Self { role, engine_id, port, failure_policy, hints, lenient, own, warnings })
    }

    /// The port of the scheduler half of a data-parallel rank.
    ///
    /// # Errors
    /// `port` + `dp_rank` passes the last port.
    pub fn scheduler_port(&self, dp_rank: u32) -> Result<u16, ConfigError> {
        // vLLM always has a `kv_port`; of two instances on a host the one that takes blocks needs none that is known.
        if self.port == PORT_ANY || !self.role.produces() && self.own.port.is_none() {
            return Ok(PORT_ANY);
        }
        u16::try_from(dp_rank).ok().and_then(|rank| self.port.checked_add(rank)).ok_or_else(|| {
            ConfigError(format!(
                "kv_port {} + data-parallel rank {dp_rank} passes 65535; choose a lower kv_port, or 0",
                self.port
            ))
        })
    }

    /// What a declared size says that the handshake does not: one line for each difference.
    pub fn contradictions(&self, producer: bool, dp: u32, tp: u32, pp: u32) -> Vec<String> {
        self.hints.contradictions(producer, Size { dp: Some(dp), tp: Some(tp), pp: Some(pp) })
    }
}

impl Hints {
    /// What was declared otherwise than it is: one line for each difference. What is not known is not compared.
    pub fn contradictions(&self, producer: bool, is: Size) -> Vec<String> {
        let (name, said) = if producer { ("prefill", self.prefill) } else { ("decode", self.decode) };
        let pairs = [("dp_size", said.dp, is.dp), ("tp_size", said.tp, is.tp), ("pp_size", said.pp, is.pp)];
        let both = pairs.into_iter().filter_map(|(field, said, is)| Some((field, said?, is?)));
        both.filter(|(_, said, is)| said != is)
            .map(|(field, said, is)| {
                format!("{name}.{field} is declared as {said} but the instance has {is}; the instance counts")
            })
            .collect()
    }
}

fn size(extra: &mut Keys, name: &str) -> Result<Size, ConfigError> {
    let Some(value) = extra.take(name) else { return Ok(Size::default()) };
    let mut keys = Keys::of(&format!("kv_connector_extra_config.{name}"), value)?;
    let mut ranks = |key| Ok::<_, ConfigError>(keys.integer(key, 1 << 20)?.map(|ranks| ranks as u32));
    Ok(Size { dp: ranks("dp_size")?, tp: ranks("tp_size")?, pp: ranks("pp_size")? })
}
