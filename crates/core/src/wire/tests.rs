use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::message::{CacheInfo, ClaimInfo, Why};
use super::*;
use crate::{
    BlockId, BlockSpan, CacheId, GrantId, Group, Incarnation, LayoutDigest, LayoutSpec, Limits, Part,
    RegionId, Rights, Strided,
};

const LIMIT: u32 = 1 << 20;

fn decode_all(bytes: &[u8], version: u8) -> Result<Vec<Message>, WireError> {
    let mut decoder = FrameDecoder::new(LIMIT);
    decoder.set_version(version);
    decoder.push(bytes)?;
    let mut messages = Vec::new();
    while let Some(message) = decoder.next_message()? {
        messages.push(message);
    }
    Ok(messages)
}

fn encode(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(message, 1, &mut out);
    out
}

fn id() -> impl Strategy<Value = (u32, u32)> {
    (any::<u32>(), 1..=u32::MAX)
}

fn grant() -> impl Strategy<Value = GrantId> {
    id().prop_map(|(slot, generation)| GrantId { slot, generation })
}

fn cache() -> impl Strategy<Value = CacheId> {
    id().prop_map(|(slot, generation)| CacheId { slot, generation })
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    (1..=u64::MAX).prop_map(|bits| Incarnation::new(bits).unwrap())
}

fn why() -> impl Strategy<Value = Why> {
    prop::sample::select(vec![Why::Version, Why::Full, Why::Stale, Why::Denied, Why::NotFound, Why::Silent])
}

fn spans() -> impl Strategy<Value = BlockSpans> {
    let group = prop::collection::vec((1_u32..1_000, 1_u32..1_000), 0..8).prop_map(|gaps| {
        let mut next = 0;
        let span = |(gap, count)| {
            let first = BlockId(next + gap);
            next = first.0 + count;
            BlockSpan { first, count }
        };
        gaps.into_iter().map(span).collect()
    });
    prop::collection::vec(group, 0..4).prop_map(BlockSpans)
}

fn hello() -> impl Strategy<Value = Hello> {
    let offer = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..64))
        .prop_map(|(kind, bytes)| Offer { kind, bytes: bytes.into() });
    let host = (any::<[u8; 16]>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
        |(boot_id, net_namespace, pid_namespace, pid, uid)| HostIdentity {
            boot_id,
            net_namespace,
            pid_namespace,
            pid,
            uid,
        },
    );
    (
        incarnation(),
        prop::option::of(incarnation()),
        host,
        "[ -~]{0,64}",
        prop::collection::vec(offer, 0..5),
        any::<u64>(),
    )
        .prop_map(|(incarnation, expects, host, build, offers, bits)| Hello {
            version_min: 1,
            version_max: 1 + (bits % 9) as u8,
            incarnation,
            expects,
            capabilities: bits,
            host,
            build,
            limits: PeerLimits {
                control_frame_bytes: bits as u32,
                grants_per_peer: (bits >> 8) as u32,
                served_requests: (bits >> 16) as u32,
                served_bytes: bits,
                heartbeat_ms: (bits >> 24) as u32,
            },
            offers,
        })
}

fn search() -> impl Strategy<Value = Message> {
    let request = any::<u32>;
    prop_oneof![
        (request(), any::<u64>(), any::<u128>(), request()).prop_map(|(request, key, secret, holders)| {
            Message::Find { request, name: LeaseName { key, secret }, holders }
        }),
        (request(), cache(), grant()).prop_map(|(request, cache, grant)| Message::Located {
            request,
            cache,
            grant
        }),
        (request(), "\\PC{0,10}").prop_map(|(request, name)| Message::ReadNote { request, name }),
        (request(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(request, bytes)| Message::Note { request, bytes: bytes.into() }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let request = any::<u32>;
    let rights = || prop::sample::select(vec![Rights::Read, Rights::Write]);
    let claim_info = (grant(), cache(), rights(), any::<u32>(), spans()).prop_map(
        |(grant, cache, rights, ttl_ms, blocks)| ClaimInfo {
            grant,
            cache,
            rights,
            ttl_ms,
            blocks: Arc::new(blocks),
        },
    );
    let info = (cache(), any::<u64>(), any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(cache, version, digest, layout)| CacheInfo {
            cache,
            version,
            digest: LayoutDigest(digest),
            layout: layout.into(),
        });
    prop_oneof![
        hello().prop_map(Message::Hello),
        (1_u8..9, hello()).prop_map(|(version, hello)| Message::HelloAck(version, hello)),
        (why(), "\\PC{0,40}").prop_map(|(why, text)| Message::Refuse(why, text)),
        (request(), cache(), grant(), any::<u128>()).prop_map(|(request, cache, grant, secret)| {
            Message::Claim { request, cache, grant, secret: Hidden(secret) }
        }),
        (request(), claim_info).prop_map(|(request, info)| Message::Claimed { request, info }),
        (request(), why(), "\\PC{0,40}").prop_map(|(request, why, text)| Message::Refused {
            request,
            why,
            text
        }),
        grant().prop_map(|grant| Message::Release { grant }),
        grant().prop_map(|grant| Message::Forsake { grant }),
        grant().prop_map(|grant| Message::Revoked { grant }),
        any::<u64>().prop_map(|sequence| Message::Heartbeat { sequence }),
        any::<u64>().prop_map(|sequence| Message::HeartbeatAck { sequence }),
        (request(), "\\PC{0,40}", prop::option::of(cache()))
            .prop_map(|(request, name, known)| Message::Lookup { request, name, known }),
        (request(), info).prop_map(|(request, info)| Message::Found { request, info }),
        (cache(), any::<u64>(), any::<bool>(), "\\PC{0,40}")
            .prop_map(|(cache, version, live, name)| Message::CacheChanged { cache, version, live, name }),
        (grant(), request(), any::<bool>()).prop_map(|(grant, sequence, failed)| Message::Notify {
            grant,
            sequence,
            failed
        }),
        (grant(), request(), why()).prop_map(|(grant, sequence, why)| Message::NotifyRefused {
            grant,
            sequence,
            why
        }),
        (request(), any::<u8>(), any::<[u8; 32]>()).prop_map(|(link, kind, key)| Message::LinkOpen {
            link,
            kind,
            key: Hidden(key)
        }),
        request().prop_map(|link| Message::LinkReady { link }),
        (request(), "\\PC{0,40}").prop_map(|(link, text)| Message::LinkFailed { link, text }),
        (request(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(link, bytes)| Message::LinkSay { link, bytes: bytes.into() }),
        (why(), "\\PC{0,40}").prop_map(|(why, text)| Message::Goodbye(why, text)),
        search(),
    ]
}

proptest! {
    #[test]
    fn messages_come_back_whole_in_whatever_pieces_they_travel(
        messages in prop::collection::vec(message(), 1..5), piece in 1_usize..40,
    ) {
        let mut bytes = BytesMut::new();
        for message in &messages {
            let start = bytes.len();
            encode_frame(message, 1, &mut bytes);
            prop_assert!((bytes.len() - start) as u64 <= message.frame_bytes_max());
        }
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.set_version(1);
        let mut back = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece).unwrap();
            while let Some(message) = decoder.next_message().unwrap() {
                back.push(message);
            }
        }
        prop_assert_eq!(back, messages);
    }

    #[test]
    fn a_mutated_frame_is_refused_or_is_another_message_in_its_only_form(
        message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&message);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(messages) = decode_all(&bytes, 1) {
            for message in messages.iter().filter(|message| !message.is_handshake()) {
                // Handshakes may carry later fields that this version drops; all else has one form.
                prop_assert_eq!(&encode(message)[..], &bytes[..]);
            }
        }
        let whole = encode(&message);
        let cut = cut.index(whole.len());
        prop_assert_eq!(decode_all(&whole[..cut], 1).unwrap_or_default(), []);
    }

    #[test]
    fn garbage_never_panics_and_is_never_stored_past_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_all(&bytes, 1);
        let _ = decode_layout(&bytes, &Limits::default());
        for kind in 0..40 {
            let mut framed = BytesMut::new();
            framed.put_u32_le(bytes.len() as u32 + 2);
            framed.put_u8(u8::from(kind > 3));
            framed.put_u8(kind);
            framed.put_slice(&bytes);
            let _ = decode_all(&framed, 1);
        }
    }

    #[test]
    fn tokens_and_descriptors_come_back_whole_and_one_wrong_letter_is_refused(
        incarnation in incarnation(), cache in cache(), grant in grant(), secret in any::<u128>(),
        key in any::<[u8; 32]>(), kind in 0..3, ips in prop::collection::vec((any::<u128>(), any::<bool>(), any::<u16>()), 0..8),
        at in any::<prop::sample::Index>(), letter in "[A-Za-z0-9_-]",
    ) {
        let token = Token { incarnation, cache, grant, secret };
        let text = token.to_string();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        prop_assert_eq!(text.parse::<Token>().unwrap(), token);
        let address = |(ip, four, port): (u128, bool, u16)| match four {
            true => SocketAddr::from(((ip as u32).to_be_bytes(), port)),
            false => SocketAddr::from((ip.to_be_bytes(), port)),
        };
        let descriptor = Descriptor {
            incarnation: Some(incarnation),
            addresses: ips.into_iter().map(address).collect(),
            auth: match kind {
                0 => Auth::Secret(Secret::new(key)),
                1 => Auth::ClusterKey,
                _ => Auth::Insecure,
            },
        };
        let long = descriptor.to_string();
        prop_assert_eq!(long.parse::<Descriptor>().unwrap(), descriptor);
        let at = at.index(text.len());
        if text[at..=at] != letter {
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &letter);
            prop_assert!(wrong.parse::<Token>().is_err());
            prop_assert!(text[..at].parse::<Token>().is_err());
        }
    }

    #[test]
    fn layouts_come_back_whole(
        name in "[a-z]{1,20}", ratios in prop::collection::vec(any::<u32>(), 0..5),
        parts in prop::collection::vec(("[a-z.0-9]{0,30}", any::<u16>(), id(), any::<[u64; 3]>(), any::<u32>()), 0..20),
        raw in any::<bool>(),
    ) {
        let layout = LayoutSpec {
            name,
            groups: ratios.into_iter().map(|ratio| Group { name: format!("g{ratio}"), ratio }).collect(),
            parts: parts.into_iter().map(|(name, group, (slot, generation), [offset, stride, block_bytes], blocks)| Part {
                name,
                group,
                region: RegionId { slot, generation },
                strided: Strided { offset, stride, block_bytes, blocks },
            }).collect(),
            raw,
        };
        let bytes = encode_layout(&layout);
        prop_assert_eq!(decode_layout(&bytes, &Limits::default()).unwrap(), layout);
        prop_assert!(decode_layout(&bytes[..bytes.len() - 1], &Limits::default()).is_err());
    }
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_at_its_header() {
    let mut decoder = FrameDecoder::new(100);
    let error = WireError::TooLong { what: "frame", limit: 100 };
    assert_eq!(decoder.push(&101_u32.to_le_bytes()), Err(error));
    assert_eq!(decoder.push(&[0; 64]), Err(error), "nothing more is stored");
    assert_eq!(decoder.next_message(), Err(error));
}

#[test]
fn a_message_of_another_version_or_before_the_handshake_is_refused() {
    let frame = encode(&Message::Heartbeat { sequence: 1 });
    assert!(decode_all(&frame, 1).is_ok());
    assert!(decode_all(&frame, 2).is_err());
    assert!(decode_all(&frame, 0).is_err(), "no version is agreed yet");
}

#[test]
fn bytes_after_the_last_field_are_refused() {
    let mut frame = encode(&Message::LinkReady { link: 7 });
    frame.put_u8(0);
    frame[0] += 1;
    assert_eq!(decode_all(&frame, 1), Err(WireError::Trailing { extra: 1 }));
}

#[test]
fn a_count_is_checked_against_the_bytes_at_hand_before_room_is_made() {
    let mut out = BytesMut::new();
    out.put_u16_le(1);
    out.put_u32_le(u32::MAX);
    let refused = BlockSpans::decode(&mut Reader::new(&out));
    assert_eq!(refused, Err(WireError::TooLong { what: "block spans", limit: 0 }));
}

#[test]
fn spans_that_are_empty_unordered_adjacent_or_past_the_end_are_refused() {
    for spans in [[(5, 2), (7, 1)], [(5, 2), (6, 1)], [(5, 0), (9, 1)], [(1, 1), (u32::MAX, 2)]] {
        let mut out = BytesMut::new();
        out.put_u16_le(1);
        out.put_u32_le(2);
        for (first, count) in spans {
            out.put_u32_le(first);
            out.put_u32_le(count);
        }
        assert!(BlockSpans::decode(&mut Reader::new(&out)).is_err(), "{spans:?}");
    }
}

#[test]
fn an_id_of_generation_zero_is_refused() {
    let grant = GrantId { slot: 3, generation: 0 };
    assert!(decode_all(&encode(&Message::Release { grant }), 1).is_err());
}

#[test]
fn a_reason_is_cut_at_a_character() {
    let text = "ä".repeat(400);
    let Ok(messages) = decode_all(&encode(&Message::Goodbye(Why::Other, text)), 1) else { panic!("refused") };
    assert!(matches!(&messages[..], [Message::Goodbye(_, text)] if *text == "ä".repeat(256)));
}

#[test]
fn a_hello_with_later_fields_is_understood_by_this_version() {
    let hello = Hello {
        version_min: 1,
        version_max: 9,
        incarnation: Incarnation::new(5).unwrap(),
        expects: None,
        capabilities: u64::MAX,
        host: HostIdentity::default(),
        build: "ropeway 9.0.0".into(),
        limits: PeerLimits {
            control_frame_bytes: 1,
            grants_per_peer: 1,
            served_requests: 1,
            served_bytes: 1,
            heartbeat_ms: 1,
        },
        offers: vec![Offer { kind: 200, bytes: Bytes::from_static(b"new transport") }],
    };
    let mut frame = encode(&Message::Hello(hello.clone()));
    let len = frame.len();
    frame[len - 4..].copy_from_slice(&3_u32.to_le_bytes());
    frame.put_slice(b"new");
    frame[0] += 3;
    assert_eq!(decode_all(&frame, 0).unwrap(), [Message::Hello(hello)]);
}

#[test]
fn secrets_are_not_in_debug_output() {
    let incarnation = Incarnation::new(1).unwrap();
    let (cache, grant) = (CacheId { slot: 0, generation: 1 }, GrantId { slot: 0, generation: 1 });
    let token = Token { incarnation, cache, grant, secret: 0x5ec2e7 };
    assert!(!format!("{token:?}").contains(&0x5ec2e7.to_string()));
    let claim = Message::Claim { request: 1, cache, grant, secret: Hidden(0x5ec2e7) };
    assert!(!format!("{claim:?}").contains(&0x5ec2e7.to_string()));
    let open = Message::LinkOpen { link: 1, kind: 1, key: Hidden([0xab; 32]) };
    assert!(!format!("{open:?}").contains("171"));
    let auth = Auth::Secret(Secret::new([0xab; 32]));
    let descriptor = Descriptor { incarnation: Some(incarnation), addresses: vec![], auth };
    let debug = format!("{descriptor:?}");
    assert!(!debug.contains("171") && !debug.contains("ab, ab") && debug.contains("Secret(..)"), "{debug}");
    assert_eq!(
        descriptor.to_string().parse::<Descriptor>().unwrap(),
        descriptor,
        "but Display is the whole of it"
    );
}
