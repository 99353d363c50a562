//! Kinds of NPU, and the numbers that name one.

use std::fmt;

/// A family of chips, as far as links differ between them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Chip {
    /// Ascend 910B.
    A2,
    /// Ascend 910_93: super-pods.
    A3,
    /// Ascend 950: UB in the place of HCCS.
    Ascend950,
    /// A chip that this version does not know.
    Other,
}

impl Chip {
    /// The family of a chip by the name that `aclrtGetSocName` gives.
    pub fn of(soc: &str) -> Self {
        const A2: [&str; 6] =
            ["Ascend910B1", "Ascend910B2", "Ascend910B3", "Ascend910B4", "Ascend910B2C", "Ascend910B4-1"];
        const A3: [&str; 6] = [
            "Ascend910_9391",
            "Ascend910_9381",
            "Ascend910_9392",
            "Ascend910_9382",
            "Ascend910_9372",
            "Ascend910_9362",
        ];
        match soc {
            _ if A2.contains(&soc) => Self::A2,
            _ if A3.contains(&soc) => Self::A3,
            _ if soc.contains("Ascend950") => Self::Ascend950,
            _ => Self::Other,
        }
    }

    /// The name in logs and offers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A2 => "A2",
            Self::A3 => "A3",
            Self::Ascend950 => "950",
            Self::Other => "unknown",
        }
    }

    /// Whether chips of one island are joined by HCCS.
    pub const fn has_hccs(self) -> bool {
        matches!(self, Self::A2 | Self::A3)
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an A3 chip sits in its super-pod, as the device's attributes 403 to 405 tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SuperPod {
    /// The super-pod.
    pub id: u32,
    /// The server within it.
    pub server: u32,
    /// The device within it.
    pub device: u32,
}

/// The numbers of one NPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NpuIds {
    /// Index after `ASCEND_RT_VISIBLE_DEVICES`: what `aclrtSetDevice` takes.
    pub user: u32,
    /// The number on the node: what `hccn.conf` and endpoints use.
    pub physical: u32,
    /// Only on A3, and only where the device tells.
    pub super_pod: Option<SuperPod>,
}
