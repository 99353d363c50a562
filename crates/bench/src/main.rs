//! Moves the KV cache of real prompts between processes, checks every byte, and prints how fast and how near the
//! machine's limit it was.
#![expect(dead_code, reason = "the commands that move bytes through the engine come with the engine")]

mod cli;
mod control;
mod doctor;
mod duel;
mod engine;
mod experiment;
mod far;
mod hardware;
mod limits;
mod model;
mod output;
mod pattern;
mod pd;
mod pool;
mod predict;
mod producer;
mod reference;
mod replay;
mod run;
mod serve;
mod stats;
mod targets;
mod usage;
mod work;
mod workload;

use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

use cli::{Auth, Cli, Command};

/// Why a command ends with a failure, in words.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let result: Result<ExitCode, Failure> = match Cli::parse().command {
        Command::Pd(options) => done(pd::run(&options)),
        Command::Serve(options) => done(serve::run(&options)),
        Command::Replay(options) => done(replay::run(&options)),
        Command::Limits(options) => done(limits::run(&options).map_err(Failure::from)),
        Command::Run(options) => done(run::run(&options)),
        Command::Model(options) => done(predict::run(&options)),
        Command::Doctor(options) => doctor::run(&options),
        Command::Targets(options) => done(targets::run(&options)),
        Command::Hardware(options) => hardware::run(&options),
        Command::Experiment(options) => done(experiment::run(&options)),
        Command::ExperimentTarget(options) => done(experiment::serve(&options)),
        Command::Producer(options) => done(produce(&options)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            output::complain(failure);
            ExitCode::FAILURE
        }
    }
}

fn done(result: Result<(), Failure>) -> Result<ExitCode, Failure> {
    result.map(|()| ExitCode::SUCCESS)
}

/// The other end of `Far::spawn`.
fn produce(options: &cli::Producer) -> Result<(), Failure> {
    // The parent may have died before the kernel was told to end us with it.
    if std::os::unix::process::parent_id() as i32 != options.parent {
        return Err("the process that started this one is gone".into());
    }
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let engine = engine::open(&options.engine, Some(listen), &Auth::default())?;
    let mut producer = producer::Producer::new(engine.clone());
    producer.converse(BufReader::new(io::stdin()), io::stdout())?;
    drop(producer);
    engine.close(std::time::Duration::from_secs(5))?;
    Ok(())
}
