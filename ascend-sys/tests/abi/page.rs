//! `docs/ABI.md` against the tables that are loaded.

use std::fs;

use crate::coverage::{RELEASES, TABLES, age};
use crate::figures::{self, root};

fn page() -> String {
    fs::read_to_string(root().join("../docs/ABI.md")).expect("the page is there")
}

/// The rows of the page's tables below a heading, as cells without their blanks.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = page();
    let heading = format!("\n## {heading}\n");
    let (_, below) = page.split_once(&heading).unwrap_or_else(|| panic!("the page has no `{heading}`"));
    let section = below.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.skip(1).map(cells).collect()
}

/// What the page must say of each group, but for its last column.
fn wanted() -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (module, groups) in TABLES {
        for group in *groups {
            let has = |release: &&str| if age(release) >= age(group.since) { "yes" } else { "–" };
            let mut row = vec![format!("`{module}`"), format!("`{}`", group.name)];
            row.extend(RELEASES.iter().map(|release| has(release).to_owned()));
            rows.push(row);
        }
    }
    rows
}

#[test]
fn the_page_has_each_group_with_its_releases_and_the_cost_of_its_absence() {
    let rows = rows("Groups of functions");
    let (said, costs): (Vec<Vec<String>>, Vec<String>) =
        rows.iter().map(|row| (row[..row.len() - 1].to_vec(), row[row.len() - 1].clone())).unzip();
    assert_eq!(said, wanted());
    assert!(costs.iter().all(|cost| cost.len() > 6), "a group's absence has no stated cost");
}

/// The Ascend path's sources.
fn callers() -> String {
    let mut text = String::new();
    let mut open = vec![root().join("../crates/ascend/src")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                text.push_str(&fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    text
}

#[test]
fn what_the_page_calls_unused_is_unused() {
    let callers = callers();
    let unused = |cost: &str| cost.starts_with("nothing: not called yet");
    let rows = rows("Groups of functions");
    let mut wrong = Vec::new();
    for (group, row) in TABLES.iter().flat_map(|(_, groups)| *groups).zip(&rows) {
        let called = group.symbols.iter().any(|name| callers.contains(&format!(".{name})")));
        if called && unused(&row[row.len() - 1]) {
            wrong.push(row.join(" | "));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "say in docs/ABI.md what the absence of these groups costs");
}

#[test]
fn the_page_lists_the_functions_of_each_group() {
    let mut wanted = Vec::new();
    for (module, groups) in TABLES {
        for group in *groups {
            let functions: Vec<String> = group.symbols.iter().map(|name| format!("`{name}`")).collect();
            wanted.push(vec![format!("`{module}`"), format!("`{}`", group.name), functions.join(", ")]);
        }
    }
    assert_eq!(rows("Functions of each group"), wanted);
}

#[test]
fn the_page_lists_the_members_of_the_class_with_their_releases() {
    let rows = rows("Members of `hixl::Hixl`");
    let symbols: Vec<_> = figures::all().into_iter().filter(|figure| figure.kind() == "symbol").collect();
    assert!(symbols.len() >= 19, "{} members are recorded", symbols.len());
    for symbol in &symbols {
        let named = rows.iter().filter(|row| {
            let mut names = row[0].split('`').skip(1).step_by(2);
            names.any(|name| symbol.name().contains(name)) && row[1] == symbol.0[3]
        });
        assert_eq!(named.count(), 1, "{} must be in one row", symbol.name());
    }
}

#[test]
fn the_page_says_that_nothing_has_run_on_an_npu() {
    assert!(page().contains("Nothing on this page has run on an NPU yet"));
}
