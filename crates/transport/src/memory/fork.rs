//! Telling a forked child from the process that made an object.
//!
//! A word in a `MADV_WIPEONFORK` page holds the process's epoch. The kernel zeroes the page in a child, by whatever call
//! it was made (and a `pthread_atfork` handler does, where the kernel does not know the advice); the first who
//! looks there draws the next epoch from a counter that the child has inherited. An object that remembers the epoch of
//! its making knows whether it is in another process, while objects made in the child itself work.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use memmap2::{MmapMut, MmapRaw};
use ropeway_core::{Error, ErrorKind, Result};
use rustix::mm::{Advice, madvise};

/// The process in which something was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin(u64);

impl Origin {
    /// This process.
    ///
    /// # Errors
    /// `Resource`: not one page of memory is to be had.
    pub fn here() -> Result<Self> {
        epoch_page()?;
        Ok(Self(epoch()))
    }

    /// Whether this process is a forked child of the one that `self` names. Two loads.
    pub fn is_foreign(self) -> bool {
        self.0 != epoch()
    }

    /// # Errors
    /// `Forked`, in a forked child.
    pub fn check(self, operation: &'static str) -> Result<()> {
        if self.is_foreign() { Err(forked(operation)) } else { Ok(()) }
    }
}

/// Whether this process was forked from one that had used Ropeway. Objects should rather keep an [`Origin`]: a child
/// may open an engine of its own.
pub fn in_child() -> bool {
    let first = FIRST.load(Ordering::Relaxed);
    first != 0 && first != epoch()
}

/// The error of a call in a forked child on what belongs to its parent.
#[cold]
pub fn forked(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Forked,
        operation,
        "this belongs to the parent process, which goes on using it; open an engine of its own in the child",
    )
}

static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static NEXT: AtomicU64 = AtomicU64::new(1);
static FIRST: AtomicU64 = AtomicU64::new(0);

fn epoch() -> u64 {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return 0;
    }
    // SAFETY: set once to a live page that is never unmapped.
    let word = unsafe { &*page };
    match word.load(Ordering::Relaxed) {
        0 => {
            let drawn = NEXT.fetch_add(1, Ordering::Relaxed);
            match word.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => drawn,
                Err(other) => other,
            }
        }
        epoch => epoch,
    }
}

/// In a child of `fork()`: what the kernel has done already, unless it is older than 4.14, or emulated.
unsafe extern "C" fn forget_epoch() {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: set once to a live page that is never unmapped.
    if let Some(word) = unsafe { page.as_ref() } {
        word.store(0, Ordering::Relaxed);
    }
}

fn epoch_page() -> Result<()> {
    if !PAGE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let map =
        MmapMut::map_anon(4096).map_err(|error| Error::os("fork word", "cannot map one page", error))?;
    let map = MmapRaw::from(map);
    // SAFETY: our own page, of which no reference exists yet; the advice changes no byte in this process.
    if let Err(error) = unsafe { madvise(map.as_mut_ptr().cast(), map.len(), Advice::LinuxWipeOnFork) } {
        tracing::debug!(%error, "MADV_WIPEONFORK was refused; only the handler tells forked children");
    }
    let page: *mut AtomicU64 = map.as_mut_ptr().cast();
    if PAGE.compare_exchange(std::ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        std::mem::forget(map);
        FIRST.store(epoch(), Ordering::Relaxed);
        // SAFETY: the handler is async-signal-safe: two atomic accesses.
        unsafe { libc::pthread_atfork(None, None, Some(forget_epoch)) };
    }
    Ok(())
}
