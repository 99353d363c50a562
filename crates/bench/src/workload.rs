//! Which copies to make: block ids as a block manager would have handed them out, and raw lists.

use std::io;
use std::path::Path;

use crate::reference::Desc;

/// A small generator of numbers that look random: the same seed gives the same run everywhere (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `end`, which is not 0. The bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The ids `0..count` in an order in which about `fragmentation` of them do not follow their neighbour.
pub(crate) fn block_ids(count: u32, fragmentation: f64, draw: &mut Draw) -> Vec<u32> {
    let breaks = (fragmentation * f64::from(count.saturating_sub(1))).round() as usize;
    let mut places: Vec<u32> = (1..count).collect();
    draw.shuffle(&mut places);
    places.truncate(breaks);
    places.sort_unstable();
    let mut pieces = Vec::with_capacity(breaks + 1);
    let mut first = 0;
    for place in places.into_iter().chain([count]) {
        pieces.push(first..place);
        first = place;
    }
    draw.shuffle(&mut pieces);
    // Two pieces that met again in order would be one: move the second away where there is a third.
    for i in 1..pieces.len() {
        if pieces[i - 1].end == pieces[i].start {
            let other = (i + 1) % pieces.len();
            pieces.swap(i, other);
        }
    }
    pieces.into_iter().flatten().collect()
}

/// Equal blocks of `bytes` scattered over pools of `pool` bytes, in an order of its own on each side.
pub(crate) fn scattered(bytes: u64, count: usize, pool: u64, draw: &mut Draw) -> Vec<Desc> {
    let slots = (pool / bytes) as usize;
    assert!(count <= slots, "{count} blocks of {bytes} bytes do not fit into {pool}");
    let side = |draw: &mut Draw| {
        let mut all: Vec<u64> = (0..slots as u64).collect();
        draw.shuffle(&mut all);
        all.truncate(count);
        all
    };
    let (local, remote) = (side(draw), side(draw));
    local
        .into_iter()
        .zip(remote)
        .map(|(local, remote)| Desc { local: local * bytes, remote: remote * bytes, len: bytes })
        .collect()
}

/// Joins neighbours that are contiguous on both sides, in the order of the list.
pub(crate) fn merged(list: &[Desc]) -> Vec<Desc> {
    let mut out: Vec<Desc> = Vec::with_capacity(list.len());
    for desc in list {
        match out.last_mut() {
            Some(last)
                if last.local + last.len == desc.local
                    && last.remote + last.len == desc.remote
                    && last.len + desc.len <= 1 << 30 =>
            {
                last.len += desc.len;
            }
            _ => out.push(*desc),
        }
    }
    out
}

/// Bytes of a list.
pub(crate) fn bytes(list: &[Desc]) -> u64 {
    list.iter().map(|desc| desc.len).sum()
}

/// Reads a file of little-endian u64 triples (local offset, remote offset, bytes) and checks it against the pools and
/// against writing a byte twice.
pub(crate) fn read_triples(file: &Path, pool: u64) -> io::Result<Vec<Desc>> {
    parse_triples(&std::fs::read(file)?, pool)
        .map_err(|reason| io::Error::other(format!("{}: {reason}", file.display())))
}

fn parse_triples(data: &[u8], pool: u64) -> Result<Vec<Desc>, String> {
    if data.is_empty() || !data.len().is_multiple_of(24) {
        return Err(format!("{} bytes are no list of 24-byte triples", data.len()));
    }
    let word = |triple: &[u8], at: usize| {
        u64::from_le_bytes(triple[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
    };
    let mut list = Vec::with_capacity(data.len() / 24);
    for (i, triple) in data.chunks_exact(24).enumerate() {
        let desc = Desc { local: word(triple, 0), remote: word(triple, 1), len: word(triple, 2) };
        for (side, at) in [("local", desc.local), ("remote", desc.remote)] {
            if at.checked_add(desc.len).is_none_or(|end| end > pool) {
                return Err(format!(
                    "triple {i}: {side} {at} + {} bytes passes the end of the pool ({pool})",
                    desc.len
                ));
            }
        }
        if desc.len == 0 {
            return Err(format!("triple {i}: no bytes"));
        }
        list.push(desc);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn breaks(ids: &[u32]) -> usize {
        ids.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count()
    }

    proptest! {
        #[test]
        fn every_id_is_drawn_once_and_the_share_of_breaks_is_kept(
            count in 8u32..500, fragmentation in 0.0f64..=1.0, seed: u64
        ) {
            let ids = block_ids(count, fragmentation, &mut Draw::new(seed));
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            let wanted = (fragmentation * f64::from(count - 1)).round();
            prop_assert!((breaks(&ids) as f64 - wanted).abs() <= 4.0, "{} {}", breaks(&ids), wanted);
        }

        #[test]
        fn merging_keeps_every_byte(count in 1usize..200, seed: u64) {
            let list = scattered(64, count, 200 * 64, &mut Draw::new(seed));
            let spread = |list: &[Desc]| {
                let mut bytes: Vec<_> = list
                    .iter()
                    .flat_map(|d| (0..d.len).map(|i| (d.local + i, d.remote + i)))
                    .collect();
                bytes.sort_unstable();
                bytes
            };
            prop_assert_eq!(spread(&merged(&list)), spread(&list));
        }

        #[test]
        fn triples_past_the_end_are_refused(local: u64, remote: u64, len: u64, pool in 0u64..1 << 40) {
            let data: Vec<u8> = [local, remote, len].into_iter().flat_map(u64::to_le_bytes).collect();
            let fits = |at: u64| u128::from(at) + u128::from(len) <= u128::from(pool);
            let good = fits(local) && fits(remote) && len > 0;
            prop_assert_eq!(parse_triples(&data, pool).is_ok(), good);
        }
    }

    #[test]
    fn a_triple_may_end_where_the_pool_ends_and_no_byte_later() {
        let triple = |len: u64| [4096, 0, len].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
        assert!(parse_triples(&triple(4096), 8192).is_ok());
        assert!(parse_triples(&triple(4097), 8192).unwrap_err().contains("passes the end"));
    }

    #[test]
    fn a_torn_file_is_refused() {
        assert!(parse_triples(&[0; 25], 100).unwrap_err().contains("25 bytes"));
        assert!(parse_triples(&[], 100).is_err());
    }
}
