//! `cargo xtask hardware`: what an owner of NPUs runs for us; docs/HARDWARE.md says what for.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use crate::step::Step;

/// The facts of all device transports, one at a time: there are but two devices.
const CONFORMANCE: &str =
    "test --locked --no-fail-fast --package ropeway-ascend --test conformance -- --test-threads 1";

#[derive(Args)]
pub(crate) struct Hardware {
    /// The report to write.
    #[arg(long, value_name = "FILE", default_value = "ropeway-hardware.json", value_parser = absolute)]
    report: PathBuf,
    /// Two NPUs of this host that nothing else uses.
    #[arg(long, value_name = "ID,ID", default_value = "0,1")]
    devices: String,
    /// CANN's folder; by default where the engine looks for it.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    cann: Option<PathBuf>,
    /// Seconds instead of minutes.
    #[arg(long)]
    quick: bool,
    /// Leave the conformance suite out.
    #[arg(long)]
    no_conformance: bool,
}

/// Paths start where the caller stands.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Whether all of it went well. The report is written in either case.
pub(crate) fn run(options: &Hardware) -> bool {
    let kept = options.report.with_extension("conformance.txt");
    let conforms = options.no_conformance || conformance(options, &kept);
    let mut bench = Step::cargo("run --release --locked --quiet --package ropeway-bench -- hardware")
        .args("--devices")
        .arg(&options.devices)
        .arg("--report")
        .arg(&options.report);
    if let Some(cann) = &options.cann {
        bench = bench.arg("--cann").arg(cann);
    }
    if options.quick {
        bench = bench.arg("--quick");
    }
    if !options.no_conformance {
        bench = bench.arg("--conformance").arg(&kept);
    }
    let found = bench.run();
    if let Err((_, why)) = &found {
        println!("{why}");
    }
    // It is in the report.
    let _ = std::fs::remove_file(kept);
    conforms && found.is_ok()
}

/// Runs the suite on the devices, and keeps what it says.
fn conformance(options: &Hardware, kept: &std::path::Path) -> bool {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(CONFORMANCE.split_whitespace()).env("ROPEWAY_CONFORMANCE_DEVICES", &options.devices);
    if let Some(cann) = &options.cann {
        command.env("ROPEWAY_CANN_PATH", cann);
    }
    println!("$ ROPEWAY_CONFORMANCE_DEVICES={} cargo {CONFORMANCE}", options.devices);
    let output = command.stderr(Stdio::inherit()).output();
    let (text, good) = match &output {
        Ok(output) => (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success()),
        Err(error) => (format!("cargo cannot be run: {error}"), false),
    };
    println!("{text}");
    if let Err(error) = std::fs::write(kept, text) {
        println!("{}: {error}", kept.display());
        return false;
    }
    good
}
