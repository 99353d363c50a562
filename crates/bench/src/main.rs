//! Moves the KV cache of real prompts between processes, checks every byte, and prints how fast and how near the
//! machine's limit it was.
#![expect(
    dead_code,
    reason = "the commands that move bytes through the engine come with the engine"
)]

mod cli;
mod limits;
mod model;
mod output;
mod pattern;
mod pool;
mod reference;
mod replay;
mod stats;
mod usage;
mod workload;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Limits(options) => limits::run(&options).map_err(|error| error.to_string()),
        other => Err(format!("{other:?} needs the engine")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            output::complain(&message);
            ExitCode::FAILURE
        }
    }
}
