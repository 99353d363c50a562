use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Ending, Job, Move, Mover, Quiesce, Request, Spot};

/// Two buffers of this process, reached as a link reaches host memory.
struct Pair {
    from: Box<[u8]>,
    to: Box<[u8]>,
}

const SIZE: usize = 4 << 20;
/// Bytes of one copy.
const PIECE: u64 = 64 << 10;

impl Pair {
    fn new() -> Self {
        Self { from: vec![7; SIZE].into(), to: vec![0; SIZE].into() }
    }

    fn job(&mut self, takes_ms: u64, ending: Ending) -> (Job, Arc<Request>) {
        let process = std::process::id() as i32;
        let spot = |at: *const u8| Spot::Host(process, at as u64);
        let whole =
            Move { from: spot(self.from.as_ptr()), to: spot(self.to.as_mut_ptr()), length: SIZE as u64 };
        let moves = (0..SIZE as u64 / PIECE).map(|i| whole.part(i * PIECE, PIECE)).collect();
        let request = Arc::<Request>::default();
        let takes = Duration::from_millis(takes_ms);
        (Job { moves, takes, ending, request: Arc::clone(&request) }, request)
    }

    /// How many bytes have come over, by the last one of each copy.
    fn moved(&self) -> usize {
        let lasts = self.to.chunks(PIECE as usize).filter_map(|piece| piece.last());
        lasts.filter(|byte| **std::hint::black_box(byte) == 7).count() * PIECE as usize
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn a_job_ends_well_when_all_bytes_have_moved() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (job, request) = pair.job(0, Ending::Well);
    assert!(mover.post(job));
    assert_eq!(request.wait(soon()), Some(true));
    assert_eq!(pair.moved(), SIZE);
    assert!(!mover.is_latched());
}

#[test]
fn a_broken_job_moves_a_part_and_latches() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (job, request) = pair.job(0, Ending::Broken(0.25));
    assert!(mover.post(job));
    assert_eq!(request.wait(soon()), Some(false));
    assert_eq!(pair.moved(), SIZE / 4);
    assert!(mover.is_latched());
}

#[test]
fn a_job_does_not_end_before_its_time() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let start = Instant::now();
    let (job, request) = pair.job(60, Ending::Well);
    assert!(mover.post(job));
    assert_eq!(request.wait(start + Duration::from_millis(5)), None);
    assert_eq!(request.wait(soon()), Some(true));
    assert!(start.elapsed() >= Duration::from_millis(60));
}

/// Longer than any hold-up of this test's own threads.
const LONG: u64 = 2500;

fn begun(pair: &Pair) {
    let limit = soon();
    while pair.moved() == 0 {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_moves_once_a_quiet_end_has_returned() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (job, request) = pair.job(LONG, Ending::Well);
    assert!(mover.post(job));
    begun(&pair);
    mover.end(Quiesce::Yes);
    let (then, end) = (pair.moved(), request.end());
    std::thread::sleep(Duration::from_millis(LONG));
    assert!(then < SIZE);
    assert_eq!((pair.moved(), end), (then, Some(false)));
}

#[test]
fn a_late_end_lets_bytes_land_after_it_and_then_no_more() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (job, _request) = pair.job(LONG, Ending::Well);
    assert!(mover.post(job));
    begun(&pair);
    mover.end(Quiesce::Late(Duration::from_millis(300)));
    let then = pair.moved();
    std::thread::sleep(Duration::from_millis(LONG));
    let later = pair.moved();
    assert!(then < later && later < SIZE, "{then} {later}");
}

#[test]
fn an_end_that_quiets_nothing_lets_all_bytes_land() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (job, _request) = pair.job(300, Ending::Well);
    assert!(mover.post(job));
    mover.end(Quiesce::No);
    drop(mover);
    let limit = soon();
    while pair.moved() < SIZE {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_that_is_gone_fails_the_job_and_nothing_else() {
    let (mut pair, mover) = (Pair::new(), Mover::new());
    let (mut job, request) = pair.job(0, Ending::Well);
    job.moves[0].from = Spot::Host(std::process::id() as i32, 16);
    assert!(mover.post(job));
    assert_eq!(request.wait(soon()), Some(false));
}
