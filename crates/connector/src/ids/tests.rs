use super::*;
use crate::layout::{Context, GroupInfo};
use crate::ranks::Rank;

fn group(keeps: Keeps, slots: u32, kernel_slots: u32) -> GroupShape {
    let info = GroupInfo { keeps, context: Context::Striped, ..GroupInfo::full(0, slots) };
    GroupShape { info, kernel_slots }
}

fn share(ours: GroupShape, theirs: GroupShape, stripes: [Stripe; 2]) -> Share {
    let [our_stripe, their_stripe] = stripes;
    Share {
        rank: Rank { pp: 0, pcp: 0, tp: 0 },
        parts: Vec::new(),
        slices: Vec::new(),
        groups: vec![SharedGroup { local: 0, remote: 0, ours, theirs, our_stripe, their_stripe }],
        land: Land::Direct,
    }
}

fn plain(keeps: Keeps, ours: u32, theirs: u32, kernel: u32) -> Share {
    share(group(keeps, ours, kernel), group(keeps, theirs, kernel), [Stripe::ALL; 2])
}

fn ids(share: &Share, local: &[u32], remote: &[u32], tokens: Range<u64>) -> Result<[Vec<u32>; 2], IdsError> {
    let (local, remote) = ([local.to_vec()], [remote.to_vec()]);
    let ids = share.ids(&Request { local: &local, remote: &remote, tokens })?;
    Ok([ids.local, ids.remote].map(|lists| lists[0].iter().map(|id| id.0).collect()))
}

#[test]
fn a_prompt_of_one_token_is_one_kernel_block() {
    let share = plain(Keeps::All, 128, 128, 16);
    assert_eq!(ids(&share, &[3], &[9], 0..1), Ok([vec![24], vec![72]]));
}

#[test]
fn a_full_hit_reads_nothing() {
    let share = plain(Keeps::All, 128, 128, 128);
    let (local, remote) = ([vec![3]], [vec![9]]);
    let request = Request { local: &local, remote: &remote, tokens: 128..128 };
    assert!(share.ids(&request).expect("nothing is wanted").is_empty());
}

#[test]
fn blocks_of_unequal_size_are_cut_alike() {
    let share = plain(Keeps::All, 64, 128, 64);
    assert_eq!(ids(&share, &[5, 6, 7], &[2, 4], 0..130), Ok([vec![5, 6, 7], vec![4, 5, 8]]));
    // The first of ours is there already: the producer's first block counts from its middle.
    assert_eq!(ids(&share, &[5, 6, 7], &[2, 4], 64..130), Ok([vec![6, 7], vec![5, 8]]));
}

#[test]
fn a_list_longer_than_the_prompt_is_read_from_its_start() {
    let share = plain(Keeps::All, 16, 16, 16);
    assert_eq!(ids(&share, &[1, 2], &[3, 4, 5, 6], 0..32), Ok([vec![1, 2], vec![3, 4]]));
}

#[test]
fn a_list_that_ends_early_is_refused() {
    let share = plain(Keeps::All, 16, 16, 16);
    let error = ids(&share, &[1, 2, 3], &[3, 4], 0..33).expect_err("too short");
    assert_eq!(
        error.to_string(),
        "group g0: the producer's list has 2 block ids; block 2 of the request is wanted"
    );
    assert!(ids(&share, &[1, 2], &[3, 4, 5], 0..33).is_err());
    assert!(ids(&share, &[1], &[], 0..u64::MAX).is_err());
}

#[test]
fn a_window_reads_its_last_blocks_and_skips_what_either_gave_up() {
    let window = Keeps::Window { tokens: 32 };
    let share = plain(window, 16, 16, 16);
    assert_eq!(ids(&share, &[0, 0, 3, 4], &[0, 6, 7, 8], 0..64), Ok([vec![3, 4], vec![7, 8]]));
    // A window that begins within a block needs that block, and no earlier one.
    assert_eq!(ids(&share, &[1, 2, 3, 4], &[5, 6, 7, 8], 0..60), Ok([vec![2, 3, 4], vec![6, 7, 8]]));
}

#[test]
fn a_window_block_that_the_producer_gave_up_too_early_is_refused() {
    let share = plain(Keeps::Window { tokens: 32 }, 16, 16, 16);
    let error = ids(&share, &[0, 0, 3, 4], &[0, 0, 0, 8], 0..64).expect_err("a hole");
    assert!(error.to_string().contains("has given up the block of its slot 32"));
}

#[test]
fn a_state_is_the_block_before_the_spare_ones() {
    let state = |spare| group(Keeps::State { spare }, 1, 1);
    let share = share(state(1), state(2), [Stripe::ALL; 2]);
    assert_eq!(ids(&share, &[5, 6], &[7, 8, 9], 0..40), Ok([vec![5], vec![7]]));
    assert!(ids(&share, &[5], &[7, 8, 9], 0..40).is_err());
    assert!(ids(&share, &[5, 6], &[0, 8, 9], 0..40).is_err());
}

#[test]
fn stripes_pair_up_with_the_blocks_that_they_are_of() {
    let their = Stripe { rank: 1, of: 2, slots: 16 };
    let striped = share(group(Keeps::All, 16, 16), group(Keeps::All, 16, 16), [Stripe::ALL, their]);
    assert_eq!(ids(&striped, &[1, 2, 3, 4], &[8, 9], 0..64), Ok([vec![2, 4], vec![8, 9]]));
    assert_eq!(ids(&striped, &[1, 2, 3], &[8, 9], 16..48), Ok([vec![2], vec![8]]));
    let same = share(group(Keeps::All, 16, 16), group(Keeps::All, 16, 16), [Stripe { slots: 1, ..their }; 2]);
    assert_eq!(ids(&same, &[1, 2], &[8, 9], 0..34), Ok([vec![1, 2], vec![8, 9]]));
}
