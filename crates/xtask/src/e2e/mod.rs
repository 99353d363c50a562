//! `cargo xtask e2e`: real vLLM on the CPU, through proxies and routers, with a verdict for each connector.
//! What is proven and how stands in `tests/e2e`; here its environments are made, and it is called.

mod venv;

use std::path::PathBuf;

use clap::Args;

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
    for version in harness("versions", options).quietly()?.lines() {
        let python = venv::ready(version)?;
        venv::libraries(&python)?;
        run = run.arg("--python").arg(format!("{version}={}", python.display()));
    }
    run.run().map(drop).map_err(|(_, why)| why)
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
