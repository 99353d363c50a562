use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Broken, Channel, Handler, Server};

/// Sends frames back, hangs up on an empty one, and counts hang-ups.
#[derive(Default)]
struct Echo {
    closed: AtomicU64,
}

impl Handler for Echo {
    fn answer(&self, _: u64, frame: &[u8]) -> Option<Vec<u8>> {
        (!frame.is_empty()).then(|| frame.to_vec())
    }

    fn closed(&self, _: u64) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

#[test]
fn frames_are_answered_in_step_whatever_their_size() {
    let server = Server::open(any_port(), Arc::new(Echo::default())).unwrap();
    let mut channel = Channel::open(server.at(), soon()).unwrap();
    for size in [1, 5, 70_000, 3 << 20, 2] {
        let frame = vec![7; size];
        assert_eq!(channel.ask(&frame, soon()), Ok(frame));
    }
    let watch = channel.watch().unwrap();
    assert!(!watch.is_closed());
    assert_eq!(channel.ask(&[], soon()), Err(Broken::Closed));
    assert!(watch.is_closed());
}

#[test]
fn a_closed_port_is_told_as_closed_and_no_time_as_timeout() {
    let server = Server::open(any_port(), Arc::new(Echo::default())).unwrap();
    let at = server.at();
    assert_eq!(Channel::open(at, Instant::now()).err(), Some(Broken::Timeout));
    drop(server);
    assert_eq!(Channel::open(at, soon()).err(), Some(Broken::Closed));
}

#[test]
fn both_ends_notice_when_the_other_hangs_up() {
    let echo = Arc::new(Echo::default());
    let server = Server::open(any_port(), Arc::<Echo>::clone(&echo)).unwrap();
    let mut first = Channel::open(server.at(), soon()).unwrap();
    first.ask(b"x", soon()).unwrap();
    drop(first);
    while echo.closed.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(Instant::now() < soon());
    }
    let second = Channel::open(server.at(), soon()).unwrap().watch().unwrap();
    drop(server);
    let limit = soon();
    while !second.is_closed() {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(1));
    }
}
