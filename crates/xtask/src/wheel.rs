//! `cargo xtask wheel`: wheels for the hosts of NPUs, x86-64 and aarch64, that glibc 2.28 and later can load.
//!
//! Rust is linked by zig, which knows the symbols of every glibc. The HIXL shim inside is C++ and must have GNU's standard
//! library, as CANN has, so it is built by GNU's compiler; the check looks at its symbols too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::aarch64::{self, Toolchain};
use crate::python::{PACKAGE, environment};
use crate::step::Step;
use crate::tools;

const FOR_WHEELS: &[&str] = &["auditwheel==6.8.2", "maturin==1.16.0", "ziglang==0.17.1"];
const POLICY: &str = "manylinux_2_28";
const CHECK: &str = "crates/python/tools/check_wheel.py";

/// Which wheels to build.
#[derive(clap::Args)]
pub(crate) struct Wheel {
    /// For which machines; both unless said.
    #[arg(long, value_enum)]
    target: Vec<Machine>,
    /// Looks at the symbols of each wheel, installs it into an empty environment, and exchanges blocks with it: on aarch64
    /// under qemu.
    #[arg(long)]
    check: bool,
    /// Where the wheels go; `wheels` in cargo's target folder unless said.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Machine {
    /// Build hosts, and hosts with x86 processors.
    #[value(name = "x86_64")]
    X86,
    /// Kunpeng hosts.
    #[value(name = "aarch64")]
    Arm,
}

impl Machine {
    fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }
}

/// Builds them, and checks them where that was asked for. True when all is well.
pub(crate) fn run(options: &Wheel) -> bool {
    let machines =
        if options.target.is_empty() { vec![Machine::X86, Machine::Arm] } else { options.target.clone() };
    let mut good = true;
    for machine in machines {
        match make(machine, options) {
            Ok(said) => println!("{}: {said}", machine.name()),
            Err(why) => {
                println!("{}: FAILED: {why}", machine.name());
                good = false;
            }
        }
    }
    good
}

fn make(machine: Machine, options: &Wheel) -> Result<String, String> {
    let python = environment("python-wheels", FOR_WHEELS)?;
    let out = options.out.clone().unwrap_or_else(|| tools::target().join("wheels"));
    let built = build(machine, &python, &out)?;
    if !options.check {
        return Ok(built.display().to_string());
    }
    let looked = Step::program(&python).arg(CHECK).arg(&built).arg(POLICY).quietly()?;
    print!("{looked}");
    let auditwheel = python.with_file_name("auditwheel");
    let audit = Step::program(auditwheel).arg("show").arg(&built).quietly()?;
    let tag = format!("\"{POLICY}_{}\"", machine.name());
    // The text is wrapped at any place.
    if !audit.split_whitespace().collect::<Vec<_>>().join(" ").contains(&format!("platform tag: {tag}")) {
        return Err(format!("auditwheel does not call it {tag}:\n{audit}"));
    }
    let ran = match machine {
        Machine::X86 => try_here(&built)?,
        Machine::Arm => try_emulated(&built)?,
    };
    Ok(format!("{}; symbols checked, {ran}", built.display()))
}

fn build(machine: Machine, python: &Path, out: &Path) -> Result<PathBuf, String> {
    let target = format!("{}-unknown-linux-gnu", machine.name());
    let folder = out.join(machine.name());
    let _ = fs::remove_dir_all(&folder);
    // maturin looks for zig by the interpreter that it finds first.
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = python.parent().unwrap_or(Path::new("")).display().to_string();
    let step = Step::program(python.with_file_name("maturin"))
        .args("build --release --locked --zig --compatibility")
        .args(POLICY)
        .args("--target")
        .arg(&target)
        .arg("--manifest-path")
        .arg(Path::new(PACKAGE).join("Cargo.toml"))
        .arg("--out")
        .arg(&folder);
    let step = match machine {
        Machine::X86 => step.env("ROPEWAY_SHIM_CXX", "g++"),
        Machine::Arm => {
            tools::program("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")?;
            let toolchain = Toolchain::ready()?;
            toolchain.without_linker(step).env("ROPEWAY_SHIM_CXX", "aarch64-linux-gnu-g++")
        }
    };
    step.env("PATH", format!("{bin}:{path}")).quietly()?;
    let wheels = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let wheels = wheels.flatten().map(|entry| entry.path());
    let built = wheels.into_iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
    built.ok_or_else(|| format!("{} has no wheel", folder.display()))
}

/// The package's own example, which exchanges blocks between two engines.
const EXAMPLE: &str = "import doctest, platform, sys, ropeway; result = doctest.testmod(ropeway); \
                       print('ran', result.attempted, 'steps on', platform.machine()); \
                       sys.exit(result.failed or not result.attempted)";

fn try_here(wheel: &Path) -> Result<String, String> {
    if !cfg!(target_arch = "x86_64") {
        return Ok("not run: this is another machine".to_owned());
    }
    let python = environment("python-empty", &[])?;
    let pip = Step::program(&python).args("-m pip install --quiet --no-deps --force-reinstall");
    pip.arg(wheel).quietly()?;
    Step::program(&python).args("-I -c").arg(EXAMPLE).quietly().map(|said| said.trim().to_owned())
}

/// Where Debian's arm64 interpreter cannot be had, its symbols were checked all the same.
fn try_emulated(wheel: &Path) -> Result<String, String> {
    let emulated = match aarch64::python() {
        Ok(emulated) => emulated,
        Err(why) => return Ok(format!("not run, only its symbols were looked at: {why}")),
    };
    let site = tools::target().join("python-aarch64");
    let _ = fs::remove_dir_all(&site);
    let unpack = Step::program("python3").args("-m zipfile -e").arg(wheel).arg(&site);
    unpack.quietly()?;
    let site = fs::canonicalize(&site).map_err(|error| format!("{}: {error}", site.display()))?;
    let ran = emulated.step(&site).arg("-c").arg(EXAMPLE).quietly()?;
    Ok(format!("{} under qemu", ran.trim()))
}
