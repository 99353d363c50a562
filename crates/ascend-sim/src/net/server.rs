//! The answering end: one thread that sleeps in poll over a listener and its connections.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::FRAME_MAX;
use super::channel::keep_alive;

/// What a server does with its frames. Called on the server's thread, which serves nobody else meanwhile.
pub(crate) trait Handler: Send + Sync {
    /// The answer to a frame; nothing hangs up.
    fn answer(&self, connection: u64, frame: &[u8]) -> Option<Vec<u8>>;
    /// A connection is gone.
    fn closed(&self, connection: u64);
}

/// A listening thread. Stops, and closes all connections, when dropped.
pub(crate) struct Server {
    at: SocketAddr,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the thread to end.
struct Bell {
    over: AtomicBool,
    event: OwnedFd,
}

impl Server {
    /// Listens at an address; port 0 takes any free one.
    pub(crate) fn open(at: SocketAddr, handler: Arc<dyn Handler>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        let bell = Bell {
            over: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        };
        let bell = Arc::new(bell);
        let inner = Arc::clone(&bell);
        let serve = move || serve(&listener, &inner, handler.as_ref());
        let thread = std::thread::Builder::new().name("sim-control".to_owned()).spawn(serve)?;
        Ok(Self { at, bell, thread: Some(thread) })
    }

    /// Where it listens, also when any port was asked for.
    pub(crate) fn at(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.bell.over.store(true, Ordering::Release);
        if let Err(error) = rustix::io::write(&self.bell.event, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot wake a control thread");
            return;
        }
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            tracing::error!("a control thread panicked");
        }
    }
}

/// A connection and what came of the next frame so far.
struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
}

fn serve(listener: &TcpListener, bell: &Bell, handler: &dyn Handler) {
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next = 0_u64;
    while !bell.over.load(Ordering::Acquire) {
        let order: Vec<u64> = connections.keys().copied().collect();
        let mut watched = vec![PollFd::new(&bell.event, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        watched.extend(order.iter().map(|id| PollFd::new(&connections[id].stream, PollFlags::IN)));
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "poll of control connections");
                break;
            }
        }
        let ready: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
        drop(watched);
        for (id, _) in order.iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
            let Some(connection) = connections.get_mut(id) else { continue };
            if !take(connection, *id, handler) {
                connections.remove(id);
                handler.closed(*id);
            }
        }
        // Non-blocking: ends when nobody else waits.
        while let Ok((stream, _)) = listener.accept() {
            keep_alive(&stream);
            if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                connections.insert(next, Connection { stream, inbox: Vec::new() });
                next += 1;
            }
        }
    }
    for (id, connection) in connections {
        drop(connection);
        handler.closed(id);
    }
}

/// Reads what is there and answers what is whole; false when the connection is over.
fn take(connection: &mut Connection, id: u64, handler: &dyn Handler) -> bool {
    let mut room = [0; 16 << 10];
    loop {
        match connection.stream.read(&mut room) {
            Ok(0) => return false,
            Ok(count) => connection.inbox.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    while let Some(head) = connection.inbox.first_chunk::<4>() {
        let length = u32::from_be_bytes(*head) as usize;
        if length > FRAME_MAX {
            return false;
        }
        if connection.inbox.len() < 4 + length {
            break;
        }
        let frame: Vec<u8> = connection.inbox.drain(..4 + length).skip(4).collect();
        let Some(answer) = handler.answer(id, &frame) else { return false };
        if !send(&mut connection.stream, &answer) {
            return false;
        }
    }
    true
}

/// Sends an answer whole. The asker is waiting for it, so a full socket empties; one that does not is hung up on.
fn send(stream: &mut TcpStream, answer: &[u8]) -> bool {
    let Ok(length) = u32::try_from(answer.len()) else { return false };
    let bytes = [&length.to_be_bytes(), answer].concat();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return false,
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut one = [PollFd::new(stream, PollFlags::OUT)];
                let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
                if !matches!(poll(&mut one, Some(&second)), Ok(1..)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
