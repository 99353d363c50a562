//! How the end of something reaches whoever waits for it: an event loop through its eventfd, or a parked thread. Rung by
//! the engine's threads, which need no interpreter for it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::thread::Thread;

use pyo3::prelude::*;
use ropeway::Error;
use rustix::event::{EventfdFlags, eventfd};

use crate::fault::Result;
use crate::process::Process;

/// Wakes all that wait for one thing.
#[derive(Default)]
pub(crate) struct Bell(Mutex<Vec<Listener>>);

#[derive(Clone)]
pub(crate) enum Listener {
    /// Number `1` on an event loop's board.
    Loop(Arc<Board>, u64),
    Thread(Thread),
}

impl Bell {
    /// Has `listener` told of the next ring.
    pub(crate) fn listen(&self, listener: Listener) {
        let mut listeners = lock(&self.0);
        if !listeners.iter().any(|known| known.is(&listener)) {
            listeners.push(listener);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let listeners = std::mem::take(&mut *lock(&self.0));
        for listener in listeners {
            match listener {
                Listener::Loop(board, number) => board.ring(number),
                Listener::Thread(thread) => thread.unpark(),
            }
        }
    }
}

impl Listener {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Loop(one, number), Self::Loop(two, another)) => number == another && Arc::ptr_eq(one, two),
            (Self::Thread(one), Self::Thread(two)) => one.id() == two.id(),
            _ => false,
        }
    }
}

/// Numbers that have rung, and the eventfd that says that there are some.
pub(crate) struct Board {
    event: OwnedFd,
    rung: Mutex<Vec<u64>>,
    /// The eventfd is shared with a forked child, which must not swallow its parent's rings.
    process: Process,
}

impl Board {
    fn ring(&self, number: u64) {
        let mut rung = lock(&self.rung);
        rung.push(number);
        if rung.len() == 1 {
            // It can fail only when the counter is full, and then the descriptor is readable anyway.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

/// An event loop's board of bells.
#[pyclass(frozen, module = "ropeway._ropeway", name = "_Bells")]
pub(crate) struct Bells(pub(crate) Arc<Board>);

#[pymethods]
impl Bells {
    #[new]
    fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::os("await", "eventfd for the event loop", error.into()))?;
        Ok(Self(Arc::new(Board { event, rung: Mutex::default(), process: Process::here() })))
    }

    /// The descriptor that is readable while numbers wait to be taken.
    fn fileno(&self) -> i32 {
        self.0.event.as_raw_fd()
    }

    /// Takes the numbers that have rung.
    fn take(&self) -> Vec<u64> {
        if self.0.process.is_foreign() {
            return Vec::new();
        }
        let mut rung = lock(&self.0.rung);
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
        std::mem::take(&mut rung)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
