use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::super::bond::{Bond, Clock, Line, Seat, Unlinked};
use super::super::region::Description;
use super::super::registry::{Kind, Span};
use crate::link::{Busy, Connected, Failure, Polled, PostError, Teardown};

const LONG: Duration = Duration::from_secs(60);
const LOST: Failure = Failure::Latched { code: 103_902 };
const BLOCKED: PostError = PostError::Busy(Busy { code: 0 });

/// A library that notes what it is asked, and whether anything was in flight then.
#[derive(Default)]
struct Library {
    calls: Mutex<Vec<&'static str>>,
    linked: AtomicBool,
    in_flight: AtomicU32,
    refuses: AtomicU32,
    /// Calls end when this is open.
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Library {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
        if let Some(gate) = self.gate.lock().unwrap().take() {
            gate.recv_timeout(LONG).unwrap();
        }
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// The next call waits until something is sent.
    fn hold(&self) -> mpsc::Sender<()> {
        let (open, gate) = mpsc::channel();
        *self.gate.lock().unwrap() = Some(gate);
        open
    }
}

impl Line for Library {
    fn connect(&self, _until: Instant) -> Result<Connected, u32> {
        self.note("connect");
        let refused = self.refuses.swap(0, Ordering::SeqCst);
        if refused != 0 {
            return Err(refused);
        }
        assert!(!self.linked.swap(true, Ordering::SeqCst), "there is a link already");
        Ok(Connected::New)
    }

    fn disconnect(&self, _timeout: Duration) {
        self.note("disconnect");
        assert!(self.linked.swap(false, Ordering::SeqCst), "there is no link");
    }
}

struct Table {
    fake: Library,
    clock: Arc<Clock>,
    bond: Arc<Bond>,
}

impl Table {
    fn new() -> Self {
        let clock = Arc::default();
        Self { fake: Library::default(), bond: Arc::new(Bond::new(&clock)), clock }
    }

    fn seat(&self) -> Seat {
        self.seat_of(1)
    }

    fn seat_of(&self, life: u64) -> Seat {
        Seat::new(Arc::clone(&self.bond), life)
    }

    fn join(&self, seat: &mut Seat, need: u64) {
        assert_eq!(seat.connect(need, Instant::now() + LONG, &self.fake), Ok(Connected::New));
    }

    /// Two movers of one link.
    fn pair(&self) -> (Seat, Seat) {
        let (mut one, mut two) = (self.seat(), self.seat());
        self.join(&mut one, 0);
        self.join(&mut two, 0);
        assert_eq!(self.fake.calls(), ["connect"]);
        (one, two)
    }

    fn post(&self, seat: &mut Seat) {
        let posted = seat.post(|| {
            self.fake.in_flight.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        assert_eq!(posted, Ok(()));
    }

    fn poll(&self, seat: &mut Seat, polled: Polled) {
        let heard = seat.poll(|| {
            if polled == Polled::Done {
                self.fake.in_flight.fetch_sub(1, Ordering::SeqCst);
            }
            polled
        });
        assert_eq!(heard, polled);
    }
}

/// What must not be asked of the library.
fn never<T>() -> T {
    panic!("the library is asked for what it does not know any more")
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "watchdog: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn movers_share_a_link_and_the_last_one_ends_it() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    for seat in [&mut one, &mut two] {
        table.post(seat);
        table.poll(seat, Polled::Waiting);
        table.poll(seat, Polled::Done);
    }
    assert_eq!(one.disconnect(LONG, &table.fake), Teardown::Proven);
    assert!(table.fake.calls().is_empty(), "the other one still uses it");
    table.post(&mut two);
    table.poll(&mut two, Polled::Done);
    assert_eq!(one.disconnect(LONG, &table.fake), Teardown::Proven, "a second time is nothing");
    assert!(two.is_taken() && !one.is_taken());
    assert_eq!(two.disconnect(LONG, &table.fake), Teardown::Proven);
    assert_eq!(table.fake.calls(), ["disconnect"]);
    assert!(table.bond.is_down());
}

#[test]
fn a_connect_without_anything_newer_touches_nothing() {
    let table = Table::new();
    let early = table.clock.tick();
    let (mut one, two) = table.pair();
    table.join(&mut one, early);
    assert!(table.fake.calls().is_empty());
    let late = table.clock.tick();
    table.join(&mut one, late);
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
    assert!(two.is_taken(), "the other one is of the new link");
    table.join(&mut one, late);
    assert!(table.fake.calls().is_empty());
}

#[test]
fn a_newer_region_waits_for_the_requests_of_others_and_keeps_them_from_posting() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.post(&mut two);
    table.post(&mut two);
    let need = table.clock.tick();
    std::thread::scope(|scope| {
        let remade = scope.spawn(|| table.join(&mut one, need));
        until("posts are blocked", || {
            let posted = two.post(|| Err::<(), _>(PostError::Busy(Busy { code: 203_900 })));
            posted == Err(BLOCKED)
        });
        assert!(table.fake.calls().is_empty(), "two requests are in flight");
        table.poll(&mut two, Polled::Done);
        table.poll(&mut two, Polled::Waiting);
        assert_eq!(two.post(never::<Result<(), _>>), Err(BLOCKED));
        assert!(table.fake.calls().is_empty(), "one request is in flight");
        let open = table.fake.hold();
        table.poll(&mut two, Polled::Done);
        until("the link is being made anew", || !table.fake.calls.lock().unwrap().is_empty());
        assert_eq!(two.post(never::<Result<(), _>>), Err(BLOCKED));
        open.send(()).unwrap();
        remade.join().unwrap();
    });
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
    table.post(&mut two);
    assert_eq!(two.disconnect(LONG, &table.fake), Teardown::Unproven);
}

#[test]
fn requests_that_do_not_end_keep_a_link_from_being_made_anew() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.post(&mut two);
    let need = table.clock.tick();
    let soon = Instant::now() + Duration::from_millis(40);
    assert_eq!(one.connect(need, soon, &table.fake), Err(Unlinked::InUse));
    assert!(table.fake.calls().is_empty());
    // Nobody is kept from posting any more.
    table.post(&mut two);
    table.poll(&mut two, Polled::Done);
    table.poll(&mut two, Polled::Done);
    table.join(&mut one, need);
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
}

#[test]
fn a_mover_with_requests_in_flight_takes_the_link_from_all() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    let mut idle = table.seat();
    table.join(&mut idle, 0);
    table.post(&mut one);
    table.post(&mut two);
    assert_eq!(one.disconnect(LONG, &table.fake), Teardown::Unproven);
    assert_eq!(table.fake.calls(), ["disconnect"]);
    assert_eq!(two.poll(never), Polled::Failed(LOST));
    assert_eq!(two.post(never::<Result<(), _>>), Err(PostError::Failed(LOST)));
    assert_eq!(idle.post(never::<Result<(), _>>), Err(PostError::Failed(LOST)));
    assert_eq!(two.disconnect(LONG, &table.fake), Teardown::Unproven, "its request did not end");
    assert_eq!(idle.disconnect(LONG, &table.fake), Teardown::Proven, "it had none");
    assert!(table.fake.calls().is_empty());
    // What was in flight then does not count against the next link.
    let (mut next, mut other) = table.pair();
    let need = table.clock.tick();
    table.join(&mut next, need);
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
    assert_eq!(next.disconnect(LONG, &table.fake), Teardown::Proven);
    assert_eq!(other.disconnect(LONG, &table.fake), Teardown::Proven);
}

#[test]
fn a_link_taken_while_another_waits_for_quiet_is_made_anew_by_that_one() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.post(&mut two);
    let need = table.clock.tick();
    std::thread::scope(|scope| {
        let remade = scope.spawn(|| table.join(&mut one, need));
        until("posts are blocked", || {
            two.post(|| Err::<(), _>(PostError::Busy(Busy { code: 203_900 }))) == Err(BLOCKED)
        });
        // Given up, with its thread holding nothing that the one that waits needs.
        assert_eq!(two.disconnect(LONG, &table.fake), Teardown::Unproven);
        remade.join().unwrap();
    });
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
    table.post(&mut one);
    table.poll(&mut one, Polled::Done);
    assert_eq!(one.disconnect(LONG, &table.fake), Teardown::Proven);
}

#[test]
fn who_loses_requests_with_the_link_waits_until_it_is_ended() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.post(&mut one);
    table.post(&mut two);
    let open = table.fake.hold();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| one.disconnect(LONG, &table.fake));
        until("the disconnect began", || !table.fake.calls.lock().unwrap().is_empty());
        assert_eq!(two.poll(never), Polled::Failed(LOST), "told at once");
        let second = scope.spawn(|| {
            let proof = two.disconnect(LONG, &table.fake);
            over.store(true, Ordering::SeqCst);
            proof
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!over.load(Ordering::SeqCst), "the link is still being ended");
        open.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Teardown::Unproven);
        assert_eq!(second.join().unwrap(), Teardown::Unproven);
    });
    assert_eq!(table.fake.calls(), ["disconnect"]);
}

#[test]
fn a_link_is_not_ended_under_a_call_of_the_posting_thread() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.post(&mut one);
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let library = &table.fake;
        let posting = scope.spawn(move || {
            let posted = two.post(|| {
                entered.send(()).unwrap();
                left.recv_timeout(LONG).unwrap();
                assert!(!library.calls().contains(&"disconnect"), "the link went under the call");
                Ok(())
            });
            assert_eq!(posted, Ok(()));
            assert_eq!(two.poll(never), Polled::Failed(LOST));
            assert_eq!(two.disconnect(LONG, library), Teardown::Unproven);
        });
        inside.recv_timeout(LONG).unwrap();
        let ending = scope.spawn(|| one.disconnect(LONG, library));
        std::thread::sleep(Duration::from_millis(50));
        leave.send(()).unwrap();
        assert_eq!(ending.join().unwrap(), Teardown::Unproven);
        posting.join().unwrap();
    });
}

#[test]
fn what_a_post_may_have_begun_is_not_proven_over() {
    let table = Table::new();
    let mut seat = table.seat();
    let answers = [
        (PostError::Busy(Busy { code: 203_900 }), Teardown::Proven),
        (PostError::Failed(Failure::Over { code: 103_900 }), Teardown::Proven),
        (PostError::Cut { code: 103_900 }, Teardown::Proven),
        (PostError::Failed(Failure::Latched { code: 103_901 }), Teardown::Unproven),
    ];
    for (answer, proof) in answers {
        table.join(&mut seat, 0);
        assert_eq!(seat.post(|| Err::<(), _>(answer)), Err(answer));
        assert_eq!(seat.disconnect(LONG, &table.fake), proof, "{answer:?}");
        assert_eq!(seat.disconnect(LONG, &table.fake), proof, "a second call proves no more: {answer:?}");
    }
}

#[test]
fn a_link_that_has_lost_its_regions_is_taken_from_all() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    let refused = PostError::Cut { code: 103_900 };
    assert_eq!(one.post(|| Err::<(), _>(refused)), Err(refused));
    assert_eq!(one.disconnect(LONG, &table.fake), Teardown::Proven);
    assert_eq!(table.fake.calls(), ["disconnect"], "it is of no use to the other either");
    assert_eq!(two.post(never::<Result<(), _>>), Err(PostError::Failed(LOST)));
}

#[test]
fn a_link_that_cannot_be_made_anew_is_lost_by_all() {
    let table = Table::new();
    let (mut one, mut two) = table.pair();
    table.fake.refuses.store(503_900, Ordering::SeqCst);
    let need = table.clock.tick();
    let answer = one.connect(need, Instant::now() + LONG, &table.fake);
    assert_eq!(answer, Err(Unlinked::Refused(503_900)));
    assert!(table.bond.is_down());
    assert_eq!(two.post(never::<Result<(), _>>), Err(PostError::Failed(LOST)));
    assert_eq!(two.disconnect(LONG, &table.fake), Teardown::Proven);
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
}

#[test]
fn a_peer_that_started_anew_gets_a_link_of_its_own() {
    let table = Table::new();
    let (mut old, _idle) = table.pair();
    table.post(&mut old);
    let mut new = table.seat_of(2);
    table.join(&mut new, 0);
    assert_eq!(table.fake.calls(), ["disconnect", "connect"]);
    assert_eq!(old.poll(never), Polled::Failed(LOST), "its peer is no more");
    assert_eq!(old.disconnect(LONG, &table.fake), Teardown::Unproven);
    table.post(&mut new);
}

#[test]
fn a_region_of_the_peer_is_as_old_as_its_first_import_that_is_held() {
    let table = Table::new();
    let region = |address| Description::of(Span { address, len: 4096, kind: Kind::Device });
    let (one, two, next) = (table.seat(), table.seat(), table.seat_of(2));
    let since = one.learn(region(4096));
    table.clock.tick();
    assert_eq!(two.learn(region(4096)), since);
    assert!(two.learn(region(8192)) > since);
    assert!(next.learn(region(4096)) > since, "another life, another region");
    one.forget(region(4096));
    assert_eq!(one.learn(region(4096)), since, "the peer still has it for the other one");
    one.forget(region(4096));
    two.forget(region(4096));
    assert!(one.learn(region(4096)) > since, "it may be another region at that address");
}

/// Many movers at once: whatever they do, requests in flight and the link are as the library demands.
#[test]
fn movers_at_random_never_meet_a_link_that_is_not_theirs() {
    let table = Table::new();
    let ends = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for number in 0..4u64 {
            let (table, ends) = (&table, &ends);
            scope.spawn(move || {
                let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
                let mut seat = table.seat();
                for _ in 0..300 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number + 1);
                    let need = if random >> 60 == 0 { table.clock.tick() } else { 0 };
                    table.join(&mut seat, need);
                    let library = &table.fake;
                    let posted = seat.post(|| {
                        assert!(library.linked.load(Ordering::SeqCst), "a post without a link");
                        Ok(())
                    });
                    match posted {
                        Ok(()) if random >> 33 & 15 == 0 => {
                            assert_eq!(seat.disconnect(LONG, library), Teardown::Unproven);
                            continue;
                        }
                        Ok(()) => {
                            let polled = seat.poll(|| {
                                assert!(library.linked.load(Ordering::SeqCst), "a poll without a link");
                                Polled::Done
                            });
                            let proof =
                                if polled == Polled::Done { Teardown::Proven } else { Teardown::Unproven };
                            assert!(polled == Polled::Done || polled == Polled::Failed(LOST));
                            if polled != Polled::Done || random >> 40 & 1 == 0 {
                                assert_eq!(seat.disconnect(LONG, library), proof);
                            }
                        }
                        Err(error) => {
                            assert!(error == BLOCKED || error == PostError::Failed(LOST), "{error:?}")
                        }
                    }
                }
                seat.disconnect(LONG, &table.fake);
                ends.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(ends.load(Ordering::SeqCst), 4);
    assert!(table.bond.is_down() && !table.fake.linked.load(Ordering::SeqCst));
}
