//! CANN, opened at run time and initialised once.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::path::Path;
use std::ptr::null;
use std::sync::{Mutex, PoisonError};

use ascend_sys::{LoadError, Search, acl};
use ropeway_core::{Error, ErrorKind, Result};

use crate::error::{Class, Code, Library, check, recent_text};
use crate::node::Chip;

/// An installed CANN, real or simulated, initialised. One per installation; it lives as long as the process.
///
/// `aclFinalize` is never called: it would end the runtime for everyone in the process, torch_npu among them.
pub struct Cann {
    sys: &'static ascend_sys::Cann,
}

/// What was initialised, by root.
static OPENED: Mutex<Vec<&'static Cann>> = Mutex::new(Vec::new());

impl Cann {
    /// Opens and initialises the CANN at `path`; without one, that of `ROPEWAY_CANN_PATH`, `ASCEND_HOME_PATH`,
    /// `ASCEND_TOOLKIT_HOME`, `/usr/local/Ascend` or the loader's path, in this order. Repeating it is cheap, and so is
    /// what others in the process have initialised before.
    ///
    /// # Errors
    /// `Unsupported`: there is none, or it cannot be used: where was looked, and what to set.
    pub fn open(path: Option<&Path>) -> Result<&'static Self> {
        let search = path.map_or_else(Search::from_env, Search::at);
        let sys = ascend_sys::Cann::load(&search).map_err(|error| absent(&error))?;
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cann) = opened.iter().find(|cann| std::ptr::eq(cann.sys, sys)) {
            return Ok(cann);
        }
        init(&sys.acl)?;
        let cann: &'static Self = Box::leak(Box::new(Self { sys }));
        opened.push(cann);
        Ok(cann)
    }

    /// What was loaded: its tables, folder and libraries.
    pub fn sys(&self) -> &'static ascend_sys::Cann {
        self.sys
    }

    /// AscendCL's functions.
    pub fn acl(&self) -> &'static acl::Api {
        &self.sys.acl
    }

    /// The chip's name, as `Ascend910B1`; empty while no device is to be had.
    pub fn soc_name(&self) -> String {
        // SAFETY: takes nothing; gives null or a string that stays.
        let name = unsafe { (self.acl().aclrtGetSocName)() };
        if name.is_null() {
            return String::new();
        }
        // SAFETY: not null, so a C string that stays.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// The chip's family.
    pub fn chip(&self) -> Chip {
        Chip::of(&self.soc_name())
    }

    /// How many devices this process sees: those in `ASCEND_RT_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// The driver is missing, or refuses this process.
    pub fn device_count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: writes one integer to a local.
        let code = unsafe { (self.acl().aclrtGetDeviceCount)(&mut count) };
        check(self.acl(), code, "count devices", || "the driver gives no count of devices".to_owned())?;
        Ok(count)
    }

    /// The version of an installed package (`runtime`, `hcomm`, `driver`, ...) as its `version.info` has it. `None` when
    /// it is not installed or this release does not tell.
    pub fn version(&self, package: &CStr) -> Option<String> {
        const VERSION_BYTES: usize = 128;
        let functions = self.acl().version.as_ref()?;
        let mut text = [0_u8; VERSION_BYTES];
        // SAFETY: the name is only read, whatever the type says; the buffer has the 128 bytes that the function writes.
        let code = unsafe {
            (functions.aclsysGetVersionStr)(package.as_ptr().cast_mut(), text.as_mut_ptr().cast::<c_char>())
        };
        if code != 0 {
            recent_text(self.acl());
            return None;
        }
        let text = CStr::from_bytes_until_nul(&text).ok()?.to_string_lossy().into_owned();
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Debug for Cann {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cann").field("root", &self.sys.root()).finish_non_exhaustive()
    }
}

/// Initialises AscendCL with no configuration. That somebody did before is success, and the usual case beside torch_npu.
fn init(api: &acl::Api) -> Result<()> {
    // SAFETY: null stands for no configuration.
    let code = unsafe { (api.aclInit)(null()) };
    if Code::of(Library::Acl, code).class == Class::Repeated {
        recent_text(api);
        return Ok(());
    }
    check(api, code, "open CANN", || "AscendCL cannot be initialised".to_owned())
}

fn absent(error: &LoadError) -> Error {
    Error::new(ErrorKind::Unsupported, "open CANN", error.to_string())
}
