//! `cargo xtask e2e`: real vLLM on the CPU, through proxies and routers, with a verdict for each connector.
//! What is proven and how stands in `tests/e2e`; here its environments are made, and it is called.

mod venv;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;

use crate::python;
use crate::sim_cann;
use crate::stage::Outcome;
use crate::step::Step;
use crate::tools;

#[derive(Args)]
pub(crate) struct EndToEnd {
    /// Every scenario, also those that take longer than a CI has.
    #[arg(long)]
    all: bool,
    /// Only these scenarios, by name.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Names the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// Where the verdict and the logs of failed scenarios go.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    out: Option<PathBuf>,
}

/// Paths start where the caller stands.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Whether every scenario ended as it must.
pub(crate) fn run(options: &EndToEnd) -> bool {
    match prove(options) {
        Ok(()) => true,
        Err(why) => {
            println!("{why}");
            false
        }
    }
}

fn prove(options: &EndToEnd) -> Result<(), String> {
    if options.list {
        return harness("list", options).run().map(drop).map_err(|(_, why)| why);
    }
    let out = options.out.clone().unwrap_or_else(|| tools::target().join("e2e"));
    let mut run = harness("run", options).arg("--cache").arg(venv::folder()).arg("--out").arg(out);
    let needs = harness("needs", options).quietly()?;
    let (versions, others): (Vec<&str>, Vec<&str>) =
        needs.lines().partition(|need| need.starts_with(VERSION));
    // pip waits for its downloads and unpacks on one core; cargo has the others meanwhile.
    let (pythons, built) = thread::scope(|scope| {
        let making: Vec<_> = versions.iter().map(|need| scope.spawn(|| environment(need))).collect();
        let built: Result<Vec<_>, String> = others.iter().map(|need| build(need)).collect();
        let ended = making.into_iter().map(|thread| thread.join().expect("it does not panic"));
        (ended.collect::<Result<Vec<_>, String>>(), built)
    });
    for (option, value) in pythons?.into_iter().chain(built?) {
        run = run.arg(option).arg(value);
    }
    run.run().map(drop).map_err(|(_, why)| why)
}

/// How the harness asks for a version of vLLM.
const VERSION: &str = "vllm ";

/// An environment with the version of vLLM that a scenario needs, as an option of the harness.
fn environment(need: &str) -> Result<(&'static str, OsString), String> {
    let version = need.strip_prefix(VERSION).unwrap_or(need);
    let python = venv::ready(version)?;
    venv::libraries(&python)?;
    Ok(("--python", format!("{version}={}", python.display()).into()))
}

/// Something else that a scenario needs, built from this tree.
fn build(need: &str) -> Result<(&'static str, OsString), String> {
    Ok(match need {
        "cann" => ("--cann", sim_cann::for_tests()?.into()),
        _ => ("--ropeway", package()?.into()),
    })
}

/// A folder with Ropeway's Python package as a user has it: a wheel of this tree, optimised, unpacked by pip.
fn package() -> Result<PathBuf, String> {
    let target = fs::canonicalize(tools::target()).map_err(|error| format!("the target folder: {error}"))?;
    let (wheels, site) = (target.join("e2e-wheel"), target.join("e2e-package"));
    let python = python::environment("python-maturin", &["maturin==1.16.0"])?;
    for folder in [&wheels, &site] {
        let _ = fs::remove_dir_all(folder);
    }
    // For this machine alone; `cargo xtask wheel` makes those for others.
    let build = Step::program(python.with_file_name("maturin"))
        .args("build --release --locked --compatibility linux --manifest-path")
        .arg(Path::new(python::PACKAGE).join("Cargo.toml"))
        .arg("--out")
        .arg(&wheels);
    println!("building Ropeway's wheel into {}", wheels.display());
    build.quietly()?;
    let built = fs::read_dir(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
    let built: Vec<PathBuf> = built.flatten().map(|entry| entry.path()).collect();
    let [wheel] = built.as_slice() else {
        return Err(format!("{} has {} wheels, not one", wheels.display(), built.len()));
    };
    let pip = Step::program(python).args("-m pip install --quiet --no-deps --target").arg(&site);
    pip.arg(wheel).quietly()?;
    Ok(site)
}

/// The Python half, by the interpreter of the system: it needs the standard library only.
fn harness(command: &str, options: &EndToEnd) -> Step {
    let mut step =
        Step::program("python3").args("-m ropeway_e2e").arg(command).env("PYTHONPATH", "tests/e2e");
    if options.all || options.list && options.only.is_empty() {
        step = step.arg("--all");
    }
    options.only.iter().fold(step, |step, name| step.arg("--only").arg(name))
}

/// A stage of `cargo xtask test`: the harness itself, held against fakes that must fail each of its checks.
pub(crate) fn harness_tests() -> Outcome {
    match venv::ready("harness") {
        Ok(python) => Step::program(python)
            .args("-m pytest -p no:cacheprovider tests/e2e/tests")
            .env("PYTHONPATH", "tests/e2e")
            .run()
            .into(),
        Err(why) => Outcome::Skipped(why),
    }
}
