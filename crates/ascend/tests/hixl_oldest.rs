//! HIXL of CANN 8.5: the class without what came later, communicators inside, no C functions.

mod hixl_ends;

use hixl_ends::*;
use ropeway_ascend::hixl::offer::{Api, Mode};
use ropeway_ascend::hixl::way::Way;
use ropeway_core::{ErrorKind, Op};
use ropeway_testkit::cann::SimCann;

fn oldest() -> SimCann {
    SimCann::default().release("8.5.0").chip("a2")
}

#[test]
fn the_class_of_8_5_moves_bytes_by_communicators() {
    let Some(simulator) = of("hixl of 8.5", &oldest()) else { return };
    let _shared = simulator.shared();
    let (one, two) =
        (End::open(simulator, 0, Api::Class, |_| {}), End::open(simulator, 1, Api::Class, |_| {}));
    assert_eq!(one.facts().mode, Mode::Communicator);
    assert!(one.facts().release.starts_with("8.5.0"), "{}", one.facts().release);
    assert_eq!(one.native.limits().regions, Some(256));
    assert_eq!(one.native.limits().links, Some(512));
    let (mut from, _to) = link(&one, &two);
    two.memory.write(0, &pattern(100_000, 4)).unwrap();
    from.run(Op::Read, &[from.desc(8, 16, 99_000)]).unwrap();
    assert_eq!(one.bytes()[8..99_008], pattern(100_000, 4)[16..99_016]);
}

#[test]
fn pods_of_one_node_use_hccs_by_communicators_too() {
    let Some(simulator) = of("hixl of 8.5: pods", &oldest()) else { return };
    let _shared = simulator.shared();
    let pod = |device, address: [u8; 4]| {
        End::open(simulator, device, Api::Class, move |config| {
            config.address = Some(address.into());
            config.hccn_conf = Some("/nowhere/hccn.conf".into());
        })
    };
    let (one, two) = (pod(2, [127, 0, 0, 2]), pod(3, [127, 0, 0, 3]));
    assert_eq!(one.facts().way_to(two.facts()).unwrap(), Way::Hccs);
    let (mut from, _to) = link(&one, &two);
    two.memory.write(0, &pattern(4096, 9)).unwrap();
    from.run(Op::Read, &[from.desc(0, 0, 4096)]).unwrap();
    assert_eq!(one.bytes()[..4096], pattern(4096, 9));
}

#[test]
fn the_c_functions_are_missed_with_a_clear_word() {
    let Some(simulator) = of("hixl of 8.5: C functions", &oldest()) else { return };
    let _shared = simulator.shared();
    let error = End::try_open(simulator, 0, Api::C, |_| {}).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
