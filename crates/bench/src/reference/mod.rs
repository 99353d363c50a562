//! The C reference, made safe to call: plain loops over the same descriptors, with the same threads and memory.

mod ffi;

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use crate::cli::Op;
use crate::pool::Pool;

pub(crate) use ffi::Desc;

/// How the reference copies within one address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Routine {
    /// The C library's `memcpy`.
    Plain,
    /// Streaming stores, which go past the caches (x86-64; elsewhere the same as plain).
    Streaming,
}

impl Routine {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Streaming];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Streaming => "streaming",
        }
    }
}

/// Ways to wake another thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    Spin,
    Futex,
    EventFd,
}

/// The threads that share a list: the caller's and others, which sleep between calls.
pub(crate) struct Crew {
    crew: ptr::NonNull<ffi::Crew>,
    threads: u32,
}

// SAFETY: a crew is used by one thread at a time (`&mut self`), and its C side is not bound to the thread that opened it.
unsafe impl Send for Crew {}

impl Crew {
    pub(crate) fn open(threads: u32) -> io::Result<Self> {
        assert!(threads > 0, "a crew has at least the caller's thread");
        // SAFETY: takes no pointers; null means that threads or memory were refused.
        let crew = unsafe { ffi::ref_crew_open(threads) };
        match ptr::NonNull::new(crew) {
            Some(crew) => Ok(Self { crew, threads }),
            None => Err(io::Error::other(format!("the system refused {threads} threads"))),
        }
    }

    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    /// Copies between two pools of this address space.
    pub(crate) fn copy(
        &mut self,
        op: Op,
        routine: Routine,
        local: &Pool,
        remote: &Pool,
        list: &[Desc],
    ) -> io::Result<()> {
        check(list, |d| d.local, local.len());
        check(list, |d| d.remote, remote.len());
        // SAFETY: the crew lives; both pools are mapped for as long as they are borrowed; every descriptor lies in both.
        let error = unsafe {
            ffi::ref_copy(
                self.crew.as_ptr(),
                op as i32,
                routine as i32,
                local.base().cast(),
                remote.base().cast(),
                list.as_ptr(),
                list.len(),
            )
        };
        outcome(error)
    }

    /// Copies from or to memory of process `pid` that starts at address `remote`; the kernel checks it.
    pub(crate) fn cma(
        &mut self,
        op: Op,
        pid: i32,
        local: &Pool,
        remote: u64,
        list: &[Desc],
    ) -> io::Result<()> {
        check(list, |d| d.local, local.len());
        // SAFETY: the crew lives; the local side of every descriptor lies in the pool; the remote side is an address in
        // another process, which the kernel checks.
        let error = unsafe {
            ffi::ref_cma(
                self.crew.as_ptr(),
                op as i32,
                pid,
                local.base().cast(),
                remote,
                list.as_ptr(),
                list.len(),
            )
        };
        outcome(error)
    }

    /// Streams through one socket per thread.
    pub(crate) fn stream(
        &mut self,
        op: Op,
        sockets: &[TcpStream],
        local: &Pool,
        list: &[Desc],
    ) -> io::Result<()> {
        check(list, |d| d.local, local.len());
        assert_eq!(sockets.len(), self.threads as usize, "one socket per thread");
        let sockets: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: the crew lives; there is a socket per thread; the local side of every descriptor lies in the pool.
        let error = unsafe {
            ffi::ref_stream(
                self.crew.as_ptr(),
                op as i32,
                sockets.as_ptr(),
                local.base().cast(),
                list.as_ptr(),
                list.len(),
            )
        };
        outcome(error)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once.
        unsafe { ffi::ref_crew_close(self.crew.as_ptr()) }
    }
}

/// Sets a socket up as the reference wants it: no delays, and cubic where it is allowed.
pub(crate) fn tune(socket: &TcpStream) {
    // SAFETY: takes no pointers; the socket is open.
    unsafe { ffi::ref_stream_tune(socket.as_raw_fd()) }
}

/// Answers stream requests on one socket until the client closes it.
pub(crate) fn serve(
    socket: &TcpStream,
    share: u32,
    shares: u32,
    pool: &Pool,
    list: &[Desc],
) -> io::Result<()> {
    check(list, |d| d.remote, pool.len());
    // SAFETY: the remote side of every descriptor lies in the pool, which is this process's.
    let error = unsafe {
        ffi::ref_stream_serve(
            socket.as_raw_fd(),
            share,
            shares,
            pool.base().cast(),
            list.as_ptr(),
            list.len(),
        )
    };
    outcome(error)
}

/// Round trips of 8 bytes over a socket whose other end answers with [`pong`], in ns.
pub(crate) fn ping(socket: &impl AsRawFd, rounds: usize) -> io::Result<Vec<u64>> {
    let mut out = vec![0; rounds];
    // SAFETY: `out` has room for `rounds` words.
    outcome(unsafe { ffi::ref_ping(socket.as_raw_fd(), out.as_mut_ptr(), rounds) })?;
    Ok(out)
}

/// Answers [`ping`] until the other end closes.
pub(crate) fn pong(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    outcome(unsafe { ffi::ref_pong(socket.as_raw_fd()) })
}

/// Round trips between two threads, in ns.
pub(crate) fn wake(how: Wake, rounds: usize) -> io::Result<Vec<u64>> {
    let mut out = vec![0; rounds];
    // SAFETY: `out` has room for `rounds` words; the other thread is joined inside.
    outcome(unsafe { ffi::ref_wake(how as i32, out.as_mut_ptr(), rounds) })?;
    Ok(out)
}

fn outcome(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The C side trusts its lists; this is where they are checked.
fn check(list: &[Desc], side: impl Fn(&Desc) -> u64, pool: usize) {
    for desc in list {
        let end = side(desc).checked_add(desc.len);
        assert!(
            end.is_some_and(|end| end <= pool as u64),
            "{desc:?} passes the end of a pool of {pool} bytes"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;
    use std::net::TcpListener;

    fn pools() -> (Pool, Pool, Vec<Desc>) {
        let (local, remote) = (Pool::private(1 << 20).unwrap(), Pool::private(1 << 20).unwrap());
        let list =
            (0..60).map(|i| Desc { local: (59 - i) * 16_384 + 3, remote: i * 16_000 + 5, len: 12_345 });
        (local, remote, list.collect())
    }

    fn moves_what_the_list_says(go: impl Fn(&Pool, &Pool, &[Desc])) {
        let (local, remote, list) = pools();
        pattern::fill(&remote, 7);
        pattern::poison(&local);
        go(&local, &remote, &list);
        assert_eq!(pattern::verify(&local, 7, &list, pattern::Side::Local), Ok(()));
    }

    #[test]
    fn copies_move_every_byte_and_no_other() {
        for routine in Routine::ALL {
            for threads in [1, 3] {
                moves_what_the_list_says(|local, remote, list| {
                    Crew::open(threads).unwrap().copy(Op::Read, routine, local, remote, list).unwrap();
                });
            }
        }
    }

    #[test]
    fn kernel_copies_move_every_byte_and_no_other() {
        moves_what_the_list_says(|local, remote, list| {
            let pid = std::process::id() as i32;
            Crew::open(2).unwrap().cma(Op::Read, pid, local, remote.base() as u64, list).unwrap();
        });
    }

    #[test]
    fn streams_move_every_byte_and_no_other() {
        moves_what_the_list_says(|local, remote, list| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::scope(|scope| {
                let sockets: Vec<_> = (0..2)
                    .map(|share| {
                        let ours = TcpStream::connect(address).unwrap();
                        let (theirs, _) = listener.accept().unwrap();
                        scope.spawn(move || serve(&theirs, share, 2, remote, list).unwrap());
                        ours
                    })
                    .collect();
                Crew::open(2).unwrap().stream(Op::Read, &sockets, local, list).unwrap();
                drop(sockets);
            });
        });
    }

    #[test]
    fn shares_cover_a_list_once() {
        let (_, _, list) = pools();
        for shares in 1..9 {
            let mut last = 0;
            for share in 0..=shares {
                // SAFETY: the list is a slice.
                let start = unsafe { ffi::ref_share(share, shares, list.as_ptr(), list.len()) };
                assert!(start >= last && start <= list.len());
                assert!(share > 0 || start == 0);
                last = start;
            }
            assert_eq!(last, list.len());
        }
    }
}
