//! From a `kv_transfer_config` as people have it to one that a given vLLM accepts.

use serde_json::{Map, Value};

use super::keys::nearest;
use super::{ConfigError, OWN};

/// Fields that vLLM 0.23 and 0.27 have and 0.32 refuses. When between the two they went is not known here; none of them
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

/// Gives the form of `json` that vLLM `version` ("0.32", "0.27.1") accepts with this connector.
///
/// # Errors
/// The text is not a JSON object, or the version is none.
pub fn migrate(json: &str, version: &str) -> Result<Migrated, ConfigError> {
    let value: Value = serde_json::from_str(json)
        .map_err(|error| ConfigError(format!("kv_transfer_config is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(ConfigError("kv_transfer_config must be a JSON object".to_owned()));
    };
    let (major, minor) = numbers(version)?;
    let mut why = Vec::new();
    if (major, minor) > LAST_WITH_ALL {
        for (field, reason) in DROPPED {
            if fields.remove(*field).is_some() {
                why.push(format!("{field} removed: vLLM {version} refuses it; {reason}"));
            }
        }
    }
    unknown(&mut fields, version, &mut why);
    connector(&mut fields, &mut why);
    port(&mut fields, &mut why);
    traps(&fields, &mut why);
    Ok(Migrated { json: Value::Object(fields).to_string(), why })
}

fn numbers(version: &str) -> Result<(u32, u32), ConfigError> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(ConfigError(format!("{version} is not a version of vLLM; say 0.23 or 0.32, for instance"))),
    }
}

/// vLLM refuses fields that it does not know, with a page of text.
fn unknown(fields: &mut Map<String, Value>, version: &str, why: &mut Vec<String>) {
    let known: Vec<&str> = KEPT.iter().copied().chain(DROPPED.iter().map(|(name, _)| *name)).collect();
    let strange: Vec<String> =
        fields.keys().filter(|name| !known.contains(&name.as_str())).cloned().collect();
    for name in strange {
        fields.remove(&name);
        let advice = nearest(&name, &known).map_or(String::new(), |near| format!("; did you mean {near}?"));
        why.push(format!("{name} removed: no vLLM up to {version} has it{advice}"));
    }
}

/// The connector is known by its name once the package is installed.
fn connector(fields: &mut Map<String, Value>, why: &mut Vec<String>) {
    let name = "RopewayConnector";
    // A parent of several names its children in its own extra config; those are not looked into.
    let parent = matches!(
        fields.get("kv_connector").and_then(Value::as_str),
        Some("MultiConnector" | "AscendMultiConnector")
    );
    if parent {
        return;
    }
    if fields.get("kv_connector").and_then(Value::as_str) != Some(name) {
        let old = fields.insert("kv_connector".to_owned(), Value::String(name.to_owned()));
        let old = old.map_or("nothing".to_owned(), |old| old.to_string());
        why.push(format!("kv_connector is {name}, not {old}"));
    }
    if fields.remove("kv_connector_module_path").is_some() {
        why.push("kv_connector_module_path removed: the installed package registers the name".to_owned());
    }
}

/// All versions take digits in quotes, but a number is what the field says it is.
fn port(fields: &mut Map<String, Value>, why: &mut Vec<String>) {
    let digits =
        fields.get("kv_port").and_then(Value::as_str).and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = digits {
        fields.insert("kv_port".to_owned(), port.into());
        why.push(format!("kv_port is the number {port}: vLLM declares it as one"));
    }
}

/// What works with this connector but is better not kept.
fn traps(fields: &Map<String, Value>, why: &mut Vec<String>) {
    if fields.contains_key("engine_id") {
        why.push(
            "note: a fixed engine_id is not needed; instances are told apart by a number drawn at start"
                .to_owned(),
        );
    }
    let own = fields.get("kv_connector_extra_config").and_then(|extra| extra.get(OWN));
    if own.is_none()
        && fields.get("kv_port").and_then(Value::as_u64).is_some_and(|port| (20_000..28_000).contains(&port))
    {
        why.push(
            "note: ports 20000 to 27999 are also where HIXL listens by default; a kv_port below them, or 0, avoids \
             a clash"
                .to_owned(),
        );
    }
}
