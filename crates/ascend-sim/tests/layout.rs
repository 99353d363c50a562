//! What `cargo xtask sim-cann` lays out: which symbols each release shows, and the files beside the libraries.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;

/// The folder of an installation; none, and a note for `test`, where this machine has no compiler.
fn root(test: &str, wanted: &SimCann) -> Option<std::path::PathBuf> {
    if Command::new("g++").arg("--version").output().is_err() {
        cannot_run(test, "g++ is not installed");
        return None;
    }
    Some(wanted.root().unwrap_or_else(|error| panic!("{error}")))
}

fn exports(root: &Path, library: &str) -> BTreeSet<String> {
    let file = root.join("lib64").join(library);
    let output =
        Command::new("nm").args(["--dynamic", "--defined-only", "--format=posix"]).arg(file).output();
    let output = output.expect("nm comes with the compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Names of a table that this release has, or, without a release, of all.
fn table(name: &str, releases: &[&str]) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("symbols").join(name);
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    rows.filter(|(_, first)| releases.contains(first)).map(|(symbol, _)| symbol.to_owned()).collect()
}

#[test]
fn each_release_shows_the_hixl_that_it_has() {
    let test = "each_release_shows_the_hixl_that_it_has";
    for (at, release) in ["8.5.0", "9.0.0", "9.1.0"].into_iter().enumerate() {
        let Some(root) = root(test, &SimCann::default().release(release)) else { return };
        let releases = &["8.5.0", "9.0.0", "9.1.0"][..=at];
        let shown = exports(&root, "libcann_hixl.so");
        let (members, functions): (BTreeSet<_>, BTreeSet<_>) =
            shown.into_iter().partition(|name| name.starts_with("_ZN4hixl4Hixl"));
        assert_eq!(members, table("hixl_cxx.txt", releases), "{release}");
        assert_eq!(functions, table("hixl.txt", releases), "{release}");
    }
}

#[test]
fn both_names_of_ascendcl_show_the_same_functions() {
    let test = "both_names_of_ascendcl_show_the_same_functions";
    let Some(root) = root(test, &SimCann::default()) else { return };
    let thin = exports(&root, "libacl_rt.so");
    assert_eq!(thin, exports(&root, "libascendcl.so"));
    assert!(thin.contains("aclInit") && thin.is_subset(&table("acl.txt", &["8.5.0", "9.0.0", "9.1.0"])));
}

#[test]
fn a_symbol_can_be_left_out() {
    let test = "a_symbol_can_be_left_out";
    let Some(root) = root(test, &SimCann::default().without("aclrtMemcpyAsync")) else { return };
    let shown = exports(&root, "libacl_rt.so");
    assert!(!shown.contains("aclrtMemcpyAsync") && shown.contains("aclrtMemcpy"));
}

#[test]
fn a_node_has_the_files_that_the_engine_reads() {
    let test = "a_node_has_the_files_that_the_engine_reads";
    let Some(root) = root(test, &SimCann::default().chip("a2").machines(3, 2)) else { return };
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let topology: serde_json::Value = serde_json::from_str(&read("topology.json")).unwrap();
    assert_eq!((&topology["release"], &topology["chip"]), (&"9.1.0".into(), &"a2".into()));
    assert_eq!(topology["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(topology["nodes"][2]["devices"][1]["nic"], "10.77.2.2");
    assert!(read("etc/node2/hccn.conf").lines().any(|line| line == "address_1=10.77.2.2"));
    assert!(read("share/info/hixl/version.info").contains("Version=9.1.0"));
    let parsed = ascend_sim::topology::Topology::read(&root.join("topology.json")).unwrap();
    assert_eq!(parsed.nodes[2].devices[1].nic(), Some("10.77.2.2"));
}
