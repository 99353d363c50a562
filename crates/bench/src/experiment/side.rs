//! One process of an experiment: an NPU, a native library on it, regions.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway::Limits;
use ropeway_ascend::hixl::{HixlC, HixlClass, HixlConfig};
use ropeway_ascend::link::{Desc, Mover, Native, Polled, PostError, Request};
use ropeway_ascend::{Npu, NpuConfig};
use ropeway_core::{Op, RegionId};
use ropeway_transport::{Janitor, Memory, Role};

use crate::Failure;
use crate::cli::NativeWay;

/// Nothing that works takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Side {
    pub(super) npu: Arc<Npu>,
    pub(super) native: Arc<dyn Native>,
}

/// A region of the other side, as it is imported.
#[derive(Clone, Debug)]
pub(super) struct Far {
    pub(super) region: RegionId,
    pub(super) len: u64,
    pub(super) description: Vec<u8>,
}

impl Side {
    pub(super) fn open(way: NativeWay, device: u32, cann: Option<&Path>) -> Result<Self, Failure> {
        let janitor = Janitor::start()?;
        let mut config = NpuConfig::new(device);
        if let Some(cann) = cann {
            config = config.with_cann_path(cann);
        }
        let npu = Npu::open(config, &Limits::default(), &janitor)?;
        // Whether small pages work is asked of the library, not of our belief.
        let config = HixlConfig { any_pages: true, ..HixlConfig::of(npu.config()) };
        let native: Arc<dyn Native> = match way {
            NativeWay::Hixl => Arc::new(HixlClass::open(&npu, &config)?),
            NativeWay::HixlC => Arc::new(HixlC::open(&npu, &config)?),
        };
        native.enter()?;
        Ok(Self { npu, native })
    }

    /// Memory of the device, all bytes alike.
    pub(super) fn region(&self, bytes: u64, byte: u8) -> Result<Arc<Memory>, Failure> {
        let memory = self.npu.alloc(bytes)?;
        memory.fill(0, bytes, byte)?;
        Ok(memory)
    }

    pub(super) fn mover(&self, offer: &[u8], role: Role) -> Result<Box<dyn Mover>, Failure> {
        Ok(self.native.open(offer, role)?)
    }
}

pub(super) const fn region_id(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

/// The address of a memory of the device.
pub(super) fn address(memory: &Memory) -> u64 {
    memory.device().map_or(0, |device| device.address())
}

/// Registers, imports and connects: ready for requests from `local` into `far`.
pub(super) fn prepare(
    mover: &mut dyn Mover,
    local: &Arc<Memory>,
    far: &Far,
) -> Result<(Bytes, u64), Failure> {
    let description = mover.register(region_id(0), local)?;
    let base = mover.import(far.region, far.len, &far.description)?.base;
    mover.connect(PATIENCE)?;
    Ok((description, base))
}

/// Equal pieces over the whole of both regions.
pub(super) fn pieces(local: u64, remote: u64, bytes: u64, piece: u64) -> Vec<Desc> {
    (0..bytes)
        .step_by(piece as usize)
        .map(|at| Desc { local: local + at, remote: remote + at, len: piece.min(bytes - at) })
        .collect()
}

/// Posts all of it, in requests as large as the mover takes, waiting for room.
pub(super) fn post(
    mover: &mut dyn Mover,
    limits: (usize, usize),
    op: Op,
    descs: &[Desc],
) -> Result<Vec<Request>, PostError> {
    let (descs_max, requests_max) = limits;
    let mut open: Vec<Request> = Vec::new();
    for request in descs.chunks(descs_max.max(1)) {
        let until = Instant::now() + PATIENCE;
        loop {
            open.retain(|&request| open_still(mover, request));
            if open.len() < requests_max {
                match mover.post(op, request) {
                    Ok(request) => break open.push(request),
                    Err(PostError::Busy(_)) if Instant::now() < until => {}
                    Err(error) => return Err(error),
                }
            }
            std::thread::yield_now();
        }
    }
    Ok(open)
}

fn open_still(mover: &mut dyn Mover, request: Request) -> bool {
    mover.poll(request) == Polled::Waiting
}

/// Polls until a request ends, or `patience` has passed.
pub(super) fn wait(mover: &mut dyn Mover, request: Request, patience: Duration) -> Polled {
    let until = Instant::now() + patience;
    loop {
        match mover.poll(request) {
            Polled::Waiting if Instant::now() < until => std::thread::sleep(Duration::from_micros(50)),
            polled => return polled,
        }
    }
}
