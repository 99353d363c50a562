//! Whether a laid-out folder is still what it would become: one file in it holds what it was made from.

use std::fs::{self, File};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Layout, put};

/// What the layout is made from, beside the arguments and the simulator's library.
const INPUTS: &[&str] = &["crates/ascend-sim/cxx", "crates/ascend-sim/symbols", "ascend-sys/shim"];

const KEY: &str = ".made-from";

/// Holds off other runs on this folder until it is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, String> {
    let path = dir.join(".lock");
    let name = |error| format!("{}: {error}", path.display());
    let file = File::create(&path).map_err(name)?;
    file.lock().map_err(name)?;
    Ok(file)
}

/// Arguments, and size and time of every input.
pub(super) fn key(layout: &Layout, simulator: &Path) -> Result<String, String> {
    let mut key = format!("{layout:?}\n");
    let program = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    for path in [simulator, &program] {
        key.push_str(&facts(path)?);
    }
    for folder in INPUTS {
        let name = |error| format!("{folder}: {error}");
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(name)? {
            files.push(entry.map_err(name)?.path());
        }
        files.sort();
        for file in files {
            key.push_str(&facts(&file)?);
        }
    }
    Ok(key)
}

fn facts(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let changed =
        about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{} {} {}\n", path.display(), about.len(), changed.as_nanos()))
}

pub(super) fn is(dir: &Path, key: &str) -> bool {
    fs::read_to_string(dir.join(KEY)).is_ok_and(|made_from| made_from == key)
}

/// A run that is cut short from here on is begun anew by the next.
pub(super) fn forget(dir: &Path) -> Result<(), String> {
    put(&dir.join(KEY), "")
}

pub(super) fn remember(dir: &Path, key: &str) -> Result<(), String> {
    put(&dir.join(KEY), key)
}
