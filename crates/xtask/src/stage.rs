//! Stages: what a command is made of. Every stage ends in the table, run or not.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::step::Counts;

/// One kind of check.
pub(crate) struct Stage {
    /// What `--only` and the table call it.
    pub(crate) name: &'static str,
    /// What it is for, in half a line.
    pub(crate) about: &'static str,
    /// Runs it.
    pub(crate) run: fn() -> Outcome,
}

/// How a stage ended.
pub(crate) enum Outcome {
    /// It ran and found nothing.
    Passed(Counts),
    /// It ran and found something, or could not be started.
    Failed(Counts, String),
    /// It cannot run here; why.
    Skipped(String),
}

/// Which stages of a command to run.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Only these stages, by name.
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    only: Vec<String>,
    /// All but these stages.
    #[arg(long, value_delimiter = ',', value_name = "STAGE")]
    without: Vec<String>,
    /// Names the stages and ends.
    #[arg(long)]
    list: bool,
}

impl Selection {
    fn chooses(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|other| other == name);
        !named(&self.without) && (self.only.is_empty() || named(&self.only))
    }
}

struct Row {
    stage: &'static Stage,
    outcome: Outcome,
    took: Duration,
    absent: Vec<String>,
}

/// Runs the selected stages, all of them even when one fails, and prints the table. True when none failed.
pub(crate) fn run(stages: &'static [Stage], selection: &Selection) -> bool {
    if selection.list {
        for stage in stages {
            println!("{:<10} {}", stage.name, stage.about);
        }
        return true;
    }
    let unknown = |name: &&String| stages.iter().all(|stage| stage.name != name.as_str());
    if let Some(name) = selection.only.iter().chain(&selection.without).find(unknown) {
        println!("there is no stage `{name}`; --list names them");
        return false;
    }
    let (chosen, others): (Vec<_>, Vec<_>) = stages.iter().partition(|stage| selection.chooses(stage.name));
    let rows: Vec<Row> = chosen.into_iter().map(run_one).collect();
    let good = print_table(&rows);
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|stage| stage.name).collect();
        println!("not selected: {}", names.join(", "));
    }
    good
}

fn run_one(stage: &'static Stage) -> Row {
    println!("\n== {}: {}", stage.name, stage.about);
    let log = absences_path();
    let _ = fs::remove_file(&log);
    let start = Instant::now();
    let outcome = (stage.run)();
    let took = start.elapsed();
    // Tests that found no way to run on this machine have left a line each; see `ropeway_testkit::cannot_run`.
    let absent = fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
    let _ = fs::remove_file(&log);
    Row { stage, outcome, took, absent }
}

/// Where tests note that they could not run here. Steps pass it on as `ROPEWAY_ABSENT`.
pub(crate) fn absences_path() -> PathBuf {
    std::env::temp_dir().join(format!("ropeway-absent-{}", std::process::id()))
}

/// Notes what a stage itself leaves out here, and why, as tests do.
pub(crate) fn note_absence(line: &str) {
    let file = fs::OpenOptions::new().append(true).create(true).open(absences_path());
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        println!("{line} (and that could not be noted: {error})");
    }
}

fn print_table(rows: &[Row]) -> bool {
    println!("\n{:<10} {:<8} {:>7} {:>6}  note", "stage", "result", "tests", "s");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for row in rows {
        let (word, counts, note) = match &row.outcome {
            Outcome::Passed(counts) => ("passed", *counts, String::new()),
            Outcome::Failed(counts, why) => ("FAILED", *counts, why.clone()),
            Outcome::Skipped(why) => ("skipped", Counts::default(), why.clone()),
        };
        passed += counts.passed;
        failed += counts.failed + u64::from(word == "FAILED" && counts.failed == 0);
        skipped += counts.ignored + row.absent.len() as u64 + u64::from(word == "skipped");
        let tests =
            if counts.passed + counts.failed == 0 { "-".to_owned() } else { counts.passed.to_string() };
        println!("{:<10} {:<8} {:>7} {:>6}  {}", row.stage.name, word, tests, row.took.as_secs(), note);
        for line in &row.absent {
            println!("{:<10} {:<8} {:>7} {:>6}  {line}", "", "skipped", "", "");
        }
    }
    // Checks are not tests: a count of none would read as if nothing had run.
    if passed + failed > 0 {
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    }
    rows.iter().all(|row| !matches!(row.outcome, Outcome::Failed(..)))
}

impl From<Result<Counts, (Counts, String)>> for Outcome {
    fn from(result: Result<Counts, (Counts, String)>) -> Self {
        match result {
            Ok(counts) => Self::Passed(counts),
            Err((counts, why)) => Self::Failed(counts, why),
        }
    }
}
