//! Who may depend on whom, and how large the engine's own tree may grow: read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// For each crate of ours, the crates of ours that it may depend on when it is built for use (not for tests).
const ALLOWED: &[(&str, &[&str])] = &[
    ("ropeway-core", &[]),
    ("ropeway-transport", &["ropeway-core"]),
    ("ascend-sys", &[]),
    ("ropeway-ascend", &["ascend-sys", "ropeway-core", "ropeway-transport"]),
    ("ropeway", &["ropeway-ascend", "ropeway-core", "ropeway-transport"]),
    ("ropeway-bench", &["ascend-sys", "ropeway", "ropeway-ascend", "ropeway-core", "ropeway-transport"]),
    ("ropeway-connector", &["ropeway"]),
    ("ropeway-testkit", &["ropeway", "ropeway-core", "ropeway-transport"]),
    ("ropeway-ascend-sim", &["ascend-sys"]),
    ("ropeway-python", &["ropeway", "ropeway-connector"]),
    ("xtask", &[]),
];

/// Crates in the engine's tree, proc macros and our own included, on x86-64 Linux. Raise it knowingly: each crate is
/// code that runs beside someone's model, and a line in the supply chain.
const ENGINE_TREE_MAX: usize = 60;

/// Crates that core may have: no I/O, no clock, no threads, no randomness.
const CORE_TREE: &[&str] = &["blake2", "bytes", "thiserror"];

struct Metadata(Value);

impl Metadata {
    fn read() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "metadata",
                "--format-version=1",
                "--locked",
                "--filter-platform=x86_64-unknown-linux-gnu",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo can be run");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        Self(serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON"))
    }

    /// Name by package id.
    fn names(&self) -> BTreeMap<&str, &str> {
        let packages = self.0["packages"].as_array().into_iter().flatten();
        packages.filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?))).collect()
    }

    fn members(&self) -> Vec<&str> {
        let names = self.names();
        let members = self.0["workspace_members"].as_array().into_iter().flatten();
        members.filter_map(|id| names.get(id.as_str()?).copied()).collect()
    }

    /// What each package id is built with: normal and build dependencies, not those of its tests.
    fn edges(&self) -> BTreeMap<&str, Vec<&str>> {
        let nodes = self.0["resolve"]["nodes"].as_array().into_iter().flatten();
        nodes
            .filter_map(|node| {
                let all = node["deps"].as_array()?.iter();
                let built = all.filter(|dep| {
                    dep["dep_kinds"]
                        .as_array()
                        .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
                });
                Some((node["id"].as_str()?, built.filter_map(|dep| dep["pkg"].as_str()).collect()))
            })
            .collect()
    }

    /// Names of the packages that `package` depends on directly.
    fn direct(&self, package: &str) -> BTreeSet<&str> {
        let (names, edges) = (self.names(), self.edges());
        let node = edges.iter().find(|(id, _)| names.get(*id) == Some(&package));
        let (_, targets) = node.unwrap_or_else(|| panic!("{package} is in the workspace"));
        targets.iter().map(|id| names[id]).collect()
    }

    /// Package ids in the tree of `package`, itself included.
    fn tree(&self, package: &str) -> BTreeSet<&str> {
        let (names, edges) = (self.names(), self.edges());
        let mut open: Vec<&str> =
            edges.keys().copied().filter(|id| names.get(id) == Some(&package)).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&edges[id]);
            }
        }
        seen
    }
}

#[test]
fn crates_depend_in_one_direction_only() {
    let metadata = Metadata::read();
    let ours: BTreeSet<&str> = metadata.members().into_iter().collect();
    for member in &ours {
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| name == member)
            .unwrap_or_else(|| panic!("{member} is new: say in tests/dependencies.rs what it may depend on"));
        for dependency in metadata.direct(member).intersection(&ours) {
            assert!(allowed.contains(dependency), "{member} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_core_has_no_way_to_the_outside() {
    let direct = Metadata::read();
    let direct = direct.direct("ropeway-core");
    let strangers: Vec<&&str> = direct.iter().filter(|name| !CORE_TREE.contains(name)).collect();
    assert!(strangers.is_empty(), "ropeway-core depends on {strangers:?}");
}

#[test]
fn the_engine_stays_light() {
    let metadata = Metadata::read();
    let tree = metadata.tree("ropeway");
    assert!(tree.len() <= ENGINE_TREE_MAX, "{} crates in the engine's tree: {tree:#?}", tree.len());
}
