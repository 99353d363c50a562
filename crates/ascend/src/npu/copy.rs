//! Copies between host memory and this NPU's, without a link.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ropeway_core::{Error, ErrorKind, Op, Quiet, Result};
use ropeway_transport::Memory;

use super::{Npu, hbm};
use crate::device::Work;
use crate::staging::{Piece, STAGE, Staging};

impl Npu {
    /// Copies pieces between host memory and memory of this NPU through pinned buffers, and returns when they are there:
    /// `Read` from the device to the host, `Write` from the host to the device. One copy at a time; the others wait.
    ///
    /// # Errors
    /// `ApiMisuse`: `device` is no memory of this NPU. `OutOfBounds`: a piece passes an end, and nothing was copied.
    /// `Closed`: the memory is suspended. `TimedOut` and others: part of the bytes may be there.
    pub fn copy(
        self: &Arc<Self>,
        op: Op,
        host: &Arc<Memory>,
        device: &Arc<Memory>,
        pieces: Vec<Piece>,
        timeout: Duration,
    ) -> Result<()> {
        let base = self.awake(device, "copy")?;
        check_pieces(host, device, &pieces)?;
        // Taken here, so that who waits for it takes up no thread of the device.
        let mut slot = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, npu, host, device) = (slot.take(), Arc::clone(self), Arc::clone(host), Arc::clone(device));
        let (staging, outcome) = self.device.call(Work::Slow, "copy", move |on| {
            let mut staging = match made {
                Some(staging) => staging,
                None => Staging::new(&npu.device, on, STAGE, &npu.janitor)?,
            };
            let outcome = match op {
                // SAFETY: the pieces lie in `device`, which this closure holds, and leaks below where it must.
                Op::Write => unsafe { staging.to_device(on, &host, base, pieces, timeout) },
                // SAFETY: as above.
                Op::Read => unsafe { staging.to_host(on, &host, base, pieces, timeout) },
            };
            if outcome.as_ref().is_err_and(|error| error.local() != Quiet::Yes) {
                // The device may still touch it: a leak is better.
                std::mem::forget(device);
            }
            Ok::<_, Error>((staging, outcome))
        })??;
        *slot = Some(staging);
        outcome
    }

    /// Where memory of this NPU begins in its address space, while it is awake.
    pub(super) fn awake(&self, memory: &Memory, operation: &'static str) -> Result<u64> {
        let range = hbm(memory, operation)?;
        if range.npu().user_id() != self.device.user_id() {
            let (other, ours) = (range.npu().user_id(), self.device.user_id());
            let message = format!("the memory is on NPU {other}, the call was made to NPU {ours}");
            return Err(Error::new(ErrorKind::ApiMisuse, operation, message));
        }
        range.check_awake(operation).map(|()| range.begin())
    }
}

fn check_pieces(host: &Memory, device: &Memory, pieces: &[Piece]) -> Result<()> {
    let within =
        |at: u64, len: u64, memory: &Memory| at.checked_add(len).is_some_and(|end| end <= memory.len());
    let wrong =
        |piece: &&Piece| !within(piece.host, piece.len, host) || !within(piece.device, piece.len, device);
    let Some(piece) = pieces.iter().find(wrong) else { return Ok(()) };
    let message = format!(
        "{} bytes at {} of the host's memory ({}) and at {} of the device's ({}) pass an end",
        piece.len,
        piece.host,
        host.len(),
        piece.device,
        device.len()
    );
    Err(Error::new(ErrorKind::OutOfBounds, "copy", message))
}
