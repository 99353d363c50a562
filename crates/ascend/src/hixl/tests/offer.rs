use proptest::prelude::*;
use ropeway_core::ErrorKind;

use super::super::offer::{Api, Mode, Offer};
use super::super::way::{Way, Ways};
use crate::node::{Chip, NpuIds, SuperPod};

fn offer(node: &str, physical: u32) -> Offer {
    Offer {
        api: Api::Class,
        mode: Mode::ClientServer,
        release: "9.1.0".into(),
        engine: "10.0.0.1:17400".parse().unwrap(),
        node: node.into(),
        island: node.into(),
        chip: Chip::A2,
        ids: NpuIds { user: 0, physical, super_pod: None },
        ways: Ways::of([Way::Hccs, Way::Roce]),
        nic: Some([192, 168, 100, 1].into()),
        life: 1,
    }
}

#[test]
fn pods_of_one_node_are_joined_by_hccs_whatever_their_addresses() {
    let one = offer("node", 0);
    let two = Offer { engine: "10.0.0.2:17400".parse().unwrap(), ..offer("node", 1) };
    assert_eq!(one.way_to(&two).unwrap(), Way::Hccs);
    assert_eq!(one.way_to(&offer("other", 1)).unwrap(), Way::Roce);
    let ub = |node| Offer { chip: Chip::Ascend950, ways: Ways::of([Way::Ub]), ..offer(node, 1) };
    assert_eq!(ub("a").way_to(&ub("b")).unwrap(), Way::Ub);
}

#[test]
fn one_npu_of_one_node_is_refused_and_the_same_number_elsewhere_is_not() {
    let one = offer("node", 3);
    let error = one.way_to(&offer("node", 3)).unwrap_err();
    assert!(error.message().contains("NPU 3") && error.message().contains("ipc"), "{error}");
    // In a super-pod the island is one, the nodes are not.
    let pod = |node: &str| Offer { island: "7".into(), chip: Chip::A3, ..offer(node, 3) };
    assert_eq!(pod("one").way_to(&pod("two")).unwrap(), Way::Hccs);
}

#[test]
fn unlike_ends_are_refused_with_both_values() {
    let one = offer("one", 0);
    let cases = [
        (Offer { release: "9.0.0".into(), ..offer("two", 0) }, ["9.1.0", "9.0.0"]),
        (Offer { mode: Mode::Communicator, ..offer("two", 0) }, ["client/server", "communicator"]),
        (Offer { api: Api::C, ..offer("two", 0) }, ["class", "C"]),
    ];
    for (two, words) in cases {
        let error = one.way_to(&two).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    }
}

#[test]
fn no_common_way_names_the_side_without_a_network_address() {
    let one = offer("one", 0);
    let blind = Offer { ways: Ways::of([Way::Hccs]), nic: None, ..offer("two", 0) };
    let error = one.way_to(&blind).unwrap_err();
    assert!(
        error.message().contains("the peer has no address") && error.message().contains("hccn.conf"),
        "{error}"
    );
    let error = blind.way_to(&one).unwrap_err();
    assert!(error.message().contains("this side has no address"), "{error}");
    assert_eq!(blind.way_to(&Offer { ways: Ways::of([Way::Hccs]), ..offer("two", 1) }).unwrap(), Way::Hccs);
}

#[test]
fn each_way_tells_the_directions_that_it_has() {
    let list = |way: Way, chip| way.reach(chip).directions().collect::<Vec<_>>().join(" ");
    assert_eq!(list(Way::Hccs, Chip::A2), "D2rD rD2D");
    assert_eq!(list(Way::Hccs, Chip::A3), "D2rD rD2D H2rD rD2H");
    assert_eq!(list(Way::Roce, Chip::A2), "D2rD rD2D H2rD rD2H D2rH rH2D H2rH rH2H");
}

prop_compose! {
    fn any_offer()(
        c: bool, communicator: bool, release in "[0-9.]{1,20}", engine: (u32, u16), node in "[!-~]{1,128}",
        island in "[!-~]{1,128}", chip in 0usize..4, physical: u32, pod: Option<(u32, u32, u32)>, ways in 0u8..8,
        nic: Option<u128>, life: u64,
    ) -> Offer {
        Offer {
            api: if c { Api::C } else { Api::Class },
            mode: if communicator { Mode::Communicator } else { Mode::ClientServer },
            release,
            engine: (std::net::Ipv4Addr::from(engine.0), engine.1).into(),
            node,
            island,
            chip: [Chip::A2, Chip::A3, Chip::Ascend950, Chip::Other][chip],
            ids: NpuIds { user: 0, physical, super_pod: pod.map(|(id, server, device)| SuperPod { id, server, device }) },
            ways: Ways::from_bits(ways),
            nic: nic.map(|nic| std::net::Ipv6Addr::from(nic).into()),
            life,
        }
    }
}

proptest! {
    #[test]
    fn an_offer_is_read_back_as_it_was_written(offer in any_offer()) {
        let bytes = offer.encode();
        prop_assert!(bytes.len() <= 1024);
        prop_assert_eq!(Offer::decode(&bytes).unwrap(), offer);
    }

    #[test]
    fn a_damaged_offer_is_refused_or_read_without_a_panic(offer in any_offer(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = offer.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Offer::decode(&bytes);
        prop_assert!(Offer::decode(&offer.encode()[..cut.index(bytes.len())]).is_err());
    }
}
