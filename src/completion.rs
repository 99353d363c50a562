//! The completion queue: one descriptor for epoll and asyncio, drained in batches.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ropeway_core::{Error, Result, Status, TransferId};
use rustix::event::{EventfdFlags, eventfd};

use ropeway_transport::memory::fork::Origin;

/// One end, as the queue tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Completion {
    /// A transfer that was submitted with `user_data`, or was dropped before its end, has ended.
    Transfer {
        /// The transfer.
        id: TransferId,
        /// What `Submit::user_data` gave along; 0 for a detached transfer without one.
        user_data: u64,
        /// How it ended.
        status: Status,
    },
    /// Blocks that a transfer had left in quarantine are proven quiet.
    Released {
        /// The transfer that they were withheld for.
        id: TransferId,
        /// What `Submit::user_data` gave along.
        user_data: u64,
    },
    /// Memory was withheld longer than `quarantine_fatal_after`. A supervisor should restart the process.
    Fatal {
        /// The transfer whose blocks are withheld, or 0 for a lease of ours.
        id: TransferId,
        /// Bytes withheld.
        bytes: u64,
    },
}

/// The queue; empty in a forked child. Places are reserved at submit, so that an end is never lost for want of room.
#[derive(Debug)]
pub struct Completions {
    event: OwnedFd,
    inner: Mutex<Inner>,
    ready: Condvar,
    limit: usize,
    origin: Origin,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Completion>,
    /// Places held by transfers that will report here.
    reserved: usize,
}

impl Completions {
    pub(crate) fn new(limit: u32) -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::os("open", "eventfd for the completion queue", e.into()))?;
        Ok(Self {
            event,
            inner: Mutex::new(Inner { queue: VecDeque::new(), reserved: 0 }),
            ready: Condvar::new(),
            limit: limit as usize,
            origin: Origin::here()?,
        })
    }

    /// Moves ends into `out`; returns how many. When the queue is empty afterwards, the descriptor is no longer readable.
    pub fn drain(&self, out: &mut [Completion]) -> usize {
        // The descriptor is shared with a forked child, which must not swallow its parent's wake-ups.
        if self.origin.is_foreign() {
            return 0;
        }
        let mut inner = self.lock();
        let count = out.len().min(inner.queue.len());
        for (slot, completion) in out.iter_mut().zip(inner.queue.drain(..count)) {
            *slot = completion;
        }
        if inner.queue.is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        count
    }

    /// The next end, waiting for it up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<Completion> {
        if self.origin.is_foreign() {
            return None;
        }
        let until = crate::deadline::after(timeout);
        let mut inner = self.lock();
        loop {
            if let Some(completion) = inner.queue.pop_front() {
                if inner.queue.is_empty() {
                    let _ = rustix::io::read(&self.event, &mut [0; 8]);
                }
                return Some(completion);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self.ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a place for an end to come.
    pub(crate) fn reserve(&self) -> Result<(), &'static str> {
        let mut inner = self.lock();
        if inner.queue.len() + inner.reserved >= self.limit {
            return Err("completions");
        }
        inner.reserved += 1;
        Ok(())
    }

    /// Gives a reserved place back unused.
    pub(crate) fn unreserve(&self) {
        self.lock().reserved -= 1;
    }

    /// Fills a reserved place.
    pub(crate) fn push_reserved(&self, completion: Completion) {
        let mut inner = self.lock();
        inner.reserved -= 1;
        self.push_locked(&mut inner, completion);
    }

    /// Reports something that no place was reserved for; `false` when there is no room.
    pub(crate) fn push(&self, completion: Completion) -> bool {
        let mut inner = self.lock();
        if inner.queue.len() + inner.reserved >= self.limit {
            return false;
        }
        self.push_locked(&mut inner, completion);
        true
    }

    fn push_locked(&self, inner: &mut Inner, completion: Completion) {
        inner.queue.push_back(completion);
        if inner.queue.len() == 1 {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
        self.ready.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable while there are ends to drain: for epoll, or asyncio's `add_reader`.
impl AsFd for Completions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64) -> Completion {
        Completion::Transfer { id: TransferId(id), user_data: id, status: Status::COMPLETED }
    }

    #[test]
    fn a_reserved_place_survives_a_full_queue() {
        let queue = Completions::new(2).unwrap();
        queue.reserve().unwrap();
        assert!(queue.push(ended(1)));
        assert!(!queue.push(ended(2)), "the reserved place is not given away");
        assert_eq!(queue.reserve(), Err("completions"));
        queue.push_reserved(ended(3));
        let mut out = [ended(0); 4];
        assert_eq!(queue.drain(&mut out), 2);
        assert_eq!(out[..2], [ended(1), ended(3)]);
        assert!(queue.reserve().is_ok());
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_ends_wait() {
        let queue = Completions::new(8).unwrap();
        let readable = || {
            let mut fds = [rustix::event::PollFd::new(&queue, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap()
                == 1
        };
        assert!(!readable());
        queue.push(ended(1));
        queue.push(ended(2));
        assert!(readable());
        assert!(queue.wait(Duration::ZERO).is_some());
        assert!(readable());
        assert!(queue.wait(Duration::ZERO).is_some());
        assert!(!readable());
    }
}
