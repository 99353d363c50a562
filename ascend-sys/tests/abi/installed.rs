//! The headers of an installed CANN against the figures.

use std::fs;
use std::path::{Path, PathBuf};

use crate::figures::{Figure, Folder, root};
use crate::probe::{self, Language};

/// Headers by module: whichever of them is there.
const HEADERS: &[(&str, &[&str])] = &[
    ("acl", &["acl/acl_base.h", "acl/acl_rt.h", "acl/acl.h"]),
    ("hccl", &["hccl/hccl_types.h", "hccl/hccl_comm.h", "hccl/hccl.h"]),
    ("hixl_cs", &["hixl/cs/hixl_cs.h", "hixl/hixl_cs.h", "cs/hixl_cs.h", "hixl_cs.h"]),
];

/// What the headers below `include` say otherwise than the figures, and how many figures were compared.
fn compare(include: &Path) -> (Vec<String>, usize) {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (module, names) in HEADERS {
        let present: Vec<&str> = names.iter().copied().filter(|name| include.join(name).is_file()).collect();
        if present.is_empty() {
            continue;
        }
        let words = words(include);
        if *module == "hixl_cs" && !words.contains("HixlCSClientBatchPutSync") {
            continue;
        }
        // An older release lacks some names; what it has must agree.
        let figures: Vec<Figure> = crate::declared()
            .into_iter()
            .filter(|figure| figure.module() == *module && mentioned(&words, figure))
            .filter(|figure| !(figure.name() == "HcclCommConfig" && figure.kind() == "struct"))
            .collect();
        compared += figures.len();
        match probe::run(Language::Cxx, include, &present, &figures) {
            Ok(seen) => wrong.extend(probe::differences(&figures, &seen)),
            Err(why) => wrong.push(format!("{module}: {why}")),
        }
    }
    (wrong, compared)
}

fn mentioned(words: &str, figure: &Figure) -> bool {
    let names = match figure.kind() {
        "field" | "enum" => &figure.0[2..4],
        _ => &figure.0[2..3],
    };
    let parts = names.iter().flat_map(|name| name.split('.'));
    parts.clone().all(|part| words.contains(&format!(" {part} ")))
}

/// Every name in the headers below a folder, each between spaces.
fn words(include: &Path) -> String {
    let mut text = String::from(" ");
    let mut open: Vec<PathBuf> =
        ["acl", "hccl", "hixl", "cs"].iter().map(|name| include.join(name)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(header) = fs::read_to_string(&path) {
                for word in header.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')) {
                    text.push_str(word);
                    text.push(' ');
                }
            }
        }
    }
    text
}

#[test]
fn an_installed_cann_has_the_recorded_layouts_values_and_signatures() {
    const WHAT: &str = "the headers of an installed CANN against the figures";
    let Some(home) = std::env::var_os("ASCEND_HOME_PATH").filter(|home| !home.is_empty()) else {
        return ropeway_testkit::cannot_run(WHAT, "ASCEND_HOME_PATH is not set");
    };
    let include = Path::new(&home).join("include");
    if !include.join("acl").is_dir() {
        return ropeway_testkit::cannot_run(WHAT, &format!("{} has no AscendCL headers", include.display()));
    }
    let (wrong, compared) = compare(&include);
    assert_eq!(wrong, Vec::<String>::new(), "of {compared} figures");
    assert!(compared > 0, "none of the known headers is in {}", include.display());
}

#[test]
fn a_header_that_differs_from_the_figures_is_told() {
    let folder = Folder::new();
    let acl = folder.0.join("acl");
    fs::create_dir(&acl).expect("a folder can be made");
    for name in ["acl.h", "acl_types.h", "acl_errors.h"] {
        fs::copy(root().join("include").join(name), acl.join(name)).expect("our header is there");
    }
    let (wrong, compared) = compare(&folder.0);
    assert_eq!(wrong, Vec::<String>::new());
    assert!(compared > 400, "only {compared} figures were compared");
    let path = acl.join("acl_types.h");
    let text = fs::read_to_string(&path).expect("it was just copied");
    let changed = text.replace("    uint32_t pageSize;", "    uint64_t pageSize;");
    assert_ne!(text, changed);
    fs::write(&path, changed).expect("it was just copied");
    let (wrong, _) = compare(&folder.0);
    assert!(
        wrong.iter().any(|line| line.contains("aclrtPtrAttributes") && line.contains("pageSize")),
        "{wrong:?}"
    );
}
