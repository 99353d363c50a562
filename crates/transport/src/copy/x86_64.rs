//! The loops for x86-64.

use std::arch::asm;

/// # Safety
/// As `copy`.
#[inline]
pub(super) unsafe fn plain(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract; the direction flag is clear at every `asm!`.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
/// As `copy`.
#[inline]
pub(super) unsafe fn streaming(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract. Head: to the next line of the destination. Body: whole lines. Tail: the rest.
    unsafe {
        asm!(
            "mov {all}, rcx",
            "mov rcx, rdi",
            "neg rcx",
            "and rcx, 63",
            "cmp rcx, {all}",
            "cmova rcx, {all}",
            "sub {all}, rcx",
            "rep movsb",
            "mov rcx, {all}",
            "shr rcx, 6",
            "jz 3f",
            "2:",
            "movups xmm0, [rsi]",
            "movups xmm1, [rsi + 16]",
            "movups xmm2, [rsi + 32]",
            "movups xmm3, [rsi + 48]",
            "movntps [rdi], xmm0",
            "movntps [rdi + 16], xmm1",
            "movntps [rdi + 32], xmm2",
            "movntps [rdi + 48], xmm3",
            "add rsi, 64",
            "add rdi, 64",
            "dec rcx",
            "jnz 2b",
            "3:",
            "mov rcx, {all}",
            "and rcx, 63",
            "rep movsb",
            all = out(reg) _,
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack),
        );
    }
}

/// # Safety
/// As `fill`.
#[inline]
pub(super) unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    // SAFETY: the caller's contract; the direction flag is clear at every `asm!`.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("al") byte,
            options(nostack, preserves_flags),
        );
    }
}

#[inline]
pub(super) fn store_fence() {
    // SAFETY: an order, no access.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}

/// # Safety
/// As `touch`.
pub(super) unsafe fn touch(at: *mut u8) {
    // SAFETY: the caller's contract. An atomic OR with 0 changes no byte.
    unsafe { asm!("lock or byte ptr [{at}], 0", at = in(reg) at, options(nostack)) };
}
