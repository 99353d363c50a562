//! `cargo xtask test`: every test there is.

use crate::stage::{Outcome, Stage};
use crate::step::{self, Step, run_all};
use crate::tools;

/// The stages of `cargo xtask test`; `docs/TESTING.md` says what each is for.
pub(crate) const STAGES: &[Stage] = &[
    Stage { name: "units", about: "unit, property, conformance and whole-system tests", run: units },
    Stage { name: "doctests", about: "the examples in the documentation", run: doctests },
    Stage {
        name: "loom",
        about: "every interleaving of batch state, fence cells and chunk claims",
        run: loom,
    },
    Stage { name: "asan", about: "transport and multi-process tests under the address sanitizer", run: asan },
    Stage { name: "aarch64", about: "core, copy, fence and tcp tests for aarch64, under qemu", run: aarch64 },
];

/// A filter that matches nothing must not pass for a test that passed.
fn some_tests(result: step::Result) -> Outcome {
    match result {
        Ok(counts) if counts.passed == 0 => Outcome::Failed(counts, "no test ran".to_owned()),
        other => other.into(),
    }
}

fn units() -> Outcome {
    some_tests(Step::cargo("test --locked --no-fail-fast --workspace --lib --bins --tests --examples").run())
}

fn doctests() -> Outcome {
    some_tests(Step::cargo("test --locked --no-fail-fast --workspace --doc").run())
}

fn loom() -> Outcome {
    // Its own target folder: the cfg would rebuild everything else in the common one.
    let step =
        Step::cargo("test --locked --release -p ropeway-transport --lib --target-dir target/loom loom")
            .env("RUSTFLAGS", "--cfg loom")
            .env("LOOM_MAX_PREEMPTIONS", "3");
    some_tests(step.run())
}

fn asan() -> Outcome {
    // The sanitizer is an unstable flag of the stable compiler; with --target it is not applied to build scripts.
    let step = Step::cargo("test --locked --no-fail-fast --lib --tests -p ropeway-transport -p ropeway")
        .args("--target x86_64-unknown-linux-gnu --target-dir target/asan")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("PROPTEST_CASES", "32");
    some_tests(step.run())
}

fn aarch64() -> Outcome {
    let ready = tools::rust_target(tools::AARCH64)
        .and_then(|()| tools::program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"))
        .and_then(|()| tools::program("qemu-aarch64-static", "qemu-user-static"));
    if let Err(why) = ready {
        return Outcome::Skipped(why);
    }
    let test = |arguments: &str| {
        Step::cargo("test --locked --no-fail-fast --lib --target")
            .arg(tools::AARCH64)
            .args(arguments)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "qemu-aarch64-static -L /usr/aarch64-linux-gnu",
            )
            .env("PROPTEST_CASES", "32")
    };
    run_all([test("-p ropeway-core"), test("-p ropeway-transport -- copy fence tcp")]).into()
}
