//! Reading foreign bytes: each step is checked, nothing is allocated on the word of a length alone.

use crate::{CacheId, Error, ErrorKind, GrantId, Incarnation, RegionId};

/// Why bytes were refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("the message ends {missing} bytes early")]
    Truncated {
        /// How many bytes were missing.
        missing: u64,
    },
    /// Bytes are left after the last field.
    #[error("{extra} bytes follow the end of the message")]
    Trailing {
        /// How many.
        extra: u64,
    },
    /// A length passes its cap.
    #[error("{what} longer than the limit of {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The cap.
        limit: u64,
    },
    /// A tag that this version does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// What the tag selects.
        what: &'static str,
        /// The tag.
        value: u64,
    },
    /// A field holds what it must not.
    #[error("{what} is not valid")]
    Value {
        /// Which field.
        what: &'static str,
    },
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::new(ErrorKind::Protocol, "decode", error.to_string()).with_source(error)
    }
}

/// A place in foreign bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(WireError::Truncated { missing: (len - self.rest.len()) as u64 }),
        }
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Unknown { what, value: value.into() }),
        }
    }

    /// A u32 count of elements of at least `each` bytes: no more than the bytes left can hold.
    pub fn count(&mut self, what: &'static str, each: usize) -> Result<usize, WireError> {
        let count = self.u32()?;
        let limit = self.left() / each.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(WireError::TooLong { what, limit: limit as u64 }),
        }
    }

    /// A u32 length of at most `limit`, and that many bytes.
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], WireError> {
        let len = self.u32()?;
        match usize::try_from(len) {
            Ok(len) if len <= limit => self.take(len),
            _ => Err(WireError::TooLong { what, limit: limit as u64 }),
        }
    }

    /// A u16 length of at most `limit`, and that many bytes of UTF-8.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, WireError> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(WireError::TooLong { what, limit: limit as u64 });
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| WireError::Value { what })
    }

    /// A lease. Generation 0 names none.
    pub fn grant(&mut self) -> Result<GrantId, WireError> {
        let id = GrantId::from_bits(self.u64()?);
        if id.generation == 0 { Err(WireError::Value { what: "lease generation" }) } else { Ok(id) }
    }

    /// A cache. Generation 0 names none.
    pub fn cache(&mut self) -> Result<CacheId, WireError> {
        let id = CacheId::from_bits(self.u64()?);
        if id.generation == 0 { Err(WireError::Value { what: "cache generation" }) } else { Ok(id) }
    }

    /// A region. Generation 0 names none.
    pub fn region(&mut self) -> Result<RegionId, WireError> {
        let id = RegionId::from_bits(self.u64()?);
        if id.generation == 0 { Err(WireError::Value { what: "region generation" }) } else { Ok(id) }
    }

    /// An incarnation. 0 names none.
    pub fn incarnation(&mut self) -> Result<Incarnation, WireError> {
        Incarnation::new(self.u64()?).ok_or(WireError::Value { what: "incarnation" })
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::Trailing { extra: extra as u64 }),
        }
    }
}
