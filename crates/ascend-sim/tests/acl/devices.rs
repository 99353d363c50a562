use std::ffi::{CStr, CString, c_char};

use ascend_sim::acl::context::{
    sim_aclrtCreateContext, sim_aclrtDestroyContext, sim_aclrtGetCurrentContext, sim_aclrtSetCurrentContext,
};
use ascend_sim::acl::device::*;
use ascend_sim::acl::init::{sim_aclFinalizeReference, sim_aclInit};
use ascend_sim::acl::recovery::{sim_aclrtGetLastError, sim_aclrtPeekAtLastError};
use ascend_sim::acl::version::{sim_aclrtGetVersion, sim_aclsysGetVersionNum, sim_aclsysGetVersionStr};
use ascend_sim::ffi::{In, Out, Text};

use crate::rig::*;

fn current() -> Result<usize, i32> {
    let mut handle = 0;
    let code = sim_aclrtGetCurrentContext(Out::from(&mut handle));
    if code == OK { Ok(handle) } else { Err(code) }
}

#[test]
fn init_again_counts_a_reference_and_says_repeated() {
    machine();
    assert_eq!(sim_aclInit(In::null()), 100_002);
    let mut left = 0;
    assert_eq!(sim_aclFinalizeReference(Out::from(&mut left)), OK);
    assert!(left >= 1);
}

#[test]
fn a_new_thread_has_no_context_until_it_is_given_one() {
    on(0);
    let context = current().unwrap();
    std::thread::spawn(move || {
        assert_eq!(malloc(64, NORMAL_ONLY), Err(107_002));
        assert_eq!(current(), Err(107_002));
        assert_eq!(sim_aclrtSetCurrentContext(context), OK);
        assert_eq!(free(malloc(64, NORMAL_ONLY).unwrap()), OK);
    })
    .join()
    .unwrap();
}

#[test]
fn the_default_context_is_shared_counted_and_ends_with_the_last_reset() {
    on(5);
    let first = current().unwrap();
    on(5);
    assert_eq!(current(), Ok(first));
    assert_eq!(sim_aclrtDestroyContext(first), 107_000);
    assert_eq!(sim_aclrtResetDevice(5), OK);
    assert_eq!(current(), Ok(first));
    assert_eq!(sim_aclrtResetDevice(5), OK);
    assert_eq!(current(), Err(107_002));
    assert_eq!(sim_aclrtSetCurrentContext(first), 107_017);
    assert_eq!(sim_aclrtResetDevice(5), 107_002);
    on(5);
    on(5);
    assert_ne!(current(), Ok(first));
    assert_eq!(sim_aclrtResetDeviceForce(5), OK, "whatever the count");
    assert_eq!(current(), Err(107_002));
}

#[test]
fn a_context_of_ones_own_is_bound_when_it_is_made() {
    on(6);
    let mut handle = 0;
    assert_eq!(sim_aclrtCreateContext(Out::from(&mut handle), 7), OK);
    let mut device = 0;
    assert_eq!((sim_aclrtGetDevice(Out::from(&mut device)), device), (OK, 7));
    assert_eq!(sim_aclrtDestroyContext(handle), OK);
    assert_eq!(current(), Err(107_002));
    assert_eq!(sim_aclrtCreateContext(Out::from(&mut handle), 9), 107_001);
}

#[test]
fn the_error_text_is_the_threads_own_and_cleared_by_reading() {
    on(0);
    let _ = text();
    assert_eq!(sim_aclrtSetDevice(99), 107_001);
    std::thread::spawn(|| assert_eq!(text(), None)).join().unwrap();
    assert!(text().unwrap().contains("device 99"));
    assert_eq!(text(), None);
    assert_eq!(
        (sim_aclrtPeekAtLastError(0), sim_aclrtGetLastError(0), sim_aclrtGetLastError(0)),
        (107_001, 107_001, 0)
    );
}

#[test]
fn versions_are_numbers_by_package_and_texts_that_name_the_simulator() {
    machine();
    let name = |name: &str| CString::new(name).unwrap();
    let mut number = 0;
    assert_eq!(sim_aclsysGetVersionNum(Text::from(name("runtime").as_c_str()), Out::from(&mut number)), OK);
    assert_eq!(number, 90_100_000);
    assert_ne!(sim_aclsysGetVersionNum(Text::from(name("nothing").as_c_str()), Out::from(&mut number)), OK);
    let mut text: [c_char; 128] = [0; 128];
    assert_eq!(sim_aclsysGetVersionStr(Text::from(name("hcomm").as_c_str()), Out::from(&mut text[..])), OK);
    // SAFETY: zero-terminated by the call.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap();
    assert!(text.starts_with("9.1.0") && text.contains("ropeway software CANN"), "{text}");
    let mut parts = [0; 3];
    let [a, b, c] = &mut parts;
    assert_eq!(sim_aclrtGetVersion(Out::from(a), Out::from(b), Out::from(c)), OK);
    assert_eq!(parts, [1, 17, 0]);
}

#[test]
fn the_soc_name_and_the_attributes_are_of_an_a2() {
    on(0);
    // SAFETY: a static string.
    let soc = unsafe { CStr::from_ptr(sim_aclrtGetSocName()) };
    assert_eq!(soc.to_str(), Ok("Ascend910B2"));
    let attribute = |attribute| {
        let mut value = -1;
        (sim_aclrtGetDeviceInfo(3, attribute, Out::from(&mut value)), value)
    };
    assert_eq!(attribute(402), (OK, 3));
    assert_eq!(attribute(408), (OK, 0));
    assert_eq!(attribute(301), (OK, 1 << 30));
    assert_eq!(attribute(405).0, 207_000, "an A2 is in no super-pod");
    let mut topo = 0;
    assert_eq!((sim_aclrtGetDevicesTopo(0, 1, Out::from(&mut topo)), topo), (OK, 1));
    let mut count = 0;
    assert_eq!((sim_aclrtGetDeviceCount(Out::from(&mut count)), count), (OK, 9));
}
