//! The shim over a HIXL that does nothing: exceptions, allocations, members that are not there.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use ascend_sys::shim::{self, ROPEWAY_HIXL_BROKEN, RopewayHixl, RopewayHixlDesc};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use ropeway_testkit::cannot_run;

const UNSUPPORTED: u32 = 103_905;
const FAILED: u32 = 503_900;
const PEER: &CStr = c"127.0.0.1:11000";

/// The fake is one for the whole process, and so is what it is told to throw.
static ALONE: Mutex<()> = Mutex::new(());

/// The fake HIXL and the shim over it.
struct Loaded {
    fake: Library,
    shim: Library,
}

/// Once a process: what is opened first for all to see is what every shim finds.
fn load(test: &str) -> Option<&'static Loaded> {
    static LOADED: OnceLock<Option<Loaded>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| shim::EMBEDDED.map(Loaded::open)).as_ref();
    if loaded.is_none() {
        cannot_run(test, "built without a C++ compiler");
    }
    loaded
}

impl Loaded {
    fn open(bytes: &[u8]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/hixl.cpp");
        let (fake, file) = (folder.join("fake-hixl.so"), folder.join("shim.so"));
        let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "g++".into()));
        command
            .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-I"])
            .arg(source.with_file_name("../../shim"));
        let output =
            command.arg(&source).arg("-o").arg(&fake).output().expect("the compiler of the shim runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&file, bytes).unwrap();
        // SAFETY: a library of our own without initialisers that matter.
        let fake = unsafe { Library::open(Some(&fake), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
        // SAFETY: the shim, whose symbols the fake has.
        let shim = unsafe { Library::open(Some(&file), RTLD_NOW) }.unwrap();
        Self { fake, shim }
    }

    /// # Safety
    /// `T` is the type of the function `name`.
    unsafe fn call<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller vouches for the type.
        let found = unsafe { self.shim.get::<T>(name.as_bytes()) };
        *found.unwrap_or_else(|error| panic!("{error}"))
    }

    fn throw(&self, kind: i32) {
        // SAFETY: the fake has it with this type.
        let call = unsafe { self.fake.get::<unsafe extern "C" fn(i32)>(b"fake_throw") }.unwrap();
        // SAFETY: takes a number.
        unsafe { call(kind) }
    }

    fn allocations(&self) -> usize {
        // SAFETY: the fake has it with this type.
        let call = unsafe { self.fake.get::<unsafe extern "C" fn() -> usize>(b"fake_allocations") }.unwrap();
        // SAFETY: takes nothing.
        unsafe { call() }
    }

    fn create(&self) -> *mut RopewayHixl {
        // SAFETY: the type is the binding's.
        let create = unsafe { self.call::<shim::ropeway_hixl_create>("ropeway_hixl_create") };
        // SAFETY: takes nothing.
        unsafe { create() }
    }

    fn destroy(&self, engine: *mut RopewayHixl) {
        // SAFETY: the type is the binding's.
        let destroy = unsafe { self.call::<shim::ropeway_hixl_destroy>("ropeway_hixl_destroy") };
        // SAFETY: made by `create`, and not used again.
        unsafe { destroy(engine) }
    }

    fn post(&self, engine: *mut RopewayHixl, descriptors: &[RopewayHixlDesc]) -> u32 {
        // SAFETY: the type is the binding's.
        let post = unsafe { self.call::<shim::ropeway_hixl_transfer_async>("ropeway_hixl_transfer_async") };
        let mut request = ptr::null_mut();
        // SAFETY: a live engine; the fake looks at no address.
        unsafe { post(engine, PEER.as_ptr(), 1, descriptors.as_ptr(), descriptors.len(), &raw mut request) }
    }

    /// What each call that can fail answers.
    fn everything(&self, engine: *mut RopewayHixl) -> Vec<(&'static str, u32)> {
        let (name, none) = (PEER.as_ptr(), ptr::null_mut::<c_void>());
        let mut handle = none;
        let mut status = 0;
        let one = RopewayHixlDesc { local: 1, remote: 2, len: 3 };
        let mut answers = Vec::new();
        macro_rules! answer {
            ($call:ident($($argument:expr),*)) => {{
                // SAFETY: the type is the binding's.
                let call = unsafe { self.call::<shim::$call>(stringify!($call)) };
                // SAFETY: a live engine, texts that end in NUL, and room for every answer.
                answers.push((stringify!($call), unsafe { call(engine, $($argument),*) }));
            }};
        }
        answer!(ropeway_hixl_initialize(name, [name].as_ptr(), [name].as_ptr(), 1));
        answer!(ropeway_hixl_register_mem(1, 2, 0, &raw mut handle));
        answer!(ropeway_hixl_deregister_mem(none));
        answer!(ropeway_hixl_connect(name, 1));
        answer!(ropeway_hixl_disconnect(name, 1));
        answer!(ropeway_hixl_transfer_sync(name, 0, &raw const one, 1, 1));
        answer!(ropeway_hixl_transfer_async(name, 0, &raw const one, 1, &raw mut handle));
        answer!(ropeway_hixl_transfer_status(none, &raw mut status));
        answer!(ropeway_hixl_send_notify(name, name, 3, name, 3, 1));
        answer!(ropeway_hixl_get_notifies(Some(ignore), none));
        answers
    }
}

unsafe extern "C" fn ignore(
    _: *mut c_void,
    _: *const core::ffi::c_char,
    _: usize,
    _: *const core::ffi::c_char,
    _: usize,
) {
}

#[test]
fn whatever_hixl_throws_becomes_a_status() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(loaded) = load("whatever_hixl_throws_becomes_a_status") else { return };
    loaded.throw(0);
    let engine = loaded.create();
    assert!(!engine.is_null());
    assert!(loaded.everything(engine).iter().all(|(_, status)| *status == 0));
    for kind in [1, 2] {
        loaded.throw(kind);
        for (call, status) in loaded.everything(engine) {
            assert_eq!(status, FAILED, "{call}");
        }
        assert!(loaded.create().is_null());
        // SAFETY: the type is the binding's.
        let finalize = unsafe { loaded.call::<shim::ropeway_hixl_finalize>("ropeway_hixl_finalize") };
        // SAFETY: a live engine.
        unsafe { finalize(engine) };
    }
    loaded.throw(0);
    loaded.destroy(engine);
}

#[test]
fn an_answer_that_is_never_given_reads_as_broken() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(loaded) = load("an_answer_that_is_never_given_reads_as_broken") else { return };
    let engine = loaded.create();
    let mut status = u32::MAX;
    // SAFETY: the type is the binding's.
    let ask = unsafe { loaded.call::<shim::ropeway_hixl_transfer_status>("ropeway_hixl_transfer_status") };
    // SAFETY: a live engine, and room for the answer.
    assert_eq!(unsafe { ask(engine, ptr::null_mut(), &raw mut status) }, 0);
    assert_eq!(status, ROPEWAY_HIXL_BROKEN);
    loaded.destroy(engine);
}

#[test]
fn a_post_allocates_nothing_once_its_thread_has_posted_as_many() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(loaded) = load("a_post_allocates_nothing_once_its_thread_has_posted_as_many") else { return };
    let engine = loaded.create();
    let descriptors = vec![RopewayHixlDesc { local: 1, remote: 2, len: 3 }; 4096];
    let before = loaded.allocations();
    assert_eq!(loaded.post(engine, &descriptors), 0);
    let first = loaded.allocations() - before;
    assert!((1..8).contains(&first), "{first} allocations for the first post: are they counted at all?");
    for count in [1, 4096, 7, 1000, 4096] {
        assert_eq!(loaded.post(engine, &descriptors[..count]), 0);
    }
    assert_eq!(loaded.allocations() - before, first);
    loaded.destroy(engine);
}

#[test]
fn members_that_a_library_lacks_are_found_to_be_missing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(loaded) = load("members_that_a_library_lacks_are_found_to_be_missing") else { return };
    // SAFETY: the type is the binding's.
    let features = unsafe { loaded.call::<shim::ropeway_hixl_features>("ropeway_hixl_features") };
    // SAFETY: takes nothing.
    assert_eq!(unsafe { features() }, 0);
    // SAFETY: the type is the binding's.
    let capability = unsafe { loaded.call::<shim::ropeway_hixl_capability>("ropeway_hixl_capability") };
    let mut value = 0;
    // SAFETY: room for the answer.
    assert_eq!(unsafe { capability(1, &raw mut value) }, UNSUPPORTED);
    let engine = loaded.create();
    // SAFETY: the type is the binding's.
    let connect = unsafe { loaded.call::<shim::ropeway_hixl_connect_async>("ropeway_hixl_connect_async") };
    // SAFETY: a live engine, and a name that ends in NUL.
    assert_eq!(unsafe { connect(engine, PEER.as_ptr(), 1) }, UNSUPPORTED);
    loaded.destroy(engine);
}
