//! For tests: pages with fences around them, and pages that crash whoever touches them.
//!
//! A test registers [`Guarded`] memory as a region, and after a terminal status that calls blocks quiet it makes their
//! pages [`Protection::None`]: a late access then is a SIGSEGV and no silent corruption.

use std::ops::Range;
use std::ptr::NonNull;

use memmap2::{MmapMut, MmapRaw};
use rustix::mm::{MprotectFlags, mprotect};

/// What may be done with pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Nothing: any access is a SIGSEGV; `process_vm_readv` and `process_vm_writev` get EFAULT.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Whole pages between two pages that cannot be touched. Can be the keep-alive of [`Memory::raw`](crate::Memory::raw).
#[derive(Debug)]
pub struct Guarded {
    map: MmapRaw,
    page: usize,
    len: usize,
}

impl Guarded {
    /// At least `len` bytes of zeros, rounded up to pages.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(len: usize) -> std::io::Result<Self> {
        let page = page_size();
        let len = len.next_multiple_of(page).max(page);
        let map = MmapRaw::from(MmapMut::map_anon(len + 2 * page)?);
        let guarded = Self { map, page, len };
        guarded.set(0..page, Protection::None)?;
        guarded.set(page + len..len + 2 * page, Protection::None)?;
        Ok(guarded)
    }

    /// The first byte; the byte before it is in a guard page.
    pub fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr().wrapping_add(self.page)).expect("a map does not begin at null")
    }

    /// Bytes; the byte after the last one is in a guard page.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes. Never true.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes what may be done with the pages that lie wholly in `bytes`, counted from [`Self::base`].
    ///
    /// # Errors
    /// What the system said; `InvalidInput` for a range that passes the end.
    pub fn protect(&self, bytes: Range<usize>, protection: Protection) -> std::io::Result<()> {
        if bytes.start > bytes.end || bytes.end > self.len {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let first = bytes.start.next_multiple_of(self.page);
        let end = bytes.end / self.page * self.page;
        if first < end { self.set(self.page + first..self.page + end, protection) } else { Ok(()) }
    }

    fn set(&self, range: Range<usize>, protection: Protection) -> std::io::Result<()> {
        let flags = match protection {
            Protection::None => MprotectFlags::empty(),
            Protection::Read => MprotectFlags::READ,
            Protection::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let start = self.map.as_mut_ptr().wrapping_add(range.start);
        // SAFETY: pages of our own map, of which no reference is ever made.
        unsafe { mprotect(start.cast(), range.len(), flags) }?;
        Ok(())
    }
}

fn page_size() -> usize {
    // SAFETY: reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(65_536)
}
