//! What reads the bytes of a router, of a peer and of the scheduler half, for the fuzzer. Each function takes any bytes and
//! panics when a promise is broken.

mod caches;
#[cfg(test)]
mod tests;

use ropeway::BlockId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Role;
use crate::facts::{CONNECTOR_VERSION, Facts};
use crate::ids::Request;
use crate::layout::{CacheShape, CacheSpec};
use crate::params::{Lent, Params, Remote};
use crate::ranks::{Land, Rank, RankMap, Share, Side, Topology};
use crate::scheduler::{Finish, NewRequest, Scheduler, Setup};
use crate::table::Instance;
use crate::worker::matching::About;
use crate::{meta, params};

/// The scheduler half's messages: what is understood is understood again from its encoding, and takes no more room than its
/// bytes can stand for.
pub fn meta(bytes: &[u8]) {
    let Ok(messages) = meta::decode(bytes) else { return };
    assert!(messages.len() <= bytes.len(), "more messages than bytes");
    assert_eq!(meta::decode(&meta::encode(&messages)), Ok(messages), "two readings of one step");
}

/// `kv_transfer_params` as a router passes them on: the bytes as JSON, or a producer's own changed as the bytes say.
pub fn params(bytes: &[u8]) {
    let value = match bytes.split_first() {
        Some((first, rest)) if first & 1 == 1 => edited(sound_params(), rest),
        Some((_, rest)) => serde_json::from_slice(rest).unwrap_or_default(),
        None => Value::Null,
    };
    match Params::of(&value) {
        Params::Consume(remote) => {
            within_limits(&remote);
            let shown = again(&remote);
            assert_eq!(Params::of(&shown), Params::Consume(remote), "two readings of {shown}");
            understood(&value);
        }
        Params::Unusable(why) => {
            assert!(why.len() < 1_024, "a reason for the log that a stranger chose: {} bytes", why.len());
        }
        Params::Plain | Params::Produce => {}
        Params::Await(_) | Params::Push(..) => understood(&value),
    }
}

/// Whatever a client asks, the workers understand what the scheduler half tells them.
fn understood(params: &Value) {
    let setup = Setup {
        role: Role::Both,
        engine_id: String::new(),
        sizes: (1, 1, 1),
        backoff: 1,
        metaservers: Some(vec!["http://p:1".to_owned()]),
    };
    let mut scheduler = Scheduler::new(setup, Box::new(|| Ok(lease())));
    scheduler.on_new_request(NewRequest { id: "r", params });
    let matched = scheduler.matched("r", 40, 16);
    assert!(matched.tokens <= 40 - 16, "more than the prompt has");
    scheduler.allocated("r", vec![vec![1, 2, 3]], matched.tokens);
    scheduler.finished("r", Finish::Broken, vec![vec![1, 2, 3]], 16);
    assert!(meta::decode(&scheduler.build_meta()).is_ok(), "the workers do not understand");
}

fn within_limits(remote: &Remote) {
    let blocks: usize = remote.block_ids.iter().map(Vec::len).sum();
    assert!(blocks <= params::BLOCKS_MAX && remote.block_ids.len() <= params::GROUPS_MAX, "past a limit");
}

/// The same parameters as a producer would write them.
fn again(remote: &Remote) -> Value {
    let lent = Lent {
        owner: &remote.owner,
        engine_id: "",
        lease: remote.lease,
        request: &remote.request,
        block_ids: &remote.block_ids,
        tokens: remote.tokens.unwrap_or_default(),
        sizes: (1, 1, 1),
    };
    let mut value = lent.to_value();
    if remote.tokens.is_none() {
        value["remote_num_tokens"] = Value::Null;
    }
    value
}

/// A producer's rank table: the bytes as the note, or what an instance says about itself changed as the bytes say. What is
/// understood is mapped, as far as a request would take it, or refused.
pub fn instance(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first & 1 == 0 {
        if let Ok(read) = Instance::decode(rest) {
            let encoded = Instance::decode(&read.encode()).expect("what was read can be shown");
            assert_eq!(encoded.ranks, read.ranks, "two readings of a rank table");
            mapped(usize::from(*first >> 1), &read.about);
        }
        return;
    }
    let which = usize::from(*first >> 1);
    mapped(which, &edited(about(which).to_value(), rest));
}

fn about(which: usize) -> About {
    let (_, side) = caches::one(which);
    About { facts: facts(), side }
}

fn facts() -> Facts {
    Facts {
        connector: CONNECTOR_VERSION,
        model: "model".into(),
        layers: 2,
        kv_dtype: "bfloat16".into(),
        device: "cpu".into(),
        framework: "vllm".into(),
        framework_version: "0.32.0".into(),
        block_tokens: 16,
        layout: "NHD".into(),
        draft_layers: 0,
    }
}

fn mapped(which: usize, theirs: &Value) {
    let Ok(theirs) = About::deserialize(theirs) else { return };
    let same = facts().digest() == theirs.facts.digest();
    assert_eq!(same, facts() == theirs.facts, "a digest that does not tell facts apart");
    for lenient in [false, true] {
        if let Err(mismatch) = facts().check(&theirs.facts, lenient) {
            assert!(!same && mismatch.ours != mismatch.theirs, "{mismatch}");
        }
    }
    let (spec, ours) = caches::one(which);
    let rank = Rank { pp: 0, pcp: 0, tp: 0 };
    let Ok(map) = RankMap::new(spec.clone(), ours, theirs.side, rank, 0) else { return };
    for key in [0, 1] {
        let Ok(pulls) = map.pulls(key) else { continue };
        pulls.iter().flat_map(|pull| &pull.shares).for_each(|share| asked(&spec, share));
    }
}

/// What a request would read of a share.
fn asked(spec: &CacheSpec, share: &Share) {
    let lists = vec![(1..6).collect::<Vec<u32>>(); 3];
    let request = Request { local: &lists, remote: &lists, tokens: 0..70 };
    let Ok(ids) = share.ids(&request) else { return };
    let count = |lists: &[Vec<BlockId>]| lists.iter().map(Vec::len).sum::<usize>();
    assert_eq!(count(&ids.local), count(&ids.remote), "a block without its pair");
    let Land::Whole(reformat) = &share.land else { return };
    let counts: Vec<u32> = ids.local.iter().map(|ids| ids.len() as u32).collect();
    let Some((places, size)) = reformat.place(&counts) else { return };
    reformat.copies(spec, &places, &ids.moves, |copy| {
        let last = u64::from(copy.height) - 1;
        assert!(copy.from + last * copy.from_pitch + copy.width <= size, "a copy leaves the scratch memory");
        let end = copy.to + last * copy.to_pitch + copy.width;
        assert!(end <= caches::BYTES_MAX, "a copy leaves the cache");
    });
}

fn sound_params() -> Value {
    json!({
        "do_remote_prefill": true, "do_remote_decode": false,
        "remote_block_ids": [[1, 2, 3], [0, 4]], "remote_engine_id": "engine", "remote_request_id": "cmpl-1",
        "remote_host": "10.0.0.1", "remote_port": 7000, "tp_size": 1, "remote_num_tokens": 48,
        "ropeway": {
            "address": "10.0.0.1:7000,[::1]:7001", "incarnation": "63",
            "lease": lease().to_string(), "secret": "07".repeat(32),
        },
    })
}

fn lease() -> ropeway::LeaseName {
    ropeway::LeaseName { key: 5, secret: 6 }
}

/// Changes a value: two bytes say where, one says into what.
fn edited(mut value: Value, bytes: &[u8]) -> Value {
    for change in bytes.chunks_exact(3).take(8) {
        let place = usize::from(change[0]) << 8 | usize::from(change[1]);
        let mut left = place % nodes(&value);
        replace(&mut value, &mut left, &other(change[2]));
    }
    value
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// Replaces the node that comes after `left` others; whether it was in there.
fn replace(value: &mut Value, left: &mut usize, by: &Value) -> bool {
    if *left == 0 {
        *value = by.clone();
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| replace(item, left, by)),
        Value::Object(fields) => fields.values_mut().any(|field| replace(field, left, by)),
        _ => false,
    }
}

/// Values at the edges, and small numbers.
fn other(which: u8) -> Value {
    match which {
        255 => json!(u64::MAX),
        254 => json!(u32::MAX),
        253 => json!(u64::from(u32::MAX) + 1),
        252 => json!(-1),
        251 => json!(0.5),
        250 => json!(1e300),
        249 => json!(9_007_199_254_740_993_u64),
        248 => json!(3.0),
        247 => Value::Null,
        246 => json!(true),
        245 => json!(false),
        244 => json!(""),
        243 => json!("\u{e9}".repeat(32)),
        242 => json!([]),
        241 => json!([[0, 1], [2]]),
        240 => json!({}),
        239 => json!("x".repeat(5_000)),
        238 => json!("Replicated"),
        237 => json!({"Window": {"tokens": 20}}),
        236 => json!({"State": {"spare": 1}}),
        235 => json!("1".repeat(64)),
        small => json!(u64::from(small)),
    }
}

/// A topology for what maps onto itself and onto what was changed.
fn two_ranks() -> Topology {
    Topology { stripe_tokens: 16, ..Topology::tensor(2) }
}

fn side(layers: u32, stages: Vec<CacheShape>) -> Side {
    Side { topology: two_ranks(), layers, stages }
}
