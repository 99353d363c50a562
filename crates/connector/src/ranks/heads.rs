//! Which heads of one rank are which of another's.

use serde::{Deserialize, Serialize};

use crate::layout::{Heads, Shard};

/// Neighbouring heads that lie on both ranks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HeadRun {
    /// The first one's place on our rank.
    pub ours: u32,
    /// The first one's place on the peer's.
    pub theirs: u32,
    /// How many.
    pub count: u32,
}

/// Heads that our rank needs and a set of the peer's ranks holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) run: HeadRun,
    /// Tensor-parallel ranks, ascending; each holds all of the run, at the same place.
    pub(super) by: Vec<u32>,
}

/// Covers the heads of `ours` (of which it has `count`) by ranks of a peer with `peers` of them.
pub(super) fn cover(split: &Heads, count: u32, ours: Shard, peers: u32) -> Vec<Held> {
    let Heads::Split(segments) = split else {
        return vec![Held { run: HeadRun { ours: 0, theirs: 0, count }, by: (0..peers).collect() }];
    };
    let mut covers: Vec<Held> = Vec::new();
    let (mut our_start, mut their_start) = (0, 0);
    for &total in segments {
        let (first, count) = ours.heads(total);
        let mut held: Vec<Held> = Vec::new();
        for rank in 0..peers {
            let (theirs, their_count) = Shard { rank, of: peers }.heads(total);
            let begin = first.max(theirs);
            let end = (first + count).min(theirs + their_count);
            if begin >= end {
                continue;
            }
            let run = HeadRun {
                ours: our_start + begin - first,
                theirs: their_start + begin - theirs,
                count: end - begin,
            };
            match held.iter_mut().find(|held| held.run.ours == run.ours) {
                Some(held) => held.by.push(rank),
                None => held.push(Held { run, by: vec![rank] }),
            }
        }
        covers.append(&mut held);
        our_start += count;
        their_start += Shard { rank: 0, of: peers }.heads(total).1;
    }
    covers
}

/// The same heads in as few runs as possible, by our place.
pub(super) fn joined(mut runs: Vec<HeadRun>) -> Vec<HeadRun> {
    runs.sort_unstable();
    let mut joined: Vec<HeadRun> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.ours + last.count == run.ours && last.theirs + last.count == run.theirs => {
                last.count += run.count;
            }
            _ => joined.push(run),
        }
    }
    joined
}
