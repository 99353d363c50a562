use super::*;

/// `SEED=n` repeats one seed, `SEEDS=n` runs so many; from `SEED_FIRST` on, so that long runs see new ones.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if let Some(seed) = number("SEED") {
        return seed..seed + 1;
    }
    let first = number("SEED_FIRST").unwrap_or(0);
    first..first + number("SEEDS").unwrap_or(default)
}

#[test]
fn the_promises_hold_on_every_seed() {
    let mut sum = Stats::default();
    let seeds = seeds(3_000);
    let single = seeds.end - seeds.start == 1;
    for seed in seeds {
        match run(seed, &Options::varied(seed)) {
            Ok(stats) => sum += stats,
            Err(violation) => panic!("{violation}"),
        }
    }
    if !single {
        rare_things_happened(&sum);
    }
}

/// A simulation that never gets to the interesting places proves nothing.
fn rare_things_happened(sum: &Stats) {
    let marks = [
        ("completed", sum.completed),
        ("stale", sum.stale),
        ("link_lost", sum.link_lost),
        ("indeterminate", sum.indeterminate),
        ("quarantined", sum.quarantined),
        ("expired", sum.expired),
        ("never_claimed", sum.never_claimed),
        ("peer_lost", sum.peer_lost),
        ("revoked", sum.revoked),
        ("duplicates", sum.duplicates),
        ("crashes", sum.crashes),
        ("pauses", sum.pauses),
        ("cuts", sum.cuts),
        ("stale_incarnations", sum.stale_incarnations),
        ("fatal", sum.fatal),
        ("changes", sum.changes),
    ];
    for (name, count) in marks {
        assert!(count >= 20, "{name} happened {count} times: {sum:?}");
    }
    assert!(sum.completed * 2 > sum.transfers, "most transfers succeed: {sum:?}");
}

#[test]
fn a_seed_repeats_its_run_exactly() {
    for seed in 0..20 {
        assert_eq!(run(seed, &Options::varied(seed)), run(seed, &Options::varied(seed)));
    }
}

/// The first of so many seeds that notices the broken rule, and what it says.
fn caught_by(mutation: Mutation, seeds: u64) -> Option<Violation> {
    let options =
        Options { nodes: 2, leases: 2, run_ms: 3_000, mutation: Some(mutation), ..Options::default() };
    (0..seeds).find_map(|seed| run(seed, &options).err())
}

macro_rules! caught {
    ($($test:ident: $mutation:ident, $words:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let violation = caught_by(Mutation::$mutation, 3_000).expect("no seed noticed");
                assert!(violation.what.contains($words), "{violation}");
            }
        )*
    };
}

caught! {
    freeing_on_a_timer_is_caught: FreeOnTimer, "was freed while";
    reading_without_a_second_look_is_caught: SkipRevalidation, "a completed read";
    ignoring_the_generation_is_caught: IgnoreGeneration, "tenant";
    counting_arrivals_twice_is_caught: DoubleCountArrivals, "counted as arrived";
    acknowledging_early_is_caught: AckEarly, "was freed while";
    looking_before_publishing_is_caught: CheckBeforePublish, "write";
    losing_proofs_is_caught: DropProofs, "after the calm";
    reusing_unquiet_blocks_is_caught: ReuseUnquiet, "landed in block";
    taking_a_lost_session_for_proof_is_caught: TrustLostSessions, "was freed while";
    missing_the_news_of_caches_is_caught: MissChanges, "for current";
    forgetting_to_count_served_requests_is_caught: ForgetServing, "was freed while";
}
