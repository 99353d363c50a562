//! The shim on CANN 8.5.0, whose HIXL has the thirteen oldest members and no C interface.

#[expect(dead_code, reason = "fewer calls are made here than in shim.rs")]
mod through;

use ascend_sys::shim::{ROPEWAY_HIXL_COMPLETED, ROPEWAY_HIXL_WRITE};
use ropeway_testkit::cann::SimCann;
use through::{Engine, Hbm, cann, descriptors, set_device};

const UNSUPPORTED: u32 = 103_905;

#[test]
fn members_that_are_not_there_are_said_to_be_unsupported() {
    let test = "members_that_are_not_there_are_said_to_be_unsupported";
    let Some(cann) = cann(test, &SimCann::default().release("8.5.0")) else { return };
    set_device(cann, 1);
    let far = Engine::new(cann);
    assert_eq!(far.initialize(&[]), 0);
    set_device(cann, 0);
    let near = Engine::new(cann);
    assert_eq!(near.initialize(&[]), 0);
    // SAFETY: takes nothing.
    assert_eq!(unsafe { (near.api.ropeway_hixl_features)() }, 0);
    let mut value = 0;
    // SAFETY: `value` is written where the member is there.
    assert_eq!(unsafe { (near.api.ropeway_hixl_capability)(1, &raw mut value) }, UNSUPPORTED);
    assert_eq!(near.connect_async(&far), UNSUPPORTED);
    assert_eq!(near.async_status(&far).0, UNSUPPORTED);
    assert!(cann.hixl_cs().is_err(), "8.5.0 has no C interface");
}

#[test]
fn the_oldest_members_are_enough_to_move_bytes() {
    let test = "the_oldest_members_are_enough_to_move_bytes";
    let Some(cann) = cann(test, &SimCann::default().release("8.5.0")) else { return };
    set_device(cann, 1);
    let (far, far_hbm) = (Engine::new(cann), Hbm::new(cann));
    assert_eq!(far.initialize(&[]), 0);
    far.register(&far_hbm).unwrap();
    set_device(cann, 0);
    let (near, near_hbm) = (Engine::new(cann), Hbm::new(cann));
    assert_eq!(near.initialize(&[]), 0);
    near.register(&near_hbm).unwrap();
    assert_eq!(near.connect(&far), 0);
    near_hbm.write(b"through thirteen members");
    let one = descriptors(&near_hbm, &far_hbm, 1, 24);
    let request = near.post(&far, ROPEWAY_HIXL_WRITE, &one).unwrap();
    assert_eq!(near.ended(request), (0, ROPEWAY_HIXL_COMPLETED));
    assert_eq!(far_hbm.read(24), b"through thirteen members");
}
