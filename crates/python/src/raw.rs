//! Raw copy lists, as lists of tuples or as a buffer of integers.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView};
use ropeway::RawCopy;

use crate::fault::{Result, misuse};

/// Triples of (local offset, remote offset, bytes): a list, or a buffer of 64-bit unsigned integers with three columns, which
/// costs Python nothing per copy.
pub(crate) fn copies(copies: &Bound<'_, PyAny>) -> Result<Vec<RawCopy>> {
    if copies.is_instance_of::<PyList>() {
        let listed: Vec<(u64, u64, u64)> = copies.extract()?;
        return Ok(listed.into_iter().map(|(local, remote, len)| RawCopy { local, remote, len }).collect());
    }
    let view = PyMemoryView::from(copies)?;
    let shape: Vec<usize> = view.getattr("shape")?.extract()?;
    let (format, width): (String, usize) =
        (view.getattr("format")?.extract()?, view.getattr("itemsize")?.extract()?);
    let unsigned = matches!((format.trim_start_matches(['@', '=', '<']), width), ("Q" | "L", 8));
    if shape.len() != 2 || shape[1] != 3 || !unsigned {
        let text = format!(
            "a buffer of shape {shape:?} and format {format:?}; give rows of three 64-bit unsigned integers: local offset, \
             remote offset, bytes"
        );
        return Err(misuse("plan", text));
    }
    let bytes = view.call_method0("tobytes")?;
    let bytes = bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes();
    let word =
        |row: &[u8], at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("rows are exact"));
    let rows = bytes.chunks_exact(24);
    Ok(rows.map(|row| RawCopy { local: word(row, 0), remote: word(row, 8), len: word(row, 16) }).collect())
}
