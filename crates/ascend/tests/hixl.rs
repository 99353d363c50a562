//! HIXL's two interfaces, at the level of movers, on the software CANN.

mod hixl_ends;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use hixl_ends::*;
use ropeway_ascend::hixl::HixlConfig;
use ropeway_ascend::hixl::endpoints::Protocol;
use ropeway_ascend::hixl::offer::{Api, Mode};
use ropeway_ascend::hixl::way::Way;
use ropeway_ascend::link::{Connected, Failure, Polled, PostError, Teardown};
use ropeway_core::{ErrorKind, Op};
use ropeway_testkit::simulator::Simulator;

/// A loopback address that no other process of these tests has, for fixed ports.
fn own_address() -> std::net::IpAddr {
    let pid = std::process::id().to_be_bytes();
    [127, 64 | pid[1], pid[2], pid[3]].into()
}

/// The first of `count` ports that nothing has, below those that the system gives out by itself. A choice may be taken from
/// us before we use it: who can, chooses again.
fn free_ports(count: u16) -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 1_000) as u16 * 10;
    for _ in 0..1_000 {
        let first = 20_000 + (own + TRIED.fetch_add(count, Ordering::Relaxed)) % 10_000;
        if (first..first + count).all(|port| TcpListener::bind((own_address(), port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free on {}", own_address());
}

const BOTH: [Api; 2] = [Api::Class, Api::C];

#[test]
fn bytes_move_both_ways_and_only_where_they_should() {
    let Some(simulator) = simulator("hixl: bytes move both ways") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let (mut from, mut to) = link(&one, &two);
        for (op, seed) in [(Op::Read, 3), (Op::Write, 5)] {
            let (ours, theirs) = (pattern(REGION, seed), pattern(REGION, seed + 1));
            one.memory.write(0, &ours).unwrap();
            two.memory.write(0, &theirs).unwrap();
            let descs = [from.desc(4096, 8192, 100), from.desc(1 << 20, 3, 70_000)];
            from.run(op, &descs).unwrap();
            let (mut want_ours, mut want_theirs) = (ours.clone(), theirs.clone());
            for (local, remote, len) in [(4096, 8192, 100), (1 << 20, 3, 70_000)] {
                match op {
                    Op::Read => want_ours[local..local + len].copy_from_slice(&theirs[remote..remote + len]),
                    Op::Write => want_theirs[remote..remote + len].copy_from_slice(&ours[local..local + len]),
                }
            }
            assert!(one.bytes() == want_ours && two.bytes() == want_theirs, "{api:?} {op}");
        }
        // The other direction is the other side's own.
        to.connect();
        to.run(Op::Read, &[to.desc(0, 0, 4096)]).unwrap();
        assert_eq!(one.bytes()[..4096], two.bytes()[..4096]);
        assert_eq!(from.mover().disconnect(SHORT), Teardown::Proven);
        assert_eq!(to.mover().disconnect(SHORT), Teardown::Proven);
        assert_eq!(to.mover().disconnect(SHORT), Teardown::Proven, "a second one does nothing");
    }
}

#[test]
fn pods_of_one_node_use_hccs_although_their_addresses_differ() {
    let Some(simulator) = simulator("hixl: pods of one node") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        // No hccn.conf in either pod: HCCS is all that is left, so the bytes go by it or not at all.
        let pod = |device, address: [u8; 4]| {
            End::open(simulator, device, api, move |config| {
                config.address = Some(address.into());
                config.hccn_conf = Some("/nowhere/hccn.conf".into());
            })
        };
        let (one, two) = (pod(0, [127, 0, 0, 2]), pod(1, [127, 0, 0, 3]));
        assert_eq!(one.facts().way_to(two.facts()).unwrap(), Way::Hccs);
        let (mut from, _to) = link(&one, &two);
        two.memory.write(0, &pattern(4096, 9)).unwrap();
        from.run(Op::Read, &[from.desc(0, 0, 4096)]).unwrap();
        assert_eq!(one.bytes()[..4096], pattern(4096, 9));
        from.mover().disconnect(SHORT);
    }
}

/// An engine where the first `taken` ports of its range have a listener already, and the last one is free.
fn open_beside(simulator: &Simulator, api: Api, taken: u16, then: impl Fn(u16, End)) {
    let mut why = String::new();
    for _ in 0..20 {
        let first = free_ports(taken + 1);
        let held: Vec<_> =
            (first..first + taken).map_while(|port| TcpListener::bind((own_address(), port)).ok()).collect();
        if held.len() < taken.into() {
            continue;
        }
        match End::try_open(simulator, 0, api, among(first, taken)) {
            Ok(end) => return then(first, end),
            // Somebody may have come for the last one.
            Err(error) => why = error.to_string(),
        }
    }
    panic!("{api:?}: no choice of {taken} ports and a free one led to an engine: {why}");
}

fn among(first: u16, taken: u16) -> impl FnOnce(&mut HixlConfig) {
    move |config| {
        config.ports = first..=first + taken;
        config.address = Some(own_address());
        // The NPU's own ports are shared with the other tests.
        config.device_port = Some(first);
    }
}

#[test]
fn a_port_in_use_is_passed_over_and_the_next_one_is_published() {
    let Some(simulator) = simulator("hixl: port in use") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        open_beside(simulator, api, 1, |first, end| {
            assert_eq!(end.facts().engine.port(), first + 1, "{api:?}");
            let error = End::try_open(simulator, 0, api, among(first, 1)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Resource);
            assert!(error.message().contains(&format!("{first}, {}", first + 1)), "{error}");
        });
    }
}

#[test]
fn more_ports_in_use_than_the_library_is_started_on_are_no_obstacle() {
    let Some(simulator) = simulator("hixl: many ports in use") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        open_beside(simulator, api, 40, |first, end| {
            assert_eq!(end.facts().engine.port(), first + 40, "{api:?}");
            let error = End::try_open(simulator, 0, api, among(first, 40)).err().unwrap();
            assert!(error.message().contains("in use") && error.message().contains("and 25 more"), "{error}");
        });
    }
}

#[test]
fn a_missing_hccn_conf_is_named_where_the_network_is_needed() {
    let Some(simulator) = simulator("hixl: no hccn.conf") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let missing = |config: &mut HixlConfig| {
            config.hccn_conf = Some("/nowhere/hccn.conf".into());
            config.only = Some(Protocol::Roce);
        };
        let error = End::try_open(simulator, 0, api, missing).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("/nowhere/hccn.conf"), "{error}");
    }
}

#[test]
fn an_npu_is_not_linked_with_itself_nor_one_interface_with_the_other() {
    let Some(simulator) = simulator("hixl: same NPU") else { return };
    let _shared = simulator.shared();
    let one = End::open(simulator, 2, Api::Class, |_| {});
    let same = End::open(simulator, 2, Api::Class, |_| {});
    let error = one.native.open(&same.native.offer(), ropeway_transport::Role::Active).err().unwrap();
    assert!(error.message().contains("ipc"), "{error}");
    let other = End::open(simulator, 3, Api::C, |_| {});
    let error = one.native.open(&other.native.offer(), ropeway_transport::Role::Active).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}

#[test]
fn a_region_that_came_late_is_usable_after_connecting_anew() {
    let Some(simulator) = simulator("hixl: late region") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let (mut from, mut to) = link(&one, &two);
        let late = two.npu.alloc(REGION as u64).unwrap();
        let description = to.mover().register(id(9), &late).unwrap();
        let base = from.mover().import(id(9), REGION as u64, &description).unwrap().base;
        late.write(0, &pattern(4096, 1)).unwrap();
        let desc = ropeway_ascend::link::Desc { remote: base, ..from.desc(0, 0, 4096) };
        // Refused as a whole: nothing of it was begun, and the library itself goes on.
        assert!(matches!(from.mover().post(Op::Read, &[desc]), Err(PostError::Cut { code: 103_900 })));
        from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap();
        assert_eq!(from.mover().disconnect(SHORT), Teardown::Proven);
        from.connect();
        from.run(Op::Read, &[desc]).unwrap();
        assert_eq!(one.bytes()[..4096], pattern(4096, 1));
        // The same without a disconnect between: a link that is there already is not the one that is asked for.
        let later = two.npu.alloc(REGION as u64).unwrap();
        let description = to.mover().register(id(10), &later).unwrap();
        let base = from.mover().import(id(10), REGION as u64, &description).unwrap().base;
        from.connect();
        from.run(Op::Read, &[ropeway_ascend::link::Desc { remote: base, ..desc }]).unwrap();
        from.mover().disconnect(SHORT);
    }
}

#[test]
fn an_address_outside_all_regions_is_refused_and_never_relayed() {
    let Some(simulator) = simulator("hixl: unregistered") else { return };
    let _shared = simulator.shared();
    for (api, mode) in
        [(Api::Class, Mode::ClientServer), (Api::Class, Mode::Communicator), (Api::C, Mode::ClientServer)]
    {
        let open = |device| End::open(simulator, device, api, |config| config.mode = Some(mode));
        let (one, two) = (open(0), open(1));
        assert_eq!(one.facts().mode, mode);
        let (mut from, _to) = link(&one, &two);
        let stranger = one.npu.alloc(1 << 20).unwrap();
        let address = stranger.device().unwrap().address();
        let outside = ropeway_ascend::link::Desc { local: address, ..from.desc(0, 0, 64) };
        let inside = from.desc(0, 0, 64);
        let refused = from.mover().post(Op::Read, &[inside, outside]);
        assert!(matches!(refused, Err(PostError::Cut { code: 103_900 })), "{refused:?}");
        from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap();
        from.mover().disconnect(SHORT);
    }
}

#[test]
fn a_client_server_engine_takes_4096_registrations_and_then_says_so() {
    let Some(simulator) = simulator("hixl: limit of registrations") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        assert_eq!(one.native.limits().regions, Some(4_096));
        let (mut from, _to) = prepare(&one, &two);
        let pieces = pieces(&one.npu, 4_096);
        for (slot, piece) in pieces[1..].iter().enumerate() {
            // The region of this end is the first.
            from.mover().register(id(100 + slot as u32), piece).unwrap();
        }
        let error = from.mover().register(id(99), &pieces[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{api:?}");
        assert!(error.message().contains("4096 regions"), "{error}");
        from.mover().deregister(id(100)).unwrap();
        from.mover().register(id(99), &pieces[0]).unwrap();
        from.mover().deregister(id(99)).unwrap();
        (101..100 + 4_095).for_each(|slot| from.mover().deregister(id(slot)).unwrap());
    }
}

#[test]
fn memory_stays_registered_until_the_link_is_down() {
    let Some(simulator) = simulator("hixl: deregister") else { return };
    let _shared = simulator.shared();
    let (one, two) =
        (End::open(simulator, 0, Api::Class, |_| {}), End::open(simulator, 1, Api::Class, |_| {}));
    let (mut from, _to) = link(&one, &two);
    let held = Arc::strong_count(&one.memory);
    from.mover().deregister(id(0)).unwrap();
    assert_eq!(Arc::strong_count(&one.memory), held, "the library still has it");
    assert_eq!(from.mover().disconnect(SHORT), Teardown::Proven);
    assert!(Arc::strong_count(&one.memory) < held);
}

#[test]
fn a_peer_that_started_anew_at_the_same_port_is_reached_again() {
    let Some(simulator) = simulator("hixl: restart") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let one = End::open(simulator, 0, api, |_| {});
        let port = free_ports(1);
        let at = move |config: &mut HixlConfig| {
            config.ports = port..=port;
            config.address = Some(own_address());
            config.device_ports.base = 15_500;
        };
        let two = End::open(simulator, 1, api, at);
        let (mut from, mut to) = link(&one, &two);
        from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap();
        to.mover().deregister(id(0)).unwrap();
        drop(to);
        drop(two);
        // Its port is free once the old one has ended, on a thread of its own.
        let two = eventually_some("the port is free", || End::try_open(simulator, 1, api, at).ok());
        two.memory.write(0, &pattern(4096, 77)).unwrap();
        from.mover().disconnect(SHORT);
        let (mut from, _to) = link(&one, &two);
        from.run(Op::Read, &[from.desc(0, 0, 4096)]).unwrap();
        assert_eq!(one.bytes()[..4096], pattern(4096, 77));
        from.mover().disconnect(SHORT);
    }
}

#[test]
fn a_peer_that_swallows_connects_holds_up_nobody_else() {
    let Some(simulator) = simulator("hixl: black hole") else { return };
    let alone = simulator.alone();
    for api in BOTH {
        let open = |device| End::open(simulator, device, api, |_| {});
        let (one, two, hole) = (open(0), open(1), open(2));
        let (mut good, _to) = link(&one, &two);
        let (mut bad, _other) = prepare(&one, &hole);
        alone.faults(&format!("blackhole_connect remote={}", hole.facts().engine));
        let mut pass_meanwhile = |patience| {
            let ended = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let stuck = scope.spawn(|| {
                    let answer = bad.mover().connect(patience);
                    ended.store(true, Ordering::Release);
                    answer
                });
                std::thread::sleep(Duration::from_millis(100));
                for _ in 0..50 {
                    good.run(Op::Read, &[good.desc(0, 0, 65_536)]).unwrap();
                }
                let waiting = !ended.load(Ordering::Acquire);
                let error = stuck.join().unwrap().unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::LinkLost), "{error}");
                waiting
            })
        };
        // A machine that is busy elsewhere gets more time for the reads.
        let passed = [2, 8, 32].into_iter().any(|seconds| pass_meanwhile(Duration::from_secs(seconds)));
        assert!(passed, "fifty reads passed while the connect was still waiting");
        alone.faults("");
        // Given up once, it is not taken for connected later.
        assert_eq!(bad.mover().connect(SHORT).unwrap(), Connected::New);
        bad.run(Op::Read, &[bad.desc(0, 0, 64)]).unwrap();
        assert_eq!(bad.mover().disconnect(SHORT), Teardown::Proven);
        good.mover().disconnect(SHORT);
    }
}

#[test]
fn streams_that_are_used_up_are_back_pressure() {
    let Some(simulator) = simulator("hixl: out of streams") else { return };
    let alone = simulator.alone();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let (mut from, _to) = link(&one, &two);
        alone.faults("out_of_streams count=2");
        let desc = from.desc(0, 0, 64);
        for _ in 0..2 {
            let busy = from.mover().post(Op::Read, &[desc]);
            assert!(matches!(busy, Err(PostError::Busy(busy)) if busy.code == 203_900), "{busy:?}");
        }
        from.run(Op::Read, &[desc]).unwrap();
        from.mover().disconnect(SHORT);
        alone.faults("");
    }
}

#[test]
fn a_lost_link_latches_and_a_new_one_works() {
    let Some(simulator) = simulator("hixl: lost link") else { return };
    let alone = simulator.alone();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let (mut from, _to) = link(&one, &two);
        alone.faults("lost_link count=1");
        let lost = from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap_err();
        assert!(matches!(lost, Failure::Latched { .. }), "{lost:?}");
        assert!(from.mover().explain(lost.code()).message().contains(&lost.code().to_string()));
        alone.faults("");
        from.mover().disconnect(SHORT);
        from.connect();
        from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap();
        assert_eq!(from.mover().disconnect(SHORT), Teardown::Proven);
    }
}

#[test]
fn sessions_with_one_peer_share_its_link() {
    let Some(simulator) = simulator("hixl: shared link") else { return };
    let _shared = simulator.shared();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let ((mut first, _to), (mut second, mut owner)) = (link(&one, &two), link(&one, &two));
        let desc = first.desc(0, 0, 64);
        first.run(Op::Read, &[desc]).unwrap();
        second.run(Op::Read, &[desc]).unwrap();
        // A region that came late is for one of them; the other one works on.
        let late = two.npu.alloc(REGION as u64).unwrap();
        late.write(0, &pattern(4096, 5)).unwrap();
        let description = owner.mover().register(id(9), &late).unwrap();
        let base = second.mover().import(id(9), REGION as u64, &description).unwrap().base;
        second.connect();
        second
            .run(Op::Read, &[ropeway_ascend::link::Desc { remote: base, ..second.desc(0, 0, 4096) }])
            .unwrap();
        assert_eq!(one.bytes()[..4096], pattern(4096, 5));
        first.run(Op::Read, &[desc]).unwrap();
        assert_eq!(second.mover().disconnect(SHORT), Teardown::Proven);
        first.run(Op::Write, &[desc]).unwrap();
        assert_eq!(first.mover().disconnect(SHORT), Teardown::Proven);
    }
}

#[test]
fn a_mover_that_gives_requests_up_takes_the_class_link_from_the_others() {
    let Some(simulator) = simulator("hixl: link taken") else { return };
    let alone = simulator.alone();
    let open = |device| End::open(simulator, device, Api::Class, |_| {});
    let (one, two) = (open(0), open(1));
    let ((mut first, _to), (mut second, _from)) = (link(&one, &two), link(&one, &two));
    alone.faults("slow ms=300");
    let desc = first.desc(0, 0, 64);
    let (_given_up, lost) =
        (first.mover().post(Op::Read, &[desc]).unwrap(), second.mover().post(Op::Read, &[desc]).unwrap());
    assert_eq!(first.mover().disconnect(SHORT), Teardown::Unproven);
    assert!(matches!(second.mover().poll(lost), Polled::Failed(Failure::Latched { .. })));
    assert_eq!(second.mover().disconnect(SHORT), Teardown::Unproven);
    alone.faults("");
    second.connect();
    second.run(Op::Read, &[desc]).unwrap();
    assert_eq!(second.mover().disconnect(SHORT), Teardown::Proven);
}

#[test]
fn a_link_torn_down_with_requests_in_flight_proves_nothing() {
    let Some(simulator) = simulator("hixl: unproven") else { return };
    let alone = simulator.alone();
    for api in BOTH {
        let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
        let (mut from, _to) = link(&one, &two);
        alone.faults("slow ms=300");
        let desc = from.desc(0, 0, 64);
        let request = from.mover().post(Op::Read, &[desc]).unwrap();
        assert_eq!(from.mover().poll(request), Polled::Waiting);
        assert_eq!(from.mover().disconnect(SHORT), Teardown::Unproven);
        alone.faults("");
    }
}

#[test]
fn a_post_that_failed_leaves_its_link_unproven() {
    let Some(simulator) = simulator("hixl: failed post") else { return };
    let alone = simulator.alone();
    for api in BOTH {
        // A timeout, and a data path that failed: part of the list may have been submitted.
        for code in [103_901, 503_900] {
            let (one, two) = (End::open(simulator, 0, api, |_| {}), End::open(simulator, 1, api, |_| {}));
            let (mut from, _to) = link(&one, &two);
            alone.faults(&format!("refuse op=read code={code} count=1"));
            let desc = from.desc(0, 0, 64);
            let failed = from.mover().post(Op::Read, &[desc]);
            assert_eq!(failed, Err(PostError::Failed(Failure::Latched { code })), "{api:?}");
            alone.faults("");
            assert_eq!(from.mover().disconnect(SHORT), Teardown::Unproven, "{api:?} {code}");
            assert_eq!(from.mover().disconnect(SHORT), Teardown::Unproven, "a second one proves no more");
            // A link that is made anew owes nothing.
            from.connect();
            from.run(Op::Read, &[from.desc(0, 0, 64)]).unwrap();
            assert_eq!(from.mover().disconnect(SHORT), Teardown::Proven);
        }
    }
}

#[test]
fn small_pages_are_refused_over_hccs_with_the_mend() {
    let Some(simulator) = simulator("hixl: small pages") else { return };
    let _shared = simulator.shared();
    let (one, two) =
        (End::open(simulator, 0, Api::Class, |_| {}), End::open(simulator, 1, Api::Class, |_| {}));
    let (mut from, _to) = prepare(&one, &two);
    let small = small_pages(&one.npu);
    let error = from.mover().register(id(5), &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("HUGE_ONLY"), "{error}");
    // Over RoCE they will do.
    let roce = |device| End::open(simulator, device, Api::Class, |config| config.only = Some(Protocol::Roce));
    let (one, two) = (roce(0), roce(1));
    let (mut from, _to) = prepare(&one, &two);
    from.mover().register(id(5), &small).unwrap();
}

#[test]
fn a_description_of_the_peers_that_lies_is_refused() {
    let Some(simulator) = simulator("hixl: descriptions") else { return };
    let _shared = simulator.shared();
    let (one, two) =
        (End::open(simulator, 0, Api::Class, |_| {}), End::open(simulator, 1, Api::Class, |_| {}));
    let (mut from, mut to) = prepare(&one, &two);
    let good = to.mover().register(id(1), &two.memory).unwrap();
    for cut in 0..good.len() {
        assert!(from.mover().import(id(1), REGION as u64, &good[..cut]).is_err());
    }
    assert!(from.mover().import(id(1), REGION as u64 + 1, &good).is_err(), "the session says another length");
    let mut wrong = good.to_vec();
    wrong[0] = 7;
    assert!(from.mover().import(id(1), REGION as u64, &wrong).is_err());
}
