//! `cargo xtask bindings`: the Rust side of `ascend-sys/include`, made by bindgen and checked in.

use std::fs;
use std::path::Path;

use crate::stage::Outcome;
use crate::step::{Counts, Step};
use crate::{figures, tools};

const HEADERS: &str = "ascend-sys/include";
const BINDINGS: &str = "ascend-sys/src/bindings";

/// A header, the module made from it, and what that module takes from another one.
struct Module {
    header: &'static str,
    name: &'static str,
    /// The files that the module declares.
    files: &'static str,
    /// A type that another module declares already, and the line that takes it from there.
    uses: Option<(&'static str, &'static str)>,
}

const MODULES: &[Module] = &[
    Module { header: "acl.h", name: "acl", files: "acl[a-z_]*", uses: None },
    Module {
        header: "hccl.h",
        name: "hccl",
        files: "hccl",
        uses: Some(("aclrtStream", "use super::acl::aclrtStream;")),
    },
    Module { header: "hixl_cs.h", name: "hixl_cs", files: "hixl_cs", uses: None },
    Module { header: "hixl_shim.h", name: "shim", files: "hixl_shim", uses: None },
];

/// Writes the bindings, or says which of them differ from what the headers give now.
pub(crate) fn run(check: bool) -> Outcome {
    match generated() {
        Err(why) => Outcome::Failed(Counts::default(), why),
        Ok(files) if check => compare(&files),
        Ok(files) => write(&files),
    }
}

/// The stage of `cargo xtask lint`: skipped, with the reason, where bindgen or libclang cannot be had.
pub(crate) fn stage() -> Outcome {
    match tools::bindgen().and_then(|_| tools::libclang()) {
        Ok(_) => run(true),
        Err(why) => Outcome::Skipped(format!("the bindings cannot be made anew here: {why}")),
    }
}

/// Each generated file's path and text.
fn generated() -> Result<Vec<(String, String)>, String> {
    let mut files = Vec::new();
    for module in MODULES {
        files.push((format!("{BINDINGS}/{}.rs", module.name), module.generate()?));
    }
    files.push((format!("{BINDINGS}/figures.rs"), formatted(&figures::asserts()?)?));
    Ok(files)
}

impl Module {
    fn generate(&self) -> Result<String, String> {
        let include = Step::program("cc").arg("-print-file-name=include").quietly()?;
        let (elsewhere, uses) = self.uses.unwrap_or_default();
        let made = Step::program(tools::bindgen()?)
            .arg(format!("{HEADERS}/{}", self.header))
            .args("--no-prepend-enum-name --no-layout-tests --use-core --ctypes-prefix core::ffi")
            .args("--rust-edition 2024 --rust-target 1.85 --disable-header-comment")
            .arg("--allowlist-file")
            .arg(format!("{HEADERS}/{}\\.h", self.files))
            .arg("--blocklist-type")
            .arg(elsewhere)
            .args("-- --target=x86_64-unknown-linux-gnu")
            .arg(format!("-I{}", include.trim()))
            .env("LIBCLANG_PATH", tools::libclang()?)
            .quietly()?;
        let head =
            format!("// Made by `cargo xtask bindings` from include/{}. Do not edit.\n\n", self.header);
        formatted(&format!("{head}{uses}\n{}", function_types(&made)))
    }
}

/// Nothing is linked: each declared function becomes the type of a pointer to it, under the function's name.
fn function_types(made: &str) -> String {
    let mut text = String::new();
    let mut declaration = false;
    for line in made.lines() {
        match line {
            "unsafe extern \"C\" {" => declaration = true,
            "}" if declaration => declaration = false,
            _ if declaration => {
                match line.trim_start().strip_prefix("pub fn ").and_then(|rest| rest.split_once('(')) {
                    Some((name, rest)) => {
                        text.push_str(&format!("pub type {name} = unsafe extern \"C\" fn({rest}\n"));
                    }
                    None => text.push_str(&format!("{line}\n")),
                }
            }
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

fn formatted(text: &str) -> Result<String, String> {
    let path = tools::target().join("xtask-bindings.rs");
    let show = |error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(tools::target()).map_err(show)?;
    fs::write(&path, text).map_err(show)?;
    Step::program("rustfmt").args("--edition 2024 --config-path rustfmt.toml").arg(&path).quietly()?;
    fs::read_to_string(&path).map_err(show)
}

fn compare(files: &[(String, String)]) -> Outcome {
    let differs = |path: &str, text: &str| fs::read_to_string(path).ok().as_deref() != Some(text);
    let stale: Vec<&str> =
        files.iter().filter(|(path, text)| differs(path, text)).map(|(path, _)| path.as_str()).collect();
    if stale.is_empty() {
        return Outcome::Passed(Counts::default());
    }
    let why = format!("{}: not what the headers give; run `cargo xtask bindings`", stale.join(", "));
    Outcome::Failed(Counts::default(), why)
}

fn write(files: &[(String, String)]) -> Outcome {
    for (path, text) in files {
        if let Err(error) = fs::write(Path::new(path), text) {
            return Outcome::Failed(Counts::default(), format!("{path}: {error}"));
        }
    }
    Outcome::Passed(Counts::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_function_becomes_the_type_of_a_pointer_to_it() {
        let made = "pub type E = u32;\nunsafe extern \"C\" {\n    pub fn f(\n        a: u32,\n    ) -> E;\n}\npub const A: E = 1;\n";
        let types = function_types(made);
        let wanted = "pub type E = u32;\npub type f = unsafe extern \"C\" fn(\n        a: u32,\n    ) -> E;\npub const A: E = 1;\n";
        assert_eq!(types, wanted);
    }
}
