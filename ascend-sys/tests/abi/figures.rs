//! The checked-in figures of the ABI.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

/// One line of `abi/figures.tsv`: the module first, then the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure(pub(crate) Vec<String>);

impl Figure {
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    pub(crate) fn module(&self) -> &str {
        &self.0[0]
    }

    pub(crate) fn kind(&self) -> &str {
        &self.0[1]
    }

    pub(crate) fn name(&self) -> &str {
        &self.0[2]
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn all() -> Vec<Figure> {
    let path = root().join("abi/figures.tsv");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| Figure(line.split('\t').map(str::to_owned).collect())).collect()
}

/// A folder that goes when the test ends.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ropeway-abi-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a compiler: its errors, or nothing.
pub(crate) fn compile(
    variable: &str,
    usual: &str,
    arguments: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<(), String> {
    let compiler = env::var_os(variable).unwrap_or_else(|| usual.into());
    let mut command = Command::new(&compiler);
    let output = arguments(&mut command).output();
    let output = output.map_err(|error| format!("{}: {error}", compiler.display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
