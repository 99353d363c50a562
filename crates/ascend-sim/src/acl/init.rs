//! `aclInit`, `aclFinalize`, and the text of the last error.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use crate::fail::{Done, Fail, code, ensure, take_text};
use crate::ffi::{Out, Text};
use crate::runtime::runtime;

/// How often `aclInit` was called, less how often the reference was given back.
static REFERENCES: Mutex<u64> = Mutex::new(0);

/// Refuses before `aclInit`.
///
/// # Errors
/// UNINITIALIZE.
pub fn initialised() -> Done {
    let references = *REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
    ensure(references > 0, code::UNINITIALIZE, || "aclInit was not called".to_owned())
}

crate::export! {
    /// `aclInit`. Repeated, it counts a reference and returns REPEAT_INITIALIZE.
    fn sim_aclInit(config: Text) {
        runtime()?;
        if !config.is_null() {
            let path = config.to_text()?;
            let missing = || format!("configuration {path:?} cannot be read");
            ensure(path.is_empty() || std::path::Path::new(&path).is_file(), code::INVALID_FILE, missing)?;
        }
        let mut references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
        *references += 1;
        ensure(*references == 1, code::REPEAT_INITIALIZE, || "aclInit was called before".to_owned())
    }

    /// `aclFinalize`: ends it for the whole process, whatever the count.
    fn sim_aclFinalize() {
        let mut references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *references);
        ensure(before > 0, code::REPEAT_FINALIZE, || "aclFinalize without aclInit".to_owned())
    }

    /// `aclFinalizeReference`: counts one reference down and says how many are left.
    fn sim_aclFinalizeReference(left: Out<u64>) {
        let mut references = REFERENCES.lock().unwrap_or_else(PoisonError::into_inner);
        *references = references
            .checked_sub(1)
            .ok_or_else(|| Fail::new(code::REPEAT_FINALIZE, "aclFinalizeReference without aclInit"))?;
        if left.is_null() { Ok(()) } else { left.set(*references) }
    }
}

/// `aclGetRecentErrMsg`: this thread's pending text, cleared by reading; null without one.
#[unsafe(no_mangle)]
pub extern "C" fn sim_aclGetRecentErrMsg() -> *const c_char {
    take_text()
}
