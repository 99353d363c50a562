//! A region that is withdrawn, or whose link ends, while the engine is being asked for it.

use std::sync::Arc;

use ropeway_core::ErrorKind;

use crate::onesided::rig::*;
use crate::{Fenced, Memory, TransportKind};

#[test]
fn a_region_that_is_withdrawn_while_it_is_asked_for_is_not_handed_out() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        let memory = Memory::shared(4096, &janitor()).unwrap();
        far.sink.offer(region(1), &memory);
        let link = Arc::clone(&far.link);
        *far.sink.asked.lock().unwrap() = Some(Box::new(move || {
            assert_eq!(link.withdraw(region(1)), Fenced::Pending, "it is about to be handed out");
        }));
        let refused = near.link.import(region(1), soon()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed, "{kind}: {refused}");
        far.sink.await_told(&Told::Withdrawn(region(1)));
        // Nothing is left behind: what comes later is a new export.
        assert_eq!(far.link.withdraw(region(1)), Fenced::Now, "{kind}");
        far.lend(1, 4096, &near);
    }
}

#[test]
fn a_region_that_the_engine_refuses_leaves_nothing_to_withdraw() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        assert!(near.link.import(region(1), soon()).is_err());
        assert_eq!(far.link.withdraw(region(1)), Fenced::Now, "{kind}");
        assert_eq!(far.sink.told(), [Told::Attached], "{kind}");
    }
}

#[test]
fn a_panic_of_the_engine_when_it_is_asked_leaves_nothing_to_withdraw() {
    for kind in KINDS {
        let (near, far) = pair(kind);
        *far.sink.asked.lock().unwrap() = Some(Box::new(|| panic!("a test's panic")));
        assert!(near.link.import(region(1), soon()).is_err());
        assert_eq!(far.link.withdraw(region(1)), Fenced::Now, "{kind}");
        far.lend(1, 4096, &near);
    }
}

#[test]
fn a_region_whose_link_closes_while_it_is_asked_for_goes_back() {
    let (near, far) = pair(TransportKind::Loopback);
    let memory = Memory::shared(4096, &janitor()).unwrap();
    far.sink.offer(region(1), &memory);
    let (link, sink) = (Arc::clone(&far.link), Arc::clone(&far.sink));
    *far.sink.asked.lock().unwrap() = Some(Box::new(move || {
        link.close();
        sink.await_told(&Told::Closed { peer_gone: false });
    }));
    assert!(near.link.import(region(1), soon()).is_err());
    far.sink.await_told(&Told::Withdrawn(region(1)));
}
