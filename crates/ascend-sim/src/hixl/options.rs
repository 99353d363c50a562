//! The options of `Initialize`: what may be said, and what follows from it.

use serde::Deserialize;
use serde_json::Value;

use super::endpoint::{Endpoint, EndpointEntry, Placement, Protocol};
use super::status::{Outcome, PARAM_INVALID};

/// Port of the NPU's NIC when none is set (A2, A3).
const DEVICE_PORT: u16 = 16_666;

/// What was asked for, checked.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which engine, as far as the options decide it.
    pub(crate) engine: Wanted,
    /// Links on demand, and lets go of broken ones.
    pub(crate) auto_connect: bool,
    /// Unregistered ends go through a pool of buffers (communicator mode).
    pub(crate) staging: bool,
    /// The island that HCCS does not leave.
    pub(crate) net_instance: Option<String>,
    /// Endpoints as written; nothing asks to have them made.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    /// Protocols that are allowed; nothing allows all.
    pub(crate) protocols: Option<Vec<(Protocol, Placement)>>,
    /// Port of links on the NPU's side.
    pub(crate) device_port: u16,
    /// Threads that connect for `connect_async`, and how many may wait for them.
    pub(crate) connect_threads: usize,
    /// See there.
    pub(crate) connect_queue: usize,
    /// Links at most.
    pub(crate) channels: usize,
}

/// Which engine the options ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever the chip has by default.
    Default,
    /// The client/server engine.
    ClientServer,
    /// Two-rank communicators.
    Communicator,
    /// Fabric memory.
    Fabric,
}

/// The long form of `LocalCommRes`.
#[derive(Deserialize)]
struct LocalCommRes {
    version: String,
    #[serde(default)]
    net_instance_id: Option<String>,
    #[serde(default)]
    endpoint_list: Option<Vec<EndpointEntry>>,
}

/// A refused value is no more than that: the library says which in its log only.
fn wrong(key: &str, value: &str) -> u32 {
    tracing::warn!(key, value, "refused an option");
    PARAM_INVALID
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Wanted::Default,
            auto_connect: false,
            staging: true,
            net_instance: None,
            endpoints: None,
            protocols: None,
            device_port: DEVICE_PORT,
            connect_threads: 2,
            connect_queue: 128,
            channels: 512,
        }
    }
}

impl Options {
    /// Reads pairs of key and value; an unknown key or a value out of range is 103900.
    pub(crate) fn parse<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Outcome<Self> {
        let mut options = Self::default();
        let mut pool_given = false;
        for (key, value) in pairs {
            let taken = match key {
                "LocalCommRes" => options.local_comm_res(value),
                "GlobalResourceConfig" => options.global_resource(value),
                "AutoConnect" => switch(value).map(|on| options.auto_connect = on),
                "EnableUseFabricMem" => switch(value).map(|on| {
                    if on {
                        options.engine = Wanted::Fabric;
                    }
                }),
                "BufferPool" => pool(value).map(|on| {
                    options.staging = on;
                    pool_given |= on;
                }),
                "RdmaTrafficClass" => number(value, 0, 255).filter(|class| class % 4 == 0).map(drop),
                "RdmaServiceLevel" => number(value, 0, 7).map(drop),
                _ => None,
            };
            taken.ok_or_else(|| wrong(key, value))?;
        }
        if options.engine == Wanted::Fabric && pool_given {
            return Err(wrong("BufferPool", "beside fabric memory"));
        }
        Ok(options)
    }

    fn local_comm_res(&mut self, value: &str) -> Option<()> {
        if value.is_empty() {
            return Some(());
        }
        let json: Value = serde_json::from_str(value).ok()?;
        let version = json.get("version")?.as_str()?;
        let engine = if version == "1.3" { Wanted::ClientServer } else { Wanted::Communicator };
        if self.engine != Wanted::Fabric && self.engine != Wanted::ClientServer {
            self.engine = engine;
        }
        if engine == Wanted::Communicator {
            return Some(());
        }
        let parsed: LocalCommRes = serde_json::from_value(json).ok()?;
        debug_assert_eq!(parsed.version, "1.3", "tested above");
        self.net_instance = parsed.net_instance_id;
        if let Some(list) = parsed.endpoint_list {
            self.endpoints = Some(list.iter().map(Endpoint::read).collect::<Option<_>>()?);
        }
        Some(())
    }

    fn global_resource(&mut self, value: &str) -> Option<()> {
        if value.is_empty() {
            return Some(());
        }
        let json: Value = serde_json::from_str(value).ok()?;
        let (mut high, mut low) = (false, false);
        for (key, value) in json.as_object()? {
            let ranged = |low, high| number(&text(value)?, low, high);
            match key.as_str() {
                "comm_resource_config.protocol_desc" => {
                    let list = value.as_array()?.iter().map(|one| protocol_desc(one.as_str()?));
                    self.protocols = Some(list.collect::<Option<_>>()?);
                    if self.engine != Wanted::Fabric {
                        self.engine = Wanted::ClientServer;
                    }
                }
                "comm_resource_config.listen_port" => {
                    self.device_port = u16::try_from(ranged(1, 65_535)?).ok()?
                }
                "comm_resource_config.qos" => drop(ranged(0, 7)?),
                "comm_resource_config.max_active_channels" => drop(ranged(1, 1_000_000)?),
                "connect_pool.thread_num" => self.connect_threads = ranged(1, 64)? as usize,
                "connect_pool.task_queue_capacity" => self.connect_queue = ranged(1, 65_535)? as usize,
                "channel_pool.max_channel" => self.channels = ranged(1, 512)? as usize,
                "channel_pool.high_waterline" => high = part(value)?,
                "channel_pool.low_waterline" => low = part(value)?,
                "fabric_memory.max_capacity" => drop(ranged(1, 1024)?),
                "fabric_memory.start_address" => drop(ranged(0, 1024)?),
                "fabric_memory.task_stream_num" => drop(ranged(1, 8)?),
                // Keys that the facts do not name are let through.
                _ => {}
            }
        }
        (high == low).then_some(())
    }
}

/// "0" or "1".
fn switch(value: &str) -> Option<bool> {
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// "NUM:SIZE_MB"; whether there is a pool then.
fn pool(value: &str) -> Option<bool> {
    let (count, size) = value.split_once(':')?;
    let (count, size) = (number(count, 0, 1 << 20)?, number(size, 0, 1 << 20)?);
    ((count == 0) == (size == 0)).then_some(count > 0)
}

fn number(text: &str, low: u64, high: u64) -> Option<u64> {
    text.parse().ok().filter(|number| (low..=high).contains(number))
}

/// A number or a string, as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A waterline, strictly between 0 and 1.
fn part(value: &Value) -> Option<bool> {
    let number: f64 = text(value)?.parse().ok()?;
    (number > 0.0 && number < 1.0).then_some(true)
}

/// "roce:device" and the like.
fn protocol_desc(text: &str) -> Option<(Protocol, Placement)> {
    let (protocol, placement) = text.split_once(':')?;
    let pair = (Protocol::read(protocol)?, Placement::read(placement)?);
    let host = pair.1 == Placement::Host;
    (!host || matches!(pair.0, Protocol::Roce | Protocol::UbCtp)).then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::{Options, PARAM_INVALID, Wanted};

    fn parse(key: &str, value: &str) -> Result<Options, u32> {
        Options::parse([(key, value)].into_iter())
    }

    #[test]
    fn an_unknown_key_is_a_wrong_parameter() {
        assert_eq!(parse("NoSuchOption", "1").unwrap_err(), PARAM_INVALID);
        assert_eq!(parse("adxl.BufferPool", "0:0").unwrap_err(), PARAM_INVALID);
    }

    #[test]
    fn the_version_of_local_comm_res_chooses_the_engine() {
        let engine = |json| parse("LocalCommRes", json).map(|options| options.engine);
        assert_eq!(engine(r#"{"version":"1.3"}"#), Ok(Wanted::ClientServer));
        assert_eq!(engine(r#"{"version":"1.2","server_list":[]}"#), Ok(Wanted::Communicator));
        assert_eq!(engine(""), Ok(Wanted::Default));
        assert_eq!(engine("no json"), Err(PARAM_INVALID));
        let list =
            r#"{"version":"1.3","endpoint_list":[{"protocol":"pcie","comm_id":"1","placement":"device"}]}"#;
        assert_eq!(engine(list), Err(PARAM_INVALID));
    }

    #[test]
    fn a_protocol_choice_selects_client_server() {
        let json = r#"{"comm_resource_config.protocol_desc":["roce:device"],"comm_resource_config.listen_port":"17000"}"#;
        let options = parse("GlobalResourceConfig", json).unwrap();
        assert_eq!((options.engine, options.device_port), (Wanted::ClientServer, 17_000));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (key, value) in [
            ("AutoConnect", "yes"),
            ("RdmaTrafficClass", "130"),
            ("RdmaTrafficClass", "256"),
            ("RdmaServiceLevel", "8"),
            ("BufferPool", "4"),
            ("GlobalResourceConfig", r#"{"comm_resource_config.listen_port":"0"}"#),
            ("GlobalResourceConfig", r#"{"channel_pool.max_channel":"513"}"#),
            ("GlobalResourceConfig", r#"{"channel_pool.high_waterline":"0.5"}"#),
            ("GlobalResourceConfig", r#"{"comm_resource_config.protocol_desc":["hccs:host"]}"#),
        ] {
            assert_eq!(parse(key, value).err(), Some(PARAM_INVALID), "{key}={value}");
        }
        assert!(parse("RdmaTrafficClass", "132").is_ok());
    }

    #[test]
    fn a_buffer_pool_of_nothing_turns_staging_off() {
        assert!(!parse("BufferPool", "0:0").unwrap().staging);
        assert!(parse("BufferPool", "4:8").unwrap().staging);
        let both = [("BufferPool", "4:8"), ("EnableUseFabricMem", "1")];
        assert_eq!(Options::parse(both.into_iter()).err(), Some(PARAM_INVALID));
    }
}
