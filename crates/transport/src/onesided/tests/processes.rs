//! Two processes: one is killed, stopped, or has no rights.

use std::sync::Arc;

use ropeway_core::{ErrorKind, Op, Rights, StatusKind};

use super::child::*;
use crate::onesided::pause::Point;
use crate::onesided::rig::*;
use crate::{Fenced, Memory, Role, TransportKind};

const BETWEEN: [TransportKind; 2] = [TransportKind::Shm, TransportKind::Cma];
const SIZE: u64 = 8 << 20;

/// A region of this process that the second one has imported.
fn lend(end: &End, child: &mut Child, slot: u32, len: u64) -> Arc<Memory> {
    let memory = Memory::shared(len, &janitor()).unwrap();
    end.sink.offer(region(slot), &memory);
    assert_eq!(child.must(&format!("import {slot}")), len.to_string());
    memory
}

#[test]
fn bytes_move_between_processes_both_ways() {
    for kind in BETWEEN {
        let (end, mut child) = linked(kind);
        child.must(&format!("lend 1 {SIZE}"));
        child.must("open 1 read");
        assert_eq!(end.link.import(region(1), soon()).unwrap(), SIZE);
        let ours = private(SIZE);
        let status =
            Order::new(Op::Read, grant(1), List::reversed(SIZE, 4096), &ours, region(1)).run(&*end.link);
        assert_eq!(status.kind, StatusKind::Completed, "{kind}");
        let stamped = private(SIZE);
        stamp(&stamped, 1);
        let expected = bytes_of(&stamped).chunks_exact(4096).rev().collect::<Vec<_>>().concat();
        assert!(bytes_of(&ours) == expected, "{kind}");

        let theirs = lend(&end, &mut child, 2, SIZE);
        end.open(2, Rights::Write);
        assert_eq!(child.must(&format!("write 2 {SIZE} 2 wait")), "Completed", "{kind}");
        stamp(&stamped, 1 << 60);
        let expected = bytes_of(&stamped).chunks_exact(4096).rev().collect::<Vec<_>>().concat();
        assert!(bytes_of(&theirs) == expected, "{kind}");
        child.must("close");
        end.sink.await_told(&Told::Closed { peer_gone: false });
    }
}

#[test]
fn a_batch_whose_owner_is_killed_ends_as_peer_gone() {
    for (number, kind) in BETWEEN.into_iter().enumerate() {
        let slot = 10 + number as u32;
        let (end, mut child) = linked(kind);
        child.must(&format!("lend 1 {SIZE}"));
        child.must(&format!("open {slot} read"));
        end.link.import(region(1), soon()).unwrap();
        let ours = private(SIZE);
        let held = Held::at(Point::Entered, grant(slot));
        let (state, _) =
            Order::new(Op::Read, grant(slot), List::reversed(SIZE, 4096), &ours, region(1)).post(&*end.link);
        held.await_first();
        child.kill();
        end.sink.await_told(&Told::Lost(ErrorKind::PeerGone));
        drop(held);
        let status = state.park(Some(soon())).expect("watchdog");
        assert_eq!(status.kind, StatusKind::PeerGone, "{kind}");
        end.sink.await_told(&Told::Closed { peer_gone: true });
    }
}

#[test]
fn a_write_lease_of_a_killed_writer_is_free_by_its_death_and_not_before() {
    for kind in BETWEEN {
        let (end, mut child) = linked(kind);
        lend(&end, &mut child, 1, SIZE);
        let lease = end.open(1, Rights::Write);
        child.must("hold 1");
        child.must(&format!("write 1 {SIZE} 1"));
        child.must("held");
        end.engine.fence().close(lease);
        assert_eq!(end.link.fence(lease), Fenced::Pending, "{kind}");
        a_while();
        assert!(!end.sink.has(&Told::Fenced(lease)), "{kind}: told while the writer may write");
        child.kill();
        end.sink.await_told(&Told::Fenced(lease));
        end.sink.await_told(&Told::Lost(ErrorKind::PeerGone));
        end.sink.await_told(&Told::Closed { peer_gone: true });
        assert_eq!(end.link.fence(lease), Fenced::Now, "{kind}");
    }
}

#[test]
fn a_stopped_writer_keeps_its_lease_and_its_link_and_nobody_elses() {
    for kind in BETWEEN {
        let (end, mut child) = linked(kind);
        let memory = lend(&end, &mut child, 1, SIZE);
        let lease = end.open(1, Rights::Write);
        child.must("hold 1");
        child.must(&format!("write 1 {SIZE} 1"));
        child.must("held");
        child.stop();
        end.engine.fence().close(lease);
        assert_eq!(end.link.fence(lease), Fenced::Pending, "{kind}");
        assert_eq!(end.link.withdraw(region(1)), Fenced::Pending, "{kind}");
        end.link.close();

        // The same engine's other peer.
        let (near, far) = pair_of(kind, engine(0), Arc::clone(&end.engine));
        far.lend(2, SIZE, &near);
        let other = far.open(2, Rights::Write);
        let ours = private(SIZE);
        let status =
            Order::new(Op::Write, other, List::reversed(SIZE, 4096), &ours, region(2)).run(&*near.link);
        assert_eq!(status.kind, StatusKind::Completed, "{kind}");
        far.engine.fence().close(other);
        assert_eq!(far.link.fence(other), Fenced::Now, "{kind}");

        a_while();
        let told = end.sink.told();
        assert_eq!(told, [Told::Attached], "{kind}: nothing is proven of a stopped peer");
        child.go_on();
        child.must("release");
        end.sink.await_told(&Told::Fenced(lease));
        end.sink.await_told(&Told::Closed { peer_gone: false });
        // Whatever it did is done.
        memory.fill(0, SIZE, 0).unwrap();
        a_while();
        assert!(is_blank(&memory), "{kind}: a late write");
    }
}

#[test]
fn after_the_proof_of_a_writers_death_no_byte_lands() {
    const LONG: u64 = 128 << 20;
    for kind in BETWEEN {
        for pause_ms in [1, 4, 9] {
            let (end, mut child) = linked(kind);
            let memory = lend(&end, &mut child, 1, LONG);
            let lease = end.open(1, Rights::Write);
            child.must(&format!("write 1 {LONG} 1"));
            std::thread::sleep(std::time::Duration::from_millis(pause_ms));
            child.kill();
            end.engine.fence().close(lease);
            if end.link.fence(lease) == Fenced::Pending {
                end.sink.await_told(&Told::Fenced(lease));
            }
            memory.fill(0, LONG, 0).unwrap();
            end.sink.await_told(&Told::Closed { peer_gone: true });
            assert!(is_blank(&memory), "{kind}: a late write");
        }
    }
}

#[test]
fn an_import_from_a_stopped_owner_ends_at_its_deadline_and_its_late_answer_is_let_go() {
    for kind in BETWEEN {
        let (end, mut child) = linked(kind);
        child.must(&format!("lend 1 {SIZE}"));
        child.stop();
        let error = end.link.import(region(1), shortly()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{kind}: {error}");
        child.go_on();
        child.must("withdrawn 1");
        assert_eq!(end.link.import(region(1), soon()).unwrap(), SIZE, "{kind}");
    }
}

#[test]
fn a_link_to_a_stopped_process_is_given_up_at_the_deadline() {
    for kind in BETWEEN {
        let mut child = Child::spawn();
        let engine = engine(0);
        let theirs = unhex(&child.must(&format!("offer {kind}")));
        child.must(&format!("passive {kind} {}", hex(&[0; 16])));
        child.stop();
        let sink = Arc::new(Sink::default());
        let mut config = config(Role::Active, theirs.into(), 7, &sink);
        config.deadline = shortly();
        let error = transport(kind, &engine).link(config).err().expect("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{kind}: {error}");
    }
}

/// Needs the right to change the user id: without it the case cannot be made.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const NOBODY: &str = "uid 65534";

#[test]
fn without_ptrace_right_cma_says_which_is_missing_and_shm_is_still_to_be_had() {
    if !is_root() {
        let test = "without_ptrace_right_cma_says_which_is_missing_and_shm_is_still_to_be_had";
        return ropeway_testkit::cannot_run(test, "needs root, to run the second process as another user");
    }
    let mut child = Child::spawn();
    child.must(NOBODY);
    let engine = engine(0);
    for kind in [TransportKind::Cma, TransportKind::Shm] {
        let sink = Arc::new(Sink::default());
        let ours = transport(kind, &engine);
        let _theirs = child.must(&format!("offer {kind}"));
        let _link = ours.link(config(Role::Passive, [0; 16].to_vec().into(), 7, &sink)).unwrap();
        let answer = child.tell(&format!("active {kind} {}", hex(&ours.offer())));
        if kind == TransportKind::Cma {
            assert!(answer.starts_with("error denied"), "{answer}");
            assert!(answer.contains("ptrace") && answer.contains("uid 0"), "{answer}");
            // The owner hears it, too; nothing that was there is lost by it.
            sink.await_told(&Told::Closed { peer_gone: false });
            assert_eq!(sink.told(), [Told::Closed { peer_gone: false }]);
        } else {
            assert!(answer.starts_with("ok"), "{answer}");
            sink.await_told(&Told::Attached);
        }
    }
}

#[test]
fn a_process_that_is_not_dumpable_is_refused_by_cma_with_the_reason() {
    if !is_root() {
        let test = "a_process_that_is_not_dumpable_is_refused_by_cma_with_the_reason";
        return ropeway_testkit::cannot_run(test, "needs root, to run two processes as another user");
    }
    let (mut near, mut far) = (Child::spawn(), Child::spawn());
    // Changing the user id makes a process not dumpable; one of the two stays so.
    for child in [&mut near, &mut far] {
        child.must(NOBODY);
    }
    near.must("dumpable 1");
    far.must("dumpable 0");
    let offer = far.must("offer cma");
    far.must(&format!("passive cma {}", hex(&[0; 16])));
    let answer = near.tell(&format!("active cma {offer}"));
    assert!(answer.starts_with("error denied") && answer.contains("dumpable"), "{answer}");

    // Both dumpable: nothing else is in the way.
    let mut open = Child::spawn();
    open.must(NOBODY);
    open.must("dumpable 1");
    let offer = open.must("offer cma");
    open.must(&format!("passive cma {}", hex(&[0; 16])));
    near.must(&format!("active cma {offer}"));
    open.must("attached");
}
