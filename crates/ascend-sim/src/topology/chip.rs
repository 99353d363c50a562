//! The chips that are played.

use serde::{Deserialize, Serialize};

/// A family of NPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Chip {
    /// Ascend 910B.
    #[serde(rename = "a2", alias = "A2")]
    A2,
    /// Ascend 910_93xx, in super-pods.
    #[default]
    #[serde(rename = "a3", alias = "A3")]
    A3,
    /// Ascend 950.
    #[serde(rename = "950")]
    A950,
}

impl Chip {
    /// What `aclrtGetSocName` says, zero-terminated; programs classify by it.
    #[must_use]
    pub fn soc_name(self) -> &'static std::ffi::CStr {
        match self {
            Self::A2 => c"Ascend910B2",
            Self::A3 => c"Ascend910_9391",
            Self::A950 => c"Ascend950PR",
        }
    }

    /// What an allocation's size grows by before it is rounded to pages.
    #[must_use]
    pub fn malloc_extra(self) -> u64 {
        match self {
            Self::A2 | Self::A3 => 32,
            Self::A950 => 0,
        }
    }
}
