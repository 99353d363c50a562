//! cma: any memory of a process on the same host, copied by the kernel (`process_vm_readv`, `process_vm_writev`).

use std::sync::Arc;

use bytes::Bytes;
use libc::iovec;
use ropeway_core::{Error, ErrorKind, Op, Result, StatusKind};

use crate::onesided::{Failed, OneSided, Resolved};
use crate::rendezvous::Process;
use crate::{Capabilities, Link, LinkConfig, Transport, TransportKind, shm};

/// The cma transport of one engine.
pub struct Cma {
    engine: Arc<OneSided>,
    capabilities: Capabilities,
}

impl Cma {
    /// On top of the engine's one-sided part.
    pub fn new(engine: &Arc<OneSided>) -> Self {
        let capabilities = Capabilities::of(TransportKind::Cma);
        Self { engine: Arc::clone(engine), capabilities }
    }
}

impl Transport for Cma {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        Bytes::copy_from_slice(&self.engine.nonce)
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        shm::meet(&self.engine, TransportKind::Cma, config)
    }

    fn close(&self) {
        self.engine.close();
    }
}

/// Most entries of one call (`IOV_MAX`) and most bytes.
const CALL_ENTRIES: usize = 1024;
const CALL_BYTES: usize = 4 << 20;
/// Entries that a call is built in: two of them are guards.
const ENTRIES: usize = 256 + 2;
const _: () = assert!(ENTRIES <= CALL_ENTRIES);

/// Copies between this address space and a peer's.
pub(crate) struct Kernel {
    process: Arc<Process>,
    /// Where the peer's guard word lies, and what it holds.
    guard: u64,
    nonce: u64,
}

impl Kernel {
    /// Reads the peer's guard word: the probe copy.
    ///
    /// # Errors
    /// `Denied` without the right to, saying which right is missing.
    pub(crate) fn probe(process: Arc<Process>, guard: u64) -> Result<Self> {
        let mut kernel = Self { process, guard, nonce: 0 };
        kernel.nonce = kernel.read_guard().map_err(|errno| kernel.refused(errno))?;
        if kernel.process.is_gone() {
            return Err(Error::new(ErrorKind::PeerGone, "link", "the peer died while the link was made"));
        }
        Ok(kernel)
    }

    /// What the guard word held at the probe.
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    fn read_guard(&self) -> std::result::Result<u64, i32> {
        let mut word = 0u64;
        let local = iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
        let remote = iovec { iov_base: self.guard as *mut _, iov_len: 8 };
        // SAFETY: one local entry over `word`; the kernel checks the remote address.
        let count = unsafe { libc::process_vm_readv(self.pid(), &local, 1, &remote, 1, 0) };
        match count {
            8 => Ok(word),
            -1 => Err(errno()),
            _ => Err(libc::EFAULT),
        }
    }

    fn pid(&self) -> libc::pid_t {
        self.process.pid().as_raw_nonzero().get()
    }

    fn refused(&self, errno: i32) -> Error {
        let pid = self.pid();
        let (kind, why) = match errno {
            libc::EPERM => (ErrorKind::Denied, self.missing_right()),
            libc::ESRCH => (ErrorKind::PeerGone, "it is dead".into()),
            libc::ENOSYS => {
                (ErrorKind::Unsupported, "this kernel or its seccomp filter has no process_vm_readv".into())
            }
            _ => (ErrorKind::Unsupported, std::io::Error::from_raw_os_error(errno).to_string()),
        };
        Error::new(kind, "link", format!("cannot read process {pid}: {why}")).with_native(errno)
    }

    fn missing_right(&self) -> String {
        // SAFETY: always succeeds.
        let own = unsafe { libc::geteuid() };
        let theirs = self.process.uid();
        let mut why = String::from("no ptrace right over it: ");
        if own != theirs && own != 0 {
            why += &format!("it runs as uid {theirs}, this process as {own}; run both as one user");
        } else {
            why += "it may not be dumpable (PR_SET_DUMPABLE, a setuid or file capability), or has other credentials";
        }
        let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        if matches!(yama.trim(), "1" | "2" | "3") {
            why += &format!(
                "; kernel.yama.ptrace_scope is {}: set it to 0, or grant CAP_SYS_PTRACE",
                yama.trim()
            );
        } else {
            why += "; grant CAP_SYS_PTRACE";
        }
        why
    }

    /// Moves `count` runs, in as few calls as the limits allow.
    pub(crate) fn copy_all(
        &self,
        op: Op,
        count: usize,
        resolve: impl Fn(usize) -> std::result::Result<Resolved, Failed>,
    ) -> std::result::Result<(), Failed> {
        let mut next = 0;
        let mut call = Call::new();
        while next < count {
            let first = next;
            call.begin(self.guard, self.nonce);
            while next < count && !call.is_full() {
                let run = resolve(next)?;
                if call.bytes != 0 && call.bytes + run.len > CALL_BYTES {
                    break;
                }
                call.push(run);
                next += 1;
            }
            self.issue(op, &mut call).map_err(|mut failed| {
                failed.run += first;
                failed
            })?;
        }
        Ok(())
    }

    fn issue(&self, op: Op, call: &mut Call) -> std::result::Result<(), Failed> {
        let failed = |kind, native, run| Failed { kind, native, run };
        if op == Op::Write && self.read_guard() != Ok(self.nonce) {
            // Another program runs in that process now, or none.
            return Err(failed(StatusKind::PeerGone, 0, 0));
        }
        call.end(op, self.guard);
        let entries = call.len as libc::c_ulong;
        let (local, remote) = (call.local.as_ptr(), call.remote.as_ptr());
        let moved = match op {
            // SAFETY: the local entries are inside memory that the batch pins, or our guard words; the kernel checks
            // the remote ones.
            Op::Read => unsafe { libc::process_vm_readv(self.pid(), local, entries, remote, entries, 0) },
            // SAFETY: as above; the remote ones are regions that the peer exported.
            Op::Write => unsafe { libc::process_vm_writev(self.pid(), local, entries, remote, entries, 0) },
        };
        let errno = if moved < 0 { errno() } else { 0 };
        // Alive after the call: the pid was the peer's all the time.
        if self.process.is_gone() {
            return Err(failed(StatusKind::PeerGone, errno, 0));
        }
        match (moved, errno) {
            (_, libc::ESRCH) => Err(failed(StatusKind::PeerGone, errno, 0)),
            (_, libc::EFAULT) => Err(failed(StatusKind::PeerUnmapped, errno, 0)),
            (_, errno @ 1..) => Err(failed(StatusKind::Native, errno, 0)),
            (moved, _) if (moved as usize) < call.total() => {
                Err(failed(StatusKind::PeerUnmapped, libc::EFAULT, call.run_at(moved as usize)))
            }
            _ if op == Op::Read && call.guards != [self.nonce; 2] => Err(failed(StatusKind::PeerGone, 0, 0)),
            _ => Ok(()),
        }
    }
}

/// The entries of one call.
struct Call {
    local: [iovec; ENTRIES],
    remote: [iovec; ENTRIES],
    len: usize,
    bytes: usize,
    guards: [u64; 2],
}

impl Call {
    fn new() -> Self {
        const NONE: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { local: [NONE; ENTRIES], remote: [NONE; ENTRIES], len: 0, bytes: 0, guards: [0; 2] }
    }

    /// The first entry is the guard's: a call into an address space without it ends before anything else.
    fn begin(&mut self, guard: u64, nonce: u64) {
        self.len = 1;
        self.bytes = 0;
        self.remote[0] = iovec { iov_base: guard as *mut _, iov_len: 8 };
        self.guards = [nonce; 2];
    }

    /// Room is kept for the last guard.
    fn is_full(&self) -> bool {
        self.len == ENTRIES - 1
    }

    fn push(&mut self, run: Resolved) {
        self.local[self.len] = iovec { iov_base: run.local.cast(), iov_len: run.len };
        self.remote[self.len] = iovec { iov_base: run.remote.cast(), iov_len: run.len };
        self.len += 1;
        self.bytes += run.len;
    }

    /// A read fetches the guard word at both ends; a write stores there what it holds.
    fn end(&mut self, op: Op, guard: u64) {
        if op == Op::Read {
            self.guards = [0; 2];
        }
        let [first, last] = &mut self.guards;
        self.local[0] = iovec { iov_base: (first as *mut u64).cast(), iov_len: 8 };
        self.local[self.len] = iovec { iov_base: (last as *mut u64).cast(), iov_len: 8 };
        self.remote[self.len] = iovec { iov_base: guard as *mut _, iov_len: 8 };
        self.len += 1;
    }

    fn total(&self) -> usize {
        self.bytes + 16
    }

    /// The run in which a call that moved `moved` bytes stopped.
    fn run_at(&self, moved: usize) -> usize {
        let mut left = moved;
        let mut entry = 0;
        while entry < self.len && left >= self.remote[entry].iov_len {
            left -= self.remote[entry].iov_len;
            entry += 1;
        }
        entry.saturating_sub(1).min(self.len.saturating_sub(3))
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
