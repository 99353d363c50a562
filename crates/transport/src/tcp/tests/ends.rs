//! Every batch ends once, whatever happens, and says truly what is quiet.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ropeway_core::{Limits, Op, Quiet, Status, StatusKind};

use super::engine::WATCHDOG;
use super::{Engine, Port, copies, eventually, pair, wait};
use crate::State;
use crate::tcp::wire::{Header, Kind};

const BIG: u32 = 16 << 20;

fn ended_once(engine: &Engine, state: &State, kind: StatusKind, remote: Quiet) {
    let status = wait(engine, state);
    assert_eq!((status.kind, status.local, status.remote), (kind, Quiet::Yes, remote));
    // The watcher is told just after the state.
    eventually(|| !engine.ends.of(state.id()).is_empty());
    assert_eq!(engine.ends.of(state.id()), [status], "exactly one end");
}

/// What the peer does before the connection is cut or the batch is cancelled.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    Nothing,
    TakesTheRequest,
    HalfASegment,
    AllButTheEnd,
}

const STAGES: [Stage; 4] = [Stage::Nothing, Stage::TakesTheRequest, Stage::HalfASegment, Stage::AllButTheEnd];

/// A batch of the engine towards a peer that answers by hand, up to `stage`.
fn begun(engine: &Engine, port: &mut Port, op: Op, stage: Stage) -> Arc<State> {
    let state = engine.post(op, copies(1, BIG));
    let (id, peer) = (state.id().0, &mut port.lanes[1]);
    if stage == Stage::Nothing {
        return state;
    }
    assert_eq!(peer.take_request().id, id);
    match (op, stage) {
        (Op::Read, Stage::HalfASegment) => {
            peer.send(&Header::segment(Kind::ReadData, id, 0, 1 << 20, false));
            peer.stream.write_all(&[7; 5000]).unwrap();
        }
        (Op::Read, Stage::AllButTheEnd) => {
            for sequence in 0..16 {
                peer.send(&Header::segment(Kind::ReadData, id, sequence, 1 << 20, false));
                peer.stream.write_all(&vec![7; 1 << 20]).unwrap();
            }
        }
        (Op::Write, Stage::HalfASegment) => {
            peer.receive();
            peer.skip(5000);
        }
        (Op::Write, Stage::AllButTheEnd) => {
            for _ in 0..BIG >> 18 {
                let header = peer.receive();
                peer.skip(header.length);
            }
        }
        _ => {}
    }
    state
}

#[test]
fn a_cut_connection_ends_every_batch_once_at_every_stage() {
    for op in [Op::Read, Op::Write] {
        for stage in STAGES {
            let engine = Engine::new(BIG as usize, Limits::default());
            let mut port = Port::attach(&engine);
            let state = begun(&engine, &mut port, op, stage);
            drop(port);
            ended_once(&engine, &state, StatusKind::LinkLost, Quiet::AfterClose);
            eventually(|| engine.sink.closed.load(Ordering::SeqCst) == 1);
            assert_eq!(engine.sink.lost.lock().unwrap().len(), 1);
            let (batch, _) = engine.batch(op, copies(1, 4096), WATCHDOG);
            let rejected = engine.link().post(batch).expect_err("a lost link takes no batch");
            assert_eq!(rejected.why, crate::Refusal::Closed);
            rejected.batch.done.disarm();
        }
    }
}

#[test]
fn a_given_up_batch_ends_once_and_touches_its_memory_no_more() {
    for (op, begun) in [(Op::Read, false), (Op::Read, true), (Op::Write, true)] {
        let engine = Engine::new(BIG as usize, Limits::default());
        let mut port = Port::attach(&engine);
        let (batch, state) = engine.batch(op, copies(1, BIG), Duration::from_millis(300));
        engine.link().post(batch).map_err(|rejected| rejected.why).unwrap();
        let (id, peer) = (state.id().0, &mut port.lanes[1]);
        peer.take_request();
        let half = vec![9; 1 << 19];
        if op == Op::Read && begun {
            peer.send(&Header::segment(Kind::ReadData, id, 0, 1 << 20, false));
            peer.stream.write_all(&half).unwrap();
        }
        ended_once(&engine, &state, StatusKind::Abandoned, Quiet::AfterClose);
        // From here on the memory is the caller's: late bytes do not come into it, and none of it goes out.
        engine.memory.fill(0, BIG.into(), 0xEE).unwrap();
        if op == Op::Read && !begun {
            peer.send(&Header::segment(Kind::ReadData, id, 0, 1 << 20, false));
            peer.stream.write_all(&half).unwrap();
        }
        if op == Op::Read {
            peer.stream.write_all(&half).unwrap();
        }
        let mut header = peer.receive();
        while header.kind == Kind::WriteData {
            assert!(!peer.take(header.length).contains(&0xEE), "a byte was read after the end");
            header = peer.receive();
        }
        assert_eq!((header.kind, header.id), (Kind::Cancel, id));
        peer.send(&Header::control(Kind::CancelAck, id, StatusKind::Cancelled));
        let next = engine.post(Op::Read, copies(1, BIG));
        assert_eq!(peer.take_request().id, next.id().0);
        peer.send(&Header::control(Kind::End, next.id().0, StatusKind::Denied));
        assert_eq!(wait(&engine, &next).kind, StatusKind::Denied);
        assert!(engine.bytes() == vec![0xEE; BIG as usize], "a late byte was placed");
        assert_eq!(engine.ends.of(state.id()).len(), 1);
    }
}

#[test]
fn a_cancelled_batch_ends_with_the_peers_word() {
    for op in [Op::Read, Op::Write] {
        for stage in STAGES {
            let engine = Engine::new(BIG as usize, Limits::default());
            let mut port = Port::attach(&engine);
            let state = begun(&engine, &mut port, op, stage);
            let (id, peer) = (state.id().0, &mut port.lanes[1]);
            engine.link().cancel(state.id());
            if stage == Stage::Nothing {
                peer.take_request();
            }
            if (op, stage) == (Op::Write, Stage::HalfASegment) {
                peer.skip((1 << 18) - 5000);
            }
            let mut header = peer.receive();
            while header.kind == Kind::WriteData {
                peer.skip(header.length);
                header = peer.receive();
            }
            assert_eq!((header.kind, header.id), (Kind::Cancel, id));
            assert!(state.status().is_none(), "the peer's side is not known to be quiet yet");
            if (op, stage) == (Op::Read, Stage::HalfASegment) {
                peer.stream.write_all(&vec![7; (1 << 20) - 5000]).unwrap();
            }
            peer.send(&Header::control(Kind::CancelAck, id, StatusKind::Cancelled));
            ended_once(&engine, &state, StatusKind::Cancelled, Quiet::Yes);
        }
    }
}

#[test]
fn a_cancelled_batch_whose_peer_goes_is_not_proven_quiet_there() {
    for op in [Op::Read, Op::Write] {
        let engine = Engine::new(BIG as usize, Limits::default());
        let mut port = Port::attach(&engine);
        let state = begun(&engine, &mut port, op, Stage::TakesTheRequest);
        engine.link().cancel(state.id());
        drop(port);
        ended_once(&engine, &state, StatusKind::LinkLost, Quiet::AfterClose);
    }
}

#[test]
fn real_peers_acknowledge_cancels() {
    let (a, b) = pair(32 << 20);
    for op in [Op::Read, Op::Write] {
        for pause_us in [0, 100, 1000, 5000] {
            let state = a.post(op, copies(2, BIG));
            std::thread::sleep(Duration::from_micros(pause_us));
            a.link().cancel(state.id());
            let status = wait(&a, &state);
            assert!(matches!(status.kind, StatusKind::Cancelled | StatusKind::Completed), "{status:?}");
            assert_eq!((status.local, status.remote), (Quiet::Yes, Quiet::Yes));
            eventually(|| b.sink.serving.load(Ordering::SeqCst) == 0);
            eventually(|| a.ends.of(state.id()).len() == 1);
            let state = a.post(op, copies(1, 4096));
            assert!(wait(&a, &state).is_completed());
        }
    }
}

#[test]
fn a_liar_about_the_end_is_found_out() {
    let engine = Engine::new(BIG as usize, Limits::default());
    let mut port = Port::attach(&engine);
    let state = begun(&engine, &mut port, Op::Read, Stage::TakesTheRequest);
    port.lanes[1].send(&Header::control(Kind::End, state.id().0, StatusKind::Completed));
    ended_once(&engine, &state, StatusKind::LinkLost, Quiet::AfterClose);
    let engine = Engine::new(BIG as usize, Limits::default());
    let mut port = Port::attach(&engine);
    let state = begun(&engine, &mut port, Op::Write, Stage::HalfASegment);
    port.lanes[1].send(&Header::control(Kind::Ack, state.id().0, StatusKind::Completed));
    ended_once(&engine, &state, StatusKind::LinkLost, Quiet::AfterClose);
}

#[test]
fn a_write_that_is_refused_midway_stops_and_says_so() {
    let engine = Engine::new(BIG as usize, Limits::default());
    let mut port = Port::attach(&engine);
    let state = begun(&engine, &mut port, Op::Write, Stage::HalfASegment);
    let (id, peer) = (state.id().0, &mut port.lanes[1]);
    peer.send(&Header::control(Kind::Ack, id, StatusKind::PeerFull));
    ended_once(&engine, &state, StatusKind::PeerFull, Quiet::Yes);
    peer.skip((1 << 18) - 5000);
    let mut header = peer.receive();
    while header.kind == Kind::WriteData {
        peer.skip(header.length);
        header = peer.receive();
    }
    assert_eq!((header.kind, header.id), (Kind::Cancel, id));
}

#[test]
fn closing_a_link_ends_what_runs_and_tells_the_other_side() {
    let (a, b) = pair(BIG as usize);
    let states: Vec<_> = (0..3).map(|_| a.post(Op::Read, copies(1, BIG))).collect();
    a.link().close();
    for state in states {
        let status = wait(&a, &state);
        assert!(status.is_completed() || status.kind == StatusKind::Closed, "{status:?}");
        eventually(|| a.ends.of(state.id()).len() == 1);
    }
    eventually(|| a.sink.closed.load(Ordering::SeqCst) == 1 && b.sink.closed.load(Ordering::SeqCst) == 1);
    assert!(a.sink.lost.lock().unwrap().is_empty(), "who closes has lost nothing");
    assert_eq!(b.sink.lost.lock().unwrap().len(), 1);
    assert_eq!(b.sink.serving.load(Ordering::SeqCst), 0);
}

#[test]
fn a_batch_of_no_bytes_is_done_at_once() {
    let (a, _b) = pair(4096);
    let state = a.post(Op::Read, copies(0, 4096));
    assert_eq!(state.status(), Some(Status::COMPLETED));
}
