use super::{Target, fuzz_smoke};

/// `ITERATIONS=n` and `SEED=n` make a longer or another run.
fn smoke(target: Target) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    fuzz_smoke(target, number("SEED").unwrap_or(1), number("ITERATIONS").unwrap_or(10_000));
}

#[test]
fn frames_survive_fuzzing() {
    smoke(Target::Frame);
}

#[test]
fn sessions_survive_fuzzing() {
    smoke(Target::Session);
}

#[test]
fn tokens_and_descriptors_survive_fuzzing() {
    smoke(Target::Text);
}

#[test]
fn plan_requests_survive_fuzzing() {
    smoke(Target::PlanRequest);
}

#[test]
fn layouts_survive_fuzzing() {
    smoke(Target::Layout);
}

#[test]
fn directories_survive_fuzzing() {
    smoke(Target::Directory);
}
