use ascend_sim::acl::event::*;
use ascend_sim::acl::event_ipc::{Handle, sim_aclrtIpcGetEventHandle, sim_aclrtIpcOpenEventHandle};
use ascend_sim::acl::notify::*;
use ascend_sim::acl::stream::{sim_aclrtStreamAbort, sim_aclrtStreamQuery};
use ascend_sim::ffi::{In, Out, Text};

use crate::rig::*;

fn ids_left() -> u32 {
    let mut count = 0;
    assert_eq!(sim_aclrtGetEventAvailNum(Out::from(&mut count)), OK);
    count
}

fn old_status(event: usize) -> u32 {
    let mut status = 9;
    assert_eq!(sim_aclrtQueryEvent(event, Out::from(&mut status)), OK);
    status
}

#[test]
fn the_two_queries_of_an_event_say_the_opposite() {
    on(0);
    let (at, stream, event) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), event(0));
    let held = hold(stream);
    late_fill(stream, at, 64, 1, 0);
    assert_eq!(sim_aclrtRecordEvent(event, stream), OK);
    assert_eq!((status(event), old_status(event)), (0, 1));
    held.let_go();
    assert_eq!(sim_aclrtSynchronizeEvent(event), OK);
    assert_eq!((status(event), old_status(event)), (1, 0));
    assert_eq!(get_bytes(at, 64), [1; 64], "what was before the event is there");
    assert_eq!(free(at), OK);
}

#[test]
fn an_event_that_was_never_recorded_is_not_ready() {
    on(0);
    let event = event(0);
    assert_eq!((status(event), old_status(event)), (0, 1));
    assert_eq!(sim_aclrtDestroyEvent(event), OK);
    assert_eq!(sim_aclrtDestroyEvent(event), 107_017);
}

#[test]
fn an_event_recorded_again_is_not_ready_again() {
    on(0);
    let (at, stream, event) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), event(0));
    assert_eq!(sim_aclrtRecordEvent(event, stream), OK);
    assert_eq!(sim_aclrtSynchronizeEvent(event), OK);
    let held = hold(stream);
    late_fill(stream, at, 64, 1, 0);
    assert_eq!(sim_aclrtRecordEvent(event, stream), OK);
    assert_eq!(status(event), 0);
    held.let_go();
    assert_eq!(sync(stream), OK);
    assert_eq!(status(event), 1);
    assert_eq!(free(at), OK);
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    on(0);
    let (at, first, second, event) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), stream(), event(0));
    let held = hold(first);
    late_fill(first, at, 64, 1, 0);
    assert_eq!(sim_aclrtRecordEvent(event, first), OK);
    assert_eq!(sim_aclrtStreamWaitEvent(second, event), OK);
    late_fill(second, at, 32, 2, 0);
    let mut waits = 9;
    assert_eq!((sim_aclrtQueryEventWaitStatus(event, Out::from(&mut waits)), waits), (OK, 1));
    held.let_go();
    assert_eq!(sync(second), OK);
    assert_eq!((get_bytes(at, 32), get_bytes(at + 32, 32)), (vec![2; 32], vec![1; 32]));
    assert_eq!((sim_aclrtQueryEventWaitStatus(event, Out::from(&mut waits)), waits), (OK, 0));
    assert_eq!(free(at), OK);
}

#[test]
fn waiting_for_an_event_ends_with_its_timeout() {
    on(0);
    let (at, first, second, event) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), stream(), event(0));
    late_fill(first, at, 64, 1, 3_600_000);
    assert_eq!(sim_aclrtRecordEvent(event, first), OK);
    assert_eq!(sim_aclrtSynchronizeEventWithTimeout(event, 1), 507_047);
    assert_eq!(sim_aclrtStreamWaitEventWithTimeout(second, event, 5), OK);
    assert_eq!(sync(second), 107_019);
    assert_eq!(sim_aclrtStreamAbort(first), OK);
    let mut status = 0;
    assert_eq!(
        sim_aclrtQueryEventStatus(event, Out::from(&mut status)),
        107_023,
        "it will never be recorded"
    );
    assert_eq!(sim_aclrtSynchronizeEvent(event), 107_023);
    assert_eq!(free(at), OK);
}

#[test]
fn elapsed_time_needs_the_time_line_on_both_events() {
    on(0);
    let (at, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    let (start, end, plain) = (event(8), event(8), event(0));
    let mut ms = 0.0;
    assert_eq!(sim_aclrtRecordEvent(start, stream), OK);
    assert_eq!(sim_aclrtEventElapsedTime(Out::from(&mut ms), start, end), 107_006, "not recorded");
    late_fill(stream, at, 64, 1, 20);
    assert_eq!(sim_aclrtRecordEvent(end, stream), OK);
    assert_eq!(sim_aclrtRecordEvent(plain, stream), OK);
    assert_eq!(sync(stream), OK);
    assert_eq!(sim_aclrtEventElapsedTime(Out::from(&mut ms), start, end), OK);
    assert!(ms >= 20.0, "{ms}");
    assert_eq!(sim_aclrtEventElapsedTime(Out::from(&mut ms), end, start), 107_007);
    assert_eq!(sim_aclrtEventElapsedTime(Out::from(&mut ms), start, plain), 107_006);
    assert_eq!(free(at), OK);
}

#[test]
fn a_plain_event_holds_an_id_until_it_is_reset() {
    on(0);
    let (mut plain, stream) = (0, stream());
    let before = ids_left();
    assert_eq!(sim_aclrtCreateEvent(Out::from(&mut plain)), OK);
    assert_eq!(sim_aclrtRecordEvent(plain, stream), OK);
    assert_eq!(sim_aclrtRecordEvent(event(0), stream), OK, "made with Ex: none");
    assert_eq!(ids_left(), before - 1);
    assert_eq!(sim_aclrtResetEvent(plain, stream), OK);
    assert_eq!(sync(stream), OK);
    assert_eq!((ids_left(), status(plain)), (before, 0));
}

#[test]
fn a_notify_lets_a_waiting_stream_go_once() {
    on(0);
    let (mut notify, first, second) = (0, stream(), stream());
    assert_eq!(sim_aclrtCreateNotify(Out::from(&mut notify), 0), OK);
    assert_eq!(sim_aclrtWaitAndResetNotify(notify, second, 0), OK);
    let mut busy = 0;
    assert_eq!((sim_aclrtStreamQuery(second, Out::from(&mut busy)), busy), (OK, 1));
    assert_eq!(sim_aclrtRecordNotify(notify, first), OK);
    assert_eq!(sync(second), OK);
    assert_eq!(sim_aclrtWaitAndResetNotify(notify, second, 1), OK);
    assert_eq!(sync(second), 107_019, "it was reset by the wait");
    assert_eq!(sim_aclrtDestroyNotify(notify), OK);
}

#[test]
fn a_child_waits_for_an_event_and_records_a_notify() {
    let Some(mut hear) = as_child("events::a_child_waits_for_an_event_and_records_a_notify") else { return };
    on(0);
    let mut handle = Handle::default();
    let hex = hear.next().unwrap().unwrap();
    for (at, pair) in bytes_of(&mut handle).iter_mut().zip(hex.as_bytes().chunks(2)) {
        *at = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let (mut opened, mut notify) = (0, 0);
    tell(sim_aclrtIpcOpenEventHandle(handle, Out::from(&mut opened)));
    tell(status(opened));
    let key = std::ffi::CString::new(hear.next().unwrap().unwrap()).unwrap();
    tell(sim_aclrtNotifyImportByKey(Out::from(&mut notify), Text::from(key.as_c_str()), 0));
    tell(sim_aclrtNotifyImportByKey(Out::from(&mut notify), Text::from(key.as_c_str()), 1));
    let stream = stream();
    tell(sim_aclrtWaitAndResetNotify(notify, stream, 0));
    hear.next();
    tell(sim_aclrtStreamWaitEvent(stream, opened) + sim_aclrtRecordNotify(notify, stream));
    tell(sync(stream));
    tell(status(opened));
}

fn bytes_of(handle: &mut Handle) -> &mut [u8; 64] {
    // SAFETY: 64 bytes without padding, for which every value is sound.
    unsafe { &mut *(&raw mut *handle).cast() }
}

#[test]
fn another_process_waits_for_an_ipc_event_and_wakes_us_by_a_notify() {
    on(0);
    let (at, first, second, event) = (malloc(64, NORMAL_ONLY).unwrap(), stream(), stream(), event(0x40));
    let mut plain = Handle::default();
    assert_eq!(
        sim_aclrtIpcGetEventHandle(crate::rig::event(0), Out::from(&mut plain)),
        107_000,
        "without the flag"
    );
    let mut handle = Handle::default();
    assert_eq!(sim_aclrtIpcGetEventHandle(event, Out::from(&mut handle)), OK);
    let mut other = Other::start("events::a_child_waits_for_an_event_and_records_a_notify");
    other.say(&bytes_of(&mut handle).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert_eq!((other.hear(), other.hear()), ("0".into(), "0".into()));
    let (mut notify, mut key) = (0, [0; 65]);
    assert_eq!(sim_aclrtCreateNotify(Out::from(&mut notify), 0), OK);
    assert_eq!(sim_aclrtNotifyGetExportKey(notify, Out::from(&mut key[..]), 64, 0), 107_000);
    assert_eq!(sim_aclrtNotifyGetExportKey(notify, Out::from(&mut key[..]), 65, 1), 107_000, "the flag is 2");
    assert_eq!(sim_aclrtNotifyGetExportKey(notify, Out::from(&mut key[..]), 65, 0), OK);
    assert_eq!(sim_aclrtNotifySetImportPid(notify, In::from(&other.pid()), 1), OK);
    other.say(
        &Text::from(std::ffi::CStr::from_bytes_until_nul(&key.map(|byte| byte as u8)).unwrap())
            .to_text()
            .unwrap(),
    );
    assert_eq!((other.hear(), other.hear()), ("0".into(), "107000".into()));
    assert_eq!(other.hear(), "107000", "an importer may not wait");
    late_fill(first, at, 64, 1, 60);
    assert_eq!(sim_aclrtRecordEvent(event, first), OK);
    assert_eq!(sim_aclrtWaitAndResetNotify(notify, second, 0), OK);
    other.say("go");
    assert_eq!((other.hear(), other.hear(), other.hear()), ("0".into(), "0".into(), "1".into()));
    assert_eq!(sync(second), OK);
    assert_eq!((status(event), get_bytes(at, 64)), (1, vec![1; 64]));
    assert_eq!(free(at), OK);
}
