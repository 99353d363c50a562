//! Notifies: a flag that one stream sets and another waits for, also across processes.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::KEY_LEN;
use super::cells::Cell;
use super::device::POLL;
use super::stream;
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out, Text};
use crate::handles::Handles;
use crate::runtime::{Runtime, runtime};
use crate::state::Process;
use crate::work::Gate;

const TABLE: &str = "notify.json";
/// Export flag: any process may import. Not the number that memory has for it.
const DISABLE_PID_VALIDATION: u64 = 2;
/// Import flag.
const ENABLE_PEER_ACCESS: u64 = 2;

struct Notify {
    handle: usize,
    cell: Cell,
    /// Opened from another process: it may only be recorded.
    foreign: bool,
}

static NOTIFIES: Handles<Notify> = Handles::new("notify", 0xC3);

#[derive(Default, Serialize, Deserialize)]
struct Table {
    exports: BTreeMap<String, Export>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Export {
    exporter: Process,
    cell: (usize, u64),
    open_to_all: bool,
    pids: Vec<i32>,
}

fn with<T>(runtime: &Runtime, change: impl FnOnce(&mut Table) -> Done<T>) -> Done<T> {
    let folder = runtime.hbm.folder(runtime.node().server())?;
    let locked = folder.lock()?;
    let mut table: Table = locked.read(TABLE)?;
    table.exports.retain(|_, export| export.exporter.alive());
    let value = change(&mut table)?;
    locked.write(TABLE, &table)?;
    Ok(value)
}

fn key_of((index, generation): (usize, u64)) -> String {
    format!("{:0>64}", format!("RPWSIMNOTIFY{index:x}x{generation:x}"))
}

/// A notify of this process's own.
fn own(handle: usize) -> Done<std::sync::Arc<Notify>> {
    let notify = NOTIFIES.get(handle)?;
    ensure(!notify.foreign, code::RT_PARAM_INVALID, || "only where the notify was made".to_owned())?;
    Ok(notify)
}

crate::export! {
    /// `aclrtCreateNotify`.
    fn sim_aclrtCreateNotify(notify: Out<usize>, flag: u64) {
        notify.check()?;
        let (_, runtime) = context::usable("aclrtCreateNotify")?;
        ensure(flag <= 1, code::RT_PARAM_INVALID, || format!("flag {flag}"))?;
        let cell = Cell::new(runtime).map_err(|fail| Fail::new(code::RT_NO_NOTIFY_RESOURCE, fail.text))?;
        notify.set(NOTIFIES.add(|handle| Notify { handle, cell, foreign: false }).handle)
    }

    /// `aclrtDestroyNotify`.
    fn sim_aclrtDestroyNotify(notify: usize) {
        NOTIFIES.remove(notify).map(drop)
    }

    /// `aclrtRecordNotify`: sets it, in the stream's order.
    fn sim_aclrtRecordNotify(notify: usize, stream: usize) {
        let (notify, stream) = (NOTIFIES.get(notify)?, stream::usable(stream, "aclrtRecordNotify")?);
        stream.queue.mark(move || notify.cell.word(0).store(1, Ordering::Release));
        Ok(())
    }

    /// `aclrtWaitAndResetNotify`: the timeout is taken as seconds; 0 is for ever.
    fn sim_aclrtWaitAndResetNotify(notify: usize, stream: usize, timeout: u32) {
        let (notify, stream) = (own(notify)?, stream::usable(stream, "aclrtWaitAndResetNotify")?);
        let mut until = None;
        stream.queue.gate(move || {
            if notify.cell.word(0).swap(0, Ordering::AcqRel) == 1 {
                return Gate::Open;
            }
            let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_secs(timeout.into()));
            if timeout > 0 && Instant::now() >= until { Gate::Fail(code::RT_WAIT_TIMEOUT) } else { Gate::Poll(POLL) }
        });
        Ok(())
    }

    /// `aclrtGetNotifyId`.
    fn sim_aclrtGetNotifyId(notify: usize, id: Out<u32>) {
        id.set(NOTIFIES.get(notify)?.cell.name(runtime()?)?.0 as u32)
    }

    /// `aclrtNotifyGetExportKey`.
    fn sim_aclrtNotifyGetExportKey(notify: usize, key: Out<c_char>, len: usize, flags: u64) {
        key.check()?;
        ensure(len >= KEY_LEN, code::RT_PARAM_INVALID, || format!("a key has {KEY_LEN} bytes, not {len}"))?;
        let open_to_all = flags == DISABLE_PID_VALIDATION;
        ensure(flags == 0 || open_to_all, code::RT_PARAM_INVALID, || format!("flags {flags}; 0 or 2"))?;
        let runtime = runtime()?;
        let cell = own(notify)?.cell.name(runtime)?;
        let name = key_of(cell);
        with(runtime, |table| {
            let export = Export { exporter: runtime.me, cell, open_to_all, pids: Vec::new() };
            table.exports.insert(name.clone(), export);
            Ok(())
        })?;
        key.set_text(&name, len)
    }

    /// `aclrtNotifyImportByKey`.
    fn sim_aclrtNotifyImportByKey(notify: Out<usize>, key: Text, flags: u64) {
        notify.check()?;
        let (_, runtime) = context::usable("aclrtNotifyImportByKey")?;
        ensure(matches!(flags, 0 | ENABLE_PEER_ACCESS), code::RT_PARAM_INVALID, || format!("flags {flags}; 0 or 2"))?;
        let key = key.to_text()?;
        let export = with(runtime, |table| Ok(table.exports.get(&key).cloned()))?;
        let export = export.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, format!("no notify has the key {key:?}")))?;
        let allowed = export.open_to_all || export.pids.contains(&runtime.me.pid);
        ensure(allowed, code::RT_NO_PERMISSION, || format!("process {} is not on the list", runtime.me.pid))?;
        let cell = Cell::open(runtime, export.cell)?;
        notify.set(NOTIFIES.add(|handle| Notify { handle, cell, foreign: true }).handle)
    }

    /// `aclrtNotifySetImportPid`.
    fn sim_aclrtNotifySetImportPid(notify: usize, pids: In<i32>, count: usize) {
        let (runtime, pids) = (runtime()?, pids.to_vec(count)?);
        let key = key_of(own(notify)?.cell.name(runtime)?);
        with(runtime, |table| {
            let export = table.exports.get_mut(&key);
            export.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "not exported"))?.pids.extend(pids);
            Ok(())
        })
    }

    /// `aclrtNotifyBatchReset`.
    fn sim_aclrtNotifyBatchReset(notifies: In<usize>, count: usize) {
        for notify in notifies.to_vec(count)? {
            NOTIFIES.get(notify)?.cell.word(0).store(0, Ordering::Release);
        }
        Ok(())
    }
}
