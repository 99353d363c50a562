//! NPUs of one host: exported keys and copies on streams.
//!
//! The exporter makes a key for whole pages around its region and lets the peer's process import it; the importer's device
//! copies by itself, on a stream of its own, so the owner takes no part. Engines of one process need no keys, and neither
//! does the same device on both ends. Host memory can be the local end, through a stage. Importers close before the exporter: the link engine sees to the order.

mod keys;
mod mover;
mod neighbours;
mod offer;
mod process;
mod rows;

#[cfg(fuzzing)]
pub(crate) use offer::fuzz;

use std::sync::Arc;

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::{Memory, Role, TransportKind};

use crate::hbm::HUGE_PAGE;
use crate::link::{Mover, MoverLimits, Native};
use crate::npu::{Npu, NpuConfig};
use crate::slots::Slots;
use crate::stage::{Staged, Stages};
use mover::IpcMover;
use offer::Offer;
use process::Process;

/// How keys are given out.
#[derive(Clone, Copy, Debug)]
pub struct IpcConfig {
    /// A key opens for the peer's process only. Off: for whoever has the key, where the runtime cannot tell processes of
    /// different containers apart.
    pub check_process: bool,
}

impl IpcConfig {
    /// As an NPU was opened.
    pub fn of(npu: &NpuConfig) -> Self {
        Self { check_process: npu.check_process() }
    }
}

impl Default for IpcConfig {
    fn default() -> Self {
        Self { check_process: true }
    }
}

/// The way between NPUs of one host.
pub struct Ipc {
    npu: Arc<Npu>,
    offer: Offer,
    config: IpcConfig,
    slots: Arc<Slots>,
    stages: Arc<Stages>,
}

impl Ipc {
    /// The way of `npu`, for a [`DeviceTransport`](crate::link::DeviceTransport). Blocks, for a moment.
    ///
    /// # Errors
    /// `Unsupported`: this AscendCL has no events, by which ends are known.
    pub fn new(npu: &Arc<Npu>, config: IpcConfig) -> Result<Self> {
        crate::event::events(npu.device().acl())?;
        let slots = Slots::new(npu.device().clone());
        let stages = Stages::new(npu, Arc::clone(&slots));
        Ok(Self { offer: Offer::of(npu)?, config, slots, stages, npu: npu.clone() })
    }
}

impl Native for Ipc {
    fn kind(&self) -> TransportKind {
        TransportKind::Ipc
    }

    fn offer(&self) -> Bytes {
        self.offer.encode()
    }

    fn enter(&self) -> Result<()> {
        self.npu.device().adopt_thread().map(drop)
    }

    fn open(&self, offer: &[u8], _: Role) -> Result<Box<dyn Mover>> {
        let peer = Offer::decode(offer)
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "link", "the peer's ipc offer is malformed"))?;
        let unsupported = |text: String| Err(Error::new(ErrorKind::Unsupported, "link", text));
        if peer.node != self.offer.node {
            return unsupported(format!(
                "the peer is on node {}, this is {}; if they are one, give both the same name (ROPEWAY_NODE)",
                peer.node, self.offer.node
            ));
        }
        let neighbour = peer.process == self.offer.process;
        let shares_keys = peer.has_keys && self.offer.has_keys;
        if !neighbour && !shares_keys {
            return unsupported(
                "this CANN, or the peer's, cannot share device memory between processes".into(),
            );
        }
        // The driver lets the process that it counts as `bare_tgid` open our keys. Where it counts as we do, the process whose
        // death is to prove the end must be that one.
        let is_it = !self.offer.counts_as_the_driver() || peer.counts_as_the_driver();
        let process = if neighbour || !is_it { None } else { Process::find(&peer.process) };
        let mover = IpcMover::new(self, peer, neighbour, process);
        Ok(Box::new(Staged::new(mover, self.limits().descs, &self.stages)))
    }

    fn probe_memory(&self) -> Result<Arc<Memory>> {
        self.npu.alloc(HUGE_PAGE)
    }

    fn limits(&self) -> MoverLimits {
        MoverLimits {
            descs: 512,
            request_bytes: 64 << 20,
            requests: 2,
            regions: None,
            links: None,
            alignment: 1,
            reconnect_for_regions: false,
            host_memory: true,
        }
    }
}
