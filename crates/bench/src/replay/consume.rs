//! The consumer of a replay: takes requests as they arrive, moves the blocks that it lacks, and checks what it holds.
//!
//! Requests are admitted one after the other, in the order of the trace: blocks here, then the producer's prefill. Then
//! they are moved side by side, `--concurrency` at a time. Delays count from the moment a request was due, whether or not
//! anybody was free to take it: a slow moment shows in every request that it delayed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::Failure;
use crate::cli::{Op, Replay, Verify};
use crate::control::{Answer, Ask};
use crate::engine::{self, Connection};
use crate::far::Far;
use crate::model::BLOCK_TOKENS;
use crate::output;
use crate::pool::Pool;
use crate::replay::blocks::{BlockPool, Refused, Want};
use crate::replay::report::{PoolUse, Tally};
use crate::replay::stamps::Contents;
use crate::replay::trace::{HASH_TOKENS, Request};
use crate::work::{Part, Work};

/// Nothing that a request waits for takes longer, unless something is lost.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Consumer<'a> {
    requests: &'a [Request],
    parts: &'a [Part],
    pool: Arc<Pool>,
    connection: Connection,
    verify: Verify,
    speedup: f64,
    /// Held by whoever admits the next request: keeps the order of the trace.
    admission: Mutex<()>,
    next: AtomicUsize,
    far: Mutex<Far>,
    holdings: Mutex<Holdings>,
    /// Something was released, arrived, or failed.
    changed: Condvar,
}

/// What the consumer's pool holds.
struct Holdings {
    blocks: BlockPool,
    /// What the blocks of an entry must contain; absent while they are on their way.
    contents: HashMap<u64, Vec<Contents>>,
    tally: Tally,
}

/// A request that has its blocks on both sides.
struct Admitted {
    id: usize,
    due: Instant,
    wants: Vec<Want>,
    fresh: Vec<u64>,
    token: Option<String>,
    remote: Vec<u32>,
    generations: Vec<u32>,
}

/// What outlives the replay.
pub(crate) struct Parts {
    pub(crate) connection: Connection,
    pub(crate) far: Far,
}

impl<'a> Consumer<'a> {
    pub(crate) fn new(
        options: &Replay,
        requests: &'a [Request],
        work: &'a Work,
        pool: Arc<Pool>,
        connection: Connection,
        far: Far,
    ) -> Self {
        let parts = work.groups[0].parts.as_slice();
        let holdings = Holdings {
            blocks: BlockPool::new(parts[0].blocks),
            contents: HashMap::new(),
            tally: Tally::default(),
        };
        Self {
            requests,
            parts,
            pool,
            connection,
            verify: options.verify,
            speedup: options.speedup,
            admission: Mutex::new(()),
            next: AtomicUsize::new(0),
            far: Mutex::new(far),
            holdings: Mutex::new(holdings),
            changed: Condvar::new(),
        }
    }

    /// Replays everything; what went wrong with single requests is in the tally.
    ///
    /// # Errors
    /// The producer is gone, or something waited for did not come: there is no going on.
    pub(crate) fn replay(&self, options: &Replay) -> Result<Tally, Failure> {
        let bar = output::progress(self.requests.len() as u64, "replaying requests");
        let start = Instant::now();
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..options.concurrency {
                scope.spawn(|| {
                    if let Err(error) = self.work(start, &bar) {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        // The others end at their next request.
                        self.next.store(self.requests.len(), Ordering::SeqCst);
                        self.changed.notify_all();
                    }
                });
            }
        });
        bar.finish_and_clear();
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut holdings = self.holdings();
        let (blocks, peak_blocks) = (holdings.blocks.blocks(), holdings.blocks.peak());
        let evicted = holdings.blocks.evicted();
        holdings.tally.consumer = PoolUse { blocks, peak_blocks, evicted };
        holdings.tally.wall_s = start.elapsed().as_secs_f64();
        Ok(std::mem::take(&mut holdings.tally))
    }

    pub(crate) fn into_parts(self) -> Parts {
        Parts {
            connection: self.connection,
            far: self.far.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn work(&self, start: Instant, bar: &ProgressBar) -> Result<(), Failure> {
        while let Some(admitted) = self.admit(start)? {
            let moved = self.transfer(&admitted);
            self.finish(&admitted, moved)?;
            bar.inc(1);
        }
        Ok(())
    }

    /// Waits for the next request to be due, and for blocks on both sides.
    fn admit(&self, start: Instant) -> Result<Option<Admitted>, Failure> {
        let _turn = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let Some(request) = self.requests.get(id) else { return Ok(None) };
        let since_first = request.timestamp - self.requests[0].timestamp;
        let due = start + Duration::from_secs_f64(since_first as f64 / 1e3 / self.speedup);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let wants = wants(request);
        let fresh = self.take_blocks(&wants)?;
        let prefill = || Ask::Prefill { id: id as u64, wants: wants.clone(), missing: fresh.clone() };
        let until = Instant::now() + PATIENCE;
        loop {
            match self.far().ask(prefill())? {
                Answer::Prefilled { token, blocks, generations } => {
                    let remote = blocks;
                    return Ok(Some(Admitted { id, due, wants, fresh, token, remote, generations }));
                }
                Answer::Full => self.wait(self.holdings(), until, "room in the producer's pool").map(drop)?,
                other => return Err(format!("unexpected answer {other:?}").into()),
            }
        }
    }

    fn take_blocks(&self, wants: &[Want]) -> Result<Vec<u64>, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut holdings = self.holdings();
        loop {
            match holdings.blocks.acquire(wants) {
                Ok(fresh) => {
                    for hash in &fresh {
                        holdings.contents.remove(hash);
                    }
                    return Ok(fresh);
                }
                Err(Refused::TooLarge) => return Err("the prompt is larger than the consumer's pool".into()),
                Err(Refused::Full) => holdings = self.wait(holdings, until, "room in the consumer's pool")?,
            }
        }
    }

    /// Moves what is missing. Returns when it began and ended, and the bytes.
    fn transfer(&self, admitted: &Admitted) -> Result<(Instant, Instant, u64), Failure> {
        let Some(token) = &admitted.token else {
            let now = Instant::now();
            return Ok((now, now, 0));
        };
        let local: Vec<u32> = {
            let holdings = self.holdings();
            admitted.fresh.iter().flat_map(|&hash| holdings.blocks.held(hash)).copied().collect()
        };
        let began = Instant::now();
        let grant = self.connection.claim(token)?;
        let local = std::slice::from_ref(&local);
        let remote = std::slice::from_ref(&admitted.remote);
        let plan = self.connection.plan_blocks(&grant, local, remote, Op::Read)?;
        let transfer = engine::submit(&self.connection, &plan)?;
        let report = engine::wait(&transfer)?;
        Ok((began, Instant::now(), report.bytes))
    }

    /// Checks every block of the request, counts, and gives everything back.
    fn finish(
        &self,
        admitted: &Admitted,
        moved: Result<(Instant, Instant, u64), Failure>,
    ) -> Result<(), Failure> {
        let ended = match moved {
            Ok(times) => {
                self.arrived(admitted);
                Some(times)
            }
            Err(error) => {
                output::complain(format_args!("request {} is lost: {error}", admitted.id));
                // Others that wait for its blocks must not wait for ever; the exit code tells of the loss.
                self.given_up(admitted);
                None
            }
        };
        let wrong = match ended {
            Some(_) => self.check(admitted)?,
            None => 0,
        };
        self.far().tell(Ask::Done { id: admitted.id as u64 })?;
        let mut holdings = self.holdings();
        let request = &self.requests[admitted.id];
        let blocks: u32 = admitted.wants.iter().map(|want| want.blocks).sum();
        holdings.tally.count(request, blocks, admitted.remote.len() as u32, wrong);
        match ended {
            Some((began, end, bytes)) => {
                holdings.tally.time(admitted.due, began, end, bytes);
            }
            None => holdings.tally.lost += 1,
        }
        holdings.blocks.release(&admitted.wants);
        drop(holdings);
        self.changed.notify_all();
        Ok(())
    }

    /// Notes what the moved blocks must contain, so that others that wait for them go on.
    fn arrived(&self, admitted: &Admitted) {
        let mut holdings = self.holdings();
        let mut generations = admitted.generations.iter();
        for &hash in &admitted.fresh {
            let count = holdings.blocks.held(hash).len() as u32;
            let contents = (0..count)
                .zip(&mut generations)
                .map(|(index, &generation)| Contents { hash, index, generation })
                .collect();
            holdings.contents.insert(hash, contents);
        }
        drop(holdings);
        self.changed.notify_all();
    }

    fn given_up(&self, admitted: &Admitted) {
        let mut holdings = self.holdings();
        holdings.contents.extend(admitted.fresh.iter().map(|&hash| (hash, Vec::new())));
        drop(holdings);
        self.changed.notify_all();
    }

    /// Compares all blocks of the request, moved and reused ones. Returns how many are wrong.
    fn check(&self, admitted: &Admitted) -> Result<u64, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut wrong = 0;
        for want in &admitted.wants {
            let mut holdings = self.holdings();
            while !holdings.contents.contains_key(&want.hash) {
                holdings = self.wait(holdings, until, "blocks that another request is moving")?;
            }
            let contents = holdings.contents[&want.hash].clone();
            let blocks = holdings.blocks.held(want.hash).to_vec();
            drop(holdings);
            for (contents, block) in contents.iter().zip(blocks) {
                if let Err(found) = contents.check(&self.pool, self.parts, block, self.verify) {
                    output::complain(format_args!("request {}: {found}", admitted.id));
                    wrong += 1;
                }
            }
        }
        Ok(wrong)
    }

    fn wait<'g>(
        &self,
        holdings: MutexGuard<'g, Holdings>,
        until: Instant,
        what: &str,
    ) -> Result<MutexGuard<'g, Holdings>, Failure> {
        if Instant::now() > until {
            return Err(format!("waited {PATIENCE:?} for {what}").into());
        }
        let pause = Duration::from_millis(20);
        Ok(self.changed.wait_timeout(holdings, pause).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn far(&self) -> MutexGuard<'_, Far> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a prompt: the last one may have fewer tokens.
fn wants(request: &Request) -> Vec<Want> {
    let tokens = |i: usize| (request.input_length - i as u32 * HASH_TOKENS).min(HASH_TOKENS);
    let entries = request.hash_ids.iter().enumerate();
    entries.map(|(i, &hash)| Want { hash, blocks: tokens(i).div_ceil(BLOCK_TOKENS) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_a_block_for_each_128_tokens() {
        let request =
            |input_length, hash_ids| Request { timestamp: 0, input_length, output_length: 0, hash_ids };
        let blocks = |request: &Request| wants(request).iter().map(|want| want.blocks).collect::<Vec<_>>();
        assert_eq!(blocks(&request(1024, vec![1, 2])), [4, 4]);
        assert_eq!(blocks(&request(1025, vec![1, 2, 3])), [4, 4, 1]);
        assert_eq!(blocks(&request(300, vec![1])), [3]);
    }
}
