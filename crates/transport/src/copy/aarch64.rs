//! The loops for aarch64.

use std::arch::asm;

macro_rules! copy_loop {
    ($to:expr, $from:expr, $len:expr, $load:literal, $store:literal) => {
        asm!(
            "cmp {len}, #64",
            "b.lo 3f",
            "2:",
            concat!($load, " q0, q1, [{from}]"),
            concat!($load, " q2, q3, [{from}, #32]"),
            concat!($store, " q0, q1, [{to}]"),
            concat!($store, " q2, q3, [{to}, #32]"),
            "add {from}, {from}, #64",
            "add {to}, {to}, #64",
            "sub {len}, {len}, #64",
            "cmp {len}, #64",
            "b.hs 2b",
            "3:",
            "cmp {len}, #8",
            "b.lo 5f",
            "4:",
            "ldr {word}, [{from}], #8",
            "str {word}, [{to}], #8",
            "sub {len}, {len}, #8",
            "cmp {len}, #8",
            "b.hs 4b",
            "5:",
            "cbz {len}, 7f",
            "6:",
            "ldrb {word:w}, [{from}], #1",
            "strb {word:w}, [{to}], #1",
            "subs {len}, {len}, #1",
            "b.ne 6b",
            "7:",
            to = inout(reg) $to => _,
            from = inout(reg) $from => _,
            len = inout(reg) $len => _,
            word = out(reg) _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            options(nostack),
        )
    };
}

/// # Safety
/// As `copy`.
#[inline]
pub(crate) unsafe fn plain(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { copy_loop!(to, from, len, "ldp", "stp") };
}

/// # Safety
/// As `copy`.
#[inline]
pub(super) unsafe fn streaming(to: *mut u8, from: *const u8, len: usize, _next: *const u8) {
    // SAFETY: the caller's contract.
    unsafe { copy_loop!(to, from, len, "ldnp", "stnp") };
}

/// # Safety
/// As `fill`.
#[inline]
pub(super) unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            "dup v0.16b, {byte:w}",
            "cmp {len}, #32",
            "b.lo 3f",
            "2:",
            "stp q0, q0, [{to}], #32",
            "sub {len}, {len}, #32",
            "cmp {len}, #32",
            "b.hs 2b",
            "3:",
            "cbz {len}, 5f",
            "4:",
            "strb {byte:w}, [{to}], #1",
            "subs {len}, {len}, #1",
            "b.ne 4b",
            "5:",
            to = inout(reg) to => _,
            len = inout(reg) len => _,
            byte = in(reg) u32::from(byte),
            out("v0") _,
            options(nostack),
        );
    }
}

/// Writes the lines of a range back and drops them from all caches, so that a measurement finds it cold.
///
/// # Safety
/// The range is mapped and readable.
pub(crate) unsafe fn flush(at: *const u8, len: usize) {
    for offset in (0..len).step_by(64) {
        // SAFETY: within the caller's range; Linux lets user space clean lines.
        unsafe {
            asm!("dc civac, {line}", line = in(reg) at.wrapping_add(offset), options(nostack, preserves_flags))
        };
    }
    // SAFETY: an order, no access.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
}

#[inline]
pub(super) fn store_fence() {
    // SAFETY: an order, no access. `ishst`: stores before stores, within the cores that share memory coherently.
    unsafe { asm!("dmb ishst", options(nostack, preserves_flags)) };
}

/// # Safety
/// As `touch`.
pub(super) unsafe fn touch(at: *mut u8) {
    // SAFETY: the caller's contract. The exclusive pair writes the byte back only if nobody else wrote it meanwhile.
    unsafe {
        asm!(
            "2:",
            "ldxrb {byte:w}, [{at}]",
            "stxrb {failed:w}, {byte:w}, [{at}]",
            "cbnz {failed:w}, 2b",
            at = in(reg) at,
            byte = out(reg) _,
            failed = out(reg) _,
            options(nostack),
        );
    }
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

/// There is no such instruction.
pub(crate) fn use_string_copy_from(_len: usize) {}

#[cfg(test)]
pub(super) const VARIANTS: &[(&str, super::Kernel)] = &[];
