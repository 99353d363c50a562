//! Device memory between processes of one machine, by key.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::KEY_LEN;
use super::peer;
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out, Text};
use crate::hbm::{Kind, Range};
use crate::runtime::{Runtime, runtime};
use crate::state::Process;
use crate::topology::{Chip, DeviceKey};

const TABLE: &str = "ipc.json";
/// Export flag: any process may import.
const DISABLE_PID_VALIDATION: u64 = 1;
/// Import flag: reaches the memory also where it is another device's.
const ENABLE_PEER_ACCESS: u64 = 1;

/// Exported memory, by its key.
#[derive(Default, Serialize, Deserialize)]
struct Table {
    next: u64,
    exports: BTreeMap<String, Export>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Export {
    exporter: Process,
    device: DeviceKey,
    block: u64,
    /// Where in the block the export starts, and its bytes.
    from: u64,
    len: u64,
    open_to_all: bool,
    pids: Vec<i32>,
    importers: Vec<Process>,
}

impl Table {
    /// Forgets what dead processes exported or imported.
    fn prune(&mut self) {
        let mut alive = BTreeMap::new();
        let mut lives = |process: &Process| *alive.entry(*process).or_insert_with(|| process.alive());
        self.exports.retain(|_, export| lives(&export.exporter));
        for export in self.exports.values_mut() {
            export.importers.retain(&mut lives);
        }
    }
}

/// Changes the table of this node's machine.
fn with<T>(runtime: &Runtime, change: impl FnOnce(&mut Table) -> Done<T>) -> Done<T> {
    let folder = runtime.hbm.folder(runtime.node().server())?;
    let locked = folder.lock()?;
    let mut table: Table = locked.read(TABLE)?;
    table.prune();
    let value = change(&mut table)?;
    locked.write(TABLE, &table)?;
    Ok(value)
}

/// What this process has open, by key.
static OPEN: Mutex<BTreeMap<String, Opened>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy)]
struct Opened {
    va: u64,
    device: DeviceKey,
    block: u64,
    peer_access: bool,
}

fn open() -> MutexGuard<'static, BTreeMap<String, Opened>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an import was opened with ENABLE_PEER_ACCESS.
#[must_use]
pub fn opened_with_peer_access(key: &str) -> bool {
    open().get(key).is_some_and(|opened| opened.peer_access)
}

/// Refuses to free memory that has a live key.
///
/// # Errors
/// MEMORY_FREE.
pub fn refuse_exported(runtime: &Runtime, range: &Range) -> Done {
    let live = with(runtime, |table| {
        let mut exports = table.exports.values();
        Ok(exports.any(|export| {
            export.block == range.block && export.device == range.key && export.exporter == runtime.me
        }))
    })?;
    ensure(!live, code::RT_MEMORY_FREE, || format!("{:#x} is exported; close its key first", range.va))
}

fn no_key(key: &str) -> Fail {
    Fail::new(code::RT_PARAM_INVALID, format!("no live export has the key {key:?}"))
}

fn export(runtime: &Runtime, at: u64, size: u64, flags: u64) -> Done<String> {
    ensure(flags <= 1, code::RT_PARAM_INVALID, || format!("flags {flags:#x}"))?;
    let range = runtime.hbm.range(at);
    let range = range.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, format!("{at:#x} is not alive")))?;
    match range.kind {
        Kind::Malloc => {}
        Kind::Mapped(_) => {
            return Err(Fail::new(
                code::RT_FEATURE_NOT_SUPPORT,
                "mapped (VMM) memory has no key; share its handle",
            ));
        }
        _ => return Err(Fail::new(code::RT_PARAM_INVALID, "only memory of this process can be exported")),
    }
    let page = range.page.bytes();
    ensure(at.is_multiple_of(page), code::RT_ADDR_UNALIGNED, || {
        format!("{at:#x} is not at a page of {page} bytes")
    })?;
    let whole = size > 0 && size.is_multiple_of(page) && size <= range.va + range.len - at;
    ensure(whole, code::RT_PARAM_INVALID, || {
        format!("{size} bytes: want whole pages of {page} within the allocation")
    })?;
    let export = Export {
        exporter: runtime.me,
        device: range.key,
        block: range.block,
        from: at - range.va,
        len: size,
        open_to_all: flags & DISABLE_PID_VALIDATION != 0,
        pids: Vec::new(),
        importers: Vec::new(),
    };
    with(runtime, |table| {
        table.next += 1;
        let key = format!("{:0>64}", format!("RPWSIM{:x}x{:x}", runtime.me.pid, table.next));
        table.exports.insert(key.clone(), export);
        Ok(key)
    })
}

fn import(runtime: &Runtime, key: &str, flags: u64) -> Done<u64> {
    ensure(flags <= 1, code::RT_PARAM_INVALID, || format!("flags {flags:#x}"))?;
    let context = context::current()?;
    let mut open = open();
    ensure(!open.contains_key(key), code::RT_PARAM_INVALID, || {
        "this process has the key open already".to_owned()
    })?;
    let export = with(runtime, |table| {
        let export = table.exports.get_mut(key).ok_or_else(|| no_key(key))?;
        let allowed = export.open_to_all || export.pids.contains(&runtime.me.pid);
        ensure(allowed, code::RT_NO_PERMISSION, || {
            format!("process {} is not on the exporter's list", runtime.me.pid)
        })?;
        let near = export.device == context.key || peer::wired(runtime, context.key, export.device);
        ensure(near, code::RT_LINK_TYPE_NOT_SUPPORTED, || {
            format!("{:?} has no way to {:?}", context.key, export.device)
        })?;
        export.importers.push(runtime.me);
        Ok(export.clone())
    })?;
    let opened = (|| {
        let mut block = runtime.hbm.hold(export.device, export.block)?;
        let id = block.id;
        (block.offset, block.len) = (block.offset + export.from, export.len);
        let kind = Kind::Imported(key.to_owned());
        let range = runtime.hbm.map(context.key, export.device, &block, export.len, kind);
        range.inspect_err(|_| drop(runtime.hbm.release(export.device, id)))
    })();
    let range = opened.inspect_err(|_| drop(forget(runtime, key)))?;
    let peer_access = flags & ENABLE_PEER_ACCESS != 0;
    let (va, device) = (range.va, export.device);
    open.insert(key.to_owned(), Opened { va, device, block: export.block, peer_access });
    Ok(va)
}

/// Takes this process from a key's importers.
fn forget(runtime: &Runtime, key: &str) -> Done {
    with(runtime, |table| {
        if let Some(export) = table.exports.get_mut(key)
            && let Some(at) = export.importers.iter().position(|process| *process == runtime.me)
        {
            export.importers.swap_remove(at);
        }
        Ok(())
    })
}

fn close(runtime: &Runtime, key: &str) -> Done {
    if let Some(opened) = open().remove(key) {
        runtime.hbm.unmap(opened.va, |kind| matches!(kind, Kind::Imported(_)))?;
        runtime.hbm.unreserve(opened.va);
        runtime.hbm.release(opened.device, opened.block)?;
        return forget(runtime, key);
    }
    with(runtime, |table| {
        let export = table.exports.get(key).filter(|export| export.exporter == runtime.me);
        let importers = &export.ok_or_else(|| no_key(key))?.importers;
        ensure(importers.is_empty(), code::RT_IPC_ERROR, || {
            format!("importers close first; still open in {importers:?}")
        })?;
        table.exports.remove(key);
        Ok(())
    })
}

/// Changes an export of this process.
fn own(runtime: &Runtime, key: &str, change: impl FnOnce(&mut Export)) -> Done {
    with(runtime, |table| {
        let export = table.exports.get_mut(key).filter(|export| export.exporter == runtime.me);
        change(export.ok_or_else(|| no_key(key))?);
        Ok(())
    })
}

/// `aclrtServerPid`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServerPid {
    server: u32,
    pids: In<i32>,
    count: usize,
}

fn super_pods_only(runtime: &Runtime) -> Done {
    ensure(runtime.chip() == Chip::A3, code::RT_FEATURE_NOT_SUPPORT, || "only on an A3".to_owned())
}

crate::export! {
    /// `aclrtIpcMemGetExportKey`: the buffer has 65 bytes; address and size are whole pages.
    fn sim_aclrtIpcMemGetExportKey(at: usize, size: usize, key: Out<c_char>, len: usize, flags: u64) {
        key.check()?;
        ensure(len == KEY_LEN, code::RT_PARAM_INVALID, || format!("a key has {KEY_LEN} bytes, not {len}"))?;
        let (_, runtime) = context::usable("aclrtIpcMemGetExportKey")?;
        key.set_text(&export(runtime, at as u64, size as u64, flags)?, KEY_LEN)
    }

    /// `aclrtIpcMemImportByKey`: gives an address of this process's own.
    fn sim_aclrtIpcMemImportByKey(at: Out<usize>, key: Text, flags: u64) {
        at.check()?;
        let (_, runtime) = context::usable("aclrtIpcMemImportByKey")?;
        at.set(import(runtime, &key.to_text()?, flags)? as usize)
    }

    /// `aclrtIpcMemClose`: importers first, the exporter last.
    fn sim_aclrtIpcMemClose(key: Text) {
        close(runtime()?, &key.to_text()?)
    }

    /// `aclrtIpcMemSetImportPid`: who may import.
    fn sim_aclrtIpcMemSetImportPid(key: Text, pids: In<i32>, count: usize) {
        ensure(count > 0, code::RT_PARAM_INVALID, || "no process".to_owned())?;
        let pids = pids.to_vec(count)?;
        own(runtime()?, &key.to_text()?, |export| export.pids.extend(pids))
    }

    /// `aclrtIpcMemImportPidInterServer`: who may import on other servers of a super-pod. Kept, though imports by key
    /// are simulated on one machine only.
    fn sim_aclrtIpcMemImportPidInterServer(key: Text, servers: In<ServerPid>, count: usize) {
        let runtime = runtime()?;
        super_pods_only(runtime)?;
        let mut pids = Vec::new();
        for server in servers.to_vec(count)? {
            if server.server == runtime.node().server() {
                pids.extend(server.pids.to_vec(server.count)?);
            }
        }
        own(runtime, &key.to_text()?, |export| export.pids.extend(pids))
    }

    /// `aclrtIpcMemSetAttr`: the link that imports use: 0 SIO, 1 HCCS.
    fn sim_aclrtIpcMemSetAttr(key: Text, kind: u32, attribute: u64) {
        let runtime = runtime()?;
        super_pods_only(runtime)?;
        ensure(kind == 0 && attribute <= 1, code::RT_PARAM_INVALID, || format!("attribute {kind} = {attribute}"))?;
        own(runtime, &key.to_text()?, |_| ())
    }
}
