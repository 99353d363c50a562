//! Producers that are killed, cannot be reached, or may write where nothing proves that they do not.

use std::net::TcpListener;
use std::time::Instant;

use ropeway::{Descriptor, ErrorKind, Event, Incarnation, Start, TransportKind};
use ropeway_testkit::process::{Child, Setup, be_peer_if_asked};
use ropeway_transport::sim::{Fabric, Weather};
use serde_json::Value;

use super::harness::{BLOCK, Instance, Options, Request, WAIT};
use super::{over, pair};

#[test]
fn peer_process() {
    be_peer_if_asked();
}

fn request() -> Request {
    Request { there: vec![3], here: vec![7], hit: 0, tokens: 16 }
}

/// An instance whose only worker's engine is a process of its own.
fn abroad(kind: TransportKind) -> (Instance, Child) {
    let setup = Setup { bytes: 16 * BLOCK, block: BLOCK, ..Setup::of(kind) };
    let mut child = Child::spawn("worker::tests::broken::peer_process", &setup);
    let answer = child.hear();
    let descriptor = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("the peer did not open: {answer}"));
    let reached = vec![descriptor.parse().expect("a descriptor")];
    (Instance::of(Vec::new(), reached, over(kind)), child)
}

fn lend(child: &mut Child, params: &Value) {
    let name = params["ropeway"]["lease"].as_str().expect("a name");
    child.must(&format!("lend {name}"));
}

#[test]
fn a_producer_that_is_killed_fails_its_loads_and_leaves_nothing_behind() {
    for kind in [TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp] {
        let ((producer, mut child), consumer) = (abroad(kind), Instance::open(1, over(kind)));
        child.must("fill 77");
        let arrives = producer.compute("arrives", &request(), &Start::Now);
        lend(&mut child, &arrives);
        consumer.consume("arrives", &request(), &arrives, &Start::Now);
        assert_eq!(consumer.received(), (vec!["arrives".to_owned()], vec![]), "{kind}");
        consumer.holds(7, 77);

        let ready = Event::new();
        let held = producer.compute("held", &request(), &Start::Now);
        let late = producer.compute("late", &request(), &Start::Now);
        lend(&mut child, &held);
        consumer.arrive("held", &held);
        consumer.step(&Start::Now);
        consumer.wait_until_held();
        consumer.allocate("held", &Request { here: vec![8], ..request() });
        consumer.step(&Start::AfterEvent(ready.clone()));
        child.kill();
        ready.fire();
        consumer.consume("late", &request(), &late, &Start::Now);
        let (mut ids, failed) = consumer.received_all(2);
        ids.sort();
        assert_eq!(ids, ["held", "late"], "{kind}");
        let is_failed = |id: &str| failed.iter().any(|load| load.request == id);
        assert!(is_failed("late"), "{kind}: {failed:?}");
        if !is_failed("held") {
            // It was read from memory that is still mapped here, before the death was noticed.
            consumer.holds(8, 77);
        }
        let kinds = [ErrorKind::PeerGone, ErrorKind::LinkLost, ErrorKind::StaleLease];
        assert!(failed.iter().all(|load| kinds.contains(&load.failure.kind)), "{kind}: {failed:?}");
        consumer.is_idle();
    }
}

#[test]
fn a_rank_that_does_not_answer_fails_its_requests_and_holds_up_no_other() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let connect = std::time::Duration::from_secs(3);
    let options = Options { connect, ..over(TransportKind::Tcp) };
    let (good, consumer) = (Instance::open(2, options), Instance::open(2, options));
    let lost = Instance::open(2, options);
    let mut reached: Vec<Descriptor> = lost.workers.iter().map(|rank| rank.worker.handshake()).collect();
    reached[1].addresses = vec![silent.local_addr().expect("bound")];
    reached[1].incarnation = Incarnation::new(77);
    let lost = Instance::of(lost.into_workers(), reached, options);
    lost.fill(&request());
    good.fill(&request());

    let params = lost.compute("lost", &request(), &Start::Now);
    consumer.consume("lost", &request(), &params, &Start::Now);
    let other = Request { here: vec![8], ..request() };
    let params = good.compute("good", &other, &Start::Now);
    consumer.consume("good", &other, &params, &Start::Now);
    assert_eq!(consumer.received(), (vec!["good".to_owned()], vec![]), "before the one that waits");
    consumer.check(&other);
    let (ids, failed) = consumer.received();
    assert_eq!((ids, failed.len()), (vec!["lost".to_owned()], 1), "the rank that was to read from it");
    assert_eq!(failed[0].failure.kind, ErrorKind::TimedOut, "{failed:?}");
    consumer.is_idle();
}

#[test]
fn memory_that_is_withheld_too_long_makes_the_worker_say_so() {
    let fabric: &'static Fabric = Box::leak(Box::new(Fabric::new(7)));
    let (producer, consumer) = pair(Options { fabric: Some(fabric), ..Options::default() });
    let params = producer.compute("r", &request(), &Start::Now);
    fabric.set_weather(Weather::Torn);
    consumer.consume("r", &request(), &params, &Start::Now);
    let until = Instant::now() + WAIT;
    let fatal = loop {
        fabric.advance(1);
        let polled = consumer.workers[0].worker.poll();
        assert!(polled.reports.is_empty(), "its blocks may still be written: {:?}", polled.reports);
        if let Some(fatal) = polled.fatal {
            break fatal;
        }
        assert!(Instant::now() < until, "nothing is told");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let whose = "a read from worker 0 of the instance at 127.0.0.1:".to_owned();
    for said in [format!("{BLOCK} bytes"), whose, "restart".to_owned()] {
        assert!(fatal.contains(&said), "{said}: {fatal}");
    }
}
