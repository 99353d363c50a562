//! The native half of the Python package `ropeway`; its Python half, stubs and tests are beside it.
//!
//! Three rules keep it free of deadlocks. Whatever may block runs detached from the interpreter. No lock of this crate is
//! held where the interpreter is attached or detached. No thread of the engine attaches, but the janitor, which drops
//! keep-alives and holds no lock while it does.

mod bell;
mod blocks;
mod buffer;
mod cache;
mod completion;
mod connector;
mod engine;
mod event;
mod exit;
mod fault;
mod keep_alive;
mod lease;
mod limits;
mod log;
mod migrate;
mod naming;
mod npu;
mod opening;
mod peer;
mod pending;
mod plan;
mod process;
mod quarantined;
mod raw;
mod region;
mod route;
mod seconds;
mod text;
mod transfer;
mod wait;

use pyo3::prelude::*;

/// The native half of `ropeway`.
#[pymodule(gil_used = true)]
fn _ropeway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    fault::add_exceptions(module)?;
    module.add_function(wrap_pyfunction!(migrate::migrate_config, module)?)?;
    module.add_function(wrap_pyfunction!(log::keep_log, module)?)?;
    module.add_function(wrap_pyfunction!(log::take_log, module)?)?;
    module.add_function(wrap_pyfunction!(log::close_log, module)?)?;
    module.add_function(wrap_pyfunction!(naming::lease_name, module)?)?;
    module.add_function(wrap_pyfunction!(naming::descriptor_of, module)?)?;
    module.add_class::<bell::Bells>()?;
    module.add_class::<cache::Cache>()?;
    module.add_class::<cache::CacheBuilder>()?;
    module.add_class::<completion::Completion>()?;
    module.add_class::<completion::Completions>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<event::Event>()?;
    module.add_class::<lease::Freed>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<quarantined::Quarantined>()?;
    module.add_class::<npu::Npu>()?;
    module.add_class::<peer::Grant>()?;
    module.add_class::<peer::Peer>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<plan::Plan>()?;
    module.add_class::<region::Region>()?;
    module.add_class::<route::Rect>()?;
    module.add_class::<route::Route>()?;
    module.add_class::<route::Slice>()?;
    module.add_class::<transfer::Report>()?;
    module.add_class::<transfer::Transfer>()?;
    connector::add(module)
}
