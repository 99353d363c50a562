//! Block ids, as lists or as buffers of integers, without work per element in Python.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PyTuple};
use ropeway::{BlockId, Error, ErrorKind};

use crate::fault::{Result, misuse};

/// One list of ids per group. A cache of one group may be given its list alone.
pub(crate) fn lists(ids: &Bound<'_, PyAny>) -> Result<Vec<Vec<BlockId>>> {
    if !is_sequence(ids) || first_is_integer(ids) {
        return Ok(vec![list(ids)?]);
    }
    ids.try_iter()?.map(|group| list(&group?)).collect()
}

/// As the engine takes them.
pub(crate) fn borrowed(ids: &[Vec<BlockId>]) -> Vec<&[BlockId]> {
    ids.iter().map(Vec::as_slice).collect()
}

fn is_sequence(ids: &Bound<'_, PyAny>) -> bool {
    ids.is_instance_of::<PyList>() || ids.is_instance_of::<PyTuple>()
}

fn first_is_integer(ids: &Bound<'_, PyAny>) -> bool {
    ids.get_item(0).is_ok_and(|first| !is_sequence(&first) && first.extract::<i64>().is_ok())
}

fn list(ids: &Bound<'_, PyAny>) -> Result<Vec<BlockId>> {
    if is_sequence(ids) {
        return elements(ids);
    }
    if let Ok(view) = PyMemoryView::from(ids) {
        return buffer(&view);
    }
    // A tensor of the host gives its memory through numpy.
    if ids.hasattr("numpy")? {
        return buffer(&PyMemoryView::from(&ids.call_method0("numpy")?)?);
    }
    elements(ids)
}

fn elements(ids: &Bound<'_, PyAny>) -> Result<Vec<BlockId>> {
    match ids.extract::<Vec<u32>>() {
        Ok(ids) => Ok(ids.into_iter().map(BlockId).collect()),
        Err(_) => ids.extract::<Vec<i64>>()?.into_iter().enumerate().map(checked).collect(),
    }
}

/// Copies the buffer once and converts it here.
fn buffer(view: &Bound<'_, PyMemoryView>) -> Result<Vec<BlockId>> {
    let dimensions: usize = view.getattr("ndim")?.extract()?;
    if dimensions != 1 {
        return Err(misuse(
            "block ids",
            format!("a buffer of {dimensions} dimensions; each group's has one"),
        ));
    }
    let format: String = view.getattr("format")?.extract()?;
    let width: usize = view.getattr("itemsize")?.extract()?;
    let bytes = view.call_method0("tobytes")?;
    let bytes = bytes.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes();
    let letter = format.trim_start_matches(['@', '=', '<']);
    match (letter, width) {
        ("I" | "L", 4) => Ok(whole(bytes).map(u32::from_le_bytes).map(BlockId).collect()),
        ("i" | "l", 4) => each(whole(bytes).map(i32::from_le_bytes).map(i64::from)),
        ("q" | "l", 8) => each(whole(bytes).map(i64::from_le_bytes)),
        ("Q" | "L", 8) => {
            each(whole(bytes).map(u64::from_le_bytes).map(|id| i64::try_from(id).unwrap_or(i64::MAX)))
        }
        _ => Err(misuse(
            "block ids",
            format!("a buffer of format {format:?}; give 32- or 64-bit integers in the machine's order"),
        )),
    }
}

fn whole<const WIDTH: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; WIDTH]> {
    bytes.chunks_exact(WIDTH).map(|chunk| chunk.try_into().expect("chunks are exact"))
}

fn each(ids: impl Iterator<Item = i64>) -> Result<Vec<BlockId>> {
    ids.enumerate().map(checked).collect()
}

fn checked((at, id): (usize, i64)) -> Result<BlockId> {
    u32::try_from(id).map(BlockId).map_err(|_| {
        let text = format!("id {id} at place {at} is no block id; they are at least 0 and below 2**32");
        Error::new(ErrorKind::OutOfBounds, "block ids", text).into()
    })
}
