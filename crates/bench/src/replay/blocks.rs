//! A pool of blocks of bounded size with prefix reuse: what a block manager does, as far as a replay needs it.
//!
//! An entry is the KV of one hash id (up to 512 tokens): a few cache blocks. Entries in use are counted; those that
//! nobody uses stay as a prefix cache and are evicted, least recently used first, when blocks are wanted.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// What a request wants: a hash id and how many cache blocks its tokens fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Want {
    pub(crate) hash: u64,
    pub(crate) blocks: u32,
}

/// Why nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Others hold the blocks; they will give them back.
    Full,
    /// The pool is smaller than the request.
    TooLarge,
}

#[derive(Clone, Debug)]
struct Entry {
    blocks: Vec<u32>,
    users: u32,
    /// Counts uses; the key of `idle` while nobody uses the entry.
    used_at: u64,
}

/// The pool.
#[derive(Clone, Debug)]
pub(crate) struct BlockPool {
    free: Vec<u32>,
    entries: HashMap<u64, Entry>,
    /// Hash ids that nobody uses, by last use.
    idle: BTreeMap<u64, u64>,
    idle_blocks: u32,
    /// How often each block was handed out: stale contents show themselves by it.
    generations: Vec<u32>,
    clock: u64,
    peak: u32,
    evicted: u64,
}

impl BlockPool {
    pub(crate) fn new(blocks: u32) -> Self {
        Self {
            free: (0..blocks).rev().collect(),
            entries: HashMap::new(),
            idle: BTreeMap::new(),
            idle_blocks: 0,
            generations: vec![0; blocks as usize],
            clock: 0,
            peak: 0,
            evicted: 0,
        }
    }

    /// Takes everything or nothing. The hash ids whose contents were not there, and must be made or moved, come back.
    ///
    /// # Errors
    /// See [`Refused`]; nothing was changed.
    pub(crate) fn acquire(&mut self, wants: &[Want]) -> Result<Vec<u64>, Refused> {
        let all: u32 = wants.iter().map(|want| want.blocks).sum();
        if all > self.blocks() {
            return Err(Refused::TooLarge);
        }
        let (mut needed, mut kept) = (0, 0);
        for want in wants {
            match self.entries.get(&want.hash) {
                None => needed += want.blocks,
                Some(entry) if entry.users == 0 => kept += entry.blocks.len() as u32,
                Some(_) => {}
            }
        }
        if needed > self.free.len() as u32 + self.idle_blocks - kept {
            return Err(Refused::Full);
        }
        for want in wants {
            self.pin(want.hash);
        }
        let mut fresh = Vec::new();
        for want in wants {
            if !self.entries.contains_key(&want.hash) {
                self.create(*want);
                fresh.push(want.hash);
            }
        }
        self.peak = self.peak.max(self.in_use());
        Ok(fresh)
    }

    /// Gives back what one `acquire` took. The contents stay until the blocks are wanted.
    pub(crate) fn release(&mut self, wants: &[Want]) {
        for want in wants.iter().rev() {
            self.clock += 1;
            let entry = self.entries.get_mut(&want.hash).expect("a held entry is in the table");
            entry.users -= 1;
            entry.used_at = self.clock;
            if entry.users == 0 {
                self.idle.insert(self.clock, want.hash);
                self.idle_blocks += entry.blocks.len() as u32;
            }
        }
    }

    /// The blocks of an entry that is held.
    pub(crate) fn held(&self, hash: u64) -> &[u32] {
        &self.entries[&hash].blocks
    }

    /// How often a block was handed out.
    pub(crate) fn generation(&self, block: u32) -> u32 {
        self.generations[block as usize]
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.generations.len() as u32
    }

    /// Blocks that requests hold now.
    pub(crate) fn in_use(&self) -> u32 {
        self.blocks() - self.free.len() as u32 - self.idle_blocks
    }

    /// The most blocks that requests held at a time.
    pub(crate) fn peak(&self) -> u32 {
        self.peak
    }

    /// Entries dropped to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn pin(&mut self, hash: u64) {
        if let Some(entry) = self.entries.get_mut(&hash) {
            if entry.users == 0 {
                self.idle.remove(&entry.used_at);
                self.idle_blocks -= entry.blocks.len() as u32;
            }
            entry.users += 1;
        }
    }

    fn create(&mut self, want: Want) {
        while (self.free.len() as u32) < want.blocks {
            let (_, hash) = self.idle.pop_first().expect("room was counted before");
            let entry = self.entries.remove(&hash).expect("an idle entry is in the table");
            self.idle_blocks -= entry.blocks.len() as u32;
            self.free.extend(entry.blocks);
            self.evicted += 1;
        }
        let blocks = self.free.split_off(self.free.len() - want.blocks as usize);
        for &block in &blocks {
            self.generations[block as usize] += 1;
        }
        self.entries.insert(want.hash, Entry { blocks, users: 1, used_at: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn wants(hashes: &[u64]) -> Vec<Want> {
        hashes.iter().map(|&hash| Want { hash, blocks: 1 + (hash % 4) as u32 }).collect()
    }

    #[test]
    fn what_a_pool_holds_is_not_asked_for_again() {
        let mut pool = BlockPool::new(16);
        assert_eq!(pool.acquire(&wants(&[3, 7])).unwrap(), [3, 7]);
        let blocks = pool.held(3).to_vec();
        pool.release(&wants(&[3, 7]));
        assert_eq!(pool.acquire(&wants(&[3, 11])).unwrap(), [11]);
        assert_eq!(pool.held(3), blocks);
    }

    #[test]
    fn the_longest_unused_prefix_goes_first_and_its_tail_before_its_head() {
        let mut pool = BlockPool::new(12);
        for hashes in [[3u64, 7], [11, 3]] {
            pool.acquire(&wants(&hashes)).unwrap();
            pool.release(&wants(&hashes));
        }
        assert_eq!(pool.acquire(&wants(&[15])).unwrap(), [15]);
        pool.release(&wants(&[15]));
        assert_eq!(pool.acquire(&wants(&[3])).unwrap(), [] as [u64; 0]);
        assert_eq!(pool.evicted(), 1, "only 7 had to go");
    }

    #[test]
    fn held_blocks_are_not_evicted() {
        let mut pool = BlockPool::new(8);
        pool.acquire(&wants(&[3])).unwrap();
        pool.acquire(&wants(&[7])).unwrap();
        assert_eq!(pool.acquire(&wants(&[11])), Err(Refused::Full));
        pool.release(&wants(&[3]));
        assert_eq!(pool.acquire(&wants(&[3, 11])), Err(Refused::Full), "3 is idle, but wanted itself");
        assert_eq!(pool.acquire(&wants(&[11])), Ok(vec![11]));
        assert_eq!(pool.acquire(&wants(&[3, 7, 11])), Err(Refused::TooLarge));
    }

    proptest! {
        /// Against the plainest model: who holds which hash ids.
        #[test]
        fn no_block_has_two_owners_and_none_is_lost(
            steps in proptest::collection::vec((any::<bool>(), proptest::collection::hash_set(0u64..30, 1..6)), 1..200)
        ) {
            let mut pool = BlockPool::new(24);
            let mut holders: Vec<Vec<Want>> = Vec::new();
            let mut contents: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
            for (take, hashes) in steps {
                if take {
                    let mut hashes: Vec<u64> = hashes.into_iter().collect();
                    hashes.sort_unstable();
                    let request = wants(&hashes);
                    if let Ok(fresh) = pool.acquire(&request) {
                        for hash in &hashes {
                            let now: Vec<_> =
                                pool.held(*hash).iter().map(|&b| (b, pool.generation(b))).collect();
                            let before = contents.insert(*hash, now.clone());
                            if !fresh.contains(hash) {
                                prop_assert_eq!(before, Some(now), "reused contents must be untouched");
                            }
                        }
                        holders.push(request);
                    }
                } else if !holders.is_empty() {
                    let request = holders.swap_remove(hashes.len() % holders.len());
                    pool.release(&request);
                }
                let held: HashSet<u64> = holders.iter().flatten().map(|want| want.hash).collect();
                let blocks: Vec<u32> = held.iter().flat_map(|&hash| pool.held(hash).to_vec()).collect();
                let distinct: HashSet<u32> = blocks.iter().copied().collect();
                prop_assert_eq!(blocks.len(), distinct.len());
                prop_assert_eq!(blocks.len() as u32, pool.in_use());
                prop_assert!(pool.peak() >= pool.in_use());
            }
        }
    }
}
