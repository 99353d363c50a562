//! `cargo xtask bench`: the criterion benches.

use crate::step::Step;

/// Runs `cargo bench` with `arguments`, or all benches of the workspace.
pub(crate) fn run(arguments: Vec<String>) -> bool {
    let step = if arguments.is_empty() {
        Step::cargo("bench --workspace --benches")
    } else {
        arguments.iter().fold(Step::cargo("bench"), Step::arg)
    };
    match step.run() {
        Ok(_) => true,
        Err((_, why)) => {
            println!("{why}");
            false
        }
    }
}
