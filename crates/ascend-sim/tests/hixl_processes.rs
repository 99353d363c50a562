//! Engines of two processes: bytes move past the passive one, whatever it does.

mod links;

use std::ffi::CString;
use std::time::Duration;

use ascend_sim::ffi::{In, Text};
use ascend_sim::hixl::ffi::*;
use ascend_sim::runtime::ropeway_sim_configure;
use links::*;

/// Addresses of the two nodes: what tells islands apart on an A2.
const ISLANDS: [&str; 2] = ["127.0.1.1", "127.0.1.2"];

/// The other process: an engine with 2 MiB of device memory and 64 KiB of the host's, that does as it is told.
#[test]
fn a_part_for_another_process() {
    match part().as_deref() {
        Some("server") => serve(),
        Some("bare") => bare(),
        Some("client") => write_for_ever(),
        Some("two") => two_here(),
        _ => {}
    }
}

fn serve() {
    machine("a2", "");
    on(3);
    let port = device_port();
    let island = ISLANDS[usize::from(std::env::var("LINKS_NODE").unwrap() == "two")];
    let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
    let engine = Engine::try_new(&format!("{island}:{}", free_port()), &options).unwrap();
    let device = hbm(3, 2 << 20);
    engine.device(&device);
    let host_at = pinned(65_536);
    engine.register(host_at, 65_536, true).unwrap();
    say(&format!("{} {} {host_at}", engine.name.to_str().unwrap(), device.va));
    while let Some(words) = listen() {
        match words[0].as_str() {
            "fill" => {
                fill(device.va, 65_536, words[1].parse().unwrap());
                fill(host_at, 65_536, words[1].parse().unwrap());
                say("filled");
            }
            "seed" => {
                // The first byte of the pattern is its seed.
                say(&format!("{} {}", bytes(device.va, 1)[0], bytes(host_at, 1)[0]));
            }
            other => panic!("{other}"),
        }
    }
}

/// An engine of this process on the first node's device 0, linked to a child's.
struct Near {
    engine: Engine,
    here: u64,
    child: Child,
    far: Engine,
    device: u64,
    host: u64,
}

impl Near {
    fn new(node: &str) -> Self {
        let mut child = Child::new("a_part_for_another_process", "server", node);
        let words = child.hear();
        let far = Engine { handle: 0, name: CString::new(words[0].as_str()).unwrap() };
        let (device, host) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        machine("a2", "");
        on(0);
        let port = device_port();
        let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
        let name = format!("{}:{}", ISLANDS[0], free_port());
        let engine = Engine::try_new(&name, &options).unwrap();
        let memory = hbm(0, 2 << 20);
        engine.device(&memory);
        assert_eq!(engine.connect(&far), SUCCESS);
        Self { engine, here: memory.va, child, far, device, host }
    }

    fn run(&self, op: u32, remote: u64, ms: i32) -> u32 {
        self.engine.sync(&self.far, op, &[SimHixlDesc { local: self.here, remote, len: 65_536 }], ms)
    }
}

#[test]
fn roce_reaches_device_and_host_memory_of_a_process_on_another_node() {
    let mut near = Near::new("two");
    assert_eq!(near.child.ask("fill 9"), ["filled"]);
    for remote in [near.device, near.host] {
        fill(near.here, 65_536, 1);
        assert_eq!(near.run(READ, remote, PATIENCE), SUCCESS);
        assert_eq!(bytes(near.here, 1), [9]);
        fill(near.here, 65_536, 4);
        assert_eq!(near.run(WRITE, remote, PATIENCE), SUCCESS);
    }
    assert_eq!(near.child.ask("seed"), ["4", "4"]);
}

#[test]
fn hccs_reaches_device_memory_only_of_a_process_on_this_node() {
    let mut near = Near::new("one");
    assert_eq!(near.child.ask("fill 9"), ["filled"]);
    assert_eq!(near.run(READ, near.host, PATIENCE), PARAM_INVALID);
    assert_eq!(near.run(READ, near.device, PATIENCE), SUCCESS);
    assert_eq!(bytes(near.here, 1), [9]);
}

#[test]
fn a_stopped_process_is_read_and_written_all_the_same() {
    let mut near = Near::new("two");
    near.child.signal(libc::SIGSTOP);
    fill(near.here, 65_536, 6);
    assert_eq!(near.run(WRITE, near.device, PATIENCE), SUCCESS);
    let notify = |ms| {
        let (name, message) = (In::from(&b"n"[..]), In::from(&b"m"[..]));
        sim_hixl_send_notify(near.engine.handle, near.far.name(), name, 1, message, 1, ms)
    };
    assert_eq!(notify(100), TIMEOUT, "a notify waits for its receiver");
    near.child.signal(libc::SIGCONT);
    assert_eq!(near.child.ask("seed")[0], "6");
}

#[test]
fn a_dead_process_is_a_timeout_and_its_port_is_closed() {
    let mut near = Near::new("two");
    near.child.kill();
    assert_eq!(near.run(WRITE, near.device, 100), TIMEOUT);
    assert_eq!(near.run(WRITE, near.device, 100), FAILED);
    assert_eq!(near.engine.disconnect(&near.far), SUCCESS);
    assert_eq!(near.engine.connect(&near.far), FAILED);
}

#[test]
fn auto_connect_lets_go_of_a_dead_peer() {
    let mut near = Near::new("two");
    let port = device_port();
    let options = [CLIENT_SERVER, ("AutoConnect", "1"), ("GlobalResourceConfig", port.as_str())];
    let engine = Engine::try_new(&format!("{}:{}", ISLANDS[0], free_port()), &options).unwrap();
    engine.register(near.here, 2 << 20, false).unwrap();
    let desc = [SimHixlDesc { local: near.here, remote: near.device, len: 64 }];
    assert_eq!(engine.sync(&near.far, WRITE, &desc, PATIENCE), SUCCESS);
    near.child.kill();
    assert_eq!(engine.sync(&near.far, WRITE, &desc, PATIENCE), FAILED, "nobody listens there any more");
}

/// Posts writes until it is killed.
fn write_for_ever() {
    machine("a2", "");
    on(4);
    let port = device_port();
    let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
    let engine = Engine::try_new(&format!("{}:{}", ISLANDS[1], free_port()), &options).unwrap();
    let memory = hbm(4, 2 << 20);
    engine.device(&memory);
    say("ready");
    let words = listen().unwrap();
    let far = Engine { handle: 0, name: CString::new(words[0].as_str()).unwrap() };
    assert_eq!(engine.connect(&far), SUCCESS);
    let desc = [SimHixlDesc { local: memory.va, remote: words[1].parse().unwrap(), len: 4096 }];
    for round in 0_u64.. {
        fill(memory.va, 4096, round as u8);
        assert_eq!(engine.sync(&far, WRITE, &desc, PATIENCE), SUCCESS);
        if round == 0 {
            say("writing");
        }
    }
}

#[test]
fn the_passive_side_outlives_a_client_that_is_killed() {
    let mut child = Child::new("a_part_for_another_process", "client", "two");
    assert_eq!(child.hear(), ["ready"]);
    machine("a2", "");
    on(1);
    let (engine, memory) = (Engine::cs(), hbm(1, 2 << 20));
    engine.device(&memory);
    let told = format!("{} {}", engine.name.to_str().unwrap(), memory.va);
    assert_eq!(child.ask(&told), ["writing"]);
    child.kill();
    let then = bytes(memory.va, 4096);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bytes(memory.va, 4096), then, "a dead process writes no more");
    let two = Two::apart(&[CLIENT_SERVER]);
    assert_eq!(two.near.connect(&engine), SUCCESS);
}

/// A machine whose `hccn.conf` is not mounted.
fn bare() {
    let folder = state().join("bare");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("topology.json");
    let text = r#"{"version":1,"chip":"a2","nodes":[{"name":"one","devices":[{"physical":0}]}]}"#;
    std::fs::write(&file, text).unwrap();
    let json = format!(r#"{{"node":"one","topology":{file:?},"state":{folder:?}}}"#);
    let json = CString::new(json).unwrap();
    assert_eq!(ropeway_sim_configure(Text::from(json.as_c_str())), 0);
    on(0);
    let result = |options: &[(&str, &str)]| Engine::try_new("127.0.0.1", options).err().unwrap_or(SUCCESS);
    let without = result(&[CLIENT_SERVER]);
    let given =
        r#"{"version":"1.3","endpoint_list":[{"protocol":"hccs","comm_id":"0","placement":"device"}]}"#;
    let with = result(&[("LocalCommRes", given)]);
    let etc = folder.join("etc/one");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("hccn.conf"), "address_0=10.77.0.1\n").unwrap();
    say(&format!("{without} {with} {}", result(&[CLIENT_SERVER])));
}

#[test]
fn generated_endpoints_need_hccn_conf() {
    let mut child = Child::new("a_part_for_another_process", "bare", "one");
    assert_eq!(child.hear(), ["103900", "0", "0"]);
}

/// Two engines of one island: whether the one's device memory reaches the other's host memory, which HCCS does not.
fn two_here() {
    machine("a2", "");
    on(6);
    let far = Engine::cs();
    let host = pinned(4096);
    far.register(host, 4096, true).unwrap();
    on(7);
    let (near, here) = (Engine::cs(), hbm(7, 1));
    near.device(&here);
    assert_eq!(near.connect(&far), SUCCESS);
    let desc = [SimHixlDesc { local: here.va, remote: host, len: 64 }];
    say(&near.sync(&far, READ, &desc, PATIENCE).to_string());
}

#[test]
fn a_variable_forces_roce_inside_an_island() {
    for (value, expected) in [("0", "103900"), ("1", "0")] {
        let variables = [("HCCL_INTRA_ROCE_ENABLE", value)];
        let mut child = Child::with("a_part_for_another_process", "two", "two", &variables);
        assert_eq!(child.hear(), [expected], "HCCL_INTRA_ROCE_ENABLE={value}");
    }
}
