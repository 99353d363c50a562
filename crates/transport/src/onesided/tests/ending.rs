//! Ends of batches other than the good one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ropeway_core::{Cursor, GrantId, Op, Quiet, Rights, Run, Runs, Status, StatusKind, TransferId};

use crate::onesided::pause::Point;
use crate::onesided::rig::*;
use crate::{Batch, Link, Memory, Refusal, State, TransportKind, Watcher};

const LARGE: u64 = 8 << 20;

/// Panics at a call of `fill`.
struct Panicking {
    list: Arc<List>,
    at: u32,
    calls: AtomicU32,
}

impl Runs for Panicking {
    fn total_bytes(&self) -> u64 {
        self.list.total_bytes()
    }

    fn total_runs(&self) -> u64 {
        self.list.total_runs()
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        assert!(self.calls.fetch_add(1, Ordering::SeqCst) != self.at, "a panic of the test");
        self.list.fill(at, out, bytes)
    }

    fn seek(&self, byte: u64) -> Cursor {
        self.list.seek(byte)
    }

    fn encode(&self, out: &mut BytesMut) {
        self.list.encode(out);
    }
}

#[test]
fn a_panic_among_the_chunks_is_indeterminate_keeps_the_memory_and_costs_no_thread() {
    for kind in KINDS {
        for (size, at) in [(16 << 10, 0), (LARGE, 0), (LARGE, 3)] {
            let (near, far) = pair(kind);
            far.lend(1, size, &near);
            let grant = far.open(1, Rights::Read);
            let ours = private(size);
            let runs = Arc::new(Panicking { list: List::reversed(size, 4096), at, calls: AtomicU32::new(0) });
            let (state, ends) = Order::new(Op::Read, grant, runs, &ours, region(1)).post(&*near.link);
            let status = state.park(Some(soon())).expect("watchdog");
            assert_eq!(status.kind, StatusKind::Indeterminate, "{kind} {size} {at}");
            assert_eq!((status.local, status.remote), (Quiet::AfterClose, Quiet::AfterClose));
            eventually("the watcher is told", || !ends.0.lock().unwrap().is_empty());
            assert!(ends.0.lock().unwrap()[0].2, "{kind}: the pins are quarantined");
            for _ in 0..4 {
                let order = Order::new(Op::Read, grant, List::reversed(size, 4096), &ours, region(1));
                let (state, _) = order.post(&*near.link);
                assert_eq!(state.park(Some(soon())).expect("watchdog").kind, StatusKind::Completed, "{kind}");
            }
        }
    }
}

/// A batch that is held in its first chunk.
fn held_batch(
    kind: TransportKind,
    generation: u32,
    abandon_after: Duration,
    act: impl Fn(&dyn Link, &crate::State),
) -> ropeway_core::Status {
    let (near, far) = pair(kind);
    far.lend(1, LARGE, &near);
    let ours = private(LARGE);
    let grant = GrantId { slot: 8, generation };
    far.engine.fence().open(grant, Rights::Write).unwrap();
    let held = Held::at(Point::Entered, grant);
    let mut order = Order::new(Op::Write, grant, List::reversed(LARGE, 4096), &ours, region(1));
    order.abandon_at = Instant::now() + abandon_after;
    let (state, ends) = order.post(&*near.link);
    held.await_first();
    act(&*near.link, &state);
    assert!(state.status().is_none(), "{kind}: terminal while a chunk moves");
    drop(held);
    let status = state.park(Some(soon())).expect("watchdog");
    eventually("the watcher is told", || !ends.0.lock().unwrap().is_empty());
    assert_eq!(ends.0.lock().unwrap().len(), 1, "ended once");
    assert_eq!((status.local, status.remote), (Quiet::Yes, Quiet::Yes));
    status
}

#[test]
fn a_cancelled_batch_ends_after_its_claimed_chunks() {
    for kind in KINDS {
        let status = held_batch(kind, 201, WATCHDOG, |link, state| link.cancel(state.id()));
        assert_eq!(status.kind, StatusKind::Cancelled, "{kind}");
    }
}

#[test]
fn a_batch_past_its_time_is_abandoned_and_takes_no_further_chunk() {
    for kind in KINDS {
        let soon = Duration::from_secs(1);
        let status = held_batch(kind, 202, soon, |_, _| std::thread::sleep(Duration::from_millis(1_200)));
        assert_eq!(status.kind, StatusKind::Abandoned, "{kind}");
    }
}

#[test]
fn closing_the_link_ends_its_batches() {
    for kind in KINDS {
        let status = held_batch(kind, 203, WATCHDOG, |link, _| link.close());
        assert_eq!(status.kind, StatusKind::Closed, "{kind}");
    }
}

#[test]
fn a_run_that_passes_the_end_of_either_side_or_overlaps_itself_moves_no_byte() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        let theirs = far.lend(1, 65536, &near);
        let ours = private(65536);
        stamp(&theirs, 1);
        let grant = far.open(1, Rights::Read);
        let good = Run { len: 4096, ..Run::default() };
        let bad = [
            Run { local: 61441, ..good },
            Run { remote: 61441, ..good },
            Run { local: u64::MAX, ..good },
            Run { remote: u64::MAX - 100, ..good },
            Run { local_region: 1, ..good },
            Run { remote_region: 1, ..good },
        ];
        for run in bad {
            let runs = Arc::new(List(vec![run, good]));
            let status = Order::new(Op::Read, grant, runs, &ours, region(1)).run(&*near.link);
            assert_eq!(status.kind, StatusKind::Denied, "{kind} {run:?}");
            assert!(is_blank(&ours), "{kind} {run:?}");
        }
    }
}

#[test]
fn writing_to_memory_that_was_lent_to_read_is_denied_and_does_not_crash() {
    for kind in [TransportKind::Shm, TransportKind::Cma] {
        let (near, far) = pair(kind);
        let theirs = crate::Memory::shared_read_only(65536, &janitor()).unwrap();
        far.sink.offer(region(1), &theirs);
        near.link.import(region(1), soon()).unwrap();
        let grant = far.open(1, Rights::Write);
        let ours = private(65536);
        let runs = List::reversed(65536, 4096);
        let status = Order::new(Op::Write, grant, runs, &ours, region(1)).run(&*near.link);
        assert_eq!(status.kind, StatusKind::Denied, "{kind}");
    }
}

#[test]
fn shm_refuses_memory_without_a_memfd_and_cma_takes_it() {
    for (kind, taken) in
        [(TransportKind::Shm, false), (TransportKind::Cma, true), (TransportKind::Loopback, true)]
    {
        let (near, far) = pair(kind);
        far.sink.offer(region(1), &private(4096));
        match near.link.import(region(1), soon()) {
            Ok(len) => assert!(taken && len == 4096, "{kind}"),
            Err(error) => {
                assert!(!taken && error.message().contains("memfd"), "{kind}: {error}");
                far.sink.await_told(&Told::Withdrawn(region(1)));
            }
        }
    }
}

#[test]
fn memory_that_is_not_there_is_peer_unmapped_at_its_run() {
    let (near, far) = pair(TransportKind::Cma);
    let guarded = crate::memory::guard::Guarded::new(65536).unwrap();
    // SAFETY: `Guarded` stays mapped until the test ends; the unreadable part is what the test is about.
    let theirs =
        unsafe { crate::Memory::raw(guarded.base().as_ptr(), 65536, Box::new(()), &janitor()) }.unwrap();
    far.sink.offer(region(1), &theirs);
    near.link.import(region(1), soon()).unwrap();
    guarded.protect(40960..65536, crate::memory::guard::Protection::None).unwrap();
    let ours = private(65536);
    for (op, rights) in [(Op::Read, Rights::Read), (Op::Write, Rights::Write)] {
        let grant = far.open(1, rights);
        let run = |i: u64| Run { local: i * 4096, remote: i * 4096, len: 4096, ..Run::default() };
        let runs = Arc::new(List((0..16).map(run).collect()));
        let status = Order::new(op, grant, runs, &ours, region(1)).run(&*near.link);
        assert_eq!((status.kind, status.run), (StatusKind::PeerUnmapped, 10), "{op}");
        assert_eq!(status.native, libc::EFAULT);
    }
}

#[test]
fn more_batches_than_the_limit_are_refused_whole() {
    let limit = 256;
    let (near, far) = pair(TransportKind::Loopback);
    far.lend(1, LARGE, &near);
    let ours = private(LARGE);
    let grant = GrantId { slot: 9, generation: 204 };
    far.engine.fence().open(grant, Rights::Read).unwrap();
    let held = Held::at(Point::Entered, grant);
    let ends = Arc::default();
    let order = || Order::new(Op::Read, grant, List::reversed(LARGE, 1 << 20), &ours, region(1));
    let states: Vec<_> = (0..limit)
        .map(|id| {
            let (state, batch) = order().batch(id, &ends);
            assert!(near.link.post(batch).is_ok());
            state
        })
        .collect();
    let (_, batch) = order().batch(limit, &ends);
    let rejected = near.link.post(batch).expect_err("refused");
    assert_eq!(rejected.why, Refusal::Full { limit: "transfers_per_peer" });
    rejected.batch.done.disarm();
    drop(held);
    for state in states {
        near.link.drive(&state, Some(soon()));
        assert_eq!(state.status().expect("watchdog").kind, StatusKind::Completed);
    }
}

/// An engine that takes its time to hear of an end.
struct Slow {
    heard: mpsc::Sender<StatusKind>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Watcher for Slow {
    fn finished(&self, _: &State, status: Status, _: Option<Arc<[Arc<Memory>]>>) {
        self.heard.send(status.kind).unwrap();
        let _ = self.go.lock().unwrap().recv_timeout(WATCHDOG);
    }
}

#[test]
fn a_link_is_not_told_closed_before_its_batches_ends_are_told() {
    // Inside `post`, and as a job.
    for total in [4096, LARGE] {
        let (near, far) = pair(TransportKind::Loopback);
        far.lend(1, total, &near);
        let ours = private(total);
        let grant = far.open(1, Rights::Read);
        let runs = Panicking { list: List::reversed(total, 4096), at: 0, calls: AtomicU32::new(0) };
        let (heard, ends) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let watcher: Arc<dyn Watcher> = Arc::new(Slow { heard, go: Mutex::new(wait) });
        let (_, batch) =
            Order::new(Op::Read, grant, Arc::new(runs), &ours, region(1)).batch(1, &Arc::default());
        let Batch { op, runs, local, remote, abandon_at, done, .. } = batch;
        done.disarm();
        let (state, done) = State::new(TransferId(1), 0, Arc::clone(&local), watcher);
        let batch = Batch { id: TransferId(1), op, grant, runs, local, remote, abandon_at, done };
        let link = Arc::clone(&near.link);
        let poster = std::thread::spawn(move || {
            assert!(link.post(batch).is_ok());
            link.drive(&state, Some(soon()));
        });
        assert_eq!(ends.recv_timeout(WATCHDOG), Ok(StatusKind::Indeterminate));
        near.link.close();
        std::thread::sleep(Duration::from_millis(200));
        assert!(!near.sink.has(&Told::Closed { peer_gone: false }), "{total}: its quarantine has just begun");
        go.send(()).unwrap();
        near.sink.await_told(&Told::Closed { peer_gone: false });
        poster.join().unwrap();
    }
}
