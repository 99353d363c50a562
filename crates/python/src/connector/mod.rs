//! The connector for vLLM's kind of schedulers, as the package's Python half uses it. Not for users: no stability.

mod card;
mod config;
mod scheduler;
mod worker;

use pyo3::prelude::*;

/// Adds its classes to `_ropeway`.
pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<config::Config>()?;
    module.add_class::<scheduler::Scheduler>()?;
    module.add_class::<worker::Worker>()?;
    module.add_function(wrap_pyfunction!(worker::cache_shape, module)?)?;
    module.add_function(wrap_pyfunction!(worker::open_worker_engine, module)?)
}
