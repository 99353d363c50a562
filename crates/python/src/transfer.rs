//! Transfers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pyo3::prelude::*;

use crate::bell::{Bell, Bells, Listener};
use crate::fault::Result;
use crate::pending::awaited;
use crate::seconds::{duration, optional};
use crate::wait::in_slices;

/// A transfer on its way: `wait()` for its end, or await it. Dropping it detaches it; giving up on it, also by cancelling a
/// task that awaits it, never stops the bytes: ask for that with `cancel()`.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Transfer {
    inner: ropeway::Transfer,
    bell: Arc<Bell>,
}

impl Transfer {
    pub(crate) fn new(inner: ropeway::Transfer) -> Self {
        Self { inner, bell: Arc::default() }
    }
}

#[pymethods]
impl Transfer {
    /// The transfer's id, as completions and logs name it.
    #[getter]
    fn id(&self) -> u64 {
        self.inner.id().0
    }

    /// Whether it has ended.
    #[getter]
    fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    /// Waits for the end, working on the transfer meanwhile, and returns its report or raises why it failed. `timeout`, in
    /// seconds, bounds the caller only: after None the transfer goes on, and `wait` may be called again.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> Result<Option<Report>> {
        let timeout = optional("timeout", timeout)?;
        let ended = in_slices(py, timeout, |slice| self.inner.wait(slice))?;
        Ok(ended.transpose()?.map(Report::from))
    }

    /// A hint that nobody wants it any more. The end still comes exactly once, and may be success.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.inner.cancel());
    }

    /// Waits up to `timeout` seconds until nothing of the ended transfer can touch our memory any more.
    fn wait_quiet(&self, py: Python<'_>, timeout: f64) -> Result<bool> {
        let timeout = duration("timeout", timeout)?;
        Ok(in_slices(py, Some(timeout), |slice| self.inner.wait_quiet(slice).then_some(()))?.is_some())
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        awaited(slf.as_any())
    }

    /// For the event loop: whether it is over, and the report.
    fn _look(&self, bells: &Bells, number: u64) -> Result<(bool, Option<Report>)> {
        self.bell.listen(Listener::Loop(Arc::clone(&bells.0), number));
        let waker = Waker::from(Arc::clone(&self.bell));
        match Pin::new(&mut &self.inner).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(ended) => Ok((true, Some(Report::from(ended?)))),
            Poll::Pending => Ok((false, None)),
        }
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Transfer {}, done: {}>", self.inner.id(), self.inner.is_done())
    }
}

/// How a transfer went.
#[pyclass(frozen, get_all, module = "ropeway")]
pub(crate) struct Report {
    /// The transfer.
    id: u64,
    /// Bytes in place.
    bytes: u64,
    /// Merged runs that they were moved in.
    runs: u64,
    /// The way that they took.
    transport: &'static str,
    /// Seconds from `submit` to the end.
    elapsed: f64,
}

impl From<ropeway::Report> for Report {
    fn from(report: ropeway::Report) -> Self {
        Self {
            id: report.id.0,
            bytes: report.bytes,
            runs: report.runs,
            transport: report.transport.name(),
            elapsed: report.elapsed.as_secs_f64(),
        }
    }
}

#[pymethods]
impl Report {
    fn __repr__(&self) -> String {
        let Self { id, bytes, runs, transport, elapsed } = self;
        format!("Report(id={id}, bytes={bytes}, runs={runs}, transport={transport:?}, elapsed={elapsed:.6})")
    }
}
