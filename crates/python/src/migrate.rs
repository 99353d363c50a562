//! A configuration of vLLM's in the form that a version of it takes.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The form of `json`, a kv_transfer_config, that a version of vLLM takes with this connector, and a line for each change.
/// Raises ValueError, naming what is not known or wrong.
#[pyfunction]
pub(crate) fn migrate_config(json: &str, vllm: &str) -> PyResult<(String, Vec<String>)> {
    let migrated = ropeway_connector::config::migrate(json, vllm);
    migrated.map(|form| (form.json, form.why)).map_err(|error| PyValueError::new_err(error.to_string()))
}
