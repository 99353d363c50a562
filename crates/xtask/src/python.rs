//! The Python package: its tools in an environment of their own, and its tests on a build of the workspace's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::stage::{self, Outcome};
use crate::step::{Counts, Step};
use crate::{sim_cann, tools};

/// Where the package is.
pub(crate) const PACKAGE: &str = "crates/python";

/// What the tests need; numpy as the interpreter allows.
const FOR_TESTS: &[&str] = &["mypy==2.4.1", "numpy", "pytest==9.2.0"];

/// Builds the extension, lays the package out beside it, and runs its tests.
pub(crate) fn test() -> Outcome {
    let python = match environment("python-tests", FOR_TESTS) {
        Ok(python) => python,
        Err(why) => return Outcome::Failed(Counts::default(), why),
    };
    if let Err((counts, why)) = Step::cargo("build --locked -p ropeway-python").run() {
        return Outcome::Failed(counts, why);
    }
    let site = match site() {
        Ok(site) => site,
        Err(error) => return Outcome::Failed(Counts::default(), format!("the package's folder: {error}")),
    };
    let tests = Step::program(python).args("-m pytest -p no:cacheprovider").arg(PACKAGE);
    let tests = match sim_cann::for_tests() {
        Ok(cann) => tests.env("ROPEWAY_SIM_CANN", cann),
        Err(why) => {
            stage::note_absence(&format!("the Python tests on NPUs: no software CANN: {why}"));
            tests
        }
    };
    match tests.env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1").run() {
        Ok(counts) if counts.passed == 0 => Outcome::Failed(counts, "no test ran".to_owned()),
        other => other.into(),
    }
}

/// A folder with the package as it is imported: the Python files, and the extension from the debug build.
fn site() -> std::io::Result<PathBuf> {
    let target = fs::canonicalize(tools::target())?;
    let site = target.join("python");
    let package = site.join("ropeway");
    if package.exists() {
        fs::remove_dir_all(&package)?;
    }
    copy_folder(&Path::new(PACKAGE).join("python/ropeway"), &package)?;
    fs::copy(target.join("debug/lib_ropeway.so"), package.join("_ropeway.abi3.so"))?;
    Ok(site)
}

fn copy_folder(from: &Path, into: &Path) -> std::io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The interpreter of an environment in the user's cache that has these packages: kept from an earlier call, or made now.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = tools::cache().join(name);
    let python = folder.join("bin/python");
    let stamp = folder.join("packages");
    let wanted = packages.join("\n");
    let whole = || fs::read_to_string(&stamp).is_ok_and(|had| had == wanted);
    if whole() && Step::program(&python).args("-c pass").quietly().is_ok() {
        return Ok(python);
    }
    println!("installing through pip: {} into {}", packages.join(" "), folder.display());
    tools::program("python3", "python3 python3-venv")?;
    let fresh = || {
        let _ = fs::remove_dir_all(&folder);
        Step::program("python3").args("-m venv").arg(&folder).quietly()
    };
    // Debian has `venv` in a package of its own.
    fresh().or_else(|_| tools::apt("python3-venv").and_then(|()| fresh()))?;
    let install = Step::program(&python).args("-m pip install --quiet");
    if !packages.is_empty() {
        packages.iter().fold(install, |step, package| step.arg(package)).quietly()?;
    }
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}
