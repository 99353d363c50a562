//! The loops for x86-64: AVX where the CPU has it, SSE2 else, and `rep movsb` where that is faster.
//!
//! Blocks of a KV cache are scattered, and hardware prefetchers stop at each page and know nothing of the next block.
//! The streaming loop therefore prefetches along the list: [`AHEAD`] bytes on in the same piece, and over its last
//! bytes the head of the next piece. On a Zen 5 core that gave 1.3 times a C loop of streaming stores at 4 KiB blocks.

use std::arch::{asm, is_x86_feature_detected};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far ahead the streaming loop prefetches. 1,024 and 2,048 gave less at blocks of 4 to 64 KiB on a Zen 5 core.
const AHEAD: usize = 4096;
/// What the vector loops move per round.
const ROUND: usize = 128;
/// Streaming stores want whole lines; below this there are too few of them.
const STREAM_MIN: usize = 256;
/// In longer pieces the hardware's prefetcher has caught up, and prefetching by hand costs a little.
const BULK_MIN: usize = 128 << 10;

/// From which length on the plain copy to a whole line is `rep movsb`; `usize::MAX`: never. Calibration sets it.
static STRING_FROM: AtomicUsize = AtomicUsize::new(4096);

/// Tells from which length on the plain copy is to be `rep movsb`.
pub(crate) fn use_string_copy_from(len: usize) {
    STRING_FROM.store(len, Ordering::Relaxed);
}

/// # Safety
/// As `copy`.
#[inline]
pub(super) unsafe fn plain(to: *mut u8, from: *const u8, len: usize) {
    // Microcode is slow at destinations that begin within a line, on some CPUs very slow.
    if len >= STRING_FROM.load(Ordering::Relaxed) && to.addr().is_multiple_of(64) {
        // SAFETY: the caller's contract.
        unsafe { string(to, from, len) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { vector(to, from, len) };
    }
}

/// `next` is where the following piece will be read from, or `from` when there is none: it is prefetched, not read.
///
/// # Safety
/// As `copy`.
#[inline]
pub(super) unsafe fn streaming(to: *mut u8, from: *const u8, len: usize, next: *const u8) {
    if len < STREAM_MIN {
        // SAFETY: the caller's contract.
        unsafe { vector(to, from, len) };
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: the caller's contract, and the CPU has AVX.
        unsafe { stream_with(to, from, len, next, streaming_avx, bulk_avx) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { stream_with(to, from, len, next, streaming_sse, bulk_sse) };
    }
}

/// # Safety
/// As `copy`.
pub(crate) unsafe fn string(to: *mut u8, from: *const u8, len: usize) {
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
pub(crate) unsafe fn vector(to: *mut u8, from: *const u8, len: usize) {
    if len < ROUND {
        // SAFETY: the caller's contract.
        unsafe { short(to, from, len) };
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: the caller's contract, and the CPU has AVX.
        unsafe { vector_with(to, from, len, plain_avx) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { vector_with(to, from, len, plain_sse) };
    }
}

/// # Safety
/// As `copy`; `len` is at least a round. `rounds` can run on this CPU.
#[inline(always)]
unsafe fn vector_with(to: *mut u8, from: *const u8, len: usize, rounds: Rounds) {
    // SAFETY: whole rounds within the caller's range.
    unsafe { rounds(to, from, from, len / ROUND) };
    if !len.is_multiple_of(ROUND) {
        let last = len - ROUND;
        // SAFETY: the last round of the caller's range; it overlaps what was copied with the same bytes.
        unsafe { rounds(to.wrapping_add(last), from.wrapping_add(last), from, 1) };
    }
}

/// # Safety
/// As `copy`; `len` is at least `STREAM_MIN`. Both loops can run on this CPU.
#[inline(always)]
unsafe fn stream_with(to: *mut u8, from: *const u8, len: usize, next: *const u8, near: Rounds, bulk: Rounds) {
    let head = to.addr().wrapping_neg() % 64;
    if head > 0 {
        // SAFETY: `head` is less than `len`.
        unsafe { short(to, from, head) };
    }
    let (to, from) = (to.wrapping_add(head), from.wrapping_add(head));
    let all = (len - head) / ROUND;
    let first = all.saturating_sub(AHEAD / ROUND);
    if first > 0 {
        let rounds = if len < BULK_MIN { near } else { bulk };
        // SAFETY: whole rounds within the caller's range; `to` begins a line.
        unsafe { rounds(to, from, from.wrapping_add(AHEAD), first) };
    }
    let (to, from) = (to.wrapping_add(first * ROUND), from.wrapping_add(first * ROUND));
    // SAFETY: as above; `len` leaves at least one round after any head.
    unsafe { near(to, from, next, all - first) };
    let done = (all - first) * ROUND;
    // SAFETY: the rest of the caller's range, less than a round.
    unsafe { short(to.wrapping_add(done), from.wrapping_add(done), (len - head) % ROUND) };
}

/// A loop over whole rounds: to, from, ahead, count.
type Rounds = unsafe fn(*mut u8, *const u8, *const u8, usize);

macro_rules! rounds {
    (
        $(#[$attribute:meta])* $name:ident: $load:literal, $store:literal,
        $($register:tt at $offset:literal),* $(,)?; $($prefetch:literal),*; $end:literal
    ) => {
        /// # Safety
        /// `rounds` whole rounds, at least one, lie within both ranges of a `copy`; for streaming stores `to` begins a
        /// line. `ahead` may point anywhere.
        $(#[$attribute])*
        unsafe fn $name(to: *mut u8, from: *const u8, ahead: *const u8, rounds: usize) {
            // SAFETY: the caller's contract. A prefetch never faults.
            unsafe {
                asm!(
                    "2:",
                    $($prefetch,)*
                    $(concat!($load, " ", $register, ", [{from} + ", $offset, "]"),)*
                    "add {from}, 128",
                    $(concat!($store, " [{to} + ", $offset, "], ", $register),)*
                    "add {to}, 128",
                    "dec {rounds}",
                    "jnz 2b",
                    $end,
                    "/* {ahead} */",
                    to = inout(reg) to => _,
                    from = inout(reg) from => _,
                    ahead = inout(reg) ahead => _,
                    rounds = inout(reg) rounds => _,
                    $(out($register) _,)*
                    options(nostack),
                );
            }
        }
    };
}

rounds! {
    #[target_feature(enable = "avx")]
    plain_avx: "vmovups", "vmovups",
    "ymm0" at 0, "ymm1" at 32, "ymm2" at 64, "ymm3" at 96;; "vzeroupper"
}
rounds! {
    plain_sse: "movups", "movups",
    "xmm0" at 0, "xmm1" at 16, "xmm2" at 32, "xmm3" at 48, "xmm4" at 64, "xmm5" at 80, "xmm6" at 96, "xmm7" at 112;; ""
}
rounds! {
    #[target_feature(enable = "avx")]
    streaming_avx: "vmovups", "vmovntps",
    "ymm0" at 0, "ymm1" at 32, "ymm2" at 64, "ymm3" at 96;
    "prefetcht0 [{ahead}]", "prefetcht0 [{ahead} + 64]", "add {ahead}, 128"; "vzeroupper"
}
rounds! {
    #[target_feature(enable = "avx")]
    bulk_avx: "vmovups", "vmovntps",
    "ymm0" at 0, "ymm1" at 32, "ymm2" at 64, "ymm3" at 96;; "vzeroupper"
}
rounds! {
    streaming_sse: "movups", "movntps",
    "xmm0" at 0, "xmm1" at 16, "xmm2" at 32, "xmm3" at 48, "xmm4" at 64, "xmm5" at 80, "xmm6" at 96, "xmm7" at 112;
    "prefetcht0 [{ahead}]", "prefetcht0 [{ahead} + 64]", "add {ahead}, 128"; ""
}
rounds! {
    bulk_sse: "movups", "movntps",
    "xmm0" at 0, "xmm1" at 16, "xmm2" at 32, "xmm3" at 48, "xmm4" at 64, "xmm5" at 80, "xmm6" at 96, "xmm7" at 112;; ""
}

/// Less than a round: 64, 32, 16 and 8 bytes as the bits of the length say, then bytes.
///
/// # Safety
/// As `copy`; `len` is less than a round.
unsafe fn short(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract: each step moves the bytes of one bit of `len`.
    unsafe {
        asm!(
            "test {len:e}, 64",
            "jz 2f",
            "movups xmm0, [{from}]",
            "movups xmm1, [{from} + 16]",
            "movups xmm2, [{from} + 32]",
            "movups xmm3, [{from} + 48]",
            "add {from}, 64",
            "movups [{to}], xmm0",
            "movups [{to} + 16], xmm1",
            "movups [{to} + 32], xmm2",
            "movups [{to} + 48], xmm3",
            "add {to}, 64",
            "2:",
            "test {len:e}, 32",
            "jz 2f",
            "movups xmm0, [{from}]",
            "movups xmm1, [{from} + 16]",
            "add {from}, 32",
            "movups [{to}], xmm0",
            "movups [{to} + 16], xmm1",
            "add {to}, 32",
            "2:",
            "test {len:e}, 16",
            "jz 2f",
            "movups xmm0, [{from}]",
            "add {from}, 16",
            "movups [{to}], xmm0",
            "add {to}, 16",
            "2:",
            "test {len:e}, 8",
            "jz 2f",
            "mov {word}, [{from}]",
            "add {from}, 8",
            "mov [{to}], {word}",
            "add {to}, 8",
            "2:",
            "and {len:e}, 7",
            "jz 3f",
            "2:",
            "mov {word:l}, [{from}]",
            "inc {from}",
            "mov [{to}], {word:l}",
            "inc {to}",
            "dec {len:e}",
            "jnz 2b",
            "3:",
            to = inout(reg) to => _,
            from = inout(reg) from => _,
            len = inout(reg) len => _,
            word = out(reg) _,
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

/// Writes the lines of a range back and drops them from all caches, so that a measurement finds it cold.
///
/// # Safety
/// The range is mapped and readable.
pub(crate) unsafe fn flush(at: *const u8, len: usize) {
    for offset in (0..len).step_by(64) {
        // SAFETY: within the caller's range.
        unsafe {
            asm!("clflush [{line}]", line = in(reg) at.wrapping_add(offset), options(nostack, preserves_flags))
        };
    }
    // SAFETY: an order, no access.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
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

/// The loops of this file that dispatch would not choose on this CPU or at some length, for the tests.
#[cfg(test)]
pub(super) const VARIANTS: &[(&str, super::Kernel)] = &[
    ("string", |to, from, len, _| {
        // SAFETY: the contract of a kernel.
        unsafe { string(to, from, len) }
    }),
    ("vector", |to, from, len, _| {
        // SAFETY: the contract of a kernel.
        unsafe { vector(to, from, len) }
    }),
    ("vector sse", |to, from, len, _| match len {
        // SAFETY: the contract of a kernel.
        0..ROUND => unsafe { short(to, from, len) },
        // SAFETY: the contract of a kernel; every x86-64 CPU has SSE2.
        ROUND.. => unsafe { vector_with(to, from, len, plain_sse) },
    }),
    ("streaming sse", |to, from, len, next| match len {
        // SAFETY: the contract of a kernel.
        0..STREAM_MIN => unsafe { vector(to, from, len) },
        // SAFETY: the contract of a kernel; every x86-64 CPU has SSE2.
        STREAM_MIN.. => unsafe { stream_with(to, from, len, next, streaming_sse, bulk_sse) },
    }),
];
