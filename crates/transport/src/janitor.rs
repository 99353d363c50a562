//! One thread that lets go of things whose drop may be slow or run foreign code: maps of many GiB, keep-alives.

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, unbounded};
use ropeway_core::{Error, Result};

use crate::memory::fork::Origin;

/// A handle to a janitor thread. Clones share the thread; it ends by itself after the last clone was dropped and
/// everything handed to it is gone. Nobody joins it.
///
/// Its queue holds at most one entry per [`Memory`](crate::Memory), which other limits bound.
pub struct Janitor {
    queue: ManuallyDrop<Sender<Box<dyn Send>>>,
    origin: Origin,
}

impl Janitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Resource`: no thread is to be had.
    pub fn start() -> Result<Self> {
        let origin = Origin::here()?;
        let (queue, inbox) = unbounded();
        std::thread::Builder::new().name("ropeway-janitor".into()).spawn(move || sweep(&inbox)).map_err(
            |error| {
                Error::os(
                    "janitor",
                    "cannot start the janitor thread; check RLIMIT_NPROC and pids.max",
                    error,
                )
            },
        )?;
        Ok(Self { queue: ManuallyDrop::new(queue), origin })
    }

    /// Drops `it` on the janitor's thread, soon. Never blocks. In a forked child `it` is leaked: what it names belongs
    /// to the parent.
    pub fn drop_later(&self, it: impl Send + 'static) {
        self.drop_boxed(Box::new(it));
    }

    /// The process that started it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    fn drop_boxed(&self, it: Box<dyn Send>) {
        if self.origin.is_foreign() {
            std::mem::forget(it);
            return;
        }
        if let Err(refused) = self.queue.send(it) {
            // The thread outlives every sender, so this is the end of the process: a leak is better than foreign
            // code on a thread that may hold locks.
            std::mem::forget(refused.0);
        }
    }
}

impl Clone for Janitor {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), origin: self.origin }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // In a forked child the channel's locks may be held by threads that do not exist here.
        if !self.origin.is_foreign() {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.queue) };
        }
    }
}

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Janitor")
    }
}

fn sweep(inbox: &Receiver<Box<dyn Send>>) {
    for it in inbox {
        // A keep-alive is the caller's code: its panic must not end the thread that others rely on.
        if catch_unwind(AssertUnwindSafe(|| drop(it))).is_err() {
            tracing::error!("a keep-alive panicked when it was dropped; its memory may be leaked");
        }
    }
}
