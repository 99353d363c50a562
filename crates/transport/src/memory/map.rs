//! The constructors that map: private, shared, adopted, a peer's.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use ropeway_core::{Error, ErrorKind, Result, Rights};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::populate::{Touch, populate};
use super::{Backing, Memory, cgroup};
use crate::janitor::Janitor;

/// Without these a peer could cut the file under our map (SIGBUS) or keep us from sealing.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const WRITE_SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

/// Transparent huge pages need this alignment.
const HUGE: usize = 2 << 20;

/// What a fault point can make fail; only tests do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Create,
    Size,
    Allocate,
    Map,
    Populate,
}

fn step<T>(_step: Step, action: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    #[cfg(test)]
    super::fault::check(_step)?;
    action()
}

impl Memory {
    /// Memory of this process alone, present from the start, in huge pages where the system gives them. Peers reach it
    /// by cma and tcp, not by shm.
    ///
    /// # Errors
    /// `Resource` when the memory cgroup, the machine or the address space has no room for it; `ApiMisuse` for 0 bytes.
    pub fn anonymous(len: u64, janitor: &Janitor) -> Result<Arc<Self>> {
        const OPERATION: &str = "allocate private memory";
        let bytes = admit(OPERATION, len, janitor)?;
        let slack = if bytes >= HUGE { HUGE } else { 0 };
        let size = bytes.checked_add(slack).ok_or_else(|| too_long(OPERATION, len))?;
        let map = step(Step::Map, || MmapOptions::new().len(size).map_anon().map_err(errno))
            .map_err(|error| no_room(OPERATION, "mmap", len, error))?;
        let map = MmapRaw::from(map);
        advise(&map, Advice::HugePage);
        advise(&map, Advice::DontFork);
        let start = map.as_mut_ptr();
        let skip = if slack == 0 { 0 } else { start.align_offset(HUGE) };
        debug_assert!(skip <= slack);
        let base = NonNull::new(start.wrapping_add(skip)).expect("a map does not begin at null");
        fault_in(OPERATION, base, len, Touch::Write)?;
        Ok(Self::assemble(base, len, true, Backing::Private(map), janitor))
    }

    /// As [`Self::anonymous`], let go of on the same janitor's thread as this memory.
    pub(crate) fn beside(&self, len: u64) -> Result<Arc<Self>> {
        Self::anonymous(len, &self.janitor)
    }

    /// Memory in a sealed memfd, present from the start, which peers of this host can map: to read, and to write where
    /// a lease allows it.
    ///
    /// # Errors
    /// `Resource` when the memory cgroup, the machine or the address space has no room for it; `ApiMisuse` for 0 bytes.
    pub fn shared(len: u64, janitor: &Janitor) -> Result<Arc<Self>> {
        Self::create(len, Rights::Write, janitor)
    }

    /// As [`Self::shared`], but sealed (`F_SEAL_FUTURE_WRITE`) so that no peer can ever map it to write. A seal cannot
    /// be had for one peer and not for another; hence this is a property of the memory.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub fn shared_read_only(len: u64, janitor: &Janitor) -> Result<Arc<Self>> {
        Self::create(len, Rights::Read, janitor)
    }

    fn create(len: u64, peers: Rights, janitor: &Janitor) -> Result<Arc<Self>> {
        const OPERATION: &str = "allocate shared memory";
        let bytes = admit(OPERATION, len, janitor)?;
        let fd = step(Step::Create, memfd).map_err(|error| no_room(OPERATION, "memfd_create", len, error))?;
        step(Step::Size, || rustix::fs::ftruncate(&fd, len))
            .map_err(|error| no_room(OPERATION, "ftruncate", len, error))?;
        allocate(OPERATION, &fd, len)?;
        let map = map(OPERATION, &fd, bytes, true)?;
        // After our own map was made: FUTURE_WRITE would refuse it.
        let seals = if peers == Rights::Read { SEALS | SealFlags::FUTURE_WRITE } else { SEALS };
        rustix::fs::fcntl_add_seals(&fd, seals)
            .map_err(|error| Error::os(OPERATION, "cannot seal the memfd", error.into()))?;
        Self::from_map(OPERATION, map, fd, len, true, peers, janitor)
    }

    /// A memfd that exists already, such as an inference engine's KV cache, as memory that peers can map. It may be
    /// mapped elsewhere in the process, and stays so. All of it is taken, and made present.
    ///
    /// One that is not sealed is sealed here (SHRINK | GROW | SEAL). One that is sealed against writing is readable
    /// only.
    ///
    /// # Errors
    /// `ApiMisuse` for a descriptor that is no memfd, is empty, or can no longer be sealed; the message says how to
    /// make it fit. `Resource` as for [`Self::shared`].
    pub fn adopt(fd: OwnedFd, janitor: &Janitor) -> Result<Arc<Self>> {
        const OPERATION: &str = "adopt memfd";
        janitor.origin().check(OPERATION)?;
        let found = seals(OPERATION, &fd)?;
        let len = size(OPERATION, &fd)?;
        if len == 0 {
            return Err(misuse(
                OPERATION,
                "the memfd has no bytes; size it with ftruncate before it is adopted",
            ));
        }
        seal(OPERATION, &fd, found)?;
        // Sealed, so this is the size that it keeps: one seen before could have been cut meanwhile.
        let sealed_len = size(OPERATION, &fd)?;
        if sealed_len != len {
            return Err(misuse(
                OPERATION,
                format!("the memfd's size changed from {len} to {sealed_len} meanwhile"),
            ));
        }
        let bytes = usize::try_from(len).map_err(|_| too_long(OPERATION, len))?;
        let writable = !found.intersects(WRITE_SEALS);
        if writable {
            let present =
                rustix::fs::fstat(&fd).map_or(0, |stat| (stat.st_blocks as u64).saturating_mul(512));
            cgroup::admit(OPERATION, len.saturating_sub(present))?;
            allocate(OPERATION, &fd, len)?;
        }
        let map = map(OPERATION, &fd, bytes, writable)?;
        let peers = if writable { Rights::Write } else { Rights::Read };
        Self::from_map(OPERATION, map, fd, len, writable, peers, janitor)
    }

    fn from_map(
        operation: &'static str,
        map: MmapRaw,
        fd: OwnedFd,
        len: u64,
        writable: bool,
        peers: Rights,
        janitor: &Janitor,
    ) -> Result<Arc<Self>> {
        advise(&map, Advice::HugePage);
        advise(&map, Advice::DontFork);
        let base = NonNull::new(map.as_mut_ptr()).expect("a map does not begin at null");
        fault_in(operation, base, len, if writable { Touch::Write } else { Touch::Read })?;
        Ok(Self::assemble(base, len, writable, Backing::Shared { map, fd, peers }, janitor))
    }

    /// A peer's memfd, of which it says that it has `len` bytes: mapped to read, or with [`Rights::Write`] to read and
    /// write, and made present here. The descriptor is closed; the map stays.
    ///
    /// # Errors
    /// `Denied` when it is not sealed as [`Self::shared`] seals, is no memfd, or may not be mapped to write; `Mismatch`
    /// when it is shorter than `len`. `Resource` when it cannot be mapped.
    pub fn map_peer(fd: OwnedFd, len: u64, rights: Rights, janitor: &Janitor) -> Result<Arc<Self>> {
        const OPERATION: &str = "map a peer's memory";
        janitor.origin().check(OPERATION)?;
        let denied = |message: String| Error::new(ErrorKind::Denied, OPERATION, message);
        let found = rustix::fs::fcntl_get_seals(&fd).map_err(|error| {
            denied(format!("the peer's descriptor is no memfd ({error}); nothing was mapped"))
        })?;
        if !found.contains(SEALS) {
            return Err(denied(format!(
                "the peer's memfd has seals {:#x}, without SHRINK | GROW | SEAL it could be cut under our map; \
                 the peer must export memory that its engine made or adopted",
                found.bits()
            )));
        }
        let held = size(OPERATION, &fd)?;
        if len == 0 || held < len {
            return Err(Error::new(
                ErrorKind::Mismatch,
                OPERATION,
                format!("the peer announced {len} bytes, its memfd has {held}; nothing was mapped"),
            ));
        }
        let writable = rights == Rights::Write;
        if writable && found.intersects(WRITE_SEALS) {
            return Err(denied("the peer's memfd is sealed against writing; ask for a lease to read".into()));
        }
        let bytes = usize::try_from(len).map_err(|_| too_long(OPERATION, len))?;
        let map = map(OPERATION, &fd, bytes, writable)?;
        advise(&map, Advice::HugePage);
        advise(&map, Advice::DontFork);
        let base = NonNull::new(map.as_mut_ptr()).expect("a map does not begin at null");
        fault_in(OPERATION, base, len, if writable { Touch::Write } else { Touch::Read })?;
        Ok(Self::assemble(base, len, writable, Backing::Peer(map), janitor))
    }
}

/// A memfd that can be sealed and never executed.
fn memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("ropeway", flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know NOEXEC_SEAL.
        Err(Errno::INVAL) => rustix::fs::memfd_create("ropeway", flags),
        other => other,
    }
}

fn seals(operation: &'static str, fd: &OwnedFd) -> Result<SealFlags> {
    rustix::fs::fcntl_get_seals(fd).map_err(|error| {
        misuse(
            operation,
            format!("the descriptor is no memfd ({error}); make it with memfd_create(MFD_ALLOW_SEALING)"),
        )
    })
}

fn seal(operation: &'static str, fd: &OwnedFd, found: SealFlags) -> Result<()> {
    if found.contains(SEALS) {
        return Ok(());
    }
    if found.contains(SealFlags::SEAL) {
        return Err(misuse(
            operation,
            format!(
                "the descriptor has seals {:#x} and takes no more, but SHRINK | GROW | SEAL are needed so that no peer \
                 can cut it under a map; make it with memfd_create(MFD_ALLOW_SEALING) (files of /dev/shm cannot be sealed)",
                found.bits()
            ),
        ));
    }
    rustix::fs::fcntl_add_seals(fd, SEALS).map_err(|error| {
        misuse(
            operation,
            format!("the memfd cannot be sealed SHRINK | GROW | SEAL ({error}); give a descriptor that is open to write"),
        )
    })
}

fn size(operation: &'static str, fd: &OwnedFd) -> Result<u64> {
    let stat = rustix::fs::fstat(fd)
        .map_err(|error| Error::os(operation, "cannot look at the memfd", error.into()))?;
    Ok(stat.st_size.try_into().unwrap_or(0))
}

/// Gives every page of the file its memory, so that no access can fail for want of it.
fn allocate(operation: &'static str, fd: &OwnedFd, len: u64) -> Result<()> {
    loop {
        match step(Step::Allocate, || rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len)) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(no_room(operation, "fallocate", len, error)),
        }
    }
}

fn map(operation: &'static str, fd: &OwnedFd, bytes: usize, writable: bool) -> Result<MmapRaw> {
    let mut options = MmapOptions::new();
    options.len(bytes);
    step(Step::Map, || {
        if writable { options.map_raw(&fd.as_fd()) } else { options.map_raw_read_only(&fd.as_fd()) }
            .map_err(errno)
    })
    .map_err(|error| no_room(operation, "mmap", bytes as u64, error))
}

fn fault_in(operation: &'static str, base: NonNull<u8>, len: u64, how: Touch) -> Result<()> {
    step(Step::Populate, || populate(base, len as usize, how))
        .map_err(|error| no_room(operation, "madvise(POPULATE)", len, error))
}

/// Advice only: a kernel without huge pages refuses it, and nothing depends on it but speed, or the child of a fork.
fn advise(map: &MmapRaw, advice: Advice) {
    if let Err(error) = map.advise(advice) {
        tracing::debug!(?advice, %error, "the kernel does not take this advice");
    }
}

/// Looks at the limits before the kernel has to kill for them.
fn admit(operation: &'static str, len: u64, janitor: &Janitor) -> Result<usize> {
    janitor.origin().check(operation)?;
    if len == 0 {
        return Err(misuse(operation, "0 bytes were asked for; give the region a length"));
    }
    let bytes = usize::try_from(len).ok().filter(|bytes| *bytes <= isize::MAX as usize);
    let bytes = bytes.ok_or_else(|| too_long(operation, len))?;
    cgroup::admit(operation, len)?;
    Ok(bytes)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cold]
fn misuse(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ApiMisuse, operation, message)
}

#[cold]
fn too_long(operation: &'static str, len: u64) -> Error {
    misuse(operation, format!("{len} bytes are more than an address space holds"))
}

#[cold]
fn no_room(operation: &'static str, call: &str, len: u64, error: Errno) -> Error {
    let message = format!("{call} of {len} bytes failed; ask for less, or raise the limit that it met");
    Error::os(operation, message, error.into())
}
