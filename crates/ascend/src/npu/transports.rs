//! The transports that an NPU offers to its engine.

use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Limits, Result};
use ropeway_transport::{Transport, TransportKind};

use super::Npu;
use crate::hccl::Hccl;
use crate::hixl::{HixlC, HixlClass, HixlConfig};
use crate::ipc::{Ipc, IpcConfig};
use crate::link::{DeviceTransport, Native, Timing};

impl Npu {
    /// Makes a transport between devices. Blocks.
    ///
    /// # Errors
    /// `Unsupported`: this CANN, or this device, does not have it, and what to do.
    pub fn transport(self: &Arc<Self>, kind: TransportKind, limits: &Limits) -> Result<Arc<dyn Transport>> {
        let native: Arc<dyn Native> = match kind {
            TransportKind::Hixl => self.hixl()?,
            TransportKind::Ipc => Arc::new(Ipc::new(self, IpcConfig::of(&self.config))?),
            TransportKind::Hccl => return Ok(Hccl::open(self, limits)?),
            _ => {
                let text = format!("{kind} is no transport between devices");
                return Err(Error::new(ErrorKind::Unsupported, "open transport", text));
            }
        };
        let timing = Timing {
            window: self.config.hold(),
            connect: self.config.connect_timeout(),
            ..Timing::default()
        };
        Ok(DeviceTransport::open(native, limits, timing, &self.janitor))
    }

    fn hixl(self: &Arc<Self>) -> Result<Arc<dyn Native>> {
        let config = HixlConfig::of(&self.config);
        if self.config.c_api() {
            return Ok(Arc::new(HixlC::open(self, &config)?));
        }
        Ok(Arc::new(HixlClass::open(self, &config)?))
    }
}
