//! `cargo xtask sim-cann DIR`: the software CANN as an installation. The simulator's library, small libraries with the
//! names of the real ones, the node's files, and a topology.
//!
//! Nothing is done again when nothing has changed, and a second run on the same folder waits for the first.

mod build;
mod fresh;
mod libraries;
mod symbols;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::tools;

/// What to lay out, and where.
#[derive(clap::Args, Debug)]
pub(crate) struct Layout {
    /// The folder; made if it is not there.
    #[arg(value_parser = absolute)]
    dir: PathBuf,
    /// The CANN release to play: its libraries have the symbols of that release.
    #[arg(long, default_value = "9.1.0")]
    release: Release,
    /// The chip of every device.
    #[arg(long, default_value = "a3")]
    chip: Chip,
    /// Devices of each node.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    devices: u32,
    /// Nodes; each is a machine of its own, named node0, node1 and so on.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Symbols to leave out, as an older or damaged installation would.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Cargo's profile for the simulator: `release` when something is measured on it.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// The target to build for, if it is not this machine's.
    #[arg(long)]
    target: Option<String>,
}

/// A CANN release whose symbols are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Release {
    /// No C interface of HIXL; 13 members of `hixl::Hixl`.
    #[value(name = "8.5.0")]
    V8_5,
    /// HIXL's C interface with its old structs and without the synchronous batches.
    #[value(name = "9.0.0")]
    V9_0,
    /// All of it.
    #[value(name = "9.1.0")]
    V9_1,
}

/// A family of NPUs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Chip {
    /// Ascend 910B.
    A2,
    /// Ascend 910_93xx.
    A3,
    /// Ascend 950.
    #[value(name = "950")]
    A950,
}

impl Release {
    fn name(self) -> &'static str {
        match self {
            Self::V8_5 => "8.5.0",
            Self::V9_0 => "9.0.0",
            Self::V9_1 => "9.1.0",
        }
    }
}

impl Chip {
    fn name(self) -> &'static str {
        match self {
            Self::A2 => "a2",
            Self::A3 => "a3",
            Self::A950 => "950",
        }
    }
}

fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// The installation that tests use unless they say another: CANN 9.1.0, two machines of four A3 devices. Its folder.
pub(crate) fn for_tests() -> Result<PathBuf, String> {
    let dir = absolute(&tools::target().join("sim-cann/9.1.0-a3-2x4-dev").to_string_lossy())
        .map_err(|error| format!("the target folder: {error}"))?;
    let (release, chip, profile) = (Release::V9_1, Chip::A3, "dev".to_owned());
    let without = Vec::new();
    lay_out(&Layout {
        dir: dir.clone(),
        release,
        chip,
        devices: 4,
        nodes: 2,
        without,
        profile,
        target: None,
    })?;
    Ok(dir)
}

/// Lays out; says what went wrong otherwise.
pub(crate) fn run(layout: &Layout) -> bool {
    match lay_out(layout) {
        Ok(done) => {
            println!("{done}");
            true
        }
        Err(error) => {
            println!("cannot lay out a software CANN in {}: {error}", layout.dir.display());
            false
        }
    }
}

fn lay_out(layout: &Layout) -> Result<String, String> {
    let dir = &layout.dir;
    fs::create_dir_all(dir).map_err(|error| format!("cannot make the folder: {error}"))?;
    let _lock = fresh::lock(dir)?;
    let simulator = build::simulator(layout)?;
    let key = fresh::key(layout, &simulator)?;
    if fresh::is(dir, &key) {
        return Ok(format!("{}: up to date", dir.display()));
    }
    fresh::forget(dir)?;
    let lists = symbols::Lists::read(layout)?;
    libraries::write(layout, &simulator, &lists)?;
    tree::write(layout)?;
    fresh::remember(dir, &key)?;
    let (release, chip) = (layout.release.name(), layout.chip.name());
    Ok(format!(
        "{}: a software CANN {release}, {} node(s) with {} {chip} device(s) each; use it with ROPEWAY_CANN_PATH={}",
        dir.display(),
        layout.nodes,
        layout.devices,
        dir.display()
    ))
}

/// Writes a file in one step, so that whoever has the old one mapped keeps it.
fn put(path: &Path, text: impl AsRef<[u8]>) -> Result<(), String> {
    let name = |error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(name)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, text).map_err(name)?;
    fs::rename(&temporary, path).map_err(name)
}
