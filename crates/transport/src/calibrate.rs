//! Which copy routine and how many threads are best on this machine.
//!
//! The best routine differs between machines by a factor of two either way, so it is measured: a few milliseconds, once
//! per process. Noise only ever makes a trial slower, so each figure is the best of several trials, taken in turns.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use memmap2::{Advice, MmapMut, MmapRaw};

use crate::copy::{self, Piece, Routine, tuning};

/// What was chosen. Cheap to copy; ask it once per batch.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibration {
    cold_from: u64,
    cold: [Rates; CLASSES.len()],
    string_from: usize,
    threads: u32,
    only: Option<Routine>,
}

/// Copy rates of one core, blocks and destination out of cache.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// Bytes of a block.
    pub block_bytes: usize,
    /// GB/s through the cache.
    pub plain: f64,
    /// GB/s past the cache.
    pub streaming: f64,
}

/// Block sizes that are measured: at small ones the latency of the first lines counts, at large ones bandwidth.
const CLASSES: [usize; 2] = [4 << 10, 64 << 10];
/// Runs from here on belong to the second class.
const LARGE_RUN: u64 = 32 << 10;
/// A trial's bytes.
const ARENA: usize = 512 << 10;
const TRIALS: usize = 5;
/// More do not help where memory is the limit.
const MAX_THREADS: u32 = 8;
/// Flushed lines make plain stores look cheap: they are written back after the trial. Streaming may be this much slower
/// in a trial and still be the better choice for a batch that does not stay in the cache.
const WRITE_BACK: f64 = 0.85;

impl Calibration {
    /// The choice of this process: measured at the first call, then remembered.
    pub fn of_this_machine() -> Self {
        static CHOICE: OnceLock<Calibration> = OnceLock::new();
        if let Some(choice) = CHOICE.get() {
            return *choice;
        }
        // Outside of the cell: a fork in the middle must not leave the child with a cell that is never filled.
        let measured = Self::measure();
        tracing::debug!(calibration = %measured, "copy routines measured");
        *CHOICE.get_or_init(|| measured)
    }

    fn measure() -> Self {
        let cold_from = cold_from(last_level_cache());
        let Some(bench) = Bench::new() else {
            // No memory to measure with: what was best on most machines.
            let cold = CLASSES.map(|block_bytes| Rates { block_bytes, plain: 1.0, streaming: 1.0 });
            return Self { cold_from, cold, string_from: usize::MAX, threads: 1, only: None };
        };
        let cold = CLASSES.map(|block_bytes| bench.cold(block_bytes));
        let string_from = bench.string_from();
        tuning::use_string_copy_from(string_from);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let threads = best_threads((cores / 2).clamp(1, MAX_THREADS));
        Self { cold_from, cold, string_from, threads, only: None }
    }

    /// The same with `threads` threads that copy, the waiting one included; 0 leaves the choice.
    #[must_use]
    pub fn with_threads(mut self, threads: u32) -> Self {
        if threads > 0 {
            self.threads = threads;
        }
        self
    }

    /// The same with one routine for everything.
    #[must_use]
    pub fn with_routine(mut self, routine: Routine) -> Self {
        self.only = Some(routine);
        self
    }

    /// The routine for a batch of `batch_bytes` in runs of about `run_bytes`.
    pub fn routine(&self, batch_bytes: u64, run_bytes: u64) -> Routine {
        if let Some(routine) = self.only {
            return routine;
        }
        let rates = &self.cold[usize::from(run_bytes >= LARGE_RUN)];
        if batch_bytes >= self.cold_from && rates.streaming >= rates.plain * WRITE_BACK {
            Routine::Streaming
        } else {
            Routine::Plain
        }
    }

    /// How many threads copy a big batch, the one in `wait()` included. At least 1; at most half of the cores unless
    /// told otherwise.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// From how many bytes on a batch is held to be out of the cache.
    pub fn cold_from(&self) -> u64 {
        self.cold_from
    }

    /// What was measured, by block size.
    pub fn rates(&self) -> &[Rates] {
        &self.cold
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} copy thread(s)", self.threads)?;
        if let Some(only) = self.only {
            return write!(f, ", {only} copy for everything");
        }
        write!(f, ", batches from {} KiB on held to be cold", self.cold_from >> 10)?;
        for rates in &self.cold {
            write!(
                f,
                "; cold {} KiB blocks: {} (plain {:.1} GB/s, streaming {:.1} GB/s)",
                rates.block_bytes >> 10,
                self.routine(u64::MAX, rates.block_bytes as u64),
                rates.plain,
                rates.streaming
            )?;
        }
        match self.string_from {
            usize::MAX => f.write_str("; plain copy by vectors"),
            from => write!(f, "; plain copy by vectors, from {} KiB on by string instructions", from >> 10),
        }
    }
}

/// A batch reads and writes, so it fills the cache at half of its size; other data claims room as well. On a core
/// with 32 MiB plain copies won up to 8 MiB a batch, and lost from 16 MiB on.
fn cold_from(last_level_cache: Option<u64>) -> u64 {
    last_level_cache.map_or(8 << 20, |bytes| (bytes / 3).clamp(1 << 20, 32 << 20))
}

/// Bytes of the largest cache of the first CPU.
fn last_level_cache() -> Option<u64> {
    let mut largest = None;
    for index in 0..5 {
        let file = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        if let Some(bytes) = std::fs::read_to_string(file).ok().and_then(|text| cache_size(&text)) {
            largest = largest.max(Some(bytes));
        }
    }
    largest
}

fn cache_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix('M') {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// Two arenas to copy between.
struct Bench {
    source: MmapRaw,
    target: MmapRaw,
}

impl Bench {
    fn new() -> Option<Self> {
        let arena = || -> Option<MmapRaw> {
            let map = MmapRaw::from(MmapMut::map_anon(ARENA).ok()?);
            // Refused before 5.14; then the fill below faults the pages in.
            let _ = map.advise(Advice::PopulateWrite);
            // SAFETY: our own map.
            unsafe { copy::fill(map.as_mut_ptr(), 1, ARENA) };
            Some(map)
        };
        Some(Self { source: arena()?, target: arena()? })
    }

    /// The arena in blocks, in an order that no prefetcher guesses.
    fn pieces(&self, block: usize) -> Vec<Piece> {
        let count = ARENA / block;
        let at = |index: usize| (index * 37 + 11) % count * block;
        (0..count)
            .map(|index| Piece {
                to: self.target.as_mut_ptr().wrapping_add(at(index * 5)),
                from: self.source.as_ptr().wrapping_add(at(index)),
                len: block,
            })
            .collect()
    }

    fn cold(&self, block: usize) -> Rates {
        let pieces = self.pieces(block);
        let mut best = [f64::INFINITY; 2];
        for _ in 0..TRIALS {
            for (routine, best) in [Routine::Plain, Routine::Streaming].into_iter().zip(&mut best) {
                *best = best.min(self.cold_trial(&pieces, routine));
            }
        }
        let rate = |seconds: f64| ARENA as f64 / seconds / 1e9;
        Rates { block_bytes: block, plain: rate(best[0]), streaming: rate(best[1]) }
    }

    /// Seconds that it takes.
    fn cold_trial(&self, pieces: &[Piece], routine: Routine) -> f64 {
        // SAFETY: our own map.
        unsafe { tuning::flush(self.source.as_ptr(), ARENA) };
        // SAFETY: our own map.
        unsafe { tuning::flush(self.target.as_ptr(), ARENA) };
        let start = Instant::now();
        // SAFETY: the pieces lie in our own maps, and the targets apart.
        unsafe { copy::copy_runs(pieces, routine) };
        seconds_since(start)
    }

    /// From which length on string instructions are at least as fast as vectors, blocks in the second-level cache.
    fn string_from(&self) -> usize {
        let mut from = usize::MAX;
        for block in [16 << 10, 4 << 10] {
            let pieces = self.pieces(block);
            let loops = [tuning::string, tuning::vector];
            let mut best = [f64::INFINITY; 2];
            for _ in 0..TRIALS {
                for (copy, best) in loops.into_iter().zip(&mut best) {
                    let start = Instant::now();
                    for piece in &pieces[..pieces.len() / 4] {
                        // SAFETY: within our own maps.
                        unsafe { copy(piece.to, piece.from, piece.len) };
                    }
                    *best = best.min(seconds_since(start));
                }
            }
            if best[0] > best[1] {
                break;
            }
            from = block;
        }
        from
    }
}

/// Doubles the threads as long as that makes cold copies at least 1.3 times as fast.
fn best_threads(most: u32) -> u32 {
    let mut threads = 1;
    let mut rate = crew_rate(1);
    while threads * 2 <= most {
        let doubled = crew_rate(threads * 2);
        if doubled < rate * 1.3 {
            break;
        }
        (threads, rate) = (threads * 2, doubled);
    }
    threads
}

/// GB/s of `threads` threads that copy at the same time, each in arenas of its own.
fn crew_rate(threads: u32) -> f64 {
    let waiting = AtomicU32::new(threads);
    let worker = || {
        let bench = Bench::new();
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        bench.map_or(0.0, |bench| bench.cold(CLASSES[1]).streaming)
    };
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads {
            match std::thread::Builder::new().name("ropeway-calibrate".into()).spawn_scoped(scope, worker) {
                Ok(thread) => others.push(thread),
                Err(_) => {
                    waiting.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
        worker() + others.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum::<f64>()
    })
}

/// At least a nanosecond, so that a rate is finite.
fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_rates(plain: f64, streaming: f64) -> Calibration {
        let cold = CLASSES.map(|block_bytes| Rates { block_bytes, plain, streaming });
        Calibration { cold_from: 8 << 20, cold, string_from: 4096, threads: 1, only: None }
    }

    #[test]
    fn batches_that_stay_in_the_cache_are_copied_plain_and_others_as_measured() {
        let streams = with_rates(10.0, 15.0);
        assert_eq!(streams.routine((8 << 20) - 1, 4096), Routine::Plain);
        assert_eq!(streams.routine(8 << 20, 4096), Routine::Streaming);
        assert_eq!(with_rates(15.0, 10.0).routine(8 << 20, 4096), Routine::Plain);
    }

    #[test]
    fn each_class_of_blocks_has_its_own_choice() {
        let mut mixed = with_rates(10.0, 15.0);
        mixed.cold[0].plain = 30.0;
        assert_eq!(mixed.routine(1 << 30, 4 << 10), Routine::Plain);
        assert_eq!(mixed.routine(1 << 30, 64 << 10), Routine::Streaming);
    }

    #[test]
    fn an_override_holds_for_everything() {
        let fixed = with_rates(10.0, 15.0).with_routine(Routine::Null).with_threads(3);
        assert_eq!((fixed.routine(1, 1), fixed.routine(1 << 40, 1 << 20)), (Routine::Null, Routine::Null));
        assert_eq!(fixed.threads(), 3);
        assert_eq!(fixed.with_threads(0).threads(), 3);
    }

    #[test]
    fn cache_sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(cache_size("32768K\n"), Some(32 << 20));
        assert_eq!(cache_size("2M"), Some(2 << 20));
        assert_eq!(cache_size("\n"), None);
        assert_eq!(cold_from(None), 8 << 20);
        assert_eq!(cold_from(Some(32 << 20)), (32 << 20) / 3);
    }

    #[test]
    fn this_machine_is_measured_once() {
        let first = Calibration::of_this_machine();
        assert_eq!(Calibration::of_this_machine(), first);
        assert!(first.threads() >= 1);
        for rates in first.rates() {
            assert!(rates.plain > 0.0 && rates.streaming > 0.0, "{first}");
        }
        assert!(first.to_string().contains("copy thread"), "{first}");
    }
}
