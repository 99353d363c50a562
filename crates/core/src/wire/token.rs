//! Lease tokens: what a block owner hands to whoever may use the blocks, as a short string.

use std::fmt;
use std::str::FromStr;

use super::{Reader, WireError, text};
use crate::{CacheId, GrantId, Incarnation};

const PREFIX: &str = "rwl1-";

/// A reference to a lease that proves the right to claim it. About 64 URL-safe characters; it rides in request
/// parameters (`kv_transfer_params`), so it is text and survives routers that turn integers into floats.
///
/// `Display` gives the whole token, the secret included; `Debug` hides the secret.
#[derive(Clone, Copy)]
pub struct Token {
    /// The life of the owner in which the lease was granted.
    pub incarnation: Incarnation,
    /// The cache whose blocks the lease covers.
    pub cache: CacheId,
    /// The lease.
    pub grant: GrantId,
    /// Drawn by the owner per lease.
    pub secret: u128,
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        (self.incarnation, self.cache, self.grant) == (other.incarnation, other.cache, other.grant)
            && super::secret::same(self.secret, other.secret)
    }
}

impl Eq for Token {}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.incarnation.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.cache.to_bits().to_le_bytes());
        bytes[16..24].copy_from_slice(&self.grant.to_bits().to_le_bytes());
        bytes[24..].copy_from_slice(&self.secret.to_le_bytes());
        f.write_str(PREFIX)?;
        f.write_str(&text::seal(PREFIX, &bytes))
    }
}

impl FromStr for Token {
    type Err = WireError;

    fn from_str(token: &str) -> Result<Self, WireError> {
        let body = token.strip_prefix(PREFIX).ok_or(WireError::Value { what: "lease token" })?;
        let bytes = text::open(PREFIX, "lease token", body, 64)?;
        let mut from = Reader::new(&bytes);
        let token = Self {
            incarnation: from.incarnation()?,
            cache: from.cache()?,
            grant: from.grant()?,
            secret: from.u128()?,
        };
        from.finish()?;
        Ok(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("incarnation", &self.incarnation)
            .field("cache", &self.cache)
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}
