//! Bytes get to their places, and links end.

use ropeway_core::{ErrorKind, Op, Rights, StatusKind};

use crate::TransportKind;
use crate::onesided::rig::*;

/// What [`List::reversed`] makes of `from`.
fn reversed(from: &[u8], len: usize) -> Vec<u8> {
    from.chunks_exact(len).rev().collect::<Vec<_>>().concat()
}

#[test]
fn a_read_brings_every_byte_to_its_place_whatever_the_size() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        let grant = far.open(1, Rights::Read);
        for (slot, total, len) in
            [(1, 4096, 4096), (2, 65536, 512), (3, 8 << 20, 4096), (4, 64 << 20, 1 << 20)]
        {
            let theirs = far.lend(slot, total, &near);
            stamp(&theirs, slot.into());
            let ours = private(total);
            let status =
                Order::new(Op::Read, grant, List::reversed(total, len), &ours, region(slot)).run(&*near.link);
            assert_eq!(status.kind, StatusKind::Completed, "{kind} {total}");
            assert_eq!(u64::from(status.run), total / u64::from(len));
            assert!(bytes_of(&ours) == reversed(&bytes_of(&theirs), len as usize), "{kind} {total} by {len}");
        }
    }
}

#[test]
fn a_write_brings_every_byte_to_its_place_in_both_directions() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        for (from, to) in [(&near, &far), (&far, &near)] {
            let theirs = to.lend(1, 16 << 20, from);
            let ours = private(16 << 20);
            stamp(&ours, 99);
            let grant = to.open(1, Rights::Write);
            let status = Order::new(Op::Write, grant, List::reversed(16 << 20, 16384), &ours, region(1))
                .run(&*from.link);
            assert_eq!(status.kind, StatusKind::Completed, "{kind}");
            assert!(bytes_of(&theirs) == reversed(&bytes_of(&ours), 16384), "{kind}");
        }
    }
}

#[test]
fn a_batch_that_nobody_waits_for_ends() {
    for copy_threads in [0, 1, 2] {
        let (near, far) = pair_of(TransportKind::Loopback, engine(copy_threads), engine(0));
        let grant = far.open(1, Rights::Read);
        far.lend(1, 32 << 20, &near);
        let ours = private(32 << 20);
        let order = || Order::new(Op::Read, grant, List::reversed(32 << 20, 65536), &ours, region(1));
        for _ in 0..3 {
            let (state, _) = order().post(&*near.link);
            assert_eq!(state.park(Some(soon())).expect("watchdog").kind, StatusKind::Completed);
            // One that is waited for leads the crew to expect the next one to be waited for, too.
            assert_eq!(order().run(&*near.link).kind, StatusKind::Completed);
        }
    }
}

#[test]
fn a_closed_link_is_proven_over_on_both_sides_and_takes_no_batch() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        far.lend(1, 4096, &near);
        near.link.close();
        near.sink.await_told(&Told::Closed { peer_gone: false });
        far.sink.await_told(&Told::Lost(ErrorKind::LinkLost));
        far.sink.await_told(&Told::Closed { peer_gone: false });
        assert_eq!(near.link.import(region(1), soon()).unwrap_err().kind(), ErrorKind::Closed, "{kind}");
        assert!(!near.sink.has(&Told::Lost(ErrorKind::LinkLost)), "{kind}: who closes has lost nothing");
    }
}
