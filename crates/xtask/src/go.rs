//! The Go half: a router that carries requests as Kthena's does, and the checks of its example manifests.

use std::path::Path;

use crate::stage::Outcome;
use crate::step::{Counts, Step, run_all};

/// Where the module is.
const MODULE: &str = "tests/kthena";

/// Formatting, vet and tests, with the Go that is there: neither a toolchain nor a module is worth a failure where none
/// can be had.
pub(crate) fn test() -> Outcome {
    if let Err(why) = go("version").quietly() {
        return Outcome::Skipped(format!("no Go: {why}"));
    }
    if let Err(why) = go("mod download").quietly() {
        return Outcome::Skipped(format!("its modules cannot be fetched: {why}"));
    }
    match Step::program("gofmt").args("-l .").within(Path::new(MODULE)).quietly() {
        Ok(files) if files.trim().is_empty() => {}
        Ok(files) => {
            return Outcome::Failed(Counts::default(), format!("gofmt would change {}", files.trim()));
        }
        Err(why) => return Outcome::Failed(Counts::default(), why),
    }
    match run_all([go("vet ./..."), go("test -v -timeout 300s ./...")]) {
        Ok(counts) if counts.passed == 0 => Outcome::Failed(counts, "no test ran".to_owned()),
        other => other.into(),
    }
}

fn go(arguments: &str) -> Step {
    // Any other version of Go than the one installed would be fetched.
    Step::program("go").args(arguments).within(Path::new(MODULE)).env("GOTOOLCHAIN", "local")
}
