//! Regular runs of descriptors: rows of one width at one distance on each side, which one strided copy moves.

use crate::link::Desc;

/// Rows below this are not worth another kind of call.
const ROWS_MIN: usize = 3;

/// Neighbouring descriptors that one call moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rows {
    pub(super) first: Desc,
    pub(super) rows: usize,
    /// From row to row, on our side.
    pub(super) local_pitch: u64,
    /// From row to row, on the peer's side.
    pub(super) remote_pitch: u64,
}

impl Rows {
    fn one(first: Desc) -> Self {
        Self { first, rows: 1, local_pitch: first.len, remote_pitch: first.len }
    }
}

/// The rows at the start of `descs`, which is not empty.
pub(super) fn rows(descs: &[Desc]) -> Rows {
    let first = descs[0];
    let Some(second) = descs.get(1).filter(|second| second.len == first.len) else { return Rows::one(first) };
    let pitches = (second.local.checked_sub(first.local), second.remote.checked_sub(first.remote));
    let (Some(local_pitch), Some(remote_pitch)) = pitches else { return Rows::one(first) };
    if local_pitch < first.len || remote_pitch < first.len {
        return Rows::one(first);
    }
    let regular = |pair: &[Desc]| {
        pair[1].len == first.len
            && pair[1].local.wrapping_sub(pair[0].local) == local_pitch
            && pair[1].remote.wrapping_sub(pair[0].remote) == remote_pitch
    };
    let rows = 1 + descs.windows(2).take_while(|pair| regular(pair)).count();
    if rows < ROWS_MIN { Rows::one(first) } else { Rows { first, rows, local_pitch, remote_pitch } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn desc() -> impl Strategy<Value = Desc> {
        // Few values, so that regular runs come by chance.
        (0..40_u64, 0..40_u64, 1..3_u64).prop_map(|(local, remote, len)| Desc {
            local: local * 2,
            remote: remote * 2,
            len,
        })
    }

    proptest! {
        #[test]
        fn rows_name_the_same_bytes_as_the_descriptors(
            mut descs in proptest::collection::vec(desc(), 1..30),
            regular in (3..20_u64, 1..9_u64, 1..9_u64),
        ) {
            let (count, local, remote) = regular;
            descs.extend((0..count).map(|i| Desc { local: 100 + i * local, remote: 200 + i * remote, len: 1 }));
            let mut at = 0;
            while at < descs.len() {
                let found = rows(&descs[at..]);
                for i in 0..found.rows {
                    let row = Desc {
                        local: found.first.local + i as u64 * found.local_pitch,
                        remote: found.first.remote + i as u64 * found.remote_pitch,
                        len: found.first.len,
                    };
                    prop_assert_eq!(row, descs[at + i]);
                }
                prop_assert!(found.rows == 1 || (found.local_pitch >= found.first.len && found.remote_pitch >= found.first.len));
                at += found.rows;
            }
            prop_assert_eq!(at, descs.len());
        }
    }

    #[test]
    fn a_slice_of_every_block_is_one_call() {
        let descs: Vec<_> =
            (0..64).map(|i| Desc { local: i * 256, remote: 4096 + i * 1024, len: 256 }).collect();
        let found = rows(&descs);
        assert_eq!((found.rows, found.local_pitch, found.remote_pitch), (64, 256, 1024));
    }
}
