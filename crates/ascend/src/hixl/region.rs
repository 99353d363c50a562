//! Our regions as HIXL takes them, and as peers are told of them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::wire::{Reader, WireError};
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::Memory;

use super::registry::{Kind, Span};
use super::way::{Reach, Way};
use crate::device::Device;
use crate::hbm::{Allocation, HbmMemory};
use crate::node::Chip;

/// What is to be registered.
pub(super) struct Found {
    pub(super) span: Span,
    /// The allocation that it is a piece of, where that is known and can be registered.
    pub(super) whole: Option<Span>,
}

/// Where a region lies, after checking that this way can use it; `any_pages` leaves the size of its pages unchecked.
///
/// # Errors
/// `Unsupported`, with the mend: small pages over HCCS, another NPU's memory, host memory that is not pinned.
pub(super) fn spans(
    memory: &Arc<Memory>,
    device: &Device,
    (way, chip): (Way, Chip),
    any_pages: bool,
) -> Result<Found> {
    let refused = |message: String| Err(Error::new(ErrorKind::Unsupported, "register with HIXL", message));
    if let Some(hbm) = HbmMemory::of(memory) {
        if hbm.npu().user_id() != device.user_id() {
            let (other, ours) = (hbm.npu().user_id(), device.user_id());
            return refused(format!("the memory is on NPU {other}, this engine's HIXL on NPU {ours}"));
        }
        hbm.check_awake("register with HIXL")?;
        if way == Way::Hccs && !any_pages {
            hbm.check_hccs()?;
        }
        let device = |address, len| Span { address, len, kind: Kind::Device };
        let found = hbm.found();
        // What a reserved address maps to is not one piece of physical memory.
        let whole = found.containing.filter(|_| found.allocation == Allocation::Plain);
        let whole = whole.map(|(address, len)| device(address, len));
        return Ok(Found { span: device(hbm.begin(), memory.len()), whole });
    }
    let span = host_span(memory, device, way, chip)?;
    Ok(Found { span, whole: None })
}

/// Whether this way can have memory as a local end without a stage. What of the NPU's it refuses, no stage helps.
pub(super) fn takes(memory: &Arc<Memory>, device: &Device, way: Way, chip: Chip) -> bool {
    memory.device().is_some() || host_span(memory, device, way, chip).is_ok()
}

fn host_span(memory: &Memory, device: &Device, way: Way, chip: Chip) -> Result<Span> {
    let refused = |message: String| Err(Error::new(ErrorKind::Unsupported, "register with HIXL", message));
    let Some(base) = memory.base() else {
        return refused("the memory is a device's of another family".into());
    };
    let address = base.addr().get();
    if !way.reach(chip).local_host {
        return refused(format!("{way} on {chip} moves no host memory"));
    }
    if chip.has_hccs() && !device.is_pinned(address, memory.len()) {
        return refused(format!(
            "host memory at {address:#x} is not pinned by the driver; on {chip} HIXL takes what Engine::alloc_pinned gives"
        ));
    }
    Ok(Span { address: address as u64, len: memory.len(), kind: Kind::Host })
}

/// A region as the peer is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Description {
    pub(super) address: u64,
    len: u64,
    kind: Kind,
}

impl Description {
    pub(super) fn of(span: Span) -> Self {
        Self { address: span.address, len: span.len, kind: span.kind }
    }

    /// Whether it lies within a range of the same kind of memory.
    pub(super) fn lies_in(self, span: Span) -> bool {
        self.kind == span.kind
            && span.address <= self.address
            && self.len <= span.len
            && self.address - span.address <= span.len - self.len
    }

    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(17);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.address);
        out.put_u64_le(self.len);
        out.freeze()
    }

    /// Reads a peer's; `len` is the length that its region has by the session.
    pub(super) fn decode(bytes: &[u8], len: u64) -> Result<Self> {
        let read = || {
            let mut from = Reader::new(bytes);
            let kind = match from.u8()? {
                0 => Kind::Device,
                1 => Kind::Host,
                value => return Err(WireError::Unknown { what: "kind of memory", value: value.into() }),
            };
            let found = Self { kind, address: from.u64()?, len: from.u64()? };
            from.finish()?;
            let sound = found.len == len && found.address != 0 && found.address.checked_add(len).is_some();
            if sound { Ok(found) } else { Err(WireError::Value { what: "range of a region" }) }
        };
        Ok(read()?)
    }

    /// Whether this way reaches it.
    pub(super) fn check_reach(self, reach: Reach, way: Way) -> Result<()> {
        if self.kind == Kind::Device || reach.remote_host {
            return Ok(());
        }
        let message = format!("{way} does not reach a peer's host memory; force RoCE, or use tcp");
        Err(Error::new(ErrorKind::Unsupported, "import by HIXL", message))
    }
}
