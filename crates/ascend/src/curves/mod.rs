//! How fast HIXL's links are by block size, as published, and what follows for the sizes that a link should be given.
//!
//! Nothing of this was measured by us. It is used for two things: to cut merged runs into pieces that a link moves
//! fastest ([`Cuts`]), and to predict (`ropeway-bench model`).

mod cut;
mod published;

use std::fmt;

pub use cut::{Cut, Cuts};

use crate::hixl::offer::Mode;
use crate::hixl::way;
use crate::node::Chip;

/// Block sizes of the published measurements, in bytes.
pub const SIZES: [u64; 8] = [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];

/// Whether both ends are in one host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hosts {
    /// Both NPUs in one host.
    One,
    /// An NPU in each of two hosts.
    Two,
}

/// How HIXL moves bytes over a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Way {
    /// RoCE, one HCCL communicator for a link: the only engine of HIXL before CANN 9.1.
    RoceCommunicator,
    /// RoCE, HIXL's client/server engine.
    RoceClientServer,
    /// HCCS, one HCCL communicator for a link.
    HccsCommunicator,
    /// HCCS, HIXL's client/server engine.
    HccsClientServer,
    /// Fabric memory of a super-pod, copies unfolded by the device's CPUs.
    FabricDevice,
    /// Fabric memory of a super-pod, copies unfolded by the host on four streams.
    FabricHost,
}

/// Which memory is copied where, as HIXL's benchmark names it: D a device's, H a host's, r the remote one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// WRITE from device to remote device.
    D2rD,
    /// READ from remote device to device.
    RD2D,
    /// WRITE from device to remote host.
    D2rH,
    /// READ from remote host to device.
    RH2D,
    /// WRITE from host to remote host.
    H2rH,
    /// READ from remote host to host.
    RH2H,
    /// WRITE from host to remote device.
    H2rD,
    /// READ from remote device to host.
    RD2H,
}

/// A link whose figures may be published.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// Of both ends. Figures are published for A2 and A3.
    pub chip: Chip,
    /// Where they are.
    pub hosts: Hosts,
    /// What carries the bytes.
    pub way: Way,
}

/// Bandwidth by block size, for one link and direction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Curve {
    gbps: [f64; SIZES.len()],
}

impl Link {
    /// All links with published figures.
    pub fn published() -> impl ExactSizeIterator<Item = Self> {
        published::PUBLISHED.iter().map(|published| published.link)
    }

    /// The link that HIXL makes; `None` for one that nothing is published for.
    pub fn of_hixl(chip: Chip, hosts: Hosts, way: way::Way, mode: Mode) -> Option<Self> {
        let way = match (way, mode) {
            (way::Way::Hccs, Mode::Communicator) => Way::HccsCommunicator,
            (way::Way::Hccs, Mode::ClientServer) => Way::HccsClientServer,
            (way::Way::Roce, Mode::Communicator) => Way::RoceCommunicator,
            (way::Way::Roce, Mode::ClientServer) => Way::RoceClientServer,
            _ => return None,
        };
        let link = Self { chip, hosts, way };
        Self::published().any(|published| published == link).then_some(link)
    }

    /// Its curve in one direction; `None` when the direction is not supported or was not measured.
    pub fn curve(self, direction: Direction) -> Option<Curve> {
        let published = published::PUBLISHED.iter().find(|published| published.link == self)?;
        let (_, gbps) = published.curves.iter().find(|(of, _)| *of == direction)?;
        Some(Curve { gbps: *gbps })
    }
}

impl Curve {
    /// A curve of GB/s at each of [`SIZES`].
    ///
    /// # Panics
    /// When a figure is not above 0.
    pub fn new(gbps: [f64; SIZES.len()]) -> Self {
        assert!(gbps.iter().all(|gbps| *gbps > 0.0 && gbps.is_finite()), "{gbps:?}");
        Self { gbps }
    }

    /// GB/s (10^9 bytes) of blocks of this size.
    ///
    /// Between published sizes the logarithm of the bandwidth is linear in that of the size: what a fixed cost a block
    /// (bandwidth proportional to size) and a full link (constant bandwidth) both are. Below the smallest size a
    /// block takes as long as one of that size, and above the largest the bandwidth stays: both err, if at all, on the
    /// side of too slow.
    pub fn gbps(&self, bytes: u64) -> f64 {
        let at = bytes as f64;
        let next = SIZES.partition_point(|&size| size <= bytes);
        match next {
            0 => self.gbps[0] * at / SIZES[0] as f64,
            _ if next == SIZES.len() => self.gbps[SIZES.len() - 1],
            _ => {
                let (low, high) = (SIZES[next - 1] as f64, SIZES[next] as f64);
                let share = (at / low).ln() / (high / low).ln();
                self.gbps[next - 1].powf(1.0 - share) * self.gbps[next].powf(share)
            }
        }
    }

    /// Seconds that each of many blocks of this size takes.
    pub fn seconds(&self, bytes: u64) -> f64 {
        match bytes {
            0 => 0.0,
            _ => bytes as f64 / (self.gbps(bytes) * 1e9),
        }
    }

    /// Seconds that a run takes in pieces as `cut` makes them.
    pub fn seconds_cut(&self, cut: &Cut, bytes: u64) -> f64 {
        match cut.piece(bytes) {
            0 => 0.0,
            piece => (bytes / piece) as f64 * self.seconds(piece) + self.seconds(bytes % piece),
        }
    }
}

impl Direction {
    /// Every direction.
    pub const ALL: [Self; 8] =
        [Self::D2rD, Self::RD2D, Self::D2rH, Self::RH2D, Self::H2rH, Self::RH2H, Self::H2rD, Self::RD2H];

    /// The direction of a batch.
    pub const fn of(op: ropeway_core::Op, local_is_device: bool, remote_is_device: bool) -> Self {
        match (op, local_is_device, remote_is_device) {
            (ropeway_core::Op::Write, true, true) => Self::D2rD,
            (ropeway_core::Op::Write, true, false) => Self::D2rH,
            (ropeway_core::Op::Write, false, true) => Self::H2rD,
            (ropeway_core::Op::Write, false, false) => Self::H2rH,
            (ropeway_core::Op::Read, true, true) => Self::RD2D,
            (ropeway_core::Op::Read, true, false) => Self::RH2D,
            (ropeway_core::Op::Read, false, true) => Self::RD2H,
            (ropeway_core::Op::Read, false, false) => Self::RH2H,
        }
    }

    /// What the side that is called local does.
    pub const fn op(self) -> ropeway_core::Op {
        match self {
            Self::D2rD | Self::D2rH | Self::H2rH | Self::H2rD => ropeway_core::Op::Write,
            Self::RD2D | Self::RH2D | Self::RH2H | Self::RD2H => ropeway_core::Op::Read,
        }
    }

    /// Whether the local end is in a device's memory.
    pub const fn local_is_device(self) -> bool {
        matches!(self, Self::D2rD | Self::RD2D | Self::D2rH | Self::RH2D)
    }

    /// Whether the remote end is in a device's memory.
    pub const fn remote_is_device(self) -> bool {
        matches!(self, Self::D2rD | Self::RD2D | Self::H2rD | Self::RD2H)
    }

    /// As HIXL's benchmark writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::D2rD => "D2rD",
            Self::RD2D => "rD2D",
            Self::D2rH => "D2rH",
            Self::RH2D => "rH2D",
            Self::H2rH => "H2rH",
            Self::RH2H => "rH2H",
            Self::H2rD => "H2rD",
            Self::RD2H => "rD2H",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Way {
    /// In words, as the tables have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoceCommunicator => "RoCE, communicator",
            Self::RoceClientServer => "RoCE, client/server",
            Self::HccsCommunicator => "HCCS, communicator",
            Self::HccsClientServer => "HCCS, client/server",
            Self::FabricDevice => "fabric, device unfolds",
            Self::FabricHost => "fabric, host unfolds",
        }
    }
}

#[cfg(test)]
mod tests;
