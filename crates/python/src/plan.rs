//! Plans.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use ropeway::{Error, Start, Submit};

use crate::event::Event;
use crate::fault::{Result, closed};
use crate::seconds::optional;
use crate::transfer::Transfer;

/// A checked, merged set of copies. Nothing has moved yet, and it can be submitted more than once.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Plan(Mutex<Option<Arc<ropeway::Plan>>>);

impl Plan {
    pub(crate) fn new(inner: ropeway::Plan) -> Self {
        Self(Mutex::new(Some(Arc::new(inner))))
    }

    fn held(&self) -> Result<Arc<ropeway::Plan>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.ok_or_else(|| closed("plan", "plan"))
    }
}

#[pymethods]
impl Plan {
    /// Bytes that it moves.
    #[getter]
    fn bytes(&self) -> Result<u64> {
        Ok(self.held()?.bytes())
    }

    /// Merged runs that it moves them in.
    #[getter]
    fn runs(&self) -> Result<u64> {
        Ok(self.held()?.runs())
    }

    /// Copies before merging: one per block (or row) and part.
    #[getter]
    fn descriptors(&self) -> Result<u64> {
        Ok(self.held()?.descriptors())
    }

    /// Starts the transfer, or arms it for the event `after`; never blocks. `user_data`: reports the end to the completion
    /// queue with this number; `abandon_after`: seconds until it is given up; `notify`: tells the lease's owner of the end
    /// as this sequence. Raises FullError at a limit: nothing was started, and `Peer.wait_for_room` waits for room.
    #[pyo3(signature = (*, after = None, user_data = None, abandon_after = None, notify = None))]
    fn submit(
        &self,
        py: Python<'_>,
        after: Option<&Event>,
        user_data: Option<u64>,
        abandon_after: Option<f64>,
        notify: Option<u32>,
    ) -> Result<Transfer> {
        let mut submit = Submit::default();
        if let Some(event) = after {
            submit = submit.start(Start::AfterEvent(event.0.clone()));
        }
        if let Some(user_data) = user_data {
            submit = submit.user_data(user_data);
        }
        if let Some(after) = optional("abandon_after", abandon_after)? {
            submit = submit.abandon_after(after);
        }
        if let Some(sequence) = notify {
            submit = submit.notify(sequence);
        }
        let plan = self.held()?;
        let transfer = py.detach(|| plan.submit(submit)).map_err(Error::from)?;
        Ok(Transfer::new(transfer))
    }

    /// Lets go of the plan, and with it of its grant.
    fn release(&self, py: Python<'_>) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(held));
    }

    fn __repr__(&self) -> String {
        match self.held() {
            Ok(plan) => format!("<ropeway.Plan of {} bytes in {} runs>", plan.bytes(), plan.runs()),
            Err(_) => "<ropeway.Plan released>".to_owned(),
        }
    }
}
