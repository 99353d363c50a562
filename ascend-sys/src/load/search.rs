//! Where CANN is looked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The variable that, when set, decides alone.
const OURS: &str = "ROPEWAY_CANN_PATH";
/// Variables that CANN's own `set_env.sh` sets.
const THEIRS: &[&str] = &["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
/// Where CANN is installed unless told otherwise.
const USUAL: &str = "/usr/local/Ascend";
/// Below [`USUAL`], before anything else there.
const PREFERRED: &[&str] = &["cann", "ascend-toolkit/latest", "nnae/latest", "latest"];

/// Places to look at, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    places: Vec<Place>,
    loader: bool,
}

/// One place, and what named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) from: &'static str,
    pub(super) root: Option<PathBuf>,
}

impl Search {
    /// `ROPEWAY_CANN_PATH` if it is set, and then nothing else; or else `ASCEND_HOME_PATH`, `ASCEND_TOOLKIT_HOME`, the
    /// installations below `/usr/local/Ascend`, and the dynamic loader's own path, in this order.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from(|name| std::env::var_os(name), Path::new(USUAL))
    }

    /// This folder, and nothing else.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { places: vec![Place { from: "the given folder", root: Some(root.into()) }], loader: false }
    }

    pub(super) fn from(variable: impl Fn(&str) -> Option<OsString>, usual: &Path) -> Self {
        let root = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(ours) = root(OURS) {
            return Self { places: vec![Place { from: OURS, root: Some(ours) }], loader: false };
        }
        let mut places = vec![Place { from: OURS, root: None }];
        places.extend(THEIRS.iter().map(|name| Place { from: name, root: root(name) }));
        let installed = installed(usual);
        if installed.is_empty() {
            places.push(Place { from: "the usual folder", root: Some(usual.to_path_buf()) });
        }
        places.extend(installed.into_iter().map(|root| Place { from: "the usual folder", root: Some(root) }));
        Self { places, loader: true }
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(super) fn asks_the_loader(&self) -> bool {
        self.loader
    }
}

/// Folders below `usual`: those with a name that stands for the current installation, then the others, later names
/// first, so that a higher version comes before a lower one.
fn installed(usual: &Path) -> Vec<PathBuf> {
    let preferred = PREFERRED.iter().map(|name| usual.join(name)).filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = preferred.collect();
    let mut others: Vec<PathBuf> = std::fs::read_dir(usual)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !found.contains(path))
        .collect();
    others.sort_by(|one, other| other.cmp(one));
    found.extend(others);
    found
}
