//! Lease names: what a lease can be asked for by before anybody knows its id.

use std::fmt;
use std::str::FromStr;

use super::{Reader, WireError, text};

const PREFIX: &str = "rwn1-";

/// A name that whoever asks for a lease draws beforehand, so that the one who tells peers of it need not be the one who
/// grants it: a scheduler names the lease, the workers that own the blocks grant it, each on its own engine.
///
/// Both halves are random: `key` finds the lease, `secret` proves the right to claim it. `Display` gives the whole name as
/// about 40 URL-safe characters, the secret included; `Debug` hides the secret.
#[derive(Clone, Copy)]
pub struct LeaseName {
    /// Finds the lease.
    pub key: u64,
    /// Proves the right to claim it.
    pub secret: u128,
}

impl PartialEq for LeaseName {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && super::secret::same(self.secret, other.secret)
    }
}

impl Eq for LeaseName {}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..].copy_from_slice(&self.secret.to_le_bytes());
        f.write_str(PREFIX)?;
        f.write_str(&text::seal(PREFIX, &bytes))
    }
}

impl FromStr for LeaseName {
    type Err = WireError;

    fn from_str(name: &str) -> Result<Self, WireError> {
        let body = name.strip_prefix(PREFIX).ok_or(WireError::Value { what: "lease name" })?;
        let bytes = text::open(PREFIX, "lease name", body, 48)?;
        let mut from = Reader::new(&bytes);
        let name = Self { key: from.u64()?, secret: from.u128()? };
        from.finish()?;
        Ok(name)
    }
}

impl fmt::Debug for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseName").field("key", &self.key).finish_non_exhaustive()
    }
}
