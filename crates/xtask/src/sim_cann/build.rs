//! Running cargo, the compilers and `nm`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Layout;

/// The name that the simulator's crate gives its library.
pub(super) const SIMULATOR: &str = "libascend_sim.so";

/// Builds the simulator's library and says where it is.
///
/// Flags of a surrounding run (a sanitizer's, a cross build's) are not for it.
pub(super) fn simulator(layout: &Layout) -> Result<PathBuf, String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
        command.env_remove(variable);
    }
    command.args(["build", "--quiet", "--locked", "--package", "ropeway-ascend-sim", "--lib"]);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &layout.profile]);
    if let Some(target) = &layout.target {
        command.args(["--target", target]);
    }
    let said = stdout(&mut command)?;
    let mut names = said.split('"').filter(|word| word.ends_with(&format!("/{SIMULATOR}")));
    names.next_back().map(PathBuf::from).ok_or_else(|| format!("cargo built no {SIMULATOR}"))
}

/// A compiler, assembler or `nm` for the layout's target.
pub(super) fn tool(layout: &Layout, name: &str, variable: &str) -> Command {
    let cross = layout.target.as_ref().map(|target| target.replace("-unknown", ""));
    match (std::env::var_os(variable), cross) {
        (None, Some(prefix)) => Command::new(format!("{prefix}-{name}")),
        (Some(chosen), None) => Command::new(chosen),
        _ => Command::new(name),
    }
}

/// The machine that the layout is for.
pub(super) fn machine(layout: &Layout) -> &str {
    let target = layout.target.as_deref().unwrap_or(std::env::consts::ARCH);
    target.split('-').next().unwrap_or(target)
}

/// Symbols that a library defines for others.
pub(super) fn exports(layout: &Layout, library: &Path) -> Result<Vec<String>, String> {
    let mut command = tool(layout, "nm", "NM");
    let said = stdout(command.args(["--dynamic", "--defined-only", "--format=posix"]).arg(library))?;
    Ok(said.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Runs a command to its end; what it printed, or what it complained of.
pub(super) fn stdout(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}
