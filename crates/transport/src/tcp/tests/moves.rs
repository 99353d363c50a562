//! Bytes arrive where they belong.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ropeway_core::{Limits, Op, Quiet, Run, Status, StatusKind};

use super::engine::List;
use super::{Engine, copies, pair, pair_with, wait};

fn reversed(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.rchunks(len).collect::<Vec<_>>().concat()
}

fn check(a: &Engine, b: &Engine, op: Op, count: u64, len: u32) {
    let (from, to) = if op == Op::Read { (b, a) } else { (a, b) };
    let bytes = from.pattern();
    to.memory.fill(0, to.memory.len(), 0).unwrap();
    let state = a.post(op, copies(count, len));
    let status = wait(a, &state);
    assert_eq!(status, Status::COMPLETED.with_run(count as u32));
    let moved = count as usize * len as usize;
    assert_eq!(to.bytes()[..moved], reversed(&bytes[..moved], len as usize), "{op} {count} x {len}");
    assert!(
        to.bytes()[moved..] == vec![0; to.memory.len() as usize - moved],
        "no byte lands beyond the blocks"
    );
}

#[test]
fn reads_and_writes_of_all_sizes_place_every_byte() {
    let (a, b) = pair(6 << 20);
    for op in [Op::Read, Op::Write] {
        for (count, len) in
            [(1, 1), (1, 8), (1, 4096), (3, 1000), (16, 4096), (17, 4096), (1, 5 << 20), (40, 100_000)]
        {
            check(&a, &b, op, count, len);
        }
        check(&b, &a, op, 16, 4096);
    }
}

#[test]
fn thousands_of_small_blocks_move_in_one_batch() {
    let (a, b) = pair(16 << 20);
    for op in [Op::Read, Op::Write] {
        check(&a, &b, op, 4000, 4096);
        check(&a, &b, op, 60_000, 256);
    }
}

#[test]
fn several_streams_carry_one_batch() {
    let (a, b) = pair_with(20 << 20, Limits::default().with_streams(3));
    for op in [Op::Read, Op::Write] {
        check(&a, &b, op, 4500, 4096);
        check(&a, &b, op, 3, 6_000_001);
    }
}

#[test]
fn nobody_needs_to_drive() {
    let (a, b) = pair(8 << 20);
    b.pattern();
    let state = a.post(Op::Read, copies(2000, 4096));
    assert!(state.park(Some(std::time::Instant::now() + super::engine::WATCHDOG)).unwrap().is_completed());
}

#[test]
fn many_threads_post_at_once() {
    let (a, b) = pair(8 << 20);
    let bytes = b.pattern();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (a, bytes) = (&a, &bytes);
            scope.spawn(move || {
                for round in 0..40u64 {
                    let len = if round % 10 == 0 { 300_000 } else { 4096 };
                    let at = thread << 20;
                    let run = Run { local: at, remote: at, len, ..Run::default() };
                    let state = a.post(Op::Read, Arc::new(List(vec![run])));
                    assert!(wait(a, &state).is_completed());
                    let mut got = vec![0; len as usize];
                    a.memory.read(at, &mut got).unwrap();
                    assert_eq!(got, bytes[at as usize..][..len as usize]);
                    a.memory.fill(at, len.into(), 0).unwrap();
                }
            });
        }
    });
    // The owner lets go just after its answer is on the way.
    super::eventually(|| b.sink.serving.load(Ordering::SeqCst) == 0);
}

#[test]
fn both_sides_ask_at_once() {
    let (a, b) = pair(8 << 20);
    a.memory.fill(0, 4 << 20, 1).unwrap();
    b.memory.fill(0, 4 << 20, 2).unwrap();
    let upper = |len| Arc::new(List(vec![Run { local: 4 << 20, remote: 0, len, ..Run::default() }]));
    std::thread::scope(|scope| {
        for engine in [&a, &b] {
            scope.spawn(move || {
                for _ in 0..10 {
                    let state = engine.post(Op::Read, upper(4 << 20));
                    assert!(wait(engine, &state).is_completed());
                }
            });
        }
    });
    assert!(a.bytes()[4 << 20..].iter().all(|byte| *byte == 2));
    assert!(b.bytes()[4 << 20..].iter().all(|byte| *byte == 1));
}

#[test]
fn small_ones_end_while_a_big_one_runs() {
    let (a, b) = pair(64 << 20);
    b.pattern();
    // A loaded machine may run the big ones first; sooner or later it does not.
    super::engine::eventually(|| {
        let big: Vec<_> = (0..4).map(|_| a.post(Op::Read, copies(16, 4 << 20))).collect();
        for _ in 0..8 {
            let small = a.post(Op::Read, copies(1, 4096));
            assert!(wait(&a, &small).is_completed());
        }
        let overtaken = big.iter().any(|state| !state.is_done());
        for state in big {
            assert!(wait(&a, &state).is_completed());
        }
        overtaken
    });
}

#[test]
fn what_the_peer_refuses_ends_with_its_reason() {
    let (a, b) = pair(8 << 20);
    for kind in [StatusKind::Denied, StatusKind::PeerFull, StatusKind::StaleLease] {
        *b.sink.refuse.lock().unwrap() = Some(kind);
        for op in [Op::Read, Op::Write] {
            for len in [4096, 8 << 20] {
                let state = a.post(op, copies(1, len));
                let status = wait(&a, &state);
                assert_eq!((status.kind, status.local, status.remote), (kind, Quiet::Yes, Quiet::Yes));
            }
        }
    }
    assert!(b.bytes().iter().all(|byte| *byte == 0), "not a byte of a refused write lands");
    *b.sink.refuse.lock().unwrap() = None;
    check(&a, &b, Op::Write, 16, 4096);
}

#[test]
fn a_request_beyond_the_peers_memory_is_denied() {
    let (a, b) = pair(1 << 20);
    let beyond = Run { local: 0, remote: (1 << 20) - 100, len: 4096, ..Run::default() };
    for op in [Op::Read, Op::Write] {
        let state = a.post(op, Arc::new(List(vec![beyond])));
        assert_eq!(wait(&a, &state).kind, StatusKind::Denied);
    }
    assert_eq!(b.sink.served.load(Ordering::SeqCst), 0);
}

#[test]
fn a_wait_that_times_out_leaves_the_batch_alone() {
    let (a, b) = pair(8 << 20);
    b.pattern();
    let state = a.post(Op::Read, copies(2, 4 << 20));
    a.link().drive(&state, Some(std::time::Instant::now()));
    a.link().drive(&state, Some(std::time::Instant::now() + Duration::from_micros(300)));
    assert!(wait(&a, &state).is_completed());
    super::eventually(|| a.ends.of(state.id()).len() == 1);
}
