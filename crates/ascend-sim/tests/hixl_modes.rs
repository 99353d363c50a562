//! Which engine and which link HIXL takes, and what each can reach.

mod links;

use ascend_sim::hbm::Page;
use ascend_sim::hixl::ffi::*;
use ascend_sim::runtime::runtime;
use links::*;

/// Communicator mode without buffers.
const DIRECT: (&str, &str) = ("BufferPool", "0:0");

fn endpoints(island: &str, list: &str) -> String {
    format!(r#"{{"version":"1.3","net_instance_id":"{island}","endpoint_list":[{list}]}}"#)
}

fn hccs(physical: u32) -> String {
    format!(r#"{{"protocol":"hccs","comm_id":"{physical}","placement":"device"}}"#)
}

fn roce(physical: u32) -> String {
    format!(r#"{{"protocol":"roce","comm_id":"10.77.0.{}","placement":"device"}}"#, physical + 1)
}

/// An engine on a device, with these options, and 4 MiB of its memory.
fn engine(device: i32, options: &[(&str, &str)]) -> (Engine, ascend_sim::hbm::Range) {
    machine("a2", "");
    on(device);
    let (engine, memory) = (Engine::new(options), hbm(device, 4 << 20));
    engine.device(&memory);
    (engine, memory)
}

/// Whether the first engine's device memory reaches the other's host memory, which HCCS does not.
fn reaches_host(near: &Engine, here: &ascend_sim::hbm::Range, far: &Engine, host: u64) -> u32 {
    let desc = SimHixlDesc { local: here.va, remote: host, len: 64 };
    near.sync(far, READ, &[desc], PATIENCE)
}

#[test]
fn communicator_mode_moves_bytes_and_reports_as_the_other() {
    let two = Two::linked(&[DIRECT]);
    fill(two.here.va, 1 << 20, 4);
    assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 1 << 20)], PATIENCE), SUCCESS);
    assert_eq!(bytes(two.there.va, 1 << 20), bytes(two.here.va, 1 << 20));
    let request = two.near.post(&two.far, READ, &[two.desc(0, 64)], 0).unwrap();
    assert_eq!(two.near.end(request), COMPLETED);
}

#[test]
fn communicator_mode_has_256_regions() {
    machine("a2", "");
    on(2);
    let (engine, memory) = (Engine::new(&[DIRECT]), hbm(2, 4 << 20));
    for i in 0..256 {
        engine.register(memory.va + i * 8192, 4096, false).unwrap();
    }
    assert_eq!(engine.register(memory.va + 256 * 8192, 4096, false), Err(RESOURCE_EXHAUSTED));
}

#[test]
fn communicator_mode_does_not_link_one_npu_to_itself() {
    let (near, _) = engine(2, &[DIRECT]);
    let (far, _) = engine(2, &[DIRECT]);
    assert_eq!(near.connect(&far), FAILED);
}

#[test]
fn links_are_limited() {
    let (far, _) = engine(1, &[DIRECT]);
    let (other, _) = engine(2, &[DIRECT]);
    let one = device_port().replace('}', r#","channel_pool.max_channel":"1"}"#);
    let (near, _) = engine(0, &[DIRECT, ("GlobalResourceConfig", &one)]);
    assert_eq!(near.connect(&far), SUCCESS);
    assert_eq!(near.connect(&other), RESOURCE_EXHAUSTED);
    assert_eq!(near.disconnect(&far), SUCCESS);
    assert_eq!(near.connect(&other), SUCCESS);
}

#[test]
fn engines_of_different_kinds_do_not_link() {
    let (far, _) = engine(1, &[DIRECT]);
    let (near, _) = engine(0, &[CLIENT_SERVER]);
    assert_eq!(near.connect(&far), FAILED);
}

#[test]
fn unregistered_memory_goes_through_buffers_only_where_there_are_some() {
    let host = vec![7_u8; 4096];
    for (options, expected) in [(&[][..], SUCCESS), (&[DIRECT][..], PARAM_INVALID)] {
        let two = Two::linked(options);
        let desc = SimHixlDesc { local: host.as_ptr() as u64, remote: two.there.va, len: 4096 };
        assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), expected);
        // Direct only; and one kind of copy in a call.
        assert_eq!(two.near.post(&two.far, WRITE, &[desc], 0), Err(PARAM_INVALID));
        assert_eq!(two.near.sync(&two.far, WRITE, &[desc, two.desc(4096, 64)], PATIENCE), PARAM_INVALID);
        if expected == SUCCESS {
            assert_eq!(bytes(two.there.va, 4096), host);
        }
    }
}

#[test]
fn two_pods_of_one_node_use_hccs_only_when_they_say_they_are_one_island() {
    for (island, reached) in [("node", PARAM_INVALID), ("pod-b", SUCCESS)] {
        let far_options = endpoints(island, &format!("{},{}", roce(1), hccs(1)));
        let (far, _) = engine(1, &[("LocalCommRes", &far_options)]);
        let host = pinned(4096);
        far.register(host, 4096, true).unwrap();
        let near_options = endpoints("node", &format!("{},{}", roce(0), hccs(0)));
        let (near, here) = engine(0, &[("LocalCommRes", &near_options)]);
        assert_eq!(near.connect(&far), SUCCESS);
        assert_eq!(reaches_host(&near, &here, &far, host), reached, "{island}");
    }
}

#[test]
fn the_island_of_generated_endpoints_is_the_host_address_on_an_a2() {
    let (near, here) = engine(0, &[CLIENT_SERVER]);
    on(1);
    let port = device_port();
    for (ip, reached) in [("127.0.0.1", PARAM_INVALID), ("127.0.0.9", SUCCESS)] {
        let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
        on(1);
        let far = Engine::try_new(&format!("{ip}:{}", free_port()), &options).unwrap();
        let host = pinned(4096);
        far.register(host, 4096, true).unwrap();
        on(0);
        assert_eq!(near.connect(&far), SUCCESS);
        assert_eq!(reaches_host(&near, &here, &far, host), reached, "{ip}");
    }
}

#[test]
fn a_forced_protocol_is_the_only_one() {
    let forced = |port: String, protocol: &str| {
        port.replace('}', &format!(r#","comm_resource_config.protocol_desc":["{protocol}:device"]}}"#))
    };
    for (protocol, reached) in [("roce", SUCCESS), ("hccs", PARAM_INVALID)] {
        let (a, b) = (forced(device_port(), protocol), forced(device_port(), protocol));
        let (far, _) = engine(1, &[("GlobalResourceConfig", &a)]);
        let host = pinned(4096);
        far.register(host, 4096, true).unwrap();
        let (near, here) = engine(0, &[("GlobalResourceConfig", &b)]);
        assert_eq!(near.connect(&far), SUCCESS);
        assert_eq!(reaches_host(&near, &here, &far, host), reached, "{protocol}");
    }
}

#[test]
fn an_endpoint_of_another_npu_does_not_link() {
    let wrong = endpoints("node", &hccs(5));
    let (far, _) = engine(1, &[("LocalCommRes", &wrong)]);
    let near_options = endpoints("node", &hccs(0));
    let (near, _) = engine(0, &[("LocalCommRes", &near_options)]);
    assert_eq!(near.connect(&far), FAILED);
}

#[test]
fn hccs_asks_for_2_mib_pages() {
    machine("a2", "");
    on(3);
    let runtime = runtime().unwrap();
    let small = runtime.hbm.alloc(runtime.key(3).unwrap(), 8192, 8192, Page::Normal).unwrap();
    let (with, without) = (endpoints("node", &hccs(3)), endpoints("node", &roce(3)));
    let with = Engine::new(&[("LocalCommRes", &with)]);
    assert_eq!(with.register(small.va, 8192, false), Err(FAILED));
    let without = Engine::new(&[("LocalCommRes", &without)]);
    assert!(without.register(small.va, 8192, false).is_ok());
}

#[test]
fn two_listeners_on_one_npu_need_ports_of_their_own() {
    machine("a2", "");
    on(6);
    let name = || format!("127.0.0.1:{}", free_port());
    let first = Engine::try_new(&name(), &[CLIENT_SERVER]).unwrap();
    assert_eq!(Engine::try_new(&name(), &[CLIENT_SERVER]).err(), Some(FAILED), "both want 16666");
    let port = device_port();
    let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
    assert!(Engine::try_new(&name(), &options).is_ok());
    sim_hixl_finalize(first.handle);
    assert!(Engine::try_new(&name(), &[CLIENT_SERVER]).is_ok());
}

#[test]
fn host_and_device_memory_reach_each_other_in_all_directions_over_roce() {
    let (near_roce, far_roce) = (endpoints("node", &roce(0)), endpoints("node", &roce(1)));
    let (far, there) = engine(1, &[("LocalCommRes", &far_roce)]);
    let b = pinned(65_536);
    far.register(b, 65_536, true).unwrap();
    let (near, here) = engine(0, &[("LocalCommRes", &near_roce)]);
    let a = pinned(65_536);
    near.register(a, 65_536, true).unwrap();
    assert_eq!(near.connect(&far), SUCCESS);
    for (local, remote) in [(here.va, there.va), (here.va, b), (a, there.va), (a, b)] {
        for (op, from, to, seed) in [(WRITE, local, remote, 3), (READ, remote, local, 5)] {
            fill(from, 65_536, seed);
            let desc = SimHixlDesc { local, remote, len: 65_536 };
            assert_eq!(near.sync(&far, op, &[desc], PATIENCE), SUCCESS);
            assert_eq!(bytes(to, 65_536), bytes(from, 65_536));
        }
    }
}

#[test]
fn host_memory_must_be_pinned_on_an_a2() {
    machine("a2", "");
    on(0);
    let (engine, plain) = (Engine::cs(), vec![0_u8; 8192]);
    assert_eq!(engine.register(plain.as_ptr() as u64, 8192, true), Err(PARAM_INVALID));
    let memory = pinned(8192);
    assert!(engine.register(memory, 8192, true).is_ok());
    assert_eq!(engine.register(memory + 4096, 8192, true), Err(PARAM_INVALID), "past its end");
}

#[test]
fn fabric_memory_is_for_the_a3() {
    machine("a2", "");
    on(0);
    assert_eq!(Engine::try_new("127.0.0.1", &[("EnableUseFabricMem", "1")]).err(), Some(UNSUPPORTED));
}
