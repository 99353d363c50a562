//! Python objects that own memory which the engine uses.

use pyo3::prelude::*;

use crate::exit::Entry;

/// Keeps a Python object until the engine has let go of its memory. Dropped on a janitor's thread, which attaches to the
/// interpreter for it and holds no lock then. Once the interpreter is about to end the object is leaked instead.
pub(crate) struct KeepAlive(Option<Py<PyAny>>);

impl KeepAlive {
    pub(crate) fn new(object: Bound<'_, PyAny>) -> Self {
        Self(Some(object.unbind()))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        let entry = Entry::ask();
        if entry.is_some() {
            let _ = Python::try_attach(|_| drop(self.0.take()));
        }
        std::mem::forget(self.0.take());
    }
}
