//! `lib64`: the simulator, and the libraries that carry the real names over it.
//!
//! A library of C functions is one jump a name, to `sim_<name>` of the simulator. The two C++ libraries are compiled, and
//! a version script leaves open only the members of the release.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::build::{SIMULATOR, exports, machine, stdout, tool};
use super::symbols::Lists;
use super::{Layout, put};

const CXX: &str = "crates/ascend-sim/cxx";

/// Writes all libraries.
pub(super) fn write(layout: &Layout, simulator: &Path, lists: &Lists) -> Result<(), String> {
    let lib64 = layout.dir.join("lib64");
    let bytes = fs::read(simulator).map_err(|error| format!("{}: {error}", simulator.display()))?;
    put(&lib64.join(SIMULATOR), bytes)?;
    let has: BTreeSet<String> = exports(layout, simulator)?.into_iter().collect();
    check_names(lists, &has)?;
    let place = Place { layout, lib64, has };
    for name in ["libacl_rt.so", "libascendcl.so"] {
        place.jumps(name, &lists.acl)?;
    }
    place.jumps("libhcomm.so", &lists.hcomm)?;
    place.jumps("libhccl.so", &lists.hccl)?;
    place.cxx("libmetadef.so", "ascend_string.cpp", &lists.metadef_cxx, &[])?;
    place.cxx("libcann_hixl.so", "hixl.cpp", &lists.hixl_cxx, &lists.hixl)
}

/// A simulator function that no table names would never be seen: it is a slip of the pen in one or the other.
fn check_names(lists: &Lists, has: &BTreeSet<String>) -> Result<(), String> {
    let ours = has.iter().filter_map(|name| name.strip_prefix("sim_"));
    let functions = ours.filter(|name| !name.starts_with("hixl_"));
    match functions.filter(|name| !lists.known.contains(*name)).collect::<Vec<_>>() {
        strangers if strangers.is_empty() => Ok(()),
        strangers => Err(format!(
            "the simulator has functions that no table in crates/ascend-sim/symbols names: {strangers:?}"
        )),
    }
}

struct Place<'a> {
    layout: &'a Layout,
    lib64: PathBuf,
    /// What the simulator exports.
    has: BTreeSet<String>,
}

impl Place<'_> {
    /// A library of jumps.
    fn jumps(&self, library: &str, names: &[String]) -> Result<(), String> {
        let source = self.source(library, names)?;
        self.link(library, "gcc", "CC", &["-nostdlib".as_ref(), source.as_ref()])
    }

    /// A library of C++ members, and of jumps for the C functions beside them.
    fn cxx(&self, library: &str, file: &str, members: &[String], names: &[String]) -> Result<(), String> {
        let source = self.source(library, names)?;
        let mut script = "{\n  global:\n".to_owned();
        for name in members.iter().chain(names) {
            let _ = writeln!(script, "    {name};");
        }
        script.push_str("  local: *;\n};\n");
        let map = self.build_file(library, "map");
        put(&map, script)?;
        let file = Path::new(CXX).join(file);
        let version = format!("-Wl,--version-script={}", map.display());
        let mut arguments: Vec<&OsStr> =
            ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-I", "ascend-sys/shim"]
                .into_iter()
                .map(OsStr::new)
                .collect();
        arguments.extend([version.as_ref(), file.as_os_str(), source.as_os_str()]);
        if library != "libmetadef.so" {
            arguments.push("-lmetadef".as_ref());
        }
        self.link(library, "g++", "CXX", &arguments)
    }

    /// Writes the jumps of a library, for those names that the simulator has.
    fn source(&self, library: &str, names: &[String]) -> Result<PathBuf, String> {
        let (there, missing): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| self.has.contains(&format!("sim_{name}")));
        if !missing.is_empty() {
            println!("{library}: {} functions are not simulated, from {} on", missing.len(), missing[0]);
        }
        let path = self.build_file(library, "s");
        put(&path, jumps(machine(self.layout), &there)?)?;
        Ok(path)
    }

    fn build_file(&self, library: &str, extension: &str) -> PathBuf {
        self.layout.dir.join(".build").join(library).with_extension(extension)
    }

    /// Links a library against the simulator; both are found beside each other.
    fn link(
        &self,
        library: &str,
        compiler: &str,
        variable: &str,
        arguments: &[&OsStr],
    ) -> Result<(), String> {
        let temporary = self.lib64.join(format!("{library}.new"));
        let mut command = tool(self.layout, compiler, variable);
        command.args(["-shared", "-fPIC", "-o"]).arg(&temporary).args(arguments);
        // The old tag comes before LD_LIBRARY_PATH, where cargo's tests have a second copy of the simulator.
        command.args([
            "-Wl,--disable-new-dtags",
            "-Wl,-rpath,$ORIGIN",
            "-Wl,-z,now",
            &format!("-Wl,-soname,{library}"),
        ]);
        command.args(["-Wl,--no-as-needed", "-L"]).arg(&self.lib64).arg("-lascend_sim");
        stdout(&mut command).map_err(|error| format!("{library}: {error}"))?;
        fs::rename(&temporary, self.lib64.join(library)).map_err(|error| format!("{library}: {error}"))
    }
}

/// Assembly with one jump a name: arguments and stack stay as the caller left them.
fn jumps(machine: &str, names: &[&String]) -> Result<String, String> {
    let jump: fn(&str) -> String = match machine {
        "x86_64" => |name| format!("    jmp *sim_{name}@GOTPCREL(%rip)\n"),
        "aarch64" => |name| {
            format!("    adrp x16, :got:sim_{name}\n    ldr x16, [x16, :got_lo12:sim_{name}]\n    br x16\n")
        },
        other => return Err(format!("no jumps are known for {other}; x86_64 and aarch64 are")),
    };
    let mut text = "    .text\n".to_owned();
    for name in names {
        let _ = write!(text, "    .globl {name}\n    .type {name}, %function\n    .p2align 4\n{name}:\n");
        text.push_str(&jump(name));
        let _ = writeln!(text, "    .size {name}, . - {name}");
    }
    text.push_str("    .section .note.GNU-stack,\"\",%progbits\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_one_jump_to_the_simulator() {
        let names = ["aclInit".to_owned()];
        let names: Vec<&String> = names.iter().collect();
        assert!(jumps("x86_64", &names).unwrap().contains("aclInit:\n    jmp *sim_aclInit@GOTPCREL(%rip)\n"));
        assert!(jumps("aarch64", &names).unwrap().contains("aclInit:\n    adrp x16, :got:sim_aclInit\n"));
        assert!(jumps("riscv64", &names).is_err());
    }
}
