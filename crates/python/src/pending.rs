//! Answers that come later.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use ropeway::Error;

use crate::bell::{Bell, Bells, Listener};
use crate::fault::{Fault, Result};
use crate::process::Process;
use crate::wait::in_slices;

/// An answer that comes later: `wait()` for it, or await it. Dropping it drops the answer, not what was asked for.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Pending {
    stage: Mutex<Stage>,
    bell: Arc<Bell>,
    /// Nobody answers in a forked child.
    process: Process,
}

enum Stage {
    Waiting(Work),
    Done(PyResult<Py<PyAny>>),
}

type Work = Pin<Box<dyn Future<Output = Result<Made, Error>> + Send>>;
/// Makes the answer's Python object.
type Made = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

impl Pending {
    /// The future's answer, made into a Python object by `into` when somebody asks for it.
    pub(crate) fn new<T: Send + 'static, P>(
        answer: impl Future<Output = Result<T, Error>> + Send + 'static,
        into: impl FnOnce(T) -> P + Send + 'static,
    ) -> Self
    where
        P: for<'py> IntoPyObject<'py>,
    {
        let work = async move {
            let value = answer.await?;
            Ok(Box::new(move |py: Python<'_>| into(value).into_py_any(py)) as Made)
        };
        let stage = Mutex::new(Stage::Waiting(Box::pin(work)));
        Self { stage, bell: Arc::default(), process: Process::here() }
    }

    /// The answer, if it is there; else `listener` is told when it is worth asking again. The lock is held with the
    /// interpreter attached throughout, so nobody waits for one while holding the other.
    fn look(&self, py: Python<'_>, listener: Listener) -> Option<PyResult<Py<PyAny>>> {
        if let Err(forked) = self.process.check("pending") {
            return Some(Err(Fault::from(forked).into()));
        }
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Waiting(work) = &mut *stage {
            self.bell.listen(listener);
            let waker = Waker::from(Arc::clone(&self.bell));
            let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(&waker)) else {
                return None;
            };
            let made = answer.map_err(|error| Fault::from(error).into()).and_then(|made| made(py));
            *stage = Stage::Done(made);
        }
        match &*stage {
            Stage::Done(Ok(value)) => Some(Ok(value.clone_ref(py))),
            Stage::Done(Err(error)) => Some(Err(error.clone_ref(py))),
            Stage::Waiting(_) => None,
        }
    }
}

#[pymethods]
impl Pending {
    /// Blocks until the answer is there and returns it, or raises why there is none. Other threads go on meanwhile, and
    /// Ctrl-C is heard. In asynchronous code await it instead.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let listener = Listener::Thread(std::thread::current());
        loop {
            if let Some(answer) = self.look(py, listener.clone()) {
                return answer;
            }
            // Woken early or for nothing, it looks again.
            in_slices(py, None, |slice| {
                std::thread::park_timeout(slice);
                Some(())
            })?;
            py.check_signals()?;
        }
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        awaited(slf.as_any())
    }

    /// For the event loop: whether it is over, and the answer.
    fn _look(&self, py: Python<'_>, bells: &Bells, number: u64) -> PyResult<(bool, Option<Py<PyAny>>)> {
        match self.look(py, Listener::Loop(Arc::clone(&bells.0), number)) {
            Some(answer) => answer.map(|value| (true, Some(value))),
            None => Ok((false, None)),
        }
    }

    #[classmethod]
    #[pyo3(signature = (_item, /))]
    fn __class_getitem__(class: Bound<'_, PyType>, _item: &Bound<'_, PyAny>) -> Py<PyType> {
        class.unbind()
    }

    fn __repr__(&self) -> &'static str {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Waiting(_) => "<ropeway.Pending waiting>",
            Stage::Done(_) => "<ropeway.Pending answered>",
        }
    }
}

/// What `__await__` of something with `_look` returns: an iterator of the running loop's future.
pub(crate) fn awaited<'py>(thing: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static WATCH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let watch = WATCH.import(thing.py(), "ropeway._loop", "watch")?;
    watch.call1((thing,))?.call_method0("__await__")
}
