//! From a `kv_transfer_config` as people have it to one that a given vLLM accepts.

use serde_json::{Map, Value};

use super::keys::nearest;
use super::{Config, ConfigError, Environment, Mode};

/// The name that the package registers with vLLM.
const CONNECTOR: &str = "RopewayConnector";

/// Fields that vLLM 0.23 and 0.27.1 have and 0.32 refuses. When between the two they went is not known here; none of them
/// says anything to this connector, so the form without them is valid everywhere.
const DROPPED: &[(&str, &str)] = &[
    (
        "kv_rank",
        "an instance's rank is not configured any more; producers and consumers find each other by request",
    ),
    ("kv_parallel_size", "the number of instances is not configured any more"),
    ("kv_ip", "the address is taken from HCCL_IF_IP or VLLM_HOST_IP, or set \"host\" under \"ropeway\""),
    ("kv_buffer_size", "no connector of this kind has a buffer"),
];

/// The last version whose `KVTransferConfig` is known to have them.
const LAST_WITH_ALL: (u32, u32) = (0, 27);

/// Fields that every supported version has.
const KEPT: &[&str] = &[
    "kv_connector",
    "engine_id",
    "kv_buffer_device",
    "kv_role",
    "kv_port",
    "kv_connector_extra_config",
    "kv_connector_module_path",
    "enable_permute_local_kv",
    "kv_load_failure_policy",
];

/// A configuration in the form that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Migrated {
    /// The JSON text for `--kv-transfer-config`.
    pub json: String,
    /// What was changed and why, one line each; empty when nothing had to be.
    pub why: Vec<String>,
}

/// Parents of several connectors. Each child is a configuration of its own in a list under their extra config.
const PARENTS: &[&str] = &["MultiConnector", "AscendMultiConnector"];

/// Gives the form of `json` that vLLM `version` ("0.32", "0.27.1") accepts with this connector.
///
/// # Errors
/// The text is not a JSON object, the version is none, or something is in it that neither vLLM nor the connector knows or
/// takes: nothing is guessed.
pub fn migrate(json: &str, version: &str) -> Result<Migrated, ConfigError> {
    let value: Value = serde_json::from_str(json)
        .map_err(|error| ConfigError(format!("kv_transfer_config is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(ConfigError("kv_transfer_config must be a JSON object".to_owned()));
    };
    let mut migration = Migration { version, dropping: numbers(version)? > LAST_WITH_ALL, why: Vec::new() };
    if fields.get("kv_connector").and_then(Value::as_str).is_some_and(|name| PARENTS.contains(&name)) {
        migration.fields("kv_transfer_config", &mut fields)?;
        migration.children(&mut fields)?;
    } else {
        migration.connector(&mut fields);
        migration.fields("kv_transfer_config", &mut fields)?;
        migration.checked(&fields)?;
    }
    migration.traps(&fields);
    Ok(Migrated { json: Value::Object(fields).to_string(), why: migration.why })
}

fn numbers(version: &str) -> Result<(u32, u32), ConfigError> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(ConfigError(format!("{version} is not a version of vLLM; say 0.23 or 0.32, for instance"))),
    }
}

struct Migration<'a> {
    version: &'a str,
    /// Whether the version refuses what is in [`DROPPED`].
    dropping: bool,
    why: Vec<String>,
}

impl Migration<'_> {
    /// What is so for every connector: fields that the version has, and a port that is a number.
    fn fields(&mut self, place: &str, fields: &mut Map<String, Value>) -> Result<(), ConfigError> {
        let prefix = if place == "kv_transfer_config" { String::new() } else { format!("{place}.") };
        let known: Vec<&str> = KEPT.iter().copied().chain(DROPPED.iter().map(|(name, _)| *name)).collect();
        if let Some(strange) = fields.keys().find(|name| !known.contains(&name.as_str())) {
            let advice = nearest(strange, &known).map_or_else(
                || "none of vLLM's fields is called so".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            return Err(ConfigError(format!("{place}.{strange} is not known; {advice}")));
        }
        for (field, reason) in DROPPED.iter().filter(|_| self.dropping) {
            if fields.remove(*field).is_some() {
                self.why.push(format!("{prefix}{field} removed: vLLM {} refuses it; {reason}", self.version));
            }
        }
        // All versions take digits in quotes, but a number is what the field says it is.
        let digits = fields.get("kv_port").and_then(Value::as_str);
        if let Some(port) = digits.and_then(|digits| digits.trim().parse::<u16>().ok()) {
            fields.insert("kv_port".to_owned(), port.into());
            self.why.push(format!("{prefix}kv_port is the number {port}: vLLM declares it as one"));
        }
        Ok(())
    }

    /// The connector is known by its name once the package is installed.
    fn connector(&mut self, fields: &mut Map<String, Value>) {
        if fields.get("kv_connector").and_then(Value::as_str) != Some(CONNECTOR) {
            let old = fields.insert("kv_connector".to_owned(), CONNECTOR.into());
            let old = old.map_or("nothing".to_owned(), |old| old.to_string());
            self.why.push(format!("kv_connector is {CONNECTOR}, not {old}"));
        }
        if fields.remove("kv_connector_module_path").is_some() {
            self.why.push(
                "kv_connector_module_path removed: the installed package registers the name".to_owned(),
            );
        }
    }

    /// The children of a parent keep their names; other connectors' own keys are not looked into.
    fn children(&mut self, fields: &mut Map<String, Value>) -> Result<(), ConfigError> {
        let list = fields.get_mut("kv_connector_extra_config").and_then(|extra| extra.get_mut("connectors"));
        let Some(list) = list.and_then(Value::as_array_mut) else { return Ok(()) };
        for (at, child) in list.iter_mut().enumerate() {
            let place = format!("kv_connector_extra_config.connectors[{at}]");
            let Some(child) = child.as_object_mut() else {
                return Err(ConfigError(format!("{place} must be a JSON object")));
            };
            self.fields(&place, child)?;
            if child.get("kv_connector").and_then(Value::as_str) == Some(CONNECTOR) {
                self.checked(child)?;
            }
        }
        Ok(())
    }

    /// What the connector itself will say to it at start.
    fn checked(&mut self, fields: &Map<String, Value>) -> Result<(), ConfigError> {
        let config = Config::from_value(Value::Object(fields.clone()), &Environment::default())?;
        self.why.extend(config.warnings.into_iter().map(|warning| format!("note: {warning}")));
        if config.own.mode == Mode::Push {
            self.why.push(
                "note: pushing needs a proxy that asks the consumer first; mode \"pull\" works behind every router"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// What works with this connector but is better not kept.
    fn traps(&mut self, fields: &Map<String, Value>) {
        if fields.contains_key("engine_id") {
            self.why.push(
                "note: a fixed engine_id is not needed; instances are told apart by a number drawn at start"
                    .to_owned(),
            );
        }
        let port = fields.get("kv_port").and_then(Value::as_u64);
        if port.is_some_and(|port| (20_000..28_000).contains(&port)) {
            self.why.push(
                "note: ports 20000 to 27999 are also where HIXL listens by default; a kv_port below them, or 0, \
                 avoids a clash"
                    .to_owned(),
            );
        }
    }
}
