//! A communicator of two ranks, and the stream on which its copies run.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ascend_sys::hccl;
use ropeway_core::{Error, Result};

use super::rounds::Piece;
use super::wire::ROOT_BYTES;
use crate::device::Bound;
use crate::error::{Code, Library};
use crate::stream::{Stream, has_passed};

/// Megabytes of each of the communicator's two buffers: the least, since nothing here goes through them twice.
const BUFFER_MB: u32 = 1;

/// How long a destroy may be refused because another thread of the library's still uses the communicator.
pub(super) const DESTROY: Duration = Duration::from_secs(5);

/// How long an aborted stream may take to end, at least.
pub(super) const ABORT: Duration = Duration::from_secs(5);

/// `HCCL_E_AGAIN`.
const AGAIN: i32 = hccl::HCCL_E_AGAIN.cast_signed();

/// Leaked unless it is [destroyed](Self::destroy).
pub(super) struct Communicator {
    api: &'static hccl::Api,
    /// The handle, as a number.
    raw: usize,
    /// It was destroyed, or the library has begun to.
    ended: AtomicBool,
    stream: Stream,
    peer: u32,
}

/// Makes the root of a communicator. The thread has the context, and the NPU's turn.
pub(super) fn root(api: &'static hccl::Api) -> Result<Box<[u8; ROOT_BYTES]>> {
    let mut info = Box::new(hccl::HcclRootInfo { internal: [0; ROOT_BYTES] });
    // SAFETY: writes one structure to the heap.
    let code = unsafe { (api.HcclGetRootInfo)(&raw mut *info) };
    check(api, code, "make a communicator", "its root")?;
    Ok(Box::new(info.internal.map(|byte| byte.to_ne_bytes()[0])))
}

impl Communicator {
    /// Joins the communicator; returns once the other rank has, too, or the library gave up (120 s and more). The thread
    /// has the context, and the NPU's turn.
    pub(super) fn join(
        api: &'static hccl::Api,
        stream: Stream,
        root: &[u8; ROOT_BYTES],
        rank: u32,
        exec: Duration,
    ) -> Result<Self> {
        let info = Box::new(hccl::HcclRootInfo {
            internal: root.map(|byte| std::ffi::c_char::from_ne_bytes([byte])),
        });
        // The oldest form: every release reads it, and it has all that is set here.
        let mut config = hccl::HcclCommConfig::unset(hccl::CONFIG_FORMS[0]);
        config.hcclBufferSize = BUFFER_MB;
        config.hcclExecTimeOut = i32::try_from(exec.as_secs()).unwrap_or(i32::MAX).max(1);
        let mut raw = std::ptr::null_mut();
        // SAFETY: both structures live for the call; writes one pointer.
        let code = unsafe { (api.HcclCommInitRootInfoConfig)(2, &raw const *info, rank, &config, &mut raw) };
        check(
            api,
            code,
            "make a communicator",
            &format!("rank {rank} of 2 on device {}", stream.device().user_id()),
        )?;
        Ok(Self { api, raw: raw as usize, ended: AtomicBool::new(false), stream, peer: 1 - rank })
    }

    /// Posts copies: what the other rank posts must match, one by one. Gives the library's number.
    ///
    /// # Safety
    /// Until the stream is idle, or was aborted and waited for, the ranges are device memory that stays allocated, and
    /// nobody relies on the bytes of those that are received into. A call that has not returned may still put them there.
    pub(super) unsafe fn post(&self, send: &[Piece], receive: &[Piece]) -> Result<(), i32> {
        if self.ended.load(Ordering::SeqCst) {
            return Err(hccl::HCCL_E_PARA.cast_signed());
        }
        let item = |kind, piece: &Piece| hccl::HcclSendRecvItem {
            sendRecvType: kind,
            buf: piece.address as *mut _,
            count: piece.len.into(),
            dataType: hccl::HCCL_DATA_TYPE_UINT8,
            remoteRank: self.peer,
        };
        let mut items: Vec<_> = send.iter().map(|piece| item(hccl::HCCL_SEND, piece)).collect();
        items.extend(receive.iter().map(|piece| item(hccl::HCCL_RECV, piece)));
        let call = self.api.HcclBatchSendRecv;
        // SAFETY: the communicator and the stream live; the list lives for the call; the caller answers for the ranges.
        let code = unsafe { call(items.as_mut_ptr(), items.len() as u32, self.raw(), self.stream.raw()) };
        match number(code) {
            0 => Ok(()),
            code => Err(code),
        }
    }

    fn raw(&self) -> hccl::HcclComm {
        self.raw as hccl::HcclComm
    }

    /// The stream on which the copies run.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether the device is done with the copies after the stream's abort, which it may take a while to heed.
    pub(super) fn is_quiet(&self, on: &Bound<'_>, patience: Duration) -> bool {
        has_passed(&self.stream.wait(on, patience.max(ABORT)))
    }

    /// An error that the network told of since; `None` also where this chip does not tell.
    pub(super) fn async_error(&self) -> Option<i32> {
        if self.ended.load(Ordering::SeqCst) {
            return None;
        }
        let mut told = 0;
        // SAFETY: the communicator lives; writes one integer to a local.
        let code = unsafe { (self.api.HcclGetCommAsyncError)(self.raw(), &mut told) };
        (number(code) == 0 && number(told) != 0).then(|| number(told))
    }

    /// Ends it, once. May never return when a rank hangs.
    pub(super) fn destroy(&self) -> Result<()> {
        if self.ended.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let until = Instant::now() + DESTROY;
        loop {
            // SAFETY: made by `join`; used no more once `ended` is set, but here, and still there after a refusal.
            let code = unsafe { (self.api.HcclCommDestroy)(self.raw()) };
            if number(code) != AGAIN || Instant::now() >= until {
                return check(self.api, code, "end a communicator", "of two ranks");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn number(code: hccl::HcclResult) -> i32 {
    code.cast_signed()
}

/// The library's number as an error.
pub(super) fn failed(api: &hccl::Api, number: i32, operation: &'static str, what: &str) -> Error {
    // SAFETY: takes a number; gives null or a string that stays.
    let text = unsafe { (api.HcclGetErrorString)(number.cast_unsigned()) };
    let text = (!text.is_null()).then(|| {
        // SAFETY: not null, so a C string that stays.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    });
    Code::of(Library::Hccl, number).error(operation, what, text.as_deref())
}

fn check(api: &hccl::Api, code: hccl::HcclResult, operation: &'static str, what: &str) -> Result<()> {
    match number(code) {
        0 => Ok(()),
        code => Err(failed(api, code, operation, what)),
    }
}
