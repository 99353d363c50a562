//! The producer of a replay: prefills prompts into its pool (it writes contents, it computes nothing), leases what the
//! consumer lacks, and keeps what it has as a prefix cache.

use std::collections::HashMap;
use std::sync::Arc;

use ropeway::Lease;

use crate::Failure;
use crate::cli::Verify;
use crate::control::Answer;
use crate::engine::{self, Published};
use crate::pool::Pool;
use crate::replay::blocks::{BlockPool, Refused, Want};
use crate::replay::stamps::Contents;
use crate::work::{Part, Work};

pub(crate) struct Prefill {
    blocks: BlockPool,
    pool: Arc<Pool>,
    parts: Vec<Part>,
    verify: Verify,
    running: HashMap<u64, Prompt>,
    /// The consumer is done with these; their leases' ends may still be on the way.
    ending: Vec<Prompt>,
}

struct Prompt {
    wants: Vec<Want>,
    lease: Option<Lease>,
}

impl Prefill {
    pub(crate) fn new(work: &Work, pool: Arc<Pool>, verify: Verify) -> Result<Self, Failure> {
        let [group] = work.groups.as_slice() else {
            return Err("a replay needs a model whose blocks all follow the prompt's length".into());
        };
        let parts = group.parts.clone();
        let blocks = BlockPool::new(parts[0].blocks);
        Ok(Self { blocks, pool, parts, verify, running: HashMap::new(), ending: Vec::new() })
    }

    /// Makes the prompt's blocks and leases those of `missing`.
    pub(crate) fn prefill(
        &mut self,
        published: &Published,
        id: u64,
        wants: &[Want],
        missing: &[u64],
    ) -> Result<Answer, Failure> {
        self.reap(false)?;
        let fresh = match self.blocks.acquire(wants) {
            Ok(fresh) => fresh,
            Err(Refused::TooLarge) => return Err("the prompt is larger than the producer's pool".into()),
            Err(Refused::Full) => {
                self.reap(true)?;
                match self.blocks.acquire(wants) {
                    Ok(fresh) => fresh,
                    Err(_) => return Ok(Answer::Full),
                }
            }
        };
        for &hash in &fresh {
            for (index, &block) in self.blocks.held(hash).iter().enumerate() {
                let generation = self.blocks.generation(block);
                let contents = Contents { hash, index: index as u32, generation };
                contents.write(&self.pool, &self.parts, block, self.verify);
            }
        }
        let blocks: Vec<u32> = missing.iter().flat_map(|&hash| self.blocks.held(hash)).copied().collect();
        let generations = blocks.iter().map(|&block| self.blocks.generation(block)).collect();
        let lease = match blocks.is_empty() {
            true => None,
            false => Some(published.lease(std::slice::from_ref(&blocks), crate::cli::Op::Read)?),
        };
        let token = lease.as_ref().map(|lease| lease.token().to_string());
        self.running.insert(id, Prompt { wants: wants.to_vec(), lease });
        Ok(Answer::Prefilled { token, blocks, generations })
    }

    /// The consumer needs the prompt's blocks no more.
    pub(crate) fn done(&mut self, id: u64) -> Result<(), Failure> {
        let prompt = self.running.remove(&id).ok_or("there is no such prompt")?;
        self.ending.push(prompt);
        self.reap(false)
    }

    /// The most blocks held at a time, and entries evicted.
    pub(crate) fn peak_and_evicted(&self) -> (u32, u64) {
        (self.blocks.peak(), self.blocks.evicted())
    }

    /// All leases free, no prompt left.
    pub(crate) fn settle(mut self) -> Result<(), Failure> {
        self.reap(true)?;
        if self.running.is_empty() && self.blocks.in_use() == 0 {
            return Ok(());
        }
        Err(format!("{} prompts and {} blocks are still held", self.running.len(), self.blocks.in_use())
            .into())
    }

    /// Gives back the blocks of prompts whose lease is free: not before, for the consumer might still read them.
    fn reap(&mut self, wait: bool) -> Result<(), Failure> {
        let mut waiting = Vec::new();
        for prompt in std::mem::take(&mut self.ending) {
            match &prompt.lease {
                Some(lease) if wait => engine::settle(lease)?,
                Some(lease) if !lease.is_free() => {
                    waiting.push(prompt);
                    continue;
                }
                _ => {}
            }
            self.blocks.release(&prompt.wants);
        }
        self.ending = waiting;
        Ok(())
    }
}
