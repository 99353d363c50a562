//! Devices: set and reset, ids, attributes, topology, status.

use std::ffi::c_char;
use std::time::Duration;

use super::{init, stream};
use crate::context;
use crate::fail::{Done, Fail, code};
use crate::fault::Site;
use crate::ffi::Out;
use crate::runtime::runtime;
use crate::topology::Chip;

/// `aclrtUuid`.
pub type Uuid = [c_char; 16];

crate::export! {
    /// `aclrtGetDeviceCount`: those that `ASCEND_RT_VISIBLE_DEVICES` leaves.
    fn sim_aclrtGetDeviceCount(count: Out<u32>) {
        count.set(runtime()?.device_count() as u32)
    }

    /// `aclrtSetDevice`: binds the thread to the device's default context, and counts.
    fn sim_aclrtSetDevice(device: i32) {
        init::initialised()?;
        context::set_device(device)
    }

    /// `aclrtResetDevice`: counts down; at zero the default context and its streams end.
    fn sim_aclrtResetDevice(device: i32) {
        context::reset_device(device, false)
    }

    /// `aclrtResetDeviceForce`: as at a count of zero.
    fn sim_aclrtResetDeviceForce(device: i32) {
        context::reset_device(device, true)
    }

    /// `aclrtGetDevice`: that of the thread's context.
    fn sim_aclrtGetDevice(device: Out<i32>) {
        device.set(context::current()?.user)
    }

    /// `aclrtSynchronizeDevice`: waits for every stream of the thread's device.
    fn sim_aclrtSynchronizeDevice() {
        stream::synchronize_device(None)
    }

    /// `aclrtSynchronizeDeviceWithTimeout`: in milliseconds, −1 for ever.
    fn sim_aclrtSynchronizeDeviceWithTimeout(timeout: i32) {
        stream::synchronize_device(stream::patience(timeout)?)
    }

    /// `aclrtGetDeviceInfo`.
    fn sim_aclrtGetDeviceInfo(device: u32, attribute: u32, value: Out<i64>) {
        value.set(attribute_of(device as i32, attribute)?)
    }

    /// `aclrtQueryDeviceStatus`: 0 normal, 1 abnormal.
    fn sim_aclrtQueryDeviceStatus(device: i32, status: Out<u32>) {
        let runtime = runtime()?;
        let site = Site { op: "aclrtQueryDeviceStatus", device: Some(runtime.key(device)?.physical), remote: None };
        let gone = runtime.faults.active("device_lost", Site { op: "", ..site }).is_some()
            || runtime.faults.hit("device_lost", site).is_some();
        status.set(u32::from(gone))
    }

    /// `aclrtDeviceGetUuid`: says which device of which server it is.
    fn sim_aclrtDeviceGetUuid(device: i32, uuid: Out<Uuid>) {
        let key = runtime()?.key(device)?;
        let mut bytes = [0; 16];
        let text = format!("SIM{:05}:{:05}", key.server, key.physical);
        for (at, byte) in bytes.iter_mut().zip(text.bytes()) {
            *at = byte as c_char;
        }
        uuid.set(bytes)
    }

    /// `aclrtDeviceGetBareTgid`: this process's number outside its container; here there is but one.
    fn sim_aclrtDeviceGetBareTgid(pid: Out<i32>) {
        context::current()?;
        pid.set(runtime()?.me.pid)
    }

    /// `aclrtGetLogicDevIdByUserDevId`.
    fn sim_aclrtGetLogicDevIdByUserDevId(user: i32, logical: Out<i32>) {
        logical.set(runtime()?.logical(user)? as i32)
    }

    /// `aclrtGetUserDevIdByLogicDevId`.
    fn sim_aclrtGetUserDevIdByLogicDevId(logical: i32, user: Out<i32>) {
        let runtime = runtime()?;
        let found = (0..runtime.device_count() as i32).find(|user| runtime.logical(*user).ok() == Some(logical as u32));
        user.set(found.ok_or_else(|| no_device("logical", logical))?)
    }

    /// `aclrtGetPhyDevIdByLogicDevId`: in truth it takes a user id, as the real one does.
    fn sim_aclrtGetPhyDevIdByLogicDevId(user: i32, physical: Out<i32>) {
        physical.set(runtime()?.device(user)?.physical as i32)
    }

    /// `aclrtGetLogicDevIdByPhyDevId`: gives a user id, as the real one does.
    fn sim_aclrtGetLogicDevIdByPhyDevId(physical: i32, user: Out<i32>) {
        user.set(user_of(physical)?)
    }

    /// `aclrtGetPhyDevIdByUserDevId`.
    fn sim_aclrtGetPhyDevIdByUserDevId(user: i32, physical: Out<i32>) {
        physical.set(runtime()?.device(user)?.physical as i32)
    }

    /// `aclrtGetUserDevIdByPhyDevId`.
    fn sim_aclrtGetUserDevIdByPhyDevId(physical: i32, user: Out<i32>) {
        user.set(user_of(physical)?)
    }

    /// `aclrtGetDevicesTopo`: bits of how two devices are wired.
    fn sim_aclrtGetDevicesTopo(device: u32, other: u32, value: Out<u64>) {
        let runtime = runtime()?;
        let (one, two) = (runtime.key(device as i32)?, runtime.key(other as i32)?);
        let reach = runtime.topology.reach(one, two);
        let chips = (one.physical / 2) == (two.physical / 2);
        value.set(match runtime.chip() {
            _ if reach.same || !reach.same_server => 0,
            Chip::A3 if chips => SIO,
            Chip::A3 => HCCS_SW,
            Chip::A2 => HCCS,
            Chip::A950 => SYS,
        })
    }
}

const HCCS: u64 = 1;
const SYS: u64 = 0x10;
const SIO: u64 = 0x20;
const HCCS_SW: u64 = 0x40;

/// `aclrtGetSocName`: the name of the chip that is played, since programs classify by it; null without a topology.
#[unsafe(no_mangle)]
pub extern "C" fn sim_aclrtGetSocName() -> *const c_char {
    runtime().map_or(std::ptr::null(), |runtime| runtime.chip().soc_name().as_ptr())
}

fn user_of(physical: i32) -> Done<i32> {
    let id = u32::try_from(physical).map_err(|_| no_device("physical", physical))?;
    runtime()?.user(id).ok_or_else(|| no_device("physical", physical))
}

fn no_device(kind: &str, id: i32) -> Fail {
    Fail::new(code::RT_INVALID_DEVICEID, format!("this process has no device with the {kind} id {id}"))
}

fn attribute_of(user: i32, attribute: u32) -> Done<i64> {
    let runtime = runtime()?;
    let (device, node, chip) = (runtime.device(user)?, runtime.node(), runtime.chip());
    let pod = |value: u32| match chip {
        Chip::A3 => Ok(i64::from(value)),
        _ => Err(Fail::new(code::RT_FEATURE_NOT_SUPPORT, "only in super-pods")),
    };
    match attribute {
        301 => Ok(device.hbm() as i64),
        401 => Ok(0),
        402 => Ok(i64::from(if chip == Chip::A3 { device.physical / 2 } else { device.physical })),
        403 => pod(device.super_pod_device()),
        404 => pod(node.server()),
        405 => pod(node.super_pod),
        408 => Ok(match chip {
            Chip::A2 => 0,
            Chip::A3 => 1,
            Chip::A950 => 2,
        }),
        501 => Ok(0),
        _ => Err(Fail::new(code::RT_PARAM_INVALID, format!("attribute {attribute} is not simulated"))),
    }
}

/// How often polled gates look at what another process does.
pub(crate) const POLL: Duration = Duration::from_micros(200);
