//! Native codes as errors of the engine: kind, name, number, the library's own text, and what to do.
//!
//! A code is looked up in a table only when something failed, and the text is fetched then, on the thread of the failed
//! call, since CANN keeps it per thread and drops it at the next call.

mod codes;
#[cfg(test)]
mod tests;

use std::ffi::CStr;

use ascend_sys::hixl_cs::HIXL_PARAM_INVALID;
use ascend_sys::{acl, names};
use ropeway_core::{Error, ErrorKind, Result, Retry};
use ropeway_transport::TransportKind;

/// What a native code means to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Class {
    /// An argument that the library does not take.
    Misuse,
    /// `aclInit` was not called, or the runtime was finalised under us.
    Uninitialised,
    /// It is so already: initialised, connected. Success, to most callers.
    Repeated,
    /// A library to link with was opened, not one to run with.
    NoRuntime,
    /// No such device, or none at all.
    NoDevice,
    /// The calling thread has no context, or that of another device.
    WrongContext,
    /// An address or length breaks an alignment rule.
    Unaligned,
    /// A handle that is not, or no longer, one.
    StaleHandle,
    /// The device did not answer in time.
    TimedOut,
    /// A bounded wait ended; what was waited for goes on.
    SyncTimedOut,
    /// Work was ended by an abort, ours or another's.
    Aborted,
    /// No device or host memory is to be had.
    OutOfMemory,
    /// Memory could not be freed: freed already, or still in use.
    FreeRefused,
    /// This release, chip or driver cannot do it.
    Unsupported,
    /// These two devices have no link of the kind that was asked for.
    WrongLinkType,
    /// No right: a pid that is not on the key's list, a device node.
    Denied,
    /// No event is to be had.
    NoEvents,
    /// No stream is to be had.
    NoStreams,
    /// No notify is to be had.
    NoNotifies,
    /// Another table or queue of the device is full.
    Exhausted,
    /// Not finished, or nothing there yet.
    NotReady,
    /// The device does not answer any more.
    DeviceLost,
    /// A copy engine failed.
    Dma,
    /// Device memory is broken: an ECC error that could not be corrected.
    MemoryFault,
    /// Sharing between processes failed.
    Ipc,
    /// A link between devices, or between nodes, failed.
    LinkFault,
    /// A transfer timed out: its link takes no more, and the hardware may still be writing.
    LinkTimedOut,
    /// The link failed, or the call came too early or too late for it.
    LinkFailed,
    /// The peer is not there any more, or does not answer.
    PeerLost,
    /// A transfer named memory that the link no longer knows, on one side.
    RegionsLost,
    /// Host memory that was registered before.
    AlreadyRegistered,
    /// Host memory that is not registered.
    NotRegistered,
    /// A compute kernel failed, not a transfer; it is reported to whoever asks next.
    Kernel,
    /// A stream is being captured into a graph.
    Capture,
    /// The runtime or driver failed inside.
    Internal,
}

impl Class {
    /// The engine's kind of error.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Misuse
            | Self::Repeated
            | Self::Unaligned
            | Self::StaleHandle
            | Self::AlreadyRegistered
            | Self::NotRegistered
            | Self::Capture => ErrorKind::ApiMisuse,
            Self::Uninitialised => ErrorKind::Closed,
            Self::NoRuntime | Self::NoDevice | Self::Unsupported | Self::WrongLinkType => {
                ErrorKind::Unsupported
            }
            Self::WrongContext | Self::FreeRefused => ErrorKind::Internal,
            Self::TimedOut | Self::SyncTimedOut => ErrorKind::TimedOut,
            Self::Aborted => ErrorKind::Cancelled,
            Self::Denied => ErrorKind::Denied,
            Self::NoEvents | Self::NoStreams | Self::NoNotifies | Self::Exhausted => ErrorKind::Full,
            Self::LinkFault | Self::LinkTimedOut | Self::LinkFailed | Self::PeerLost | Self::RegionsLost => {
                ErrorKind::LinkLost
            }
            Self::OutOfMemory
            | Self::NotReady
            | Self::DeviceLost
            | Self::Dma
            | Self::MemoryFault
            | Self::Ipc
            | Self::Kernel
            | Self::Internal => ErrorKind::Resource,
        }
    }

    /// Whether trying again can help.
    pub fn retry(self) -> Retry {
        match self {
            Self::DeviceLost | Self::MemoryFault | Self::Kernel | Self::Internal => Retry::Never,
            Self::Aborted => Retry::Later,
            Self::Ipc => Retry::AfterReconnect,
            _ => self.kind().retry(),
        }
    }

    /// The next step, in words.
    fn advice(self) -> &'static str {
        match self {
            Self::Misuse => "an argument was refused: check addresses, lengths and ids",
            Self::Uninitialised => "something in this process finalised CANN; close the engine before that",
            Self::Repeated => "it was done before, which is no failure",
            Self::NoRuntime => {
                "a stub for linking was opened: let ROPEWAY_CANN_PATH name an installed CANN, not its devlib"
            }
            Self::NoDevice => "check the id, ASCEND_RT_VISIBLE_DEVICES, and `npu-smi info`",
            Self::WrongContext => "the thread had no context of this device; this is a fault of the engine",
            Self::Unaligned => "align address and length as the transport's capabilities say",
            Self::StaleHandle => "the handle was destroyed, or belongs to another device",
            Self::TimedOut => "the device did not answer in time; look at its load and its log",
            Self::SyncTimedOut => "the work goes on: its memory is not quiet until its stream was aborted",
            Self::Aborted => "the stream's work was aborted",
            Self::OutOfMemory => {
                "free device memory, or lower what others take of it (gpu_memory_utilization)"
            }
            Self::FreeRefused => {
                "the memory was freed before, or is still in use; this is a fault of the engine"
            }
            Self::Unsupported => "this CANN release, chip or driver cannot do it; docs/ABI.md says which can",
            Self::WrongLinkType => "these devices have no such link; take another transport",
            Self::Denied => "check the rights on /dev/davinci*, and that both processes see each other's pid",
            Self::NoEvents => "the device has no event left; others hold them",
            Self::NoStreams => "the device has no stream left (1,984 in all); others hold them",
            Self::NoNotifies => "the device has no notify left; others hold them",
            Self::Exhausted => "a queue of the device is full; wait for transfers to end",
            Self::NotReady => "it is not finished yet",
            Self::DeviceLost => "the device is lost: reset it (npu-smi set -t reset) and restart the process",
            Self::Dma => "a copy engine failed: see the device's log; a retry may work",
            Self::MemoryFault => {
                "device memory is faulty: trust none of its contents and have the device looked at"
            }
            Self::Ipc => "sharing with the other process failed; it may have ended",
            Self::LinkFault => "a link failed: check `hccn_tool -i <physical id> -link -g` and the peer",
            Self::LinkTimedOut => "the link is used up, and its memory is not quiet until it was destroyed",
            Self::LinkFailed => {
                "check that the peer lives, that its port is free, and that both run one CANN release"
            }
            Self::PeerLost => "the peer does not answer; connect anew when it is back",
            Self::RegionsLost => {
                "the peer or this side lost its registered memory: connect anew, which registers it again"
            }
            Self::AlreadyRegistered => "this host memory is registered already",
            Self::NotRegistered => "register the host memory first",
            Self::Kernel => "a compute kernel of this process failed; its own log says which",
            Self::Capture => "a stream is being captured into a graph; do it outside the capture",
            Self::Internal => "the runtime failed inside; see its log below ASCEND_PROCESS_LOG_PATH",
        }
    }

    /// Whether nothing can be expected of the device any more.
    pub fn is_device_lost(self) -> bool {
        matches!(self, Self::DeviceLost | Self::MemoryFault)
    }
}

/// Whose code it is: the numbers of the libraries overlap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Library {
    /// AscendCL and its runtime.
    Acl,
    /// HCCL.
    Hccl,
    /// HIXL, by its class or its C interface.
    Hixl,
}

/// A native code, looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// Whose.
    pub library: Library,
    /// The number.
    pub number: i32,
    /// The library's name for it; `None` for one that a newer release has added.
    pub name: Option<&'static str>,
    /// What it means to the engine.
    pub class: Class,
}

impl Code {
    /// Looks `number` up.
    pub fn of(library: Library, number: i32) -> Self {
        let (table, name) = match library {
            Library::Acl => (codes::ACL, names::acl_error(number)),
            Library::Hccl => (codes::HCCL, names::hccl_result(number.cast_unsigned())),
            Library::Hixl => (codes::HIXL, names::hixl_status(number.cast_unsigned())),
        };
        let group = table.iter().find(|(_, codes)| codes.contains(&number));
        let class = group.map_or_else(|| by_digit(library, number), |(class, _)| *class);
        Self { library, number, name, class }
    }

    /// The code that a link of this kind left in a transfer's status: the libraries' numbers, but HCCL's, do not overlap.
    pub fn of_link(kind: TransportKind, number: i32) -> Self {
        let library = match kind {
            TransportKind::Hccl if number < 100_000 => Library::Hccl,
            _ if matches!(number, 103_900..=103_999 | 203_900 | 503_900) => Library::Hixl,
            _ => Library::Acl,
        };
        let code = Self::of(library, number);
        // A link posts only what both sides have registered, so its 103900 does not blame the caller.
        let lost = library == Library::Hixl && number == HIXL_PARAM_INVALID.cast_signed();
        if lost { Self { class: Class::RegionsLost, ..code } } else { code }
    }

    /// The number, its name, and what to do.
    pub fn describe(self) -> String {
        let name = self.name.unwrap_or("a code that this build does not know");
        format!("{} ({name}); {}", self.number, self.class.advice())
    }

    /// The error of a call that gave this code. `what` names the object and the values; `text` is the library's own.
    #[cold]
    pub fn error(self, operation: &'static str, what: &str, text: Option<&str>) -> Error {
        let name = self.name.unwrap_or("a code that this build does not know");
        let text = text.map(|text| format!(" \"{text}\"")).unwrap_or_default();
        let message = format!("{what}: {} ({name}){text}; {}", self.number, self.class.advice());
        Error::new(self.class.kind(), operation, message)
            .with_retry(self.class.retry())
            .with_native(self.number)
    }
}

/// What the leading digit of a code says: 1 the caller, 2 resources, 3 and 5 inside.
fn by_digit(library: Library, number: i32) -> Class {
    match (library, number / 100_000) {
        (Library::Hccl, _) => Class::Internal,
        (_, 1) => Class::Misuse,
        (_, 2) => Class::Exhausted,
        _ => Class::Internal,
    }
}

/// The class of an error that an AscendCL call of this crate gave, for callers that react to it.
pub fn acl_class(error: &Error) -> Option<Class> {
    error.native().filter(|number| *number >= 100_000).map(|number| Code::of(Library::Acl, number).class)
}

/// `Ok` for success; else the error, with the text that the library left for this thread. `what` is only called then.
///
/// # Errors
/// What the code means; its number is the error's `native()`.
#[inline]
pub fn check(
    api: &acl::Api,
    number: i32,
    operation: &'static str,
    what: impl FnOnce() -> String,
) -> Result<()> {
    if number == 0 { Ok(()) } else { Err(failed(api, number, operation, &what())) }
}

#[cold]
fn failed(api: &acl::Api, number: i32, operation: &'static str, what: &str) -> Error {
    Code::of(Library::Acl, number).error(operation, what, recent_text(api).as_deref())
}

/// What the library says about the last failure on this thread: one line, shortened. Asking clears it.
pub fn recent_text(api: &acl::Api) -> Option<String> {
    const TEXT_MAX: usize = 400;
    // SAFETY: takes nothing; gives null or a string that stays until the next call on this thread.
    let text = unsafe { (api.aclGetRecentErrMsg)() };
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string that nobody changes before the next call on this thread; copied here.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().take(TEXT_MAX).collect();
    (!line.is_empty()).then_some(line)
}
