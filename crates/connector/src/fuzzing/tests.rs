use ropeway::{Auth, Incarnation, Secret};
use ropeway_testkit::fuzz::smoke_with;

use super::*;
use crate::meta::Message;
use crate::params::Owner;

/// `ITERATIONS=n` and `SEED=n` make a longer or another run.
fn smoke(name: &str, corpus: &[Vec<u8>], run: fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    smoke_with(name, corpus, run, number("SEED").unwrap_or(1), number("ITERATIONS").unwrap_or(10_000));
}

fn messages() -> Vec<Message> {
    let owner = Owner {
        addresses: vec![([10, 0, 0, 1], 7_000).into()],
        incarnation: Incarnation::new(9).expect("not 0"),
        auth: Auth::Secret(Secret::new([7; 32])),
    };
    let blocks = vec![vec![1, 2, 3, 900, 4], vec![], vec![0, 0, 8]];
    let request = "cmpl-1".to_owned();
    vec![
        Message::Lend { ticket: 1, request: request.clone(), lease: lease(), blocks: blocks.clone() },
        Message::Track { ticket: 300, request: request.clone(), owner, lease: lease() },
        Message::Pull { ticket: 300, request, local: blocks.clone(), remote: blocks, tokens: 16..200 },
        Message::Drop { ticket: u64::MAX },
    ]
}

#[test]
fn messages_between_the_halves_survive_fuzzing() {
    let mut corpus: Vec<Vec<u8>> =
        messages().iter().map(|one| meta::encode(std::slice::from_ref(one))).collect();
    corpus.push(meta::encode(&messages()));
    smoke("meta", &corpus, super::meta);
}

#[test]
fn parameters_of_a_router_survive_fuzzing() {
    let changes: Vec<u8> = (0..=255).map(|at: u8| at | 1).collect();
    let text = [&[0], sound_params().to_string().as_bytes()].concat();
    smoke("params", &[vec![1], changes, text], super::params);
}

#[test]
fn rank_tables_of_a_peer_survive_fuzzing() {
    let sound = |which: u8| vec![which << 1 | 1];
    let text = |which: usize| {
        let instance = Instance { about: about(which).to_value(), ranks: Vec::new() };
        [vec![(which as u8) << 1], instance.encode()].concat()
    };
    let changes = |which: u8| [sound(which), vec![1, 7, 255, 0, 9, 2, 3, 3, 0]].concat();
    let corpus: Vec<Vec<u8>> = (0..5).map(sound).chain((0..5).map(text)).chain((0..5).map(changes)).collect();
    smoke("instance", &corpus, super::instance);
}

#[test]
fn what_is_not_changed_is_understood() {
    for which in 0..5 {
        let (spec, ours) = caches::one(which);
        let map =
            RankMap::new(spec, ours.clone(), ours, Rank { pp: 0, pcp: 0, tp: 0 }, 0).expect("it fits itself");
        assert_eq!(map.pulls(0).expect("it fits itself").len(), 1, "cache {which}");
    }
    assert!(matches!(Params::of(&sound_params()), Params::Consume(_)));
}
