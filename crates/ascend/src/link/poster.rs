//! The posting thread: one per transport, for all its links. It sleeps when there is nothing in flight.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::core::LinkCore;
use super::lane::Next;

/// The shortest sleep: below this the clock and the wake-up are longer.
const SLEEP_MIN: Duration = Duration::from_micros(20);

/// Wakes the thread, and tells it which links have something to do.
pub(super) struct Poster {
    enter: Box<dyn Fn() + Send + Sync>,
    queue: Mutex<Queue>,
    bell: Condvar,
    turns: AtomicU64,
}

#[derive(Default)]
struct Queue {
    rung: Vec<Arc<LinkCore>>,
    running: bool,
    parked: bool,
    stopping: bool,
}

struct Active {
    link: Arc<LinkCore>,
    next: Option<Next>,
}

impl Poster {
    /// `enter` is called first on the thread.
    pub(super) fn new(enter: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            enter: Box::new(enter),
            queue: Mutex::default(),
            bell: Condvar::new(),
            turns: AtomicU64::new(0),
        })
    }

    /// Starts the thread, unless it is there.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), std::io::Error> {
        self.start_locked(&mut self.lock())
    }

    fn start_locked(self: &Arc<Self>, queue: &mut Queue) -> Result<(), std::io::Error> {
        if queue.running {
            return Ok(());
        }
        let me = Arc::clone(self);
        std::thread::Builder::new().name("ropeway-npu-post".into()).spawn(move || {
            (me.enter)();
            me.work();
        })?;
        queue.running = true;
        Ok(())
    }

    /// The link has something to do.
    pub(super) fn ring(self: &Arc<Self>, link: Arc<LinkCore>) {
        let mut queue = self.lock();
        queue.rung.push(link);
        // It had ended with the transport, and a link's own end came later.
        if let Err(error) = self.start_locked(&mut queue) {
            tracing::error!(%error, "no posting thread is to be had; a link stands still");
        }
        let parked = queue.parked;
        drop(queue);
        if parked {
            self.bell.notify_one();
        }
    }

    /// Lets the thread end once no link has anything to do.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.bell.notify_all();
    }

    /// How often a link was looked at: it stands still while nothing is in flight.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn work(&self) {
        let mut active: HashMap<u64, Active> = HashMap::new();
        let mut rung = Vec::new();
        let mut pause = Pause::Until(None);
        while self.wait(pause, active.is_empty(), &mut rung) {
            for link in rung.drain(..) {
                link.heard_the_bell();
                active.entry(link.number()).or_insert_with(|| Active { link, next: None }).next = None;
            }
            let now = Instant::now();
            for entry in active.values_mut() {
                let due = entry.next.is_none_or(|next| next.is_due(now));
                if due {
                    self.turns.fetch_add(1, Ordering::Relaxed);
                    entry.next = Some(turn(&entry.link));
                }
            }
            active.retain(|_, entry| {
                entry.next.is_some_and(|next| next.progress || next.soon || next.at.is_some())
            });
            pause = Pause::of(active.values().filter_map(|entry| entry.next));
        }
    }

    /// Sleeps; gives the links that rang. False when the thread is to end.
    fn wait(&self, pause: Pause, idle: bool, rung: &mut Vec<Arc<LinkCore>>) -> bool {
        let until = match pause {
            Pause::Not => {
                // Not even for the lock's sake: whoever posts must not wait for this thread.
                std::thread::yield_now();
                Some(Instant::now())
            }
            Pause::Until(until) => until,
        };
        let mut queue = self.lock();
        loop {
            if !queue.rung.is_empty() {
                std::mem::swap(&mut queue.rung, rung);
                return true;
            }
            if queue.stopping && idle {
                queue.running = false;
                return false;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return true;
            }
            queue.parked = true;
            queue = match left {
                None => self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            queue.parked = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic in one link (the engine's watcher of an end) must not end the thread that others rely on.
fn turn(link: &LinkCore) -> Next {
    catch_unwind(AssertUnwindSafe(|| link.turn(Instant::now()))).unwrap_or_else(|_| {
        tracing::error!("a panic at the end of a batch; the posting thread goes on");
        Next { progress: true, at: None, soon: false }
    })
}

#[derive(Clone, Copy)]
enum Pause {
    Not,
    Until(Option<Instant>),
}

impl Pause {
    fn of(next: impl Iterator<Item = Next>) -> Self {
        let mut at: Option<Instant> = None;
        for next in next {
            if next.progress || next.soon {
                return Self::Not;
            }
            at = at.into_iter().chain(next.at).min();
        }
        Self::Until(at.map(|at| at.max(Instant::now() + SLEEP_MIN)))
    }
}
