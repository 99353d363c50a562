//! What rides in a request from the producer to the consumer: `kv_transfer_params`.
//!
//! The keys are those of vLLM's NIXL connector, so that proxies and routers need no change. Ropeway adds one object of four
//! strings under `"ropeway"`: strings, because routers read numbers as floats. The first request may have the `remote_*`
//! keys as null or not at all, and numbers may come back as floats.
//!
//! Where the producer writes, the request reaches the consumer first, with the address of a `metaserver`; what the consumer
//! posts there comes to the producer: the keys of vllm-ascend's layerwise connector, and the same four strings.

use std::fmt;
use std::net::SocketAddr;

use ropeway::{Auth, Descriptor, Incarnation, LeaseName, Secret};
use serde_json::{Map, Value, json};

use crate::config::keys::whole;

/// The longest list of block ids, all groups together, that a request may name: what one lease may hold.
pub const BLOCKS_MAX: usize = 131_072;

/// Groups of blocks that a request may name.
pub const GROUPS_MAX: usize = 64;

/// What a request asks of a connector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Params {
    /// Nothing.
    Plain,
    /// `do_remote_decode`: compute the prompt and lend its blocks.
    Produce,
    /// `do_remote_prefill`: another instance has computed the prompt.
    Consume(Box<Remote>),
    /// `do_remote_prefill` with a `metaserver`: nobody has computed the prompt yet. A producer is found there, and writes
    /// into our blocks. Where that is.
    Await(String),
    /// `do_remote_decode` with a consumer: compute the prompt and write its KV there, from this token on.
    Push(Box<Remote>, u32),
    /// It cannot be understood, so the prompt is computed here; why, for the log.
    Unusable(String),
}

/// Where a prompt was computed, and what it left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The scheduler half that lent the blocks.
    pub owner: Owner,
    /// The lease on them.
    pub lease: LeaseName,
    /// Block ids per group, as the producer's block manager names them. What the lease itself says wins.
    pub block_ids: Vec<Vec<u32>>,
    /// Tokens whose KV the blocks hold; `None` when the producer did not say: the whole prompt.
    pub tokens: Option<u32>,
    /// The request's id on the producer, for logs.
    pub request: String,
}

/// How to reach the scheduler half of an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Owner {
    /// Where it listens. Empty: in the same process.
    pub addresses: Vec<SocketAddr>,
    /// Its life: after a restart another.
    pub incarnation: Incarnation,
    /// What proves that one may talk to it: a secret, a key that both were given, or nothing.
    pub auth: Auth,
}

impl Owner {
    /// What an engine says of itself. `None` when it names no incarnation.
    pub fn of(descriptor: &Descriptor) -> Option<Self> {
        let incarnation = descriptor.incarnation?;
        Some(Self { addresses: descriptor.addresses.clone(), incarnation, auth: descriptor.auth.clone() })
    }

    /// As an engine connects to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            incarnation: Some(self.incarnation),
            addresses: self.addresses.clone(),
            auth: self.auth.clone(),
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("addresses", &self.addresses)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// What a producer says about itself and a request that it finished.
#[derive(Clone, Debug)]
pub struct Lent<'a> {
    /// The producer's scheduler half.
    pub owner: &'a Owner,
    /// `engine_id`: a name for people.
    pub engine_id: &'a str,
    /// The lease.
    pub lease: LeaseName,
    /// The request's id here.
    pub request: &'a str,
    /// Block ids per group.
    pub block_ids: &'a [Vec<u32>],
    /// Tokens whose KV they hold.
    pub tokens: u32,
    /// Ranks of the instance: tensor, pipeline, decode context.
    pub sizes: (u32, u32, u32),
}

impl Lent<'_> {
    /// The parameters that go to the client, and from there to a consumer.
    pub fn to_value(&self) -> Value {
        let address = self.owner.addresses.first();
        let (tp, pp, dcp) = self.sizes;
        json!({
            "do_remote_prefill": true,
            "do_remote_decode": false,
            "remote_block_ids": self.block_ids,
            "remote_engine_id": self.engine_id,
            "remote_request_id": self.request,
            "remote_host": address.map(|address| address.ip().to_string()),
            "remote_port": address.map(SocketAddr::port),
            "tp_size": tp,
            "pp_size": pp,
            "dcp_size": dcp,
            "remote_num_tokens": self.tokens,
            "transfer_mode": "pull",
            "ropeway": own(self.owner, self.lease),
        })
    }
}

/// What a consumer says of itself and of the blocks that it wants to be written.
#[derive(Clone, Debug)]
pub struct Awaited<'a> {
    /// The consumer's scheduler half.
    pub owner: &'a Owner,
    /// `engine_id`: a name for people.
    pub engine_id: &'a str,
    /// The lease by which each of its workers lets its blocks be written.
    pub lease: LeaseName,
    /// The request's id here.
    pub request: &'a str,
    /// Block ids per group, from the first token on.
    pub block_ids: &'a [Vec<u32>],
    /// How many tokens are here already.
    pub cached: u32,
    /// Ranks of the instance: tensor, pipeline, decode context.
    pub sizes: (u32, u32, u32),
}

impl Awaited<'_> {
    /// What goes to the metaserver, and from there into the producer's `kv_transfer_params`: the keys of vllm-ascend's
    /// layerwise connector.
    pub fn to_value(&self) -> Value {
        let address = self.owner.addresses.first();
        let (tp, _, dcp) = self.sizes;
        json!({
            "do_remote_prefill": false,
            "do_remote_decode": true,
            "request_id": outer(self.request),
            "token_ids": [],
            "remote_block_ids": self.block_ids,
            "remote_engine_id": self.engine_id,
            "remote_request_id": self.request,
            "remote_host": address.map(|address| address.ip().to_string()),
            "remote_port": address.map(SocketAddr::port),
            "remote_tp_size": tp,
            "remote_dcp_size": dcp,
            "remote_cached_tokens": self.cached,
            "ropeway": own(self.owner, self.lease),
        })
    }
}

/// A request's id as its proxy knows it: newer vLLM puts eight digits of its own behind it.
fn outer(request: &str) -> &str {
    match request.rsplit_once('-') {
        Some((outer, own)) if own.len() == 8 && own.bytes().all(|byte| byte.is_ascii_hexdigit()) => outer,
        _ => request,
    }
}

/// The four strings of our own.
fn own(owner: &Owner, lease: LeaseName) -> Value {
    json!({
        "address": addresses(&owner.addresses),
        "incarnation": owner.incarnation.to_string(),
        "lease": lease.to_string(),
        "secret": secret(&owner.auth),
    })
}

/// The longest address of a metaserver.
const URL_BYTES_MAX: usize = 2_048;

fn metaserver(map: &Map<String, Value>) -> Option<&str> {
    map.get("metaserver").and_then(Value::as_str).filter(|url| !url.is_empty())
}

impl Params {
    /// Reads `kv_transfer_params`. What is not understood is no error: the prompt is then computed here.
    pub fn of(value: &Value) -> Self {
        let map = match value {
            Value::Null => return Self::Plain,
            Value::Object(map) => map,
            other => return Self::Unusable(format!("kv_transfer_params is {}, not an object", kind(other))),
        };
        match (flag(map, "do_remote_decode"), flag(map, "do_remote_prefill")) {
            (Ok(false), Ok(false)) => Self::Plain,
            (Ok(true), Ok(false)) if map.get("ropeway").is_some_and(Value::is_object) => {
                let cached = number(map, "remote_cached_tokens").map(Option::unwrap_or_default);
                match Remote::of(map).and_then(|remote| Ok((remote, cached?))) {
                    Ok((remote, cached)) => Self::Push(Box::new(remote), cached),
                    Err(why) => Self::Unusable(why),
                }
            }
            (Ok(true), Ok(false)) => Self::Produce,
            (Ok(false), Ok(true))
                if !map.get("ropeway").is_some_and(Value::is_object) && metaserver(map).is_some() =>
            {
                match metaserver(map).filter(|url| url.len() <= URL_BYTES_MAX) {
                    Some(url) => Self::Await(url.to_owned()),
                    None => Self::Unusable(format!("metaserver is longer than {URL_BYTES_MAX} bytes")),
                }
            }
            (Ok(false), Ok(true)) => match Remote::of(map) {
                Ok(remote) => Self::Consume(Box::new(remote)),
                Err(why) => Self::Unusable(why),
            },
            (Ok(true), Ok(true)) => {
                Self::Unusable("do_remote_decode and do_remote_prefill are both true".to_owned())
            }
            (Err(why), _) | (_, Err(why)) => Self::Unusable(why),
        }
    }
}

impl Remote {
    fn of(map: &Map<String, Value>) -> Result<Self, String> {
        let strings = match map.get("ropeway") {
            Some(Value::Object(strings)) => strings,
            None | Some(Value::Null) => {
                let engine = map.get("remote_engine_id").and_then(Value::as_str).unwrap_or("unknown");
                // A stranger chose it: the log takes no more than a name.
                let engine: String = engine.chars().take(ENGINE_CHARS).collect();
                return Err(format!(
                    "no \"ropeway\" object: the producer (engine_id {engine}) does not run this connector, or a \
                     proxy dropped the object"
                ));
            }
            Some(other) => return Err(format!("\"ropeway\" is {}, not an object", kind(other))),
        };
        let text = |key: &str| match strings.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(other) => Err(format!("ropeway.{key} is {}, not a string", kind(other))),
            None => Err(format!("ropeway.{key} is not there")),
        };
        let owner = Owner {
            addresses: parse_addresses(text("address")?)?,
            incarnation: u64::from_str_radix(text("incarnation")?, 16)
                .ok()
                .and_then(Incarnation::new)
                .ok_or("ropeway.incarnation is not a number in hexadecimal digits")?,
            auth: parse_secret(text("secret")?)?,
        };
        Ok(Self {
            owner,
            lease: text("lease")?.parse().map_err(|_| "ropeway.lease is not the name of a lease")?,
            block_ids: groups(map.get("remote_block_ids"))?,
            tokens: number(map, "remote_num_tokens")?,
            request: map.get("remote_request_id").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }
}

/// What of a stranger's engine id goes into the log.
const ENGINE_CHARS: usize = 64;

/// The word in place of a secret where both sides were given a key.
const CLUSTER_KEY: &str = "cluster-key";

/// The word in place of a secret where there is none.
const INSECURE: &str = "insecure";

fn secret(auth: &Auth) -> String {
    match auth {
        Auth::Secret(secret) => secret.expose().iter().map(|byte| format!("{byte:02x}")).collect(),
        Auth::ClusterKey => CLUSTER_KEY.to_owned(),
        Auth::Insecure => INSECURE.to_owned(),
    }
}

fn parse_secret(text: &str) -> Result<Auth, String> {
    match text {
        CLUSTER_KEY => return Ok(Auth::ClusterKey),
        INSECURE => return Ok(Auth::Insecure),
        _ => {}
    }
    let wrong = "ropeway.secret is not 64 hexadecimal digits";
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong.to_owned());
    }
    let mut bits = [0; 32];
    for (at, bit) in bits.iter_mut().enumerate() {
        *bit = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong)?;
    }
    Ok(Auth::Secret(Secret::new(bits)))
}

/// Addresses that one owner may have.
const ADDRESSES_MAX: usize = 8;

fn addresses(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    all.join(",")
}

fn parse_addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let all: Result<Vec<SocketAddr>, _> = parts.take(ADDRESSES_MAX + 1).map(str::parse).collect();
    match all {
        Ok(all) if all.len() <= ADDRESSES_MAX => Ok(all),
        Ok(_) => Err(format!("ropeway.address names more than {ADDRESSES_MAX} addresses")),
        Err(_) => Err("ropeway.address is not host:port".to_owned()),
    }
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("{key} is {}, not true or false", kind(other))),
    }
}

fn number(map: &Map<String, Value>, key: &str) -> Result<Option<u32>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match whole(value).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{key} is not a count")),
        },
    }
}

/// Ids per group; a flat list is one group, as connectors without groups write it.
fn groups(value: Option<&Value>) -> Result<Vec<Vec<u32>>, String> {
    let Some(lists) = value.filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let Value::Array(lists) = lists else {
        return Err(format!("remote_block_ids is {}, not a list", kind(lists)));
    };
    let flat = !lists.is_empty() && lists.iter().all(|id| !id.is_array());
    let groups: Vec<Vec<u32>> = if flat {
        vec![ids(lists)?]
    } else {
        let mixed = "remote_block_ids mixes ids and lists";
        lists.iter().map(|group| ids(group.as_array().ok_or(mixed)?)).collect::<Result<_, String>>()?
    };
    if groups.len() > GROUPS_MAX {
        return Err(format!("remote_block_ids has {} groups; {GROUPS_MAX} is the limit", groups.len()));
    }
    let blocks: usize = groups.iter().map(Vec::len).sum();
    if blocks > BLOCKS_MAX {
        return Err(format!("remote_block_ids names {blocks} blocks; {BLOCKS_MAX} is the limit"));
    }
    Ok(groups)
}

fn ids(list: &[Value]) -> Result<Vec<u32>, String> {
    let id = |value: &Value| whole(value).and_then(|id| u32::try_from(id).ok());
    list.iter().map(id).collect::<Option<_>>().ok_or_else(|| "remote_block_ids holds no block id".to_owned())
}

/// What a value is, without its contents: they may be secret.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
