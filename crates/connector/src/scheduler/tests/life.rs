//! The lives of single requests, call by call as vLLM makes them.

use super::*;
use crate::params::{BLOCKS_MAX, GROUPS_MAX};

fn arrive(scheduler: &mut Scheduler, id: &str, params: &Value) {
    scheduler.on_new_request(NewRequest { id, params });
}

fn names(request: &str) -> Vec<String> {
    vec![request.to_owned()]
}

const NONE: Matched = Matched { tokens: 0, asynchronous: false };

fn some(tokens: u64) -> Matched {
    Matched { tokens, asynchronous: true }
}

#[test]
fn a_computed_prompt_is_lent_until_every_rank_has_sent_it() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &produce());
    assert_eq!(scheduler.matched("r", 40, 0), NONE);
    scheduler.allocated("r", vec![vec![3, 4]], 0);
    let finished = scheduler.finished("r", Finish::Complete, vec![vec![3, 4]], 40);
    assert!(finished.keep_blocks);
    let Params::Consume(remote) = Params::of(&finished.params.unwrap()) else { panic!("not to be consumed") };
    assert_eq!((remote.block_ids.as_slice(), remote.tokens), (&[vec![3, 4]][..], Some(40)));
    let lease = remote.lease;
    let lend = Message::Lend { ticket: 1, request: "r".to_owned(), lease, blocks: vec![vec![3, 4]] };
    assert_eq!(meta::decode(&scheduler.build_meta()), Ok(vec![lend]));
    assert!(scheduler.is_busy());
    scheduler.update(&names("r"), &[]);
    assert!(scheduler.is_empty() && !scheduler.is_busy());
}

#[test]
fn an_aborted_prompt_is_not_lent_nor_is_one_without_blocks() {
    let mut scheduler = scheduler();
    for (how, blocks, tokens) in [
        (Finish::Broken, vec![vec![3]], 4),
        (Finish::Complete, vec![vec![]], 4),
        (Finish::Complete, vec![vec![3]], 0),
    ] {
        arrive(&mut scheduler, "r", &produce());
        assert_eq!(scheduler.finished("r", how, blocks, tokens), Finished::default());
        assert!(scheduler.is_empty() && scheduler.build_meta().is_empty());
    }
}

#[test]
fn a_request_is_claimed_when_it_arrives_and_pulled_once_it_has_blocks() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8, 9]], 40));
    let lease = LeaseName { key: 7, secret: 9 };
    let track = Message::Track { ticket: 1, request: "r".to_owned(), owner: owner(7), lease };
    assert_eq!(scheduler.take(), [track]);
    // Asked in step after step until there is room.
    assert_eq!(scheduler.matched("r", 40, 16), some(24));
    assert_eq!(scheduler.matched("r", 40, 0), some(40));
    assert_eq!(scheduler.matched("r", 40, 32), some(8));
    scheduler.allocated("r", vec![vec![1, 2]], 8);
    let (request, local, remote) = ("r".to_owned(), vec![vec![1, 2]], vec![vec![8, 9]]);
    assert_eq!(scheduler.take(), [Message::Pull { ticket: 1, request, local, remote, tokens: 32..40 }]);
    // Parked: not asked for again, whatever vLLM does.
    assert_eq!(scheduler.matched("r", 40, 0), NONE);
    scheduler.update(&[], &names("r"));
    scheduler.allocated("r", vec![vec![1, 2]], 0);
    // Preempted and computed here, since the producer has its blocks back.
    assert_eq!(scheduler.matched("r", 40, 0), NONE);
    scheduler.allocated("r", vec![vec![5, 6]], 0);
    assert_eq!(scheduler.finished("r", Finish::Complete, vec![vec![5, 6]], 60), Finished::default());
    assert_eq!(scheduler.take(), []);
    assert!(scheduler.is_empty());
}

#[test]
fn a_full_hit_lets_the_producer_go_and_waits_for_nothing() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 16));
    scheduler.take();
    assert_eq!(scheduler.matched("r", 16, 16), NONE);
    scheduler.allocated("r", vec![vec![1]], 0);
    assert_eq!(scheduler.take(), [Message::Drop { ticket: 1 }]);
    scheduler.finished("r", Finish::Complete, vec![vec![1]], 20);
    assert_eq!(scheduler.take(), []);
    assert!(scheduler.is_empty());
}

#[test]
fn a_prompt_of_one_token_is_loaded_like_any_other() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 1));
    assert_eq!(scheduler.matched("r", 1, 0), some(1));
}

#[test]
fn a_state_that_went_past_where_the_consumer_begins_is_not_loaded() {
    let mut scheduler = scheduler();
    scheduler.setup.backoff = 1;
    for (request, tokens, expected) in [("left out", 8, some(8)), ("early", 6, some(6)), ("past", 9, NONE)] {
        arrive(&mut scheduler, request, &computed(7, &[vec![8]], tokens));
        assert_eq!(scheduler.matched(request, 9, 0), expected, "{request}");
    }
    // Of one token, all is computed here.
    arrive(&mut scheduler, "one", &computed(7, &[vec![8]], 1));
    assert_eq!(scheduler.matched("one", 1, 0), NONE);
    let mut untold = computed(7, &[vec![8]], 8);
    untold.as_object_mut().expect("an object").remove("remote_num_tokens");
    arrive(&mut scheduler, "untold", &untold);
    assert_eq!(scheduler.matched("untold", 9, 0), NONE);
}

#[test]
fn a_recurrent_state_is_not_pushed() {
    let mut scheduler = scheduler();
    scheduler.setup.backoff = 1;
    scheduler.setup.metaservers = Some(vec!["http://proxy:8000".to_owned()]);
    let metaserver = "http://proxy:8000/v1/metaserver";
    arrive(&mut scheduler, "r", &json!({"do_remote_prefill": true, "metaserver": metaserver}));
    assert_eq!(scheduler.matched("r", 9, 0), NONE);
    assert_eq!(scheduler.counts().unusable, 1);
    assert!(scheduler.is_empty());
}

#[test]
fn no_more_is_loaded_than_the_producer_computed() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 20));
    assert_eq!(scheduler.matched("r", 32, 16), some(4));
    assert_eq!(scheduler.matched("r", 32, 24), NONE);
    arrive(&mut scheduler, "empty", &computed(7, &[vec![]], 20));
    assert_eq!(scheduler.matched("empty", 32, 0), NONE);
}

#[test]
fn an_abort_before_there_are_blocks_lets_the_producer_go_without_a_report() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 16));
    assert_eq!(scheduler.finished("r", Finish::Broken, vec![], 0), Finished::default());
    let messages = scheduler.take();
    assert!(
        matches!(messages[..], [Message::Track { ticket: 1, .. }, Message::Drop { ticket: 1 }]),
        "{messages:?}"
    );
    assert!(scheduler.is_empty());
}

#[test]
fn an_abort_while_blocks_are_filled_waits_for_the_workers() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 16));
    scheduler.matched("r", 16, 0);
    scheduler.allocated("r", vec![vec![1]], 16);
    scheduler.take();
    assert_eq!(scheduler.finished("r", Finish::Broken, vec![vec![1]], 0), Finished::default());
    assert_eq!(scheduler.take(), [Message::Drop { ticket: 1 }]);
    assert!(scheduler.is_busy());
    scheduler.update(&[], &names("r"));
    assert!(scheduler.is_empty());
}

#[test]
fn a_request_that_comes_back_under_its_old_id_is_another_passage() {
    let mut scheduler = scheduler();
    for (life, ticket) in [(7, 1), (8, 2)] {
        arrive(&mut scheduler, "r", &computed(life, &[vec![8]], 16));
        arrive(&mut scheduler, "r", &computed(99, &[vec![8]], 16));
        let told = scheduler.take();
        assert!(
            matches!(&told[..], [Message::Track { ticket: t, owner: o, .. }] if *t == ticket && *o == owner(life)),
            "{told:?}"
        );
        scheduler.finished("r", Finish::Broken, vec![], 0);
        assert_eq!(scheduler.take(), [Message::Drop { ticket }]);
    }
}

#[test]
fn several_producers_are_told_apart_in_one_step() {
    let mut scheduler = scheduler();
    for life in 1..4 {
        arrive(&mut scheduler, &format!("r{life}"), &computed(life, &[vec![8]], 16));
    }
    let owners: Vec<Owner> = scheduler
        .take()
        .into_iter()
        .map(|message| match message {
            Message::Track { owner, .. } => owner,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(owners, [owner(1), owner(2), owner(3)]);
}

#[test]
fn what_a_role_does_not_do_is_computed_here() {
    let mut scheduler = scheduler();
    scheduler.setup.role = Role::Producer;
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 16));
    assert_eq!(scheduler.matched("r", 16, 0), NONE);
    scheduler.setup.role = Role::Consumer;
    arrive(&mut scheduler, "s", &produce());
    assert_eq!(scheduler.finished("s", Finish::Complete, vec![vec![1]], 16), Finished::default());
    arrive(&mut scheduler, "t", &json!({"do_remote_prefill": true}));
    assert_eq!((scheduler.counts().unusable, scheduler.take()), (3, vec![]));
}

#[test]
fn without_a_listener_or_a_name_nothing_is_lent() {
    let mut scheduler = scheduler();
    scheduler.owner = None;
    arrive(&mut scheduler, "r", &produce());
    assert_eq!(scheduler.finished("r", Finish::Complete, vec![vec![1]], 16), Finished::default());
    scheduler.set_owner(owner(1));
    scheduler.draw =
        Box::new(|| Err(ropeway::Error::new(ropeway::ErrorKind::Resource, "draw", "no entropy")));
    arrive(&mut scheduler, "s", &produce());
    assert_eq!(scheduler.finished("s", Finish::Complete, vec![vec![1]], 16), Finished::default());
    assert!(scheduler.is_empty());
}

#[test]
fn a_report_that_nobody_waits_for_changes_nothing() {
    let mut scheduler = scheduler();
    arrive(&mut scheduler, "r", &computed(7, &[vec![8]], 16));
    scheduler.update(&names("r"), &names("r"));
    scheduler.update(&names("x"), &names("y"));
    assert_eq!(scheduler.matched("r", 16, 0), some(16));
}

#[test]
fn the_end_of_a_prompt_is_left_out_once_and_loaded_by_nobody() {
    let mut scheduler = scheduler();
    scheduler.setup.backoff = 2;
    arrive(&mut scheduler, "there", &produce());
    assert_eq!(scheduler.left_out("there", 2), 0, "a token must be computed");
    assert_eq!(scheduler.left_out("there", 40), 2);
    assert_eq!(scheduler.left_out("there", 38), 0, "computed again after a preemption");
    arrive(&mut scheduler, "here", &computed(7, &[vec![5, 6]], 38));
    assert_eq!((scheduler.left_out("here", 40), scheduler.left_out("plain", 40)), (0, 0));
    assert_eq!(scheduler.matched("here", 40, 0), some(38));
}

#[test]
fn more_blocks_than_a_lease_may_hold_are_not_lent() {
    let mut scheduler = scheduler();
    for (blocks, groups) in [(BLOCKS_MAX + 1, 1), (BLOCKS_MAX, 2), (1, GROUPS_MAX + 1)] {
        scheduler.on_new_request(NewRequest { id: "r", params: &produce() });
        let finished = scheduler.finished("r", Finish::Complete, vec![vec![1; blocks]; groups], 16);
        assert_eq!(finished, Finished::default(), "{groups} groups of {blocks}");
    }
    assert!(scheduler.is_empty() && scheduler.build_meta().is_empty());
}

#[test]
fn however_many_blocks_a_request_has_its_workers_understand_what_they_are_told() {
    let mut scheduler = scheduler();
    scheduler.on_new_request(NewRequest { id: "r", params: &computed(7, &[vec![1; BLOCKS_MAX]], 16) });
    scheduler.allocated("r", vec![vec![1; BLOCKS_MAX]; 2], 16);
    assert_eq!(meta::decode(&scheduler.build_meta()).map(|messages| messages.len()), Ok(2));
}
