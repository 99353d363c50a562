//! Instruction counts: what a plan, a run and a request cost, independent of what else the machine does.

use crate::stage::Outcome;
use crate::step::{Counts, Step};
use crate::tools;

const WORKLOADS: &[&str] = &["plan", "runs", "request"];

/// Counts each workload of `ropeway-bench`'s `instructions` program. Prints figures and judges none: what is too many is for
/// the reader of `docs/BENCHMARKING.md`.
pub(crate) fn run() -> Outcome {
    if let Err(why) = tools::program("valgrind", "valgrind") {
        return Outcome::Skipped(why);
    }
    let build = Step::cargo("build --locked --release -p ropeway-bench --bin instructions");
    if let Err((counts, why)) = build.run() {
        return Outcome::Failed(counts, why);
    }
    for workload in WORKLOADS {
        match count(workload) {
            Ok(line) => println!("{line}"),
            Err(why) => return Outcome::Failed(Counts::default(), why),
        }
    }
    Outcome::Passed(Counts::default())
}

fn count(workload: &str) -> Result<String, String> {
    let program = tools::target().join("release/instructions");
    let counted = tools::target().join(format!("instructions.{workload}"));
    let valgrind = Step::program("valgrind")
        .args("--quiet --tool=callgrind --toggle-collect=*measured_*")
        .arg(format!("--callgrind-out-file={}", counted.display()));
    let said = valgrind.arg(program).arg(workload).quietly()?;
    let (units, unit) = said.trim().split_once(' ').ok_or_else(|| format!("{workload} printed {said:?}"))?;
    let units: f64 = units.parse().map_err(|_| format!("{workload} printed {said:?}"))?;
    let report =
        std::fs::read_to_string(&counted).map_err(|error| format!("{}: {error}", counted.display()))?;
    let total = report.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
    let total = total
        .filter(|total| *total > 0.0)
        .ok_or_else(|| format!("callgrind counted nothing in {workload}"))?;
    Ok(format!("{:>8.1} instructions per {unit} ({units} of them)", total / units))
}
