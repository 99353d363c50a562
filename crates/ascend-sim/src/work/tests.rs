use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

const LONG: Option<Duration> = Some(Duration::from_secs(30));

fn note(log: &Arc<Mutex<Vec<u32>>>, value: u32) -> impl FnOnce() -> i32 + Send + 'static {
    let log = log.clone();
    move || {
        log.lock().unwrap().push(value);
        0
    }
}

#[test]
fn a_queue_keeps_its_order_also_where_an_earlier_step_is_slow() {
    let work = Work::new(2);
    let (queue, log) = (work.queue(), Arc::default());
    let _ = queue.push(Duration::from_millis(30), note(&log, 1));
    let last = queue.push(Duration::ZERO, note(&log, 2));
    assert!(queue.wait(last, LONG));
    assert_eq!(*log.lock().unwrap(), [1, 2]);
}

#[test]
fn a_shut_gate_holds_its_queue_and_no_other() {
    let work = Work::new(1);
    let (held, free, log, open) =
        (work.queue(), work.queue(), Arc::default(), Arc::new(AtomicBool::new(false)));
    let gate = open.clone();
    held.gate(move || if gate.load(Ordering::Acquire) { Gate::Open } else { Gate::Shut });
    let last = held.push(Duration::ZERO, note(&log, 2));
    let other = free.push(Duration::ZERO, note(&log, 1));
    assert!(free.wait(other, LONG));
    assert!(!held.wait(last, Some(Duration::from_millis(20))), "a wait gives up after its time");
    free.mark(move || open.store(true, Ordering::Release));
    assert!(held.wait(last, LONG));
    assert_eq!(*log.lock().unwrap(), [1, 2]);
}

#[test]
fn a_polled_gate_opens_without_a_kick() {
    let work = Work::new(1);
    let (queue, asked) = (work.queue(), Arc::new(AtomicU32::new(0)));
    let count = asked.clone();
    let last = queue.gate(move || {
        if count.fetch_add(1, Ordering::Relaxed) > 3 {
            Gate::Open
        } else {
            Gate::Poll(Duration::from_millis(1))
        }
    });
    assert!(queue.wait(last, LONG));
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}

#[test]
fn an_abort_leaves_out_what_has_not_begun() {
    let work = Work::new(1);
    let (queue, log) = (work.queue(), Arc::default());
    let last = queue.push(Duration::from_secs(3600), note(&log, 1));
    queue.abort(code::RT_STREAM_ABORT);
    assert!(queue.wait(last, LONG));
    assert_eq!(queue.error(), code::RT_STREAM_ABORT);
    assert_eq!(queue.error(), 0);
    let last = queue.push(Duration::ZERO, note(&log, 2));
    assert!(queue.wait(last, LONG));
    assert_eq!(*log.lock().unwrap(), [2]);
}

#[test]
fn stop_on_failure_leaves_out_what_comes_after_and_continue_does_not() {
    let work = Work::new(1);
    for (stop, ran) in [(true, vec![]), (false, vec![1])] {
        let (queue, log) = (work.queue(), Arc::default());
        queue.stop_on_failure(stop);
        let _ = queue.push(Duration::ZERO, || 7);
        let last = queue.push(Duration::ZERO, note(&log, 1));
        assert!(queue.wait(last, LONG));
        assert_eq!((queue.error(), &*log.lock().unwrap()), (7, &ran));
        assert_eq!(queue.error(), if stop { 7 } else { 0 });
    }
}

#[test]
fn a_job_that_panics_is_an_error_of_its_queue_only() {
    let work = Work::new(1);
    let queue = work.queue();
    let last = queue.push(Duration::ZERO, || panic!("on purpose"));
    assert!(queue.wait(last, LONG));
    assert_eq!(queue.error(), code::INTERNAL);
    let last = queue.push(Duration::ZERO, || 0);
    assert!(queue.wait(last, LONG));
}

#[test]
fn a_dropped_queue_still_runs_what_was_submitted() {
    let work = Work::new(1);
    let (send, receive) = std::sync::mpsc::channel();
    work.later(Duration::from_millis(5), move || send.send(1).map_or(9, |()| 0));
    assert_eq!(receive.recv_timeout(Duration::from_secs(30)), Ok(1));
}

#[test]
fn the_deadline_of_an_aborted_job_means_nothing_to_those_after_it() {
    let work = Work::new(2);
    let (queue, log) = (work.queue(), Arc::default());
    let _ = queue.push(Duration::from_millis(20), || 0);
    queue.abort(0);
    let (begun, begins) = std::sync::mpsc::channel();
    let slow = note(&log, 1);
    let _ = queue.push(Duration::ZERO, move || {
        let _ = begun.send(());
        std::thread::sleep(Duration::from_millis(100));
        slow()
    });
    assert_eq!(begins.recv_timeout(Duration::from_secs(30)), Ok(()));
    let last = queue.push(Duration::ZERO, note(&log, 2));
    assert!(queue.wait(last, LONG));
    assert_eq!(*log.lock().unwrap(), [1, 2]);
}
