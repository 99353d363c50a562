//! Strangers on the host socket: each is refused in bounded time, and true peers go on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_core::ErrorKind;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::message::Message;
use super::socket::{self, Received};
use crate::onesided::LinkCore;
use crate::onesided::rig::*;
use crate::{OneSided, Role, TransportKind};

/// An engine whose host thread runs, with a passive side that waits under key 7.
fn waiting() -> (Arc<OneSided>, Arc<Sink>) {
    let far = engine(0);
    let sink = Arc::new(Sink::default());
    transport(TransportKind::Shm, &far)
        .link(config(Role::Passive, [0; 16].to_vec().into(), 7, &sink))
        .unwrap();
    (far, sink)
}

fn join(far: &Arc<OneSided>, sink: &Sink) {
    let near = engine(0);
    let (ours, theirs) = (transport(TransportKind::Shm, &near), transport(TransportKind::Shm, far));
    let near_sink = Arc::new(Sink::default());
    ours.link(config(Role::Active, theirs.offer(), 7, &near_sink)).unwrap();
    sink.await_told(&Told::Attached);
}

/// The next message that is there, or the end.
fn answer(socket: &OwnedFd) -> Option<Message> {
    let until = soon();
    loop {
        match socket::receive(socket.as_fd()) {
            Received::Message { bytes, .. } => return Some(Message::decode(&bytes).expect("a message")),
            Received::Nothing => {
                assert!(Instant::now() < until, "watchdog: neither an answer nor an end");
                std::thread::sleep(Duration::from_millis(1));
            }
            Received::End => return None,
            Received::Oversized => panic!("oversized"),
            Received::Failed(errno) => panic!("{errno}"),
        }
    }
}

fn refusal(socket: &OwnedFd) -> String {
    let Some(Message::Refused { reason }) = answer(socket) else { panic!("not refused") };
    assert_eq!(answer(socket), None, "hung up after the refusal");
    reason
}

fn hello() -> Message {
    Message::Hello { kind: 1, tag: [9; 16], nonce: [9; 32] }
}

#[test]
fn garbage_is_refused_and_hung_up_on_and_the_true_peer_still_comes() {
    let (far, sink) = waiting();
    let long = vec![1; 4097];
    let early = Message::Proof {
        facts: super::message::Facts { gates: 1, grants: 1, gate_slot: 0, gate_generation: 1, guard: 0 },
        probe: super::message::Probe { fence: 0, cells: 0, guard: 0 },
        mac: [0; 32],
    };
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "garbage"),
        (&[0], "garbage"),
        (&hello().encode()[1..], "garbage"),
        (&long, "oversized"),
        (&early.encode(), "out of turn"),
        (&Message::Goodbye.encode(), "out of turn"),
    ];
    for (bytes, why) in cases {
        let stranger = socket::connect(&far.nonce).unwrap();
        assert_eq!(rustix::io::write(&stranger, bytes).unwrap(), bytes.len());
        let reason = refusal(&stranger);
        assert!(reason.contains(why), "{reason}");
    }
    join(&far, &sink);
}

#[test]
fn a_stranger_with_the_right_tag_but_not_the_key_is_refused_and_the_true_peer_still_comes() {
    let (far, sink) = waiting();
    // Overheard: what the true peer would say first.
    let near = engine(0);
    let cells = crate::fence::Cells::shared(1).unwrap();
    let link = LinkCore::new(
        &near,
        TransportKind::Shm,
        cells,
        &config(Role::Active, [0; 16].to_vec().into(), 7, &sink),
    );
    let meeting = super::Meeting::new(link.unwrap(), crate::LinkKey([7; 32]), soon());
    let stranger = socket::connect(&far.nonce).unwrap();
    socket::send(stranger.as_fd(), &meeting.hello([3; 32]).encode(), &[]).unwrap();
    let Some(Message::Challenge { facts, .. }) = answer(&stranger) else { panic!("no challenge") };
    let probe = super::message::Probe { fence: 1, cells: 2, guard: 0 };
    let proof = Message::Proof { facts, probe, mac: [0; 32] };
    socket::send(stranger.as_fd(), &proof.encode(), &[]).unwrap();
    let reason = refusal(&stranger);
    assert!(reason.contains("key"), "{reason}");
    assert!(!sink.has(&Told::Attached));
    join(&far, &sink);
}

#[test]
fn silent_strangers_take_the_places_of_handshakes_only_and_more_are_told_so() {
    let (far, _sink) = waiting();
    let limit = ropeway_core::Limits::default().handshakes() as usize;
    let silent: Vec<_> = (0..limit).map(|_| socket::connect(&far.nonce).unwrap()).collect();
    let next = socket::connect(&far.nonce).unwrap();
    let reason = refusal(&next);
    assert!(reason.contains("handshakes"), "{reason}");
    drop(silent);
}

#[test]
fn a_stranger_that_says_no_more_is_hung_up_on() {
    let (far, _sink) = waiting();
    let stranger = socket::connect(&far.nonce).unwrap();
    socket::send(stranger.as_fd(), &hello().encode(), &[]).unwrap();
    let Some(Message::Refused { .. }) = answer(&stranger) else { panic!("not refused") };
}

#[test]
fn a_peer_that_is_not_here_or_never_answers_is_given_up_with_the_reason() {
    let near = engine(0);
    for kind in [TransportKind::Shm, TransportKind::Cma] {
        let ours = transport(kind, &near);
        let sink = Arc::new(Sink::default());
        let error =
            ours.link(config(Role::Active, vec![1; 16].into(), 7, &sink)).err().expect("nobody there");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("network namespace"), "{error}");

        let mut nonce = [0; 16];
        crate::onesided::random(&mut nonce).unwrap();
        let hole = socket::listen(&nonce).unwrap();
        let mut config = config(Role::Active, nonce.to_vec().into(), 7, &sink);
        config.deadline = Instant::now() + Duration::from_millis(50);
        let error = ours.link(config).err().expect("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(hole);
        assert!(sink.told().is_empty(), "a link that was not made tells nothing");
    }
}

#[test]
fn an_offer_that_is_none_is_refused() {
    let near = engine(0);
    for kind in KINDS {
        let sink = Arc::new(Sink::default());
        let error = transport(kind, &near)
            .link(config(Role::Active, b"?".to_vec().into(), 7, &sink))
            .err()
            .expect("refused");
        assert_eq!(error.kind(), ErrorKind::Protocol, "{kind}");
    }
}

#[test]
fn a_passive_side_whose_peer_never_comes_is_closed_at_its_deadline_and_not_lost() {
    let far = engine(0);
    for kind in KINDS {
        let sink = Arc::new(Sink::default());
        let mut config = config(Role::Passive, [0; 16].to_vec().into(), 7, &sink);
        config.deadline = Instant::now() + Duration::from_millis(30);
        let _link = transport(kind, &far).link(config).unwrap();
        sink.await_told(&Told::Closed { peer_gone: false });
        assert_eq!(sink.told(), [Told::Closed { peer_gone: false }], "{kind}");
    }
}

fn readable(socket: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// A peer that holds the key, and came as far as to have our challenge and to have read our memory.
fn challenged(far: &Arc<OneSided>) -> (OwnedFd, Message) {
    let near = engine(0);
    let cells = crate::fence::Cells::shared(1).unwrap();
    let sink = Arc::new(Sink::default());
    let config = config(Role::Active, [0; 16].to_vec().into(), 7, &sink);
    let link = LinkCore::new(&near, TransportKind::Shm, cells, &config).unwrap();
    let meeting = super::Meeting::new(link, config.key, soon());
    let socket = socket::connect(&far.nonce).unwrap();
    let process = Arc::new(super::Process::of(socket.as_fd()).unwrap());
    socket::send(socket.as_fd(), &meeting.hello([3; 32]).encode(), &[]).unwrap();
    eventually("a challenge", || readable(&socket));
    let Received::Message { bytes, fds } = socket::receive(socket.as_fd()) else { panic!("no challenge") };
    let Some(Message::Challenge { nonce, facts, .. }) = Message::decode(&bytes) else {
        panic!("no challenge")
    };
    let nonces = super::greeting::Nonces { active: [3; 32], passive: nonce };
    let met = meeting.meet(&process, &facts, fds).unwrap();
    (socket, meeting.proof(&near.host, &nonces, met.probe))
}

#[test]
fn a_side_whose_peer_finds_no_way_to_it_is_closed_and_not_lost() {
    let (far, sink) = waiting();
    let (socket, _) = challenged(&far);
    let refused = Message::Refused { reason: "ptrace is not permitted here".into() };
    socket::send(socket.as_fd(), &refused.encode(), &[]).unwrap();
    sink.await_told(&Told::Closed { peer_gone: false });
    assert_eq!(sink.told(), [Told::Closed { peer_gone: false }]);
}

#[test]
fn a_side_that_finds_no_way_to_its_peer_is_closed_and_not_lost() {
    let (far, sink) = waiting();
    let (socket, proof) = challenged(&far);
    // A true proof, without the descriptors that our own probe needs.
    socket::send(socket.as_fd(), &proof.encode(), &[]).unwrap();
    let Some(Message::Refused { reason }) = answer(&socket) else { panic!("not refused") };
    assert!(reason.contains("hand over"), "{reason}");
    sink.await_told(&Told::Closed { peer_gone: false });
    assert_eq!(sink.told(), [Told::Closed { peer_gone: false }]);
}

/// A second link of an engine that has one already, whose peer is the test: at the other end of the socket.
fn linked_to_the_test(far: &Arc<OneSided>, sink: &Arc<Sink>) -> (Arc<LinkCore>, OwnedFd) {
    let (a, b) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    let process = Arc::new(super::Process::of(a.as_fd()).unwrap());
    let cells = crate::fence::Cells::shared(1).unwrap();
    let config = config(Role::Active, [0; 16].to_vec().into(), 9, sink);
    let link = LinkCore::new(far, TransportKind::Shm, cells, &config).unwrap();
    let wire = far.host.new_wire();
    assert!(link.attach(crate::onesided::Far {
        fence: engine(0).fence().view().clone(),
        gate: link.gate(),
        cells: crate::fence::Cells::private().view(),
        way: crate::onesided::Way::Mapped,
        path: crate::onesided::Path::Socket { wire: Arc::clone(&wire), process: Arc::clone(&process) },
    }));
    far.host.adopt(Arc::clone(&link), wire, a, process);
    (link, b)
}

#[test]
fn garbage_from_a_linked_peer_ends_its_link_alone() {
    let (near_end, far_end) = pair(TransportKind::Shm);
    let second = Arc::new(Sink::default());
    let (_link, peer) = linked_to_the_test(&far_end.engine, &second);
    rustix::io::write(&peer, &[200, 1, 2, 3]).unwrap();
    second.await_told(&Told::Lost(ErrorKind::Protocol));
    second.await_told(&Told::Closed { peer_gone: false });
    far_end.lend(1, 4096, &near_end);
    assert!(!far_end.sink.has(&Told::Lost(ErrorKind::Protocol)));
}

#[test]
fn a_peer_that_is_refused_a_closing_region_gets_no_second_word_that_could_meet_its_next_import() {
    let (_near, far) = pair(TransportKind::Shm);
    let sink = Arc::new(Sink::default());
    let (link, peer) = linked_to_the_test(&far.engine, &sink);
    let memory = crate::Memory::shared(4096, &janitor()).unwrap();
    sink.offer(region(1), &memory);
    *sink.asked.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(crate::Link::withdraw(&*link, region(1)), crate::Fenced::Pending);
    }));
    let ask = |request| {
        let message = Message::Import { request, region: region(1) };
        socket::send(peer.as_fd(), &message.encode(), &[]).unwrap();
        answer(&peer)
    };
    let Some(Message::Denied { request: 1, .. }) = ask(1) else { panic!("not refused") };
    let next = ask(2);
    assert!(matches!(next, Some(Message::Imported { request: 2, .. })), "{next:?}");
}

#[test]
fn a_deadline_in_the_far_future_is_a_deadline_like_any_other() {
    for kind in KINDS {
        let (near, far) = (engine(0), engine(0));
        let (ours, theirs) = (transport(kind, &near), transport(kind, &far));
        let (near_sink, far_sink) = (Arc::new(Sink::default()), Arc::new(Sink::default()));
        let far_away = Instant::now() + Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let mut passive = config(Role::Passive, ours.offer(), 7, &far_sink);
        passive.deadline = far_away;
        let mut active = config(Role::Active, theirs.offer(), 7, &near_sink);
        active.deadline = far_away;
        let _theirs = theirs.link(passive).unwrap();
        // It waits a while, until its timeout is a system call's.
        std::thread::sleep(Duration::from_millis(20));
        let link = ours.link(active).unwrap();
        far_sink.await_told(&Told::Attached);
        let memory = crate::Memory::shared(4096, &janitor()).unwrap();
        far_sink.offer(region(1), &memory);
        assert_eq!(link.import(region(1), far_away).unwrap(), 4096, "{kind}");
    }
}
