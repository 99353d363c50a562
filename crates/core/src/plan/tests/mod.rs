//! Plans against what they should be.

mod decoder;
mod oracle;
mod paged;
mod raw;
mod refusals;
mod split;

use oracle::{Choices, Place};

use crate::{BlockId, BlockSpan, Cursor, RegionId, Run, Runs};

/// Every run in one go.
fn all(runs: &dyn Runs) -> Vec<Run> {
    let mut out = vec![Run::default(); runs.total_runs() as usize + 1];
    let filled = runs.fill(&mut Cursor::default(), &mut out, u64::MAX);
    out.truncate(filled);
    out
}

/// Every run from a cursor on, in pieces of drawn sizes; each call keeps to its budget and gets on.
fn in_pieces(runs: &dyn Runs, mut at: Cursor, choices: &mut Choices<'_>) -> Vec<Run> {
    let mut out = Vec::new();
    loop {
        let mut some = vec![Run::default(); choices.within(1..6) as usize];
        let budget = if choices.rarely(3) { u64::MAX } else { choices.within(1..40) };
        let filled = runs.fill(&mut at, &mut some, budget);
        assert!(some[..filled].iter().map(|run| u64::from(run.len)).sum::<u64>() <= budget);
        if filled == 0 {
            return out;
        }
        out.extend(&some[..filled]);
    }
}

/// The bytes of runs, each by itself.
fn bytes(runs: &[Run], local: &[RegionId], remote: &[RegionId]) -> Vec<(Place, Place)> {
    let each = |run: &Run| {
        let run = *run;
        let (local, remote) = (local[usize::from(run.local_region)], remote[usize::from(run.remote_region)]);
        (0..u64::from(run.len)).map(move |byte| ((local, run.local + byte), (remote, run.remote + byte)))
    };
    runs.iter().flat_map(each).collect()
}

fn ids(ids: &[u32]) -> Vec<BlockId> {
    ids.iter().copied().map(BlockId).collect()
}

fn span(first: u32, count: u32) -> BlockSpan {
    BlockSpan { first: BlockId(first), count }
}
