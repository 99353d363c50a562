//! Seqpacket sockets in the abstract namespace: whole messages, length-capped, with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Bytes of the longest message.
pub(super) const MESSAGE_MAX: usize = 4096;
/// Descriptors of the richest message.
pub(super) const FDS_MAX: usize = 2;

/// What came, or why nothing did.
pub(super) enum Received {
    Message {
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    },
    /// Nothing there now.
    Nothing,
    /// The other end is closed.
    End,
    /// Longer than a message may be, or with too many descriptors.
    Oversized,
    Failed(Errno),
}

/// The name of the engine with this nonce.
pub(super) fn address(nonce: &[u8; 16]) -> SocketAddrUnix {
    use std::fmt::Write;
    let mut name = String::from("ropeway-");
    for byte in nonce {
        let _ = write!(name, "{byte:02x}");
    }
    SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("40 bytes fit a socket's name")
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

pub(super) fn listen(nonce: &[u8; 16]) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::bind(&socket, &address(nonce))?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Does not wait: `AGAIN` when the other side's backlog is full.
pub(super) fn connect(nonce: &[u8; 16]) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::connect(&socket, &address(nonce))?;
    Ok(socket)
}

pub(super) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Sends one message whole, or not at all.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    debug_assert!(bytes.len() <= MESSAGE_MAX && fds.len() <= FDS_MAX);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).map(|_| ())
}

/// Takes one message.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Received {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(Errno::CONNRESET) => return Received::End,
        Err(errno) => return Received::Failed(errno),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Received::Oversized;
    }
    if received.bytes == 0 {
        // An empty message and the end look alike; no message of ours is empty.
        return Received::End;
    }
    bytes.truncate(received.bytes);
    Received::Message { bytes, fds }
}
