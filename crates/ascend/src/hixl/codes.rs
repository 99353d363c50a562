//! What HIXL's numbers mean to a link, per call: the same number means different things at different calls.

use ascend_sys::acl::ACL_ERROR_RT_LOST_HEARTBEAT;
use ropeway_core::{Error, ErrorKind, Result, Retry};
use ropeway_transport::TransportKind;

use super::registry::Span;
use super::shim::{Code, Progress, code};
use crate::device::Device;
use crate::error::{Code as Known, Library, recent_text};
use crate::link::{Busy, Failure, Polled, PostError};

/// After a post that failed.
#[inline]
pub(super) fn posted(device: &Device, number: Code) -> PostError {
    let code = number.cast_signed();
    match number {
        code::RESOURCE_EXHAUSTED => PostError::Busy(Busy { code }),
        // Refused before anything was submitted: an address that is not registered on either side. The link engine names only
        // addresses that are, so a side has lost its regions, and the link is to be made anew with all of them.
        code::PARAM_INVALID => PostError::Cut { code },
        // No link, a timeout, a client that latched: and part of the list may be on its way.
        _ => PostError::Failed(Failure::Latched { code: cause(device, code) }),
    }
}

/// The number of a failed link, or that of a lost device when that is why: HIXL has no number for it. Only when a link has
/// failed, on any thread: a driver that hangs here would hang in the next call, too.
#[cold]
pub(super) fn cause(device: &Device, number: i32) -> i32 {
    if device.is_well() == Some(false) { ACL_ERROR_RT_LOST_HEARTBEAT } else { number }
}

/// What a number means that a transfer left, as [`cause`] gives it.
pub(super) fn explained(number: i32, what: &str, text: Option<&str>) -> Error {
    Known::of_link(TransportKind::Hixl, number).error("transfer with HIXL", what, text)
}

/// After a query.
#[inline]
pub(super) fn polled(device: &Device, progress: Progress) -> Polled {
    match progress {
        Progress::Waiting => Polled::Waiting,
        Progress::Completed => Polled::Done,
        // Also 103900 here, which says that the library does not know the request: nothing is known of its bytes.
        Progress::Failed(number) => {
            Polled::Failed(Failure::Latched { code: cause(device, number.cast_signed()) })
        }
    }
}

/// After a connect that failed. The library says 103900 for many of those, which does not mean that a parameter was wrong.
pub(super) fn unconnected(device: &Device, number: Code, peer: &str, text: Option<&str>) -> Error {
    let what = format!("the peer's engine {peer}");
    let lost = cause(device, number.cast_signed());
    if lost != number.cast_signed() {
        return Known::of(Library::Acl, lost).error("connect with HIXL", &what, text);
    }
    let error = Known::of(Library::Hixl, number.cast_signed()).error("connect with HIXL", &what, text);
    let (kind, hint) = match number {
        code::PARAM_INVALID => (
            ErrorKind::LinkLost,
            "on a connect this number also stands for endpoints that do not meet: the peer was started anew and its facts \
             are old, /etc/hccn.conf is missing on a side, or its network ports are down",
        ),
        code::TIMEOUT => (ErrorKind::TimedOut, "the peer did not answer in time"),
        code::RESOURCE_EXHAUSTED => (ErrorKind::Full, "the NPU has no streams or channels left"),
        _ => (ErrorKind::LinkLost, "nobody listens there, or the two releases of HIXL differ"),
    };
    let retry = if kind == ErrorKind::Full { Retry::Later } else { Retry::AfterReconnect };
    Error::new(kind, "connect with HIXL", format!("{}; {hint}", error.message()))
        .with_retry(retry)
        .with_native(number.cast_signed())
}

/// Any other call that failed.
pub(super) fn failed(number: Code, operation: &'static str, what: &str, text: Option<&str>) -> Error {
    Known::of(Library::Hixl, number.cast_signed()).error(operation, what, text)
}

/// After a registration by `operation`.
pub(super) fn registered<T>(
    device: &Device,
    operation: &'static str,
    span: Span,
    done: Result<T, Code>,
) -> Result<T> {
    done.map_err(|number| {
        let what = format!("{} bytes at {:#x}", span.len, span.address);
        failed(number, operation, &what, recent_text(device.acl()).as_deref())
    })
}

/// After the end of a registration by `operation`.
pub(super) fn deregistered(device: &Device, operation: &'static str, done: Result<(), Code>) -> Result<()> {
    done.map_err(|number| failed(number, operation, "a region", recent_text(device.acl()).as_deref()))
}
