//! What the stages need beyond the toolchain: looked for first, installed when missing, and said before it is.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::step::Step;

const CARGO_DENY: &str = "0.20.2";
const BINDGEN: &str = "0.72.1";
const LIBCLANG: &str = "18.1.1";

/// Makes sure that `program` can be run; else installs Debian's `packages`.
pub(crate) fn program(program: &str, packages: &str) -> Result<(), String> {
    if found(program) {
        return Ok(());
    }
    apt(packages)?;
    if found(program) {
        Ok(())
    } else {
        Err(format!("`{program}` is missing although {packages} is installed"))
    }
}

/// The `cargo-deny` binary: one that is installed, one from an earlier call, or built now (about a minute).
pub(crate) fn cargo_deny() -> Result<PathBuf, String> {
    if found("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    cargo_install("cargo-deny", "cargo-deny", CARGO_DENY)
}

/// The bindgen of one version, so that the same headers give the same text everywhere: kept, or built now.
pub(crate) fn bindgen() -> Result<PathBuf, String> {
    cargo_install("bindgen-cli", "bindgen", BINDGEN)
}

/// The folder of a libclang of one version: kept from an earlier call, or the one that PyPI has.
pub(crate) fn libclang() -> Result<PathBuf, String> {
    let folder = cache().join(format!("libclang-{LIBCLANG}"));
    let inside = folder.join("clang/native");
    if inside.join("libclang.so").is_file() {
        return Ok(inside);
    }
    println!("installing through pip: libclang {LIBCLANG} into {}", folder.display());
    Step::program("python3")
        .args("-m pip install --quiet --no-deps --target")
        .arg(&folder)
        .arg(format!("libclang=={LIBCLANG}"))
        .quietly()?;
    if inside.join("libclang.so").is_file() {
        Ok(inside)
    } else {
        Err(format!("{} has no libclang.so", inside.display()))
    }
}

/// The program of a crate: one from an earlier call, or built now (about a minute).
fn cargo_install(package: &str, program: &str, version: &str) -> Result<PathBuf, String> {
    let folder = cache().join(format!("{package}-{version}"));
    let binary = folder.join("bin").join(program);
    if binary.is_file() {
        return Ok(binary);
    }
    println!("installing through cargo: {package} {version} into {}", folder.display());
    let build = Step::cargo("install --quiet --locked")
        .arg(package)
        .arg("--version")
        .arg(version)
        .arg("--root")
        .arg(&folder);
    // It runs for a second: a quick build is worth more than a quick program.
    let build = build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    build.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16").run().map_err(|(_, why)| why)?;
    Ok(binary)
}

/// Installs Debian's `packages`, as root or through sudo without a question.
pub(crate) fn apt(packages: &str) -> Result<(), String> {
    if !found("apt-get") {
        return Err(format!("{packages} is not installed, and there is no apt-get to install it with"));
    }
    // One at a time: the second of two would find apt locked.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    println!("installing through apt: {packages}");
    let root = Step::program("id").arg("-u").quietly().is_ok_and(|id| id.trim() == "0");
    let apt = |arguments: &str| {
        let program = if root {
            Step::program("apt-get")
        } else {
            Step::program("sudo").args("--non-interactive apt-get")
        };
        program.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").quietly()
    };
    let install = format!("install --quiet --yes --no-remove --no-install-recommends {packages}");
    // The lists may be missing or old: fetch them only when the first try failed.
    apt(&install).or_else(|_| apt("update --quiet").and_then(|_| apt(&install))).map(drop)
}

/// Whether `program` is in the PATH.
fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

/// What is worth keeping between clones: it saves time, and nothing depends on it.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("ropeway")
}
