//! Ends: each transfer has exactly one, and memory outlives every access.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use ropeway::{Completion, Engine, ErrorKind, Event, Op, Plan, Quiet, Rights, Start, Submit, Transfer};

use super::ground::{Ground, Pair, ids};
use super::owner::OwnerLease;
use crate::oracle::Image;
use crate::watchdog::{WAIT, eventually};

const BLOCK: u64 = 64 << 10;
/// Enough to be on its way for a moment.
const BLOCKS: u32 = 256;
const BYTES: u64 = BLOCKS as u64 * BLOCK;

fn planned(pair: &Pair, op: Op) -> (OwnerLease, Plan) {
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let all = ids(0..BLOCKS);
    let rights = if op == Op::Read { Rights::Read } else { Rights::Write };
    let (lease, grant) = pair.lease(&owners, &[&all], rights);
    let plan = pair.route(&importers).plan(op, &grant, None, &[&all], &[&all]).expect("planned");
    (lease, plan)
}

/// Before its event has fired a transfer has not begun: cancelled then, it leaves every byte alone.
pub fn a_transfer_cancelled_before_its_start_moves_nothing(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let ours = Image::fill(&pair.importer.region, 1);
    let (_lease, plan) = planned(&pair, Op::Read);
    let event = Event::new();
    let transfer = plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).expect("submitted");
    assert!(transfer.wait(Duration::from_millis(5)).is_none());
    transfer.cancel();
    let error = transfer.wait(WAIT).expect("ends").expect_err("cancelled");
    assert_eq!((error.kind(), error.local(), error.remote()), (ErrorKind::Cancelled, Quiet::Yes, Quiet::Yes));
    pair.expect_quiet();
    event.fire();
    pair.expect_quiet();
    ours.check(&pair.importer.region, "importer");
    drop((plan, transfer));
    pair.close();
}

/// A cancelled transfer on its way ends as cancelled or as done, never twice, and what its status calls quiet is.
pub fn a_transfer_cancelled_on_its_way_ends_once_and_is_quiet(ground: &Ground) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let (ours, theirs) = (Image::fill(&pair.importer.region, 1), Image::fill(&pair.owner.region, 2));
        let (lease, plan) = planned(&pair, op);
        let mut cancelled = 0;
        for round in 0..6 {
            let transfer = plan.submit(Submit::default()).expect("submitted");
            std::thread::sleep(Duration::from_micros(100 * round));
            transfer.cancel();
            match transfer.wait(WAIT).expect("ends") {
                Ok(report) => assert_eq!(report.bytes, BYTES),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                    cancelled += 1;
                    if (error.local(), error.remote()) != (Quiet::Yes, Quiet::Yes) {
                        continue;
                    }
                }
            }
            pair.expect_quiet();
        }
        let (read, written) = match op {
            Op::Read => (&theirs, &theirs),
            Op::Write => (&ours, &ours),
        };
        // Bytes of a cancelled read that the owner had not vouched for are blanked.
        let blanked = if op == Op::Read { ours.blanked() } else { ours.clone() };
        let importer = format!("importer after {cancelled} cancelled");
        Image::check_any(&[&ours, read, &blanked], &pair.importer.region, &importer);
        Image::check_any(
            &[&theirs, written],
            &pair.owner.region,
            &format!("owner after {cancelled} cancelled"),
        );
        drop(plan);
        assert!(lease.wait_free(WAIT).is_some());
        pair.close();
    }
}

/// `cancel` after the end is no error and changes no status.
pub fn cancelling_after_the_end_changes_nothing(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (_lease, plan) = planned(&pair, Op::Read);
    let transfer = plan.submit(Submit::default().user_data(1)).expect("submitted");
    assert!(transfer.wait(WAIT).expect("ends").is_ok());
    transfer.cancel();
    assert!(transfer.wait(WAIT).expect("ended").is_ok());
    assert!(pair.importer.engine.completions().wait(WAIT).is_some());
    assert!(
        pair.importer.engine.completions().wait(Duration::from_millis(10)).is_none(),
        "one end, told once"
    );
    drop((plan, transfer));
    pair.close();
}

/// Dropping transfer, plan, grant and route, then the last peer handle: the end still comes, memory is let go after it.
pub fn dropped_handles_leave_the_transfer_to_its_end(ground: &Ground) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let (ours, theirs) = (Image::fill(&pair.importer.region, 1), Image::fill(&pair.owner.region, 2));
        let (lease, plan) = planned(&pair, op);
        let transfer = plan.submit(Submit::default()).expect("submitted");
        let id = transfer.id();
        let was_done = transfer.is_done();
        drop((transfer, plan));
        if !was_done {
            match pair.importer.engine.completions().wait(WAIT) {
                Some(Completion::Transfer { id: told, status, .. }) => {
                    assert_eq!(told, id);
                    assert!(status.is_completed(), "{status:?}");
                }
                // Dropped between its end and ours: then there is nothing to tell.
                None => panic!("a detached transfer's end was not told"),
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(lease.wait_free(WAIT).is_some(), "the grant is released after its last transfer");
        pair.expect_quiet();
        let moved = if op == Op::Read { &theirs } else { &ours };
        moved.check(&pair.importer.region, "importer");
        moved.check(&pair.owner.region, "owner");
        pair.close();
    }
}

/// The last handle of an engine dropped in mid-transfer: the memory is let go of when nothing touches it, not before.
pub fn an_engine_dropped_with_transfers_in_flight_lets_go_of_its_memory(ground: &Ground) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        Image::fill(&pair.importer.region, 1);
        let (lease, plan) = planned(&pair, op);
        let transfers: Vec<_> = (0..3).map(|_| plan.submit(Submit::default()).expect("submitted")).collect();
        let Pair { owner, importer, peer } = pair;
        drop((transfers, plan, peer));
        let freed = importer.drop_all();
        eventually("the importer's memory is let go", &freed);
        assert!(lease.wait_free(WAIT).is_some(), "the owner's blocks come back");
        drop(lease);
        let freed = owner.drop_all();
        eventually("the owner's memory is let go", &freed);
    }
}

/// A timeout of `wait` bounds the caller only.
pub fn a_wait_that_times_out_leaves_the_transfer_alone(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (_lease, plan) = planned(&pair, Op::Read);
    let event = Event::new();
    let transfer = plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).expect("submitted");
    for _ in 0..3 {
        assert!(transfer.wait(Duration::from_millis(2)).is_none());
        assert!(transfer.wait(Duration::ZERO).is_none());
    }
    event.fire();
    assert_eq!(transfer.wait(None).expect("ends").expect("moved").bytes, BYTES);
    drop((plan, transfer));
    pair.close();
}

/// `abandon_after` ends what nothing else ends: here an event that never fires.
pub fn a_transfer_is_given_up_after_its_time(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (_lease, plan) = planned(&pair, Op::Read);
    let submit = Submit::default().start(Start::AfterEvent(Event::new()));
    let transfer = plan.submit(submit.abandon_after(Duration::from_millis(30))).expect("submitted");
    let error = transfer.wait(None).expect("ends").expect_err("given up");
    assert_eq!((error.kind(), error.local(), error.remote()), (ErrorKind::TimedOut, Quiet::Yes, Quiet::Yes));
    assert!(error.message().contains("abandon_after"), "{error}");
    drop((plan, transfer));
    pair.close();
}

/// What a waker takes along: all that is left of the importer.
struct Last {
    plan: Plan,
    side: super::Side,
    #[expect(dead_code, reason = "held for its drop")]
    peer: ropeway::Peer,
    told: Sender<bool>,
}

struct Reenters(Mutex<Option<Last>>);

impl Wake for Reenters {
    fn wake(self: Arc<Self>) {
        let Some(last) = self.0.lock().expect("not poisoned").take() else { return };
        let engine: &Engine = &last.side.engine;
        let entered = engine.peers().len() == 1 && last.plan.submit(Submit::default()).is_ok();
        let told = last.told.clone();
        drop(last);
        let _ = told.send(entered);
    }
}

/// A waker that submits, asks, and drops the last handle of everything, on whatever thread of the engine it runs.
pub fn a_waker_may_enter_the_engine_and_drop_the_last_handle(ground: &Ground) {
    let pair = ground.pair(BYTES);
    let (lease, plan) = planned(&pair, Op::Read);
    let Pair { owner, importer, peer } = pair;
    let event = Event::new();
    let submit = Submit::default().start(Start::AfterEvent(event.clone()));
    let mut transfer = plan.submit(submit).expect("submitted");
    let (told, heard) = channel();
    let last = Last { plan, side: importer, peer, told };
    let waker: Waker = Arc::new(Reenters(Mutex::new(Some(last)))).into();
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut transfer).poll(&mut context).is_pending());
    event.fire();
    assert_eq!(heard.recv_timeout(WAIT), Ok(true), "the waker ran and was let in");
    match Pin::new(&mut transfer).poll(&mut context) {
        Poll::Ready(Ok(report)) => assert_eq!(report.bytes, BYTES),
        other => panic!("woken, but {other:?}"),
    }
    drop(transfer);
    assert!(lease.wait_free(WAIT).is_some());
    drop(lease);
    assert!(owner.engine.close(WAIT).is_empty());
}

/// Small and big, awaited and detached, cancelled or not: each is told once in the completion queue, and no other.
pub fn every_transfer_ends_exactly_once(ground: &Ground) {
    const COUNT: u64 = 60;
    let pair = ground.pair(BYTES);
    let (owners, importers) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    let all = ids(0..BLOCKS);
    let (_lease, grant) = pair.lease(&owners, &[&all], Rights::Read);
    let route = pair.route(&importers);
    let mut kept: Vec<Transfer> = Vec::new();
    for number in 0..COUNT {
        let some = ids(0..if number % 3 == 0 { BLOCKS } else { 1 + number as u32 % 5 });
        let plan = route.read(&grant, &[&some], &[&some]).expect("planned");
        let transfer = plan.submit(Submit::default().user_data(number)).expect("submitted");
        if number % 4 == 1 {
            transfer.cancel();
        }
        if number % 2 == 0 {
            kept.push(transfer);
        }
    }
    let mut ends: HashMap<u64, u32> = HashMap::new();
    while ends.len() < COUNT as usize {
        match pair.importer.engine.completions().wait(WAIT) {
            Some(Completion::Transfer { user_data, .. }) => *ends.entry(user_data).or_default() += 1,
            other => panic!("{} of {COUNT} ends, then {other:?}", ends.len()),
        }
    }
    assert!(pair.importer.engine.completions().wait(Duration::from_millis(10)).is_none());
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    assert!(kept.iter().all(Transfer::is_done));
    drop((kept, grant, route, owners, importers));
    pair.close();
}
