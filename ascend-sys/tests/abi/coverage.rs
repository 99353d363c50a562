//! Nothing is declared without a figure, and nothing is recorded that is not loaded.

use std::collections::BTreeSet;
use std::fs;

use ascend_sys::{Group, acl, hccl, hixl_cs};

use crate::figures::{self, Figure, root};

/// The examined releases, oldest first; the last is not out yet.
pub(crate) const RELEASES: &[&str] = &["8.5.0", "9.0.0", "9.1.0", "master"];

pub(crate) fn age(release: &str) -> usize {
    let at = RELEASES.iter().position(|known| *known == release);
    at.unwrap_or_else(|| panic!("{release} is none of {RELEASES:?}"))
}

pub(crate) const TABLES: &[(&str, &[Group])] =
    &[("acl", acl::GROUPS), ("hccl", hccl::GROUPS), ("hixl_cs", hixl_cs::GROUPS)];

fn functions<'a>(figures: &'a [Figure], module: &'a str) -> impl Iterator<Item = &'a Figure> {
    figures.iter().filter(move |figure| figure.module() == module && figure.kind() == "function")
}

/// Statuses that HIXL names in C++ only; the C++ figures have their values.
const CXX_STATUSES: &[&str] =
    &["NOT_CONNECTED", "ALREADY_CONNECTED", "NOTIFY_FAILED", "UNSUPPORTED", "RESOURCE_EXHAUSTED"];

#[test]
fn every_declaration_has_a_recorded_figure() {
    let figures = figures::all();
    let mut bare = Vec::new();
    for (module, _) in TABLES {
        let path = root().join(format!("src/bindings/{module}.rs"));
        let text = fs::read_to_string(&path).expect("the bindings are checked in");
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', ':', '(', ';', '{']).collect();
            let name = match words[..] {
                ["pub", "const" | "struct" | "union", name, ..] => name,
                ["pub", "type", name, "=", "unsafe", ..] => name,
                _ => continue,
            };
            let known = figures.iter().any(|figure| figure.0[2..4].iter().any(|word| word == name));
            let status = name.strip_prefix("HIXL_").is_some_and(|rest| CXX_STATUSES.contains(&rest));
            if !known && !status && !name.contains("__bindgen") {
                bare.push(format!("{module}::{name}"));
            }
        }
    }
    assert_eq!(bare, Vec::<String>::new(), "declared, but compared with nothing");
}

#[test]
fn hixl_statuses_of_the_c_interface_have_the_values_of_the_cxx_ones() {
    let ours = [
        ("NOT_CONNECTED", hixl_cs::HIXL_NOT_CONNECTED),
        ("ALREADY_CONNECTED", hixl_cs::HIXL_ALREADY_CONNECTED),
        ("NOTIFY_FAILED", hixl_cs::HIXL_NOTIFY_FAILED),
        ("UNSUPPORTED", hixl_cs::HIXL_UNSUPPORTED),
        ("RESOURCE_EXHAUSTED", hixl_cs::HIXL_RESOURCE_EXHAUSTED),
        ("SUCCESS", hixl_cs::HIXL_SUCCESS),
        ("PARAM_INVALID", hixl_cs::HIXL_PARAM_INVALID),
        ("TIMEOUT", hixl_cs::HIXL_TIMEOUT),
        ("FAILED", hixl_cs::HIXL_FAILED),
    ];
    let figures = figures::all();
    for (name, value) in ours {
        let wanted = ["cxx", "constant", &format!("hixl::{name}"), &value.to_string()].map(str::to_owned);
        assert!(figures.contains(&Figure(wanted.to_vec())), "hixl::{name} is not {value}");
    }
}

#[test]
fn every_recorded_function_is_in_exactly_one_group() {
    let figures = figures::all();
    for (module, groups) in TABLES {
        let loaded: Vec<&str> = groups.iter().flat_map(|group| group.symbols).copied().collect();
        let recorded: BTreeSet<&str> = functions(&figures, module).map(Figure::name).collect();
        let unique: BTreeSet<&str> = loaded.iter().copied().collect();
        assert_eq!(unique.len(), loaded.len(), "{module}: a function is in two groups");
        assert_eq!(unique, recorded, "{module}");
    }
}

#[test]
fn a_group_is_as_new_as_its_newest_function() {
    let figures = figures::all();
    for (module, groups) in TABLES {
        for group in *groups {
            let of_group =
                functions(&figures, module).filter(|figure| group.symbols.contains(&figure.name()));
            let newest = of_group.map(|figure| age(&figure.0[3])).max();
            assert_eq!(newest, Some(age(group.since)), "{module}: {}", group.name);
        }
    }
}

#[test]
fn the_software_cann_dates_every_symbol_as_the_figures_do() {
    let folder = root().join("../crates/ascend-sim/symbols");
    let tables = ["acl.txt", "hccl.txt", "hcomm.txt", "hixl.txt", "hixl_cxx.txt"];
    let text =
        tables.map(|name| fs::read_to_string(folder.join(name)).expect("the simulator's tables are there"));
    let exported: BTreeSet<&str> = text.iter().flat_map(|table| table.lines()).collect();
    let figures = figures::all();
    let symbols = figures.iter().filter(|figure| matches!(figure.kind(), "function" | "symbol"));
    let wrong: Vec<String> = symbols
        .map(|figure| format!("{} {}", figure.name(), figure.0[3]))
        .filter(|line| !exported.contains(line.as_str()))
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "not in crates/ascend-sim/symbols");
}
