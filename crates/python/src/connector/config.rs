//! A checked configuration.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use ropeway_connector::config::{self, Environment, FailurePolicy, MetricsAlias, Mode};

/// vLLM's `kv_transfer_config` with the connector's own keys, checked. Raises ValueError, naming the key.
#[pyclass(frozen, name = "ConnectorConfig", module = "ropeway._ropeway")]
pub(crate) struct Config(pub(super) config::Config);

#[pymethods]
impl Config {
    /// `json` is the configuration as text; the process's environment fills in what it does not say.
    #[new]
    fn new(json: &str) -> PyResult<Self> {
        let config = config::Config::from_json(json, &Environment::of_process());
        config.map(Self).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Whether the instance may lend blocks.
    #[getter]
    fn produces(&self) -> bool {
        self.0.role.produces()
    }

    /// Whether the instance may pull blocks.
    #[getter]
    fn consumes(&self) -> bool {
        self.0.role.consumes()
    }

    /// Whether blocks of a failed load are computed here; the request fails otherwise.
    #[getter]
    fn recomputes(&self) -> bool {
        self.0.failure_policy == FailurePolicy::Recompute
    }

    /// Whether the producer writes layer by layer.
    #[getter]
    fn pushes(&self) -> bool {
        self.0.own.mode == Mode::Push
    }

    /// Whether metrics are given out under the names of vLLM's NIXL connector as well.
    #[getter]
    fn nixl_metrics(&self) -> bool {
        self.0.own.metrics_alias == MetricsAlias::Nixl
    }

    /// Whether a KV cache on the CPU is put where other processes of the host can map it.
    #[getter]
    fn shared_memory(&self) -> bool {
        self.0.own.shared_memory
    }

    /// What was ignored, and why.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.0.warnings.clone()
    }

    /// One line for each declared size that the instance does not have.
    fn contradictions(&self, producer: bool, dp: u32, tp: u32, pp: u32) -> Vec<String> {
        self.0.contradictions(producer, dp, tp, pp)
    }
}
