//! The software CANN exports what this crate loads, release by release.

use std::env;
use std::process::Command;

use ascend_sys::{Cann, Group, Search, WhyNot, shim};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;

/// Oldest first.
const RELEASES: &[&str] = &["8.5.0", "9.0.0", "9.1.0"];

fn load(release: &'static str) -> &'static Cann {
    let root = SimCann::default().release(release).root().unwrap_or_else(|why| panic!("{why}"));
    Cann::load(&Search::at(root)).unwrap_or_else(|why| panic!("{why}"))
}

fn has(release: &str, group: &Group) -> bool {
    let age = |release: &str| RELEASES.iter().position(|known| *known == release).unwrap_or(RELEASES.len());
    age(group.since) <= age(release)
}

fn assert_groups(release: &str, library: &str, groups: &[(&'static Group, bool)]) {
    for (group, present) in groups {
        assert_eq!(*present, has(release, group), "{release}: group {} of {library}: {group:?}", group.name);
    }
}

#[test]
fn every_release_has_exactly_the_groups_of_ascendcl_that_it_should() {
    for release in RELEASES {
        assert_groups(release, "AscendCL", &load(release).acl.groups());
    }
}

#[test]
fn every_release_has_exactly_the_groups_of_hccl_that_it_should() {
    for release in RELEASES {
        let hccl = load(release).hccl().unwrap_or_else(|why| panic!("{release}: {why}"));
        assert_groups(release, "HCCL", &hccl.groups());
    }
}

#[test]
fn a_symbol_that_is_left_out_takes_its_group_or_the_whole_library_with_it() {
    let load = |symbol| {
        let root = SimCann::default().without(symbol).root().unwrap_or_else(|why| panic!("{why}"));
        Cann::load(&Search::at(root))
    };
    let cann = load("aclrtIpcMemClose").unwrap_or_else(|why| panic!("{why}"));
    for (group, present) in cann.acl.groups() {
        assert_eq!(present, group.name != "ipc", "{group:?}");
    }
    let why = load("aclrtStreamAbort").err().map(|why| why.to_string());
    assert!(why.as_ref().is_some_and(|why| why.contains("lacks aclrtStreamAbort")), "{why:?}");
}

#[test]
fn the_c_interface_is_absent_then_refused_then_there() {
    let why = load("8.5.0").hixl_cs().expect_err("8.5.0 has none");
    assert!(matches!(why, WhyNot::NoSuchInterface { .. }), "{why:?}");
    let why = load("9.0.0").hixl_cs().expect_err("9.0.0 has other structures");
    assert!(matches!(why, WhyNot::OldLayout { .. }), "{why:?}");
    assert!(load("9.1.0").hixl_cs().is_ok());
}

/// The shim takes its symbols from the whole process, so each release gets a process of its own.
#[test]
fn the_shim_finds_the_newer_members_where_the_release_has_them() {
    const RELEASE: &str = "ROPEWAY_TEST_RELEASE";
    let newer = shim::ROPEWAY_HIXL_FEATURE_CAPABILITY
        | shim::ROPEWAY_HIXL_FEATURE_ASYNC_CONNECT
        | shim::ROPEWAY_HIXL_FEATURE_BATCH_STATUS;
    if let Ok(here) = env::var(RELEASE) {
        let release = RELEASES.iter().find(|release| **release == here).expect("the test set it");
        let shim = load(release).shim().unwrap_or_else(|why| panic!("{release}: {why}"));
        // SAFETY: the function takes nothing and returns a number.
        let features = unsafe { (shim.ropeway_hixl_features)() };
        assert_eq!(features, if *release == "9.1.0" { newer } else { 0 }, "{release}");
        return;
    }
    if shim::EMBEDDED.is_none() {
        return cannot_run(
            "the shim on the software CANN",
            "this build has no shim: no C++ compiler was found",
        );
    }
    for release in RELEASES {
        let name =
            std::thread::current().name().map(ToOwned::to_owned).expect("a test's thread has its name");
        let mut child = Command::new(env::current_exe().expect("a test knows its program"));
        let output =
            child.args(["--exact", &name]).env(RELEASE, release).output().expect("a test can run itself");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
