//! Secrets that never reach a log.

use std::fmt;
use std::hint::black_box;

/// 256 bits that authenticate a peer. `Debug` hides them; comparison takes the same time wherever they differ.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps the bits.
    pub const fn new(bits: [u8; 32]) -> Self {
        Self(bits)
    }

    /// The bits, for the handshake.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        black_box(difference) == 0
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Something that must not reach a log: `Debug` hides it. For what is compared or used at once; see [`Secret`] for what
/// is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Whether two 128-bit secrets are the same, in the same time wherever they differ.
pub(crate) fn same(a: u128, b: u128) -> bool {
    let difference = a ^ b;
    black_box((difference as u64) | ((difference >> 64) as u64)) == 0
}
