//! A closed lease: nothing is surfaced, nothing lands, and the fence says when it is over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use ropeway_core::{Op, Quiet, RegionId, StatusKind};

use super::{Engine, GRANT, Port, copies, eventually, pair, wait};
use crate::Fenced;
use crate::tcp::wire::Kind;

fn stale(engine: &Engine, op: Op, count: u64, len: u32) {
    let state = engine.post(op, copies(count, len));
    let status = wait(engine, &state);
    assert_eq!((status.kind, status.local, status.remote), (StatusKind::StaleLease, Quiet::Yes, Quiet::Yes));
}

fn close_at_ask(engine: &Engine, ask: usize) {
    let (leases, asks) = (Arc::clone(&engine.leases), AtomicUsize::new(0));
    *engine.leases.asked.lock().unwrap() = Some(Box::new(move |_, _| {
        if asks.fetch_add(1, Ordering::SeqCst) == ask {
            leases.closed.store(true, Ordering::SeqCst);
        }
    }));
}

#[test]
fn a_closed_lease_moves_not_a_byte() {
    let (a, b) = pair(1 << 20);
    a.memory.fill(0, 1 << 20, 1).unwrap();
    b.memory.fill(0, 1 << 20, 2).unwrap();
    b.leases.closed.store(true, Ordering::SeqCst);
    stale(&a, Op::Write, 1, 1 << 20);
    stale(&a, Op::Write, 2, 4096);
    assert!(b.bytes().iter().all(|byte| *byte == 2));
    stale(&a, Op::Read, 1, 1 << 20);
    stale(&a, Op::Read, 2, 4096);
    assert!(a.bytes().iter().all(|byte| *byte != 2), "bytes of a closed lease must not leave its owner");
    assert_eq!(b.link().fence(GRANT), Fenced::Now);
    eventually(|| b.sink.serving.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_read_that_is_revoked_in_its_middle_is_stale_and_the_stream_goes_on() {
    let (a, b) = pair(8 << 20);
    b.memory.fill(0, 8 << 20, 2).unwrap();
    for ask in [1, 4, 9] {
        close_at_ask(&b, ask);
        stale(&a, Op::Read, 2, 4 << 20);
        *b.leases.asked.lock().unwrap() = None;
        b.leases.closed.store(false, Ordering::SeqCst);
        let state = a.post(Op::Read, copies(2, 4 << 20));
        assert!(wait(&a, &state).is_completed());
        assert!(a.bytes().iter().all(|byte| *byte == 2));
    }
}

#[test]
fn no_byte_of_a_write_lands_after_the_fence() {
    let (a, b) = pair(8 << 20);
    for ask in [1, 3, 7] {
        close_at_ask(&b, ask);
        a.memory.fill(0, 8 << 20, 10 + ask as u8).unwrap();
        let state = a.post(Op::Write, copies(2, 4 << 20));
        eventually(|| b.leases.closed.load(Ordering::SeqCst));
        eventually(|| b.link().fence(GRANT) == Fenced::Now);
        let fenced = b.bytes();
        assert_eq!(wait(&a, &state).kind, StatusKind::StaleLease);
        assert!(fenced == b.bytes(), "a byte landed after the fence");
        *b.leases.asked.lock().unwrap() = None;
        b.leases.closed.store(false, Ordering::SeqCst);
        let state = a.post(Op::Write, copies(2, 4 << 20));
        assert!(wait(&a, &state).is_completed());
    }
}

#[test]
fn a_fence_is_pending_while_a_serving_thread_is_inside() {
    for op in [Op::Read, Op::Write] {
        let (a, b) = pair(1 << 20);
        let (inside, entered) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        *b.leases.asked.lock().unwrap() = Some(Box::new(move |_, _| {
            let _ = inside.send(());
            let _ = gate.recv();
        }));
        let state = a.post(op, copies(1, 4096));
        entered.recv_timeout(super::engine::WATCHDOG).unwrap();
        assert_eq!(b.link().fence(GRANT), Fenced::Pending);
        assert!(b.sink.fenced.lock().unwrap().is_empty());
        assert_eq!(b.link().withdraw(RegionId { slot: 5, generation: 1 }), Fenced::Pending);
        drop(go);
        eventually(|| *b.sink.fenced.lock().unwrap() == [GRANT]);
        eventually(|| b.sink.withdrawn.lock().unwrap().len() == 1);
        assert_eq!(b.link().fence(GRANT), Fenced::Now);
        assert_eq!(b.link().withdraw(RegionId { slot: 5, generation: 1 }), Fenced::Now);
        wait(&a, &state);
    }
}

#[test]
fn a_revoked_read_lets_go_of_its_memory_although_the_peer_reads_nothing() {
    let b = Engine::new(64 << 20, Default::default());
    let mut port = Port::attach(&b);
    port.lanes[1].request(Kind::ReadRequest, 1, GRANT, &*copies(1, 64 << 20));
    eventually(|| b.sink.serving.load(Ordering::SeqCst) == 1);
    // The socket is full by and by, and stays so.
    eventually(|| {
        let asks = b.leases.asks.load(Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(50));
        asks > 0 && asks == b.leases.asks.load(Ordering::SeqCst)
    });
    b.leases.closed.store(true, Ordering::SeqCst);
    eventually(|| b.link().fence(GRANT) == Fenced::Now);
    eventually(|| b.sink.serving.load(Ordering::SeqCst) == 0);
    let (bytes, end) = port.lanes[1].drain_read(1);
    assert_eq!(end.status, crate::tcp::wire::status_to_wire(StatusKind::StaleLease));
    assert!(bytes < 64 << 20);
}

#[test]
fn a_revocation_that_falls_into_the_check_of_a_request_still_makes_it_let_go() {
    for kind in [Kind::ReadRequest, Kind::WriteRequest] {
        let b = Engine::new(1 << 20, Default::default());
        let mut port = Port::attach(&b);
        let (link, leases) = (Arc::clone(b.link()), Arc::clone(&b.leases));
        *b.sink.checked.lock().unwrap() = Some(Box::new(move || {
            leases.closed.store(true, Ordering::SeqCst);
            assert_eq!(link.fence(GRANT), Fenced::Now, "no memory is touched before the check is over");
            assert_eq!(link.withdraw(RegionId { slot: 5, generation: 1 }), Fenced::Pending);
        }));
        // A write whose peer then says no more: nothing of it comes that could find the lease closed.
        port.lanes[1].request(kind, 1, GRANT, &*copies(1, 4096));
        eventually(|| b.sink.served.load(Ordering::SeqCst) == 1);
        eventually(|| b.sink.serving.load(Ordering::SeqCst) == 0);
        eventually(|| b.sink.withdrawn.lock().unwrap().len() == 1);
        // It holds the link, which holds the sink.
        *b.sink.checked.lock().unwrap() = None;
    }
}

/// A permit whose drop waits for a batch of the same stream, as a waker of the engine's user may.
struct Waits(Arc<dyn crate::Link>, Option<crate::Batch>, mpsc::Sender<bool>);

impl Drop for Waits {
    fn drop(&mut self) {
        let batch = self.1.take().unwrap();
        let state = Arc::clone(batch.done.state());
        assert!(self.0.post(batch).is_ok());
        self.0.drive(&state, Some(std::time::Instant::now() + super::engine::WATCHDOG));
        let _ = self.2.send(state.status().is_some_and(|status| status.is_completed()));
    }
}

#[test]
fn what_a_refused_request_held_is_dropped_outside_the_streams_lock() {
    let (a, b) = pair(1 << 20);
    let (dropped, drops) = mpsc::channel();
    let (batch, _) = b.batch(Op::Read, copies(1, 4096), super::engine::WATCHDOG);
    *b.sink.refused.lock().unwrap() = Some(Box::new(Waits(Arc::clone(b.link()), Some(batch), dropped)));
    *b.sink.refuse.lock().unwrap() = Some(StatusKind::Denied);
    let status = wait(&a, &a.post(Op::Read, copies(1, 4096)));
    assert_eq!(status.kind, StatusKind::Denied);
    assert_eq!(drops.recv_timeout(super::engine::WATCHDOG), Ok(true));
}
