//! Requests whose KV the producer writes while it computes.

use super::*;

const METASERVER: &str = "http://proxy:8000/v1/metaserver";

fn pushing() -> Scheduler {
    let mut scheduler = scheduler();
    scheduler.setup.metaservers = Some(vec!["http://proxy:8000".to_owned()]);
    scheduler
}

fn awaited(url: &str) -> Value {
    json!({"do_remote_prefill": true, "do_remote_decode": false, "metaserver": url})
}

fn arrive(scheduler: &mut Scheduler, id: &str, params: &Value) {
    scheduler.on_new_request(NewRequest { id, params });
}

/// What a consumer asked for, as it reaches a producer.
fn asked(from: u64) -> (Value, Message) {
    let mut consumer = pushing();
    arrive(&mut consumer, "cmpl-1-0-00c0ffee", &awaited(METASERVER));
    consumer.matched("cmpl-1-0-00c0ffee", 40, from);
    consumer.allocated("cmpl-1-0-00c0ffee", vec![vec![3, 4, 5]], 40 - from);
    let [ask] = &consumer.take_asks()[..] else { panic!("one ask") };
    assert_eq!(ask.url, METASERVER);
    (ask.body.clone(), consumer.take().remove(0))
}

#[test]
fn a_consumer_opens_its_blocks_and_asks_once_it_has_them() {
    let mut scheduler = pushing();
    arrive(&mut scheduler, "r", &awaited(METASERVER));
    assert!(scheduler.take().is_empty(), "there is nothing for the workers yet");
    // Asked in step after step until there is room.
    for _ in 0..2 {
        assert_eq!(scheduler.matched("r", 40, 16), Matched { tokens: 24, asynchronous: true });
    }
    scheduler.allocated("r", vec![vec![3, 4, 5]], 24);
    let [Message::Expect { request, local, tokens, lease, .. }] = &scheduler.take()[..] else {
        panic!("not told")
    };
    assert_eq!((request.as_str(), local.as_slice(), tokens.clone()), ("r", &[vec![3, 4, 5]][..], 16..40));
    let asks = scheduler.take_asks();
    let Params::Push(remote, from) = Params::of(&asks[0].body) else { panic!("{}", asks[0].body) };
    assert_eq!((remote.lease, remote.block_ids, from), (*lease, vec![vec![3, 4, 5]], 16));
    assert!(scheduler.take_asks().is_empty(), "told once");
    scheduler.update(&[], &["r".to_owned()]);
    assert!(!scheduler.is_busy());
}

#[test]
fn a_request_is_named_to_the_proxy_as_the_proxy_named_it() {
    assert_eq!(asked(0).0["request_id"], "cmpl-1-0");
}

#[test]
fn what_is_here_already_is_asked_of_nobody() {
    let mut scheduler = pushing();
    arrive(&mut scheduler, "r", &awaited(METASERVER));
    assert_eq!(scheduler.matched("r", 40, 40).tokens, 0);
    scheduler.allocated("r", vec![vec![3]], 0);
    assert!(scheduler.take().is_empty() && scheduler.take_asks().is_empty() && !scheduler.is_busy());
    arrive(&mut scheduler, "left", &awaited(METASERVER));
    assert_eq!(scheduler.finished("left", Finish::Broken, vec![], 0), Finished::default());
    assert!(scheduler.take().is_empty());
}

#[test]
fn only_origins_that_are_named_are_asked_and_only_where_pushing_is_on() {
    for url in [
        "http://proxy:8001/m",
        "http://proxy:8000.evil/m",
        "http://proxy:8000@evil/m",
        "https://proxy:8000/m",
        "x",
    ] {
        let mut scheduler = pushing();
        arrive(&mut scheduler, "r", &awaited(url));
        assert_eq!(scheduler.matched("r", 40, 0).tokens, 0, "{url}");
        assert_eq!(scheduler.counts().unusable, 1, "{url}");
    }
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &awaited(METASERVER));
    arrive(&mut scheduler, "p", &asked(0).0);
    assert_eq!((scheduler.counts().unusable, scheduler.is_pushing("p")), (2, false));
}

#[test]
fn a_proxy_that_cannot_be_told_fails_the_load_of_a_request_that_still_waits() {
    let mut scheduler = pushing();
    arrive(&mut scheduler, "r", &awaited(METASERVER));
    scheduler.matched("r", 40, 0);
    scheduler.allocated("r", vec![vec![3, 4, 5]], 40);
    scheduler.take();
    scheduler.ask_failed("r", "refused");
    assert_eq!(scheduler.take(), [Message::Refuse { ticket: 1 }]);
    scheduler.update(&[], &["r".to_owned()]);
    scheduler.ask_failed("r", "told late");
    assert!(scheduler.take().is_empty());
}

#[test]
fn a_consumer_that_gives_up_waits_until_nothing_can_land() {
    let mut scheduler = pushing();
    arrive(&mut scheduler, "r", &awaited(METASERVER));
    scheduler.matched("r", 40, 0);
    scheduler.allocated("r", vec![vec![3, 4, 5]], 40);
    scheduler.take();
    scheduler.finished("r", Finish::Broken, vec![vec![3, 4, 5]], 0);
    assert_eq!(scheduler.take(), [Message::Drop { ticket: 1 }]);
    assert!(scheduler.is_busy());
    scheduler.update(&[], &["r".to_owned()]);
    assert!(scheduler.is_empty());
}

#[test]
fn a_producer_tells_of_each_step_and_keeps_the_blocks_until_they_are_sent() {
    let mut scheduler = pushing();
    let (params, expect) = asked(16);
    arrive(&mut scheduler, "p", &params);
    let Message::Expect { lease, .. } = expect else { panic!("{expect:?}") };
    let [Message::Aim { ticket: 1, lease: aimed, remote, from: 16, .. }] = &scheduler.take()[..] else {
        panic!("not told")
    };
    assert_eq!((*aimed, remote.as_slice()), (lease, &[vec![3, 4, 5]][..]));
    assert_eq!(scheduler.matched("p", 40, 0), Matched::default(), "it is computed here");
    scheduler.computing("p", vec![vec![8, 9]], 32);
    // A token is generated after the prompt: it is not sent.
    scheduler.computing("p", vec![vec![7]], 41);
    let steps = [
        Message::Step { ticket: 1, more: vec![vec![8, 9]], end: 32 },
        Message::Step { ticket: 1, more: vec![vec![7]], end: 40 },
    ];
    assert_eq!(scheduler.take(), steps);
    let finished = scheduler.finished("p", Finish::Complete, vec![vec![8, 9, 7]], 40);
    assert_eq!(finished, Finished { keep_blocks: true, params: None });
    let end = Message::End { ticket: 1, request: "p".to_owned(), complete: true, keeps: true };
    assert_eq!(scheduler.take(), [end]);
    assert!(scheduler.is_busy());
    scheduler.update(&["p".to_owned()], &[]);
    assert!(scheduler.is_empty());
}

#[test]
fn a_producer_that_is_aborted_or_preempted_sends_no_more() {
    let (params, _) = asked(0);
    let end = |complete, keeps| Message::End { ticket: 1, request: "p".to_owned(), complete, keeps };
    let mut scheduler = pushing();
    arrive(&mut scheduler, "p", &params);
    scheduler.take();
    assert!(scheduler.finished("p", Finish::Broken, vec![vec![8]], 16).keep_blocks);
    assert_eq!(scheduler.take(), [end(false, true)]);

    let mut scheduler = pushing();
    arrive(&mut scheduler, "p", &params);
    scheduler.take();
    scheduler.preempted("p");
    scheduler.preempted("p");
    assert_eq!(scheduler.take(), [end(false, false)], "said once");
    scheduler.computing("p", vec![vec![1]], 16);
    assert!(scheduler.take().is_empty());
    assert!(scheduler.finished("p", Finish::Complete, vec![vec![1]], 40).keep_blocks);
    assert_eq!(scheduler.take(), [end(false, true)]);

    let mut scheduler = pushing();
    arrive(&mut scheduler, "p", &params);
    scheduler.take();
    assert!(!scheduler.finished("p", Finish::Broken, vec![vec![]], 0).keep_blocks, "it never had blocks");
    assert_eq!(scheduler.take(), [end(false, false)]);
    assert!(scheduler.is_empty());
}
