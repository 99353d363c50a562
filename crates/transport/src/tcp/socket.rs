//! System calls on sockets: scatter and gather, epoll, eventfd, options.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// Pieces of memory that one call may name.
pub(super) const PIECES_MAX: usize = 514;

/// A list of pieces of memory for one call, on the stack, written only as far as it is used.
pub(super) struct Pieces {
    list: [MaybeUninit<libc::iovec>; PIECES_MAX],
    count: usize,
    bytes: usize,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self { list: [const { MaybeUninit::uninit() }; PIECES_MAX], count: 0, bytes: 0 }
    }

    pub(super) fn room(&self) -> usize {
        PIECES_MAX - self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a piece. Only pointers are kept: whoever makes the call answers for them.
    pub(super) fn push(&mut self, base: *mut u8, len: usize) {
        if len > 0 {
            self.list[self.count].write(libc::iovec { iov_base: base.cast(), iov_len: len });
            self.count += 1;
            self.bytes += len;
        }
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all-zero is a valid `msghdr`: null pointers and zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.list.as_mut_ptr().cast();
        message.msg_iovlen = self.count as _;
        message
    }
}

/// What a call on a socket came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// So many bytes; at least one.
    Bytes(usize),
    /// Nothing now.
    Blocked,
    /// The peer will send no more.
    Ended,
    /// The connection broke.
    Broken(i32),
}

/// Sends from the pieces without blocking.
///
/// # Safety
/// Each piece is mapped, readable memory until the call returns. Others may write to it meanwhile: only the kernel
/// reads it, a torn read is the peer's loss.
pub(super) unsafe fn send(fd: BorrowedFd<'_>, pieces: &mut Pieces) -> Moved {
    let message = pieces.message();
    // SAFETY: the message names `pieces.list`, which is initialised up to the count and outlives the call; the caller
    // answers for what the pieces name. The descriptor is borrowed.
    let count = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    moved(count, false)
}

/// Receives into the pieces without blocking.
///
/// # Safety
/// Each piece is mapped, writable memory until the call returns, to which no reference exists.
pub(super) unsafe fn receive(fd: BorrowedFd<'_>, pieces: &mut Pieces) -> Moved {
    let mut message = pieces.message();
    // SAFETY: as in `send`; the kernel writes to the pieces, which the caller allows.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    moved(count, true)
}

fn moved(count: isize, receiving: bool) -> Moved {
    match count {
        0 if receiving => Moved::Ended,
        0 => Moved::Blocked,
        1.. => Moved::Bytes(count as usize),
        _ => match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
            libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM => Moved::Blocked,
            code => Moved::Broken(code),
        },
    }
}

/// Cuts a connection at once: what is unread or unsent on it is dropped, the peer's next call fails. The descriptor stays
/// valid for whoever polls it.
pub(super) fn abort(stream: &TcpStream) {
    // SAFETY: all-zero is a valid `sockaddr`.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as _;
    // SAFETY: the address lives until the call returns and has the length that is given; the descriptor is open.
    unsafe { libc::connect(stream.as_raw_fd(), &nowhere, size_of::<libc::sockaddr>() as _) };
}

/// Options of a data connection, as far as the machine allows; none is needed for correctness.
pub(super) fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    // bbr, where it is the default, paces even a loopback: cubic moved 1.1 to 1.6 times as much there.
    let _ = socket.set_tcp_congestion(b"cubic");
    // A black-holed peer: found within half a minute when idle, by the transfer's own limit when not.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// A counter that wakes whoever polls it.
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // A full counter has rung already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
