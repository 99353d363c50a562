//! loom models: every interleaving of small cases of chunk claims and of the state that they end.

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use ropeway_core::{Cursor, Run, Runs, Status, StatusKind, TransferId};

use super::claims::{Chunk, Claim, Claims, Ended};
use crate::{Memory, State, Watcher};

/// One-byte runs.
struct Bytes(u64);

impl Runs for Bytes {
    fn total_bytes(&self) -> u64 {
        self.0
    }

    fn total_runs(&self) -> u64 {
        self.0
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], _: u64) -> usize {
        let count = (self.0 - at.byte).min(out.len() as u64);
        for run in &mut out[..count as usize] {
            *run = Run { local: at.byte * 2, len: 1, ..Run::default() };
            at.byte += 1;
        }
        count as usize
    }

    fn seek(&self, byte: u64) -> Cursor {
        Cursor { byte, ..Cursor::default() }
    }

    fn encode(&self, _: &mut BytesMut) {}
}

struct Deaf;

impl Watcher for Deaf {
    fn finished(&self, _: &State, _: Status, _: Option<std::sync::Arc<[std::sync::Arc<Memory>]>>) {}
}

struct Shared {
    claims: Claims,
    state: std::sync::Arc<State>,
    runs: Bytes,
    moving: AtomicUsize,
    moved: AtomicUsize,
    ends: AtomicUsize,
}

impl Shared {
    fn new(bytes: u64) -> Arc<Self> {
        let (state, done) = State::new(TransferId(1), 0, std::sync::Arc::new([]), std::sync::Arc::new(Deaf));
        Arc::new(Self {
            claims: Claims::new(bytes, 2, done),
            state,
            runs: Bytes(bytes),
            moving: AtomicUsize::new(0),
            moved: AtomicUsize::new(0),
            ends: AtomicUsize::new(0),
        })
    }

    fn work(&self) {
        let mut chunk = Chunk::new();
        loop {
            match self.claims.claim(&self.runs, false, &mut chunk) {
                Claim::Taken => {}
                Claim::Nothing => return,
                Claim::Ended(ended) => return self.finish(ended),
            }
            self.moving.fetch_add(1, Ordering::SeqCst);
            self.moved.fetch_add(chunk.runs().len(), Ordering::SeqCst);
            self.moving.fetch_sub(1, Ordering::SeqCst);
            if let Some(ended) = self.claims.moved(None) {
                self.finish(ended);
            }
        }
    }

    fn finish(&self, ended: Ended) {
        assert_eq!(self.moving.load(Ordering::SeqCst), 0, "terminal means quiesced");
        if ended.status.is_completed() {
            assert_eq!(self.moved.load(Ordering::SeqCst) as u64, self.runs.0, "every byte once");
        }
        self.ends.fetch_add(1, Ordering::SeqCst);
        // SAFETY: nothing of this model touches memory.
        unsafe { ended.done.finish(ended.status) };
    }
}

#[test]
fn loom_a_batch_of_claimed_chunks_ends_once_and_not_before_its_last_chunk() {
    loom::model(|| {
        let shared = Shared::new(4);
        let other = Arc::clone(&shared);
        let worker = loom::thread::spawn(move || other.work());
        shared.work();
        worker.join().unwrap();
        assert_eq!(shared.ends.load(Ordering::SeqCst), 1);
        assert!(shared.state.status().unwrap().is_completed());
    });
}

#[test]
fn loom_a_cancelled_batch_ends_once_and_nothing_moves_after() {
    loom::model(|| {
        let shared = Shared::new(4);
        let other = Arc::clone(&shared);
        let worker = loom::thread::spawn(move || other.work());
        if let Some(ended) = shared.claims.stop(StatusKind::Cancelled) {
            shared.finish(ended);
        }
        worker.join().unwrap();
        assert_eq!(shared.ends.load(Ordering::SeqCst), 1);
        let kind = shared.state.status().unwrap().kind;
        assert!(matches!(kind, StatusKind::Completed | StatusKind::Cancelled), "{kind:?}");
    });
}

#[test]
fn loom_a_waiter_is_woken_and_sees_what_was_written_before_the_end() {
    loom::model(|| {
        let (state, done) = State::new(TransferId(1), 0, std::sync::Arc::new([]), std::sync::Arc::new(Deaf));
        let byte = Arc::new(loom::cell::UnsafeCell::new(0));
        let theirs = Arc::clone(&byte);
        let worker = loom::thread::spawn(move || {
            // SAFETY: read only after the end was seen.
            theirs.with_mut(|byte| unsafe { *byte = 7 });
            // SAFETY: nothing of this model touches memory after.
            unsafe { done.finish(Status::COMPLETED) };
        });
        if state.is_done() {
            // SAFETY: the writer has ended.
            assert_eq!(byte.with(|byte| unsafe { *byte }), 7);
        }
        assert!(state.park(None).unwrap().is_completed());
        // SAFETY: the writer has ended.
        assert_eq!(byte.with(|byte| unsafe { *byte }), 7);
        worker.join().unwrap();
    });
}

#[test]
fn loom_a_poller_sees_the_end_or_is_woken_and_a_dropped_completer_ends_too() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    loom::model(|| {
        let (state, done) = State::new(TransferId(1), 0, std::sync::Arc::new([]), std::sync::Arc::new(Deaf));
        let worker = loom::thread::spawn(move || drop(done));
        let count = std::sync::Arc::new(Count(0.into()));
        let waker = Waker::from(std::sync::Arc::clone(&count));
        let first = state.poll(&mut Context::from_waker(&waker));
        worker.join().unwrap();
        let woken = count.0.load(std::sync::atomic::Ordering::SeqCst);
        match first {
            Poll::Ready(status) => assert_eq!(status, Status::INDETERMINATE),
            Poll::Pending => assert_eq!(woken, 1),
        }
        assert_eq!(state.poll(&mut Context::from_waker(&waker)), Poll::Ready(Status::INDETERMINATE));
    });
}
