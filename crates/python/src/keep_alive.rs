//! Python objects that own memory which the engine uses.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// The interpreter is about to end: no thread may attach any more.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Drops that are under way on the janitors' threads.
static DROPPING: AtomicUsize = AtomicUsize::new(0);

/// Keeps a Python object until the engine has let go of its memory. Dropped on a janitor's thread, which attaches to the
/// interpreter for it and holds no lock then. Once the interpreter is ending the object is leaked instead: a thread that
/// asks for the interpreter too late is ended by it, or never comes back.
pub(crate) struct KeepAlive(Option<Py<PyAny>>);

impl KeepAlive {
    pub(crate) fn new(object: Bound<'_, PyAny>) -> Self {
        Self(Some(object.unbind()))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        let Some(object) = self.0.take() else { return };
        // Counted first: `no_more` either sees the count, or is seen here.
        DROPPING.fetch_add(1, Ordering::SeqCst);
        if ENDING.load(Ordering::SeqCst) {
            std::mem::forget(object);
        } else {
            let mut object = Some(object);
            let _ = Python::try_attach(|_| drop(object.take()));
            std::mem::forget(object);
        }
        DROPPING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// From here on objects are leaked. Waits for those that are being dropped; call it detached.
pub(crate) fn no_more(patience: Duration) {
    ENDING.store(true, Ordering::SeqCst);
    let until = Instant::now() + patience;
    while DROPPING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
