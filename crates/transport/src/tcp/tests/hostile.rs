//! Strangers and liars at the data port: dropped, nothing touched, others served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ropeway_core::{ErrorKind, GrantId, Limits, Op, StatusKind};

use super::stranger::KEY;
use super::{Engine, GRANT, Port, Stranger, copies, eventually, pair, wait};
use crate::tcp::attach::{CLAIM_BYTES, Claim, HELLO_BYTES};
use crate::tcp::wire::{Header, Kind, RequestBody, SEGMENT_BYTES_MAX, status_to_wire};
use crate::{LinkKey, Role, Transport};

fn knock(engine: &Engine) -> (TcpStream, [u8; 16]) {
    let mut stream = TcpStream::connect(engine.tcp.address().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).unwrap();
    (stream, hello[12..].try_into().unwrap())
}

fn is_dropped(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn garbage_is_dropped() {
    let engine = Engine::new(4096, Limits::default());
    let (mut stream, _) = knock(&engine);
    stream.write_all(&[0x5A; CLAIM_BYTES]).unwrap();
    assert!(is_dropped(stream));
}

#[test]
fn a_wrong_secret_and_a_recorded_claim_are_dropped() {
    let (a, b) = pair(1 << 20);
    let other = Engine::new(4096, Limits::default());
    other.linked(KEY, Role::Passive, Bytes::new());
    let (mut stream, nonce) = knock(&other);
    let mut claim = Claim::new(&LinkKey([1; 32]), &nonce, [7; 16], 0, 2);
    claim.link = Claim::new(&KEY, &nonce, [7; 16], 0, 2).link;
    stream.write_all(&claim.encode()).unwrap();
    assert!(is_dropped(stream), "a wrong secret");
    let (_, nonce) = knock(&other);
    let recorded = Claim::new(&KEY, &nonce, [7; 16], 0, 2).encode();
    let (mut stream, _) = knock(&other);
    stream.write_all(&recorded).unwrap();
    assert!(is_dropped(stream), "a claim made for another nonce");
    assert!(!other.sink.attached.load(Ordering::SeqCst));
    assert!(wait(&a, &a.post(Op::Read, copies(1, 4096))).is_completed());
    drop(b);
}

#[test]
fn an_acceptor_that_does_not_know_the_key_is_refused() {
    let (a, b) = (Engine::new(4096, Limits::default()), Engine::new(4096, Limits::default()));
    b.linked(LinkKey([1; 32]), Role::Passive, a.tcp.offer());
    let mut config = a.config(LinkKey([2; 32]), Role::Active, b.tcp.offer());
    config.deadline = std::time::Instant::now() + Duration::from_millis(300);
    let error = a.tcp.link(config).err().expect("two keys make no link");
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Denied), "{error}");
}

#[test]
fn a_slow_or_silent_stranger_is_dropped_and_the_port_stays_open() {
    let engine = Engine::new(4096, Limits::default().with_handshakes(4));
    let mut slow: Vec<_> = (0..4).map(|_| knock(&engine).0).collect();
    // No more are taken in while these four are unproven.
    let fifth = TcpStream::connect(engine.tcp.address().unwrap()).unwrap();
    fifth.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(is_dropped(fifth));
    for _ in 0..20 {
        for stream in &mut slow {
            let _ = stream.write_all(b"R");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for stream in slow {
        assert!(is_dropped(stream));
    }
    drop(knock(&engine));
}

#[test]
fn a_link_that_nobody_comes_to_is_closed_at_its_deadline_and_not_lost() {
    let engine = Engine::new(4096, Limits::default());
    let mut config = engine.config(KEY, Role::Passive, Bytes::new());
    config.deadline = std::time::Instant::now() + Duration::from_millis(50);
    let link = engine.tcp.link(config).unwrap();
    eventually(|| engine.sink.closed.load(Ordering::SeqCst) == 1);
    assert!(engine.sink.lost.lock().unwrap().is_empty(), "what was never attached cannot be lost");
    drop(link);
}

/// Each lie ends the link with `Protocol`; what was in flight ends; nothing lands.
fn lie(lane: usize, tell: impl Fn(&mut Stranger)) {
    let engine = Engine::new(1 << 20, Limits::default());
    let mut port = Port::attach(&engine);
    tell(&mut port.lanes[lane]);
    assert!(port.lanes[0].is_dropped());
    assert!(port.lanes[1].is_dropped(), "a link ends as a whole");
    eventually(|| engine.sink.closed.load(Ordering::SeqCst) == 1);
    let lost = engine.sink.lost.lock().unwrap();
    assert_eq!((lost.len(), lost[0].kind()), (1, ErrorKind::Protocol), "{lost:?}");
    assert_eq!(engine.sink.serving.load(Ordering::SeqCst), 0);
    assert!(engine.bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn lies_in_headers_end_the_link() {
    lie(0, |peer| peer.stream.write_all(&[0xFF; 40]).unwrap());
    lie(0, |peer| {
        let header = peer.ours.seal(&Header::control(Kind::Cancel, 1, StatusKind::Completed));
        peer.stream.write_all(&header).unwrap();
        peer.stream.write_all(&header).unwrap();
    });
    lie(1, |peer| peer.send(&Header::segment(Kind::WriteData, 1, 0, SEGMENT_BYTES_MAX + 1, false)));
    lie(1, |peer| peer.send(&Header::segment(Kind::WriteData, 77, 0, 4096, false)));
    lie(1, |peer| peer.send(&Header::segment(Kind::ReadData, 77, 0, 4096, false)));
    lie(1, |peer| peer.send(&Header::control(Kind::End, 77, StatusKind::Completed)));
}

#[test]
fn lies_in_requests_end_the_link() {
    lie(0, |peer| peer.request_body(Kind::ReadRequest, 1, &[1; 10]));
    lie(0, |peer| {
        let body = RequestBody::fixed(GRANT, u64::MAX, 2);
        peer.request_body(Kind::ReadRequest, 1, &body);
    });
    lie(1, |peer| {
        peer.request(Kind::WriteRequest, 1, GRANT, &*copies(1, 4096));
        peer.send(&Header::segment(Kind::WriteData, 1, 0, 4097, false));
    });
    lie(1, |peer| {
        peer.request(Kind::WriteRequest, 1, GRANT, &*copies(1, 4096));
        peer.send(&Header::segment(Kind::WriteData, 1, 1, 4096, false));
    });
    lie(1, |peer| {
        peer.request(Kind::WriteRequest, 1, GRANT, &*copies(1, 4096));
        peer.request(Kind::WriteRequest, 1, GRANT, &*copies(1, 4096));
    });
    lie(0, |peer| {
        peer.send(&Header::segment(Kind::ReadRequest, 1, 0, 10, true));
        peer.stream.write_all(&[0; 10]).unwrap();
        peer.send(&Header::segment(Kind::ReadRequest, 2, 0, 10, false));
    });
}

#[test]
fn a_request_that_never_ends_is_not_kept() {
    lie(1, |peer| {
        for sequence in 0..1000 {
            let header =
                peer.ours.seal(&Header::segment(Kind::ReadRequest, 1, sequence, SEGMENT_BYTES_MAX, true));
            let sent = peer.stream.write_all(&header);
            if sent.and_then(|()| peer.stream.write_all(&[0; SEGMENT_BYTES_MAX as usize])).is_err() {
                // 32 MiB of request, the rest in the kernel's buffers.
                assert!(sequence <= 100, "a request of {sequence} MiB was taken in");
                break;
            }
        }
    });
}

#[test]
fn more_requests_than_allowed_end_the_link() {
    lie(1, |peer| {
        let mut bytes = Vec::new();
        for id in 0..4000 {
            let body = [&RequestBody::fixed(GRANT, 0, 4096)[..], &[0; 8], &4096u32.to_le_bytes()].concat();
            let length = body.len() as u32 + 16;
            bytes.extend_from_slice(&peer.ours.seal(&Header::segment(
                Kind::WriteRequest,
                id,
                0,
                length,
                false,
            )));
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(&peer.ours.seal_body(id, &body));
        }
        let _ = peer.stream.write_all(&bytes);
    });
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_dropped_in_time() {
    let engine = Engine::new(64 << 20, Limits::default());
    let mut port = Port::attach(&engine);
    // A read that fills the socket, then questions whose answers have to wait behind it.
    port.lanes[1].request(Kind::ReadRequest, 1, GRANT, &*copies(1, 64 << 20));
    let mut bytes = Vec::new();
    for id in 2..8000 {
        let cancel = Header::control(Kind::Cancel, id, StatusKind::Completed);
        bytes.extend_from_slice(&port.lanes[1].ours.seal(&cancel));
    }
    let _ = port.lanes[1].stream.write_all(&bytes);
    eventually(|| engine.sink.closed.load(Ordering::SeqCst) == 1);
    assert_eq!(engine.sink.lost.lock().unwrap()[0].kind(), ErrorKind::Protocol);
    assert_eq!(engine.sink.serving.load(Ordering::SeqCst), 0);
}

#[test]
fn a_foreign_grant_is_denied_and_the_link_lives() {
    let engine = Engine::new(1 << 20, Limits::default());
    let mut port = Port::attach(&engine);
    port.lanes[0].request(Kind::ReadRequest, 1, GrantId { slot: 9, generation: 9 }, &*copies(1, 4096));
    let end = port.lanes[0].receive();
    assert_eq!((end.kind, end.id, end.status), (Kind::End, 1, status_to_wire(StatusKind::Denied)));
    port.lanes[0].request(Kind::ReadRequest, 2, GRANT, &*copies(1, 4096));
    let (bytes, end) = port.lanes[0].drain_read(2);
    assert_eq!((bytes, end.kind, end.status), (4096, Kind::End, 0));
}

#[test]
fn a_truncated_frame_holds_nobody_up() {
    let engine = Engine::new(1 << 20, Limits::default());
    let mut port = Port::attach(&engine);
    let half = port.lanes[1].ours.seal(&Header::segment(Kind::ReadRequest, 1, 0, 100, false));
    port.lanes[1].stream.write_all(&half[..20]).unwrap();
    port.lanes[0].request(Kind::ReadRequest, 2, GRANT, &*copies(1, 4096));
    assert_eq!(port.lanes[0].drain_read(2).0, 4096);
    drop(port);
    eventually(|| engine.sink.closed.load(Ordering::SeqCst) == 1);
    assert_eq!(engine.sink.lost.lock().unwrap()[0].kind(), ErrorKind::LinkLost);
}

#[test]
fn a_peer_that_stops_reading_holds_nobody_else_up() {
    let engine = Engine::new(64 << 20, Limits::default());
    let mut port = Port::attach(&engine);
    port.lanes[1].request(Kind::ReadRequest, 1, GRANT, &*copies(1, 64 << 20));
    eventually(|| engine.sink.serving.load(Ordering::SeqCst) == 1);
    // The same I/O thread serves another stream of this peer, and other peers.
    for id in 2..50 {
        port.lanes[0].request(Kind::ReadRequest, id, GRANT, &*copies(1, 4096));
        assert_eq!(port.lanes[0].drain_read(id).0, 4096);
    }
    assert_eq!(port.lanes[1].drain_read(1).0, 64 << 20);
    eventually(|| engine.sink.serving.load(Ordering::SeqCst) == 0);
}
