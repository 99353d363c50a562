//! The completion queue.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use pyo3::prelude::*;
use ropeway::{Status, TransferId};

use crate::fault::{Result, quiet};
use crate::process::Process;
use crate::seconds::optional;
use crate::text::snake_case;
use crate::wait::in_slices;

/// The engine's queue of ends: of transfers submitted with `user_data` or dropped before their end, of quarantines, and of
/// memory that is withheld for too long.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Completions {
    engine: Arc<ropeway::Engine>,
    process: Process,
}

impl Completions {
    pub(crate) fn new(engine: Arc<ropeway::Engine>, process: Process) -> Self {
        Self { engine, process }
    }
}

#[pymethods]
impl Completions {
    /// A descriptor that is readable while there are ends to drain.
    fn fileno(&self) -> i32 {
        self.engine.completions().as_fd().as_raw_fd()
    }

    /// Takes up to `limit` ends.
    #[pyo3(signature = (limit = 256))]
    fn drain(&self, limit: usize) -> Vec<Completion> {
        let status = Status::COMPLETED;
        let none = ropeway::Completion::Transfer { id: TransferId(0), user_data: 0, status };
        let mut ends = vec![none; limit.min(4096)];
        let count = self.engine.completions().drain(&mut ends);
        ends[..count].iter().map(Completion::from).collect()
    }

    /// The next end, waiting for it up to `timeout` seconds (None: without end).
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> Result<Option<Completion>> {
        self.process.check("completions")?;
        let timeout = optional("timeout", timeout)?;
        let end = in_slices(py, timeout, |slice| self.engine.completions().wait(slice))?;
        Ok(end.as_ref().map(Completion::from))
    }
}

/// One end, as the queue tells it.
#[pyclass(frozen, get_all, module = "ropeway")]
pub(crate) struct Completion {
    /// "transfer": one has ended; "released": blocks left in quarantine are quiet; "fatal": memory was withheld for too long,
    /// and a supervisor should restart the process.
    kind: &'static str,
    /// The transfer; 0 for a lease of ours.
    id: u64,
    /// What `submit` was given; 0 for a detached transfer without one.
    user_data: u64,
    /// How a transfer ended: "completed", "cancelled", "stale_lease", "link_lost"...
    status: Option<String>,
    /// Whether our blocks are quiet: "yes" or "after_close".
    local: Option<&'static str>,
    /// Whether the peer's are.
    remote: Option<&'static str>,
    /// Bytes that are withheld, for "fatal".
    bytes: Option<u64>,
}

impl From<&ropeway::Completion> for Completion {
    fn from(end: &ropeway::Completion) -> Self {
        let plain = |kind, id: TransferId, user_data, bytes| Self {
            kind,
            id: id.0,
            user_data,
            status: None,
            local: None,
            remote: None,
            bytes,
        };
        match *end {
            ropeway::Completion::Transfer { id, user_data, status } => Self {
                status: Some(snake_case(status.kind)),
                local: Some(quiet(status.local)),
                remote: Some(quiet(status.remote)),
                ..plain("transfer", id, user_data, None)
            },
            ropeway::Completion::Released { id, user_data } => plain("released", id, user_data, None),
            ropeway::Completion::Fatal { id, bytes } => plain("fatal", id, 0, Some(bytes)),
            _ => plain("unknown", TransferId(0), 0, None),
        }
    }
}

#[pymethods]
impl Completion {
    fn __repr__(&self) -> String {
        let status = self.status.as_deref().unwrap_or("-");
        format!("<ropeway.Completion {} of {}: {status}>", self.kind, self.id)
    }
}
