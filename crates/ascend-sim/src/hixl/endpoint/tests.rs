use super::{Endpoint, Engine, Identity, Link, Placement, Protocol, Way, choose};
use crate::topology::{Chip, DeviceKey, Topology};

/// Two machines of two NPUs each.
fn machines(chip: Chip) -> Topology {
    Topology::uniform(chip, "9.1.0", 2, 2).unwrap()
}

fn identity(machines: &Topology, mode: Engine, net_instance: &str, server: u32, physical: u32) -> Identity {
    let device = DeviceKey { server, physical };
    let (node, found) = machines.device(device).unwrap();
    let endpoint = |protocol, id| Endpoint { protocol, placement: Placement::Device, id };
    Identity {
        name: format!("127.0.0.1:{server}{physical}"),
        process: 1,
        release: (9, 1),
        device,
        chip: node.chip(),
        mode,
        net_instance: net_instance.to_owned(),
        endpoints: vec![
            endpoint(Protocol::Roce, found.nic().unwrap().to_owned()),
            endpoint(Protocol::Hccs, physical.to_string()),
        ],
    }
}

fn link(machines: &Topology, near: &Identity, far: &Identity) -> Option<Link> {
    choose(near, far, false, machines).map(|way| way.link)
}

#[test]
fn hccs_stays_inside_an_island_and_roce_goes_between() {
    let machines = machines(Chip::A2);
    let end = |island, server, physical| identity(&machines, Engine::ClientServer, island, server, physical);
    assert_eq!(link(&machines, &end("a", 0, 0), &end("a", 0, 1)), Some(Link::Hccs));
    assert_eq!(link(&machines, &end("a", 0, 0), &end("b", 0, 1)), Some(Link::Roce), "two pods of one node");
    assert_eq!(link(&machines, &end("a", 0, 0), &end("b", 1, 1)), Some(Link::Roce));
    assert_eq!(link(&machines, &end("a", 0, 0), &end("a", 1, 1)), None, "one island in words only");
}

#[test]
fn an_a3_super_pod_is_one_island_of_several_machines() {
    let machines = machines(Chip::A3);
    let end = |server| identity(&machines, Engine::ClientServer, "0", server, 0);
    assert_eq!(link(&machines, &end(0), &end(1)), Some(Link::Hccs));
}

#[test]
fn an_address_that_is_not_the_devices_leads_nowhere() {
    let machines = machines(Chip::A2);
    let near = identity(&machines, Engine::ClientServer, "a", 0, 0);
    let mut far = identity(&machines, Engine::ClientServer, "b", 1, 0);
    far.endpoints[0].id = "10.99.0.1".to_owned();
    assert_eq!(link(&machines, &near, &far), None);
}

#[test]
fn a_communicator_takes_hccs_where_it_reaches_and_never_one_npu_twice() {
    let machines = machines(Chip::A2);
    let end = |server, physical| identity(&machines, Engine::Communicator, "", server, physical);
    assert_eq!(link(&machines, &end(0, 0), &end(0, 1)), Some(Link::Hccs));
    assert_eq!(link(&machines, &end(0, 0), &end(1, 1)), Some(Link::Roce));
    assert_eq!(link(&machines, &end(0, 0), &end(0, 0)), None);
    let intra = choose(&end(0, 0), &end(0, 1), true, &machines).map(|way| way.link);
    assert_eq!(intra, Some(Link::Roce), "HCCL_INTRA_ROCE_ENABLE");
}

#[test]
fn engines_of_different_kinds_do_not_link() {
    let machines = machines(Chip::A2);
    let near = identity(&machines, Engine::ClientServer, "a", 0, 0);
    let far = identity(&machines, Engine::Communicator, "a", 0, 1);
    assert_eq!(link(&machines, &near, &far), None);
}

#[test]
fn releases_do_not_mix() {
    let machines = machines(Chip::A2);
    let near = identity(&machines, Engine::Communicator, "", 0, 0);
    let far = Identity { release: (9, 0), ..identity(&machines, Engine::Communicator, "", 0, 1) };
    assert_eq!(link(&machines, &near, &far), None);
}

#[test]
fn hccs_does_not_reach_remote_host_memory_and_on_an_a2_none() {
    let machines = machines(Chip::A3);
    let end = |physical| identity(&machines, Engine::ClientServer, "0", 0, physical);
    let a3 = choose(&end(0), &end(1), false, &machines).unwrap();
    let a2 = Way { chip: Chip::A2, ..a3 };
    let roce = Way { link: Link::Roce, ..a2 };
    let table = |way: Way| {
        [(false, false), (true, false), (false, true), (true, true)].map(|(near, far)| way.carries(near, far))
    };
    assert_eq!(table(a3), [true, true, false, false]);
    assert_eq!(table(a2), [true, false, false, false]);
    assert_eq!(table(roce), [true; 4]);
}
