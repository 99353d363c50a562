use proptest::prelude::*;

use super::*;

fn ids() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let run =
        (any::<u32>(), 0..40_u32).prop_map(|(first, count)| (first..first.saturating_add(count)).collect());
    let any = prop::collection::vec(any::<u32>(), 0..20);
    prop::collection::vec(prop_oneof![run, any], 0..4)
}

fn owner() -> impl Strategy<Value = Owner> {
    let auth = prop_oneof![
        any::<[u8; 32]>().prop_map(|bits| Auth::Secret(Secret::new(bits))),
        Just(Auth::ClusterKey),
        Just(Auth::Insecure),
    ];
    let address = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (prop::collection::vec(address, 0..ADDRESSES_MAX), 1..=u64::MAX, auth).prop_map(
        |(addresses, life, auth)| Owner {
            addresses,
            incarnation: Incarnation::new(life).expect("from 1"),
            auth,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let lease = (any::<u64>(), any::<u128>()).prop_map(|(key, secret)| LeaseName { key, secret });
    prop_oneof![
        (any::<u64>(), ".{0,20}", lease.clone(), ids())
            .prop_map(|(ticket, request, lease, blocks)| Message::Lend { ticket, request, lease, blocks }),
        (any::<u64>(), ".{0,20}", owner(), lease.clone())
            .prop_map(|(ticket, request, owner, lease)| Message::Track { ticket, request, owner, lease }),
        (any::<u64>(), ".{0,20}", ids(), ids(), any::<u64>(), any::<u64>()).prop_map(
            |(ticket, request, local, remote, from, to)| Message::Pull {
                ticket,
                request,
                local,
                remote,
                tokens: from..to
            }
        ),
        any::<u64>().prop_map(|ticket| Message::Drop { ticket }),
        any::<u64>().prop_map(|ticket| Message::Refuse { ticket }),
        (any::<u64>(), ".{0,20}", lease.clone(), ids(), any::<u64>(), any::<u64>()).prop_map(
            |(ticket, request, lease, local, from, to)| Message::Expect {
                ticket,
                request,
                lease,
                local,
                tokens: from..to
            }
        ),
        (any::<u64>(), owner(), lease, ids(), any::<u64>()).prop_map(
            |(ticket, owner, lease, remote, from)| Message::Aim { ticket, owner, lease, remote, from }
        ),
        (any::<u64>(), ids(), any::<u64>()).prop_map(|(ticket, more, end)| Message::Step {
            ticket,
            more,
            end
        }),
        (any::<u64>(), ".{0,20}", any::<bool>(), any::<bool>())
            .prop_map(|(ticket, request, complete, keeps)| Message::End { ticket, request, complete, keeps }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(messages in prop::collection::vec(message(), 0..6)) {
        prop_assert_eq!(decode(&encode(&messages)), Ok(messages));
    }

    #[test]
    fn bytes_cut_short_or_added_to_are_an_error(messages in prop::collection::vec(message(), 1..4), at in any::<prop::sample::Index>()) {
        let mut bytes = encode(&messages);
        let cut = 1 + at.index(bytes.len() - 1);
        prop_assert!(decode(&bytes[..cut]).is_err());
        bytes.push(0);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        if magic {
            bytes.splice(..0, MAGIC.iter().copied());
        }
        if let Ok(messages) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&messages)), Ok(messages));
        }
    }

    #[test]
    fn one_changed_byte_never_panics(messages in prop::collection::vec(message(), 1..4), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(&messages);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode(&bytes);
    }
}

#[test]
fn a_length_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
    let mut bytes = MAGIC.to_vec();
    number(&mut bytes, MESSAGES_MAX as u64);
    assert_eq!(decode(&bytes), Err(MetaError { what: "too many messages", at: bytes.len() }));
    let mut bytes = MAGIC.to_vec();
    number(&mut bytes, 1);
    head(&mut bytes, LEND, 1);
    number(&mut bytes, REQUEST_BYTES_MAX as u64 + 1);
    bytes.extend(vec![b'x'; REQUEST_BYTES_MAX + 1]);
    assert_eq!(decode(&bytes).unwrap_err().what, "a request id that is too long");
}

#[test]
fn more_blocks_than_a_lease_may_hold_are_refused_also_over_several_groups() {
    let half = vec![0; BLOCKS_MAX / 2];
    let lend = |blocks| {
        encode(&[Message::Lend {
            ticket: 1,
            request: "r".to_owned(),
            lease: LeaseName { key: 1, secret: 2 },
            blocks,
        }])
    };
    assert!(decode(&lend(vec![half.clone(), half.clone()])).is_ok());
    let error = decode(&lend(vec![half.clone(), half, vec![1]])).unwrap_err();
    assert_eq!(error.what, "too many blocks");
}

#[test]
fn a_long_prompt_in_neighbouring_blocks_takes_a_byte_a_block() {
    let blocks = vec![(500..1500).collect()];
    let lease = LeaseName { key: 1, secret: 2 };
    let bytes = encode(&[Message::Lend { ticket: 1, request: "r".to_owned(), lease, blocks }]);
    assert!(bytes.len() < 1_050, "{} bytes", bytes.len());
}

#[test]
fn a_step_without_messages_is_no_bytes() {
    assert_eq!(encode(&[]), [0_u8; 0]);
    assert_eq!(decode(&[]), Ok(vec![]));
}
