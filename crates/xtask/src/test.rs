//! `cargo xtask test`: every test there is.

use crate::aarch64::Toolchain;
use crate::counts;
use crate::e2e;
use crate::fuzz;
use crate::stage::{Outcome, Stage};
use crate::step::{self, Step, run_all};

/// The stages of `cargo xtask test`; `docs/TESTING.md` says what each is for.
pub(crate) const STAGES: &[Stage] = &[
    Stage { name: "units", about: "unit, property, conformance and whole-system tests", run: units },
    Stage {
        name: "ascend",
        about: "the ABI of CANN, the software CANN, and NPU transports held to the conformance facts on it",
        run: ascend,
    },
    Stage {
        name: "harness",
        about: "the harness of `e2e` against fakes, without vLLM",
        run: e2e::harness_tests,
    },
    Stage {
        name: "python",
        about: "the Python package: its interface, asyncio, processes, stubs, examples",
        run: crate::python::test,
    },
    Stage {
        name: "kthena",
        about: "requests as Kthena's router carries them, and the example manifests for it, in Go",
        run: crate::go::test,
    },
    Stage { name: "doctests", about: "the examples in the documentation", run: doctests },
    Stage {
        name: "loom",
        about: "every interleaving of batch state, fence cells and chunk claims",
        run: loom,
    },
    Stage { name: "fuzz", about: "every decoder under libFuzzer for some seconds each", run: fuzz::run },
    Stage { name: "asan", about: "transport and multi-process tests under the address sanitizer", run: asan },
    Stage { name: "aarch64", about: "core, copy, fence and tcp tests for aarch64, under qemu", run: aarch64 },
    Stage {
        name: "counts",
        about: "instructions of the bookkeeping, counted by callgrind",
        run: counts::run,
    },
];

/// A filter that matches nothing must not pass for a test that passed.
fn some_tests(result: step::Result) -> Outcome {
    match result {
        Ok(counts) if counts.passed == 0 => Outcome::Failed(counts, "no test ran".to_owned()),
        other => other.into(),
    }
}

fn units() -> Outcome {
    let step = Step::cargo("test --locked --no-fail-fast --workspace --lib --bins --tests --examples");
    some_tests(step.args("--exclude ascend-sys --exclude ropeway-ascend --exclude ropeway-ascend-sim").run())
}

fn ascend() -> Outcome {
    let packages = "-p ascend-sys -p ropeway-ascend -p ropeway-ascend-sim";
    some_tests(
        Step::cargo("test --locked --no-fail-fast --lib --bins --tests --examples").args(packages).run(),
    )
}

fn doctests() -> Outcome {
    some_tests(Step::cargo("test --locked --no-fail-fast --workspace --doc").run())
}

fn loom() -> Outcome {
    // Its own target folder: the cfg would rebuild everything else in the common one.
    let step = Step::cargo("test --locked -p ropeway-transport --lib --target-dir target/loom -- loom")
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", "5");
    some_tests(step.run())
}

fn asan() -> Outcome {
    // The sanitizer is an unstable flag of the stable compiler; with --target it is not applied to build scripts.
    let steps = [
        Step::cargo("test --locked --no-fail-fast --lib --tests -p ropeway-transport -p ropeway"),
        Step::cargo("test --locked --no-fail-fast --lib -p ropeway-ascend"),
        Step::cargo("test --locked --no-fail-fast --lib --test acl -p ropeway-ascend-sim"),
    ];
    let under_asan = |step: Step| {
        step.args("--target x86_64-unknown-linux-gnu --target-dir target/asan")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address")
            .env("PROPTEST_CASES", "32")
    };
    some_tests(run_all(steps.map(under_asan)))
}

fn aarch64() -> Outcome {
    let toolchain = match Toolchain::ready() {
        Ok(toolchain) => toolchain,
        Err(why) => return Outcome::Skipped(why),
    };
    // Emulated, so fewer cases. The engine itself is built only: qemu knows too few of its system calls.
    let steps = [
        toolchain.cargo("test", "--no-fail-fast -p ropeway-core"),
        toolchain.cargo("test", "--no-fail-fast -p ropeway-transport -- copy:: fence:: tcp::"),
        toolchain.cargo("build", "-p ropeway"),
    ];
    some_tests(run_all(steps.map(|step| step.env("PROPTEST_CASES", "32"))))
}
