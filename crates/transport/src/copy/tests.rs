use proptest::prelude::*;

use super::*;
use crate::memory::guard::Guarded;

const ROUTINES: [Routine; 2] = [Routine::Plain, Routine::Streaming];

/// Every loop: those behind the routines, and those that dispatch does not choose here.
fn kernels() -> Vec<(&'static str, Kernel)> {
    let mut kernels: Vec<(&'static str, Kernel)> = vec![
        ("plain", |to, from, len, _| {
            // SAFETY: the contract of a kernel.
            unsafe { copy(to, from, len, Routine::Plain) }
        }),
        ("streaming", |to, from, len, next| {
            // SAFETY: the contract of a kernel.
            unsafe { arch::streaming(to, from, len, next) }
        }),
    ];
    kernels.extend_from_slice(arch::VARIANTS);
    kernels
}

/// Bytes that differ from their neighbours and from the same place of another seed.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

/// Copies in memory and compares with what a slice copy would have made of it.
fn copies_as_slices_do((name, kernel): (&str, Kernel), to: usize, from: usize, len: usize) {
    let source = pattern(1, from + len + 64);
    let mut expected = pattern(2, to + len + 64);
    let mut target = expected.clone();
    expected[to..to + len].copy_from_slice(&source[from..from + len]);
    // SAFETY: both ranges lie within their vectors; the next piece may be anywhere.
    unsafe { kernel(target[to..].as_mut_ptr(), source[from..].as_ptr(), len, std::ptr::null()) };
    store_fence();
    assert!(target == expected, "{name}: to +{to}, from +{from}, {len} bytes");
}

#[test]
fn short_lengths_at_every_alignment_are_copied_exactly() {
    for kernel in kernels() {
        for len in (0..=130).chain(250..=260).chain(380..=390) {
            for skew in [0, 1, 7, 8, 15, 16, 31, 33, 63] {
                copies_as_slices_do(kernel, skew, (skew * 5) % 64, len);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_copy_is_what_a_slice_copy_is(to in 0_usize..200, from in 0_usize..200, len in 0_usize..70_000) {
        for kernel in kernels() {
            copies_as_slices_do(kernel, to, from, len);
        }
    }

    #[test]
    fn a_fill_changes_its_range_alone(at in 0_usize..200, len in 0_usize..20_000, byte: u8) {
        let mut target = pattern(3, at + len + 64);
        let mut expected = target.clone();
        expected[at..at + len].fill(byte);
        // SAFETY: within the vector.
        unsafe { fill(target[at..].as_mut_ptr(), byte, len) };
        prop_assert!(target == expected);
    }

    /// Both ends of both buffers lie against pages that cannot be touched.
    #[test]
    fn no_byte_outside_is_touched(len in 0_usize..9_000, at_end: bool) {
        let (source, target) = (Guarded::new(9_000).unwrap(), Guarded::new(9_000).unwrap());
        let skip = if at_end { source.len() - len } else { 0 };
        let (from, to) = (source.base().as_ptr().wrapping_add(skip), target.base().as_ptr().wrapping_add(skip));
        for (mark, (name, kernel)) in (1..).zip(kernels()) {
            // SAFETY: within both buffers.
            unsafe { fill(from, mark, len) };
            // SAFETY: as above; the next piece may be anywhere.
            unsafe { kernel(to, from, len, from.wrapping_add(len)) };
            store_fence();
            let mut out = vec![0; len];
            // SAFETY: as above.
            unsafe { copy(out.as_mut_ptr(), to, len, Routine::Plain) };
            prop_assert!(out.iter().all(|byte| *byte == mark), "{name}");
        }
    }
}

#[test]
fn a_list_is_copied_piece_by_piece() {
    let source = pattern(4, 100_000);
    for routine in ROUTINES {
        let mut target = vec![0; source.len()];
        let lens = [1, 64, 4096, 0, 777, 16_384, 3, 50_000];
        let mut at = 0;
        let mut pieces = Vec::new();
        for len in lens {
            // In the opposite order at the destination.
            let to = target[source.len() - at - len..].as_mut_ptr();
            pieces.push(Piece { to, from: source[at..].as_ptr(), len });
            at += len;
        }
        // SAFETY: the pieces lie within their vectors, and those of the target apart.
        unsafe { copy_runs(&pieces, routine) };
        let mut at = 0;
        for len in lens {
            let end = source.len() - at;
            assert!(target[end - len..end] == source[at..at + len], "{routine}: piece at {at}");
            at += len;
        }
    }
}

#[test]
fn the_null_routine_copies_nothing() {
    let source = [1_u8; 64];
    let mut target = [0_u8; 64];
    // SAFETY: within both arrays.
    unsafe { copy(target.as_mut_ptr(), source.as_ptr(), 64, Routine::Null) };
    assert_eq!(target, [0; 64]);
}

#[test]
fn touching_changes_no_byte() {
    let mut bytes = pattern(5, 256);
    for byte in &mut bytes {
        // SAFETY: a byte of ours.
        unsafe { touch(byte) };
    }
    assert_eq!(bytes, pattern(5, 256));
}
