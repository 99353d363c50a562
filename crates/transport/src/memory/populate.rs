//! Making pages present before transfers need them: first touch runs at about 1 GB/s, so several threads share it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use crate::copy;

/// What the first touch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Touch {
    /// The map may only be read.
    Read,
    /// Pages are made present and writable; bytes keep their values.
    Write,
}

/// What one thread takes at a time.
const CHUNK: usize = 16 << 20;
/// More threads contend for the kernel's page allocator.
const MAX_THREADS: usize = 16;
/// The smallest page there is; where pages are larger some are touched more than once.
const PAGE: usize = 4096;

/// Makes `base..base + len` present. The range is mapped, and writable for [`Touch::Write`].
pub(super) fn populate(base: NonNull<u8>, len: usize, how: Touch) -> Result<(), Errno> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(len.div_ceil(CHUNK)).clamp(1, MAX_THREADS);
    let work = Work {
        base: AtomicPtr::new(base.as_ptr()),
        len,
        how,
        next: AtomicUsize::new(0),
        failed: AtomicI32::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread the others do its share.
            let _ = std::thread::Builder::new()
                .name("ropeway-populate".into())
                .spawn_scoped(scope, || work.run());
        }
        work.run();
    });
    match work.failed.into_inner() {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// As [`populate`] does where the kernel cannot.
#[cfg(test)]
pub(super) fn populate_by_touch(base: NonNull<u8>, len: usize, how: Touch) {
    how.touch(base.as_ptr(), len);
}

struct Work {
    /// Atomic only to be shared between threads.
    base: AtomicPtr<u8>,
    len: usize,
    how: Touch,
    next: AtomicUsize,
    failed: AtomicI32,
}

impl Work {
    fn run(&self) {
        while self.failed.load(Ordering::Relaxed) == 0 {
            let at = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            if at >= self.len {
                return;
            }
            if let Err(error) = self.chunk(at, CHUNK.min(self.len - at)) {
                self.failed.store(error.raw_os_error(), Ordering::Relaxed);
            }
        }
    }

    fn chunk(&self, at: usize, len: usize) -> Result<(), Errno> {
        let start = self.base.load(Ordering::Relaxed).wrapping_add(at);
        let advice = match self.how {
            Touch::Read => Advice::LinuxPopulateRead,
            Touch::Write => Advice::LinuxPopulateWrite,
        };
        loop {
            // SAFETY: within a live map of the caller; populating changes no byte.
            match unsafe { madvise(start.cast(), len, advice) } {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // Kernels before 5.14.
                Err(Errno::INVAL) => {
                    self.how.touch(start, len);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Touch {
    fn touch(self, start: *mut u8, len: usize) {
        for at in (0..len).step_by(PAGE) {
            let page = start.wrapping_add(at);
            match self {
                // SAFETY: within a live map of the caller that is writable.
                Self::Write => unsafe { copy::touch(page) },
                Self::Read => {
                    let mut byte = 0;
                    // SAFETY: within a live map of the caller; `byte` is ours.
                    unsafe { copy::copy(&raw mut byte, page, 1, copy::Routine::Plain) };
                }
            }
        }
    }
}
