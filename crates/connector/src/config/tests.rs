use serde_json::json;

use ropeway::TransportKind;

use super::*;

const SEED: &str = r#"{"kv_connector":"RopewayConnector","kv_buffer_device":"npu","kv_role":"kv_producer","kv_parallel_size":1,
    "kv_port":"20001","engine_id":"0","kv_rank":0,"kv_connector_extra_config":{"prefill":{"dp_size":2,"tp_size":2},
    "decode":{"dp_size":2,"tp_size":2}}}"#;

fn with_own(own: serde_json::Value) -> Result<Config, ConfigError> {
    let value = json!({"kv_role": "kv_both", "kv_connector_extra_config": {"ropeway": own}});
    Config::from_value(value, &Environment::default())
}

#[test]
fn a_configuration_made_for_ascend_clusters_is_read_as_written() {
    let config = Config::from_json(SEED, &Environment::default()).unwrap();
    assert_eq!((config.role, config.port, config.engine_id.as_deref()), (Role::Producer, 20001, Some("0")));
    let two = Size { dp: Some(2), tp: Some(2), pp: None };
    assert_eq!(config.hints, Hints { prefill: two, decode: two });
    assert_eq!(config.failure_policy, FailurePolicy::Fail);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.scheduler_port(1), Ok(20002));
}

#[test]
fn a_declared_size_that_is_not_so_is_told_and_not_obeyed() {
    let config = Config::from_json(SEED, &Environment::default()).unwrap();
    assert_eq!(config.contradictions(true, 2, 2, 1), [""; 0]);
    let told = config.contradictions(true, 1, 2, 1);
    assert_eq!(told, ["prefill.dp_size is declared as 2 but the instance has 1; the instance counts"]);
}

#[test]
fn an_unknown_key_of_our_own_is_refused_with_the_nearest_name() {
    let error = with_own(json!({"lease_tl": 5})).unwrap_err().to_string();
    assert_eq!(error, "kv_connector_extra_config.ropeway.lease_tl is not known; did you mean \"lease_ttl\"?");
    let error = with_own(json!({"colour": "red"})).unwrap_err().to_string();
    assert!(error.contains("known keys: host, advertise"), "{error}");
}

#[test]
fn a_wrong_value_names_the_key_the_value_and_what_would_be_right() {
    for (own, expected) in [
        (json!({"port": 70000}), "ropeway.port is 70000; it must be a whole number from 0 to 65535"),
        (json!({"port": 1.5}), "ropeway.port is 1.5; it must be a whole number"),
        (json!({"lease_ttl": -1}), "ropeway.lease_ttl is -1; it must be a number of seconds above 0"),
        (json!({"transports": ["shm", "rdma"]}), "ropeway.transports is rdma; it must be of loopback, shm"),
        (json!({"mode": "pus"}), "ropeway.mode is pus; it must be pull or push"),
        (json!({"mode": "push"}), "ropeway.mode is push, and metaservers is empty"),
        (
            json!({"metaservers": ["http://proxy:1/path"]}),
            "ropeway.metaservers is http://proxy:1/path; it must be of origins",
        ),
        (json!({"metaservers": ["ftp://proxy:1"]}), "it must be of origins, as http://proxy:8000"),
        (json!({"host": "eth0"}), "ropeway.host is eth0; it must be an IP address"),
        (json!({"advertise": "0.0.0.0"}), "it must be an address that peers can reach"),
        (json!({"insecure": true, "psk_file": "/key"}), "contradict each other"),
        (json!({"lease_ttl": 0.01}), "lease_ttl"),
        (json!([]), "must be a JSON object"),
    ] {
        let error = with_own(own).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn own_keys_say_what_they_say() {
    let own = with_own(json!({
        "host": "10.0.0.5", "advertise": "10.1.1.1", "port": "0", "transports": "shm, tcp", "lease_ttl": "2.5",
        "metrics_alias": "nixl", "shared_memory": false,
    }))
    .unwrap()
    .own;
    assert_eq!(own.host, Some("10.0.0.5".parse().unwrap()));
    assert_eq!(own.advertise, Some("10.1.1.1:0".parse().unwrap()));
    assert_eq!(own.transports, [TransportKind::Shm, TransportKind::Tcp]);
    assert_eq!(own.lease_ttl, std::time::Duration::from_millis(2500));
    assert_eq!((own.metrics_alias, own.shared_memory), (MetricsAlias::Nixl, false));
    assert_eq!(own.limits().lease_ttl(), own.lease_ttl);
}

#[test]
fn the_names_that_are_suggested_are_the_names_that_are_read() {
    for name in own::NAMES {
        let error = with_own(json!({*name: {"no": "such"}})).unwrap_err().to_string();
        assert!(error.contains(&format!("ropeway.{name} is")), "{name} is not read: {error}");
    }
}

#[test]
fn surroundings_speak_where_the_configuration_is_silent() {
    let pod = Environment {
        hccl_if_ip: Some("10.2.2.2".to_owned()),
        host_ip: Some("127.0.0.1".to_owned()),
        psk_file: Some("/key".to_owned()),
    };
    let config = Config::from_value(json!({"kv_role": "kv_both"}), &pod).unwrap();
    assert_eq!(config.own.host, Some("10.2.2.2".parse().unwrap()));
    assert_eq!(config.own.psk_file, Some("/key".into()));
    let wrong = Environment { hccl_if_ip: Some("$(podIP)".to_owned()), ..Environment::default() };
    let error = Config::from_value(json!({"kv_role": "kv_both"}), &wrong).unwrap_err().to_string();
    assert!(error.contains("HCCL_IF_IP=$(podIP) is not an IP address"), "{error}");
}

#[test]
fn keys_in_the_wrong_place_are_told_and_the_lease_of_nixl_is_taken() {
    let value = json!({"kv_role": "kv_both", "kv_color": 1, "kv_connector_extra_config": {
        "kv_lease_duration": 12, "transports": ["tcp"], "someone_elses": 1}});
    let config = Config::from_value(value, &Environment::default()).unwrap();
    assert_eq!(config.own.lease_ttl, std::time::Duration::from_secs(12));
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings[1].contains("transports has no effect there"), "{:?}", config.warnings);
}

#[test]
fn migration_drops_what_new_versions_refuse_and_says_why() {
    let kept = migrate(SEED, "0.23.0").unwrap();
    assert!(kept.json.contains("kv_rank"), "{}", kept.json);
    let moved = migrate(SEED, "0.32").unwrap();
    let value: serde_json::Value = serde_json::from_str(&moved.json).unwrap();
    assert_eq!(value["kv_port"], 20001);
    for gone in ["kv_rank", "kv_parallel_size"] {
        assert!(value.get(gone).is_none(), "{gone} is still there");
        assert!(moved.why.iter().any(|why| why.starts_with(&format!("{gone} removed"))), "{:?}", moved.why);
    }
    let again = migrate(&moved.json, "0.32").unwrap();
    assert!(again.why.iter().all(|why| why.starts_with("note:")), "{:?}", again.why);
    assert_eq!(Config::from_json(&moved.json, &Environment::default()).unwrap().port, 20001);
}

#[test]
fn migration_names_our_connector_and_leaves_those_of_a_parent_alone() {
    let moved = migrate(r#"{"kv_connector":"MooncakeConnectorV1","kv_role":"kv_both"}"#, "0.32").unwrap();
    assert!(moved.json.contains("RopewayConnector"));
    assert_eq!(moved.why, [r#"kv_connector is RopewayConnector, not "MooncakeConnectorV1""#]);
    let parent = r#"{"kv_connector":"MultiConnector","kv_role":"kv_both"}"#;
    assert_eq!(migrate(parent, "0.32").unwrap().why, [""; 0]);
    assert!(migrate("{}", "main").is_err());
    assert!(migrate("[]", "0.32").is_err());
}

#[test]
fn migration_looks_into_the_children_of_a_parent() {
    let parent = |own: serde_json::Value| {
        json!({"kv_connector": "MultiConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"connectors": [
            {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_rank": 0},
            {"kv_connector": "RopewayConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"ropeway": own}},
        ]}})
        .to_string()
    };
    let moved = migrate(&parent(json!({"port": 0})), "0.32").unwrap();
    assert_eq!(moved.why.len(), 1, "{:?}", moved.why);
    assert!(
        moved.why[0].starts_with("kv_connector_extra_config.connectors[0].kv_rank removed"),
        "{:?}",
        moved.why
    );
    assert!(moved.json.contains("OffloadingConnector") && !moved.json.contains("kv_rank"), "{}", moved.json);
    let error = migrate(&parent(json!({"prot": 0})), "0.32").unwrap_err().to_string();
    assert!(error.ends_with(r#"ropeway.prot is not known; did you mean "port"?"#), "{error}");
}

#[test]
fn migration_refuses_what_it_does_not_know_and_guesses_nothing() {
    for (json, expected) in [
        (r#"{"kv_rol":"kv_both"}"#, r#"kv_transfer_config.kv_rol is not known; did you mean "kv_role"?"#),
        (r#"{"kv_role":"kv_both","colour":1}"#, "colour is not known; none of vLLM's fields is called so"),
        (r#"{"kv_port":1}"#, "kv_transfer_config.kv_role is not set; it must be kv_producer"),
        (
            r#"{"kv_role":"kv_both","kv_connector_extra_config":{"ropeway":{"lease_tl":5}}}"#,
            r#"ropeway.lease_tl is not known; did you mean "lease_ttl"?"#,
        ),
    ] {
        let error = migrate(json, "0.32").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let noted = r#"{"kv_role":"kv_both","kv_connector":"RopewayConnector","kv_connector_extra_config":{"lease_ttl":5}}"#;
    assert!(migrate(noted, "0.32").unwrap().why[0].contains(r#"write it under "ropeway" as lease_ttl"#));
}

/// The rows of a table of docs/VLLM.md: name, value, default.
fn documented() -> Vec<[String; 3]> {
    let page = include_str!("../../../../docs/VLLM.md");
    let section =
        page.split("\n## ").find(|section| section.starts_with("Its own keys\n")).expect("the section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        [cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), cells[3].to_owned()]
    })
    .collect()
}

#[test]
fn the_page_names_every_key_what_it_may_hold_and_what_it_holds_unless_said() {
    let rows = documented();
    let mut names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let mut known = own::NAMES.to_vec();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "docs/VLLM.md and the keys differ");

    let silent = with_own(json!({})).unwrap();
    for [name, value, default] in rows {
        // What a wrong value is told is what the page says; some are told more than one thing.
        let told: Vec<String> = [json!({"no": "such"}), json!("?")]
            .into_iter()
            .filter_map(|wrong| Some(with_own(json!({name.as_str(): wrong})).err()?.to_string()))
            .collect();
        assert!(
            told.iter().any(|told| told.ends_with(&format!("must be {value}"))),
            "{name}: {value}: {told:?}"
        );
        let literal = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        match literal.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()) {
            Some(said) => {
                assert_eq!(with_own(json!({name.as_str(): said})).unwrap(), silent, "{name}: {default}")
            }
            None => assert!(
                ["host", "advertise", "port", "psk_file", "node"].contains(&name.as_str()),
                "{name}: {default} is no value"
            ),
        }
    }
}
