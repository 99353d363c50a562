//! A failure: CANN's number for it and a sentence.

use std::cell::RefCell;
use std::ffi::CString;
use std::fmt;

/// A native error code with a sentence that says what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    /// The number that the C function returns.
    pub code: i32,
    /// What was wrong.
    pub text: String,
}

/// A value, or a native error.
pub type Done<T = ()> = Result<T, Fail>;

impl Fail {
    /// A failure with this code and sentence.
    pub fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// A system call or file that failed: INTERNAL.
    pub fn system(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(code::INTERNAL, format!("{what}: {error}"))
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

impl std::error::Error for Fail {}

/// Refuses with `code` unless `holds`.
///
/// # Errors
/// The refusal.
pub fn ensure(holds: bool, code: i32, text: impl FnOnce() -> String) -> Done {
    if holds { Ok(()) } else { Err(Fail::new(code, text())) }
}

thread_local! {
    static PENDING: RefCell<Option<String>> = const { RefCell::new(None) };
    static HANDED: RefCell<CString> = RefCell::new(CString::default());
}

/// Keeps the sentence of a failed call for `aclGetRecentErrMsg` on this thread.
pub fn note(name: &str, fail: &Fail) {
    let text = format!("ropeway software CANN (simulated): {name}: {fail}");
    let _ = LAST.try_with(|last| last.set(fail.code));
    let _ = PENDING.try_with(|pending| *pending.borrow_mut() = Some(text));
}

/// The pending sentence of this thread, cleared by reading; null when there is none. Valid until the next call on
/// this thread.
pub fn take_text() -> *const std::ffi::c_char {
    let Ok(Some(text)) = PENDING.try_with(|pending| pending.borrow_mut().take()) else {
        return std::ptr::null();
    };
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    HANDED
        .try_with(|handed| {
            *handed.borrow_mut() = text;
            handed.borrow().as_ptr()
        })
        .unwrap_or(std::ptr::null())
}

thread_local! {
    static LAST: std::cell::Cell<i32> = const { std::cell::Cell::new(0) };
}

/// The number of the last call that failed on this thread; `clear` forgets it.
#[must_use]
pub fn last(clear: bool) -> i32 {
    LAST.try_with(|last| if clear { last.replace(0) } else { last.get() }).unwrap_or(0)
}

/// AscendCL's numbers, those that are returned here.
pub mod code {
    #![expect(missing_docs, reason = "named as in CANN, without the prefix ACL_ERROR_")]
    pub const INVALID_PARAM: i32 = 100_000;
    pub const UNINITIALIZE: i32 = 100_001;
    pub const REPEAT_INITIALIZE: i32 = 100_002;
    pub const INVALID_FILE: i32 = 100_003;
    pub const REPEAT_FINALIZE: i32 = 100_037;
    pub const RT_PARAM_INVALID: i32 = 107_000;
    pub const RT_INVALID_DEVICEID: i32 = 107_001;
    pub const RT_CONTEXT_NULL: i32 = 107_002;
    pub const RT_STREAM_CONTEXT: i32 = 107_003;
    pub const RT_EVENT_TIMESTAMP_INVALID: i32 = 107_006;
    pub const RT_EVENT_TIMESTAMP_REVERSAL: i32 = 107_007;
    pub const RT_ADDR_UNALIGNED: i32 = 107_008;
    pub const RT_INVALID_MEMORY_TYPE: i32 = 107_016;
    pub const RT_INVALID_HANDLE: i32 = 107_017;
    pub const RT_INVALID_MALLOC_TYPE: i32 = 107_018;
    pub const RT_WAIT_TIMEOUT: i32 = 107_019;
    pub const RT_SYS_DMA: i32 = 507_013;
    pub const RT_DEVICE_TASK_ABORT: i32 = 107_022;
    pub const RT_STREAM_ABORT: i32 = 107_023;
    pub const BAD_ALLOC: i32 = 200_000;
    pub const RT_FEATURE_NOT_SUPPORT: i32 = 207_000;
    pub const RT_MEMORY_ALLOCATION: i32 = 207_001;
    pub const RT_MEMORY_FREE: i32 = 207_002;
    pub const RT_NO_DEVICE: i32 = 207_004;
    pub const RT_RESOURCE_ALLOC_FAIL: i32 = 207_005;
    pub const RT_NO_PERMISSION: i32 = 207_006;
    pub const RT_NO_EVENT_RESOURCE: i32 = 207_007;
    pub const RT_NO_STREAM_RESOURCE: i32 = 207_008;
    pub const RT_NO_NOTIFY_RESOURCE: i32 = 207_009;
    pub const RT_LINK_TYPE_NOT_SUPPORTED: i32 = 207_021;
    pub const INTERNAL: i32 = 500_000;
    pub const RT_LOST_HEARTBEAT: i32 = 507_010;
    pub const RT_IPC_ERROR: i32 = 507_022;
    pub const RT_STREAM_SYNC_TIMEOUT: i32 = 507_046;
    pub const RT_EVENT_SYNC_TIMEOUT: i32 = 507_047;
    pub const RT_COPY_DATA: i32 = 507_052;
    pub const RT_HBM_MULTI_BIT_ECC: i32 = 507_054;
    pub const RT_DRV_INTERNAL: i32 = 507_899;
    pub const RT_SOCKET_CLOSE: i32 = 507_901;
    pub const HOST_MEMORY_ALREADY_REGISTERED: i32 = 507_910;
    pub const HOST_MEMORY_NOT_REGISTERED: i32 = 507_911;
}
