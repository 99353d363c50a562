//! Peer access: whether a device may reach another's memory. One-directional, for the whole process.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::{ipc, vmm};
use crate::context::{self, Context};
use crate::fail::{Done, code, ensure};
use crate::ffi::Out;
use crate::hbm::{Kind, Range};
use crate::runtime::{Runtime, runtime};
use crate::topology::{Chip, DeviceKey};

/// (who, whose) for all that was enabled.
static ENABLED: Mutex<BTreeSet<(DeviceKey, DeviceKey)>> = Mutex::new(BTreeSet::new());

/// Whether the wiring lets one device reach another on the same machine.
#[must_use]
pub fn wired(runtime: &Runtime, one: DeviceKey, other: DeviceKey) -> bool {
    let reach = runtime.topology.reach(one, other);
    !reach.same && reach.same_server && (reach.hccs || runtime.chip() == Chip::A950)
}

fn enabled(one: DeviceKey, other: DeviceKey) -> bool {
    ENABLED.lock().unwrap_or_else(PoisonError::into_inner).contains(&(one, other))
}

/// Whether a context's device may reach a range: its own memory, or with peer access, an import that was opened
/// with it, or a mapping that was given it.
#[must_use]
pub fn may_reach(context: &Context, range: &Range) -> bool {
    match &range.kind {
        Kind::Mapped(_) => vmm::has_access(context.key, range),
        Kind::HostView(_) => false,
        _ if range.key == context.key || enabled(context.key, range.key) => true,
        Kind::Imported(key) => ipc::opened_with_peer_access(key),
        Kind::Malloc => false,
    }
}

/// The context's device and its peer.
fn pair(peer: i32) -> Done<(&'static Runtime, DeviceKey, DeviceKey)> {
    let (context, runtime) = context::usable("aclrtDeviceEnablePeerAccess")?;
    let peer = runtime.key(peer)?;
    ensure(peer != context.key, code::RT_INVALID_DEVICEID, || "a device is no peer of itself".to_owned())?;
    Ok((runtime, context.key, peer))
}

crate::export! {
    /// `aclrtDeviceCanAccessPeer`.
    fn sim_aclrtDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        let runtime = runtime()?;
        let (one, other) = (runtime.key(device)?, runtime.key(peer)?);
        ensure(one != other, code::RT_INVALID_DEVICEID, || "a device is no peer of itself".to_owned())?;
        can.set(i32::from(wired(runtime, one, other)))
    }

    /// `aclrtDeviceEnablePeerAccess`: lets the context's device reach the peer's memory, not the other way round.
    fn sim_aclrtDeviceEnablePeerAccess(peer: i32, flags: u32) {
        ensure(flags == 0, code::RT_PARAM_INVALID, || format!("flags {flags}; 0 is the only one"))?;
        let (runtime, one, other) = pair(peer)?;
        ensure(wired(runtime, one, other), code::RT_LINK_TYPE_NOT_SUPPORTED, || {
            format!("{one:?} has no way to {other:?}")
        })?;
        ENABLED.lock().unwrap_or_else(PoisonError::into_inner).insert((one, other));
        Ok(())
    }

    /// `aclrtDeviceDisablePeerAccess`.
    fn sim_aclrtDeviceDisablePeerAccess(peer: i32) {
        let (_, one, other) = pair(peer)?;
        let was = ENABLED.lock().unwrap_or_else(PoisonError::into_inner).remove(&(one, other));
        ensure(was, code::RT_PARAM_INVALID, || format!("peer access from {one:?} to {other:?} is not enabled"))
    }

    /// `aclrtDevicePeerAccessStatus`: 1 when `device` may reach `peer`.
    fn sim_aclrtDevicePeerAccessStatus(device: i32, peer: i32, status: Out<i32>) {
        let runtime = runtime()?;
        status.set(i32::from(enabled(runtime.key(device)?, runtime.key(peer)?)))
    }

    /// `aclrtMemP2PMap`: lets one more device reach memory of this one.
    fn sim_aclrtMemP2PMap(at: usize, size: usize, device: i32, flags: u64) {
        let (context, runtime) = context::usable("aclrtMemP2PMap")?;
        ensure(flags == 0, code::RT_PARAM_INVALID, || format!("flags {flags}; 0 is the only one"))?;
        runtime.hbm.pieces(at as u64, size as u64)?;
        let other = runtime.key(device)?;
        ensure(wired(runtime, other, context.key), code::RT_LINK_TYPE_NOT_SUPPORTED, || {
            format!("{other:?} has no way to {:?}", context.key)
        })?;
        ENABLED.lock().unwrap_or_else(PoisonError::into_inner).insert((other, context.key));
        Ok(())
    }
}
