//! Two instances in one process, end to end: scheduler halves, worker halves, engines; bytes compared.

mod broken;
mod harness;

use std::time::Duration;

use ropeway::{ErrorKind, Event, Start, TransportKind};

use crate::scheduler::Finish;
use harness::{BLOCK, Instance, Options, Request, WAIT};

fn pair(options: Options) -> (Instance, Instance) {
    (Instance::open(1, options), Instance::open(1, options))
}

fn over(transport: TransportKind) -> Options {
    Options { transport, ..Options::default() }
}

#[test]
fn a_prompt_comes_over_byte_for_byte_on_every_transport() {
    for transport in [TransportKind::Loopback, TransportKind::Cma, TransportKind::Tcp] {
        let (producer, consumer) = pair(over(transport));
        let request = Request { there: vec![3, 9, 4], here: vec![7, 1, 2], hit: 0, tokens: 40 };
        producer.fill(&request);
        let params = producer.compute("r", &request, &Start::Now);
        consumer.consume("r", &request, &params, &Start::Now);
        assert_eq!(consumer.received(), (vec!["r".to_owned()], vec![]), "{transport}");
        consumer.check(&request);
        assert_eq!(producer.sent(), ["r"], "{transport}");
        let stats = consumer.workers[0].worker.stats();
        assert_eq!((stats.bytes_transferred, stats.num_failed_transfers), (vec![3 * BLOCK], 0));
        assert_eq!(producer.workers[0].worker.stats().num_kv_expired_reqs, 0);
        producer.is_idle();
        consumer.is_idle();
    }
}

#[test]
fn only_what_is_not_here_already_is_loaded() {
    let (producer, consumer) = pair(Options::default());
    let request = Request { there: vec![3, 9, 4], here: vec![7, 1, 2], hit: 2 * 16, tokens: 40 };
    producer.fill(&request);
    let params = producer.compute("r", &request, &Start::Now);
    consumer.consume("r", &request, &params, &Start::Now);
    consumer.received();
    consumer.check(&request);
    consumer.holds(7, 0);
    assert_eq!(consumer.workers[0].worker.stats().bytes_transferred, [BLOCK]);
    assert_eq!(producer.sent(), ["r"]);
}

#[test]
fn a_full_hit_gives_the_producer_its_blocks_back_by_word() {
    let (producer, consumer) = pair(Options::default());
    let request = Request { there: vec![3], here: vec![7], hit: 16, tokens: 16 };
    let params = producer.compute("r", &request, &Start::Now);
    consumer.consume("r", &request, &params, &Start::Now);
    assert_eq!(producer.sent(), ["r"]);
    assert_eq!(producer.workers[0].worker.stats().num_kv_expired_reqs, 0);
    consumer.is_idle();
}

#[test]
fn nothing_is_read_before_the_events_on_both_sides_have_fired() {
    let (producer, consumer) = pair(Options::default());
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let (computed, ready) = (Event::new(), Event::new());
    let params = producer.compute("r", &request, &Start::AfterEvent(computed.clone()));
    consumer.consume("r", &request, &params, &Start::AfterEvent(ready.clone()));
    consumer.stays_silent();
    producer.fill(&request);
    computed.fire();
    consumer.stays_silent();
    consumer.holds(7, 0);
    ready.fire();
    assert_eq!(consumer.received(), (vec!["r".to_owned()], vec![]));
    consumer.check(&request);
    assert_eq!(producer.sent(), ["r"]);
}

#[test]
fn a_claim_that_comes_before_the_lease_is_asked_again() {
    let (producer, consumer) = pair(Options::default());
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    producer.fill(&request);
    let (params, messages) = producer.computed_but_not_told("r", &request);
    consumer.consume("r", &request, &params, &Start::Now);
    consumer.stays_silent();
    producer.tell(&messages, &Start::Now);
    assert_eq!(consumer.received(), (vec!["r".to_owned()], vec![]));
    consumer.check(&request);
    assert_eq!(producer.sent(), ["r"]);
}

#[test]
fn an_abort_at_any_point_gives_the_blocks_back_on_both_sides() {
    // Before the claim is answered, with the grant held, parked behind an event, and while bytes are asked for.
    for point in 0..4 {
        let (producer, consumer) = pair(Options::default());
        let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
        let (computed, ready) = (Event::new(), Event::new());
        let params = producer.compute("r", &request, &Start::AfterEvent(computed.clone()));
        consumer.arrive("r", &params);
        consumer.step(&Start::Now);
        if point % 2 == 1 {
            computed.fire();
            consumer.wait_until_held();
        }
        if point >= 2 {
            consumer.allocate("r", &request);
            consumer.step(&Start::AfterEvent(ready.clone()));
        }
        consumer.scheduler().finished("r", Finish::Broken, vec![request.here.clone()], 0);
        consumer.step(&Start::Now);
        if point >= 2 {
            assert_eq!(consumer.received(), (vec!["r".to_owned()], vec![]), "point {point}");
        }
        computed.fire();
        assert_eq!(producer.sent(), ["r"], "point {point}");
        assert_eq!(producer.workers[0].worker.stats().num_kv_expired_reqs, 0, "point {point}: not by word");
        // Nothing lands after the report.
        ready.fire();
        consumer.stays_silent();
        consumer.holds(7, 0);
        assert_eq!(consumer.workers[0].worker.stats().num_failed_transfers, 0, "an abort is no failure");
        producer.is_idle();
        consumer.is_idle();
    }
}

#[test]
fn a_producer_that_is_gone_fails_the_load_and_its_successor_serves_the_next() {
    let (producer, consumer) = pair(over(TransportKind::Tcp));
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let ready = Event::new();
    let params = [("held", &producer), ("late", &producer)]
        .map(|(id, at)| (id, at.compute(id, &request, &Start::Now)));
    consumer.arrive("held", &params[0].1);
    consumer.step(&Start::Now);
    consumer.wait_until_held();
    consumer.allocate("held", &request);
    consumer.step(&Start::AfterEvent(ready.clone()));
    let successor = producer.restart();
    ready.fire();
    consumer.consume("late", &request, &params[1].1, &Start::Now);
    let mut failed = consumer.received_all(2).1;
    failed.sort_by(|one, other| one.request.cmp(&other.request));
    let ids: Vec<&str> = failed.iter().map(|load| load.request.as_str()).collect();
    assert_eq!(ids, ["held", "late"]);
    assert!(failed.iter().all(|load| load.ask.local == [vec![7]]), "{failed:?}");
    successor.fill(&request);
    let params = successor.compute("next", &request, &Start::Now);
    consumer.consume("next", &request, &params, &Start::Now);
    assert_eq!(consumer.received(), (vec!["next".to_owned()], vec![]));
    consumer.check(&request);
    assert_eq!(successor.sent(), ["next"]);
    consumer.is_idle();
}

#[test]
fn a_consumer_that_is_gone_gives_the_producer_its_blocks_back() {
    let (producer, consumer) = pair(over(TransportKind::Tcp));
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let params = producer.compute("r", &request, &Start::Now);
    consumer.arrive("r", &params);
    consumer.step(&Start::Now);
    consumer.wait_until_held();
    drop(consumer);
    assert_eq!(producer.sent(), ["r"]);
    producer.is_idle();
}

#[test]
fn blocks_that_nobody_fetches_come_back_and_a_late_claim_fails_by_name() {
    let grace = Duration::from_millis(200);
    let (producer, consumer) = pair(Options { grace, ..Options::default() });
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let params = producer.compute("r", &request, &Start::Now);
    assert_eq!(producer.sent(), ["r"]);
    assert_eq!(producer.workers[0].worker.stats().num_kv_expired_reqs, 1);
    consumer.consume("r", &request, &params, &Start::Now);
    let (received, failed) = consumer.received();
    assert_eq!((received, failed[0].failure.kind), (vec!["r".to_owned()], ErrorKind::StaleLease));
    assert_eq!(consumer.workers[0].worker.stats().num_notifications_after_expiry, 1);
}

#[test]
fn an_instance_that_does_not_fit_fails_the_load_and_says_which_field() {
    let producer = Instance::open(1, Options { dtype: "fp8", ..Options::default() });
    let consumer = Instance::open(1, Options::default());
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let params = producer.compute("r", &request, &Start::Now);
    consumer.consume("r", &request, &params, &Start::Now);
    let (_, failed) = consumer.received();
    assert_eq!(failed[0].failure.kind, ErrorKind::Mismatch);
    assert!(failed[0].failure.text.contains("dtype"), "{:?}", failed[0]);
    assert_eq!(consumer.workers[0].worker.stats().num_failed_handshakes, 1);
}

#[test]
fn every_rank_of_the_producer_is_let_go_by_word_also_those_that_nobody_reads() {
    for (producers, consumers) in [(2, 1), (2, 2), (1, 2)] {
        let producer = Instance::open(producers, Options::default());
        let consumer = Instance::open(consumers, Options::default());
        let request = Request { there: vec![3, 5], here: vec![7, 8], hit: 0, tokens: 32 };
        producer.fill(&request);
        let params = producer.compute("r", &request, &Start::Now);
        consumer.consume("r", &request, &params, &Start::Now);
        assert_eq!(consumer.received(), (vec!["r".to_owned()], vec![]));
        consumer.check(&request);
        assert_eq!(producer.sent(), ["r"]);
        for rank in &producer.workers {
            assert_eq!(rank.worker.stats().num_kv_expired_reqs, 0, "{producers} to {consumers}");
        }
        consumer.is_idle();
    }
}

#[test]
fn blocks_outside_the_lease_are_not_read_whatever_the_request_says() {
    let (producer, consumer) = pair(Options::default());
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let mut params = producer.compute("r", &request, &Start::Now);
    params["remote_block_ids"] = serde_json::json!([[4]]);
    consumer.consume("r", &request, &params, &Start::Now);
    let (_, failed) = consumer.received();
    assert_eq!(failed[0].failure.kind, ErrorKind::Denied, "{:?}", failed[0]);
    assert_eq!(consumer.workers[0].worker.stats().num_failed_transfers, 1);
    assert_eq!(producer.sent(), ["r"]);
}

#[test]
fn messages_that_are_not_of_this_version_are_an_error() {
    let consumer = Instance::open(1, Options::default());
    let error = consumer.workers[0].worker.start(b"RWM9", &Start::Now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
}

#[test]
fn closing_tells_both_sides_and_leaves_nothing() {
    let (producer, consumer) = pair(over(TransportKind::Tcp));
    let request = Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 };
    let params = producer.compute("r", &request, &Start::Now);
    consumer.consume("r", &request, &params, &Start::AfterEvent(Event::new()));
    consumer.wait_until_reading();
    for rank in consumer.into_workers() {
        assert!(rank.worker.close(WAIT).unwrap().held.is_empty());
    }
    assert_eq!(producer.sent(), ["r"]);
}
