//! `hixl::Hixl` of CANN 9.1.0 through the shim, end to end: engine to shim to class to simulator and back.

mod through;

use ascend_sys::Cann;
use ascend_sys::shim::{
    ROPEWAY_HIXL_ABI, ROPEWAY_HIXL_BROKEN, ROPEWAY_HIXL_COMPLETED, ROPEWAY_HIXL_CONNECTED, ROPEWAY_HIXL_READ,
    ROPEWAY_HIXL_WRITE,
};
use ropeway_testkit::cann::SimCann;
use through::{Engine, HBM, Hbm, cann, descriptors, eventually, set_device};

const PARAM_INVALID: u32 = 103_900;
const NOT_CONNECTED: u32 = 103_902;
const ALREADY_CONNECTED: u32 = 103_903;
const FAILED: u32 = 503_900;

fn pattern(seed: u8) -> Vec<u8> {
    (0..HBM).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

/// Two engines on two devices of one node, each with its own registered memory, the first connected to the second.
struct Pair {
    cann: &'static Cann,
    near: Engine,
    far: Engine,
    near_hbm: Hbm,
    far_hbm: Hbm,
}

impl Pair {
    /// On the calling thread, which is left on the first device.
    fn new(test: &str) -> Option<Self> {
        let cann = cann(test, &SimCann::default())?;
        set_device(cann, 1);
        let (far, far_hbm) = (Engine::listening(cann), Hbm::new(cann));
        far.register(&far_hbm).unwrap();
        set_device(cann, 0);
        let (near, near_hbm) = (Engine::listening(cann), Hbm::new(cann));
        near.register(&near_hbm).unwrap();
        assert_eq!(near.connect(&far), 0);
        Some(Self { cann, near, far, near_hbm, far_hbm })
    }

    /// Calls the second engine from its own device.
    fn on_far(&self, call: impl FnOnce(&Engine)) {
        set_device(self.cann, 1);
        call(&self.far);
        set_device(self.cann, 0);
    }
}

#[test]
fn bytes_go_both_ways_in_the_right_places() {
    let Some(pair) = Pair::new("bytes_go_both_ways_in_the_right_places") else { return };
    let (there, back) = (pattern(1), pattern(2));
    pair.near_hbm.write(&there);
    let all = descriptors(&pair.near_hbm, &pair.far_hbm, 16, (HBM / 16) as u64);
    assert_eq!(pair.near.transfer(&pair.far, ROPEWAY_HIXL_WRITE, &all), 0);
    assert!(pair.far_hbm.read(HBM) == there);
    pair.far_hbm.write(&back);
    let request = pair.near.post(&pair.far, ROPEWAY_HIXL_READ, &all).unwrap();
    assert_eq!(pair.near.ended(request), (0, ROPEWAY_HIXL_COMPLETED));
    assert!(pair.near_hbm.read(HBM) == back);
}

#[test]
fn a_transfer_larger_than_the_room_that_is_kept_moves_too() {
    let Some(pair) = Pair::new("a_transfer_larger_than_the_room_that_is_kept_moves_too") else { return };
    let there = pattern(3);
    pair.near_hbm.write(&there);
    // 131,072 descriptors: twice what a thread keeps room for.
    let many = descriptors(&pair.near_hbm, &pair.far_hbm, HBM / 16, 16);
    for few in [&many[..1], &many[..], &many[..3]] {
        let request = pair.near.post(&pair.far, ROPEWAY_HIXL_WRITE, few).unwrap();
        assert_eq!(pair.near.ended(request), (0, ROPEWAY_HIXL_COMPLETED));
    }
    assert!(pair.far_hbm.read(HBM) == there);
}

#[test]
fn an_end_is_told_once() {
    let Some(pair) = Pair::new("an_end_is_told_once") else { return };
    let one = descriptors(&pair.near_hbm, &pair.far_hbm, 1, 4096);
    let request = pair.near.post(&pair.far, ROPEWAY_HIXL_WRITE, &one).unwrap();
    assert_eq!(pair.near.ended(request), (0, ROPEWAY_HIXL_COMPLETED));
    assert_eq!(pair.near.ask(request), (PARAM_INVALID, ROPEWAY_HIXL_BROKEN));
}

#[test]
fn statuses_of_a_link_come_through() {
    let Some(pair) = Pair::new("statuses_of_a_link_come_through") else { return };
    let one = descriptors(&pair.near_hbm, &pair.far_hbm, 1, 64);
    assert_eq!(pair.near.connect(&pair.far), ALREADY_CONNECTED);
    pair.on_far(|far| {
        let back = descriptors(&pair.far_hbm, &pair.near_hbm, 1, 64);
        assert_eq!(far.transfer(&pair.near, ROPEWAY_HIXL_READ, &back), NOT_CONNECTED, "links go one way");
    });
    assert_eq!(pair.near.transfer(&pair.far, ROPEWAY_HIXL_WRITE, &[]), PARAM_INVALID);
    let mut outside = one.clone();
    outside[0].remote += HBM as u64;
    assert_eq!(pair.near.transfer(&pair.far, ROPEWAY_HIXL_WRITE, &outside), PARAM_INVALID);
    assert_eq!(pair.near.transfer(&pair.far, ROPEWAY_HIXL_WRITE, &one), 0);
    assert_eq!(pair.near.disconnect(&pair.far), 0);
    assert_eq!(pair.near.disconnect(&pair.far), NOT_CONNECTED);
    assert_eq!(pair.near.transfer(&pair.far, ROPEWAY_HIXL_WRITE, &one), NOT_CONNECTED);
}

#[test]
fn two_peers_are_not_taken_for_each_other() {
    let Some(pair) = Pair::new("two_peers_are_not_taken_for_each_other") else { return };
    set_device(pair.cann, 2);
    let (other, other_hbm) = (Engine::listening(pair.cann), Hbm::new(pair.cann));
    other.register(&other_hbm).unwrap();
    set_device(pair.cann, 0);
    assert_eq!(pair.near.connect(&other), 0);
    for seed in 4..8 {
        let (peer, hbm) = if seed % 2 == 0 { (&pair.far, &pair.far_hbm) } else { (&other, &other_hbm) };
        pair.near_hbm.write(&pattern(seed)[..4096]);
        let one = descriptors(&pair.near_hbm, hbm, 1, 4096);
        assert_eq!(pair.near.transfer(peer, ROPEWAY_HIXL_WRITE, &one), 0);
    }
    assert!(pair.far_hbm.read(4096) == pattern(6)[..4096]);
    assert!(other_hbm.read(4096) == pattern(7)[..4096]);
}

#[test]
fn a_call_before_initialize_or_after_finalize_fails() {
    let Some(cann) = cann("a_call_before_initialize_or_after_finalize_fails", &SimCann::default()) else {
        return;
    };
    set_device(cann, 0);
    let (engine, memory) = (Engine::new(cann), Hbm::new(cann));
    assert_eq!(engine.register(&memory), Err(FAILED));
    assert_eq!(engine.initialize(&[]), 0);
    let handle = engine.register(&memory).unwrap();
    assert_eq!(engine.deregister(handle), 0);
    engine.finalize();
    assert_eq!(engine.register(&memory), Err(FAILED));
}

#[test]
fn an_option_that_hixl_does_not_know_is_refused() {
    let Some(cann) = cann("an_option_that_hixl_does_not_know_is_refused", &SimCann::default()) else {
        return;
    };
    set_device(cann, 0);
    let engine = Engine::new(cann);
    assert_eq!(engine.initialize(&[(c"Colour", c"red")]), PARAM_INVALID);
}

#[test]
fn notifies_arrive_whole_and_in_order() {
    let Some(pair) = Pair::new("notifies_arrive_whole_and_in_order") else { return };
    let sent: [(&[u8], &[u8]); 3] = [(b"first", b"one\0two"), (b"", b"nameless"), (b"third", b"")];
    for (name, message) in sent {
        assert_eq!(pair.near.notify(&pair.far, name, message), 0);
    }
    let mut arrived = Vec::new();
    eventually("three notifies arrive", || {
        arrived.append(&mut pair.far.notifies());
        (arrived.len() >= 3).then_some(())
    });
    let arrived: Vec<_> =
        arrived.iter().map(|(name, message)| (name.as_slice(), message.as_slice())).collect();
    assert_eq!(arrived, sent);
    assert_eq!(pair.near.notify(&pair.far, &[b'n'; 1025], b""), PARAM_INVALID);
}

#[test]
fn newer_members_are_found_and_work() {
    let Some(cann) = cann("newer_members_are_found_and_work", &SimCann::default()) else { return };
    set_device(cann, 3);
    let far = Engine::listening(cann);
    set_device(cann, 0);
    let near = Engine::listening(cann);
    // SAFETY: takes nothing.
    assert_eq!(unsafe { (near.api.ropeway_hixl_abi)() }, ROPEWAY_HIXL_ABI);
    // SAFETY: takes nothing.
    assert_eq!(unsafe { (near.api.ropeway_hixl_features)() }, 7);
    let mut value = -1;
    // SAFETY: `value` is written.
    assert_eq!(unsafe { (near.api.ropeway_hixl_capability)(1, &raw mut value) }, 0);
    assert_eq!(value, 1);
    assert_eq!(near.connect_async(&far), 0);
    eventually("an asynchronous connect connects", || {
        (near.async_status(&far) == (0, ROPEWAY_HIXL_CONNECTED)).then_some(())
    });
    assert_eq!(near.connect(&far), ALREADY_CONNECTED);
}

#[test]
fn null_where_something_must_be_is_refused() {
    let Some(cann) = cann("null_where_something_must_be_is_refused", &SimCann::default()) else { return };
    let api = cann.shim().unwrap();
    let null = std::ptr::null_mut();
    // SAFETY: nulls are let through to be refused.
    let none =
        unsafe { (api.ropeway_hixl_transfer_sync)(null, c"127.0.0.1:1".as_ptr(), 0, null.cast(), 0, 1) };
    assert_eq!(none, PARAM_INVALID);
    set_device(cann, 0);
    let engine = Engine::listening(cann);
    let mut request = null.cast();
    let raw = engine.raw;
    // SAFETY: a null list is let through to be refused.
    let list = unsafe {
        (api.ropeway_hixl_transfer_async)(raw, c"127.0.0.1:1".as_ptr(), 0, null.cast(), 3, &raw mut request)
    };
    assert_eq!(list, PARAM_INVALID);
    // SAFETY: a null name is let through to be refused.
    assert_eq!(unsafe { (api.ropeway_hixl_connect)(raw, std::ptr::null(), 1) }, PARAM_INVALID);
    // SAFETY: destroying nothing is nothing.
    unsafe { (api.ropeway_hixl_destroy)(null) };
}
