//! Memory of Python objects by address, and memory of the engine as a Python buffer: both through `ctypes`, since the stable
//! interface has no buffers before Python 3.11.

use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyType};

use crate::fault::{Result, misuse};

/// Where an object's bytes lie, and what keeps them there.
pub(crate) struct Span<'py> {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) owner: Bound<'py, PyAny>,
    /// Whether the address is an NPU's.
    pub(crate) device: bool,
}

/// The bytes of a writable, contiguous buffer. The owner is an export of it: while it lives the object cannot be resized.
pub(crate) fn exported<'py>(object: &Bound<'py, PyAny>) -> Result<Span<'py>> {
    let py = object.py();
    let view = PyMemoryView::from(object)?;
    let (readonly, contiguous, bytes): (bool, bool, u64) = (
        view.getattr("readonly")?.extract()?,
        view.getattr("c_contiguous")?.extract()?,
        view.getattr("nbytes")?.extract()?,
    );
    if readonly || !contiguous || bytes == 0 {
        return Err(misuse(
            "register",
            format!(
                "a buffer of {bytes} bytes (read-only: {readonly}, contiguous: {contiguous}); it must be writable, in one \
                 piece and not empty"
            ),
        ));
    }
    let owner = array_of(py, bytes)?.call_method1("from_buffer", (object,))?;
    let address = py.import("ctypes")?.call_method1("addressof", (&owner,))?.extract()?;
    Ok(Span { address, bytes, owner, device: false })
}

/// The whole storage of a torch tensor, or what `data_ptr()` and `nbytes` of something else say.
pub(crate) fn tensor<'py>(tensor: &Bound<'py, PyAny>) -> Result<Span<'py>> {
    let owner = if tensor.hasattr("untyped_storage")? {
        tensor.call_method0("untyped_storage")?
    } else {
        tensor.clone()
    };
    let address: u64 = owner.call_method0("data_ptr")?.extract()?;
    let bytes = owner.getattr("nbytes")?;
    let bytes: u64 = if bytes.is_callable() { bytes.call0()?.extract()? } else { bytes.extract()? };
    let device = match tensor.getattr_opt("device")? {
        Some(device) => device.getattr("type")?.extract()?,
        None => "cpu".to_owned(),
    };
    match device.as_str() {
        "cpu" | "npu" => Ok(Span { address, bytes, owner, device: device == "npu" }),
        other => {
            Err(misuse("register", format!("a tensor on {other:?}; the engine moves \"cpu\" and \"npu\"")))
        }
    }
}

/// A view of `bytes` at `address` that keeps `owner`.
pub(crate) fn view<'py>(owner: &Bound<'py, PyAny>, address: u64, bytes: u64) -> PyResult<Bound<'py, PyAny>> {
    let array = array_of(owner.py(), bytes)?.call_method1("from_address", (address,))?;
    array.setattr("_owner", owner)?;
    let view = PyMemoryView::from(&array)?;
    view.call_method1("cast", ("B",))
}

fn array_of(py: Python<'_>, bytes: u64) -> PyResult<Bound<'_, PyType>> {
    let byte = py.import("ctypes")?.getattr("c_ubyte")?;
    Ok(byte.mul(bytes)?.cast_into::<PyType>()?)
}
