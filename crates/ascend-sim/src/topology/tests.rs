use super::*;

#[test]
fn what_is_left_out_is_filled_in() {
    let text = r#"{"version":1,"chip":"a2","nodes":[
        {"name":"pod0","server":3,"devices":[{"physical":4},{"physical":5,"nic":""}]},
        {"name":"pod1","server":3,"devices":[{"physical":6}]},
        {"name":"far","devices":[{"physical":4}]}]}"#;
    let it = Topology::parse(text, PathBuf::from("/r")).unwrap();
    assert_eq!(it.nodes[0].devices[0].nic(), Some("10.77.3.5"));
    assert_eq!(it.nodes[0].devices[1].nic(), None);
    assert_eq!(it.nodes[2].server(), 2);
    assert_eq!(it.nodes[1].chip(), Chip::A2);
    assert_eq!(it.nodes[0].hccn_conf().lines().next(), Some("address_4=10.77.3.5"));
    assert_eq!(it.by_nic("10.77.2.5"), Some(DeviceKey { server: 2, physical: 4 }));
}

#[test]
fn two_pods_of_one_machine_are_one_hccs_island() {
    let text = r#"{"version":1,"chip":"a2","nodes":[
        {"name":"pod0","server":0,"devices":[{"physical":0}]},
        {"name":"pod1","server":0,"devices":[{"physical":1}]},
        {"name":"far","server":1,"devices":[{"physical":0}]}]}"#;
    let it = Topology::parse(text, PathBuf::new()).unwrap();
    let key = |server, physical| DeviceKey { server, physical };
    let near = it.reach(key(0, 0), key(0, 1));
    assert!(near.hccs && near.roce && near.same_server);
    let far = it.reach(key(0, 0), key(1, 0));
    assert!(!far.hccs && far.roce && !far.same_server);
    assert!(it.reach(key(0, 0), key(0, 0)).same);
}

#[test]
fn hccs_spans_the_super_pod_on_an_a3() {
    let it = Topology::uniform(Chip::A3, "9.1.0", 2, 2).unwrap();
    let reach = it.reach(DeviceKey { server: 0, physical: 0 }, DeviceKey { server: 1, physical: 1 });
    assert!(reach.hccs && !reach.same_server);
}

#[test]
fn a_topology_that_is_not_sound_is_refused() {
    for text in [
        "{}",
        r#"{"version":2,"nodes":[{"name":"a","devices":[]}]}"#,
        r#"{"version":1,"nodes":[]}"#,
        r#"{"version":1,"nodes":[{"name":"a","devices":[{"physical":0},{"physical":0}]}]}"#,
        r#"{"version":1,"nodes":[{"name":"a","devices":[]},{"name":"a","devices":[]}]}"#,
        r#"{"version":1,"nodes":[{"name":"a","devices":[],"colour":1}]}"#,
    ] {
        assert_eq!(Topology::parse(text, PathBuf::new()).unwrap_err().code, code::INVALID_FILE, "{text}");
    }
}
