//! Waiting with the interpreter free, and Ctrl-C heard.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use ropeway::{Error, ErrorKind};

use crate::exit::Entry;
use crate::fault::Result;

/// How long a signal may go unheard.
const SLICE: Duration = Duration::from_millis(50);

/// Calls `step` with short times until it gives something, `timeout` has passed, or a signal handler raised.
pub(crate) fn in_slices<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    mut step: impl FnMut(Duration) -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()).min(SLICE));
        let before = Instant::now();
        let (_entry, value) = py.detach(|| {
            let value = step(left);
            (Entry::ask_or_stop(), value)
        });
        if value.is_some() {
            return Ok(value);
        }
        py.check_signals()?;
        // A step that had no reason to wait for must not make this spin.
        let rest = left.saturating_sub(before.elapsed());
        if !rest.is_zero() {
            let _entry = py.detach(|| {
                std::thread::sleep(rest);
                Entry::ask_or_stop()
            });
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(None);
        }
    }
}

/// Runs something that blocks and cannot be cut into slices: on a thread of its own, which goes on alone when a signal
/// handler raised.
pub(crate) fn aside<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T> {
    let (tell, mut told) = channel();
    let work = move || drop(tell.send(work()));
    std::thread::Builder::new()
        .name("ropeway-close".into())
        .spawn(work)
        .map_err(|error| Error::os("close", "cannot start a thread", error))?;
    loop {
        let (back, said, _entry) = py.detach(move || {
            let said = told.recv_timeout(SLICE);
            (told, said, Entry::ask_or_stop())
        });
        told = back;
        match said {
            Ok(value) => return Ok(value?),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(ErrorKind::Internal, "close", "the closing thread panicked").into());
            }
        }
    }
}
