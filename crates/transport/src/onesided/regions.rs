//! Regions that cross a link: imports of the peer's, exports of ours.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ropeway_core::{Error, ErrorKind, RegionId, Result, Rights};

use super::import::{Answer, Export, Import, Place};
use super::link::{LinkCore, Path, Way};
use crate::sync::lock;
use crate::{Memory, TransportKind};

impl LinkCore {
    pub(super) fn begin_import(&self, region: RegionId, deadline: Instant) -> Result<Option<u64>> {
        let mut tables = lock(&self.tables);
        loop {
            if let Ok(index) = tables.imports.binary_search_by_key(&region, |(id, _)| *id) {
                return Ok(Some(tables.imports[index].1.len()));
            }
            if tables.importing.is_none() {
                tables.importing = Some(region);
                tables.import_withdrawn = false;
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late(region));
            }
            tables = self.imported.wait_timeout(tables, left).unwrap_or_else(|poison| poison.into_inner()).0;
        }
    }

    pub(super) fn end_import(&self, region: RegionId, import: Result<Import>) -> Result<u64> {
        let mut tables = lock(&self.tables);
        tables.importing = None;
        let withdrawn = tables.import_withdrawn || !self.is_open();
        let result = match import {
            Err(error) => Err(error),
            Ok(import) if withdrawn => {
                drop(tables);
                drop(import);
                self.imported.notify_all();
                return Err(Error::new(
                    ErrorKind::Closed,
                    "import",
                    format!("region {region} was withdrawn by its owner"),
                ));
            }
            Ok(import) => {
                let len = import.len();
                match tables.imports.binary_search_by_key(&region, |(id, _)| *id) {
                    Ok(_) => unreachable!("one import of a link at a time"),
                    Err(index) => tables.imports.insert(index, (region, Arc::new(import))),
                }
                Ok(len)
            }
        };
        drop(tables);
        self.imported.notify_all();
        result
    }

    pub(super) fn fetch(&self, region: RegionId, deadline: Instant) -> Result<Import> {
        let far = self.far().filter(|_| self.is_open()).ok_or_else(|| closed("import"))?;
        match &far.path {
            Path::Neighbour(neighbour) => {
                let neighbour = neighbour.upgrade().ok_or_else(|| closed("import"))?;
                let memory = neighbour.lend(region)?;
                let (len, writable) = (memory.len(), memory.is_writable());
                Ok(Import::new(region, Place::Here(memory), len, writable, self.weak()))
            }
            Path::Socket { wire, .. } => {
                let answer = self.host.import(wire, region, deadline)?;
                let (len, writable) = (answer.len, answer.writable);
                let mapped = matches!(far.way, Way::Mapped);
                match answer.place(region, mapped, self.host.janitor()) {
                    Ok(place) => Ok(Import::new(region, place, len, writable, self.weak())),
                    Err(error) => {
                        self.host.release(wire, region);
                        Err(error)
                    }
                }
            }
        }
    }

    /// The peer takes one of our regions: pinned until it has let go of it, or the link has closed.
    pub(crate) fn lend(&self, region: RegionId) -> Result<Arc<Memory>> {
        if !self.is_open() {
            return Err(closed("export"));
        }
        {
            let mut tables = lock(&self.tables);
            let unknown = Export { memory: None, holders: 0, withdrawing: false };
            let export = tables.exports.entry(region).or_insert(unknown);
            if export.withdrawing {
                return Err(closing(region));
            }
            export.holders += 1;
            if let Some(memory) = &export.memory {
                return Ok(Arc::clone(memory));
            }
        }
        // Outside the lock: the sink is the engine's code.
        let asked = catch_unwind(AssertUnwindSafe(|| self.sink().export(region)));
        let exported = asked.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "export",
                format!("a panic when region {region} was asked for"),
            ))
        });
        self.settle_export(region, exported)
    }

    /// The engine has answered. Meanwhile the region may have been withdrawn, or the link may have closed and swept its
    /// exports: then the memory goes back, and the sink hears so.
    fn settle_export(&self, region: RegionId, exported: Result<Arc<Memory>>) -> Result<Arc<Memory>> {
        let mut tables = lock(&self.tables);
        let withdrawing = match (tables.exports.get_mut(&region), &exported) {
            (Some(export), Ok(memory)) if !export.withdrawing && self.is_open() => {
                export.memory = Some(Arc::clone(memory));
                return exported;
            }
            (export, _) => export.is_some_and(|export| export.withdrawing),
        };
        let left = tables.exports.get_mut(&region).map_or(0, Export::let_go);
        let ended = if left == 0 { tables.exports.remove(&region) } else { None };
        drop(tables);
        drop(ended);
        let awaited = exported.is_ok() || withdrawing;
        let refused = exported.and_then(|_| Err(closing(region)));
        if left == 0 && awaited {
            self.sink().withdrawn(region);
        }
        refused
    }

    /// What the peer gets for its import request.
    pub(crate) fn answer(&self, region: RegionId) -> Result<(Answer, Option<OwnedFd>)> {
        let memory = self.lend(region)?;
        let writable = memory.peer_rights() == Rights::Write;
        let Some(base) = memory.base() else {
            self.returned(region);
            return Err(Error::new(
                ErrorKind::Unsupported,
                "export",
                format!("region {region} is in a device's memory, which the host cannot touch"),
            ));
        };
        let (address, fd) = if self.kind() == TransportKind::Cma {
            (base.addr().get() as u64, None)
        } else {
            let memfd = memory.memfd().ok_or_else(|| {
                let why = format!("region {region} is not in a memfd; allocate it shared, or use cma");
                Error::new(ErrorKind::Unsupported, "export", why)
            });
            let fd = memfd.and_then(|memfd| {
                memfd
                    .try_clone_to_owned()
                    .map_err(|error| Error::os("export", "duplicating the memfd", error))
            });
            match fd {
                Ok(fd) => (0, Some(fd)),
                Err(error) => {
                    self.returned(region);
                    return Err(error);
                }
            }
        };
        Ok((Answer { len: memory.len(), address, writable, memfd: None }, fd))
    }

    /// The peer has let go of our region once. The sink is told when it holds it no more.
    pub(crate) fn returned(&self, region: RegionId) {
        let ended = {
            let mut tables = lock(&self.tables);
            let Some(export) = tables.exports.get_mut(&region) else { return };
            if export.let_go() == 0 { tables.exports.remove(&region) } else { None }
        };
        if ended.is_some() {
            drop(ended);
            self.sink().withdrawn(region);
        }
    }

    /// The owner closes a region: no batch may use it from here on; its map goes when the last of them has ended.
    pub(crate) fn withdrawn_by_owner(&self, region: RegionId) {
        let import = {
            let mut tables = lock(&self.tables);
            if tables.importing == Some(region) {
                tables.import_withdrawn = true;
            }
            match tables.imports.binary_search_by_key(&region, |(id, _)| *id) {
                Ok(index) => Some(tables.imports.remove(index)),
                Err(_) => None,
            }
        };
        drop(import);
    }

    /// The last use of an import is over: the owner may know.
    pub(super) fn let_go(&self, region: RegionId) {
        if self.host.janitor().origin().is_foreign() {
            return;
        }
        match self.far().map(|far| &far.path) {
            Some(Path::Neighbour(neighbour)) => {
                if let Some(neighbour) = neighbour.upgrade() {
                    self.host.returned(neighbour, region);
                }
            }
            Some(Path::Socket { wire, .. }) => self.host.release(wire, region),
            None => {}
        }
    }

    pub(super) fn drop_imports(&self) {
        let imports = std::mem::take(&mut lock(&self.tables).imports);
        drop(imports);
    }
}

fn closing(region: RegionId) -> Error {
    Error::new(ErrorKind::Closed, "export", format!("region {region} is closing"))
}

fn late(region: RegionId) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        "import",
        format!("the deadline passed before region {region} was imported"),
    )
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the link is not open")
}
