//! The developer's commands. CI calls the same ones.
#![expect(clippy::print_stdout, reason = "a command's output is its purpose")]

mod aarch64;
mod bench;
mod bindings;
mod counts;
mod e2e;
mod figures;
mod fuzz;
mod go;
mod hardware;
mod lint;
mod python;
mod sim_cann;
mod stage;
mod step;
mod test;
mod tools;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The developer's commands; CI calls the same ones.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every test: units, documentation, loom, simulation, fuzzing, aarch64 under qemu, sanitizer, counts.
    ///
    /// Installs what is missing through apt, pip, rustup and cargo, and says so first. Ends with a table of what ran,
    /// what did not, and why.
    Test(stage::Selection),
    /// Formatting, clippy, documentation with warnings denied, and the supply-chain check.
    Lint(stage::Selection),
    /// Criterion benches; arguments go to `cargo bench`.
    Bench {
        /// What `cargo bench` is given, as in `cargo xtask bench -- --bench plan`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Proves connectors with real vLLM on the CPU, behind proxies and routers; ends with the verdict table.
    ///
    /// Makes environments of some GB in the user's cache, models on the spot. `tests/e2e/README.md` says what is checked.
    E2e(e2e::EndToEnd),
    /// Lays out the software CANN in a folder, as an installation: for ROPEWAY_CANN_PATH, without an NPU.
    SimCann(sim_cann::Layout),
    /// Finds out on NPUs what no document says: conformance, doctor, transfers, experiments, in one report.
    Hardware(hardware::Hardware),
    /// Builds the Python package's wheels for x86-64 and aarch64, glibc 2.28 and later, and checks them.
    Wheel(wheel::Wheel),
    /// Makes the bindings of `ascend-sys` anew from its headers and figures.
    Bindings {
        /// Changes nothing, and fails when the checked-in ones differ.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    // First, since paths among them start where the caller stands.
    let arguments = Arguments::parse();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    if let Err(error) = std::env::set_current_dir(root) {
        println!("cannot enter the workspace at {root}: {error}");
        return ExitCode::FAILURE;
    }
    let good = match arguments.command {
        Command::Test(selection) => stage::run(test::STAGES, &selection),
        Command::Lint(selection) => stage::run(lint::STAGES, &selection),
        Command::Bench { arguments } => bench::run(arguments),
        Command::E2e(options) => e2e::run(&options),
        Command::Hardware(options) => hardware::run(&options),
        Command::SimCann(layout) => sim_cann::run(&layout),
        Command::Wheel(options) => wheel::run(&options),
        Command::Bindings { check } => match bindings::run(check) {
            stage::Outcome::Passed(_) => true,
            stage::Outcome::Failed(_, why) | stage::Outcome::Skipped(why) => {
                println!("{why}");
                false
            }
        },
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
