use proptest::prelude::*;
use ropeway_core::{GrantId, Op, RegionId, StatusKind};
use ropeway_transport::Fenced;

use super::offer::Offer;
use super::pins::{Over, Pins};
use super::turn::Turn;
use super::wire::{Message, ROUND_ITEMS};

fn grant(slot: u32) -> GrantId {
    GrantId { slot, generation: 1 }
}

fn region(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<u8>().prop_map(|byte| Message::Root(Box::new([byte; super::wire::ROOT_BYTES]))),
        Just(Message::Ready),
        Just(Message::Up),
        ".{0,300}".prop_map(Message::Refused),
        (any::<u64>(), prop::collection::vec(any::<u8>(), 1..300)).prop_map(|(batch, piece)| Message::Plan {
            batch,
            total: piece.len() as u32 + 5,
            piece: piece.into(),
        }),
        (any::<u64>(), any::<bool>(), 0..u64::MAX / 2, prop::collection::vec(1u32.., 1..ROUND_ITEMS))
            .prop_map(|(batch, write, start, lens)| Message::Ask {
                batch,
                op: if write { Op::Write } else { Op::Read },
                grant: grant(3),
                start,
                lens,
            }),
        any::<u64>().prop_map(|batch| Message::Declined { batch, why: StatusKind::StaleLease }),
        any::<u64>().prop_map(|batch| Message::Accept { batch }),
        (any::<u64>(), any::<bool>()).prop_map(|(batch, mine)| Message::Post { batch, mine }),
        any::<u64>().prop_map(|batch| Message::Ended { batch }),
        any::<u64>().prop_map(|batch| Message::Forget { batch }),
        ".{0,300}".prop_map(Message::Broken),
        Just(Message::Closing),
    ]
}

proptest! {
    #[test]
    fn a_message_is_read_back_as_it_was_written(message in any_message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= ropeway_transport::link::MAX_LINK_MESSAGE_BYTES);
        prop_assert_eq!(Message::decode(&bytes).unwrap(), message);
    }

    #[test]
    fn damaged_messages_are_refused_or_read_without_a_panic(
        message in any_message(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = message.encode().to_vec();
        let len = bytes.len();
        bytes[at.index(len)] = byte;
        let _ = Message::decode(&bytes);
        let _ = Message::decode(&bytes[..cut.index(len)]);
    }
}

#[test]
fn lengths_that_wrap_and_copies_of_no_bytes_are_refused() {
    let ask = |start, lens: &[u32]| {
        let message = Message::Ask { batch: 1, op: Op::Read, grant: grant(1), start, lens: lens.to_vec() };
        Message::decode(&message.encode()).is_ok()
    };
    assert!(ask(0, &[1]) && ask(7, &[1; ROUND_ITEMS]));
    assert!(!ask(0, &[]) && !ask(0, &[1, 0]) && !ask(u64::MAX, &[1]) && !ask(0, &[1; ROUND_ITEMS + 1]));
}

#[test]
fn a_fence_waits_for_what_is_served_under_its_lease_and_for_nothing_else() {
    let pins = Pins::default();
    assert_eq!(pins.fence(grant(1)), Fenced::Now);
    let (one, two) = (pins.enter(grant(1)), pins.enter(grant(2)));
    assert_eq!(pins.fence(grant(3)), Fenced::Now);
    assert_eq!(pins.fence(grant(1)), Fenced::Pending);
    // A request that comes later is refused by the lease, and does not hold the fence up.
    let late = pins.enter(grant(1));
    assert_eq!(pins.leave(two), Over::default());
    assert_eq!(pins.leave(one).fenced, [grant(1)]);
    assert_eq!(pins.leave(late), Over::default());
}

#[test]
fn a_withdrawal_waits_for_all_that_is_served() {
    let pins = Pins::default();
    assert_eq!(pins.withdraw(region(1)), Fenced::Now);
    let (one, two) = (pins.enter(grant(1)), pins.enter(grant(2)));
    assert_eq!(pins.withdraw(region(1)), Fenced::Pending);
    let late = pins.enter(grant(1));
    assert_eq!(pins.leave(two), Over::default());
    assert_eq!(pins.leave(one).withdrawn, [region(1)]);
    assert_eq!(pins.leave(late), Over::default());
}

#[test]
fn an_npu_has_one_turn_at_a_time() {
    let soon = || std::time::Instant::now() + std::time::Duration::from_millis(20);
    let first = Turn::take(901, soon()).unwrap();
    assert!(Turn::take(901, soon()).is_none());
    let _other = Turn::take(902, soon()).unwrap();
    drop(first);
    assert!(Turn::take(901, soon()).is_some());
}

#[test]
fn two_engines_agree_on_their_ranks_and_one_npu_is_refused() {
    let offer =
        |node: &str, physical, nonce| Offer { node: node.into(), physical, nonce, release: "9.1.0".into() };
    let (one, two) = (offer("a", 1, 9), offer("a", 2, 3));
    assert!(one < two && one.check(&two).is_ok());
    assert_eq!(Offer::decode(&one.encode()).unwrap(), one);
    assert!(one.check(&offer("a", 1, 4)).unwrap_err().message().contains("ipc"));
    assert!(one.check(&offer("b", 1, 4)).is_ok());
    let old = Offer { release: "8.5.0".into(), ..offer("b", 1, 4) };
    assert!(one.check(&old).unwrap_err().message().contains("8.5.0"));
    assert_ne!(one.probe(64), two.probe(64));
}
