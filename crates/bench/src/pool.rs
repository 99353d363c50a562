//! Memory that the benchmark owns: the engine registers it and the reference copies it, so both move the same pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use crate::control::Memory;

/// A range of memory, either private or backed by a memfd.
///
/// Peers write to it, so no reference is ever made to its bytes; they are read and written word by word.
pub(crate) struct Pool {
    base: NonNull<u8>,
    len: usize,
    file: Option<OwnedFd>,
}

// SAFETY: the pool is an address range and a descriptor; access to its bytes goes through raw reads and writes, and the
// benchmark orders those by the ends of transfers.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// The bytes of a pool that is to be of this kind. What an NPU's runtime allocates is a mirror here: filled, poisoned
    /// and compared in this process, and copied there and back.
    pub(crate) fn of(memory: Memory, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        match memory {
            Memory::Shared => Self::shared(len),
            Memory::Private | Memory::Device | Memory::Pinned => Self::private(len),
        }
    }

    /// Anonymous memory, in huge pages where the system gives them.
    pub(crate) fn private(len: usize) -> io::Result<Self> {
        let base = map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let pool = Self { base, len, file: None };
        // SAFETY: the range was mapped just now. A refusal costs speed only.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        pool.populate();
        Ok(pool)
    }

    /// Memory in a memfd that can be handed to another process and sealed.
    pub(crate) fn shared(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string; the call takes no other pointer.
        let file = unsafe {
            libc::memfd_create(c"ropeway-bench".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and nobody else owns it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let file = File::from(file);
        file.set_len(len as u64)?;
        let pool = Self::adopt(file.into(), len)?;
        pool.populate();
        Ok(pool)
    }

    /// Maps a memfd of another process.
    pub(crate) fn adopt(file: OwnedFd, len: usize) -> io::Result<Self> {
        let base = map(len, libc::MAP_SHARED, file.as_raw_fd())?;
        Ok(Self { base, len, file: Some(file) })
    }

    /// The memfd, for the engine or another process.
    pub(crate) fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Maps every page now, many at a time: one by one, at first touch, takes several times as long. Where the kernel
    /// cannot, first touch does it.
    fn populate(&self) {
        // SAFETY: the range is mapped and this pool's own; populating changes no contents.
        unsafe { libc::madvise(self.base().cast(), self.len, libc::MADV_POPULATE_WRITE) };
    }

    /// Reads a word of every page, so that each is mapped before something is timed.
    pub(crate) fn touch(&self) {
        for page in (0..self.len).step_by(4096) {
            std::hint::black_box(self.word(page));
        }
    }

    /// Writes words from byte `at` on, which must be a multiple of 8.
    pub(crate) fn write_words(&self, at: usize, words: impl ExactSizeIterator<Item = u64>) {
        assert!(
            at.is_multiple_of(8) && at + words.len() * 8 <= self.len,
            "{} words at {at} pass the end",
            words.len()
        );
        let start = self.base().wrapping_add(at).cast::<u64>();
        for (i, word) in words.enumerate() {
            // SAFETY: bounds and alignment were checked above (the base is page aligned).
            unsafe { start.wrapping_add(i).write(word) };
        }
    }

    /// The word at byte `at`, which must be a multiple of 8.
    pub(crate) fn word(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len, "the word at {at} passes the end");
        // SAFETY: bounds and alignment were checked; the base is page aligned.
        unsafe { self.base().wrapping_add(at).cast::<u64>().read() }
    }

    /// The first byte of `at..at + len` that is not what `expected` says for its word index, counted from `first_word`.
    pub(crate) fn mismatch(&self, at: usize, words: usize, expected: impl Fn(usize) -> u64) -> Option<usize> {
        assert!(at.is_multiple_of(8) && at + words * 8 <= self.len, "{words} words at {at} pass the end");
        let start = self.base().wrapping_add(at).cast::<u64>();
        const STEP: usize = 512;
        let mut first = 0;
        while first < words {
            let step = STEP.min(words - first);
            let mut differ = 0;
            for i in first..first + step {
                // SAFETY: bounds and alignment were checked above.
                differ |= unsafe { start.wrapping_add(i).read() } ^ expected(i);
            }
            if differ != 0 {
                return (first..first + step).find(|&i| self.word(at + i * 8) != expected(i));
            }
            first += step;
        }
        None
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        assert!(at < self.len, "the byte at {at} passes the end");
        // SAFETY: bounds were checked.
        unsafe { self.base().wrapping_add(at).read() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; whoever copies from or to the pool borrows it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn map(len: usize, flags: i32, file: RawFd) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice; nothing that exists is touched.
    let base =
        unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, file, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("a mapping is never at address 0"))
}
