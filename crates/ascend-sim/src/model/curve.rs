//! How long a batch takes on a published curve.

use super::table::CURVES;
use crate::topology::Chip;

/// Which way the bytes go: local end, `2`, remote end; `r` marks the remote one, D is device and H host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// WRITE, device to device.
    D2rD,
    /// READ, device to device.
    RD2D,
    /// WRITE, device to remote host.
    D2rH,
    /// READ, remote host to device.
    RH2D,
    /// WRITE, host to remote host.
    H2rH,
    /// READ, remote host to host.
    RH2H,
    /// WRITE, host to remote device.
    H2rD,
    /// READ, remote device to host.
    RD2H,
}

impl Direction {
    /// The direction of an operation between two kinds of memory.
    #[must_use]
    pub fn of(write: bool, local_host: bool, remote_host: bool) -> Self {
        match (write, local_host, remote_host) {
            (true, false, false) => Self::D2rD,
            (false, false, false) => Self::RD2D,
            (true, false, true) => Self::D2rH,
            (false, false, true) => Self::RH2D,
            (true, true, true) => Self::H2rH,
            (false, true, true) => Self::RH2H,
            (true, true, false) => Self::H2rD,
            (false, true, false) => Self::RD2H,
        }
    }

    /// The name that HIXL's benchmark gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        const NAMES: [(&str, Direction); 8] = [
            ("D2rD", Direction::D2rD),
            ("rD2D", Direction::RD2D),
            ("D2rH", Direction::D2rH),
            ("rH2D", Direction::RH2D),
            ("H2rH", Direction::H2rH),
            ("rH2H", Direction::RH2H),
            ("H2rD", Direction::H2rD),
            ("rD2H", Direction::RD2H),
        ];
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, direction)| *direction)
    }
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// HCCS: inside a server (A2) or a super-pod (A3).
    Hccs,
    /// RDMA through the device's NIC.
    Roce,
    /// Fabric memory of an A3 super-pod.
    Fabric,
    /// A UB group of the 950: no published figure.
    Ub,
}

/// Which of HIXL's engines drives the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The client/server engine.
    ClientServer,
    /// One two-rank communicator a link.
    Communicator,
    /// Fabric memory, tasks unfolded by the AICPU.
    FabricAicpu,
    /// Fabric memory, tasks unfolded by the host on four streams.
    FabricHost,
}

/// How far apart the ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In one machine.
    OneHost,
    /// In two machines.
    TwoHosts,
}

/// One published table: block sizes by directions.
pub(super) struct Curve {
    pub(super) chip: Chip,
    pub(super) scope: Scope,
    pub(super) link: Link,
    pub(super) mode: Mode,
    pub(super) gb_per_s: [[f32; 8]; 8],
}

const BLOCK_MIN: f64 = 16_384.0;
const BLOCK_MAX: f64 = 2_097_152.0;

/// One column of a published table: what a batch in one direction costs.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Nanoseconds that one block of 16 KiB << i takes.
    block_ns: [f64; 8],
}

impl Figures {
    /// The published figures for a way, or nothing where there are none: such ways are not timed.
    #[must_use]
    pub fn find(chip: Chip, scope: Scope, link: Link, mode: Mode, direction: Direction) -> Option<Self> {
        let fits = |curve: &&Curve| curve.chip == chip && curve.link == link && curve.mode == mode;
        let exact = CURVES.iter().filter(fits).find(|curve| curve.scope == scope);
        // Where a way was measured in one scope only, that has to do for the other.
        let curve = exact.or_else(|| CURVES.iter().find(fits))?;
        let mut block_ns = [0.0; 8];
        for (row, block) in block_ns.iter_mut().enumerate() {
            let rate = f64::from(curve.gb_per_s[row][direction as usize]);
            if rate.is_nan() {
                return None;
            }
            *block = BLOCK_MIN * f64::from(1 << row) / rate;
        }
        Some(Self { block_ns })
    }

    /// Nanoseconds that one block of `bytes` takes in a batch of its like: between the published sizes by a straight
    /// line; above the largest at its rate; below the smallest only the bytes get cheaper, not the descriptor.
    #[must_use]
    pub fn nanoseconds(&self, bytes: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "block sizes are far below 2^53")]
        let bytes = bytes as f64;
        let per_byte = self.block_ns[7] / BLOCK_MAX;
        if bytes >= BLOCK_MAX {
            return bytes * per_byte;
        }
        if bytes <= BLOCK_MIN {
            let descriptor = (self.block_ns[0] - BLOCK_MIN * per_byte).max(0.0);
            return descriptor + bytes * per_byte;
        }
        let row = (1..8).find(|row| bytes <= BLOCK_MIN * f64::from(1 << row)).unwrap_or(7);
        let low = BLOCK_MIN * f64::from(1 << (row - 1));
        let part = (bytes - low) / low;
        self.block_ns[row - 1] + (self.block_ns[row] - self.block_ns[row - 1]) * part
    }
}
