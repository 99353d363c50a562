use super::*;
use crate::wire::hello::{HostIdentity, PeerLimits};
use crate::wire::{FrameDecoder, Hidden, encode_frame};
use crate::{ErrorKind, Incarnation, Rights};
use bytes::BytesMut;
use std::sync::Arc;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn life(bits: u64) -> Incarnation {
    Incarnation::new(bits).unwrap()
}

fn hello(bits: u64) -> Hello {
    let limits = Limits::default();
    Hello {
        version_min: 0,
        version_max: 0,
        incarnation: life(bits),
        expects: None,
        capabilities: 0,
        host: HostIdentity::default(),
        build: "test".into(),
        limits: PeerLimits {
            control_frame_bytes: limits.control_frame_bytes(),
            grants_per_peer: limits.grants_per_peer(),
            served_requests: limits.served_requests_per_peer(),
            served_bytes: limits.served_bytes_per_peer(),
            heartbeat_ms: 5_000,
        },
        offers: vec![],
    }
}

fn config(side: Side, bits: u64) -> SessionConfig {
    SessionConfig::new(side, hello(bits), &Limits::default())
}

fn grant(slot: u32) -> GrantId {
    GrantId { slot, generation: 1 }
}

fn token(incarnation: u64, slot: u32) -> Token {
    Token {
        incarnation: life(incarnation),
        cache: CacheId { slot: 0, generation: 1 },
        grant: grant(slot),
        secret: 9,
    }
}

fn info(slot: u32) -> ClaimInfo {
    let cache = CacheId { slot: 0, generation: 1 };
    ClaimInfo { grant: grant(slot), cache, rights: Rights::Read, ttl_ms: 30_000, blocks: Arc::default() }
}

/// Two sessions and the frames between them.
struct Pair {
    sessions: [Session; 2],
    events: [Vec<Event>; 2],
    frames: usize,
}

impl Pair {
    fn new(client: SessionConfig, server: SessionConfig) -> Self {
        let sessions = [client, server].map(|config| Session::new(config, secs(0)).unwrap());
        let mut pair = Self { sessions, events: [vec![], vec![]], frames: 0 };
        pair.run(secs(0));
        pair
    }

    fn established() -> Self {
        let mut pair = Self::new(config(Side::Client, 1), config(Side::Server, 2));
        for events in &mut pair.events {
            assert!(matches!(events[..], [Event::Established { version: 1, .. }]), "{events:?}");
            events.clear();
        }
        pair
    }

    /// Carries frames, through the codec, until there are none.
    fn run(&mut self, now: Duration) {
        loop {
            let mut quiet = true;
            for from in 0..2 {
                let version = self.sessions[from].version();
                while let Some(output) = self.sessions[from].poll_output() {
                    quiet = false;
                    match output {
                        Output::Event(event) => self.events[from].push(event),
                        Output::Send(message) => {
                            self.frames += 1;
                            let (mut bytes, mut decoder) = (BytesMut::new(), FrameDecoder::new(1 << 20));
                            encode_frame(&message, version, &mut bytes);
                            decoder.set_version(version);
                            decoder.push(&bytes).unwrap();
                            let message = decoder.next_message().unwrap().unwrap();
                            self.sessions[1 - from].handle(message, now);
                        }
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn call(&mut self, side: usize, command: Command) -> u32 {
        let number = self.sessions[side].call(command).unwrap();
        self.run(secs(1));
        number
    }

    fn take(&mut self, side: usize) -> Vec<Event> {
        std::mem::take(&mut self.events[side])
    }
}

fn ended(events: &[Event]) -> Option<(Why, bool)> {
    events.iter().find_map(|event| match event {
        Event::Closed { why, by_peer, .. } => Some((*why, *by_peer)),
        _ => None,
    })
}

#[test]
fn the_newest_version_that_both_speak_is_chosen() {
    for ((low_a, high_a), (low_b, high_b), chosen) in [
        ((1, 1), (1, 1), Some(1)),
        ((2, 3), (1, 2), Some(2)),
        ((1, 2), (2, 3), Some(2)),
        ((3, 4), (1, 2), None),
    ] {
        let (mut a, mut b) = (config(Side::Client, 1), config(Side::Server, 2));
        (a.hello.version_min, a.hello.version_max) = (low_a, high_a);
        (b.hello.version_min, b.hello.version_max) = (low_b, high_b);
        let pair = Pair::new(a, b);
        match chosen {
            Some(chosen) => assert_eq!([pair.sessions[0].version(), pair.sessions[1].version()], [chosen; 2]),
            None => {
                assert_eq!(ended(&pair.events[0]), Some((Why::Version, true)));
                assert_eq!(ended(&pair.events[1]), Some((Why::Version, false)));
            }
        }
    }
}

#[test]
fn the_successor_of_the_engine_that_was_meant_refuses() {
    let mut client = config(Side::Client, 1);
    client.hello.expects = Some(life(2));
    let pair = Pair::new(client.clone(), config(Side::Server, 3));
    assert_eq!(ended(&pair.events[0]), Some((Why::StaleIncarnation, true)));
    assert!(pair.sessions[1].is_closed());
    assert!(Pair::new(client.clone(), config(Side::Server, 2)).sessions[0].is_established());

    // Even one that would not refuse is found out.
    let mut session = Session::new(client, secs(0)).unwrap();
    session.handle(Message::HelloAck(1, Hello { version_min: 1, version_max: 1, ..hello(3) }), secs(0));
    assert!(session.is_closed());
}

#[test]
fn claims_are_answered_by_number_now_or_later() {
    let mut pair = Pair::established();
    let first = pair.call(0, Command::Claim { token: token(2, 5) });
    let second = pair.call(0, Command::Claim { token: token(2, 6) });
    assert!(
        matches!(&pair.take(1)[..], [Event::ClaimAsked { secret: Hidden(9), .. }, Event::ClaimAsked { grant: g, .. }] if *g == grant(6))
    );
    pair.call(1, Command::Decide { grant: grant(6), result: Err(Why::Denied) });
    pair.call(1, Command::Decide { grant: grant(5), result: Ok(info(5)) });
    let events = pair.take(0);
    assert!(
        matches!(&events[..], [
            Event::ClaimAnswered { request: a, result: Err(Refusal { why: Why::Denied, .. }), .. },
            Event::ClaimAnswered { request: b, result: Ok(_), .. },
        ] if (*a, *b) == (second, first)),
        "{events:?}"
    );
    pair.call(1, Command::Decide { grant: grant(5), result: Ok(info(5)) });
    assert_eq!(pair.take(0), [], "answered once");
}

#[test]
fn searches_and_notes_are_answered_by_number_once() {
    let mut pair = Pair::established();
    let name = crate::wire::LeaseName { key: 1, secret: 2 };
    let asked = pair.call(0, Command::Find { name, holders: 3 });
    let [Event::FindAsked { request, name: heard, holders: 3 }] = pair.take(1)[..] else {
        panic!("no search")
    };
    assert_eq!(heard, name);
    let place = (CacheId { slot: 0, generation: 1 }, grant(5));
    pair.call(1, Command::Locate { request, result: Ok(place) });
    pair.call(1, Command::Locate { request, result: Err(Why::Stale) });
    assert_eq!(pair.take(0), [Event::Located { request: asked, result: Ok(place) }]);
    let asked = pair.call(0, Command::ReadNote { name: "ranks".into() });
    let [Event::NoteAsked { request, .. }] = pair.take(1)[..] else { panic!("no question") };
    pair.call(1, Command::TellNote { request, result: Err(Why::NotFound) });
    let events = pair.take(0);
    assert!(
        matches!(&events[..], [Event::NoteAnswered { request, result: Err(no) }]
            if *request == asked && no.why == Why::NotFound),
        "{events:?}"
    );
}

#[test]
fn a_place_that_answers_another_question_ends_the_session() {
    let mut pair = Pair::established();
    let request = pair.call(0, Command::ReadNote { name: "ranks".into() });
    let cache = CacheId { slot: 0, generation: 1 };
    pair.sessions[0].handle(Message::Located { request, cache, grant: grant(5) }, secs(1));
    assert!(pair.sessions[0].is_closed());
}

#[test]
fn a_token_of_another_life_is_refused_without_a_frame() {
    let mut pair = Pair::established();
    let refused = pair.sessions[0].call(Command::Claim { token: token(7, 5) }).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StaleLease);
    assert_eq!(pair.sessions[0].poll_output(), None);
}

#[test]
fn a_lookup_is_answered_and_its_changes_are_heard_by_who_asked() {
    let mut pair = Pair::established();
    let change = |name: &str| Command::Changed {
        cache: CacheId { slot: 0, generation: 1 },
        version: 4,
        live: false,
        name: name.into(),
    };
    pair.call(1, change("kv"));
    assert_eq!(pair.take(0), [], "nobody asked for it");
    pair.call(0, Command::Lookup { name: "kv".into(), known: None });
    let [Event::LookupAsked { request, .. }] = pair.take(1)[..] else { panic!("no lookup") };
    let found = CacheInfo {
        cache: CacheId { slot: 0, generation: 1 },
        version: 3,
        digest: crate::LayoutDigest([1; 16]),
        layout: bytes::Bytes::from_static(b"layout"),
    };
    pair.call(1, Command::Answer { request, result: Ok(found.clone()) });
    assert!(matches!(&pair.take(0)[..], [Event::LookupAnswered { result: Ok(info), .. }] if *info == found));
    pair.call(1, change("kv"));
    pair.call(1, change("other"));
    assert!(matches!(&pair.take(0)[..], [Event::CacheChanged { live: false, name, .. }] if name == "kv"));
}

#[test]
fn an_idle_session_has_no_timer_and_sends_nothing() {
    let mut pair = Pair::established();
    let frames = pair.frames;
    for second in 0..1_000 {
        pair.sessions.iter_mut().for_each(|session| session.tick(secs(second)));
        pair.run(secs(second));
    }
    assert_eq!(
        (pair.frames, pair.sessions[0].next_timer(), pair.sessions[1].next_timer()),
        (frames, None, None)
    );
}

#[test]
fn heartbeats_run_while_grants_are_held_and_count_from_when_they_were_sent() {
    let mut pair = Pair::established();
    pair.sessions[0].set_holding(Some(Duration::MAX), false, secs(100));
    pair.sessions[1].set_holding(None, true, secs(100));
    assert_eq!(pair.sessions[0].next_timer(), Some(secs(105)));
    pair.sessions[0].tick(secs(105));
    // The answer comes two seconds after the heartbeat left.
    pair.run(secs(107));
    assert_eq!(pair.take(1), [Event::Renewed]);
    assert_eq!(pair.take(0), [Event::Confirmed { sent: secs(105) }]);
    pair.sessions[0].set_holding(None, false, secs(108));
    assert_eq!(pair.sessions[0].next_timer(), None);
}

#[test]
fn heartbeats_are_quick_enough_for_the_shortest_lease_and_never_a_storm() {
    let mut session = Pair::established().sessions.into_iter().next().unwrap();
    session.set_holding(Some(Duration::MAX), false, secs(100));
    session.set_holding(Some(secs(2)), false, secs(101));
    assert_eq!(session.next_timer(), Some(secs(103)));
    session.tick(secs(103));
    assert_eq!(session.next_timer(), Some(secs(105)));
    session.set_holding(Some(secs(30)), false, secs(104));
    session.tick(secs(105));
    assert_eq!(session.next_timer(), Some(secs(110)), "our own limit is 5 s");
    session.set_holding(Some(Duration::ZERO), false, secs(106));
    assert_eq!(session.next_timer(), Some(secs(106) + Duration::from_millis(33)));
}

#[test]
fn silence_is_no_shorter_than_the_pauses_that_the_peer_announces_and_no_word_makes_it_endless() {
    for (heartbeat_ms, limit) in [(1_000, 30), (20_000, 60), (u32::MAX, 180)] {
        let mut client = config(Side::Client, 1);
        client.hello.limits.heartbeat_ms = heartbeat_ms;
        let mut pair = Pair::new(client, config(Side::Server, 2));
        pair.sessions[1].set_holding(None, true, secs(100));
        assert_eq!(pair.sessions[1].next_timer(), Some(secs(100 + limit)), "{heartbeat_ms} ms");
    }
}

#[test]
fn times_without_end_are_never_over() {
    let endless = |side, bits| {
        let (heartbeat, silence, handshake) = (Duration::MAX, Duration::MAX, Duration::MAX);
        SessionConfig { heartbeat, silence, handshake, ..config(side, bits) }
    };
    let mut pair = Pair::new(endless(Side::Client, 1), endless(Side::Server, 2));
    pair.sessions[0].set_holding(Some(Duration::MAX), true, secs(100));
    pair.sessions[1].set_holding(None, true, secs(100));
    assert_eq!(pair.sessions[0].next_timer(), Some(secs(160)), "a heartbeat a minute");
    pair.sessions[1].tick(secs(1 << 40));
    pair.run(secs(1 << 40));
    assert!(!pair.take(1).iter().any(|event| matches!(event, Event::Silent { .. })));
    assert_eq!(pair.sessions[1].next_timer(), None);
}

#[test]
fn silence_is_told_once_while_leases_are_held_and_again_after_the_peer_spoke() {
    let mut pair = Pair::established();
    pair.sessions[1].set_holding(None, true, secs(100));
    for second in 100..300 {
        pair.sessions[1].tick(secs(second));
    }
    pair.run(secs(300));
    assert_eq!(pair.take(1), [Event::Silent { since: secs(100) }]);
    assert!(pair.sessions[1].is_established(), "silence ends no session by itself");
    pair.sessions[1].handle(Message::Heartbeat { sequence: 1 }, secs(300));
    pair.sessions[1].tick(secs(329));
    assert!(!pair.take(1).contains(&Event::Silent { since: secs(300) }));
    pair.sessions[1].tick(secs(330));
    while let Some(output) = pair.sessions[1].poll_output() {
        if let Output::Event(event) = output {
            pair.events[1].push(event);
        }
    }
    assert!(pair.take(1).contains(&Event::Silent { since: secs(300) }));
}

#[test]
fn what_the_protocol_does_not_allow_ends_the_session_and_says_why() {
    let strange = [
        Message::Claimed { request: 5, info: info(1) },
        Message::Refused { request: 5, why: Why::Full, text: String::new() },
        Message::HeartbeatAck { sequence: 1 },
        Message::Hello(hello(1)),
    ];
    for message in strange {
        let mut pair = Pair::established();
        pair.sessions[1].handle(message.clone(), secs(1));
        pair.run(secs(1));
        assert_eq!(ended(&pair.events[1]), Some((Why::Protocol, false)), "{message:?}");
        assert_eq!(ended(&pair.events[0]), Some((Why::Protocol, true)), "{message:?}");
        let refused = pair.sessions[1].call(Command::Release { grant: grant(1) }).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
    }
}

#[test]
fn an_answer_with_another_lease_or_a_number_asked_twice_ends_the_session() {
    let mut pair = Pair::established();
    let request = pair.call(0, Command::Claim { token: token(2, 5) });
    pair.sessions[0].handle(Message::Claimed { request, info: info(6) }, secs(1));
    assert!(pair.sessions[0].is_closed());

    let mut pair = Pair::established();
    for _ in 0..2 {
        let Token { cache, grant, secret, .. } = token(2, 5);
        pair.sessions[1].handle(Message::Claim { request: 3, cache, grant, secret: Hidden(secret) }, secs(1));
    }
    assert!(pair.sessions[1].is_closed());
}

#[test]
fn requests_are_limited_on_both_sides() {
    let mut pair = Pair::established();
    for _ in 0..MAX_REQUESTS {
        pair.call(0, Command::Claim { token: token(2, 5) });
    }
    let refused = pair.sessions[0].call(Command::Claim { token: token(2, 5) }).unwrap_err();
    assert!(refused.kind() == ErrorKind::Full && refused.message().contains("MAX_REQUESTS"));

    let name = String::from("kv");
    pair.sessions[1].handle(Message::Lookup { request: u32::MAX, name, known: None }, secs(1));
    let Some(Output::Send(Message::Refused { why: Why::Full, .. })) = pair.sessions[1].poll_output() else {
        panic!("taken past the limit");
    };
    pair.call(1, Command::Decide { grant: grant(5), result: Err(Why::Stale) });
    assert_eq!(pair.take(0).len(), MAX_REQUESTS);
    pair.call(0, Command::Claim { token: token(2, 5) });
}

#[test]
fn an_answer_that_the_peer_has_no_room_for_is_refused_and_leaves_no_lease_held() {
    let mut client = config(Side::Client, 1);
    client.hello.limits.control_frame_bytes = 65_536;
    let mut pair = Pair::new(client, config(Side::Server, 2));
    pair.take(0);
    pair.take(1);
    for (spans, fits) in [(8_000, true), (9_000, false)] {
        let spans = (0..spans).map(|n| crate::BlockSpan { first: crate::BlockId(2 * n), count: 1 }).collect();
        let blocks = Arc::new(crate::wire::BlockSpans(vec![spans]));
        pair.call(0, Command::Claim { token: token(2, 5) });
        pair.take(1);
        pair.call(1, Command::Decide { grant: grant(5), result: Ok(ClaimInfo { blocks, ..info(5) }) });
        let events = pair.take(0);
        let [Event::ClaimAnswered { result, .. }] = &events[..] else { panic!("{events:?}") };
        match result {
            Ok(_) => assert!(fits),
            Err(refusal) => {
                assert!(!fits && refusal.why == Why::Full && refusal.text.contains("control_frame_bytes"))
            }
        }
        assert_eq!(pair.take(1), if fits { vec![] } else { vec![Event::Released { grant: grant(5) }] });
    }
}

#[test]
fn outputs_that_are_not_taken_meet_their_limit() {
    let mut pair = Pair::established();
    for _ in 0..MAX_OUTPUTS {
        pair.sessions[1].handle(Message::LinkReady { link: 0 }, secs(1));
    }
    assert!(pair.sessions[1].is_closed());
    let waiting = std::iter::from_fn(|| pair.sessions[1].poll_output()).count();
    assert!(waiting <= MAX_OUTPUTS + 2, "{waiting}");
}

#[test]
fn a_handshake_that_does_not_finish_in_time_ends() {
    let mut session = Session::new(config(Side::Server, 1), secs(0)).unwrap();
    assert_eq!(session.next_timer(), Some(secs(10)));
    session.tick(secs(9));
    assert!(!session.is_closed());
    session.tick(secs(10));
    assert!(session.is_closed());
    let first = Message::Heartbeat { sequence: 1 };
    let mut session = Session::new(config(Side::Server, 1), secs(0)).unwrap();
    session.handle(first, secs(0));
    assert!(session.is_closed(), "nothing is said before the handshake");
}

#[test]
fn goodbye_ends_both_sides_and_the_last_event_comes_once() {
    let mut pair = Pair::established();
    pair.call(0, Command::Goodbye { why: Why::Closed, text: "done".into() });
    pair.sessions[0].connection_lost("socket");
    pair.sessions[1].connection_lost("socket");
    pair.run(secs(1));
    assert_eq!(ended(&pair.take(0)), Some((Why::Closed, false)));
    let events = pair.take(1);
    assert_eq!((events.len(), ended(&events)), (1, Some((Why::Closed, true))));
}

#[test]
fn link_numbers_of_the_two_sides_do_not_clash() {
    let mut pair = Pair::established();
    let open = || Command::LinkOpen { kind: 3, key: Hidden([7; 32]) };
    let numbers = [pair.call(0, open()), pair.call(1, open()), pair.call(0, open()), pair.call(1, open())];
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(matches!(pair.take(1)[..], [Event::LinkOpen { link: 0, .. }, Event::LinkOpen { link: 2, .. }]));
}
