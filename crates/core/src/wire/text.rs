//! Bytes as URL-safe text: base64url without padding, with a checksum so that a mangled string is told from a stale one.

use super::WireError;
use blake2::digest::{Update, VariableOutput};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHECK_BYTES: usize = 4;

/// `bytes` and their checksum as text.
pub(super) fn seal(domain: &str, bytes: &[u8]) -> String {
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&checksum(domain, bytes));
    let mut text = String::with_capacity(sealed.len().div_ceil(3) * 4);
    for chunk in sealed.chunks(3) {
        let mut word = 0_u32;
        for (index, byte) in chunk.iter().enumerate() {
            word |= u32::from(*byte) << (16 - 8 * index);
        }
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

/// The inverse of [`seal`]: at most `limit` characters.
pub(super) fn open(domain: &str, what: &'static str, text: &str, limit: usize) -> Result<Vec<u8>, WireError> {
    if text.len() > limit {
        return Err(WireError::TooLong { what, limit: limit as u64 });
    }
    let bad = WireError::Value { what };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for (index, digit) in chunk.iter().enumerate() {
            word |= value(*digit).ok_or(bad)? << (18 - 6 * index);
        }
        // One digit carries no byte; bits below the last byte must be 0, so that each value has one text.
        let whole = chunk.len().checked_sub(1).filter(|whole| *whole > 0).ok_or(bad)?;
        if word & (0x00ff_ffff >> (8 * whole)) != 0 {
            return Err(bad);
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..=whole]);
    }
    let Some(end) = bytes.len().checked_sub(CHECK_BYTES) else {
        return Err(bad);
    };
    if checksum(domain, &bytes[..end]) != bytes[end..] {
        return Err(bad);
    }
    bytes.truncate(end);
    Ok(bytes)
}

fn value(digit: u8) -> Option<u32> {
    Some(match digit {
        b'A'..=b'Z' => u32::from(digit - b'A'),
        b'a'..=b'z' => u32::from(digit - b'a') + 26,
        b'0'..=b'9' => u32::from(digit - b'0') + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}

fn checksum(domain: &str, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hash = blake2::Blake2sVar::new(CHECK_BYTES).expect("4 bytes is a size that BLAKE2s gives");
    hash.update(domain.as_bytes());
    hash.update(bytes);
    let mut sum = [0; CHECK_BYTES];
    hash.finalize_variable(&mut sum).expect("the buffer has the size asked for");
    sum
}
