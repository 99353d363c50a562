//! What the source pool holds, what the destination holds before, and the comparison after.
//!
//! The word at byte `8 * w` of a source is a function of the seed and `w` alone: either side can tell what a byte of the
//! other's pool must be, so nothing has to be sent or kept to compare. A destination is poisoned before; after the
//! transfer every byte of it is compared: named ones with the source's pattern, all others with the poison.

use std::fmt;

use crate::pool::Pool;
use crate::reference::Desc;

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Which offset of a descriptor names the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Local,
    Remote,
}

/// The first byte that is not what it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wrong {
    pub(crate) at: u64,
    pub(crate) expected: u8,
    pub(crate) found: u8,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, expected, found } = self;
        write!(f, "byte {at} of the destination is {found:#04x}, it must be {expected:#04x}")?;
        if *found == POISON as u8 { f.write_str(" (it was not written)") } else { Ok(()) }
    }
}

/// The word at byte `8 * index` of a source filled with `seed`.
pub(crate) fn word(seed: u64, index: u64) -> u64 {
    let product = (index ^ seed.rotate_left(32)).wrapping_mul(ODD);
    product ^ (product >> 32)
}

fn byte(seed: u64, at: u64) -> u8 {
    word(seed, at / 8).to_le_bytes()[(at % 8) as usize]
}

/// Fills a source.
pub(crate) fn fill(pool: &Pool, seed: u64) {
    pool.write_words(0, (0..pool.len() / 8).map(|index| word(seed, index as u64)));
}

/// Makes every word of a destination one that no transfer has written.
pub(crate) fn poison(pool: &Pool) {
    pool.write_words(0, (0..pool.len() / 8).map(|_| POISON));
}

/// Compares every byte of a destination. `list` may not be sorted, but names no destination byte twice.
pub(crate) fn verify(pool: &Pool, seed: u64, list: &[Desc], destination: Side) -> Result<(), Wrong> {
    let mut pieces: Vec<(u64, u64, u64)> = list
        .iter()
        .map(|d| match destination {
            Side::Local => (d.local, d.remote, d.len),
            Side::Remote => (d.remote, d.local, d.len),
        })
        .collect();
    pieces.sort_unstable();
    let mut at = 0;
    for (to, from, len) in pieces {
        untouched(pool, at, to)?;
        written(pool, seed, to, from, len)?;
        at = to + len;
    }
    untouched(pool, at, pool.len() as u64 / 8 * 8)
}

fn untouched(pool: &Pool, from: u64, to: u64) -> Result<(), Wrong> {
    compare(pool, from, to, |_| POISON, |_| POISON as u8)
}

fn written(pool: &Pool, seed: u64, to: u64, from: u64, len: u64) -> Result<(), Wrong> {
    let source = |at: u64| at - to + from;
    if (from ^ to).is_multiple_of(8) {
        compare(pool, to, to + len, |index| word(seed, source(index * 8) / 8), |at| byte(seed, source(at)))
    } else {
        let two = |index: u64| {
            let at = source(index * 8);
            let shift = at % 8 * 8;
            word(seed, at / 8) >> shift | word(seed, at / 8 + 1) << (64 - shift)
        };
        compare(pool, to, to + len, two, |at| byte(seed, source(at)))
    }
}

/// Compares bytes `from..to`: whole words by `word` (of their index), the ends by `byte` (of their offset).
fn compare(
    pool: &Pool,
    from: u64,
    to: u64,
    word: impl Fn(u64) -> u64,
    byte: impl Fn(u64) -> u8,
) -> Result<(), Wrong> {
    let wrong = |at: u64| Wrong { at, expected: byte(at), found: pool.byte(at as usize) };
    let (first, last) =
        (from.next_multiple_of(8).min(to), (to / 8 * 8).max(from.next_multiple_of(8).min(to)));
    let ends = (from..first).chain(last..to);
    if let Some(at) = ends.into_iter().find(|&at| pool.byte(at as usize) != byte(at)) {
        return Err(wrong(at));
    }
    let words = (last - first) as usize / 8;
    if words == 0 {
        return Ok(());
    }
    match pool.mismatch(first as usize, words, |i| word(first / 8 + i as u64)) {
        None => Ok(()),
        Some(i) => {
            let at = first + i as u64 * 8;
            Err(wrong((at..at + 8).find(|&at| pool.byte(at as usize) != byte(at)).unwrap_or(at)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Op;
    use crate::reference::{Crew, Routine};
    use proptest::prelude::*;

    const BYTES: usize = 1 << 16;

    fn lists() -> impl Strategy<Value = Vec<Desc>> {
        proptest::collection::vec((0u64..500, 1u64..500, 0u64..60_000), 1..40).prop_map(|cuts| {
            let mut at = 0;
            let mut list = Vec::new();
            for (gap, len, remote) in cuts {
                list.push(Desc { local: at + gap, remote, len });
                at += gap + len;
            }
            list.retain(|d| d.local + d.len <= BYTES as u64);
            list.reverse();
            list
        })
    }

    proptest! {
        #[test]
        fn a_right_copy_is_accepted_and_one_wrong_byte_is_found(
            list in lists(), seed: u64, victim in 0..BYTES
        ) {
            let (local, remote) = (Pool::private(BYTES).unwrap(), Pool::private(BYTES).unwrap());
            fill(&remote, seed);
            poison(&local);
            Crew::open(1).unwrap().copy(Op::Read, Routine::Plain, &local, &remote, &list).unwrap();
            prop_assert_eq!(verify(&local, seed, &list, Side::Local), Ok(()));
            let at = victim / 8 * 8;
            local.write_words(at, [local.word(at) ^ 1 << (victim % 8 * 8)].into_iter());
            let wrong = verify(&local, seed, &list, Side::Local).unwrap_err();
            prop_assert_eq!(wrong.at, victim as u64);
        }
    }

    #[test]
    fn blocks_that_swapped_places_are_found() {
        let (local, remote) = (Pool::private(BYTES).unwrap(), Pool::private(BYTES).unwrap());
        fill(&remote, 1);
        poison(&local);
        let right = [Desc { local: 0, remote: 0, len: 4096 }, Desc { local: 4096, remote: 4096, len: 4096 }];
        let swapped =
            [Desc { local: 0, remote: 4096, len: 4096 }, Desc { local: 4096, remote: 0, len: 4096 }];
        Crew::open(1).unwrap().copy(Op::Read, Routine::Plain, &local, &remote, &swapped).unwrap();
        assert_eq!(verify(&local, 1, &right, Side::Local).unwrap_err().at, 0);
    }
}
