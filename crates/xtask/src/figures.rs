//! `ascend-sys/abi/figures.tsv`: sizes, alignments, offsets and values, turned into assertions that the compiler checks.

use std::fmt::Write;
use std::fs;

const FIGURES: &str = "ascend-sys/abi/figures.tsv";

/// Modules of `ascend-sys` that declare what the figures of the same name tell. Those of C++ have none.
const MODULES: &[&str] = &["acl", "hccl", "hixl_cs"];

/// A Rust file that compiles only while the bindings have the figures' layouts and values.
pub(crate) fn assertions(text: &str) -> Result<String, String> {
    let mut out = String::from(
        "// Made by `cargo xtask bindings` from abi/figures.tsv. Do not edit.\n\nuse core::mem::{align_of, offset_of, size_of};\n\n",
    );
    for module in MODULES {
        let _ = writeln!(out, "use super::{module};");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let row: Vec<&str> = line.split('\t').collect();
        if row.first().is_none_or(|module| MODULES.contains(module)) {
            let assertion = assertion(&row).ok_or_else(|| format!("{FIGURES}: `{line}` cannot be read"))?;
            out.push_str(&assertion);
        }
    }
    Ok(out)
}

/// As [`assertions`], of the checked-in figures.
pub(crate) fn asserts() -> Result<String, String> {
    assertions(&fs::read_to_string(FIGURES).map_err(|error| format!("{FIGURES}: {error}"))?)
}

fn assertion(row: &[&str]) -> Option<String> {
    let text = match *row {
        [module, "struct", name, size, align] => format!(
            "\nconst _: () = assert!(size_of::<{module}::{name}>() == {size});\nconst _: () = assert!(align_of::<{module}::{name}>() == {align});\n"
        ),
        [module, "field", name, field, offset, _] => {
            let path = path(name, field);
            format!("const _: () = assert!(offset_of!({module}::{name}, {path}) == {offset});\n")
        }
        [module, "enum", _, name, value] | [module, "constant", name, value] => {
            format!("const _: () = assert!({module}::{name} as i64 == {value});\n")
        }
        [_, "function", ..] => String::new(),
        _ => return None,
    };
    Some(text)
}

/// The field as Rust names it: bindgen gives a name to unions that have none in C.
fn path(structure: &str, field: &str) -> String {
    let inside = match structure {
        "CommAddr" => field != "type",
        "EndpointLoc" => field != "locType",
        _ => false,
    };
    let field = if field == "type" { "type_" } else { field };
    if inside { format!("__bindgen_anon_1.{field}") } else { field.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_figure_becomes_an_assertion() {
        let text = "# a comment\nacl\tstruct\tS\t8\t4\nacl\tfield\tS\ttype\t4\t4\nacl\tenum\tE\tA\t-1\nacl\tconstant\tB\t7\n";
        let made = assertions(text).expect("the figures are well formed");
        for wanted in [
            "size_of::<acl::S>() == 8",
            "align_of::<acl::S>() == 4",
            "offset_of!(acl::S, type_) == 4",
            "acl::A as i64 == -1",
            "acl::B as i64 == 7",
        ] {
            assert!(made.contains(wanted), "{wanted} is not in {made}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let why = assertions("acl\tstruct\tS\n").expect_err("the line is short");
        assert!(why.contains("struct\tS"), "{why}");
    }
}
