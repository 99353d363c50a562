//! A short run of every fuzz target: finds what random input finds at once. Long runs are `cargo fuzz run TARGET`.

use std::path::Path;

use crate::stage::Outcome;
use crate::step::{self, Counts, Step};
use crate::tools;

const SECONDS: u32 = 10;

/// What `cargo fuzz` sets, so that neither it nor a nightly toolchain is needed.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds all targets and runs each for some seconds.
pub(crate) fn run() -> Outcome {
    // libFuzzer is C++.
    if let Err(why) = tools::program("c++", "g++") {
        return Outcome::Skipped(why);
    }
    let build = Step::cargo("build --locked --release --bins --manifest-path fuzz/Cargo.toml")
        .args("--target x86_64-unknown-linux-gnu --target-dir target/fuzz")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS);
    if let Err((counts, why)) = build.run() {
        return Outcome::Failed(counts, why);
    }
    let targets = match targets() {
        Ok(targets) => targets,
        Err(why) => return Outcome::Failed(Counts::default(), why),
    };
    // One takes one core.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut results = Vec::new();
    for some in targets.chunks(cores) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|target| scope.spawn(|| smoke(target))).collect();
            results.extend(running.into_iter().map(|thread| thread.join().expect("a step does not panic")));
        });
    }
    step::all(results.into_iter()).into()
}

fn smoke(target: &str) -> step::Result {
    let folder = Path::new("target/fuzz");
    Step::program(folder.join("x86_64-unknown-linux-gnu/release").join(target))
        .arg(format!("-max_total_time={SECONDS}"))
        .args("-timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=target/fuzz/")
        .run_logged(&folder.join(format!("{target}.log")))
        .map(|_| Counts { passed: 1, ..Counts::default() })
        .map_err(|(_, why)| (Counts { failed: 1, ..Counts::default() }, why))
}

fn targets() -> Result<Vec<String>, String> {
    let folder = "fuzz/fuzz_targets";
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    let names = entries.flatten().filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    if names.is_empty() { Err(format!("{folder} has no targets")) } else { Ok(names) }
}
