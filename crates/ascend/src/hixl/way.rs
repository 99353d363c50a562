//! The ways that HIXL has between two NPUs, and what each can reach.

use std::fmt;

use ropeway_core::Op;

use super::offer::Offer;
use crate::curves::{Cuts, Hosts, Link};
use crate::node::Chip;

/// One way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Way {
    /// Within an island of A2 or A3.
    Hccs,
    /// By the NPUs' network ports.
    Roce,
    /// UB, on 950.
    Ub,
}

impl Way {
    /// The name in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hccs => "HCCS",
            Self::Roce => "RoCE",
            Self::Ub => "UB",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Hccs => 1,
            Self::Roce => 2,
            Self::Ub => 4,
        }
    }

    /// Which ends a transfer over it may have.
    pub const fn reach(self, chip: Chip) -> Reach {
        match (self, chip) {
            (Self::Roce, _) => Reach { local_host: true, remote_host: true },
            (Self::Hccs, Chip::A3) => Reach { local_host: true, remote_host: false },
            // A2's HCCS joins device memory only; of UB nothing more is published.
            (Self::Hccs | Self::Ub, _) => Reach { local_host: false, remote_host: false },
        }
    }
}

impl Way {
    /// Into which pieces runs are cut for it: by the published curve of this way, mode and chip, where there is one.
    pub(super) fn cuts(self, ours: &Offer, peer: &Offer) -> Cuts {
        let hosts = if ours.node == peer.node { Hosts::One } else { Hosts::Two };
        let link = Link::of_hixl(ours.chip, hosts, self, ours.mode).filter(|_| ours.chip == peer.chip);
        link.map_or(Cuts::WHOLE, Cuts::of)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which ends a transfer may have besides device memory on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reach {
    /// Host memory on the side that posts.
    pub local_host: bool,
    /// Host memory on the other side.
    pub remote_host: bool,
}

impl Reach {
    /// The directions, as HIXL's benchmark names them: D device, H host, r remote.
    pub fn directions(self) -> impl Iterator<Item = &'static str> {
        const ALL: [(Op, bool, bool, &str); 8] = [
            (Op::Write, false, false, "D2rD"),
            (Op::Read, false, false, "rD2D"),
            (Op::Write, true, false, "H2rD"),
            (Op::Read, true, false, "rD2H"),
            (Op::Write, false, true, "D2rH"),
            (Op::Read, false, true, "rH2D"),
            (Op::Write, true, true, "H2rH"),
            (Op::Read, true, true, "rH2H"),
        ];
        ALL.into_iter().filter_map(move |(_, local, remote, name)| {
            ((!local || self.local_host) && (!remote || self.remote_host)).then_some(name)
        })
    }
}

/// A set of ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ways(u8);

impl Ways {
    /// Those given.
    pub fn of(ways: impl IntoIterator<Item = Way>) -> Self {
        Self(ways.into_iter().fold(0, |bits, way| bits | way.bit()))
    }

    /// Whether it holds this one.
    pub const fn has(self, way: Way) -> bool {
        self.0 & way.bit() != 0
    }

    /// Those that both hold.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// As it travels.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// As it came: ways that are not known here are left out.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 7)
    }
}
