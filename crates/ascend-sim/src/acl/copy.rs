//! Copies and fills.

use std::sync::Arc;
use std::time::Duration;

use super::stream::{self, Stream};
use super::{host, peer};
use crate::context::{self, Context};
use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Site;
use crate::hbm::Kind;
use crate::runtime::{Runtime, runtime};
use crate::topology::DeviceKey;

/// One run of bytes to copy.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where to.
    pub dst: u64,
    /// Where from.
    pub src: u64,
    /// How many.
    pub len: u64,
}

/// Where an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// On the host.
    Host,
    /// On a device.
    Device(DeviceKey),
}

/// What is known of a copy before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Where to.
    pub dst: End,
    /// Where from.
    pub src: End,
    /// An end is memory that was imported from another process.
    pub imported: bool,
}

/// Looks at both ends: alive, and within reach of the context's device.
///
/// # Errors
/// INVALID_PARAM for an end that is not alive, NO_PERMISSION for another device's memory without peer access.
pub fn ends(runtime: &Runtime, context: &Context, run: Run) -> Done<Ends> {
    ensure(run.len > 0, code::RT_PARAM_INVALID, || "a copy of 0 bytes".to_owned())?;
    ensure(run.dst != 0 && run.src != 0, code::RT_PARAM_INVALID, || "a null address".to_owned())?;
    let (dst, to) = end(runtime, context, run.dst, run.len)?;
    let (src, from) = end(runtime, context, run.src, run.len)?;
    Ok(Ends { dst, src, imported: to || from })
}

fn end(runtime: &Runtime, context: &Context, va: u64, len: u64) -> Done<(End, bool)> {
    if !runtime.hbm.is_device_address(va) {
        return Ok((End::Host, false));
    }
    runtime.hbm.pieces(va, len)?;
    let range = runtime.hbm.range(va);
    let range = range.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, format!("{va:#x} is not alive")))?;
    ensure(peer::may_reach(context, &range), code::RT_NO_PERMISSION, || {
        format!("device {} has no access to the memory of {:?} at {va:#x}", context.user, range.key)
    })?;
    Ok((End::Device(range.key), matches!(range.kind, Kind::Imported(_))))
}

/// Refuses what imported memory does not allow: host copies across devices, synchronous copies on one device.
fn imported_rules(ends: Ends, context: &Context, synchronous: bool) -> Done {
    if !ends.imported {
        return Ok(());
    }
    let across = |key: DeviceKey| key != context.key;
    let refused = match (ends.dst, ends.src) {
        (End::Host, End::Device(key)) | (End::Device(key), End::Host) => across(key),
        (End::Device(a), End::Device(b)) => synchronous && a == b,
        (End::Host, End::Host) => false,
    };
    ensure(!refused, code::RT_FEATURE_NOT_SUPPORT, || {
        "imported memory: copy from device to device on a stream instead".to_owned()
    })
}

/// Whether `kind` names the direction.
fn kind_fits(kind: u32, ends: Ends) -> Done {
    let fits = match (kind, ends.dst, ends.src) {
        (0, End::Host, End::Host)
        | (1 | 5, End::Device(_), End::Host)
        | (2, End::Host, End::Device(_))
        | (3, End::Device(_), End::Device(_))
        | (4, _, _) => true,
        (6, End::Device(a), End::Device(b)) => a == b,
        (7, End::Device(a), End::Device(b)) => a != b,
        _ => false,
    };
    ensure(fits, code::RT_PARAM_INVALID, || {
        format!("kind {kind} for a copy from {:?} to {:?}", ends.src, ends.dst)
    })
}

/// Refuses an asynchronous copy from host to host, and a direction other than `kind` says.
///
/// # Errors
/// FEATURE_NOT_SUPPORT, INVALID_PARAM.
pub fn asynchronous_rules(kind: u32, ends: Ends, context: &Context) -> Done {
    kind_fits(kind, ends)?;
    ensure((ends.dst, ends.src) != (End::Host, End::Host), code::RT_FEATURE_NOT_SUPPORT, || {
        "an asynchronous copy from host to host".to_owned()
    })?;
    imported_rules(ends, context, false)
}

/// Copies now, as far as the script lets it.
///
/// # Safety
/// Host ends are readable, or writable, for their length.
///
/// # Errors
/// What the script says, or INVALID_PARAM when an end is no longer alive.
pub unsafe fn run(runtime: &Runtime, op: &str, key: DeviceKey, runs: &[Run]) -> Done {
    let site = Site { op, device: Some(key.physical), remote: None };
    let cut = runtime.faults.hit("partial_write", site).map(|hit| hit.fraction());
    for run in runs {
        let len = cut.map_or(run.len, |cut| (run.len as f64 * cut) as u64);
        // SAFETY: the caller's promise; no more than was asked for.
        unsafe { runtime.hbm.copy(run.dst, run.src, len) }?;
    }
    ensure(cut.is_none(), code::RT_COPY_DATA, || "cut short by the fault script".to_owned())?;
    let ecc = runtime.faults.hit("ecc", site).is_some();
    ensure(!ecc, code::RT_HBM_MULTI_BIT_ECC, || format!("HBM of device {}", key.physical))?;
    context::lost(runtime, key, op)
}

/// How long the script holds up asynchronous work.
pub fn delay(runtime: &Runtime, op: &str, key: DeviceKey) -> Duration {
    let site = Site { op, device: Some(key.physical), remote: None };
    let slow = runtime.faults.hit("slow", site).map_or(Duration::ZERO, |hit| hit.ms(20));
    slow + runtime.faults.hit("late_completion", site).map_or(Duration::ZERO, |hit| hit.ms(100))
}

/// Submits copies to a stream as one piece of work. With host memory that is not pinned it waits for them, as the
/// real one does.
///
/// # Safety
/// Host ends stay readable, or writable, until the stream has passed.
pub unsafe fn submit(stream: &Arc<Stream>, op: &'static str, runs: Vec<Run>) -> Done {
    let runtime = runtime()?;
    let key = stream.context.key;
    let loose = |at: u64, len| !runtime.hbm.is_device_address(at) && !host::is_pinned(at, len);
    let waits = runs.iter().any(|run| loose(run.dst, run.len) || loose(run.src, run.len));
    let step = stream.queue.push(delay(runtime, op, key), move || {
        // SAFETY: the caller's promise.
        match unsafe { self::run(runtime, op, key, &runs) } {
            Ok(()) => 0,
            Err(fail) if fail.code == code::RT_PARAM_INVALID => code::RT_SYS_DMA,
            Err(fail) => fail.code,
        }
    });
    if waits {
        stream.queue.wait(step, None);
    }
    Ok(())
}

fn room(max: u64, count: u64) -> Done {
    ensure(max >= count, code::RT_PARAM_INVALID, || format!("{count} bytes do not fit into {max}"))
}

fn fill(at: u64, max: u64, count: u64) -> Done<(Arc<Context>, &'static Runtime)> {
    let (context, runtime) = context::usable("aclrtMemset")?;
    room(max, count)?;
    ends(runtime, &context, Run { dst: at, src: at, len: count })?;
    ensure(runtime.hbm.is_device_address(at), code::RT_PARAM_INVALID, || {
        format!("{at:#x} is no device memory")
    })?;
    Ok((context, runtime))
}

crate::export! {
    /// `aclrtMemset`: of device memory.
    fn sim_aclrtMemset(at: usize, max: usize, value: i32, count: usize) {
        let (_, runtime) = fill(at as u64, max as u64, count as u64)?;
        runtime.hbm.fill(at as u64, value as u8, count as u64)
    }

    /// `aclrtMemsetAsync`: of device memory.
    fn sim_aclrtMemsetAsync(at: usize, max: usize, value: i32, count: usize, stream: usize) {
        let (context, runtime) = fill(at as u64, max as u64, count as u64)?;
        let stream = stream::find(stream)?;
        stream.queue.push(delay(runtime, "aclrtMemsetAsync", context.key), move || {
            runtime.hbm.fill(at as u64, value as u8, count as u64).map_or(code::RT_SYS_DMA, |()| 0)
        });
        Ok(())
    }
}

crate::export_raw! {
    /// `aclrtMemcpy`: the direction follows from the addresses, whatever `kind` says.
    fn sim_aclrtMemcpy(dst: usize, max: usize, src: usize, count: usize, kind: u32) {
        let (context, runtime) = context::usable("aclrtMemcpy")?;
        ensure(kind <= 7, code::RT_PARAM_INVALID, || format!("kind {kind}"))?;
        room(max as u64, count as u64)?;
        let one = Run { dst: dst as u64, src: src as u64, len: count as u64 };
        imported_rules(ends(runtime, &context, one)?, &context, true)?;
        // SAFETY: the caller's promise.
        unsafe { run(runtime, "aclrtMemcpy", context.key, &[one]) }
    }

    /// `aclrtMemcpyAsync`: `kind` must name the direction; host to host is refused.
    fn sim_aclrtMemcpyAsync(dst: usize, max: usize, src: usize, count: usize, kind: u32, stream: usize) {
        let (context, runtime) = context::usable("aclrtMemcpyAsync")?;
        room(max as u64, count as u64)?;
        let run = Run { dst: dst as u64, src: src as u64, len: count as u64 };
        asynchronous_rules(kind, ends(runtime, &context, run)?, &context)?;
        // SAFETY: the caller's promise.
        unsafe { submit(&stream::find(stream)?, "aclrtMemcpyAsync", vec![run]) }
    }
}
