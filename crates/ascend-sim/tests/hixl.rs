//! What was measured on HIXL's real host code, row by row: the statuses of its calls.

mod links;

use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::hixl::ffi::*;
use links::*;

#[test]
fn initialize_refuses_an_unknown_option() {
    machine("a2", "");
    on(0);
    assert_eq!(Engine::try_new("127.0.0.1", &[("NoSuchOption", "1")]).err(), Some(PARAM_INVALID));
}

#[test]
fn initialize_refuses_a_port_or_address_that_is_none() {
    machine("a2", "");
    on(0);
    for name in ["127.0.0.1:65536", "127.0.0.1:x", "localhost:1", "1.2.3", ""] {
        assert_eq!(Engine::try_new(name, &[CLIENT_SERVER]).err(), Some(PARAM_INVALID), "{name}");
    }
}

#[test]
fn initialize_fails_on_a_port_in_use() {
    machine("a2", "");
    on(0);
    let first = Engine::cs();
    let port = device_port();
    let options = [CLIENT_SERVER, ("GlobalResourceConfig", port.as_str())];
    assert_eq!(Engine::try_new(first.name.to_str().unwrap(), &options).err(), Some(FAILED));
}

#[test]
fn an_address_alone_makes_an_engine_that_only_connects() {
    let two = Two::apart(&[CLIENT_SERVER]);
    let client = Engine::try_new("127.0.0.1", &[CLIENT_SERVER]).unwrap();
    client.device(&two.here);
    assert_eq!(client.connect(&two.far), SUCCESS);
    assert_eq!(client.sync(&two.far, WRITE, &[two.desc(0, 64)], PATIENCE), SUCCESS);
}

#[test]
fn calls_before_initialize_and_after_finalize_fail() {
    machine("a2", "");
    on(0);
    let other = Engine::cs();
    let memory = hbm(0, 1);
    let engine = Engine { handle: sim_hixl_create(), name: CString::new("127.0.0.1").unwrap() };
    let all_fail = || {
        assert_eq!(engine.register(memory.va, memory.len, false), Err(FAILED));
        assert_eq!(engine.deregister(16), FAILED);
        assert_eq!(engine.connect(&other), FAILED);
        assert_eq!(engine.disconnect(&other), FAILED);
        let desc = SimHixlDesc { local: memory.va, remote: memory.va, len: 1 };
        assert_eq!(engine.sync(&other, READ, &[desc], 100), FAILED);
        assert_eq!(engine.post(&other, READ, &[desc], 0), Err(FAILED));
        assert_eq!(
            sim_hixl_send_notify(engine.handle, other.name(), In::null(), 0, In::null(), 0, 100),
            FAILED
        );
    };
    all_fail();
    assert_eq!(initialize(engine.handle, &engine.name, &[CLIENT_SERVER]), SUCCESS);
    sim_hixl_finalize(engine.handle);
    all_fail();
}

#[test]
fn the_same_range_registers_twice_with_one_handle() {
    machine("a2", "");
    on(0);
    let (engine, memory) = (Engine::cs(), hbm(0, 4 << 20));
    let first = engine.device(&memory);
    assert_eq!(engine.register(memory.va, memory.len, false), Ok(first));
}

#[test]
fn ranges_that_overlap_or_start_alike_are_refused() {
    machine("a2", "");
    on(0);
    let (engine, memory) = (Engine::cs(), hbm(0, 8 << 20));
    engine.register(memory.va, 4 << 20, false).unwrap();
    assert_eq!(engine.register(memory.va + 4096, 8192, false), Err(PARAM_INVALID));
    assert_eq!(engine.register(memory.va + (2 << 20), 4 << 20, false), Err(PARAM_INVALID));
    assert_eq!(engine.register(memory.va, 1 << 20, false), Err(PARAM_INVALID));
    assert!(engine.register(memory.va + (4 << 20), 4 << 20, false).is_ok());
}

#[test]
fn address_zero_is_refused() {
    machine("a2", "");
    on(0);
    assert_eq!(Engine::cs().register(0, 4096, false), Err(PARAM_INVALID));
}

#[test]
fn a_region_of_length_0_spoils_connects_from_its_engine_but_not_to_it() {
    let two = Two::apart(&[CLIENT_SERVER]);
    let empty = two.near.register(two.here.va + (8 << 30), 0, false).unwrap();
    assert_eq!(two.near.connect(&two.far), PARAM_INVALID);
    on(1);
    assert_eq!(two.far.connect(&two.near), SUCCESS);
    assert_eq!(two.near.deregister(empty), SUCCESS);
    on(0);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
}

#[test]
fn deregister_fails_while_this_engine_has_links() {
    let two = Two::apart(&[CLIENT_SERVER]);
    let extra = hbm(0, 1);
    let handle = two.near.device(&extra);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    assert_eq!(two.near.deregister(handle), FAILED);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.deregister(handle), SUCCESS);
    assert_eq!(two.near.deregister(handle), PARAM_INVALID);
}

#[test]
fn the_passive_side_can_deregister_under_a_reader() {
    let two = Two::apart(&[CLIENT_SERVER]);
    let extra = hbm(1, 2 << 20);
    on(1);
    let handle = two.far.device(&extra);
    on(0);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    assert_eq!(two.far.deregister(handle), SUCCESS);
    // Nothing protects the memory: the link still writes there.
    fill(two.here.va, 4096, 5);
    let desc = SimHixlDesc { local: two.here.va, remote: extra.va, len: 4096 };
    assert_eq!(two.near.sync(&two.far, WRITE, &[desc], PATIENCE), SUCCESS);
    assert_eq!(bytes(extra.va, 4096), bytes(two.here.va, 4096));
}

#[test]
fn a_region_registered_after_connect_is_used_after_a_new_connect_only() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let (late_here, late_there) = (hbm(0, 1), hbm(1, 1));
    two.near.device(&late_here);
    on(1);
    two.far.device(&late_there);
    on(0);
    let near = SimHixlDesc { local: late_here.va, remote: two.there.va, len: 64 };
    let far = SimHixlDesc { local: two.here.va, remote: late_there.va, len: 64 };
    for desc in [near, far] {
        assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), PARAM_INVALID);
    }
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.connect(&two.far), SUCCESS);
    for desc in [near, far] {
        assert_eq!(two.near.sync(&two.far, READ, &[desc], PATIENCE), SUCCESS);
    }
}

#[test]
fn links_carry_their_openers_transfers_only() {
    let two = Two::linked(&[CLIENT_SERVER]);
    on(1);
    let back = SimHixlDesc { local: two.there.va, remote: two.here.va, len: 64 };
    assert_eq!(two.far.sync(&two.near, WRITE, &[back], PATIENCE), NOT_CONNECTED);
    assert_eq!(two.far.connect(&two.near), SUCCESS);
    assert_eq!(two.far.sync(&two.near, WRITE, &[back], PATIENCE), SUCCESS);
}

#[test]
fn connect_to_a_closed_port_fails_long_before_its_timeout() {
    machine("a2", "");
    on(0);
    let engine = Engine::cs();
    let nobody = CString::new(format!("127.0.0.1:{}", free_port())).unwrap();
    let start = Instant::now();
    assert_eq!(sim_hixl_connect(engine.handle, Text::from(nobody.as_c_str()), 3_600_000), FAILED);
    // Not a bound on speed: an hour had been allowed.
    assert!(start.elapsed() < Duration::from_secs(600));
}

#[test]
fn connect_when_connected_and_disconnect_when_not_say_so() {
    let two = Two::linked(&[CLIENT_SERVER]);
    assert_eq!(two.near.connect(&two.far), ALREADY_CONNECTED);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.disconnect(&two.far), NOT_CONNECTED);
}

#[test]
fn a_transfer_without_a_link_needs_auto_connect() {
    let two = Two::apart(&[CLIENT_SERVER]);
    assert_eq!(two.near.sync(&two.far, READ, &[two.desc(0, 64)], PATIENCE), NOT_CONNECTED);
    let two = Two::apart(&[CLIENT_SERVER, ("AutoConnect", "1")]);
    assert_eq!(two.near.sync(&two.far, READ, &[two.desc(0, 64)], PATIENCE), SUCCESS);
    assert_eq!(two.near.async_status(&two.far), 0, "only links of ConnectAsync are reported");
}

#[test]
fn a_transfer_of_nothing_or_in_no_time_is_refused() {
    let two = Two::linked(&[CLIENT_SERVER]);
    assert_eq!(two.near.sync(&two.far, READ, &[], PATIENCE), PARAM_INVALID);
    for ms in [0, -1] {
        assert_eq!(two.near.sync(&two.far, READ, &[two.desc(0, 64)], ms), PARAM_INVALID);
    }
}

#[test]
fn an_address_outside_is_refused_and_the_link_stays_of_use() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let outside = [
        SimHixlDesc { local: two.here.va + two.here.len - 32, ..two.desc(0, 64) },
        SimHixlDesc { remote: two.there.va + two.there.len - 32, ..two.desc(0, 64) },
        SimHixlDesc { local: 4096, ..two.desc(0, 64) },
    ];
    for desc in outside {
        assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64), desc], PATIENCE), PARAM_INVALID);
        assert_eq!(two.near.post(&two.far, WRITE, &[desc], 0), Err(PARAM_INVALID));
    }
    assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64)], PATIENCE), SUCCESS);
}

#[test]
fn a_transfer_to_a_finalised_peer_takes_its_whole_time_and_latches() {
    let two = Two::linked(&[CLIENT_SERVER]);
    sim_hixl_finalize(two.far.handle);
    let start = Instant::now();
    assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64)], 80), TIMEOUT);
    assert!(start.elapsed() >= Duration::from_millis(80));
    assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64)], 80), FAILED);
    assert_eq!(two.near.disconnect(&two.far), SUCCESS);
    assert_eq!(two.near.connect(&two.far), FAILED);
}

#[test]
fn the_timeout_does_not_bound_the_posting() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let _script = faults(&format!("slow us_per_descriptor=200 remote={}", two.far.name.to_str().unwrap()));
    let descs: Vec<_> = (0..1000).map(|i| two.desc(i * 64, 64)).collect();
    let start = Instant::now();
    assert_eq!(two.near.sync(&two.far, WRITE, &descs, 100), SUCCESS);
    assert!(start.elapsed() >= Duration::from_millis(200), "twice its timeout");
}

#[test]
fn an_end_is_told_once() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let request = two.near.post(&two.far, WRITE, &[two.desc(0, 64)], 0).unwrap();
    assert_eq!(two.near.end(request), COMPLETED);
    assert_eq!(two.near.status(request), (PARAM_INVALID, REQUEST_FAILED));
    assert_eq!(two.near.status(0xdead_0000), (PARAM_INVALID, REQUEST_FAILED));
}

#[test]
fn ends_are_told_in_batches_with_what_the_caller_gave() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let mut given = Vec::new();
    for user_data in 1..=6 {
        given.push((two.near.post(&two.far, WRITE, &[two.desc(0, 64)], user_data).unwrap(), user_data));
    }
    let mut told = Vec::new();
    let mut query = || {
        let mut results = [SimHixlResult { request: 0, user_data: 0, status: 99 }; 8];
        let mut count = 0;
        let (out, number) = (Out::from(&mut results[..]), Out::from(&mut count));
        assert_eq!(sim_hixl_transfer_results(two.near.handle, 4, 1, out, 8, number), SUCCESS);
        assert!(results[..count].iter().all(|result| result.status == COMPLETED));
        told.extend(results[..count].iter().map(|result| (result.request, result.user_data)));
        count
    };
    // A link works in order: these are over when a later one is.
    let last = two.near.post(&two.far, WRITE, &[two.desc(0, 64)], 7).unwrap();
    assert_eq!(two.near.end(last), COMPLETED);
    let counts = [query(), query(), query()];
    assert_eq!(counts, [4, 2, 0]);
    assert_eq!(told, given);
}

#[test]
fn asynchronous_connects_tell_how_far_they_are() {
    let two = Two::apart(&[CLIENT_SERVER]);
    assert_eq!(two.near.async_status(&two.far), 0);
    assert_eq!(sim_hixl_connect_async(two.near.handle, two.far.name(), PATIENCE), SUCCESS);
    eventually(|| two.near.async_status(&two.far) == 3);
    assert_eq!(two.near.connect(&two.far), ALREADY_CONNECTED);
    assert_eq!(two.near.sync(&two.far, READ, &[two.desc(0, 64)], PATIENCE), SUCCESS);
    assert_eq!(sim_hixl_disconnect_async(two.near.handle, two.far.name(), PATIENCE), SUCCESS);
    eventually(|| two.near.async_status(&two.far) == 0);
    assert_eq!(two.near.disconnect(&two.far), NOT_CONNECTED);
    let nobody = CString::new(format!("127.0.0.1:{}", free_port())).unwrap();
    let nobody = Engine { handle: 0, name: nobody };
    assert_eq!(sim_hixl_connect_async(two.near.handle, nobody.name(), PATIENCE), SUCCESS);
    eventually(|| two.near.async_status(&nobody) == 4);
}

#[test]
fn a_link_of_connect_is_not_reported_as_asynchronous() {
    let two = Two::linked(&[CLIENT_SERVER]);
    assert_eq!(two.near.async_status(&two.far), 0);
}

fn notify(from: &Engine, to: &Engine, name: &[u8], message: &[u8]) -> u32 {
    let (name_in, message_in) = (In::from(name), In::from(message));
    sim_hixl_send_notify(from.handle, to.name(), name_in, name.len(), message_in, message.len(), PATIENCE)
}

fn arrived(engine: &Engine) -> Vec<(Vec<u8>, Vec<u8>)> {
    type Arrived = Vec<(Vec<u8>, Vec<u8>)>;
    extern "C" fn keep(
        context: *mut std::ffi::c_void,
        name: *const std::ffi::c_char,
        name_len: usize,
        message: *const std::ffi::c_char,
        message_len: usize,
    ) {
        // SAFETY: the context is the vector below, which outlives the call.
        let all = unsafe { &mut *context.cast::<Arrived>() };
        // SAFETY: the simulator hands over that many bytes.
        let read =
            |at: *const std::ffi::c_char, len| unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) };
        all.push((read(name, name_len).to_vec(), read(message, message_len).to_vec()));
    }
    let mut all: Arrived = Vec::new();
    let context = std::ptr::from_mut(&mut all).cast();
    assert_eq!(sim_hixl_get_notifies(engine.handle, Some(keep), context), SUCCESS);
    all
}

#[test]
fn a_notify_has_at_most_1024_bytes_of_each_and_may_have_no_name() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let (long, fits) = (vec![b'x'; 1025], vec![b'x'; 1024]);
    assert_eq!(notify(&two.near, &two.far, &long, b""), PARAM_INVALID);
    assert_eq!(notify(&two.near, &two.far, b"", &long), PARAM_INVALID);
    assert_eq!(notify(&two.near, &two.far, b"", b"m"), SUCCESS);
    assert_eq!(notify(&two.near, &two.far, &fits, &fits), SUCCESS);
    assert_eq!(arrived(&two.far), [(Vec::new(), b"m".to_vec()), (fits.clone(), fits)]);
    assert_eq!(arrived(&two.far), []);
    assert_eq!(notify(&two.far, &two.near, b"n", b"m"), NOT_CONNECTED);
}

#[test]
fn a_receiver_keeps_4096_notifies() {
    let two = Two::linked(&[CLIENT_SERVER]);
    for _ in 0..4096 {
        assert_eq!(notify(&two.near, &two.far, b"n", b"m"), SUCCESS);
    }
    assert_eq!(notify(&two.near, &two.far, b"n", b"m"), NOTIFY_FAILED);
    assert_eq!(arrived(&two.far).len(), 4096);
    assert_eq!(notify(&two.near, &two.far, b"n", b"m"), SUCCESS);
}

#[test]
fn both_capabilities_are_there() {
    machine("a2", "");
    for feature in [0, 1] {
        let mut value = 7;
        assert_eq!(sim_hixl_capability(feature, Out::from(&mut value)), SUCCESS);
        assert_eq!(value, 1);
    }
    let mut value = 7;
    assert_eq!(sim_hixl_capability(2, Out::from(&mut value)), PARAM_INVALID);
}

#[test]
fn a_thread_without_the_context_of_initialize_fails() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let (near, far, desc) = (&two.near, &two.far, two.desc(0, 64));
    let memory = hbm(0, 1);
    std::thread::scope(|scope| {
        let all_fail = || {
            assert_eq!(near.sync(far, READ, &[desc], PATIENCE), FAILED);
            assert_eq!(near.post(far, READ, &[desc], 0), Err(FAILED));
            assert_eq!(near.register(memory.va, memory.len, false), Err(FAILED));
            assert_eq!(near.connect(far), FAILED);
        };
        scope.spawn(move || {
            all_fail();
            on(1);
            all_fail();
            on(0);
            assert_eq!(near.sync(far, READ, &[desc], PATIENCE), SUCCESS);
        });
    });
    let unbound = std::thread::spawn(|| Engine::try_new("127.0.0.1", &[CLIENT_SERVER]).err()).join().unwrap();
    assert_eq!(unbound, Some(FAILED));
}

#[test]
fn bytes_arrive_in_both_directions() {
    let two = Two::linked(&[CLIENT_SERVER]);
    fill(two.here.va, 1 << 20, 3);
    fill(two.there.va + (2 << 20), 1 << 20, 9);
    let scattered: Vec<_> = (0..1024)
        .map(|i| SimHixlDesc {
            local: two.here.va + i * 1024,
            remote: two.there.va + (1023 - i) * 1024,
            len: 1024,
        })
        .collect();
    assert_eq!(two.near.sync(&two.far, WRITE, &scattered, PATIENCE), SUCCESS);
    for i in [0, 1, 511, 1023] {
        assert_eq!(bytes(two.there.va + (1023 - i) * 1024, 1024), bytes(two.here.va + i * 1024, 1024));
    }
    assert_eq!(two.near.sync(&two.far, READ, &[two.desc(2 << 20, 1 << 20)], PATIENCE), SUCCESS);
    assert_eq!(bytes(two.here.va + (2 << 20), 1 << 20), bytes(two.there.va + (2 << 20), 1 << 20));
}

#[test]
fn engines_have_names_that_c_strings_carry() {
    let name: &CStr = c"[::1]:0";
    machine("a2", "");
    on(0);
    let engine = Engine::try_new(name.to_str().unwrap(), &[CLIENT_SERVER]);
    assert!(engine.is_ok());
}

#[test]
fn a_forked_child_can_call_and_leave() {
    let two = Two::linked(&[CLIENT_SERVER]);
    let desc = [two.desc(0, 64)];
    // SAFETY: the child calls only functions that refuse at once in a forked process, and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = [
            sim_hixl_connect(two.near.handle, two.far.name(), 100),
            sim_hixl_transfer_sync(two.near.handle, two.far.name(), WRITE, In::from(&desc[..]), 1, 100),
            sim_hixl_deregister_mem(two.near.handle, 16),
        ];
        sim_hixl_destroy(two.near.handle);
        sim_hixl_destroy(two.far.handle);
        let code = i32::from(refused != [FAILED; 3]);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    assert!(child > 0);
    let mut status = -1;
    eventually(|| {
        // SAFETY: a plain call on a child of ours.
        unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) == child }
    });
    assert_eq!(status, 0);
    assert_eq!(two.near.sync(&two.far, WRITE, &desc, PATIENCE), SUCCESS);
}
