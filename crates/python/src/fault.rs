//! Failures: the engine's one table of kinds, as exceptions.

use pyo3::exceptions::{
    PyConnectionError, PyException, PyIndexError, PyPermissionError, PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use ropeway::{Error, ErrorKind, Quiet, Retry};

use crate::text::camel_case;

/// What every function that Python calls fails with.
pub(crate) enum Fault {
    /// The engine's.
    Engine(Error),
    /// An exception that is one already.
    Python(PyErr),
}

/// The result of a function that Python calls.
pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Engine(error) => Python::attach(|py| exception(py, &error)),
            Fault::Python(error) => error,
        }
    }
}

/// The call itself is wrong.
pub(crate) fn misuse(operation: &'static str, text: impl Into<String>) -> Fault {
    Fault::Engine(Error::new(ErrorKind::ApiMisuse, operation, text))
}

/// The thing was let go of by name before.
pub(crate) fn closed(operation: &'static str, what: &str) -> Fault {
    Fault::Engine(Error::new(ErrorKind::Closed, operation, format!("the {what} was released")))
}

/// `ropeway.Error`, and its subclass for each kind.
struct Classes {
    base: Py<PyType>,
    kinds: Vec<(ErrorKind, Py<PyType>)>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// The builtin that a kind is as well, so that code that knows nothing of Ropeway can catch it; and what it says.
fn row<'py>(py: Python<'py>, kind: ErrorKind) -> (Option<Bound<'py, PyType>>, &'static str) {
    match kind {
        ErrorKind::ApiMisuse => (
            Some(py.get_type::<PyValueError>()),
            "The call itself is wrong; the message says how to mend it.",
        ),
        ErrorKind::OutOfBounds => (
            Some(py.get_type::<PyIndexError>()),
            "An id, offset or length passes an end, or a byte would be written twice.",
        ),
        ErrorKind::Mismatch => (None, "The two sides do not fit: names, layouts, digests, versions."),
        ErrorKind::StaleLease => (
            None,
            "The lease or the id is of the past: released, revoked, expired, or of another incarnation.",
        ),
        ErrorKind::Denied => (
            Some(py.get_type::<PyPermissionError>()),
            "No right: a wrong secret, a read-only region, a block outside the lease.",
        ),
        ErrorKind::Full => (None, "A named limit is reached; wait for room."),
        ErrorKind::PeerGone => {
            (Some(py.get_type::<PyConnectionError>()), "The peer's process is proven dead.")
        }
        ErrorKind::LinkLost => {
            (Some(py.get_type::<PyConnectionError>()), "The connection ended; the peer may live.")
        }
        ErrorKind::TimedOut => (Some(py.get_type::<PyTimeoutError>()), "A deadline passed."),
        ErrorKind::Cancelled => (None, "The caller asked for the end."),
        ErrorKind::Unsupported => (None, "This machine, build or transport cannot do it."),
        ErrorKind::Protocol => (None, "The peer sent something that the protocol does not allow."),
        ErrorKind::Resource => (None, "The operating system or device refused: memory, descriptors, ports."),
        ErrorKind::Closed => (None, "The engine, region or peer was closed."),
        ErrorKind::Forked => {
            (None, "The engine belongs to the parent process; a forked child cannot use it.")
        }
        ErrorKind::Internal => (None, "A worker panicked or an invariant broke; memory is quarantined."),
        _ => (None, "A failure of a kind that this version of the package does not name."),
    }
}

const BASE_DOC: &str = "A failure of the engine; its subclasses are its kinds.

kind: the kind's name in logs and metrics.
operation: the call that failed.
retry: 'never', 'later' (after room was made) or 'after_reconnect'.
local, remote: whether our, the peer's blocks are quiet: 'yes', or 'after_close' when only the link's end makes them so.
quarantine: ids of our blocks that are withheld until they are proven quiet.
native: the number that the operating system or the device gave, or None.";

/// Adds `Error` and a subclass for each kind.
pub(crate) fn add_exceptions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let classes = CLASSES.get_or_try_init(py, || make(py))?;
    module.add("Error", &classes.base)?;
    for (kind, class) in &classes.kinds {
        module.add(class_name(*kind), class)?;
    }
    Ok(())
}

fn make(py: Python<'_>) -> PyResult<Classes> {
    let values = PyDict::new(py);
    for (name, value) in [("kind", "internal"), ("operation", ""), ("retry", "never")] {
        values.set_item(name, value)?;
    }
    values.set_item("local", quiet(Quiet::Yes))?;
    values.set_item("remote", quiet(Quiet::Yes))?;
    values.set_item("quarantine", PyTuple::empty(py))?;
    values.set_item("native", py.None())?;
    let base = class(py, "Error", &[py.get_type::<PyException>()], &values, BASE_DOC)?;
    let kinds = ErrorKind::ALL.iter().map(|kind| Ok((*kind, subclass(&base, *kind)?.unbind())));
    let kinds = kinds.collect::<PyResult<_>>()?;
    Ok(Classes { base: base.unbind(), kinds })
}

fn subclass<'py>(base: &Bound<'py, PyType>, kind: ErrorKind) -> PyResult<Bound<'py, PyType>> {
    let py = base.py();
    let (builtin, doc) = row(py, kind);
    let bases: Vec<_> = [Some(base.clone()), builtin].into_iter().flatten().collect();
    let values = PyDict::new(py);
    values.set_item("kind", kind.label())?;
    values.set_item("retry", retry(kind.retry()))?;
    class(py, &class_name(kind), &bases, &values, doc)
}

/// What a `class` statement in the package would make.
fn class<'py>(
    py: Python<'py>,
    name: &str,
    bases: &[Bound<'py, PyType>],
    values: &Bound<'py, PyDict>,
    doc: &str,
) -> PyResult<Bound<'py, PyType>> {
    values.set_item("__module__", "ropeway")?;
    values.set_item("__doc__", doc)?;
    let made = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, values))?;
    Ok(made.cast_into::<PyType>()?)
}

/// `stale_lease` is `StaleLeaseError`.
fn class_name(kind: ErrorKind) -> String {
    camel_case(kind.label()) + "Error"
}

fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let classes = CLASSES.get_or_try_init(py, || make(py))?;
        let class = classes.kinds.iter().find(|(kind, _)| *kind == error.kind());
        let class = class.map_or(&classes.base, |(_, class)| class);
        let made = class.bind(py).call1((error.to_string(),))?;
        made.setattr("kind", error.kind().label())?;
        made.setattr("operation", error.operation())?;
        made.setattr("retry", retry(error.retry()))?;
        made.setattr("local", quiet(error.local()))?;
        made.setattr("remote", quiet(error.remote()))?;
        made.setattr("native", error.native())?;
        made.setattr("quarantine", PyTuple::new(py, error.quarantine().iter().map(|id| id.0))?)?;
        Ok(PyErr::from_value(made))
    };
    make().unwrap_or_else(|failed| failed)
}

fn retry(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never",
        Retry::Later => "later",
        Retry::AfterReconnect => "after_reconnect",
    }
}

/// How `Quiet` reads in Python.
pub(crate) fn quiet(quiet: Quiet) -> &'static str {
    match quiet {
        Quiet::Yes => "yes",
        Quiet::AfterClose => "after_close",
    }
}
