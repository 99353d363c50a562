//! The worker half.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ropeway::{Error, ErrorKind, Start};
use ropeway_connector::config::Config as Checked;
use ropeway_connector::layout::CacheSpec;
use ropeway_connector::listener::{npu_config, worker_builder};
use ropeway_connector::ranks::Side;
use ropeway_connector::worker::matching::{About, RankMapper, publish};
use ropeway_connector::worker::{self, Timing};

use super::card::{Card, Described};
use super::config::Config;
use crate::engine::Engine;
use crate::event::Event;
use crate::exit;
use crate::fault::{Result, misuse};
use crate::region::Region;
use crate::seconds::duration;
use crate::wait::aside;

/// Opens the engine of a worker, with the configuration's address, secret, limits and transports, and with an NPU if its
/// number is given.
#[pyfunction]
#[pyo3(signature = (config, number, npu = None))]
pub(super) fn open_worker_engine(
    py: Python<'_>,
    config: &Bound<'_, Config>,
    number: u16,
    npu: Option<u32>,
) -> Result<Engine> {
    let config: Checked = config.get().0.clone();
    let open = || {
        let builder = worker_builder(&config, number)?;
        npu.into_iter().fold(builder, |builder, device| builder.npu(npu_config(&config, device))).open()
    };
    let inner = Arc::new(py.detach(open)?);
    exit::remember(py, &inner)?;
    Ok(Engine::of(inner))
}

/// The shape of a described worker's cache as JSON, for the workers of its other pipeline stages.
#[pyfunction]
pub(super) fn cache_shape(described: &str, storages: Vec<PyRef<'_, Region>>) -> Result<String> {
    let described = read(described)?;
    let lengths: Vec<u64> = storages.iter().map(|region| region.inner.len()).collect();
    let shape = checked(&described, &lengths)?.shape();
    serde_json::to_string(&shape).map_err(|error| misuse("register", error.to_string()))
}

fn read(described: &str) -> PyResult<Described> {
    serde_json::from_str(described)
        .map_err(|error| PyValueError::new_err(format!("the description of a worker: {error}")))
}

fn checked(described: &Described, storages: &[u64]) -> Result<CacheSpec> {
    let shard = described.rank.shard(&described.topology);
    let spec = CacheSpec::new(described.groups.clone(), &described.views, storages, shard);
    spec.map_err(|error| misuse("register", error.to_string()))
}

/// Lends, claims and pulls over one worker's engine and cache.
#[pyclass(frozen, name = "ConnectorWorker", module = "ropeway._ropeway")]
pub(crate) struct Worker {
    inner: Mutex<Option<worker::Worker>>,
    card: Vec<u8>,
}

/// A load that failed: the request, why, its block ids per group, and the first token that was to be loaded.
type Failed = (String, String, Vec<Vec<u32>>, u64);

/// What is new for vLLM: sent, received, failed, and why the worker must end, if it must.
type Polled = (Vec<String>, Vec<String>, Vec<Failed>, Option<String>);

#[pymethods]
impl Worker {
    /// described: the worker and its tensors as JSON. storages: the regions of its storages, in order.
    #[new]
    fn new(
        py: Python<'_>,
        config: &Bound<'_, Config>,
        engine: &Bound<'_, Engine>,
        described: &str,
        storages: Vec<PyRef<'_, Region>>,
    ) -> Result<Self> {
        let config = config.get().0.clone();
        let described = read(described)?;
        let regions: Vec<ropeway::Region> = storages.iter().map(|region| region.inner.clone()).collect();
        drop(storages);
        let engine = ropeway::Engine::clone(engine.get().inner());
        let (inner, card) = py.detach(|| open(&config, engine, described, &regions))?;
        Ok(Self { inner: Mutex::new(Some(inner)), card })
    }

    /// What `Scheduler.show` wants of each worker.
    fn handshake<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.card)
    }

    /// Takes the messages of one step; `begin` is behind everything that was launched so far, and may be None on the CPU.
    fn start(&self, py: Python<'_>, meta: &[u8], begin: Option<&Event>) -> Result<()> {
        let begin = when(begin);
        // It may wait until blocks that vLLM takes are read no more.
        py.detach(|| self.with("start", |worker| worker.start(meta, &begin)))?;
        Ok(())
    }

    /// Whether the step under way computes something that is written elsewhere.
    fn is_pushing(&self) -> Result<bool> {
        self.with("is_pushing", |worker| Ok(worker.is_pushing())).map_err(Into::into)
    }

    /// A layer of the step under way is written once `begin` has fired; None on the CPU.
    fn layer_computed(&self, number: u32, begin: Option<&Event>) -> Result<()> {
        let begin = when(begin);
        self.with("layer_computed", |worker| {
            worker.layer_computed(number, &begin);
            Ok(())
        })?;
        Ok(())
    }

    /// The same for all layers, and the end of the step.
    fn step_computed(&self, begin: Option<&Event>) -> Result<()> {
        let begin = when(begin);
        self.with("step_computed", |worker| {
            worker.step_computed(&begin);
            Ok(())
        })?;
        Ok(())
    }

    /// What is new since the last call.
    fn poll(&self) -> Result<Polled> {
        let polled = self.with("poll", |worker| Ok(worker.poll()))?;
        let failed = polled.reports.failed.into_iter();
        let failed =
            failed.map(|load| (load.request, load.failure.text, load.ask.local, load.ask.tokens.start));
        let failed = failed.collect();
        Ok((polled.reports.sent, polled.reports.received, failed, polled.fatal))
    }

    /// What was counted since the last call, as JSON; None when nothing was.
    fn stats(&self) -> Result<Option<String>> {
        let stats = self.with("stats", |worker| Ok(worker.stats()))?;
        if stats.is_empty() {
            return Ok(None);
        }
        let text = serde_json::to_string(&stats);
        Ok(Some(text.map_err(|error| PyRuntimeError::new_err(error.to_string()))?))
    }

    /// Requests under way: lent, and loading.
    fn open(&self) -> Result<(usize, usize)> {
        self.with("open", |worker| Ok(worker.open())).map_err(Into::into)
    }

    /// Ends everything. Waits up to `timeout` seconds until nothing can touch the cache, and returns what is left.
    #[pyo3(signature = (timeout = 10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> Result<Vec<String>> {
        let timeout = duration("timeout", timeout)?;
        let taken = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(worker) => Ok(aside(py, move || worker.close(timeout))?.held),
            None => Ok(Vec::new()),
        }
    }
}

impl Worker {
    /// Neither the lock nor the call waits for a peer.
    fn with<T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&worker::Worker) -> ropeway::Result<T>,
    ) -> ropeway::Result<T> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.as_ref() {
            Some(worker) => ask(worker),
            None => Err(Error::new(ErrorKind::Closed, operation, "the worker was closed")),
        }
    }
}

fn when(begin: Option<&Event>) -> Start {
    begin.map_or(Start::Now, |event| Start::AfterEvent(event.0.clone()))
}

fn open(
    config: &Checked,
    engine: ropeway::Engine,
    described: Described,
    regions: &[ropeway::Region],
) -> Result<(worker::Worker, Vec<u8>)> {
    let storages: Vec<u64> = regions.iter().map(ropeway::Region::len).collect();
    let spec = checked(&described, &storages)?;
    let Described { mut facts, topology, rank, stages, .. } = described;
    if let Ok(npu) = engine.npu() {
        // Two generations of NPU are refused at the handshake.
        facts.device = format!("ascend-{}", npu.cann().chip().name().to_lowercase());
    }
    let cache = publish(&engine, &spec, regions)?;
    let shape = spec.shape();
    let engine_text = engine.descriptor().to_string();
    // A producer's consumers learn the stages from all workers' handshakes; only who takes blocks needs the others'.
    let known = stages.len() == topology.pp as usize;
    let stages = if known { stages } else { vec![shape.clone(); topology.pp as usize] };
    let side = Side { topology, layers: facts.layers, stages };
    let card = Card { facts: facts.clone(), topology, rank, shape, engine: engine_text };
    let card = serde_json::to_vec(&card).map_err(|error| misuse("register", error.to_string()))?;
    let mapper = RankMapper::new(config, About { facts, side }, rank, spec).storages(regions);
    let worker = worker::Worker::new(engine, cache, Box::new(mapper), Timing::of(&config.own))?;
    Ok((worker, card))
}
