//! Routes, and the rectangles that they may be cut to.

use pyo3::prelude::*;
use ropeway::Op;

use crate::blocks;
use crate::fault::{Result, misuse};
use crate::peer::Grant;
use crate::plan::Plan;
use crate::raw;

/// Equal rows at equal distances inside one block: how a head slice is named. All in bytes, but for `rows`.
#[pyclass(frozen, eq, hash, module = "ropeway")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rect(ropeway::Rect);

#[pymethods]
impl Rect {
    #[new]
    #[pyo3(signature = (*, offset, rows, row_bytes, row_stride))]
    fn new(offset: u64, rows: u32, row_bytes: u64, row_stride: u64) -> Self {
        Self(ropeway::Rect { offset, rows, row_bytes, row_stride })
    }

    /// The first row's distance from the start of the block.
    #[getter]
    fn offset(&self) -> u64 {
        self.0.offset
    }

    /// How many rows.
    #[getter]
    fn rows(&self) -> u32 {
        self.0.rows
    }

    /// Bytes of one row.
    #[getter]
    fn row_bytes(&self) -> u64 {
        self.0.row_bytes
    }

    /// From the start of one row to the start of the next.
    #[getter]
    fn row_stride(&self) -> u64 {
        self.0.row_stride
    }

    fn __repr__(&self) -> String {
        let ropeway::Rect { offset, rows, row_bytes, row_stride } = self.0;
        format!("Rect(offset={offset}, rows={rows}, row_bytes={row_bytes}, row_stride={row_stride})")
    }
}

/// A rectangle of the blocks of a part: `local` in ours, `remote` in the peer's.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Slice(pub(crate) ropeway::Slice);

#[pymethods]
impl Slice {
    #[new]
    fn new(part: String, local: &Rect, remote: &Rect) -> Self {
        Self(ropeway::Slice::new(part, local.0, remote.0))
    }

    /// The part's name.
    #[getter]
    fn part(&self) -> &str {
        &self.0.part
    }

    /// In our blocks.
    #[getter]
    fn local(&self) -> Rect {
        Rect(self.0.local)
    }

    /// In the peer's blocks.
    #[getter]
    fn remote(&self) -> Rect {
        Rect(self.0.remote)
    }
}

/// A local cache matched with a peer's cache.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Route(pub(crate) ropeway::Route);

#[pymethods]
impl Route {
    /// The way that its transfers take.
    #[getter]
    fn transport(&self) -> &'static str {
        self.0.transport().name()
    }

    /// The parts' names, in the order in which `plan` numbers them.
    #[getter]
    fn parts(&self) -> Vec<String> {
        self.0.parts().map(str::to_owned).collect()
    }

    /// Plans a read: the peer's blocks `remote_ids` into ours, `local_ids`. One list per group, pairs in order.
    fn read(
        &self,
        py: Python<'_>,
        grant: &Grant,
        local_ids: &Bound<'_, PyAny>,
        remote_ids: &Bound<'_, PyAny>,
    ) -> Result<Plan> {
        self.plan(py, "read", grant, local_ids, remote_ids, None)
    }

    /// Plans a write: our blocks `local_ids` into the peer's, `remote_ids`.
    fn write(
        &self,
        py: Python<'_>,
        grant: &Grant,
        local_ids: &Bound<'_, PyAny>,
        remote_ids: &Bound<'_, PyAny>,
    ) -> Result<Plan> {
        self.plan(py, "write", grant, local_ids, remote_ids, None)
    }

    /// Plans either over a range of the route's parts, a layer say; over all of them unless said.
    #[pyo3(signature = (op, grant, local_ids, remote_ids, parts = None))]
    fn plan(
        &self,
        py: Python<'_>,
        op: &str,
        grant: &Grant,
        local_ids: &Bound<'_, PyAny>,
        remote_ids: &Bound<'_, PyAny>,
        parts: Option<(usize, usize)>,
    ) -> Result<Plan> {
        let (op, grant) = (operation(op)?, grant.held("plan")?);
        let (local, remote) = (blocks::lists(local_ids)?, blocks::lists(remote_ids)?);
        let parts = parts.map(|(first, end)| first..end);
        let plan = py.detach(|| {
            let (local, remote) = (blocks::borrowed(&local), blocks::borrowed(&remote));
            self.0.plan(op, &grant, parts, &local, &remote)
        })?;
        Ok(Plan::new(plan))
    }

    /// Plans a read of a raw list of (local offset, remote offset, bytes), between two raw caches; also as a buffer of
    /// 64-bit unsigned integers with three columns.
    fn read_raw(&self, py: Python<'_>, grant: &Grant, copies: &Bound<'_, PyAny>) -> Result<Plan> {
        let (grant, copies) = (grant.held("plan")?, raw::copies(copies)?);
        Ok(Plan::new(py.detach(|| self.0.read_raw(&grant, &copies))?))
    }

    /// Plans a write of a raw list.
    fn write_raw(&self, py: Python<'_>, grant: &Grant, copies: &Bound<'_, PyAny>) -> Result<Plan> {
        let (grant, copies) = (grant.held("plan")?, raw::copies(copies)?);
        Ok(Plan::new(py.detach(|| self.0.write_raw(&grant, &copies))?))
    }

    fn __repr__(&self) -> String {
        format!("<ropeway.Route of {} parts over {}>", self.0.parts().len(), self.0.transport())
    }
}

fn operation(op: &str) -> Result<Op> {
    match op {
        "read" => Ok(Op::Read),
        "write" => Ok(Op::Write),
        other => Err(misuse("plan", format!("op {other:?}; there are \"read\" and \"write\""))),
    }
}
