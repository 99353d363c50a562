//! HIXL's class through the shim, as a program with one CANN sees it: safe enough for tests, no more.

use std::ffi::{CStr, CString, c_char, c_void};
use std::net::TcpListener;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ascend_sys::acl::{
    ACL_MEM_MALLOC_HUGE_ONLY, ACL_MEMCPY_DEVICE_TO_HOST, ACL_MEMCPY_HOST_TO_DEVICE, aclrtMemcpyKind,
};
use ascend_sys::shim::{Api, EMBEDDED, ROPEWAY_HIXL_WAITING, RopewayHixl, RopewayHixlDesc};
use ascend_sys::{Cann, Search};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;

pub(crate) const TIMEOUT_MS: i32 = 10_000;

/// The one CANN of this process; none, and a note for `test`, where it cannot be built.
pub(crate) fn cann(test: &str, wanted: &SimCann) -> Option<&'static Cann> {
    static CANN: OnceLock<Result<&'static Cann, &str>> = OnceLock::new();
    let cann = CANN.get_or_init(|| {
        EMBEDDED.ok_or("built without a C++ compiler")?;
        let simulator = Simulator::start(wanted).unwrap_or_else(|error| panic!("{error}"));
        let cann = Cann::load(&Search::at(simulator.root())).unwrap_or_else(|error| panic!("{error}"));
        // SAFETY: takes no configuration.
        assert_eq!(unsafe { (cann.acl.aclInit)(ptr::null()) }, 0);
        Ok(cann)
    });
    cann.map_err(|why| cannot_run(test, why)).ok()
}

/// HBM of one device: 2 MiB.
pub(crate) struct Hbm {
    cann: &'static Cann,
    device: i32,
    pub(crate) address: u64,
}

pub(crate) const HBM: usize = 2 << 20;

impl Hbm {
    /// Allocates on the device that this thread works on.
    pub(crate) fn new(cann: &'static Cann) -> Self {
        let mut at = ptr::null_mut();
        // SAFETY: `at` is written by the call.
        assert_eq!(unsafe { (cann.acl.aclrtMalloc)(&raw mut at, HBM, ACL_MEM_MALLOC_HUGE_ONLY) }, 0);
        Self { cann, device: device(cann), address: at as u64 }
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        self.copy(self.address as *mut c_void, bytes.as_ptr().cast(), bytes.len(), ACL_MEMCPY_HOST_TO_DEVICE);
    }

    pub(crate) fn read(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.copy(
            bytes.as_mut_ptr().cast(),
            self.address as *const c_void,
            length,
            ACL_MEMCPY_DEVICE_TO_HOST,
        );
        bytes
    }

    /// On the memory's own device; the thread goes back to the one that it works on.
    fn copy(&self, to: *mut c_void, from: *const c_void, length: usize, kind: aclrtMemcpyKind) {
        let before = device(self.cann);
        set_device(self.cann, self.device);
        assert!(length <= HBM);
        // SAFETY: one side is `HBM` bytes of a device, the other a slice of `length`.
        assert_eq!(unsafe { (self.cann.acl.aclrtMemcpy)(to, length, from, length, kind) }, 0);
        set_device(self.cann, before);
    }
}

/// The device that this thread works on.
fn device(cann: &Cann) -> i32 {
    let mut device = -1;
    // SAFETY: `device` is written by the call.
    assert_eq!(unsafe { (cann.acl.aclrtGetDevice)(&raw mut device) }, 0);
    device
}

/// Makes `device` the one that this thread works on.
pub(crate) fn set_device(cann: &Cann, device: i32) {
    // SAFETY: takes a number.
    assert_eq!(unsafe { (cann.acl.aclrtSetDevice)(device) }, 0);
}

/// One `hixl::Hixl`.
pub(crate) struct Engine {
    pub(crate) api: &'static Api,
    pub(crate) raw: *mut RopewayHixl,
    pub(crate) name: CString,
}

impl Engine {
    /// An engine that is not initialised, with a free port in its name.
    pub(crate) fn new(cann: &'static Cann) -> Self {
        let api = cann.shim().unwrap_or_else(|why| panic!("{why}"));
        // SAFETY: takes nothing.
        let raw = unsafe { (api.ropeway_hixl_create)() };
        assert!(!raw.is_null());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { api, raw, name: CString::new(format!("127.0.0.1:{port}")).unwrap() }
    }

    /// An engine that listens, as a client/server engine.
    pub(crate) fn listening(cann: &'static Cann) -> Self {
        let engine = Self::new(cann);
        assert_eq!(engine.initialize(&[(c"LocalCommRes", c"{\"version\":\"1.3\"}")]), 0);
        engine
    }

    /// Initialises with these options, the staging pool off, and a port of the NPU that no other engine here has.
    pub(crate) fn initialize(&self, options: &[(&CStr, &CStr)]) -> u32 {
        static PORT: AtomicU16 = AtomicU16::new(20_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let config = format!("{{\"comm_resource_config.listen_port\":\"{port}\"}}");
        let config = CString::new(config).unwrap();
        let ours = [(c"GlobalResourceConfig", config.as_c_str()), (c"BufferPool", c"0:0")];
        self.initialize_bare(&[options, &ours].concat())
    }

    pub(crate) fn initialize_bare(&self, options: &[(&CStr, &CStr)]) -> u32 {
        let keys: Vec<_> = options.iter().map(|(key, _)| key.as_ptr()).collect();
        let values: Vec<_> = options.iter().map(|(_, value)| value.as_ptr()).collect();
        let call = self.api.ropeway_hixl_initialize;
        // SAFETY: the engine is alive, every string ends in NUL and outlives the call.
        unsafe { call(self.raw, self.name.as_ptr(), keys.as_ptr(), values.as_ptr(), options.len()) }
    }

    pub(crate) fn finalize(&self) {
        // SAFETY: the engine is alive.
        unsafe { (self.api.ropeway_hixl_finalize)(self.raw) }
    }

    pub(crate) fn register(&self, memory: &Hbm) -> Result<*mut c_void, u32> {
        let mut handle = ptr::null_mut();
        let call = self.api.ropeway_hixl_register_mem;
        // SAFETY: the engine is alive; the memory stays allocated to the end of the process.
        match unsafe { call(self.raw, memory.address, HBM as u64, 0, &raw mut handle) } {
            0 => Ok(handle),
            status => Err(status),
        }
    }

    pub(crate) fn deregister(&self, handle: *mut c_void) -> u32 {
        // SAFETY: the engine is alive.
        unsafe { (self.api.ropeway_hixl_deregister_mem)(self.raw, handle) }
    }

    pub(crate) fn connect(&self, to: &Self) -> u32 {
        // SAFETY: the engine is alive, the name ends in NUL.
        unsafe { (self.api.ropeway_hixl_connect)(self.raw, to.name.as_ptr(), TIMEOUT_MS) }
    }

    pub(crate) fn disconnect(&self, from: &Self) -> u32 {
        // SAFETY: the engine is alive, the name ends in NUL.
        unsafe { (self.api.ropeway_hixl_disconnect)(self.raw, from.name.as_ptr(), TIMEOUT_MS) }
    }

    pub(crate) fn connect_async(&self, to: &Self) -> u32 {
        // SAFETY: the engine is alive, the name ends in NUL.
        unsafe { (self.api.ropeway_hixl_connect_async)(self.raw, to.name.as_ptr(), TIMEOUT_MS) }
    }

    pub(crate) fn async_status(&self, of: &Self) -> (u32, u32) {
        let mut status = u32::MAX;
        // SAFETY: the engine is alive, the name ends in NUL, `status` is written.
        let result =
            unsafe { (self.api.ropeway_hixl_async_status)(self.raw, of.name.as_ptr(), &raw mut status) };
        (result, status)
    }

    pub(crate) fn transfer(&self, with: &Self, op: u32, descriptors: &[RopewayHixlDesc]) -> u32 {
        let (name, call) = (with.name.as_ptr(), self.api.ropeway_hixl_transfer_sync);
        // SAFETY: the engine is alive; ranges outside of what is registered are refused.
        unsafe { call(self.raw, name, op, descriptors.as_ptr(), descriptors.len(), TIMEOUT_MS) }
    }

    pub(crate) fn post(
        &self,
        with: &Self,
        op: u32,
        descriptors: &[RopewayHixlDesc],
    ) -> Result<*mut c_void, u32> {
        let mut request = ptr::null_mut();
        let (name, call) = (with.name.as_ptr(), self.api.ropeway_hixl_transfer_async);
        // SAFETY: as for `transfer`; the request is written.
        match unsafe { call(self.raw, name, op, descriptors.as_ptr(), descriptors.len(), &raw mut request) } {
            0 => Ok(request),
            status => Err(status),
        }
    }

    /// What the call answers, and the status it gives.
    pub(crate) fn ask(&self, request: *mut c_void) -> (u32, u32) {
        let mut status = u32::MAX;
        // SAFETY: the engine is alive; an unknown request is refused.
        let result = unsafe { (self.api.ropeway_hixl_transfer_status)(self.raw, request, &raw mut status) };
        (result, status)
    }

    /// Asks until there is an end to tell of.
    pub(crate) fn ended(&self, request: *mut c_void) -> (u32, u32) {
        eventually("a posted transfer ends", || {
            Some(self.ask(request)).filter(|answer| *answer != (0, ROPEWAY_HIXL_WAITING))
        })
    }

    pub(crate) fn notify(&self, to: &Self, name: &[u8], message: &[u8]) -> u32 {
        let call = self.api.ropeway_hixl_send_notify;
        let (name, length) = (name.as_ptr().cast(), name.len());
        // SAFETY: the engine is alive; lengths go with both texts.
        unsafe {
            call(self.raw, to.name.as_ptr(), name, length, message.as_ptr().cast(), message.len(), TIMEOUT_MS)
        }
    }

    pub(crate) fn notifies(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut kept: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let call = self.api.ropeway_hixl_get_notifies;
        // SAFETY: `keep` is called during the call only, with `kept` as its context.
        assert_eq!(unsafe { call(self.raw, Some(keep), (&raw mut kept).cast()) }, 0);
        kept
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { (self.api.ropeway_hixl_destroy)(self.raw) }
    }
}

unsafe extern "C" fn keep(
    context: *mut c_void,
    name: *const c_char,
    name_len: usize,
    text: *const c_char,
    len: usize,
) {
    let context = context.cast::<Vec<(Vec<u8>, Vec<u8>)>>();
    // SAFETY: `notifies` gave it, and waits.
    let kept = unsafe { &mut *context };
    // SAFETY: the shim gives a text of this length.
    let name = unsafe { std::slice::from_raw_parts(name.cast::<u8>(), name_len) };
    // SAFETY: as above.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    kept.push((name.to_vec(), text.to_vec()));
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain for a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `count` ranges of `len` bytes, one after the other on both sides.
pub(crate) fn descriptors(local: &Hbm, remote: &Hbm, count: usize, len: u64) -> Vec<RopewayHixlDesc> {
    let at = |base: u64, index: usize| base + index as u64 * len;
    let range =
        |index| RopewayHixlDesc { local: at(local.address, index), remote: at(remote.address, index), len };
    (0..count).map(range).collect()
}
