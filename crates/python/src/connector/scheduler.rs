//! The scheduler half.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ropeway::lease_name;
use ropeway_connector::config::Mode;
use ropeway_connector::listener::Listener;
use ropeway_connector::scheduler::{self, Finish, NewRequest, Setup};
use serde_json::Value;

use super::card::{self, Card};
use super::config::Config;
use crate::fault::Result;
use crate::seconds::duration;

/// Decides the life of each request. Not of use without workers; see `ropeway.vllm`.
#[pyclass(frozen, name = "ConnectorScheduler", module = "ropeway._ropeway")]
pub(crate) struct Scheduler {
    inner: Mutex<scheduler::Scheduler>,
    listener: Mutex<Option<Listener>>,
    config: ropeway_connector::config::Config,
    dp_rank: u32,
}

#[pymethods]
impl Scheduler {
    /// engine_id: a name for people. sizes: tensor, pipeline and decode-context ranks. backoff: trailing prompt tokens that
    /// a consumer computes itself. dp_rank: which data-parallel rank this is.
    #[new]
    #[pyo3(signature = (config, *, engine_id, sizes, backoff = 0, dp_rank = 0))]
    fn new(
        config: &Bound<'_, Config>,
        engine_id: String,
        sizes: (u32, u32, u32),
        backoff: u64,
        dp_rank: u32,
    ) -> Self {
        let config = config.get().0.clone();
        let metaservers = (config.own.mode == Mode::Push).then(|| config.own.metaservers.clone());
        let setup = Setup { role: config.role, engine_id, sizes, backoff, metaservers };
        let inner = Mutex::new(scheduler::Scheduler::new(setup, Box::new(lease_name)));
        Self { inner, listener: Mutex::default(), config, dp_rank }
    }

    /// Shows the other side who the workers are, by their handshakes, at the configured port; on an instance that nobody
    /// comes to it does nothing: one that takes blocks and is not pushed to. Returns where it listens.
    fn show(&self, py: Python<'_>, handshakes: Vec<Vec<u8>>) -> Result<Option<String>> {
        if !self.config.role.produces() && self.config.own.mode == Mode::Pull {
            return Ok(None);
        }
        let cards = handshakes.iter().map(|card| serde_json::from_slice(card));
        let cards: Vec<Card> = cards
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| PyValueError::new_err(format!("a worker's handshake: {error}")))?;
        let listener = py.detach(|| -> ropeway::Result<_> {
            let listener = Listener::open(&self.config, self.dp_rank)?;
            listener.show(&card::instance(&cards)?)?;
            Ok(listener)
        })?;
        let owner = listener.owner()?;
        let address = owner.addresses.first().map(ToString::to_string);
        self.inner().set_owner(owner);
        let before = self.listener().replace(listener);
        py.detach(|| drop(before));
        Ok(address)
    }

    /// A request has arrived; `params` are its kv_transfer_params as JSON. A client wrote them: what is not JSON costs the
    /// request its pull, and nobody an exception.
    fn on_new_request(&self, request: &str, params: Option<&str>) {
        match params.map_or(Ok(Value::Null), serde_json::from_str) {
            Ok(params) => self.inner().on_new_request(NewRequest { id: request, params: &params }),
            Err(error) => self.inner().on_unreadable(request, &error.to_string()),
        }
    }

    /// How many trailing tokens of a prompt are to be left to the instance that it is computed for: told once.
    fn left_out(&self, request: &str, prompt: u64) -> u64 {
        self.inner().left_out(request, prompt)
    }

    /// Tokens of a prompt that can be loaded beyond the first `here`, and whether they come between steps.
    fn matched(&self, request: &str, prompt: u64, here: u64) -> (u64, bool) {
        let matched = self.inner().matched(request, prompt, here);
        (matched.tokens, matched.asynchronous)
    }

    /// It has these blocks per group now, and `load` tokens are to be loaded into them.
    fn allocated(&self, request: &str, blocks: Vec<Vec<u32>>, load: u64) {
        self.inner().allocated(request, blocks, load);
    }

    /// It ended. Returns whether its blocks are kept until they are reported as sent, and what goes to the client, as JSON.
    fn finished(
        &self,
        request: &str,
        complete: bool,
        blocks: Vec<Vec<u32>>,
        tokens: u64,
    ) -> (bool, Option<String>) {
        let how = if complete { Finish::Complete } else { Finish::Broken };
        let finished = self.inner().finished(request, how, blocks, tokens);
        (finished.keep_blocks, finished.params.map(|params| params.to_string()))
    }

    /// Whether the steps that compute a request are to be told of.
    fn is_pushing(&self, request: &str) -> bool {
        self.inner().is_pushing(request)
    }

    /// The step that is being built computes a part of it: it has `more` blocks per group, and `end` computed tokens after it.
    fn computing(&self, request: &str, more: Vec<Vec<u32>>, end: u64) {
        self.inner().computing(request, more, end);
    }

    /// vLLM takes its blocks in the step that is being built.
    fn preempted(&self, request: &str) {
        self.inner().preempted(request);
    }

    /// What is to be posted to metaservers: the request, where to, and what, as JSON.
    fn take_asks(&self) -> Vec<(String, String, String)> {
        let asks = self.inner().take_asks().into_iter();
        asks.map(|ask| (ask.request, ask.url, ask.body.to_string())).collect()
    }

    /// It could not be posted, or was refused.
    fn ask_failed(&self, request: &str, why: &str) {
        self.inner().ask_failed(request, why);
    }

    /// What is for the workers since the last step.
    fn build_meta<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let meta = self.inner().build_meta();
        PyBytes::new(py, &meta)
    }

    /// Every rank has reported these requests.
    fn update(&self, sent: Vec<String>, received: Vec<String>) {
        self.inner().update(&sent, &received);
    }

    /// Whether anything is with the workers, or about to be.
    fn is_busy(&self) -> bool {
        self.inner().is_busy()
    }

    /// What it has counted: requests whose parameters were unusable, lent, pulled, let go.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let counts = self.inner().counts();
        (counts.unusable, counts.lent, counts.pulled, counts.let_go)
    }

    /// Ends the listener. Consumers that come later find nobody.
    #[pyo3(signature = (timeout = 5.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> Result<()> {
        let timeout = duration("timeout", timeout)?;
        let listener = self.listener().take();
        py.detach(|| close(listener, timeout))?;
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.inner().len()
    }
}

impl Scheduler {
    fn inner(&self) -> MutexGuard<'_, scheduler::Scheduler> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(listener: Option<Listener>, timeout: Duration) -> ropeway::Result<()> {
    match listener {
        Some(listener) => listener.close(timeout),
        None => Ok(()),
    }
}
