//! Physical memory between processes, by shareable handle.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::vmm::{self, PHYSICAL, Property};
use super::{DEVICE, Location};
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out};
use crate::runtime::{Runtime, runtime};
use crate::state::Process;
use crate::topology::{Chip, DeviceKey};

const TABLE: &str = "share.json";
const DISABLE_PID_VALIDATION: u64 = 1;
/// Kind of a V2 handle that reaches other servers of a super-pod.
const FABRIC: u32 = 2;
const MAGIC: u64 = 0x5250_5753_494D_0001;

#[derive(Default, Serialize, Deserialize)]
struct Table {
    next: u64,
    shares: BTreeMap<u64, Share>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Share {
    exporter: Process,
    device: DeviceKey,
    block: u64,
    attribute: u32,
    open_to_all: bool,
    fabric: bool,
    pids: Vec<i32>,
}

/// `aclrtMemFabricHandle`: which machine, and the number there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    bytes: [u8; 128],
}

impl Default for Blob {
    fn default() -> Self {
        Self { bytes: [0; 128] }
    }
}

impl Blob {
    fn new(server: u32, id: u64) -> Self {
        let mut it = Self::default();
        for (at, word) in [MAGIC, server.into(), id].into_iter().enumerate() {
            it.bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        it
    }

    fn read(&self) -> Done<(u32, u64)> {
        let word = |at: usize| {
            (0..8).fold(0, |word, byte| word | u64::from(self.bytes[at * 8 + byte]) << (8 * byte))
        };
        let server = u32::try_from(word(1)).ok().filter(|_| word(0) == MAGIC);
        let server = server.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "no shareable handle"))?;
        Ok((server, word(2)))
    }
}

fn with<T>(runtime: &Runtime, server: u32, change: impl FnOnce(&mut Table) -> Done<T>) -> Done<T> {
    let folder = runtime.hbm.folder(server)?;
    let locked = folder.lock()?;
    let mut table: Table = locked.read(TABLE)?;
    table.shares.retain(|_, share| share.exporter.alive());
    let value = change(&mut table)?;
    locked.write(TABLE, &table)?;
    Ok(value)
}

fn export(handle: usize, flags: u64, fabric: bool) -> Done<(u32, u64)> {
    let (runtime, physical) = (runtime()?, PHYSICAL.get(handle)?);
    ensure(flags <= 1, code::RT_PARAM_INVALID, || format!("flags {flags}"))?;
    let first = !physical.exported.swap(true, Ordering::AcqRel);
    ensure(first, code::RT_PARAM_INVALID, || "a handle is exported once".to_owned())?;
    let share = Share {
        exporter: runtime.me,
        device: physical.key,
        block: physical.block,
        attribute: physical.property.attribute,
        open_to_all: flags & DISABLE_PID_VALIDATION != 0,
        fabric,
        pids: Vec::new(),
    };
    let server = physical.key.server;
    let id = with(runtime, server, |table| {
        table.next += 1;
        table.shares.insert(table.next, share);
        Ok(table.next)
    })?;
    Ok((server, id))
}

fn import((server, id): (u32, u64), device: i32, fabric: bool) -> Done<usize> {
    let runtime = runtime()?;
    let here = runtime.key(device)?;
    let share = with(runtime, server, |table| table.shares.get(&id).cloned().ok_or_else(|| stale(id)))?;
    ensure(share.exporter != runtime.me, code::RT_PARAM_INVALID, || {
        "only another process may import".to_owned()
    })?;
    ensure(share.fabric == fabric, code::RT_PARAM_INVALID, || "a handle of the other kind".to_owned())?;
    let allowed = share.open_to_all || share.pids.contains(&runtime.me.pid);
    ensure(allowed, code::RT_NO_PERMISSION, || format!("process {} is not on the list", runtime.me.pid))?;
    let reach = runtime.topology.reach(here, share.device);
    let near = if fabric { reach.hccs || reach.same } else { reach.same_server };
    ensure(near, code::RT_LINK_TYPE_NOT_SUPPORTED, || format!("{here:?} has no way to {:?}", share.device))?;
    let block = runtime.hbm.hold(share.device, share.block)?;
    let location = Location { id: device as u32, kind: DEVICE };
    let property = Property { attribute: share.attribute, location, ..Property::default() };
    Ok(vmm::add(&block, share.device, property).handle)
}

fn allow((server, id): (u32, u64), pids: In<i32>, count: usize) -> Done {
    let (runtime, pids) = (runtime()?, pids.to_vec(count)?);
    with(runtime, server, |table| {
        let share = table.shares.get_mut(&id).filter(|share| share.exporter == runtime.me);
        share.ok_or_else(|| stale(id))?.pids.extend(pids);
        Ok(())
    })
}

fn stale(id: u64) -> Fail {
    Fail::new(code::RT_PARAM_INVALID, format!("no live shareable handle {id}"))
}

/// Whether a V2 kind is FABRIC, which only an A3 has.
fn fabric(kind: u32) -> Done<bool> {
    ensure(matches!(kind, 1 | FABRIC), code::RT_PARAM_INVALID, || format!("kind {kind}"))?;
    let known = kind != FABRIC || runtime()?.chip() == Chip::A3;
    ensure(known, code::RT_FEATURE_NOT_SUPPORT, || "fabric handles are of an A3".to_owned())?;
    Ok(kind == FABRIC)
}

fn this_server() -> Done<u32> {
    Ok(runtime()?.node().server())
}

crate::export! {
    /// `aclrtMemExportToShareableHandle`: a number for other processes of this machine.
    fn sim_aclrtMemExportToShareableHandle(handle: usize, kind: u32, flags: u64, shareable: Out<u64>) {
        shareable.check()?;
        ensure(kind == 0, code::RT_PARAM_INVALID, || format!("kind {kind}"))?;
        shareable.set(export(handle, flags, false)?.1)
    }

    /// `aclrtMemImportFromShareableHandle`.
    fn sim_aclrtMemImportFromShareableHandle(shareable: u64, device: i32, handle: Out<usize>) {
        handle.check()?;
        handle.set(import((this_server()?, shareable), device, false)?)
    }

    /// `aclrtMemSetPidToShareableHandle`: who may import.
    fn sim_aclrtMemSetPidToShareableHandle(shareable: u64, pids: In<i32>, count: usize) {
        allow((this_server()?, shareable), pids, count)
    }

    /// `aclrtMemExportToShareableHandleV2`: DEFAULT 1 gives a number, FABRIC 2 a blob that other servers understand.
    fn sim_aclrtMemExportToShareableHandleV2(handle: usize, flags: u64, kind: u32, shareable: Out<Blob>) {
        shareable.check()?;
        let fabric = fabric(kind)?;
        let (server, id) = export(handle, flags, fabric)?;
        shareable.set(Blob::new(server, id))
    }

    /// `aclrtMemImportFromShareableHandleV2`: for the context's device.
    fn sim_aclrtMemImportFromShareableHandleV2(shareable: In<Blob>, kind: u32, flags: u64, handle: Out<usize>) {
        handle.check()?;
        ensure(flags == 0, code::RT_PARAM_INVALID, || format!("flags {flags}"))?;
        let (context, _) = context::usable("aclrtMemImportFromShareableHandleV2")?;
        handle.set(import(shareable.get()?.read()?, context.user, fabric(kind)?)?)
    }

    /// `aclrtMemSetPidToShareableHandleV2`.
    fn sim_aclrtMemSetPidToShareableHandleV2(shareable: In<Blob>, kind: u32, pids: In<i32>, count: usize) {
        fabric(kind)?;
        allow(shareable.get()?.read()?, pids, count)
    }
}
