//! Leases, as the owner of the blocks holds them.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::fault::Result;
use crate::pending::Pending;
use crate::process::Process;
use crate::seconds::{duration, optional};
use crate::text::snake_case;
use crate::wait::in_slices;

/// A promise to keep a set of blocks open for peers. Dropping the last reference revokes it, in the background.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Lease {
    inner: Arc<ropeway::Lease>,
    process: Process,
}

impl Lease {
    pub(crate) fn new(inner: ropeway::Lease) -> Self {
        Self { inner: Arc::new(inner), process: Process::here() }
    }
}

#[pymethods]
impl Lease {
    /// The lease's id.
    #[getter]
    fn id(&self) -> String {
        self.inner.id().to_string()
    }

    /// The string that lets a peer claim it. Whoever holds it and reaches the engine can: treat it as a secret.
    #[getter]
    fn token(&self) -> String {
        self.inner.token().to_string()
    }

    /// Ends the promise. The lease becomes free when accesses under way are proven over.
    fn revoke(&self, py: Python<'_>) {
        py.detach(|| self.inner.revoke());
    }

    /// Whether the blocks may be reused.
    #[getter]
    fn is_free(&self) -> bool {
        self.inner.is_free()
    }

    /// The peers that may still touch the blocks of an ended lease.
    #[getter]
    fn withheld_by(&self) -> Vec<String> {
        self.inner.withheld_by().iter().map(ToString::to_string).collect()
    }

    /// Waits up to `timeout` seconds (None: without end) until the blocks may be reused; None when that passed first.
    #[pyo3(signature = (timeout = None))]
    fn wait_free(&self, py: Python<'_>, timeout: Option<f64>) -> Result<Option<Freed>> {
        self.process.check("wait_free")?;
        let timeout = optional("timeout", timeout)?;
        Ok(in_slices(py, timeout, |slice| self.inner.wait_free(slice))?.map(Freed::from))
    }

    /// The same to await.
    fn freed(&self) -> Result<Pending> {
        self.process.check("freed")?;
        let freed = self.inner.freed();
        Ok(Pending::new(async move { Ok(freed.await) }, Freed::from))
    }

    /// Whether a holder has told that `sequence` arrived. A retried transfer counts once.
    fn arrived(&self, sequence: u32) -> bool {
        self.inner.arrived(sequence)
    }

    /// Whether the last word about `sequence` was a failure.
    fn failed(&self, sequence: u32) -> bool {
        self.inner.failed(sequence)
    }

    /// How many different sequences have arrived.
    #[getter]
    fn arrivals(&self) -> u32 {
        self.inner.arrivals()
    }

    /// Waits up to `timeout` seconds until `count` different sequences have arrived; False when that passed first or the
    /// lease became free before.
    fn wait_arrivals(&self, py: Python<'_>, count: u32, timeout: f64) -> Result<bool> {
        self.process.check("wait_arrivals")?;
        let timeout = duration("timeout", timeout)?;
        let step = |slice| {
            let enough = self.inner.wait_arrivals(count, slice);
            (enough || self.inner.is_free()).then_some(enough)
        };
        Ok(in_slices(py, Some(timeout), step)?.unwrap_or(false))
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Lease {}, free: {}>", self.inner.id(), self.inner.is_free())
    }
}

/// How a lease became free.
#[pyclass(frozen, get_all, module = "ropeway")]
pub(crate) struct Freed {
    /// Why it ended: "done", "revoked", "expired", "never_claimed", "peer_lost" or "forsaken".
    outcome: String,
    /// Whether its blocks were in quarantine before.
    quarantined: bool,
}

impl From<ropeway::Freed> for Freed {
    fn from(freed: ropeway::Freed) -> Self {
        Self { outcome: snake_case(freed.outcome), quarantined: freed.quarantined }
    }
}

#[pymethods]
impl Freed {
    fn __repr__(&self) -> String {
        let quarantined = if self.quarantined { "True" } else { "False" };
        format!("Freed(outcome={:?}, quarantined={quarantined})", self.outcome)
    }
}
