//! Frames, tokens, descriptors.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ropeway_core::wire::message::{CacheInfo, ClaimInfo, Why};
use ropeway_core::wire::{
    Auth, BlockSpans, FrameDecoder, Hello, Hidden, HostIdentity, LeaseName, Offer, PeerLimits, encode_frame,
};
use ropeway_core::{
    BlockId, BlockSpan, CacheId, Descriptor, GrantId, Incarnation, LayoutDigest, Message, Rights, Secret,
    Token,
};

const LIMIT: u32 = 4_096;

/// The bytes arrive in pieces; what is understood must have been in its only form, and nothing is kept past the limit.
pub(super) fn frame(data: &[u8]) {
    let (pieces, data) =
        data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first).max(1), rest));
    for version in [0, 1] {
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.set_version(version);
        let mut out = BytesMut::new();
        let mut handshake = false;
        'pieces: for piece in data.chunks(pieces) {
            if decoder.push(piece).is_err() {
                break;
            }
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => {
                        handshake |= message.is_handshake();
                        encode_frame(&message, version, &mut out);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next_message(), Err(error), "a broken stream stays broken");
                        break 'pieces;
                    }
                }
            }
        }
        // A hello may carry fields of later versions, which are dropped; all else has one form.
        assert!(handshake || data.starts_with(&out), "a message was understood that no encoder writes");
    }
}

pub(super) fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<LeaseName>() {
        assert_eq!(name.to_string(), text, "a name has one text");
    }
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text, "a token has one form");
    }
    if let Ok(descriptor) = text.parse::<Descriptor>() {
        assert_eq!(descriptor.to_string(), text, "a descriptor has one form");
    }
}

pub(super) fn texts() -> Vec<Vec<u8>> {
    let addresses: [SocketAddr; 2] =
        [([10, 0, 0, 1], 7_000).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 7_001).into()];
    let auths = [Auth::Secret(Secret::new([7; 32])), Auth::ClusterKey, Auth::Insecure];
    let descriptors = auths.into_iter().map(|auth| {
        let addresses = addresses.to_vec();
        Descriptor { incarnation: Incarnation::new(99), addresses, auth }.to_string()
    });
    let incarnation = Incarnation::new(5).expect("not 0");
    let token = Token { incarnation, cache: cache(), grant: grant(), secret: 12_345 };
    descriptors.chain([token.to_string()]).map(String::into_bytes).collect()
}

fn cache() -> CacheId {
    CacheId { slot: 2, generation: 1 }
}

fn grant() -> GrantId {
    GrantId { slot: 3, generation: 4 }
}

pub(super) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        incarnation: Incarnation::new(1).expect("not 0"),
        expects: None,
        capabilities: 0,
        host: HostIdentity::default(),
        build: "fuzz".into(),
        limits: PeerLimits {
            control_frame_bytes: LIMIT,
            grants_per_peer: 1,
            served_requests: 1,
            served_bytes: 1,
            heartbeat_ms: 1,
        },
        offers: vec![Offer { kind: 1, bytes: Bytes::from_static(b"offer") }],
    }
}

/// One of each message, alone and one after the other; the first byte says in which pieces they arrive.
pub(super) fn frames() -> Vec<Vec<u8>> {
    let spans = BlockSpans(vec![vec![BlockSpan { first: BlockId(1), count: 3 }], vec![]]);
    let info = ClaimInfo {
        grant: grant(),
        cache: cache(),
        rights: Rights::Write,
        ttl_ms: 30_000,
        blocks: Arc::new(spans),
    };
    let found = CacheInfo {
        cache: cache(),
        version: 1,
        digest: LayoutDigest([1; 16]),
        layout: Bytes::from_static(b"layout"),
    };
    let messages = [
        Message::Hello(hello()),
        Message::HelloAck(1, hello()),
        Message::Refuse(Why::Version, "no".into()),
        Message::Claim { request: 1, cache: cache(), grant: grant(), secret: Hidden(9) },
        Message::Claimed { request: 1, info },
        Message::Refused { request: 1, why: Why::Full, text: "full".into() },
        Message::Release { grant: grant() },
        Message::Forsake { grant: grant() },
        Message::Revoked { grant: grant() },
        Message::Heartbeat { sequence: 1 },
        Message::HeartbeatAck { sequence: 1 },
        Message::Lookup { request: 2, name: "kv".into(), known: Some(cache()) },
        Message::Found { request: 2, info: found },
        Message::CacheChanged { cache: cache(), version: 2, live: true, name: "kv".into() },
        Message::Notify { grant: grant(), sequence: 3, failed: false },
        Message::NotifyRefused { grant: grant(), sequence: 3, why: Why::Stale },
        Message::LinkOpen { link: 0, kind: 4, key: Hidden([1; 32]) },
        Message::LinkReady { link: 0 },
        Message::LinkFailed { link: 0, text: "no route".into() },
        Message::LinkSay { link: 0, bytes: vec![1, 2, 3].into() },
        Message::Find { request: 3, name: LeaseName { key: 5, secret: 6 }, holders: 2 },
        Message::Located { request: 3, cache: cache(), grant: grant() },
        Message::ReadNote { request: 4, name: "ranks".into() },
        Message::Note { request: 4, bytes: vec![1, 2, 3].into() },
        Message::Goodbye(Why::Closed, "bye".into()),
    ];
    let mut all = BytesMut::from(&[3_u8][..]);
    let mut corpus = Vec::new();
    for message in &messages {
        let mut one = BytesMut::from(&[255_u8][..]);
        encode_frame(message, 1, &mut one);
        encode_frame(message, 1, &mut all);
        corpus.push(one.to_vec());
    }
    corpus.push(all.to_vec());
    corpus
}
