//! The C++ shim as a shared object: what it asks HIXL for, what it shows, and that a build goes on without it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ascend_sys::shim;
use ropeway_testkit::cannot_run;

/// Members of `hixl::Hixl` by mangled name: those that every examined release has, and those since 9.1.0.
const MEMBERS: usize = 13;
const NEWER: usize = 6;
/// Declared, exported by HIXL, and not called by the shim: the states of all links at once.
const NOT_CALLED: &str = "GetAsyncConnectStatusERSt3map";
/// What the shim needs of `ge::AscendString`.
const STRING: &[&str] = &[
    "_ZN2ge12AscendStringC1EPKc",
    "_ZN2ge12AscendStringC1EPKcm",
    "_ZNK2ge12AscendString9GetLengthEv",
    "_ZNK2ge12AscendString9GetStringEv",
    "_ZNK2ge12AscendStringltERKS0_",
];

/// Dynamic symbols of the embedded shim, with the letter that `nm` gives each; none, and a note, where that cannot be.
fn symbols(test: &str) -> Option<Vec<(char, String)>> {
    let Some(bytes) = shim::EMBEDDED else {
        cannot_run(test, "built without a C++ compiler");
        return None;
    };
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.so"));
    fs::write(&file, bytes).unwrap();
    let Ok(output) = Command::new("nm").arg("--dynamic").arg("--format=posix").arg(&file).output() else {
        cannot_run(test, "nm is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let symbol = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.split('@').next()?.to_owned();
        Some((words.next()?.chars().next()?, name))
    };
    Some(text.lines().filter_map(symbol).collect())
}

fn of(symbols: &[(char, String)], letter: char, part: &str) -> BTreeSet<String> {
    let found = symbols.iter().filter(|(kind, name)| *kind == letter && name.contains(part));
    found.map(|(_, name)| name.clone()).collect()
}

/// Mangled names of HIXL's members, from the examined headers.
fn known() -> BTreeSet<String> {
    let figures = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("abi/figures.tsv")).unwrap();
    let rows = figures.lines().filter_map(|line| line.strip_prefix("cxx\tsymbol\t"));
    rows.filter_map(|row| row.split('\t').next()).map(str::to_owned).collect()
}

#[test]
fn the_shim_calls_hixl_by_the_names_that_its_headers_give() {
    let Some(symbols) = symbols("the_shim_calls_hixl_by_the_names_that_its_headers_give") else { return };
    let (strong, weak) = (of(&symbols, 'U', "4hixl4Hixl"), of(&symbols, 'w', "4hixl4Hixl"));
    let called: BTreeSet<String> = strong.union(&weak).cloned().collect();
    let known: BTreeSet<String> = known().into_iter().filter(|name| !name.contains(NOT_CALLED)).collect();
    assert_eq!(called, known);
    assert_eq!((strong.len(), weak.len()), (MEMBERS, NEWER - 1));
    let text = of(&symbols, 'U', "2ge12AscendString");
    let text: Vec<&str> = text.iter().map(String::as_str).filter(|name| !name.contains("4hixl")).collect();
    assert_eq!(text, STRING);
}

#[test]
fn members_that_a_release_may_lack_are_weak() {
    let Some(symbols) = symbols("members_that_a_release_may_lack_are_weak") else { return };
    let weak = of(&symbols, 'w', "4hixl4Hixl");
    let newer = [
        "ConnectAsync",
        "DisconnectAsync",
        "GetAsyncConnectStatus",
        "GetCapability",
        "GetTransferStatusArgs",
    ];
    for name in newer {
        assert!(weak.iter().any(|symbol| symbol.contains(name)), "{name} is not weak: {weak:?}");
    }
}

#[test]
fn the_shim_shows_its_flat_interface_and_nothing_else() {
    let Some(symbols) = symbols("the_shim_shows_its_flat_interface_and_nothing_else") else { return };
    let shown = symbols.iter().filter(|(kind, _)| !matches!(kind, 'U' | 'w'));
    let shown: BTreeSet<&str> = shown.map(|(_, name)| name.as_str()).collect();
    let declared: BTreeSet<&str> = shim::GROUPS.iter().flat_map(|group| group.symbols).copied().collect();
    assert_eq!(shown, declared);
}

#[test]
fn the_shim_compiles_without_a_warning() {
    let mut command = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "g++".into()));
    command.args(["-std=c++17", "-O2", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "shim/shim.cpp"]);
    let Ok(output) = command.current_dir(env!("CARGO_MANIFEST_DIR")).output() else {
        cannot_run("the_shim_compiles_without_a_warning", "no C++ compiler");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_build_without_a_cxx_compiler_warns_and_goes_on() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["check", "--locked", "--package", "ascend-sys", "--target-dir"]);
    command.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cxx"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(variable);
    }
    let output = command.env("CXX", "/nonexistent/c++").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no working C++ compiler (/nonexistent/c++"), "{said}");
    assert!(said.contains("ROPEWAY_HIXL_SHIM"), "{said}");
}
