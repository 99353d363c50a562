//! The loops for architectures without `asm!` kernels: volatile words, then bytes. Right, slow, and one step weaker
//! than `asm!`: the language calls a volatile access that races a data race too, though no compiler exploits it.

use std::sync::atomic::{AtomicU8, Ordering, fence};

const WORD: usize = size_of::<usize>();

/// # Safety
/// As `copy`.
pub(crate) unsafe fn plain(to: *mut u8, from: *const u8, len: usize) {
    let mut at = 0;
    if to.align_offset(WORD) == 0 && from.align_offset(WORD) == 0 {
        while at + WORD <= len {
            // SAFETY: aligned, and within the caller's range.
            let word = unsafe { from.wrapping_add(at).cast::<usize>().read_volatile() };
            // SAFETY: as above.
            unsafe { to.wrapping_add(at).cast::<usize>().write_volatile(word) };
            at += WORD;
        }
    }
    while at < len {
        // SAFETY: within the caller's range.
        let byte = unsafe { from.wrapping_add(at).read_volatile() };
        // SAFETY: as above.
        unsafe { to.wrapping_add(at).write_volatile(byte) };
        at += 1;
    }
}

/// # Safety
/// As `copy`.
pub(super) unsafe fn streaming(to: *mut u8, from: *const u8, len: usize, _next: *const u8) {
    // SAFETY: the caller's contract.
    unsafe { plain(to, from, len) };
}

/// # Safety
/// As `fill`.
pub(super) unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    for at in 0..len {
        // SAFETY: within the caller's range.
        unsafe { to.wrapping_add(at).write_volatile(byte) };
    }
}

pub(super) fn store_fence() {
    fence(Ordering::SeqCst);
}

/// # Safety
/// As `touch`.
pub(super) unsafe fn touch(at: *mut u8) {
    // SAFETY: mapped and writable, by the caller's contract.
    let byte = unsafe { AtomicU8::from_ptr(at) };
    let now = byte.load(Ordering::Relaxed);
    let _ = byte.compare_exchange(now, now, Ordering::Relaxed, Ordering::Relaxed);
}

/// There is one loop here.
///
/// # Safety
/// As `copy`.
pub(crate) unsafe fn string(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { plain(to, from, len) };
}

pub(crate) use plain as vector;

/// Nothing in the language drops cache lines; measurements find them warm.
///
/// # Safety
/// None needed.
pub(crate) unsafe fn flush(_at: *const u8, _len: usize) {}

/// There is no such instruction.
pub(crate) fn use_string_copy_from(_len: usize) {}

#[cfg(test)]
pub(super) const VARIANTS: &[(&str, super::Kernel)] = &[];
