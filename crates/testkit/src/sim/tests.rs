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
        ("forsaken", sum.forsaken),
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

/// Some seed notices the broken rule, and says so in these words.
fn caught(mutation: Mutation, words: &str) {
    let options =
        Options { nodes: 2, leases: 2, run_ms: 3_000, mutation: Some(mutation), ..Options::default() };
    let violation = (0..3_000).find_map(|seed| run(seed, &options).err()).expect("no seed noticed");
    assert!(violation.what.contains(words), "{violation}");
}

#[test]
fn freeing_on_a_timer_is_caught() {
    caught(Mutation::FreeOnTimer, "was freed while");
}

#[test]
fn reading_without_a_second_look_is_caught() {
    caught(Mutation::SkipRevalidation, "a completed read");
}

#[test]
fn ignoring_the_generation_is_caught() {
    caught(Mutation::IgnoreGeneration, "tenant");
}

#[test]
fn counting_arrivals_twice_is_caught() {
    caught(Mutation::DoubleCountArrivals, "counted as arrived");
}

#[test]
fn acknowledging_early_is_caught() {
    caught(Mutation::AckEarly, "was freed while");
}

#[test]
fn looking_before_publishing_is_caught() {
    caught(Mutation::CheckBeforePublish, "write");
}

#[test]
fn losing_proofs_is_caught() {
    caught(Mutation::DropProofs, "after the calm");
}

#[test]
fn reusing_unquiet_blocks_is_caught() {
    caught(Mutation::ReuseUnquiet, "landed in block");
}

#[test]
fn taking_a_lost_session_for_proof_is_caught() {
    caught(Mutation::TrustLostSessions, "was freed while");
}

#[test]
fn missing_the_news_of_caches_is_caught() {
    caught(Mutation::MissChanges, "for current");
}

#[test]
fn forgetting_to_count_served_requests_is_caught() {
    caught(Mutation::ForgetServing, "was freed while");
}
