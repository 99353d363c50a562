//! Regions.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use ropeway::{Error, ErrorKind};

use crate::buffer;
use crate::fault::{Result, misuse};
use crate::seconds::duration;
use crate::wait::aside;

/// A registered range of memory. Closed when the last object that uses it has let go.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Region {
    pub(crate) inner: ropeway::Region,
    /// Where it was when it was registered, on the host or on the device.
    address: Option<u64>,
    device: &'static str,
}

impl Region {
    /// Memory of the host, which the engine or Python made.
    pub(crate) fn host(inner: ropeway::Region) -> Self {
        let address = inner.address().map(|address| address.as_ptr() as u64);
        Self { inner, address, device: "cpu" }
    }

    /// Memory of the NPU; its address is known where it was given.
    pub(crate) fn npu(inner: ropeway::Region, address: Option<u64>) -> Self {
        Self { inner, address, device: "npu" }
    }
}

#[pymethods]
impl Region {
    /// The region's id.
    #[getter]
    fn id(&self) -> String {
        self.inner.id().to_string()
    }

    /// Its bytes.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.inner.len()
    }

    /// "cpu" or "npu".
    #[getter]
    fn device(&self) -> &'static str {
        self.device
    }

    /// Where it begins, as `data_ptr()` says it; None for memory of an NPU that the engine allocated.
    #[getter]
    fn address(&self) -> Option<u64> {
        self.address
    }

    fn __len__(&self) -> usize {
        self.inner.len() as usize
    }

    /// Copies `nbytes` out, from byte `at` on.
    fn read<'py>(&self, py: Python<'py>, at: u64, nbytes: usize) -> Result<Bound<'py, PyBytes>> {
        if nbytes as u64 > self.inner.len() {
            return Err(beyond("region read", &self.inner, at, nbytes as u64).into());
        }
        let mut failed = None;
        let bytes = PyBytes::new_with(py, nbytes, |into| {
            failed = py.detach(|| self.inner.read(at, into)).err();
            Ok(())
        })?;
        match failed {
            None => Ok(bytes),
            Some(error) => Err(error.into()),
        }
    }

    /// Copies the bytes of a buffer in, from byte `at` on.
    fn write(&self, py: Python<'_>, at: u64, data: &Bound<'_, PyAny>) -> Result<()> {
        let copied = match data.cast::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => {
                let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?;
                bytes.cast_into::<PyBytes>().map_err(PyErr::from)?
            }
        };
        let bytes = copied.as_bytes();
        Ok(py.detach(|| self.inner.write(at, bytes))?)
    }

    /// Sets `nbytes` to `byte`, from byte `at` on.
    fn fill(&self, py: Python<'_>, at: u64, nbytes: u64, byte: u8) -> Result<()> {
        Ok(py.detach(|| self.inner.fill(at, nbytes, byte))?)
    }

    /// The region's memory as a writable buffer, for `numpy.frombuffer` or `torch.frombuffer`, without a copy.
    ///
    /// It keeps the region. Whoever uses it must know what peers do meanwhile: while a transfer or a lease to write is on,
    /// the bytes change at any time; while a lease to read is on, peers see what is written. A forked child has no such
    /// memory: touching the view there ends it.
    fn memoryview<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyAny>> {
        let region = slf.get();
        let address = region.inner.address();
        let Some(address) = address else {
            return Err(misuse("memoryview", "the region is in an NPU's memory; read() copies out of it"));
        };
        Ok(buffer::view(slf.as_any(), address.as_ptr() as u64, region.inner.len())?)
    }

    /// Where in the region a tensor (something with `data_ptr()`) or an address lies, in bytes.
    fn offset_of(&self, thing: &Bound<'_, PyAny>) -> Result<u64> {
        let address: u64 = match thing.extract() {
            Ok(address) => address,
            Err(_) => thing.call_method0("data_ptr")?.extract()?,
        };
        let Some(base) = self.address else {
            return Err(misuse("offset_of", "the address of this region is not known"));
        };
        let inside = address.checked_sub(base).filter(|offset| *offset < self.inner.len());
        inside.ok_or_else(|| {
            let (id, end) = (self.inner.id(), base.saturating_add(self.inner.len()));
            let text = format!("address {address:#x} is not in region {id} ({base:#x} to {end:#x})");
            Error::new(ErrorKind::OutOfBounds, "offset_of", text).into()
        })
    }

    /// No new lease, import or transfer; peers must let go. Waits up to `timeout` seconds until nothing can touch the
    /// memory, and raises TimedOutError, naming who holds it, otherwise. The closing goes on; call again to wait longer.
    #[pyo3(signature = (timeout = 10.0))]
    fn close(&self, py: Python<'_>, timeout: f64) -> Result<()> {
        let (region, timeout) = (self.inner.clone(), duration("timeout", timeout)?);
        aside(py, move || region.close(timeout))
    }

    /// Lets go of the memory for a while, for an inference engine's sleep mode: leases are revoked, transfers end. After it
    /// returned the memory may be unmapped. Raises TimedOutError when something still holds it.
    #[pyo3(signature = (timeout = 10.0))]
    fn suspend(&self, py: Python<'_>, timeout: f64) -> Result<()> {
        let (region, timeout) = (self.inner.clone(), duration("timeout", timeout)?);
        aside(py, move || region.suspend(timeout))
    }

    /// Opens a suspended region again. The whole range must be mapped again, at the same addresses: nothing checks it.
    fn resume(&self, py: Python<'_>) -> Result<()> {
        // SAFETY: passed on to the caller by the documentation, as for every address that Python gives.
        Ok(py.detach(|| unsafe { self.inner.resume() })?)
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Region {} of {} bytes on {}>", self.inner.id(), self.inner.len(), self.device)
    }
}

fn beyond(operation: &'static str, region: &ropeway::Region, at: u64, bytes: u64) -> Error {
    let text = format!("region {}: {bytes} bytes at {at} pass the end ({})", region.id(), region.len());
    Error::new(ErrorKind::OutOfBounds, operation, text)
}
