//! Asynchronous connects and disconnects: a few threads that sleep until there is work.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::status::{FAILED, Outcome, RESOURCE_EXHAUSTED};

/// States that `GetAsyncConnectStatus` tells.
pub(crate) mod state {
    /// Never asked for here, or disconnected.
    pub(crate) const NOT_CONNECT: u32 = 0;
    /// Waits for a thread.
    pub(crate) const CONNECT_PENDING: u32 = 1;
    /// Under way.
    pub(crate) const CONNECTING: u32 = 2;
    /// Done.
    pub(crate) const CONNECTED: u32 = 3;
    /// Given up.
    pub(crate) const CONNECT_FAILED: u32 = 4;
    /// Waits for a thread.
    pub(crate) const DISCONNECT_PENDING: u32 = 5;
    /// Under way.
    pub(crate) const DISCONNECTING: u32 = 6;
}

/// What a thread does for one peer; true when it is connected afterwards, false when not.
pub(crate) type Work = Box<dyn FnOnce() -> bool + Send>;

/// The threads and their queue.
pub(crate) struct Connects {
    shared: Arc<Shared>,
    threads_max: usize,
    queue_max: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(String, u32, Work)>,
    states: BTreeMap<String, u32>,
    threads: usize,
    idle: usize,
    over: bool,
}

impl Connects {
    pub(crate) fn new(threads_max: usize, queue_max: usize) -> Self {
        Self { shared: Arc::default(), threads_max, queue_max }
    }

    /// Queues work that makes (or ends) a link.
    pub(crate) fn queue(&self, remote: &str, connect: bool, work: Work) -> Outcome {
        let mut queue = self.shared.lock();
        if queue.over {
            return Err(FAILED);
        }
        if queue.waiting.len() >= self.queue_max {
            return Err(RESOURCE_EXHAUSTED);
        }
        if queue.idle == 0 && queue.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("sim-connect".to_owned());
            thread.spawn(move || shared.serve()).map_err(|_| RESOURCE_EXHAUSTED)?;
            queue.threads += 1;
        }
        let (pending, running) = if connect {
            (state::CONNECT_PENDING, state::CONNECTING)
        } else {
            (state::DISCONNECT_PENDING, state::DISCONNECTING)
        };
        queue.states.insert(remote.to_owned(), pending);
        queue.waiting.push_back((remote.to_owned(), running, work));
        drop(queue);
        self.shared.bell.notify_all();
        Ok(())
    }

    /// Peers that were connected this way.
    pub(crate) fn statuses(&self) -> BTreeMap<String, u32> {
        self.shared.lock().states.clone()
    }

    /// How far one is.
    pub(crate) fn status(&self, remote: &str) -> u32 {
        self.shared.lock().states.get(remote).copied().unwrap_or(state::NOT_CONNECT)
    }

    /// A link was taken down in another way.
    pub(crate) fn forget(&self, remote: &str) {
        self.shared.lock().states.remove(remote);
    }

    /// Takes no more work, drops what waits, and wakes sleepers.
    pub(crate) fn end(&self) {
        let mut queue = self.shared.lock();
        queue.over = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.bell.notify_all();
    }

    /// Sleeps until then, or until the engine ends.
    pub(crate) fn sleep_until(&self, until: Instant) {
        let mut queue = self.shared.lock();
        while !queue.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.shared.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Connects {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut queue = self.lock();
        while !queue.over {
            let Some((remote, running, work)) = queue.waiting.pop_front() else {
                queue.idle += 1;
                queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            queue.states.insert(remote.clone(), running);
            drop(queue);
            let connected = work();
            queue = self.lock();
            let state = match (running, connected) {
                (_, true) => state::CONNECTED,
                (state::CONNECTING, false) => state::CONNECT_FAILED,
                (_, false) => state::NOT_CONNECT,
            };
            queue.states.insert(remote, state);
        }
        queue.threads -= 1;
    }
}
