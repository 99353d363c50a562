//! Copy kernels: the only code that touches the bytes of regions.
//!
//! A peer may write the same bytes at the same time, so `ptr::copy`, slices and plain vector loads would be data races.
//! The loops here are wholly in `asm!` (x86-64, aarch64): to the compiler they are one opaque step of the machine, and
//! a race makes the copied bytes arbitrary, never the program. Other architectures get a loop of volatile accesses,
//! which is as far as the language goes there; it is slow and meant for building, not for service.

use std::fmt;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "portable.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;

#[cfg(test)]
mod litmus;
#[cfg(test)]
mod tests;

/// A loop: to, from, length, and where the next piece will be read from.
#[cfg(test)]
type Kernel = unsafe fn(*mut u8, *const u8, usize, *const u8);

/// How bytes are copied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Routine {
    /// Through the cache: right when the destination stays in it.
    Plain,
    /// Past the cache: saves reading the destination before it is overwritten; right for cold blocks. Its stores reach
    /// others in order only after [`store_fence`].
    Streaming,
    /// Copies nothing. For the benchmark of bookkeeping alone; the engine's builder does not offer it.
    #[doc(hidden)]
    Null,
}

impl fmt::Display for Routine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Streaming => "streaming",
            Self::Null => "null",
        })
    }
}

/// One copy of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte to write.
    pub to: *mut u8,
    /// First byte to read.
    pub from: *const u8,
    /// Bytes.
    pub len: usize,
}

/// Copies `len` bytes. Any alignment; a length of 0 touches nothing.
///
/// Ends without a fence: call [`store_fence`] after the last copy and before anything that tells others of it.
///
/// # Safety
/// `from..from + len` is mapped and readable and `to..to + len` mapped and writable until the call returns, and the two
/// do not overlap. Other threads, processes and devices may access both meanwhile; Rust references to the destination
/// may not exist except the caller's own.
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize, routine: Routine) {
    // SAFETY: the caller's contract.
    unsafe { copy_then(to, from, len, from, routine) };
}

/// As [`copy`], and at its end prefetches `next`, where the following copy will read from: what a hardware prefetcher
/// cannot know of scattered blocks. `next` is not accessed and may be any address.
///
/// # Safety
/// As [`copy`].
#[inline]
pub unsafe fn copy_then(to: *mut u8, from: *const u8, len: usize, next: *const u8, routine: Routine) {
    match routine {
        // SAFETY: the caller's contract.
        Routine::Plain => unsafe { arch::plain(to, from, len) },
        // SAFETY: the caller's contract.
        Routine::Streaming => unsafe { arch::streaming(to, from, len, next) },
        Routine::Null => {}
    }
}

/// Copies a list of pieces by [`copy_then`], one after the other, and ends with [`store_fence`].
///
/// # Safety
/// As [`copy`], for each piece; and no piece is written where another one is read.
pub unsafe fn copy_runs(pieces: &[Piece], routine: Routine) {
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        let next = pieces.peek().map_or(piece.from, |next| next.from);
        // SAFETY: the caller's contract.
        unsafe { copy_then(piece.to, piece.from, piece.len, next, routine) };
    }
    store_fence();
}

/// Sets `len` bytes to `byte`. Ends without a fence.
///
/// # Safety
/// `to..to + len` is mapped and writable until the call returns; no Rust reference to it exists except the caller's own.
#[inline]
pub unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { arch::fill(to, byte, len) };
}

/// Makes every store of this thread so far, streaming ones too, visible to others before any store that follows.
///
/// A release store does not do it: compilers and CPUs order ordinary stores by it, not streaming ones.
#[inline]
pub fn store_fence() {
    arch::store_fence();
}

/// The parts of the plain copy, and what else calibration needs.
pub(crate) mod tuning {
    pub(crate) use super::arch::{flush, string, use_string_copy_from, vector};
}

/// Makes the page of `at` present and writable without changing its bytes, whoever else writes there.
///
/// # Safety
/// `at` is mapped and writable.
pub(crate) unsafe fn touch(at: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe { arch::touch(at) };
}
