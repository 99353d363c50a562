//! Scripted faults on links: each ends as it should, and hurts nobody else.

mod links;

use std::time::{Duration, Instant};

use ascend_sim::ffi::In;
use ascend_sim::hixl::ffi::*;
use links::*;

/// A script that strikes what goes to one engine only.
fn strike(at: &Engine, script: &str) -> Faults {
    faults(&format!("seed=7; {script} remote={}", at.name.to_str().unwrap()))
}

/// How many bytes of a megabyte on the far side are as on the near one.
fn arrived(two: &Two) -> usize {
    let (from, to) = (bytes(two.here.va, 1 << 20), bytes(two.there.va, 1 << 20));
    from.iter().zip(&to).take_while(|(a, b)| a == b).count()
}

/// A megabyte that can be told from zeros.
fn prepare(two: &Two) -> SimHixlDesc {
    let bytes = vec![1_u8; 1 << 20];
    let (from, zeros) = (bytes.as_ptr() as u64, vec![0_u8; 1 << 20]);
    let hbm = &ascend_sim::runtime::runtime().unwrap().hbm;
    // SAFETY: both vectors are a megabyte long, and both device ranges four.
    unsafe { hbm.copy(two.here.va, from, 1 << 20) }.unwrap();
    // SAFETY: as above.
    unsafe { hbm.copy(two.there.va, zeros.as_ptr() as u64, 1 << 20) }.unwrap();
    two.desc(0, 1 << 20)
}

/// The same megabyte in small pieces, so that it can arrive bit by bit.
fn pieces(two: &Two) -> Vec<SimHixlDesc> {
    prepare(two);
    (0..1024).map(|i| two.desc(i * 1024, 1024)).collect()
}

#[test]
fn bytes_keep_arriving_after_a_timeout() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let descs = pieces(&two);
    let _script = strike(&two.far, "late_completion ms=2000");
    assert_eq!(two.near.sync(&two.far, WRITE, &descs, 100), TIMEOUT);
    let then = arrived(&two);
    assert!(then < 1 << 20, "{then}");
    eventually(|| arrived(&two) == 1 << 20);
    assert_eq!(two.near.sync(&two.far, WRITE, &descs, 100), FAILED, "the link is latched");
}

#[test]
fn a_late_completion_is_later_than_any_timeout() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let _script = strike(&two.far, "late_completion ms=100");
    assert_eq!(two.near.sync(&two.far, WRITE, &pieces(&two), 400), TIMEOUT);
    eventually(|| arrived(&two) == 1 << 20);
}

#[test]
fn an_asynchronous_request_that_is_late_waits_and_completes() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let descs = pieces(&two);
    let start = Instant::now();
    let _script = strike(&two.far, "late_completion ms=1000 count=1");
    let request = two.near.post(&two.far, WRITE, &descs, 0).unwrap();
    assert_eq!(two.near.status(request), (SUCCESS, WAITING));
    assert_eq!(two.near.end(request), COMPLETED);
    assert!(start.elapsed() >= Duration::from_millis(1000));
}

#[test]
fn disconnect_quiets_by_default() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let descs = pieces(&two);
    let _script = strike(&two.far, "late_completion ms=2000");
    let request = two.near.post(&two.far, WRITE, &descs, 0).unwrap();
    eventually(|| arrived(&two) > 0);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    let then = arrived(&two);
    assert_eq!(two.near.status(request), (PARAM_INVALID, REQUEST_FAILED), "no longer known");
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(arrived(&two), then);
    assert!(then < 1 << 20);
}

#[test]
fn disconnect_can_be_late_or_quiet_nothing() {
    for (mode, all) in [("destroy_quiesces=late ms=300", false), ("destroy_quiesces=no", true)] {
        let two = Two::linked(&[CLIENT_SERVER]);
        let descs = pieces(&two);
        let far = two.far.name.to_str().unwrap();
        let _script = faults(&format!("late_completion ms=2000 remote={far}; {mode} remote={far}"));
        two.near.post(&two.far, WRITE, &descs, 0).unwrap();
        eventually(|| arrived(&two) > 0);
        assert_eq!(two.near.disconnect(&two.far), SUCCESS);
        let then = arrived(&two);
        eventually(|| arrived(&two) > then);
        if all {
            eventually(|| arrived(&two) == 1 << 20);
        } else {
            std::thread::sleep(Duration::from_millis(2200));
            assert!(arrived(&two) < 1 << 20);
        }
    }
}

#[test]
fn a_partial_write_fails_latches_and_leaves_a_part() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let desc = prepare(&two);
    let _script = strike(&two.far, "partial_write fraction=0.25 count=1");
    let request = two.near.post(&two.far, WRITE, &[desc], 0).unwrap();
    assert_eq!(two.near.end(request), REQUEST_FAILED);
    assert_eq!(arrived(&two), 1 << 18);
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), FAILED);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), SUCCESS);
}

#[test]
fn a_lost_link_and_a_memory_error_fail_and_a_new_link_works() {
    for fault in ["lost_link", "ecc"] {
        let two = Two::linked(&[CLIENT_SERVER]);
        let desc = prepare(&two);
        {
            let _script = strike(&two.far, &format!("{fault} count=1"));
            assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), FAILED, "{fault}");
        }
        assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), FAILED, "{fault} latches");
        assert_eq!(two.near.disconnect(&two.far), SUCCESS);
        assert_eq!(two.near.connect(&two.far), SUCCESS);
        assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), SUCCESS);
    }
}

#[test]
fn a_black_hole_takes_the_timeout_of_connect_and_nobody_else() {
    let two = Two::apart(&[CLIENT_SERVER]);
    on(2);
    let third = Engine::cs();
    on(0);
    let _script = strike(&third, "blackhole_connect");
    let start = Instant::now();
    let near = &two.near;
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| {
            on(0);
            sim_hixl_connect(near.handle, third.name(), 400)
        });
        assert_eq!(two.near.connect(&two.far), SUCCESS);
        assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64)], PATIENCE), SUCCESS);
        assert_eq!(stuck.join().unwrap(), TIMEOUT);
    });
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[test]
fn used_up_streams_refuse_and_pass() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let desc = two.desc(0, 64);
    let _script = strike(&two.far, "out_of_streams count=2");
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), RESOURCE_EXHAUSTED);
    assert_eq!(two.near.post(&two.far, WRITE, &[desc], 0), Err(RESOURCE_EXHAUSTED));
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), SUCCESS);
}

#[test]
fn any_status_can_be_scripted() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let desc = two.desc(0, 64);
    let _script = strike(&two.far, "refuse op=read code=203900 count=1");
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), SUCCESS);
    assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), RESOURCE_EXHAUSTED);
    assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), SUCCESS);
}

#[test]
fn a_restarted_peer_has_forgotten_its_regions_until_linked_again() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let desc = two.desc(0, 64);
    let _script = strike(&two.far, "peer_restart count=2");
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), FAILED);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), PARAM_INVALID, "nothing is registered yet");
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), SUCCESS);
}

#[test]
fn a_lost_device_fails_everything_on_it() {
    machine("a2", "");
    on(5);
    let (engine, memory) = (Engine::cs(), hbm(5, 1));
    on(1);
    let far = Engine::cs();
    on(5);
    let _script = faults("device_lost device=5");
    assert_eq!(engine.register(memory.va, memory.len, false), Err(FAILED));
    assert_eq!(engine.connect(&far), FAILED);
    let desc = [SimHixlDesc { local: memory.va, remote: memory.va, len: 1 }];
    let (list, name) = (In::from(&desc[..]), far.name());
    assert_eq!(sim_hixl_transfer_sync(engine.handle, name, READ, list, 1, PATIENCE), FAILED);
}
