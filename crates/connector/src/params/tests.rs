use std::slice;

use proptest::prelude::*;

use super::*;

fn owner() -> Owner {
    Owner {
        addresses: vec!["10.0.0.7:20001".parse().unwrap(), "[fd00::7]:20001".parse().unwrap()],
        incarnation: Incarnation::new(0xfedc_ba98_7654_3210).unwrap(),
        auth: Auth::Secret(Secret::new([7; 32])),
    }
}

fn lent(owner: &Owner, ids: &[Vec<u32>]) -> Value {
    let lease = LeaseName { key: u64::MAX, secret: u128::MAX - 1 };
    let lent = Lent {
        owner,
        engine_id: "0",
        lease,
        request: "cmpl-1",
        block_ids: ids,
        tokens: 77,
        sizes: (2, 1, 1),
    };
    lent.to_value()
}

fn consumed(value: &Value) -> Remote {
    match Params::of(value) {
        Params::Consume(remote) => *remote,
        other => panic!("{other:?}"),
    }
}

/// What a router in Go does to a JSON value: every number becomes a float.
fn as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(list) => list.iter().map(as_floats).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), as_floats(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn what_a_producer_says_a_consumer_reads_also_after_a_router_made_floats_of_the_numbers() {
    for auth in [Auth::Secret(Secret::new([9; 32])), Auth::ClusterKey, Auth::Insecure] {
        let owner = Owner { auth, ..owner() };
        let ids = [vec![1, 2, 3], vec![], vec![u32::MAX]];
        let said = lent(&owner, &ids);
        for value in [said.clone(), as_floats(&said), serde_json::from_str(&said.to_string()).unwrap()] {
            let remote = consumed(&value);
            assert_eq!(remote.owner, owner);
            assert_eq!(remote.lease, LeaseName { key: u64::MAX, secret: u128::MAX - 1 });
            assert_eq!(remote.block_ids, ids);
            assert_eq!((remote.tokens, remote.request.as_str()), (Some(77), "cmpl-1"));
        }
    }
}

#[test]
fn what_ropeway_adds_is_strings_only() {
    let said = lent(&owner(), &[vec![1]]);
    let own = said["ropeway"].as_object().unwrap();
    assert_eq!(own.keys().collect::<Vec<_>>(), ["address", "incarnation", "lease", "secret"]);
    assert!(own.values().all(Value::is_string), "{own:?}");
    assert_eq!(own["incarnation"], "fedcba9876543210");
}

#[test]
fn the_first_request_may_have_its_null_keys_or_not() {
    let bare = json!({"do_remote_decode": true, "do_remote_prefill": false});
    let nulls = json!({"do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null,
        "remote_block_ids": null, "remote_host": null, "remote_port": null});
    for value in [bare, nulls] {
        assert_eq!(Params::of(&value), Params::Produce);
    }
    for value in [Value::Null, json!({}), json!({"do_remote_prefill": null})] {
        assert_eq!(Params::of(&value), Params::Plain);
    }
}

#[test]
fn what_cannot_be_understood_says_why_without_telling_secrets() {
    let change = |key: &str, with: Value| {
        let mut said = lent(&owner(), &[vec![1]]);
        match key.split_once('.') {
            Some((outer, inner)) => said[outer][inner] = with,
            None => said[key] = with,
        }
        said
    };
    for (value, expected) in [
        (change("ropeway", Value::Null), "the producer (engine_id 0) does not run this connector"),
        (change("ropeway.lease", json!("rwn1-nonsense")), "ropeway.lease is not the name"),
        (change("ropeway.lease", json!(5)), "ropeway.lease is a number, not a string"),
        (change("ropeway.incarnation", json!("0")), "ropeway.incarnation"),
        (change("ropeway.secret", json!("ab")), "64 hexadecimal digits"),
        (change("ropeway.secret", json!("é".repeat(32))), "64 hexadecimal digits"),
        (change("ropeway.address", json!("somewhere")), "not host:port"),
        (change("ropeway.address", json!("1.1.1.1:1,".repeat(9))), "more than 8"),
        (change("remote_block_ids", json!([1, [2]])), "mixes ids and lists"),
        (change("remote_block_ids", json!([[-1]])), "no block id"),
        (change("remote_block_ids", json!([[0.5]])), "no block id"),
        (change("remote_num_tokens", json!(1e20)), "remote_num_tokens"),
        (change("do_remote_decode", json!(true)), "both true"),
        (change("do_remote_prefill", json!("yes")), "not true or false"),
        (json!(7), "not an object"),
    ] {
        match Params::of(&value) {
            Params::Unusable(why) => {
                assert!(why.contains(expected), "{why}");
                assert!(!why.contains("0707"), "{why}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(!format!("{:?}", owner()).contains("7, 7"), "a secret is shown");
}

#[test]
fn a_flat_list_of_ids_is_one_group_and_too_many_are_refused() {
    let mut said = lent(&owner(), slice::from_ref(&vec![1]));
    said["remote_block_ids"] = json!([4, 5.0, "6"]);
    assert_eq!(consumed(&said).block_ids, [vec![4, 5, 6]]);
    said["remote_block_ids"] = json!(vec![0; BLOCKS_MAX + 1]);
    assert!(matches!(Params::of(&said), Params::Unusable(why) if why.contains("131072 is the limit")));
    said["remote_block_ids"] = json!(vec![Vec::<u32>::new(); GROUPS_MAX + 1]);
    assert!(matches!(Params::of(&said), Params::Unusable(why) if why.contains("64 is the limit")));
}

#[test]
fn a_stranger_fills_no_log() {
    let said = json!({"do_remote_prefill": true, "remote_engine_id": "x".repeat(100_000)});
    let Params::Unusable(why) = Params::of(&said) else { panic!("it has no object of ours") };
    assert!(why.len() < 300, "{} bytes", why.len());
}

proptest! {
    #[test]
    fn any_ids_survive_the_way(ids in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..20), 0..5)) {
        let said = as_floats(&lent(&owner(), &ids));
        prop_assert_eq!(consumed(&said).block_ids, ids);
    }
}
