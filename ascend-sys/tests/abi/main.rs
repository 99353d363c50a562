//! What was declared is what the facts say, in C, in C++, in Rust, and in an installed CANN where there is one.

mod class;
mod coverage;
mod figures;
mod installed;
mod page;
mod probe;
mod recorded;

use figures::{Figure, root};
use probe::Language;

const INCLUDES: &[&str] = &["acl.h", "hccl.h", "hixl_cs.h"];

/// The figures of what is declared in C.
fn declared() -> Vec<Figure> {
    figures::all().into_iter().filter(|figure| figure.module() != "cxx").collect()
}

#[test]
fn our_headers_have_the_recorded_layouts_values_and_signatures_in_c() {
    let figures = declared();
    let seen = probe::run(Language::C, &root().join("include"), INCLUDES, &figures);
    let seen = seen.unwrap_or_else(|why| panic!("the headers and the figures disagree:\n{why}"));
    assert_eq!(probe::differences(&figures, &seen), Vec::<String>::new());
}

#[test]
fn our_headers_have_the_recorded_layouts_values_and_signatures_in_cxx() {
    let figures = declared();
    let seen = match probe::run(Language::Cxx, &root().join("include"), INCLUDES, &figures) {
        Err(why) if why.starts_with("c++:") => {
            return ropeway_testkit::cannot_run("the C++ probe of our headers", &why);
        }
        other => other.unwrap_or_else(|why| panic!("the headers and the figures disagree:\n{why}")),
    };
    assert_eq!(probe::differences(&figures, &seen), Vec::<String>::new());
}

#[test]
fn a_probe_sees_a_wrong_offset_a_wrong_value_and_a_wrong_signature() {
    let with = |kind: &str, name: &str, at: usize, value: &str| {
        let mut figures = declared();
        let figure = figures.iter_mut().find(|figure| figure.kind() == kind && figure.name() == name);
        figure.expect("the figure is recorded").0[at] = value.to_owned();
        let seen = probe::run(Language::C, &root().join("include"), INCLUDES, &figures)?;
        Ok::<_, String>(probe::differences(&figures, &seen))
    };
    assert_eq!(with("struct", "aclrtPtrAttributes", 3, "32").map(|found| found.len()), Ok(1));
    assert_eq!(with("field", "EndpointDesc", 4, "8").map(|found| found.len()), Ok(1));
    assert_eq!(with("constant", "ACL_STREAM_FAST_SYNC", 3, "3").map(|found| found.len()), Ok(1));
    let why = with("function", "aclrtFree", 4, "aclError aclrtFree(void *devPtr, size_t size)");
    assert!(why.expect_err("the declarations conflict").contains("aclrtFree"));
}
