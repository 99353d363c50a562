//! Does the store fence do anything? A message-passing litmus test: copy, fence, release flag; acquire flag, read.
//!
//! Of a big block only the last lines can be late, so the block is as small as a streaming copy takes. Loom cannot see
//! this: it knows no streaming stores.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Routine, copy, store_fence};
use crate::memory::guard::Guarded;

const BYTES: usize = 256;
const ROUNDS: u64 = 100_000;
/// How long the writer goes on at most: on a busy machine there are fewer rounds.
const BUDGET: Duration = Duration::from_secs(2);

/// What the reader found.
struct Seen {
    rounds: u64,
    /// Rounds in which the flag was new and the last word of the block old.
    stale: u64,
}

fn pass_messages(routine: Routine, fence: fn()) -> Seen {
    let block = Guarded::new(BYTES).unwrap();
    let to = AtomicPtr::new(block.base().as_ptr());
    // Round number times two, plus one in the last round.
    let (flag, answer) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| write_rounds(to.load(Ordering::Relaxed), routine, fence, &flag, &answer));
        read_rounds(to.load(Ordering::Relaxed), &flag, &answer)
    })
}

fn write_rounds(to: *mut u8, routine: Routine, fence: fn(), flag: &AtomicU64, answer: &AtomicU64) {
    let end = Instant::now() + BUDGET;
    for round in 1..=ROUNDS {
        let words = [round; BYTES / 8];
        // SAFETY: both have `BYTES` bytes; the reader goes through the kernels, too.
        unsafe { copy(to, words.as_ptr().cast(), BYTES, routine) };
        fence();
        let last = round == ROUNDS || (round % 256 == 0 && Instant::now() > end);
        flag.store(round << 1 | u64::from(last), Ordering::Release);
        wait_until(|| answer.load(Ordering::Acquire) == round);
        if last {
            return;
        }
    }
}

fn read_rounds(block: *const u8, flag: &AtomicU64, answer: &AtomicU64) -> Seen {
    let mut seen = Seen { rounds: 0, stale: 0 };
    let last_word = block.wrapping_add(BYTES - 8);
    loop {
        wait_until(|| flag.load(Ordering::Acquire) >> 1 > seen.rounds);
        let mut word = [0; 8];
        // SAFETY: the last word of the block.
        unsafe { copy(word.as_mut_ptr(), last_word, 8, Routine::Plain) };
        seen.rounds += 1;
        seen.stale += u64::from(u64::from_ne_bytes(word) != seen.rounds);
        let last = flag.load(Ordering::Acquire) & 1 == 1;
        answer.store(seen.rounds, Ordering::Release);
        if last {
            return seen;
        }
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let watchdog = Instant::now() + Duration::from_secs(60);
    let mut spins = 0_u32;
    while !done() {
        spins += 1;
        if spins < 1000 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
            assert!(Instant::now() < watchdog, "the other thread gave no answer in a minute");
        }
    }
}

#[test]
fn no_byte_is_late_after_the_store_fence() {
    for routine in [Routine::Plain, Routine::Streaming] {
        let seen = pass_messages(routine, store_fence);
        assert_eq!(seen.stale, 0, "{routine}: stale of {} rounds", seen.rounds);
    }
}

/// Not a fact about our code, but about the test above: it can fail on this machine.
#[test]
fn without_the_store_fence_streamed_bytes_are_late() {
    let seen = pass_messages(Routine::Streaming, || {});
    if seen.stale == 0 {
        ropeway_testkit::cannot_run(
            "without_the_store_fence_streamed_bytes_are_late",
            &format!(
                "no stale read in {} rounds; this CPU (or emulator, or one core) hides a missing fence",
                seen.rounds
            ),
        );
    }
}
