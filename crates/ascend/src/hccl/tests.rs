use proptest::prelude::*;
use ropeway_core::{GrantId, Op, RegionId, StatusKind};
use ropeway_transport::Fenced;

use super::mailbox::{HEARD_MAX, mailbox};
use super::offer::Offer;
use super::pins::{Over, Pins};
use super::plans::Plans;
use super::turn::Turn;
use super::wire::{Message, PLAN_BYTES_MAX, PLAN_PIECE, ROUND_ITEMS};
use super::worker::Command;

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

#[test]
fn a_peer_that_floods_a_thread_that_does_not_listen_breaks_the_link_and_takes_bounded_memory() {
    let (teller, told) = mailbox();
    let message = Message::Accept { batch: 1 }.encode();
    (0..HEARD_MAX * 3).for_each(|_| teller.hear(&message));
    for _ in 0..HEARD_MAX {
        assert!(matches!(told.try_recv(), Ok(Command::Heard(_))));
    }
    assert!(matches!(told.try_recv(), Ok(Command::Violated(why)) if why.contains("wait")));
    assert!(told.try_recv().is_err());
    teller.hear(&message);
    assert!(told.try_recv().is_err(), "something was left out: nothing after it counts");
}

#[test]
fn a_peer_whose_messages_are_taken_may_say_any_number_of_them() {
    let (teller, told) = mailbox();
    let message = Message::Forget { batch: 1 }.encode();
    for _ in 0..HEARD_MAX * 3 {
        teller.hear(&message);
        teller.hear(&message);
        assert!(matches!(told.recv(), Ok(Command::Heard(_))));
        assert!(matches!(told.recv_timeout(std::time::Duration::ZERO), Ok(Command::Heard(_))));
    }
}

#[test]
fn a_malformed_message_breaks_the_link_once() {
    let (teller, told) = mailbox();
    teller.hear(&[99]);
    teller.hear(&[99]);
    assert!(matches!(told.try_recv(), Ok(Command::Violated(why)) if why.contains("malformed")));
    assert!(told.try_recv().is_err());
}

#[test]
fn the_largest_plan_and_its_request_fit_into_the_mailbox() {
    let (teller, told) = mailbox();
    for _ in 0..PLAN_BYTES_MAX.div_ceil(PLAN_PIECE) {
        let piece = vec![0; PLAN_PIECE].into();
        teller.hear(&Message::Plan { batch: 1, total: PLAN_BYTES_MAX as u32, piece }.encode());
    }
    let ask = Message::Ask { batch: 1, op: Op::Read, grant: grant(1), start: 0, lens: vec![1; ROUND_ITEMS] };
    teller.hear(&ask.encode());
    while let Ok(command) = told.try_recv() {
        assert!(matches!(command, Command::Heard(_)));
    }
}

#[test]
fn a_plan_is_whole_after_its_last_piece_and_no_sooner() {
    let mut plans = Plans::default();
    let total = PLAN_PIECE as u32 + 3;
    plans.add(1, total, &vec![7; PLAN_PIECE]).unwrap();
    assert!(plans.whole(1).is_none());
    plans.add(1, total, &[8; 3]).unwrap();
    assert_eq!(plans.whole(1).unwrap().len(), total as usize);
    assert!(plans.add(1, total, &[8]).is_err());
}

#[test]
fn plans_in_small_pieces_of_another_size_or_too_many_are_refused() {
    let mut plans = Plans::default();
    assert!(plans.add(1, 100, &[0]).is_err());
    assert!(plans.add(1, 2, &[0; 3]).is_err());
    let (whole, total) = (vec![0; PLAN_PIECE], 2 * PLAN_PIECE as u32);
    plans.add(1, total, &whole).unwrap();
    assert!(plans.add(1, total + 1, &whole).is_err());
    let mut plans = Plans::default();
    plans.add(1, total, &whole).unwrap();
    plans.add(2, 1, &[0]).unwrap();
    assert!(plans.add(3, 1, &[0]).is_err());
    plans.forget(2);
    plans.add(3, 1, &[0]).unwrap();
}
