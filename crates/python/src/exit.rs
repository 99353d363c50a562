//! The end of the interpreter: engines close, peers are told, and no thread asks for the interpreter any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::keep_alive;

/// How long the end of a process may wait for its peers.
const PATIENCE: Duration = Duration::from_secs(3);

static ENGINES: Mutex<Vec<Weak<ropeway::Engine>>> = Mutex::new(Vec::new());
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Has the engine closed when the interpreter ends.
pub(crate) fn remember(py: Python<'_>, engine: &Arc<ropeway::Engine>) -> PyResult<()> {
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
    let engines = std::mem::take(&mut *ENGINES.lock().unwrap_or_else(PoisonError::into_inner));
    py.detach(|| {
        let until = Instant::now() + PATIENCE;
        for engine in engines.iter().filter_map(Weak::upgrade) {
            // A forked child refuses, which is right: the engine is its parent's.
            let _ = engine.close(until.saturating_duration_since(Instant::now()));
        }
        keep_alive::no_more(PATIENCE);
    });
}
