//! A software CANN for tests, laid out below the target folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Which installation a test wants: by default CANN 9.1.0, two machines with four A3 devices each.
///
/// Like ones are one folder, shared by all tests: a test that shares no devices with others sets a state folder of its
/// own in `ROPEWAY_SIM_STATE`.
#[derive(Clone, Debug)]
pub struct SimCann {
    release: &'static str,
    chip: &'static str,
    nodes: u32,
    devices: u32,
    profile: &'static str,
    without: Vec<&'static str>,
}

impl Default for SimCann {
    fn default() -> Self {
        Self { release: "9.1.0", chip: "a3", nodes: 2, devices: 4, profile: "dev", without: Vec::new() }
    }
}

/// What has been laid out by this process.
static MADE: Mutex<BTreeMap<PathBuf, Result<(), String>>> = Mutex::new(BTreeMap::new());

impl SimCann {
    /// Plays this release: `8.5.0`, `9.0.0` or `9.1.0`.
    #[must_use]
    pub fn release(mut self, release: &'static str) -> Self {
        self.release = release;
        self
    }

    /// Every device is of this chip: `a2`, `a3` or `950`.
    #[must_use]
    pub fn chip(mut self, chip: &'static str) -> Self {
        self.chip = chip;
        self
    }

    /// So many machines, `node0` and on, each with so many devices.
    #[must_use]
    pub fn machines(mut self, nodes: u32, devices: u32) -> Self {
        (self.nodes, self.devices) = (nodes, devices);
        self
    }

    /// Leaves a symbol out of the libraries.
    #[must_use]
    pub fn without(mut self, symbol: &'static str) -> Self {
        self.without.push(symbol);
        self
    }

    /// Builds the simulator with optimisation: for measurements.
    #[must_use]
    pub fn optimised(mut self) -> Self {
        self.profile = "release";
        self
    }

    /// The installation's folder, for `ROPEWAY_CANN_PATH`; made or brought up to date on the first call in a process. The one
    /// that `ROPEWAY_SIM_CANN` names, whatever was asked for, where that is set.
    ///
    /// # Errors
    /// `cargo xtask sim-cann` failed, and what it said: a compiler may be missing.
    pub fn root(&self) -> Result<PathBuf, String> {
        if let Some(given) = std::env::var_os("ROPEWAY_SIM_CANN").filter(|given| !given.is_empty()) {
            return Ok(given.into());
        }
        let folder = target_folder().join(self.name());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(folder.clone()).or_insert_with(|| self.lay_out(&folder)).clone().map(|()| folder)
    }

    /// One name for each different installation.
    fn name(&self) -> String {
        let mut name =
            format!("{}-{}-{}x{}-{}", self.release, self.chip, self.nodes, self.devices, self.profile);
        for symbol in &self.without {
            let _ = write!(name, "-{symbol}");
        }
        name
    }

    fn lay_out(&self, folder: &Path) -> Result<(), String> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(workspace());
        // Flags of a surrounding run (a sanitizer's, a cross build's) are not for it.
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "LD_PRELOAD"] {
            command.env_remove(variable);
        }
        command.args(["run", "--quiet", "--locked", "--package", "xtask", "--", "sim-cann"]).arg(folder);
        command.args(["--release", self.release, "--chip", self.chip, "--profile", self.profile]);
        command.args(["--nodes", &self.nodes.to_string(), "--devices", &self.devices.to_string()]);
        if !self.without.is_empty() {
            command.args(["--without", &self.without.join(",")]);
        }
        let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("cargo xtask sim-cann: {}\n{}", output.status, String::from_utf8_lossy(&said)))
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn target_folder() -> PathBuf {
    let common = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(common).join("sim-cann")
}
