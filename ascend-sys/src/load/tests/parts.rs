//! Parts of an installation that are opened when they are asked for.

use super::fake::{Fake, Folder};
use crate::load::{Cann, Search, WhyNot};
use crate::{hccl, hixl_cs, shim};

fn cann(folder: &Folder) -> &'static Cann {
    Fake::acl(1).install(folder.path(), "libacl_rt.so");
    Cann::load(&Search::at(folder.path())).expect("AscendCL is complete")
}

/// Whether every library of the process may use `symbol`.
fn is_global(symbol: &std::ffi::CStr) -> bool {
    // SAFETY: only looks a name up.
    !unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) }.is_null()
}

#[test]
fn the_c_interface_of_9_0_is_refused_for_its_other_structures() {
    let folder = Folder::new();
    let old: Vec<&str> =
        hixl_cs::GROUPS[0].symbols.iter().copied().filter(|name| !name.ends_with("Sync")).collect();
    Fake::new(1, &old).install(folder.path(), "libcann_hixl.so");
    let why = cann(&folder).hixl_cs().expect_err("the structures differ");
    assert!(matches!(why, WhyNot::OldLayout { .. }), "{why:?}");
    let text = why.to_string();
    assert!(
        text.contains("9.0") && text.contains("HixlCSClientBatchPutSync") && text.contains("shim"),
        "{text}"
    );
}

#[test]
fn a_release_without_the_c_interface_says_so() {
    let folder = Folder::new();
    Fake::new(1, &["_ZN4hixl4HixlC1Ev"]).install(folder.path(), "libcann_hixl.so");
    let why = cann(&folder).hixl_cs().expect_err("8.5 has no C interface");
    assert!(matches!(why, WhyNot::NoSuchInterface { .. }), "{why:?}");
}

#[test]
fn the_c_interface_of_9_1_is_taken_whole() {
    let folder = Folder::new();
    Fake::new(1, hixl_cs::GROUPS[0].symbols).install(folder.path(), "libcann_hixl.so");
    assert!(cann(&folder).hixl_cs().is_ok());
    let folder = Folder::new();
    Fake::new(1, hixl_cs::GROUPS[0].symbols)
        .without("HixlCSClientDestroy")
        .install(folder.path(), "libcann_hixl.so");
    match cann(&folder).hixl_cs() {
        Err(WhyNot::MissingSymbol { symbol: "HixlCSClientDestroy", .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn hccl_is_taken_from_both_libraries_and_communicators_are_seen_by_all() {
    let folder = Folder::new();
    let (communicators, transfers) = hccl::GROUPS[0].symbols.split_at(5);
    Fake::new(1, communicators).with(&["ropeway_test_communicators"]).install(folder.path(), "libhcomm.so");
    Fake::new(2, transfers).with(&["ropeway_test_transfers"]).install(folder.path(), "libhccl.so");
    let cann = cann(&folder);
    assert!(!is_global(c"ropeway_test_communicators"), "nothing is opened before it is asked for");
    let hccl = cann.hccl().expect("together they have everything");
    assert!(hccl.suspend.is_none());
    // SAFETY: a function of `Fake`, which looks at no argument.
    assert_eq!(unsafe { (hccl.HcclGetRootInfo)(std::ptr::null_mut()) }, 1);
    let none = std::ptr::null_mut();
    // SAFETY: a function of `Fake`, which looks at no argument.
    assert_eq!(unsafe { (hccl.HcclSend)(none, 0, 0, 0, none, none) }, 2);
    assert!(is_global(c"ropeway_test_communicators"));
    assert!(!is_global(c"ropeway_test_transfers"));
}

#[test]
fn parts_that_are_not_installed_are_named() {
    let folder = Folder::new();
    let cann = cann(&folder);
    let why = [cann.hccl().map(|_| ()), cann.hixl_cs().map(|_| ()), cann.shim().map(|_| ())];
    for (why, library) in why.into_iter().zip(["libhccl.so", "libcann_hixl.so", "libcann_hixl.so"]) {
        let why = why.expect_err("nothing but AscendCL is installed").to_string();
        assert!(why.contains(library) && why.contains("lib64"), "{why}");
    }
}

#[test]
fn a_shim_of_another_version_is_refused() {
    let folder = Folder::new();
    Fake::new(1, &["hixl"]).install(folder.path(), "libcann_hixl.so");
    let cann = cann(&folder);
    let path = folder.join("shim.so");
    let wanted = shim::ROPEWAY_HIXL_ABI;
    Fake::new(99, shim::GROUPS[0].symbols).build(&path);
    let why = cann.open_shim(Some(path.as_os_str())).expect_err("its version is 99");
    assert_eq!(why, WhyNot::WrongShim { found: 99, wanted });
    let path = folder.join("incomplete.so");
    Fake::new(1, shim::GROUPS[0].symbols).without("ropeway_hixl_connect").build(&path);
    let why = cann.open_shim(Some(path.as_os_str())).expect_err("it lacks a function");
    assert_eq!(why, WhyNot::MissingSymbol { library: path, symbol: "ropeway_hixl_connect" });
    let path = folder.join("whole.so");
    Fake::new(1, shim::GROUPS[0].symbols).build(&path);
    assert!(cann.open_shim(Some(path.as_os_str())).is_ok());
}
