//! The end of the interpreter: engines close, peers are told, and no thread asks for the interpreter any more, since one that
//! asks too late is ended in the middle of its frames.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long the end of a process may wait for its peers, and for threads that are on their way in.
const PATIENCE: Duration = Duration::from_secs(3);

static ENGINES: Mutex<Vec<Weak<ropeway::Engine>>> = Mutex::new(Vec::new());
static REGISTERED: AtomicBool = AtomicBool::new(false);
/// The process that opened an engine last: a forked child has the counts of its parent, and none of the threads.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// The interpreter is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);
/// The thread that ends it. It runs what else is to be done at the end, and nothing waits for it.
static LAST: OnceLock<ThreadId> = OnceLock::new();
/// Threads that are about to attach, or attached and not done yet.
static ENTERING: AtomicUsize = AtomicUsize::new(0);

/// A thread's leave to attach to the interpreter; the interpreter does not end before it is dropped.
pub(crate) struct Entry(());

impl Entry {
    /// None once the interpreter is about to end.
    pub(crate) fn ask() -> Option<Self> {
        // Counted first: the end either sees the count, or is seen here.
        ENTERING.fetch_add(1, Ordering::SeqCst);
        let entry = Self(());
        (!ENDING.load(Ordering::SeqCst)).then_some(entry)
    }

    /// As [`Self::ask`]; too late, the thread stops here for good, unless it is the one that ends the interpreter. For daemon
    /// threads, which nobody waits for.
    pub(crate) fn ask_or_stop() -> Self {
        if let Some(entry) = Self::ask() {
            return entry;
        }
        if LAST.get() == Some(&std::thread::current().id()) {
            ENTERING.fetch_add(1, Ordering::SeqCst);
            return Self(());
        }
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        ENTERING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Has the engine closed when the interpreter ends.
pub(crate) fn remember(py: Python<'_>, engine: &Arc<ropeway::Engine>) -> PyResult<()> {
    if PROCESS.swap(std::process::id(), Ordering::SeqCst) != std::process::id() {
        ENTERING.store(0, Ordering::SeqCst);
    }
    if !REGISTERED.swap(true, Ordering::SeqCst) {
        py.import("atexit")?.call_method1("register", (wrap_pyfunction!(at_exit, py)?,))?;
    }
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    engines.retain(|engine| engine.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
    Ok(())
}

/// Closes what is open, all of it within a few seconds.
#[pyfunction]
fn at_exit(py: Python<'_>) {
    if PROCESS.load(Ordering::SeqCst) != std::process::id() {
        return;
    }
    let _ = LAST.set(std::thread::current().id());
    let engines = std::mem::take(&mut *ENGINES.lock().unwrap_or_else(PoisonError::into_inner));
    py.detach(|| {
        ENDING.store(true, Ordering::SeqCst);
        let until = Instant::now() + PATIENCE;
        for engine in engines.iter().filter_map(Weak::upgrade) {
            // A forked child refuses, which is right: the engine is its parent's.
            let _ = engine.close(until.saturating_duration_since(Instant::now()));
        }
        while ENTERING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
