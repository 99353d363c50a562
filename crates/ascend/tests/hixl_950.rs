//! HIXL on the Ascend 950: UB, whose endpoints only the class finds.

mod hixl_ends;

use hixl_ends::*;
use ropeway_ascend::hixl::offer::{Api, Mode};
use ropeway_ascend::hixl::way::Way;
use ropeway_core::{ErrorKind, Op};
use ropeway_testkit::cann::SimCann;

#[test]
fn the_class_finds_ub_by_itself_and_the_c_functions_are_refused() {
    let Some(simulator) = of("hixl on 950", &SimCann::default().chip("950")) else { return };
    let _shared = simulator.shared();
    // No hccn.conf is needed.
    let open = |device| {
        End::open(simulator, device, Api::Class, |config| {
            config.hccn_conf = Some("/nowhere/hccn.conf".into())
        })
    };
    let (one, two) = (open(0), open(1));
    assert_eq!(one.facts().mode, Mode::ClientServer);
    assert_eq!(one.facts().way_to(two.facts()).unwrap(), Way::Ub);
    let (mut from, _to) = link(&one, &two);
    two.memory.write(0, &pattern(4096, 9)).unwrap();
    from.run(Op::Read, &[from.desc(0, 0, 4096)]).unwrap();
    assert_eq!(one.bytes()[..4096], pattern(4096, 9));
    let error = End::try_open(simulator, 2, Api::C, |_| {}).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("UB"), "{error}");
}
