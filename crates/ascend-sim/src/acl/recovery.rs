//! What a program asks after a fault. Callbacks are not simulated and are refused as such.

use super::stream;
use crate::context;
use crate::fail::{self, Done, Fail, code, ensure};
use crate::fault::Site;
use crate::ffi::{In, Out};
use crate::runtime::runtime;

/// `aclrtErrorInfo`: what kind of fault, and whether a repair may be tried. The detail is left zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct ErrorInfo {
    /// 1 when a repair may be tried.
    pub try_repair: u8,
    /// 1 when the detail says more.
    pub has_detail: u8,
    reserved: [u8; 2],
    /// 0 none, 1 memory, 65535 others.
    pub kind: u32,
    detail: [u64; 321],
}

impl Default for ErrorInfo {
    fn default() -> Self {
        Self { try_repair: 0, has_detail: 0, reserved: [0; 2], kind: 0, detail: [0; 321] }
    }
}

/// `aclrtMemUceInfo`: a range with uncorrectable errors.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct UceInfo {
    /// Where.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    reserved: [usize; 14],
}

const MEMORY: u32 = 1;
const OTHERS: u32 = 65_535;

fn in_force(name: &str, device: i32) -> Done<bool> {
    let runtime = runtime()?;
    let site = Site { op: "", device: Some(runtime.key(device)?.physical), remote: None };
    Ok(runtime.faults.active(name, site).is_some())
}

fn no_callbacks() -> Done {
    Err(Fail::new(code::RT_FEATURE_NOT_SUPPORT, "callbacks are not simulated"))
}

crate::export! {
    /// `aclrtGetErrorVerbose`: what the fault script has in force on the device.
    fn sim_aclrtGetErrorVerbose(device: i32, info: Out<ErrorInfo>) {
        let kind = match (in_force("ecc", device)?, in_force("device_lost", device)?) {
            (true, _) => MEMORY,
            (_, true) => OTHERS,
            _ => 0,
        };
        info.set(ErrorInfo { kind, ..ErrorInfo::default() })
    }

    /// `aclrtRepairError`: nothing is repaired, so a fault that is in force is refused.
    fn sim_aclrtRepairError(device: i32, info: In<ErrorInfo>) {
        let kind = info.get()?.kind;
        let broken = in_force("ecc", device)? || in_force("device_lost", device)?;
        ensure(!broken, code::RT_FEATURE_NOT_SUPPORT, || format!("a fault of kind {kind} cannot be repaired"))
    }

    /// `aclrtGetMemUceInfo`: no address is ever named; the script's ECC faults belong to whole devices.
    fn sim_aclrtGetMemUceInfo(device: i32, _infos: Out<UceInfo>, _room: usize, count: Out<usize>) {
        in_force("ecc", device)?;
        count.set(0)
    }

    /// `aclrtMemUceRepair`: of nothing.
    fn sim_aclrtMemUceRepair(device: i32, _infos: In<UceInfo>, count: usize) {
        in_force("ecc", device)?;
        ensure(count == 0, code::RT_PARAM_INVALID, || "no such memory was reported".to_owned())
    }

    /// `aclrtDeviceTaskAbort`: leaves out all work of this process on a device that has not begun.
    fn sim_aclrtDeviceTaskAbort(device: i32, _timeout: u32) {
        let context = context::current()?;
        let key = runtime()?.key(device)?;
        ensure(context.key == key, code::RT_INVALID_DEVICEID, || "another device than the context's".to_owned())?;
        for stream in stream::of_device(&context) {
            stream.queue.abort(code::RT_DEVICE_TASK_ABORT);
        }
        Ok(())
    }

    /// `aclrtSetDeviceTaskAbortCallback`: refused.
    fn sim_aclrtSetDeviceTaskAbortCallback(_name: usize, _callback: usize, _data: usize) {
        no_callbacks()
    }

    /// `aclrtRegDeviceStateCallback`: refused.
    fn sim_aclrtRegDeviceStateCallback(_name: usize, _callback: usize, _data: usize) {
        no_callbacks()
    }

    /// `aclrtSetExceptionInfoCallback`: refused.
    fn sim_aclrtSetExceptionInfoCallback(_callback: usize) {
        no_callbacks()
    }
}

/// `aclrtPeekAtLastError`: the number of this thread's last call that failed.
#[unsafe(no_mangle)]
pub extern "C" fn sim_aclrtPeekAtLastError(_level: u32) -> i32 {
    fail::last(false)
}

/// `aclrtGetLastError`: as before, and forgets it.
#[unsafe(no_mangle)]
pub extern "C" fn sim_aclrtGetLastError(_level: u32) -> i32 {
    fail::last(true)
}
