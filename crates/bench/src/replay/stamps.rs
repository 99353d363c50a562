//! What a block of a replay holds, so that the consumer can tell whether the right one arrived, whole and not stale.
//!
//! `stamps` writes 64 bytes at both ends of each part of a block: hash id, place, generation, and words derived from
//! them. `full` fills the whole part. Either side computes what must be there from the same few numbers.

use std::fmt;

use crate::cli::Verify;
use crate::pattern;
use crate::pool::Pool;
use crate::work::Part;

/// Words of a stamp.
const STAMP: u64 = 8;

/// What a block must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Contents {
    pub(crate) hash: u64,
    /// Which block of the hash id's tokens.
    pub(crate) index: u32,
    /// How often the producer had handed this block out.
    pub(crate) generation: u32,
}

/// A block that does not hold what it must.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wrong {
    part: String,
    block: u32,
    at: u64,
    expected: Contents,
    found: (u64, u64, u64),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, block, at, expected, found } = self;
        write!(
            f,
            "block {block} of part {part} is wrong from byte {at} on: it must hold hash id {} (block {}, generation {}); \
             it starts with words {:#x} {:#x} {:#x}",
            expected.hash, expected.index, expected.generation, found.0, found.1, found.2
        )
    }
}

impl Contents {
    /// The word at `8 * i` of part number `part`.
    fn word(&self, part: u32, i: u64) -> u64 {
        match i {
            0 => self.hash,
            1 => u64::from(part) << 32 | u64::from(self.index),
            2 => u64::from(self.generation),
            _ => {
                let seed = self.hash ^ u64::from(self.generation).rotate_left(40);
                pattern::word(seed, u64::from(part) << 40 | u64::from(self.index) << 32 | i)
            }
        }
    }

    /// Words to write and check: `(first, count, word number of the first)`. The last stamp repeats the first one's
    /// words, so that a block cut short or shifted shows.
    fn spans(words: u64, verify: Verify) -> [(u64, u64); 2] {
        match verify {
            Verify::Full => [(0, words), (words, 0)],
            Verify::Stamps if words < 2 * STAMP => [(0, words), (words, 0)],
            Verify::Stamps => [(0, STAMP), (words - STAMP, STAMP)],
        }
    }

    /// Writes block `block` of every part.
    pub(crate) fn write(&self, pool: &Pool, parts: &[Part], block: u32, verify: Verify) {
        for (number, part) in parts.iter().enumerate() {
            let start = part.offset + u64::from(block) * part.block_bytes;
            for (first, count) in Self::spans(part.block_bytes / 8, verify) {
                let base = if verify == Verify::Stamps { first } else { 0 };
                let words = (first..first + count).map(|i| self.word(number as u32, i - base));
                let words: Vec<u64> = words.collect();
                pool.write_words((start + first * 8) as usize, words.into_iter());
            }
        }
    }

    /// Compares block `block` of every part.
    pub(crate) fn check(&self, pool: &Pool, parts: &[Part], block: u32, verify: Verify) -> Result<(), Wrong> {
        for (number, part) in parts.iter().enumerate() {
            let start = part.offset + u64::from(block) * part.block_bytes;
            for (first, count) in Self::spans(part.block_bytes / 8, verify) {
                let base = if verify == Verify::Stamps { 0 } else { first };
                let at = (start + first * 8) as usize;
                let expected = |i: usize| self.word(number as u32, base + i as u64);
                let Some(i) = (count > 0).then(|| pool.mismatch(at, count as usize, expected)).flatten()
                else {
                    continue;
                };
                let found = |i: usize| pool.word(at + i * 8);
                return Err(Wrong {
                    part: part.name.clone(),
                    block,
                    at: (first + i as u64) * 8,
                    expected: *self,
                    found: (found(0), found(1), found(2)),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts() -> Vec<Part> {
        let part =
            |name: &str, offset, block_bytes| Part { name: name.to_owned(), offset, block_bytes, blocks: 8 };
        vec![part("a", 0, 584), part("b", 8192, 1024), part("c", 16_384, 64)]
    }

    proptest! {
        #[test]
        fn other_contents_are_never_taken_for_these(
            hash in 0u64..5, index in 0u32..4, generation in 0u32..5,
            other_hash in 0u64..5, other_index in 0u32..4, other_generation in 0u32..5, full: bool
        ) {
            let verify = if full { Verify::Full } else { Verify::Stamps };
            let pool = Pool::private(1 << 16).unwrap();
            let ours = Contents { hash, index, generation };
            let theirs = Contents { hash: other_hash, index: other_index, generation: other_generation };
            theirs.write(&pool, &parts(), 3, verify);
            prop_assert_eq!(ours.check(&pool, &parts(), 3, verify).is_ok(), ours == theirs);
        }

        #[test]
        fn full_finds_any_wrong_word_and_stamps_those_at_the_ends(word in 0usize..128) {
            let pool = Pool::private(1 << 16).unwrap();
            let contents = Contents { hash: 9, index: 1, generation: 4 };
            for verify in [Verify::Stamps, Verify::Full] {
                contents.write(&pool, &parts(), 0, verify);
                let at = 8192 + word * 8;
                pool.write_words(at, [!pool.word(at)].into_iter());
                let seen = verify == Verify::Full || !(8..120).contains(&word);
                prop_assert_eq!(contents.check(&pool, &parts(), 0, verify).is_err(), seen);
            }
        }
    }
}
