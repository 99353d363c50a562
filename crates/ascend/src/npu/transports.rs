//! The transports that an NPU offers to its engine.

use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Limits, Result};
use ropeway_transport::{Transport, TransportKind};

use super::Npu;

impl Npu {
    /// Makes a transport between devices. Blocks.
    ///
    /// # Errors
    /// `Unsupported`: this CANN, or this device, does not have it, and what to do.
    pub fn transport(self: &Arc<Self>, kind: TransportKind, limits: &Limits) -> Result<Arc<dyn Transport>> {
        let _ = limits;
        let text = format!("{kind} is no transport between devices");
        Err(Error::new(ErrorKind::Unsupported, "open transport", text))
    }
}
