//! Events.

use pyo3::prelude::*;
use ropeway::{Error, ErrorKind};

/// A one-shot event: a transfer or a lease begins when it has fired. Fire it from any thread.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Event(pub(crate) ropeway::Event);

#[pymethods]
impl Event {
    #[new]
    fn new() -> Self {
        Self(ropeway::Event::new())
    }

    /// Fires it: what waited for it begins. Firing twice is firing once.
    fn fire(&self, py: Python<'_>) {
        py.detach(|| self.0.fire());
    }

    /// It will never fire: transfers that waited for it end with this message, and leases are revoked.
    fn fail(&self, py: Python<'_>, message: String) {
        py.detach(|| self.0.fail(Error::new(ErrorKind::Internal, "event", message)));
    }

    /// Whether it has fired.
    #[getter]
    fn has_fired(&self) -> bool {
        self.0.has_fired()
    }

    /// Why it never will, if it failed.
    #[getter]
    fn failure(&self) -> Option<String> {
        self.0.failure().map(|error| error.message().to_owned())
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Event, fired: {}>", self.0.has_fired())
    }
}
