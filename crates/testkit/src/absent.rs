//! Tests that find no way to run on this machine say so; `cargo xtask test` puts it into its table.

use std::fs::OpenOptions;
use std::io::Write;

/// Notes that `test` cannot run here and why: on stderr, and in the file that `ROPEWAY_ABSENT` names, if it is set.
/// The test returns after it.
///
/// # Panics
/// When the file cannot be written: a test that is left out silently is worse than one that fails.
pub fn cannot_run(test: &str, why: &str) {
    let line = format!("{test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(log) = std::env::var_os("ROPEWAY_ABSENT") else { return };
    let file = OpenOptions::new().append(true).create(true).open(&log);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("cannot note in {} that {test} did not run: {error}", log.display()));
}
