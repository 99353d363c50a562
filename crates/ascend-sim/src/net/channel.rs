//! The asking end of a control connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use super::FRAME_MAX;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nothing listens, or the other side hung up.
    Closed,
    /// The time is over.
    Timeout,
}

/// One connection to a [`super::Server`].
#[derive(Debug)]
pub(crate) struct Channel {
    stream: TcpStream,
    /// An answer was given up, so the next frame to come would be that one.
    out_of_step: bool,
}

impl Channel {
    /// Connects; a closed port is told at once.
    pub(crate) fn open(to: SocketAddr, deadline: Instant) -> Result<Self, Broken> {
        let left = left(deadline)?;
        let stream = TcpStream::connect_timeout(&to, left).map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        keep_alive(&stream);
        Ok(Self { stream, out_of_step: false })
    }

    /// Sends one frame and waits for its answer. After a failure the connection is of no more use.
    pub(crate) fn ask(&mut self, frame: &[u8], deadline: Instant) -> Result<Vec<u8>, Broken> {
        if self.out_of_step {
            return Err(Broken::Closed);
        }
        self.out_of_step = true;
        let answer = self.exchange(frame, deadline)?;
        self.out_of_step = false;
        Ok(answer)
    }

    fn exchange(&mut self, frame: &[u8], deadline: Instant) -> Result<Vec<u8>, Broken> {
        let length = u32::try_from(frame.len()).map_err(|_| Broken::Closed)?;
        let set = self.stream.set_write_timeout(Some(left(deadline)?));
        set.map_err(|error| broken(&error))?;
        let sent = self.stream.write_all(&[&length.to_be_bytes(), frame].concat());
        sent.map_err(|error| broken(&error))?;
        let mut head = [0; 4];
        self.fill(&mut head, deadline)?;
        let length = u32::from_be_bytes(head) as usize;
        if length > FRAME_MAX {
            return Err(Broken::Closed);
        }
        let mut answer = vec![0; length];
        self.fill(&mut answer, deadline)?;
        Ok(answer)
    }

    fn fill(&mut self, mut room: &mut [u8], deadline: Instant) -> Result<(), Broken> {
        while !room.is_empty() {
            let set = self.stream.set_read_timeout(Some(left(deadline)?));
            set.map_err(|error| broken(&error))?;
            match self.stream.read(room) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => room = &mut room[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    /// Another hold on the connection, to see its end by while somebody else asks.
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.stream.try_clone().ok().map(|stream| Watch { stream })
    }
}

/// Sees whether the other side has hung up.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: TcpStream,
}

impl Watch {
    /// Whether the other side has hung up.
    pub(crate) fn is_closed(&self) -> bool {
        let mut one = [0; 1];
        match recv(&self.stream, &mut one, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, count)) => count == 0,
            Err(error) => error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR,
        }
    }
}

/// A dead host is noticed 120 s after its last sign; a stopped process goes on answering, as the kernel does it.
pub(super) fn keep_alive(stream: &TcpStream) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keep-alive on a control connection");
    }
}

/// The time left, which is never zero.
fn left(deadline: Instant) -> Result<Duration, Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Broken::Timeout) } else { Ok(left) }
}

fn broken(error: &std::io::Error) -> Broken {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::Timeout,
        _ => Broken::Closed,
    }
}
