//! One benchmark's work: pools, parts, and the copies of each request. Producer and consumer compute it from the same
//! short description, so neither ids nor lists have to be sent.

use serde::{Deserialize, Serialize};

use crate::cli::Op;
use crate::model::{self, BLOCK_TOKENS};
use crate::reference::Desc;
use crate::workload::{self, Draw};

/// What both sides compute the work from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Spec {
    /// Prompts of a model, each with blocks of its own.
    Prompts { model: String, tokens: u32, requests: u32, fragmentation: f64, seed: u64 },
    /// Equal blocks scattered over a pool, as one request.
    Scattered { block: u64, bytes: u64, pool: u64, seed: u64 },
    /// A raw list, as one request: local offset, remote offset, bytes.
    Raw { pool: u64, list: Vec<(u64, u64, u64)> },
    /// A pool of blocks of a model, without requests.
    Pool { model: String, blocks: u32 },
}

/// One part of the cache: an array of blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u32,
}

/// Parts that share one list of block ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) parts: Vec<Part>,
}

/// The copies of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Copies {
    /// Block ids, one list per group.
    Blocks { local: Vec<Vec<u32>>, remote: Vec<Vec<u32>> },
    /// Offsets.
    Raw,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) copies: Copies,
    /// One entry for each part and block (or as the raw list has it), before merging.
    pub(crate) list: Vec<Desc>,
}

/// The work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Work {
    pub(crate) pool_bytes: u64,
    /// Empty for raw work: the pool is one range of bytes.
    pub(crate) groups: Vec<Group>,
    pub(crate) requests: Vec<Request>,
}

const PAGE: u64 = 4096;
/// No benchmark needs more; a peer that asks for it is refused.
const BLOCKS_MAX: u64 = 1 << 20;

impl Work {
    /// # Errors
    /// The description names no model, more than the limits allow, or copies past the end of its pool.
    pub(crate) fn new(spec: &Spec) -> Result<Self, String> {
        match spec {
            Spec::Prompts { model, tokens, requests, fragmentation, seed } => {
                Self::prompts(model, *tokens, *requests, *fragmentation, *seed)
            }
            Spec::Scattered { block, bytes, pool, seed } => {
                if *block == 0 || bytes > pool || pool / block.max(&1) > BLOCKS_MAX {
                    return Err(format!("{bytes} bytes in blocks of {block} do not suit a pool of {pool}"));
                }
                let count = (bytes / block) as usize;
                let list = workload::scattered(*block, count, *pool, &mut Draw::new(*seed));
                Ok(Self::blocks(*block, *pool, list))
            }
            Spec::Raw { pool, list } => {
                let list = list.iter().map(|&(local, remote, len)| Desc { local, remote, len }).collect();
                Ok(Self::raw(*pool, list))
            }
            Spec::Pool { model, blocks } => {
                let (pool_bytes, groups) = layout(model, *blocks, 1)?;
                Ok(Self { pool_bytes, groups, requests: Vec::new() })
            }
        }
    }

    /// One part, and block ids as a block manager would hand them over.
    fn blocks(block_bytes: u64, pool: u64, list: Vec<Desc>) -> Self {
        let ids =
            |side: fn(&Desc) -> u64| vec![list.iter().map(|d| (side(d) / block_bytes) as u32).collect()];
        let copies = Copies::Blocks { local: ids(|d| d.local), remote: ids(|d| d.remote) };
        let blocks = (pool / block_bytes) as u32;
        let part = Part { name: "blocks".to_owned(), offset: 0, block_bytes, blocks };
        let groups = vec![Group { name: "g0", parts: vec![part] }];
        Self { pool_bytes: pool.next_multiple_of(PAGE), groups, requests: vec![Request { copies, list }] }
    }

    fn raw(pool: u64, list: Vec<Desc>) -> Self {
        let requests = vec![Request { copies: Copies::Raw, list }];
        Self { pool_bytes: pool.next_multiple_of(PAGE), groups: Vec::new(), requests }
    }

    fn prompts(
        model: &str,
        tokens: u32,
        requests: u32,
        fragmentation: f64,
        seed: u64,
    ) -> Result<Self, String> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        if u64::from(blocks) * u64::from(requests) > BLOCKS_MAX || !(0.0..=1.0).contains(&fragmentation) {
            return Err(format!("{requests} requests of {blocks} blocks each are too many"));
        }
        let (pool_bytes, groups) = layout(model, blocks * requests, requests)?;
        let mut draw = Draw::new(seed);
        let mut side = || -> Vec<Vec<u32>> {
            groups
                .iter()
                .map(|group| workload::block_ids(group.parts[0].blocks, fragmentation, &mut draw))
                .collect()
        };
        let (local, remote) = (side(), side());
        let requests = (0..requests)
            .map(|request| {
                let share = |all: &[Vec<u32>]| -> Vec<Vec<u32>> {
                    all.iter()
                        .map(|ids| {
                            let each = ids.len() / requests as usize;
                            ids[request as usize * each..][..each].to_vec()
                        })
                        .collect()
                };
                let (local, remote) = (share(&local), share(&remote));
                let list = expand(&groups, &local, &remote);
                Request { copies: Copies::Blocks { local, remote }, list }
            })
            .collect();
        Ok(Self { pool_bytes, groups, requests })
    }

    /// Bytes of all requests together.
    pub(crate) fn bytes(&self) -> u64 {
        self.requests.iter().map(|request| workload::bytes(&request.list)).sum()
    }

    /// All copies before merging.
    pub(crate) fn list(&self) -> Vec<Desc> {
        self.requests.iter().flat_map(|request| request.list.iter().copied()).collect()
    }

    /// All copies, neighbours joined: what the reference moves.
    pub(crate) fn merged(&self) -> Vec<Desc> {
        self.requests.iter().flat_map(|request| workload::merged(&request.list)).collect()
    }
}

/// Parts of a model one after the other: sliding windows in a group of their own, with `windows` blocks.
pub(crate) fn layout(model: &str, blocks: u32, windows: u32) -> Result<(u64, Vec<Group>), String> {
    let shape = model::find(model)?;
    let mut at = 0;
    let mut groups = Vec::new();
    for (name, sliding) in [("g0", false), ("window", true)] {
        let mut parts = Vec::new();
        for plane in shape.planes.iter().filter(|plane| plane.max_blocks.is_some() == sliding) {
            let blocks = plane.max_blocks.map_or(blocks, |max| max * windows);
            for layer in 0..plane.layers {
                parts.push(Part {
                    name: format!("layers.{layer}.{}", plane.name),
                    offset: at,
                    block_bytes: plane.block_bytes,
                    blocks,
                });
                at += (plane.block_bytes * u64::from(blocks)).next_multiple_of(PAGE);
            }
        }
        if !parts.is_empty() {
            groups.push(Group { name, parts });
        }
    }
    Ok((at, groups))
}

/// One copy for each part and pair of ids, part by part: the order in which the engine moves them, too.
fn expand(groups: &[Group], local: &[Vec<u32>], remote: &[Vec<u32>]) -> Vec<Desc> {
    let mut list = Vec::new();
    for (group, (local, remote)) in groups.iter().zip(local.iter().zip(remote)) {
        for part in &group.parts {
            list.extend(local.iter().zip(remote).map(|(&local, &remote)| Desc {
                local: part.offset + u64::from(local) * part.block_bytes,
                remote: part.offset + u64::from(remote) * part.block_bytes,
                len: part.block_bytes,
            }));
        }
    }
    list
}

impl Spec {
    /// How many bytes of memory each side needs.
    pub(crate) fn pool_bytes(&self) -> Result<u64, String> {
        match self {
            Self::Scattered { pool, .. } | Self::Raw { pool, .. } => Ok(pool.next_multiple_of(PAGE)),
            Self::Prompts { model, tokens, requests, .. } => {
                let blocks = tokens.div_ceil(BLOCK_TOKENS).checked_mul(*requests);
                layout(model, blocks.ok_or("too many blocks")?, *requests).map(|(bytes, _)| bytes)
            }
            Self::Pool { model, blocks } => layout(model, *blocks, 1).map(|(bytes, _)| bytes),
        }
    }
}

/// The side of a copy that the bytes arrive at.
pub(crate) fn destination(op: Op) -> crate::pattern::Side {
    match op {
        Op::Read => crate::pattern::Side::Local,
        Op::Write => crate::pattern::Side::Remote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written_once_and_inside(work: &Work) {
        for side in [|d: &Desc| d.local, |d: &Desc| d.remote] {
            let mut pieces: Vec<(u64, u64)> =
                work.list().iter().map(|d| (side(d), side(d) + d.len)).collect();
            pieces.sort_unstable();
            assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].0), "a byte is named twice");
            assert!(pieces.last().is_none_or(|last| last.1 <= work.pool_bytes));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn requests_name_every_byte_once(
            model in proptest::sample::select(model::all().collect::<Vec<_>>()),
            tokens in 1u32..4000, requests in 1u32..5, fragmentation in 0.0f64..=1.0, seed: u64,
        ) {
            let spec = Spec::Prompts { model: model.name.to_owned(), tokens, requests, fragmentation, seed };
            let work = Work::new(&spec).unwrap();
            written_once_and_inside(&work);
            prop_assert_eq!(work.bytes(), model.prompt_bytes(tokens) * u64::from(requests));
            prop_assert_eq!(spec.pool_bytes().unwrap(), work.pool_bytes);
            prop_assert_eq!(workload::bytes(&work.merged()), work.bytes());
        }
    }

    #[test]
    fn scattered_blocks_are_the_same_as_ids_and_as_a_list() {
        let work =
            Work::new(&Spec::Scattered { block: 4096, bytes: 1 << 20, pool: 2 << 20, seed: 4 }).unwrap();
        written_once_and_inside(&work);
        let Copies::Blocks { local, remote } = &work.requests[0].copies else { panic!("blocks have ids") };
        assert_eq!(expand(&work.groups, local, remote), work.list());
    }

    #[test]
    fn whole_prompts_in_one_piece_merge_to_one_run_a_part() {
        let spec = Spec::Prompts {
            model: "DeepSeek-V2-Lite".to_owned(),
            tokens: 8192,
            requests: 1,
            fragmentation: 0.0,
            seed: 3,
        };
        let work = Work::new(&spec).unwrap();
        assert_eq!((work.list().len(), work.merged().len()), (27 * 2 * 64, 1));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let scattered = |block, bytes, pool| Spec::Scattered { block, bytes, pool, seed: 0 };
        for spec in [scattered(0, 1, 1), scattered(4096, 2 << 20, 1 << 20), scattered(1, 1, 1 << 40)] {
            assert!(Work::new(&spec).is_err());
        }
        let spec = Spec::Pool { model: "none".to_owned(), blocks: 1 };
        assert!(Work::new(&spec).unwrap_err().contains("DeepSeek-V2-Lite"));
    }
}
