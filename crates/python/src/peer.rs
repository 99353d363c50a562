//! Peers, and what is claimed of them.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyString;
use ropeway::{Parts, RouteOptions, Token};

use crate::cache::Cache;
use crate::fault::{Result, closed, misuse};
use crate::naming::parse_name;
use crate::opening::transport_kind;
use crate::pending::Pending;
use crate::route::{Route, Slice};
use crate::seconds::duration;
use crate::text::snake_case;
use crate::wait::{aside, in_slices};

/// A connected engine. When this side connected, the connection ends with the last peer, grant and route.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Peer(pub(crate) ropeway::Peer);

#[pymethods]
impl Peer {
    /// The random number of the peer's life.
    #[getter]
    fn incarnation(&self) -> String {
        self.0.incarnation().to_string()
    }

    /// Whether the session lives.
    #[getter]
    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    /// The ways to this peer that work, best first.
    #[getter]
    fn transports(&self) -> Vec<&'static str> {
        self.0.transports().iter().map(|kind| kind.name()).collect()
    }

    /// The ways that were tried and do not work, as pairs of name and reason.
    #[getter]
    fn refused_transports(&self) -> Vec<(&'static str, String)> {
        self.0.refused_transports().into_iter().map(|(kind, why)| (kind.name(), why)).collect()
    }

    /// Asks for the lease that a token names. The grant is renewed until the last object that uses it is gone.
    #[pyo3(signature = (token, timeout = 30.0))]
    fn claim(&self, py: Python<'_>, token: &str, timeout: f64) -> Result<Pending> {
        let token: Token =
            token.parse().map_err(|error| misuse("claim", format!("this is no lease token: {error}")))?;
        let timeout = duration("timeout", timeout)?;
        let pending = py.detach(|| self.0.claim(&token, timeout))?;
        Ok(Pending::new(pending, Grant::new))
    }

    /// Asks for the lease of that name. `holders` is how many peers will claim it, this one among them. While the owner has no
    /// lease of the name, the answer is an error with `retry` "later".
    #[pyo3(signature = (name, holders = 1, timeout = 30.0))]
    fn claim_named(&self, py: Python<'_>, name: &str, holders: u32, timeout: f64) -> Result<Pending> {
        let (name, timeout) = (parse_name(name)?, duration("timeout", timeout)?);
        let pending = py.detach(|| self.0.claim_named(&name, holders, timeout))?;
        Ok(Pending::new(pending, Grant::new))
    }

    /// Reads a note that the peer shows.
    #[pyo3(signature = (name, timeout = 30.0))]
    fn note(&self, py: Python<'_>, name: &str, timeout: f64) -> Result<Pending> {
        let timeout = duration("timeout", timeout)?;
        let pending = py.detach(|| self.0.note(name, timeout))?;
        Ok(Pending::new(async move { Ok(Cow::<[u8]>::Owned(pending.await?.to_vec())) }, |bytes| bytes))
    }

    /// Matches a local cache with the peer's cache `name` once. `parts`: "exact" (every part of both sides), "common" or
    /// names; `slices`: rectangles of parts instead of whole blocks; `transport`: this one or none.
    #[pyo3(signature = (cache, name, *, parts = None, slices = None, transport = None, timeout = 30.0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, which Python names")]
    fn route(
        &self,
        py: Python<'_>,
        cache: &Cache,
        name: &str,
        parts: Option<&Bound<'_, PyAny>>,
        slices: Option<Vec<PyRef<'_, Slice>>>,
        transport: Option<&str>,
        timeout: f64,
    ) -> Result<Pending> {
        let mut options = RouteOptions::default().parts(route_parts(parts)?);
        for slice in slices.into_iter().flatten() {
            options = options.slice(slice.0.clone());
        }
        if let Some(name) = transport {
            options = options.transport(transport_kind(name)?);
        }
        let timeout = duration("timeout", timeout)?;
        let pending = py.detach(|| self.0.route_with(&cache.0, name, options, timeout))?;
        Ok(Pending::new(pending, Route))
    }

    /// Waits up to `timeout` seconds until a transfer to this peer can be submitted; False when that passed first.
    fn wait_for_room(&self, py: Python<'_>, timeout: f64) -> Result<bool> {
        let timeout = duration("timeout", timeout)?;
        let room = in_slices(py, Some(timeout), |slice| self.0.wait_for_room(slice).then_some(()))?;
        Ok(room.is_some())
    }

    /// Ends the connection: grants are released, transfers end, links close. Raises TimedOutError, naming the links that are
    /// not proven closed after `timeout` seconds.
    #[pyo3(signature = (timeout = 10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> Result<()> {
        let (peer, timeout) = (self.0.clone(), duration("timeout", timeout)?);
        aside(py, move || peer.close(timeout))
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Peer {} over {:?}>", self.0.incarnation(), self.transports())
    }
}

fn route_parts(parts: Option<&Bound<'_, PyAny>>) -> Result<Parts> {
    let Some(parts) = parts else { return Ok(Parts::Exact) };
    match parts.cast::<PyString>() {
        Ok(word) => match word.extract::<String>()?.as_str() {
            "exact" => Ok(Parts::Exact),
            "common" => Ok(Parts::Common),
            other => Err(misuse(
                "route",
                format!("parts {other:?}; give \"exact\", \"common\" or a list of names"),
            )),
        },
        Err(_) => Ok(Parts::Named(parts.extract()?)),
    }
}

/// The right to read or write a set of a peer's blocks; renewed in the background. Released to its owner by `release()`, or
/// with the last reference, when every plan of it is gone and every transfer under it has ended.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Grant(Mutex<Option<ropeway::Grant>>);

impl Grant {
    fn new(inner: ropeway::Grant) -> Self {
        Self(Mutex::new(Some(inner)))
    }

    /// A clone, so that no lock is held while it is used.
    pub(crate) fn held(&self, operation: &'static str) -> Result<ropeway::Grant> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.ok_or_else(|| closed(operation, "grant"))
    }
}

#[pymethods]
impl Grant {
    /// The lease as its owner names it.
    #[getter]
    fn id(&self) -> Result<String> {
        Ok(self.held("grant")?.id().to_string())
    }

    /// "read" or "write".
    #[getter]
    fn rights(&self) -> Result<String> {
        Ok(snake_case(self.held("grant")?.rights()))
    }

    /// The blocks that it is on, one list per group.
    #[getter]
    fn blocks(&self) -> Result<Vec<Vec<u32>>> {
        let blocks = self.held("grant")?.blocks();
        Ok(blocks.into_iter().map(|group| group.into_iter().map(|id| id.0).collect()).collect())
    }

    /// Whether the owner has revoked it, it could not be renewed in time, or it was released.
    #[getter]
    fn is_stale(&self) -> bool {
        self.held("grant").map_or(true, |grant| grant.is_stale())
    }

    /// Lets go of it; plans of it keep it for themselves.
    fn release(&self, py: Python<'_>) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(held));
    }

    fn __repr__(&self) -> String {
        match self.held("grant") {
            Ok(grant) => format!("<ropeway.Grant {}, stale: {}>", grant.id(), grant.is_stale()),
            Err(_) => "<ropeway.Grant released>".to_owned(),
        }
    }
}
