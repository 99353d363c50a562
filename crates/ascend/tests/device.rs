//! CANN, devices and their threads, on the software CANN.

mod common;

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};

use common::{WAIT, npu, simulator};
use ropeway_ascend::node::Chip;
use ropeway_ascend::{Cann, Device, Work};
use ropeway_core::ErrorKind;

#[test]
fn without_a_cann_one_error_says_where_was_looked_and_what_to_set() {
    let error = Cann::open(Some(Path::new("/nowhere/cann"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let line = error.to_string();
    for part in ["/nowhere/cann", "ROPEWAY_CANN_PATH", "8.5.0"] {
        assert!(line.contains(part), "{line:?} does not say {part:?}");
    }
}

#[test]
fn a_cann_that_is_opened_again_is_the_same() {
    let Some(simulator) = simulator("opened again") else { return };
    let _shared = simulator.shared();
    let first = Cann::open(Some(simulator.root())).unwrap();
    let again = Cann::open(Some(simulator.root())).unwrap();
    assert!(std::ptr::eq(first, again));
}

#[test]
fn a_device_knows_its_ids_and_its_chip() {
    let Some(simulator) = simulator("ids") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 1);
    let ids = npu.device().ids();
    assert_eq!(ids.user, 1);
    assert!(ids.physical.is_some() && ids.logical.is_some() && ids.memory.is_some(), "{ids:?}");
    assert_eq!(npu.device().chip(), Chip::A3);
    assert!(ids.super_pod.is_some(), "an A3 is in a super-pod: {ids:?}");
    assert_eq!(npu.identity().node, "node0");
    assert_eq!(npu.device().is_well(), Some(true));
    assert!(npu.cann().version(c"runtime").is_some());
    assert_eq!(npu.cann().version(c"nothing-of-that-name"), None);
}

#[test]
fn a_device_that_is_not_there_is_named_with_how_many_there_are() {
    let Some(simulator) = simulator("no such device") else { return };
    let _shared = simulator.shared();
    let cann = Cann::open(Some(simulator.root())).unwrap();
    let count = cann.device_count().unwrap();
    let error = Device::open(cann, count, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains(&format!("sees {count}")), "{error}");
}

#[test]
fn what_is_posted_does_not_wait_for_connects_that_hang() {
    let Some(simulator) = simulator("posting") else { return };
    let _shared = simulator.shared();
    let cann = Cann::open(Some(simulator.root())).unwrap();
    let device = Device::open(cann, 0, 2).unwrap();
    let held = Arc::new(Barrier::new(3));
    for _ in 0..2 {
        let held = held.clone();
        device.run(Work::Slow, "hang", move |_| _ = held.wait()).unwrap();
    }
    let (send, ran) = channel();
    let later = send.clone();
    device.run(Work::Slow, "third", move |_| later.send("slow").unwrap()).unwrap();
    device.run(Work::Post, "post", move |_| send.send("post").unwrap()).unwrap();
    assert_eq!(ran.recv_timeout(WAIT), Ok("post"));
    assert!(ran.try_recv().is_err(), "two slow threads are held, and there is no third");
    held.wait();
    assert_eq!(ran.recv_timeout(WAIT), Ok("slow"));
}

#[test]
fn what_is_posted_runs_in_order_on_one_thread() {
    let Some(simulator) = simulator("order") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (send, ran) = channel();
    for number in 0..100 {
        let send = send.clone();
        npu.device()
            .run(Work::Post, "post", move |_| send.send((number, std::thread::current().id())).unwrap())
            .unwrap();
    }
    let first = ran.recv_timeout(WAIT).unwrap();
    for number in 1..100 {
        assert_eq!(ran.recv_timeout(WAIT).unwrap(), (number, first.1));
    }
}

#[test]
fn a_panic_on_a_device_thread_is_an_error_and_the_thread_goes_on() {
    let Some(simulator) = simulator("panic") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let before = npu.device().call(Work::Post, "ask", |_| std::thread::current().id()).unwrap();
    let error = npu.device().call(Work::Post, "panic", |_| panic!("as the test wants")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let after = npu.device().call(Work::Post, "ask", |_| std::thread::current().id()).unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_call_on_a_device_thread_runs_there_and_cannot_lock_it_up() {
    let Some(simulator) = simulator("nested call") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let device = npu.device().clone();
    let nested = npu.device().call(Work::Copy, "outer", move |_| device.call(Work::Copy, "inner", |_| 7));
    assert_eq!(nested.unwrap().unwrap(), 7);
}

#[test]
fn the_queue_of_connects_is_bounded_and_destroys_still_run() {
    let Some(simulator) = simulator("bounded queue") else { return };
    let _shared = simulator.shared();
    let cann = Cann::open(Some(simulator.root())).unwrap();
    let device = Device::open(cann, 0, 1).unwrap();
    let (hold, held) = channel::<()>();
    device.run(Work::Slow, "hang", move |_| _ = held.recv()).unwrap();
    let refused = (0..100_000).find_map(|_| device.run(Work::Slow, "wait", |_| ()).err()).unwrap();
    assert_eq!(refused.kind(), ErrorKind::Full);
    let (send, ran) = channel();
    device.retire("destroy", move |_| send.send(()).unwrap());
    drop(hold);
    assert_eq!(ran.recv_timeout(WAIT), Ok(()));
}

#[test]
fn a_thread_that_enters_a_device_gets_its_own_context_back() {
    let Some(simulator) = simulator("enter") else { return };
    let _shared = simulator.shared();
    let (one, other) = (npu(simulator, 0), npu(simulator, 1));
    let current = || {
        let mut device = -1;
        // SAFETY: writes one integer to a local.
        let code = unsafe { (one.device().acl().aclrtGetDevice)(&mut device) };
        (code == 0).then_some(device)
    };
    let _outer = one.device().enter().unwrap();
    assert_eq!(current(), Some(0));
    let inner = other.device().enter().unwrap();
    assert_eq!(current(), Some(1));
    drop(inner);
    assert_eq!(current(), Some(0));
}

#[test]
fn objects_of_one_device_are_not_made_under_anothers_context() {
    let Some(simulator) = simulator("wrong context") else { return };
    let _shared = simulator.shared();
    let (one, other) = (npu(simulator, 0), npu(simulator, 1));
    let device = one.device().clone();
    let error = other
        .device()
        .call(Work::Slow, "make", move |on| ropeway_ascend::Stream::create(&device, on).map(drop))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
}
