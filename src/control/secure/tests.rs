use super::*;
use tokio::io::duplex;

fn own() -> Incarnation {
    Incarnation::new(0x1234).unwrap()
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

type Pair = (Result<Secured<tokio::io::DuplexStream>>, Result<Secured<tokio::io::DuplexStream>>);

async fn handshake(ours: Psk, theirs: Psk, want: Option<Incarnation>) -> Pair {
    let (a, b) = duplex(1 << 20);
    let theirs = tokio::spawn(async move { respond(b, own(), &theirs).await });
    (initiate(a, &ours, want).await, theirs.await.unwrap())
}

#[test]
fn messages_of_every_size_arrive_whole() {
    block(async {
        let secret = Psk::descriptor([7; 32]);
        let (a, b) = handshake(secret.clone(), secret, Some(own())).await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        for len in [1, PLAIN_BYTES, PLAIN_BYTES + 1, 2 * PLAIN_BYTES + 5] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            a.writer.send(&message).await.unwrap();
            let mut back = Vec::new();
            while back.len() < len {
                back.extend_from_slice(b.reader.next().await.unwrap().unwrap());
            }
            assert!(back == message, "{len} bytes");
        }
        a.writer.shut().await;
        assert!(b.reader.next().await.unwrap().is_none());
    });
}

#[test]
fn a_wrong_secret_is_denied_on_both_sides() {
    block(async {
        let (a, b) = handshake(Psk::descriptor([7; 32]), Psk::descriptor([8; 32]), Some(own())).await;
        assert_eq!(b.err().unwrap().kind(), ErrorKind::Denied);
        assert_eq!(a.err().unwrap().kind(), ErrorKind::Denied);
    });
}

#[test]
fn modes_must_agree_and_insecure_is_no_way_around_a_secret() {
    block(async {
        let (a, b) = handshake(Psk::insecure(), Psk::descriptor([7; 32]), None).await;
        assert_eq!(a.err().unwrap().kind(), ErrorKind::Denied);
        assert_eq!(b.err().unwrap().kind(), ErrorKind::Denied);
    });
}

#[test]
fn a_descriptor_of_a_past_life_is_stale() {
    block(async {
        let secret = Psk::descriptor([7; 32]);
        let (a, b) = handshake(secret.clone(), secret, Incarnation::new(99)).await;
        assert_eq!(a.err().unwrap().kind(), ErrorKind::StaleLease);
        assert_eq!(b.err().unwrap().kind(), ErrorKind::StaleLease);
    });
}

#[test]
fn garbage_on_the_port_is_a_protocol_error() {
    block(async {
        let (mut a, b) = duplex(1 << 16);
        a.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await.unwrap();
        let error = respond(b, own(), &Psk::insecure()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    });
}

#[test]
fn an_oversized_handshake_message_is_refused_before_it_is_read() {
    block(async {
        let (mut a, b) = duplex(1 << 16);
        let preamble = Preamble { oldest: 1, newest: 1, auth: AuthMode::Insecure, incarnation: 0 };
        a.write_all(&preamble.encode()).await.unwrap();
        a.write_all(&u16::MAX.to_le_bytes()).await.unwrap();
        let error = respond(b, own(), &Psk::insecure()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    });
}

#[test]
fn a_replayed_or_altered_frame_fails_authentication() {
    block(async {
        let secret = Psk::descriptor([7; 32]);
        let (a, b) = handshake(secret.clone(), secret, None).await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        a.writer.send(b"one").await.unwrap();
        assert!(b.reader.next().await.unwrap().is_some());
        a.writer.nonce = 0;
        a.writer.send(b"one").await.unwrap();
        assert_eq!(b.reader.next().await.unwrap_err().kind(), ErrorKind::Protocol);
    });
}

#[test]
fn no_common_version_is_a_mismatch_that_names_both_ranges() {
    let old = Preamble { oldest: 1, newest: 2, auth: AuthMode::Insecure, incarnation: 0 };
    let new = Preamble { oldest: 3, newest: 4, ..old };
    let error = common_version(old, new).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.message().contains("1..=2") && error.message().contains("3..=4"));
    assert_eq!(common_version(old, Preamble { oldest: 1, newest: 9, ..old }).unwrap(), 2);
}

#[test]
fn a_silent_peer_holds_its_place_for_a_bounded_time() {
    block(async {
        let (_a, b) = duplex(64);
        let psk = Psk::insecure();
        let step = respond(b, own(), &psk);
        let error = within(Duration::from_millis(20), step).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}
