//! A peer's process: who it is, and the proof of its death.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ropeway_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::sync::atomic::{AtomicBool, Ordering};

/// The process at the other end of a socket. The pidfd pins its identity: a reused pid is not it.
pub(crate) struct Process {
    pid: Pid,
    uid: u32,
    pidfd: OwnedFd,
    gone: AtomicBool,
}

impl Process {
    /// Who connected, or who listens.
    ///
    /// # Errors
    /// `Unsupported` when the process cannot be seen from this pid namespace, or the kernel has no pidfds.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> Result<Self> {
        let unseen = |why: String| Error::new(ErrorKind::Unsupported, "link", why);
        let credentials = credentials(socket)
            .map_err(|error| unseen(format!("the peer's socket gives no credentials: {error}")))?;
        let pid =
            Pid::from_raw(credentials.pid).filter(|pid| pid.as_raw_nonzero().get() > 0).ok_or_else(|| {
                unseen("the peer's process is in a pid namespace that is not seen from here".into())
            })?;
        let pidfd = match peer_pidfd(socket) {
            Some(pidfd) => pidfd,
            // Before Linux 6.5. The link key, proven after this, tells a process that took the pid over.
            None => rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| {
                unseen(format!("pidfd_open of the peer's process {credentials:?}: {errno}"))
            })?,
        };
        Ok(Self { pid, uid: credentials.uid, pidfd, gone: AtomicBool::new(false) })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it is proven dead: none of its threads runs any more.
    pub(crate) fn is_gone(&self) -> bool {
        if self.gone.load(Ordering::Acquire) {
            return true;
        }
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = matches!(rustix::event::poll(&mut poll, Some(&now)), Ok(1..));
        if gone {
            self.gone.store(true, Ordering::Release);
        }
        gone
    }
}

/// `SO_PEERCRED`, by libc: a pid of 0 is legal there and means "not seen from here".
fn credentials(socket: BorrowedFd<'_>) -> std::io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the option writes at most `size` bytes into `credentials`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(credentials) } else { Err(std::io::Error::last_os_error()) }
}

/// `SO_PEERPIDFD`, Linux 6.5.
fn peer_pidfd(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut size,
        )
    };
    if result != 0 || fd < 0 {
        return None;
    }
    // SAFETY: the kernel installed it for us just now.
    let file = unsafe { File::from_raw_fd(fd) };
    Some(file.into())
}
