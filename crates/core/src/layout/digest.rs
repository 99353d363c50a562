//! The digest by which two engines see that they mean the same cache.

use std::fmt;

use blake2::digest::consts::U16;
use blake2::{Blake2s, Digest};

use super::LayoutSpec;

/// 128 bits of BLAKE2s over a layout's shape.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayoutDigest(pub [u8; 16]);

impl fmt::Display for LayoutDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LayoutDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayoutDigest({self})")
    }
}

/// Every text with its length before it and every number in eight bytes, so that no two shapes spell the same bytes.
pub(super) fn digest(spec: &LayoutSpec) -> LayoutDigest {
    let mut hash = Blake2s::<U16>::new();
    hash.update(b"ropeway layout 1\0");
    text(&mut hash, &spec.name);
    number(&mut hash, u64::from(spec.raw));
    number(&mut hash, spec.groups.len() as u64);
    for group in &spec.groups {
        text(&mut hash, &group.name);
        number(&mut hash, group.ratio.into());
    }
    number(&mut hash, spec.parts.len() as u64);
    for part in &spec.parts {
        text(&mut hash, &part.name);
        number(&mut hash, part.group.into());
        number(&mut hash, part.strided.block_bytes);
    }
    LayoutDigest(hash.finalize().into())
}

fn text(hash: &mut Blake2s<U16>, text: &str) {
    number(hash, text.len() as u64);
    hash.update(text.as_bytes());
}

fn number(hash: &mut Blake2s<U16>, number: u64) {
    hash.update(number.to_le_bytes());
}
