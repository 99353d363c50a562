//! House rules that no compiler checks: sizes, unfinished markers, where `unsafe` may stand, who may touch region
//! bytes, and documents that name things which exist.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Where files may be longer: nobody reads what a tool wrote.
const GENERATED: &[&str] = &["ascend-sys/src/bindings/"];

/// Ways to reach bytes that would be undefined behaviour over a region, where a peer may write at any time. Only the
/// copy kernels and the system calls move region bytes.
const DEREFERENCES: &[&str] = &[
    "from_raw_parts",
    "ptr::copy",
    "copy_nonoverlapping",
    "copy_from_nonoverlapping",
    "copy_to_nonoverlapping",
    "ptr::read",
    "ptr::write",
    "read_volatile",
    "write_volatile",
    "read_unaligned",
    "write_unaligned",
    "write_bytes",
    ".as_ref_unchecked",
    "as_mut_unchecked",
];

/// Files of `src` and `crates/transport/src` that may use them all the same, and why.
const DEREFERENCES_ALLOWED: &[(&str, &str)] =
    &[("crates/transport/src/copy", "the copy kernels: the one place that moves region bytes")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

/// All paths under the root but folders and what git would ignore.
fn paths() -> Vec<PathBuf> {
    let mut folders = vec![root().to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be listed") {
            let path = entry.expect("a folder entry can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are UTF-8").to_owned();
            if path.is_symlink() || !path.is_dir() {
                found.push(path);
                continue;
            }
            if !matches!(name.as_str(), "target" | ".git" | "artifacts" | "corpus" | "__pycache__") {
                folders.push(path);
            }
        }
    }
    found
}

/// All text files of [`paths`] with such names.
fn files(extensions: &[&str]) -> Vec<File> {
    let named = |path: &PathBuf| extensions.iter().any(|end| relative(path).ends_with(end));
    let mut found: Vec<File> = paths()
        .into_iter()
        .filter(|path| !path.is_symlink() && named(path))
        .map(|path| File { path: relative(&path), text: read(&path) })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!found.is_empty(), "no file ends with {extensions:?}");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("found under the root").to_str().expect("names are UTF-8").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

/// The line without its comment. Good enough for rustfmt's output; a `//` in a string cuts too much, not too little.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).any(|part| part == word)
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<String> = files(&[".rs", ".c", ".h", ".cpp", ".hpp", ".py"])
        .iter()
        .map(|file| (file.text.lines().count(), &file.path))
        .filter(|(lines, path)| {
            *lines > FILE_LINES_MAX && !GENERATED.iter().any(|folder| path.starts_with(folder))
        })
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(&long, "at most 600 lines a file; split by sub-machine, not by part");
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = Vec::new();
    for file in files(&[".rs"]) {
        for (line, name, lines) in functions(&file.text) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}:{line}: fn {name} has {lines} lines", file.path));
            }
        }
    }
    assert_none(&long, "at most 70 lines a function; push ifs up and fors down");
}

/// First line, name and length of each function, read off rustfmt's indentation.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = code(line);
        let Some(name) = code.split_whitespace().skip_while(|word| *word != "fn").nth(1) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        if code.trim_end().ends_with(['}', ';']) {
            continue;
        }
        if let Some(length) = lines[at..].iter().position(|line| line.trim_end() == end) {
            let name = name.split(['(', '<']).next().unwrap_or(name);
            found.push((at + 1, name.to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn function_lengths_are_read_right() {
    let text = "impl A {\n    fn one(&self) {\n        x();\n    }\n\n    fn two(\n        &self,\n    ) {\n    }\n}\n";
    let found = functions(text);
    assert_eq!(found, [(2, "one".to_owned(), 3), (6, "two".to_owned(), 4)]);
}

#[test]
fn nothing_is_left_unfinished() {
    // Written in two pieces so that this file does not name them.
    let markers = [
        ("to", "do!("),
        ("unimple", "mented!("),
        ("db", "g!("),
        ("#[ig", "nore"),
        ("FIX", "ME"),
        ("XX", "X:"),
    ];
    let mut found = Vec::new();
    for file in files(&[".rs", ".py", ".c", ".h", ".cpp", ".hpp"]) {
        for (at, line) in file.text.lines().enumerate() {
            for (head, tail) in markers {
                if line.contains(&format!("{head}{tail}")) {
                    found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
                }
            }
        }
    }
    assert_none(&found, "unfinished markers and ignored tests");
}

/// The places that `docs/SAFETY.md` lists, as lines of the form "- `path`: why".
fn unsafe_places() -> Vec<String> {
    let text = read(&root().join("docs/SAFETY.md"));
    let places = text.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("`:"));
    let places: Vec<String> = places.map(|(path, _)| path.trim_end_matches('/').to_owned()).collect();
    assert!(!places.is_empty(), "docs/SAFETY.md lists the places that hold unsafe code");
    places
}

fn within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn unsafe_code_stands_only_where_the_safety_page_argues_for_it() {
    let places = unsafe_places();
    let mut offences = Vec::new();
    let mut used = vec![false; places.len()];
    for file in files(&[".rs"]) {
        let first = file.text.lines().position(|line| has_word(code(line), "unsafe") && !line.contains('"'));
        let Some(first) = first else { continue };
        let covering = places.iter().position(|place| within(&file.path, place));
        match covering {
            Some(place) => used[place] = true,
            None => offences.push(format!("{}:{}: not listed in docs/SAFETY.md", file.path, first + 1)),
        }
    }
    let idle = places.iter().zip(&used).filter(|(_, used)| !**used);
    offences
        .extend(idle.map(|(place, _)| format!("docs/SAFETY.md lists {place}, which holds no unsafe code")));
    assert_none(&offences, "unsafe code and docs/SAFETY.md differ");
}

#[test]
fn only_copy_kernels_and_the_kernel_touch_region_bytes() {
    let mut offences = Vec::new();
    for file in files(&[".rs"]) {
        let watched = within(&file.path, "src") || within(&file.path, "crates/transport/src");
        let allowed = DEREFERENCES_ALLOWED.iter().any(|(place, _)| within(&file.path, place));
        if !watched || allowed || file.path.ends_with("tests.rs") {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            if DEREFERENCES.iter().any(|way| code(line).contains(way)) {
                offences.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    assert_none(&offences, "region bytes move through transport::copy or a system call");
}

#[test]
fn nothing_names_a_machine_or_a_registry_host() {
    let hosts =
        ["crates.io", "pypi.org", "pythonhosted.org", "debian.org", "npmjs.org", "golang.org/", "maven.org"];
    let places = ["/wo", "/ho", "/ro", "/tmp/te"].iter().zip(["rk/", "me/", "ot/", "am"]);
    let places: Vec<String> = places.map(|(head, tail)| format!("{head}{tail}")).collect();
    let mut found = Vec::new();
    for file in files(&[".rs", ".md", ".toml", ".py", ".c", ".h", ".cpp", ".hpp", ".sh", "run"]) {
        if file.path == "tests/tidy.rs" {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            let named = hosts.iter().any(|host| line.contains(host))
                || places.iter().any(|place| line.contains(place));
            if named {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    assert_none(&found, "paths of a machine and hosts of registries do not belong here");
}

/// One of a developer's machine leads to nothing elsewhere, and names it.
#[test]
fn nothing_is_a_symbolic_link() {
    let links: Vec<String> =
        paths().iter().filter(|path| path.is_symlink()).map(|path| relative(path)).collect();
    assert_none(&links, "a link is not a file; write what it leads to");
}

/// Tests are named as `file.rs::test` or, where files may be split, as `folder::test`.
#[test]
fn every_promise_names_tests_that_exist() {
    let text = read(&root().join("docs/TESTING.md"));
    let sources = files(&[".rs"]);
    let mut offences = Vec::new();
    let mut promise = None;
    let mut named = [0_usize; 5];
    for line in text.lines() {
        if line.starts_with('#') {
            promise = line.split_once("Promise ").and_then(|(_, rest)| rest.chars().next()?.to_digit(10));
        }
        for name in line.split('`').skip(1).step_by(2) {
            let Some((place, test)) = name.split_once("::").filter(|(place, _)| place.contains('/')) else {
                continue;
            };
            let declaration = format!("fn {test}(");
            if !sources.iter().any(|file| within(&file.path, place) && file.text.contains(&declaration)) {
                offences.push(format!("docs/TESTING.md names `{name}`, which is not there"));
            } else if let Some(promise @ 1..=5) = promise {
                named[promise as usize - 1] += 1;
            }
        }
    }
    let bare = named.iter().enumerate().filter(|(_, tests)| **tests < 2);
    offences.extend(
        bare.map(|(at, _)| format!("docs/TESTING.md names fewer than 2 tests for promise {}", at + 1)),
    );
    assert_none(&offences, "promises without tests");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in files(&[".md"]) {
        let folder = root().join(&file.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for link in file.text.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !folder.join(target).exists() {
                broken.push(format!("{}: {target}", file.path));
            }
        }
    }
    assert_none(&broken, "links to files that are not there");
}
