//! Streams and events, on the software CANN.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{Gate, WAIT, eventually, npu, simulator, stream_and_event};
use ropeway_ascend::{Event, EventPoller, HbmMemory, Npu, Stream, WatchId, Work};
use ropeway_core::{ErrorKind, Result};

fn record(npu: &Npu, stream: &Stream, event: Event) -> Event {
    let device = npu.device();
    let on = device.enter().unwrap();
    stream.record(&on, &event).unwrap();
    event
}

/// A stream that goes on when its gate is opened, and an event that is not recorded yet.
fn held(npu: &Npu) -> (Gate, Stream, Event) {
    let gate = Gate::new(npu);
    let (stream, event) = stream_and_event(npu);
    gate.close(npu, &stream);
    (gate, stream, event)
}

/// An event that fires when the gate is opened.
fn late(npu: &Npu) -> (Gate, Stream, Event) {
    let (gate, stream, event) = held(npu);
    let event = record(npu, &stream, event);
    (gate, stream, event)
}

/// An event that fires by itself.
fn soon(npu: &Npu) -> (Stream, Event) {
    let (stream, event) = stream_and_event(npu);
    let event = record(npu, &stream, event);
    (stream, event)
}

/// Watches an event, which is its own keep-alive.
fn watch(npu: &Npu, event: Event) -> (WatchId, Receiver<Result<()>>) {
    let (send, ended) = channel();
    let raw = event.raw();
    // SAFETY: the event is the keep-alive.
    let id = unsafe { npu.watch(raw, Box::new(event), move |outcome| send.send(outcome).unwrap()) };
    (id.unwrap(), ended)
}

#[test]
fn a_watched_event_calls_back_once_after_its_stream_has_passed_it() {
    let Some(simulator) = simulator("calls back") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (gate, _stream, event) = late(&npu);
    let (_, ended) = watch(&npu, event);
    assert!(
        ended.recv_timeout(Duration::from_millis(30)).is_err(),
        "it fired before its stream had passed it"
    );
    gate.open(&npu);
    ended.recv_timeout(WAIT).unwrap().unwrap();
    assert!(ended.recv_timeout(WAIT).is_err(), "the callback is gone after its one call");
}

/// What `read` sees of blocks that a kernel writes late, and whether the kernel is over by then.
fn read_under_a_late_write(
    simulator: &'static ropeway_testkit::simulator::Simulator,
    fenced: bool,
) -> (Vec<u8>, Vec<u8>) {
    const LEN: usize = 64 << 10;
    let npu = npu(simulator, 0);
    let memory = npu.alloc(LEN as u64).unwrap();
    memory.fill(0, LEN as u64, 0x11).unwrap();
    let begin = HbmMemory::of(&memory).unwrap().begin();
    let (gate, stream, event) = held(&npu);
    let on = npu.device().enter().unwrap();
    simulator.late_write(stream.raw(), begin, LEN, 42, 20);
    stream.record(&on, &event).unwrap();
    let (send, posted) = channel();
    let read = {
        let memory = memory.clone();
        move || {
            let mut bytes = vec![0; LEN];
            memory.read(0, &mut bytes).unwrap();
            send.send(bytes).unwrap();
        }
    };
    if fenced {
        let raw = event.raw();
        // What would be a post: it may not block the poller, so it goes to a thread of its own.
        let done = move |outcome: Result<()>| {
            outcome.unwrap();
            std::thread::spawn(read);
        };
        // SAFETY: the event is the keep-alive.
        unsafe { npu.watch(raw, Box::new(event), done) }.unwrap();
        gate.open(&npu);
    } else {
        read();
        gate.open(&npu);
    }
    let bytes = posted.recv_timeout(WAIT).unwrap();
    stream.wait(&on, WAIT).unwrap();
    (bytes, simulator.pattern(42, LEN))
}

#[test]
fn a_post_after_the_event_reads_what_the_late_kernel_wrote() {
    let Some(simulator) = simulator("late kernel") else { return };
    let _shared = simulator.shared();
    let (read, written) = read_under_a_late_write(simulator, true);
    assert!(read == written, "the kernel's bytes were not all there when its event had fired");
}

#[test]
fn a_post_that_waits_for_no_event_reads_what_was_there_before() {
    let Some(simulator) = simulator("no fence") else { return };
    let _shared = simulator.shared();
    let (read, _) = read_under_a_late_write(simulator, false);
    assert!(
        read.iter().all(|byte| *byte == 0x11),
        "without the fence the old bytes are read: the test has teeth"
    );
}

#[test]
fn many_events_are_watched_at_a_time_and_a_late_one_holds_up_none() {
    let Some(simulator) = simulator("many events") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (gate, _stream, event) = late(&npu);
    let (_, late) = watch(&npu, event);
    for _ in 0..50 {
        let (_stream, event) = soon(&npu);
        watch(&npu, event).1.recv_timeout(WAIT).unwrap().unwrap();
    }
    assert!(late.try_recv().is_err());
    gate.open(&npu);
    late.recv_timeout(WAIT).unwrap().unwrap();
}

#[test]
fn the_keep_alive_of_an_event_is_let_go_after_the_callback() {
    let Some(simulator) = simulator("keep-alive") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (_stream, event) = soon(&npu);
    let kept = Arc::new(());
    let (send, ended) = channel();
    let (raw, counted) = (event.raw(), kept.clone());
    let keep_alive = Box::new((event, kept.clone()));
    let done = move |outcome: Result<()>| send.send((outcome, Arc::strong_count(&counted))).unwrap();
    // SAFETY: the event is in the keep-alive.
    unsafe { npu.watch(raw, keep_alive, done) }.unwrap();
    let (outcome, holders) = ended.recv_timeout(WAIT).unwrap();
    outcome.unwrap();
    assert_eq!(holders, 3, "the keep-alive is still held while the callback runs");
    eventually("the keep-alive is let go", || Arc::strong_count(&kept) == 1);
}

#[test]
fn an_event_that_is_given_up_ends_with_that() {
    let Some(simulator) = simulator("given up") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (gate, _stream, event) = late(&npu);
    let (id, ended) = watch(&npu, event);
    npu.give_up(id);
    assert_eq!(ended.recv_timeout(WAIT).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    gate.open(&npu);
    npu.give_up(id);
}

#[test]
fn events_that_have_not_fired_when_the_npu_closes_end_with_that() {
    let Some(simulator) = simulator("closed") else { return };
    let _shared = simulator.shared();
    let (npu, other) = (npu(simulator, 0), npu(simulator, 0));
    let (gate, _stream, event) = late(&other);
    let (_, ended) = watch(&npu, event);
    drop(npu);
    assert_eq!(ended.recv_timeout(WAIT).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    gate.open(&other);
}

#[test]
fn events_beyond_the_limit_are_refused_and_there_is_room_again_after_one_has_fired() {
    let Some(simulator) = simulator("limit of events") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let poller = EventPoller::new(npu.device().clone(), 2, npu.janitor());
    let (gate, _stream, event) = late(&npu);
    let event = Arc::new(event);
    let watch = || {
        let (send, ended) = channel();
        let keep_alive = Box::new(event.clone());
        // SAFETY: the event is the keep-alive.
        unsafe { poller.watch(event.raw(), keep_alive, move |outcome| send.send(outcome).unwrap()) }
            .map(|_| ended)
    };
    let (one, other) = (watch().unwrap(), watch().unwrap());
    assert_eq!(watch().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(poller.watched(), 2);
    gate.open(&npu);
    one.recv_timeout(WAIT).unwrap().unwrap();
    other.recv_timeout(WAIT).unwrap().unwrap();
    eventually("there is room again", || poller.watched() == 0);
    watch().unwrap().recv_timeout(WAIT).unwrap().unwrap();
    drop(poller);
    eventually("the keep-alives are let go", || Arc::strong_count(&event) == 1);
}

#[test]
fn asking_after_an_event_of_a_lost_device_fails_its_callback() {
    let Some(simulator) = simulator("lost device") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 2);
    let (_gate, _stream, event) = late(&npu);
    let (_, ended) = watch(&npu, event);
    assert!(ended.recv_timeout(Duration::from_millis(20)).is_err());
    alone.faults("device_lost device=2");
    let error = ended.recv_timeout(WAIT).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resource);
    assert!(ropeway_ascend::error::acl_class(&error).unwrap().is_device_lost(), "{error}");
}

#[test]
fn a_device_without_streams_or_events_gives_back_pressure() {
    let Some(simulator) = simulator("out of streams") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 0);
    alone.faults("out_of_streams count=1; out_of_events count=1");
    let device = npu.device().clone();
    let (stream, event, again) = npu
        .device()
        .call(Work::Slow, "test", move |on| {
            (
                Stream::create(&device, on).map(drop),
                Event::create(&device, on).map(drop),
                Stream::create(&device, on).map(drop),
            )
        })
        .unwrap();
    let (stream, event) = (stream.unwrap_err(), event.unwrap_err());
    assert_eq!((stream.kind(), stream.native()), (ErrorKind::Full, Some(207_008)));
    assert_eq!((event.kind(), event.native()), (ErrorKind::Full, Some(207_007)));
    assert!(stream.message().contains("NO_STREAM"), "{stream}");
    again.unwrap();
}

#[test]
fn a_wait_that_times_out_leaves_work_that_an_abort_ends() {
    let Some(simulator) = simulator("abort") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let (_gate, stream, _event) = held(&npu);
    let (timed_out, idle, after) = npu
        .device()
        .call(Work::Slow, "test", move |on| {
            let timed_out = stream.wait(on, Duration::from_millis(5)).unwrap_err();
            let idle = stream.is_idle(on);
            stream.abort(on).unwrap();
            (timed_out, idle, stream.wait(on, WAIT))
        })
        .unwrap();
    assert_eq!((timed_out.kind(), timed_out.native()), (ErrorKind::TimedOut, Some(507_046)));
    assert!(!idle.unwrap());
    let after = after.unwrap_err();
    assert_eq!((after.kind(), after.native()), (ErrorKind::Cancelled, Some(107_023)));
}

#[test]
fn an_arrival_fires_and_lets_a_consumers_stream_pass() {
    let Some(simulator) = simulator("arrival") else { return };
    let _shared = simulator.shared();
    let npu = npu(simulator, 0);
    let arrival = npu.arrival().unwrap();
    let (consumer, _event) = stream_and_event(&npu);
    let on = npu.device().enter().unwrap();
    // SAFETY: the arrival lives until the stream was waited for.
    unsafe { consumer.wait_for(&on, arrival.raw()) }.unwrap();
    consumer.wait(&on, WAIT).unwrap();
    assert!(arrival.has_fired(&on).unwrap());
}

/// How often threads whose names begin so have gone to sleep, by thread.
fn sleeps(prefix: &str) -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut found: Vec<(String, u64)> = tasks
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
            };
            let name = field("Name:")?;
            let slept = field("voluntary_ctxt_switches:")?.parse().ok()?;
            name.starts_with(prefix).then_some((format!("{name} {}", task.path().display()), slept))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn the_threads_of_an_idle_device_stay_asleep() {
    let Some(simulator) = simulator("idle") else { return };
    let _alone = simulator.alone();
    let npu = npu(simulator, 3);
    let (_stream, event) = soon(&npu);
    watch(&npu, event).1.recv_timeout(WAIT).unwrap().unwrap();
    let mut before = Vec::new();
    eventually("the threads have gone to sleep", || {
        before = sleeps("npu3-");
        std::thread::sleep(Duration::from_millis(20));
        sleeps("npu3-") == before
    });
    assert!(before.iter().any(|(name, _)| name.starts_with("npu3-events")), "{before:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sleeps("npu3-"), before, "a thread woke up although there was nothing to do");
}
