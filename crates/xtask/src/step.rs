//! One command that a stage runs: its output is passed on, its test results are counted.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::stage::absences_path;

/// Test results, as the closing lines of libtest and pytest tell them, and Go for each test.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// What a step gives: what it counted, and why it failed if it did.
pub(crate) type Result = std::result::Result<Counts, (Counts, String)>;

/// A command line with its environment.
pub(crate) struct Step(Command);

impl Step {
    /// A program by its name or path.
    pub(crate) fn program(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env("ROPEWAY_ABSENT", absences_path());
        Self(command)
    }

    /// The cargo that runs us, with `arguments` as in [`Self::args`].
    pub(crate) fn cargo(arguments: &str) -> Self {
        Self::program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(arguments)
    }

    /// Arguments, split at spaces.
    pub(crate) fn args(mut self, arguments: &str) -> Self {
        self.0.args(arguments.split_whitespace());
        self
    }

    /// One argument as it is.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    /// One variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// The folder it runs in.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Runs it in the open, but for its stderr, which goes to `log` and is shown only when it fails.
    pub(crate) fn run_logged(mut self, log: &Path) -> Result {
        let file = std::fs::File::create(log)
            .map_err(|error| (Counts::default(), format!("{}: {error}", log.display())))?;
        self.0.stderr(file);
        self.run().inspect_err(|_| println!("{}", std::fs::read_to_string(log).unwrap_or_default()))
    }

    /// Runs it unseen, and gives what it printed to stdout, or the last line that it printed to stderr.
    pub(crate) fn quietly(mut self) -> std::result::Result<String, String> {
        let output = self.0.output().map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
        Err(format!("`{}` ended with {} and said: {}", self.line(), output.status, last.trim()))
    }

    /// Runs it in the open: prints the command line, passes its output on and counts test results in it.
    pub(crate) fn run(mut self) -> Result {
        println!("$ {}", self.line());
        let mut counts = Counts::default();
        let mut child =
            self.0.stdout(Stdio::piped()).spawn().map_err(|error| (counts, self.cannot_start(&error)))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                counts.add_line(&line);
            }
        }
        let status = child.wait().map_err(|error| (counts, self.cannot_start(&error)))?;
        if status.success() { Ok(counts) } else { Err((counts, format!("`{}`: {status}", self.line()))) }
    }

    fn line(&self) -> String {
        let variables = self.0.get_envs().filter(|(name, _)| *name != "ROPEWAY_ABSENT");
        let mut words: Vec<String> = variables
            .filter_map(|(name, value)| Some(format!("{}={:?}", name.display(), value?.to_string_lossy())))
            .collect();
        let program = Path::new(self.0.get_program());
        words.push(program.file_name().unwrap_or_default().display().to_string());
        words.extend(self.0.get_args().map(|argument| argument.display().to_string()));
        words.join(" ")
    }

    fn cannot_start(&self, error: &std::io::Error) -> String {
        format!("cannot run `{}`: {error}", self.line())
    }
}

impl Counts {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }

    fn add_line(&mut self, line: &str) {
        // Go has no closing line. Subtests are indented and not counted; what is skipped says so itself.
        self.passed += u64::from(line.starts_with("--- PASS: "));
        self.failed += u64::from(line.starts_with("--- FAIL: "));
        // pytest frames its closing line: `==== 2 failed, 5 passed in 0.12s ====`.
        let framed = line.strip_prefix("==").filter(|rest| rest.ends_with("==") && rest.contains(" in "));
        let Some(results) = line.strip_prefix("test result: ").or(framed.map(|rest| rest.trim_matches('=')))
        else {
            return;
        };
        for part in results.split(['.', ';', ',']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(word)) =
                (words.next().and_then(|word| word.parse::<u64>().ok()), words.next())
            else {
                continue;
            };
            match word {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" | "skipped" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs `steps` one after the other, also after one that failed; the first failure is the reason given.
pub(crate) fn run_all(steps: impl IntoIterator<Item = Step>) -> Result {
    all(steps.into_iter().map(Step::run))
}

/// The results of all steps together; the first failure is the reason given.
pub(crate) fn all(results: impl Iterator<Item = Result>) -> Result {
    let mut all = Counts::default();
    let mut first = None;
    for result in results {
        match result {
            Ok(counts) => all = all.plus(counts),
            Err((counts, why)) => {
                all = all.plus(counts);
                first.get_or_insert(why);
            }
        }
    }
    match first {
        None => Ok(all),
        Some(why) => Err((all, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_libtest_pytest_and_go_are_counted_and_others_are_not() {
        let mut counts = Counts::default();
        counts.add_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        counts.add_line(
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        counts.add_line("99 passed; 99 failed");
        counts.add_line("==== test session starts ====");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (14, 5, 1));
        counts.add_line("============ 2 failed, 30 passed, 1 skipped in 0.52s ============");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (44, 7, 2));
        for line in ["=== RUN   TestA", "--- PASS: TestA (0.00s)", "    --- PASS: TestA/b (0.00s)", "PASS"] {
            counts.add_line(line);
        }
        counts.add_line("--- FAIL: TestB (0.01s)");
        counts.add_line("--- SKIP: TestC (0.00s)");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (45, 8, 2));
    }

    #[test]
    fn a_failed_step_is_told_and_those_after_it_run() {
        let result = run_all([
            Step::program("false"),
            Step::program("echo").args("test result: ok. 3 passed; 0 failed"),
        ]);
        let (counts, why) = result.err().expect("the first step fails");
        assert_eq!(counts.passed, 3);
        assert!(why.contains("false"), "{why}");
    }

    #[test]
    fn a_program_that_is_not_there_is_a_failure_that_names_it() {
        let (_, why) = Step::program("no-such-program-here").run().err().expect("it cannot start");
        assert!(why.contains("no-such-program-here"), "{why}");
    }
}
