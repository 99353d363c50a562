//! A session whose peer, and whose own engine, do anything in any order.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropeway_core::machine::session::{Command, Event, MAX_OUTPUTS, Output, Session, SessionConfig, Side};
use ropeway_core::wire::message::{CacheInfo, ClaimInfo, Why};
use ropeway_core::wire::{FrameDecoder, Hidden, LeaseName, encode_frame};
use ropeway_core::{CacheId, GrantId, Incarnation, LayoutDigest, Limits, Message, Rights, Token};

use super::Input;
use super::wire::hello;

pub(super) fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let side = if input.byte().is_multiple_of(2) { Side::Client } else { Side::Server };
    let limits = Limits::default();
    let mut config = SessionConfig::new(side, hello(), &limits);
    config.hello.version_max = 1 + input.below(3);
    let mut now = Duration::ZERO;
    let mut session = Session::new(config, now).expect("the introduction is within limits");
    let mut over = false;
    while !input.is_done() {
        match input.below(8) {
            0 => {
                now += Duration::from_millis(u64::from(input.byte()) * 100);
                session.tick(now);
            }
            1 => {
                let pause = [None, Some(Duration::ZERO), Some(Duration::from_secs(3)), Some(Duration::MAX)];
                let ours = pause[usize::from(input.below(4))];
                session.set_holding(ours, input.byte().is_multiple_of(2), now);
            }
            2 => {
                let _ = session.call(command(&mut input));
            }
            3 if input.byte() == 0 => session.connection_lost("cut"),
            // Some inputs get through the handshake at once.
            3 => {
                let greeting = match side {
                    Side::Client => Message::HelloAck(1, hello()),
                    Side::Server => Message::Hello(hello()),
                };
                session.handle(greeting, now);
            }
            _ => session.handle(message(&mut input), now),
        }
        let mut outputs = 0;
        while let Some(output) = session.poll_output() {
            outputs += 1;
            match output {
                Output::Event(event) => {
                    assert!(!over, "{event:?} after the last event");
                    over = matches!(event, Event::Closed { .. });
                    assert_eq!(over, session.is_closed() && over);
                }
                Output::Send(message) => encodes(&message, session.version()),
            }
        }
        assert!(outputs <= MAX_OUTPUTS);
        assert_eq!(over, session.is_closed(), "the end is told at once");
        assert!(session.next_timer().is_none_or(|_| !over), "nothing is waited for after the end");
    }
}

/// What a session sends, its peer's decoder takes.
fn encodes(message: &Message, version: u8) {
    let mut frame = BytesMut::new();
    encode_frame(message, version, &mut frame);
    let mut decoder = FrameDecoder::new(1 << 20);
    decoder.set_version(version);
    decoder.push(&frame).expect("a frame of ours is within limits");
    let understood = decoder.next_message().expect("a frame of ours is understood").expect("and is whole");
    // Words that are too long are cut, so the frames are compared, not the messages.
    let mut again = BytesMut::new();
    encode_frame(&understood, version, &mut again);
    assert_eq!(again, frame);
}

fn grant(input: &mut Input<'_>) -> GrantId {
    GrantId { slot: u32::from(input.below(4)), generation: 1 + u32::from(input.below(2)) }
}

fn cache(input: &mut Input<'_>) -> CacheId {
    CacheId { slot: u32::from(input.below(2)), generation: 1 + u32::from(input.below(2)) }
}

fn name(input: &mut Input<'_>) -> String {
    let len = [1, 2, 255, 256][usize::from(input.below(4))];
    "k".repeat(len)
}

fn claim_info(input: &mut Input<'_>) -> ClaimInfo {
    let (grant, cache) = (grant(input), cache(input));
    ClaimInfo { grant, cache, rights: Rights::Read, ttl_ms: 1, blocks: Default::default() }
}

fn cache_info(input: &mut Input<'_>) -> CacheInfo {
    let (cache, version) = (cache(input), input.number());
    CacheInfo { cache, version, digest: LayoutDigest([0; 16]), layout: Bytes::from_static(b"l") }
}

fn command(input: &mut Input<'_>) -> Command {
    let request = input.number() as u32;
    match input.below(20) {
        0 => {
            let incarnation = Incarnation::new(1 + u64::from(input.below(2))).expect("not 0");
            let (cache, grant) = (cache(input), grant(input));
            Command::Claim { token: Token { incarnation, cache, grant, secret: 1 } }
        }
        1 => Command::Decide { grant: grant(input), result: Ok(claim_info(input)) },
        2 => Command::Decide { grant: grant(input), result: Err(Why::Stale) },
        3 => Command::Release { grant: grant(input) },
        4 => Command::Revoke { grant: grant(input) },
        5 => Command::Lookup { name: name(input), known: Some(cache(input)) },
        6 => Command::Answer { request, result: Ok(cache_info(input)) },
        7 => Command::Answer { request, result: Err(Why::NotFound) },
        8 => Command::Changed { cache: cache(input), version: 1, live: true, name: name(input) },
        9 => Command::Notify { grant: grant(input), sequence: request, failed: false },
        10 => Command::LinkOpen { kind: 1, key: Hidden([0; 32]) },
        12 => Command::Forsake { grant: grant(input) },
        11 => Command::LinkFailed { link: request, text: "x".repeat(600) },
        13 => Command::LinkSay { link: request, bytes: vec![7; 40_000 * usize::from(input.below(2))].into() },
        14 => Command::Find { name: LeaseName { key: input.number(), secret: 1 }, holders: request },
        15 => Command::Locate { request, result: Ok((cache(input), grant(input))) },
        16 => Command::ReadNote { name: name(input) },
        17 => Command::TellNote { request, result: Ok(vec![7; 300 * usize::from(input.below(2))].into()) },
        _ if input.byte() == 0 => Command::Goodbye { why: Why::Closed, text: String::new() },
        _ => Command::LinkReady { link: request },
    }
}

fn message(input: &mut Input<'_>) -> Message {
    let request = input.number() as u32;
    match input.below(25) {
        0 => Message::Hello(hello()),
        1 => Message::HelloAck(input.below(3), hello()),
        2 => Message::Refuse(Why::Full, String::new()),
        3 => Message::Claim { request, cache: cache(input), grant: grant(input), secret: Hidden(1) },
        4 => Message::Claimed { request, info: claim_info(input) },
        5 => Message::Refused { request, why: Why::Denied, text: String::new() },
        6 => Message::Release { grant: grant(input) },
        7 => Message::Revoked { grant: grant(input) },
        8 => Message::Heartbeat { sequence: input.number() },
        9 => Message::HeartbeatAck { sequence: input.number() },
        10 => Message::Lookup { request, name: name(input), known: None },
        11 => Message::Found { request, info: cache_info(input) },
        12 => Message::CacheChanged { cache: cache(input), version: 1, live: false, name: name(input) },
        13 => Message::Notify { grant: grant(input), sequence: request, failed: true },
        14 => Message::NotifyRefused { grant: grant(input), sequence: request, why: Why::Full },
        15 => Message::LinkOpen { link: request, kind: 9, key: Hidden([1; 32]) },
        16 => Message::LinkReady { link: request },
        18 => Message::Forsake { grant: grant(input) },
        17 => Message::LinkFailed { link: request, text: String::new() },
        19 => Message::LinkSay { link: request, bytes: vec![3; 16].into() },
        20 => Message::Find { request, name: LeaseName { key: input.number(), secret: 1 }, holders: 1 },
        21 => Message::Located { request, cache: cache(input), grant: grant(input) },
        22 => Message::ReadNote { request, name: name(input) },
        23 => Message::Note { request, bytes: vec![3; 16].into() },
        _ => Message::Goodbye(Why::Other, String::new()),
    }
}
