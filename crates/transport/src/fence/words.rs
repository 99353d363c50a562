//! Arrays of atomic words: in a memfd that a peer maps, or in plain memory.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};
use ropeway_core::{Error, ErrorKind, Result};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::sync::atomic::AtomicU64;

/// Words of the header in front of both kinds of segment.
pub(crate) const HEADER_WORDS: usize = 8;

/// A fixed array of atomic words.
pub(crate) struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
    keep: Keep,
}

enum Keep {
    Plain { _words: Box<[AtomicU64]> },
    Mapped { _map: MmapRaw, fd: Option<OwnedFd> },
}

// SAFETY: the words are atomics, and what they lie in lives as long as `keep`.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Plain memory of this process.
    pub(crate) fn plain(count: usize) -> Self {
        let words: Box<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let first = NonNull::from(&words[0]);
        Self { first, count, keep: Keep::Plain { _words: words } }
    }

    /// A memfd: sized, mapped, then sealed. Whoever gets its descriptor can map it for reading only.
    pub(crate) fn shared(name: &str, count: usize) -> Result<Self> {
        let failed = |what: &str, error: std::io::Error| {
            Error::os("fence", format!("{what} of the {count}-word segment {name}"), error)
        };
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| failed("memfd_create", errno.into()))?;
        let bytes = count * size_of::<AtomicU64>();
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(|errno| failed("ftruncate", errno.into()))?;
        let file = File::from(fd);
        let map = MmapOptions::new().len(bytes).map_raw(&file).map_err(|error| failed("mmap", error))?;
        rustix::fs::fcntl_add_seals(&file, PEER_READS_ONLY)
            .map_err(|errno| failed("sealing", errno.into()))?;
        Ok(Self::over(map, Some(file.into())))
    }

    /// A peer's segment, for reading.
    ///
    /// # Errors
    /// `Protocol` when it could be truncated or written by us, or is not exactly as long as the peer says.
    pub(crate) fn peer(fd: OwnedFd, count: usize) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::Protocol, "fence", why);
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|errno| refuse(format!("the peer's segment is no memfd: {errno}")))?;
        if !seals.contains(PEER_READS_ONLY) {
            return Err(refuse(format!(
                "the peer's segment has seals {seals:?}; it needs {PEER_READS_ONLY:?}"
            )));
        }
        let bytes = count * size_of::<AtomicU64>();
        let size = rustix::fs::fstat(&fd).map_err(|errno| refuse(format!("fstat: {errno}")))?.st_size;
        if u64::try_from(size).ok() != Some(bytes as u64) {
            return Err(refuse(format!("the peer's segment has {size} bytes, not {bytes}")));
        }
        let file = File::from(fd);
        let map = MmapOptions::new()
            .len(bytes)
            .map_raw_read_only(&file)
            .map_err(|error| Error::os("fence", "mapping the peer's segment", error))?;
        Ok(Self::over(map, None))
    }

    fn over(map: MmapRaw, fd: Option<OwnedFd>) -> Self {
        let first = NonNull::new(map.as_mut_ptr().cast::<AtomicU64>()).expect("a map is not at address 0");
        let count = map.len() / size_of::<AtomicU64>();
        Self { first, count, keep: Keep::Mapped { _map: map, fd } }
    }

    /// The word at `index`. A peer's word may only be loaded: its map is read-only.
    pub(crate) fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: the index was checked; `keep` holds `count` words from `first` on.
        let word = unsafe { self.first.add(index) };
        // SAFETY: aligned (maps to pages, boxes to the type), initialised (maps to zero), and only atomically used.
        unsafe { word.as_ref() }
    }

    /// The descriptor that a peer may get, where there is one.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.keep {
            Keep::Plain { .. } => None,
            Keep::Mapped { fd, .. } => fd.as_ref().map(AsFd::as_fd),
        }
    }
}

/// No resizing, no new writable map or write call, no change of the seals. The owner's map, made before, still writes.
const PEER_READS_ONLY: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);
