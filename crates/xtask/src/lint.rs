//! `cargo xtask lint`: what a reviewer should not have to say.

use crate::stage::{Outcome, Stage};
use crate::step::{Counts, Step, run_all};
use crate::{bindings, tools};

/// The stages of `cargo xtask lint`.
pub(crate) const STAGES: &[Stage] = &[
    Stage { name: "fmt", about: "rustfmt would change nothing", run: fmt },
    Stage { name: "clippy", about: "every target, warnings denied", run: clippy },
    Stage { name: "doc", about: "public and private documentation builds without a warning", run: doc },
    Stage {
        name: "bindings",
        about: "the headers of ascend-sys give the bindings that are checked in",
        run: bindings::stage,
    },
    Stage {
        name: "deny",
        about: "licences, sources and duplicates of the dependency tree (deny.toml)",
        run: deny,
    },
    Stage { name: "advisories", about: "known vulnerabilities of the dependency tree", run: advisories },
];

fn fmt() -> Outcome {
    let fuzz = "fmt --check --manifest-path fuzz/Cargo.toml";
    run_all([Step::cargo("fmt --all --check"), Step::cargo(fuzz)]).into()
}

fn clippy() -> Outcome {
    Step::cargo("clippy --workspace --all-targets --locked -- --deny warnings").run().into()
}

fn doc() -> Outcome {
    let doc = |arguments: &str| {
        Step::cargo("doc --no-deps --locked").env("RUSTDOCFLAGS", "--deny warnings").args(arguments)
    };
    // The first denies links from public pages to private items; the second reads the private pages as well.
    run_all([
        doc("--workspace"),
        doc("--document-private-items -p ropeway-core -p ropeway-transport -p ropeway"),
    ])
    .into()
}

fn deny() -> Outcome {
    match tools::cargo_deny() {
        Ok(deny) => Step::program(&deny).args("--locked check bans licenses sources").run().into(),
        Err(why) => Outcome::Failed(Counts::default(), why),
    }
}

/// The advisory database is a git repository of its own; a machine that reaches package registries only has no way to it.
fn advisories() -> Outcome {
    let deny = match tools::cargo_deny() {
        Ok(deny) => deny,
        Err(why) => return Outcome::Failed(Counts::default(), why),
    };
    if let Err(why) = Step::program(&deny).args("--locked fetch db").quietly() {
        return Outcome::Skipped(format!("the advisory database cannot be fetched from here: {why}"));
    }
    Step::program(&deny).args("--locked check advisories").run().into()
}
