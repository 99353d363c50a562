//! Rows from place to place in this NPU's memory, without the host.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use ascend_sys::acl;
use ropeway_core::plan::Rect;
use ropeway_core::{Error, ErrorKind, Quiet, Result};
use ropeway_transport::Memory;

use super::Npu;
use crate::device::{Bound, Work};
use crate::error::{Class, Code, Library, check};
use crate::stream::{Stream, Way};

impl Npu {
    /// Copies rectangles of `from` into rectangles of `to`, both memory of this NPU, on the device: pair by pair, the second
    /// of each is read. Returns when they are there. Rectangles that are written must not overlap any other.
    ///
    /// # Errors
    /// `ApiMisuse`: memory of another NPU or of the host, or a pair that differs in size. `OutOfBounds`: a rectangle passes an
    /// end, and nothing was copied. `Closed`: memory is suspended. `TimedOut` and others: part of the bytes may be there;
    /// when `local()` is `AfterClose`, the device may still write, and the memory stays.
    pub fn rearrange(
        self: &Arc<Self>,
        to: &Arc<Memory>,
        from: &Arc<Memory>,
        pairs: Vec<(Rect, Rect)>,
        timeout: Duration,
    ) -> Result<()> {
        let (written, read) = (self.awake(to, "rearrange")?, self.awake(from, "rearrange")?);
        pairs.iter().try_for_each(|pair| check_pair(pair, to.len(), from.len()))?;
        let (npu, to, from) = (Arc::clone(self), Arc::clone(to), Arc::clone(from));
        self.device.call(Work::Slow, "rearrange", move |on| {
            let stream = Stream::create(&npu.device, on)?;
            let submitted = pairs.iter().try_for_each(|(to, from)| {
                // SAFETY: both lie in memory that this closure holds, and leaks below where it must.
                unsafe { submit(on, &stream, (written, to), (read, from)) }
            });
            let outcome = submitted.and_then(|()| stream.wait(on, timeout));
            let Err(error) = outcome else { return Ok(()) };
            if stream.stop(on) {
                return Err(error.with_quiet(Quiet::Yes, Quiet::Yes));
            }
            // The device may still touch it: a leak is better.
            std::mem::forget((to, from, stream));
            Err(error.with_quiet(Quiet::AfterClose, Quiet::Yes))
        })?
    }
}

fn check_pair((to, from): &(Rect, Rect), to_len: u64, from_len: u64) -> Result<()> {
    if (to.rows, to.row_bytes) != (from.rows, from.row_bytes) {
        let message = format!("{from:?} cannot become {to:?}: their sizes differ");
        return Err(Error::new(ErrorKind::ApiMisuse, "rearrange", message));
    }
    let within = |rect: &Rect, len: u64| {
        let last = u64::from(rect.rows.saturating_sub(1)).checked_mul(rect.row_stride);
        let end = last.and_then(|last| rect.offset.checked_add(last)?.checked_add(rect.row_bytes));
        rect.row_stride >= rect.row_bytes && end.is_some_and(|end| end <= len)
    };
    if within(to, to_len) && within(from, from_len) {
        return Ok(());
    }
    let message = format!(
        "{from:?} of {from_len} bytes into {to:?} of {to_len}: one passes an end, or its rows overlap"
    );
    Err(Error::new(ErrorKind::OutOfBounds, "rearrange", message))
}

/// Puts a pair on the stream.
///
/// # Safety
/// As [`Stream::copy`], for every row.
unsafe fn submit(
    on: &Bound<'_>,
    stream: &Stream,
    (to_base, to): (u64, &Rect),
    (from_base, from): (u64, &Rect),
) -> Result<()> {
    let (rows, width) = (u64::from(to.rows), to.row_bytes);
    if rows == 0 || width == 0 {
        return Ok(());
    }
    let (to_at, from_at) = (to_base + to.offset, from_base + from.offset);
    if rows == 1 || to.row_stride == width && from.row_stride == width {
        // SAFETY: passed on; the rows touch.
        return unsafe { stream.copy(on, to_at, from_at, rows * width, Way::Device) };
    }
    if let Some(strided) = &on.acl().memcpy_2d {
        // SAFETY: passed on; the pitches are no less than the width.
        let code = unsafe {
            (strided.aclrtMemcpy2dAsync)(
                to_at as *mut c_void,
                to.row_stride as usize,
                from_at as *const c_void,
                from.row_stride as usize,
                width as usize,
                rows as usize,
                acl::ACL_MEMCPY_DEVICE_TO_DEVICE,
                stream.raw(),
            )
        };
        if code == 0 || Code::of(Library::Acl, code).class != Class::Unsupported {
            return check(on.acl(), code, "copy", || format!("{rows} rows of {width} bytes"));
        }
    }
    (0..rows).try_for_each(|row| {
        // SAFETY: passed on.
        unsafe {
            stream.copy(on, to_at + row * to.row_stride, from_at + row * from.row_stride, width, Way::Device)
        }
    })
}
