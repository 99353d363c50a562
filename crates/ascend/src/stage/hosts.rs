//! Host memory that goes through a stage, by address.

use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, RegionId, Result};
use ropeway_transport::Memory;

/// The regions of one mover that do.
#[derive(Default)]
pub(super) struct Hosts(Vec<Host>);

struct Host {
    region: RegionId,
    base: u64,
    memory: Arc<Memory>,
}

impl Hosts {
    pub(super) fn add(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<()> {
        let base = memory.base().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "register", "memory that is neither the host's nor an NPU's")
        })?;
        self.remove(region);
        self.0.push(Host { region, base: base.addr().get() as u64, memory: Arc::clone(memory) });
        Ok(())
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, region: RegionId) -> bool {
        let at = self.0.iter().position(|host| host.region == region);
        at.map(|at| self.0.swap_remove(at)).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, region: RegionId) -> bool {
        self.0.iter().any(|host| host.region == region)
    }

    /// The memory in which an address lies, and where.
    pub(super) fn find(&self, address: u64) -> Option<(&Arc<Memory>, u64)> {
        self.0.iter().find_map(|host| {
            let at = address.checked_sub(host.base).filter(|at| *at < host.memory.len())?;
            Some((&host.memory, at))
        })
    }
}
