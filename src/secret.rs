//! Secrets: what authenticates a peer, and where it comes from.

use std::fmt;
use std::path::Path;

use blake2::{Blake2s256, Digest};
use ropeway_core::{Error, ErrorKind, Result};

/// How the two ends of a session know each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum AuthMode {
    /// The secret that the engine drew for its incarnation; the descriptor carries it. The default.
    Descriptor = 1,
    /// A key file that all engines of a cluster share.
    Cluster = 2,
    /// Anyone who reaches the port. The stream is still encrypted, against listeners only.
    Insecure = 3,
}

impl AuthMode {
    pub(crate) fn from_wire(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Descriptor),
            2 => Some(Self::Cluster),
            3 => Some(Self::Insecure),
            _ => None,
        }
    }
}

/// A key that all engines of a cluster share. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// From key material of at least 16 bytes, hashed to 32.
    ///
    /// # Errors
    /// `ApiMisuse` when it is shorter.
    pub fn new(material: &[u8]) -> Result<Self> {
        if material.len() < 16 {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "cluster key",
                format!(
                    "{} bytes of key material; at least 16 are needed (try 32 random ones)",
                    material.len()
                ),
            ));
        }
        let mut hash = Blake2s256::new();
        hash.update(b"ropeway cluster key");
        hash.update(material);
        Ok(Self(hash.finalize().into()))
    }

    /// From a file; white space at its end does not count.
    ///
    /// # Errors
    /// The file cannot be read, others than its owner can (mode & 0o077), or it is too short.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let path = path.as_ref();
        let read = || -> std::io::Result<(u32, Vec<u8>)> {
            Ok((std::fs::metadata(path)?.permissions().mode(), std::fs::read(path)?))
        };
        let (mode, bytes) = read().map_err(|e| Error::os("cluster key", path.display(), e))?;
        if mode & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                "cluster key",
                format!("{} is open to others (mode {:o}); chmod 600 it", path.display(), mode & 0o777),
            ));
        }
        Self::new(bytes.trim_ascii_end())
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A mode and its pre-shared key.
#[derive(Clone)]
pub(crate) struct Psk {
    pub(crate) mode: AuthMode,
    key: [u8; 32],
}

impl Psk {
    pub(crate) fn descriptor(secret: [u8; 32]) -> Self {
        Self { mode: AuthMode::Descriptor, key: secret }
    }

    pub(crate) fn cluster(key: &ClusterKey) -> Self {
        Self { mode: AuthMode::Cluster, key: key.0 }
    }

    pub(crate) fn insecure() -> Self {
        Self { mode: AuthMode::Insecure, key: [0; 32] }
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|e| {
        Error::new(ErrorKind::Resource, "random", format!("the operating system gives no random bytes: {e}"))
    })?;
    Ok(out)
}
