use super::{Target, fuzz_smoke};

macro_rules! smoke {
    ($($test:ident: $target:ident;)*) => {
        $(
            #[test]
            fn $test() {
                let number = |name: &str| std::env::var(name).ok()?.parse().ok();
                fuzz_smoke(Target::$target, number("SEED").unwrap_or(1), number("ITERATIONS").unwrap_or(10_000));
            }
        )*
    };
}

smoke! {
    frames_survive_fuzzing: Frame;
    sessions_survive_fuzzing: Session;
    tokens_and_descriptors_survive_fuzzing: Text;
    plan_requests_survive_fuzzing: PlanRequest;
    layouts_survive_fuzzing: Layout;
    directories_survive_fuzzing: Directory;
}
