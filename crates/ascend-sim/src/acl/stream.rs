//! Streams: ordered asynchronous work of a context.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::context::{self, Context};
use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Site;
use crate::ffi::Out;
use crate::handles::Handles;
use crate::runtime::runtime;
use crate::work::Queue;

/// Streams that a device has.
const STREAMS_MAX: usize = 1984;

/// A stream.
pub struct Stream {
    /// Its handle.
    pub handle: usize,
    /// Its number.
    pub id: i32,
    /// Whose it is.
    pub context: Arc<Context>,
    /// Its work.
    pub queue: Queue,
    default: bool,
}

static STREAMS: Handles<Stream> = Handles::new("stream", 0xC1);
static NEXT_ID: AtomicI32 = AtomicI32::new(0);

/// Finds a stream for use by the calling thread; 0 is the default stream of its context.
///
/// # Errors
/// CONTEXT_NULL without a context, INVALID_HANDLE for a stale handle, STREAM_CONTEXT for one of another context.
pub fn find(handle: usize) -> Done<Arc<Stream>> {
    let context = context::current()?;
    if handle == 0 {
        return default_of(&context);
    }
    let stream = STREAMS.get(handle)?;
    ensure(stream.context.handle == context.handle, code::RT_STREAM_CONTEXT, || {
        format!("stream {handle:#x} belongs to another context than this thread's")
    })?;
    Ok(stream)
}

/// As [`find`], on a device that is not lost.
///
/// # Errors
/// As [`find`], and LOST_HEARTBEAT.
pub fn usable(handle: usize, op: &str) -> Done<Arc<Stream>> {
    context::usable(op)?;
    find(handle)
}

fn default_of(context: &Arc<Context>) -> Done<Arc<Stream>> {
    let known = context.stream.load(Ordering::Acquire);
    if known != 0 {
        return STREAMS.get(known);
    }
    let stream = open(context, true)?;
    match context.stream.compare_exchange(0, stream.handle, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(stream),
        Err(other) => {
            let _ = STREAMS.remove(stream.handle);
            STREAMS.get(other)
        }
    }
}

fn open(context: &Arc<Context>, default: bool) -> Done<Arc<Stream>> {
    let runtime = runtime()?;
    let site = Site { op: "aclrtCreateStream", device: Some(context.key.physical), remote: None };
    let full = runtime.faults.hit("out_of_streams", site).is_some() || available(context) == 0;
    ensure(!full, code::RT_NO_STREAM_RESOURCE, || format!("device {} has no stream left", context.user))?;
    Ok(STREAMS.add(|handle| Stream {
        handle,
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        context: context.clone(),
        queue: runtime.work.queue(),
        default,
    }))
}

fn available(context: &Context) -> usize {
    let taken = STREAMS
        .all()
        .into_iter()
        .filter(|stream| stream.context.key == context.key && stream.context.is_alive());
    STREAMS_MAX.saturating_sub(taken.count())
}

fn create(handle: Out<usize>) -> Done {
    handle.check()?;
    let (context, _) = context::usable("aclrtCreateStream")?;
    handle.set(open(&context, false)?.handle)
}

fn destroy(handle: usize) -> Done<Arc<Stream>> {
    let stream = STREAMS.get(handle)?;
    ensure(!stream.default, code::RT_PARAM_INVALID, || {
        "the default stream ends with its context".to_owned()
    })?;
    STREAMS.remove(handle)
}

/// What a timeout argument means: `None` is for ever.
///
/// # Errors
/// INVALID_PARAM below −1.
pub fn patience(timeout: i32) -> Done<Option<Duration>> {
    match timeout {
        -1 => Ok(None),
        0.. => Ok(Some(Duration::from_millis(timeout.unsigned_abs().into()))),
        _ => Err(Fail::new(code::RT_PARAM_INVALID, format!("timeout {timeout}"))),
    }
}

fn synchronize(stream: &Stream, timeout: Option<Duration>) -> Done {
    let last = stream.queue.submitted();
    ensure(stream.queue.wait(last, timeout), code::RT_STREAM_SYNC_TIMEOUT, || {
        format!("stream {} was not done after {timeout:?}; its work goes on", stream.id)
    })?;
    outcome(stream, stream.queue.error())
}

fn outcome(stream: &Stream, error: i32) -> Done {
    ensure(error == 0, error, || format!("work on stream {} failed", stream.id))
}

/// Waits for every stream of the thread's device.
///
/// # Errors
/// STREAM_SYNC_TIMEOUT, or the first error of a stream.
pub fn synchronize_device(timeout: Option<Duration>) -> Done {
    let (context, _) = context::usable("aclrtSynchronizeDevice")?;
    let until = timeout.map(|timeout| Instant::now() + timeout);
    for stream in of_device(&context) {
        synchronize(&stream, until.map(|until| until.saturating_duration_since(Instant::now())))?;
    }
    Ok(())
}

/// Every stream of a context's device in this process.
pub fn of_device(context: &Context) -> Vec<Arc<Stream>> {
    STREAMS.all().into_iter().filter(|stream| stream.context.key == context.key).collect()
}

crate::export! {
    /// `aclrtCreateStream`.
    fn sim_aclrtCreateStream(stream: Out<usize>) {
        create(stream)
    }

    /// `aclrtCreateStreamWithConfig`.
    fn sim_aclrtCreateStreamWithConfig(stream: Out<usize>, priority: u32, flag: u32) {
        ensure(priority <= 7, code::RT_PARAM_INVALID, || format!("priority {priority}; 0 to 7"))?;
        ensure(flag < 0x40, code::RT_PARAM_INVALID, || format!("unknown flags {flag:#x}"))?;
        create(stream)
    }

    /// `aclrtDestroyStream`: waits for what was submitted.
    fn sim_aclrtDestroyStream(stream: usize) {
        let stream = destroy(stream)?;
        stream.queue.wait(stream.queue.submitted(), None);
        Ok(())
    }

    /// `aclrtDestroyStreamForce`: leaves out what has not begun.
    fn sim_aclrtDestroyStreamForce(stream: usize) {
        let stream = destroy(stream)?;
        stream.queue.abort(code::RT_STREAM_ABORT);
        stream.queue.wait(stream.queue.submitted(), None);
        Ok(())
    }

    /// `aclrtSynchronizeStream`.
    fn sim_aclrtSynchronizeStream(stream: usize) {
        synchronize(&*usable(stream, "aclrtSynchronizeStream")?, None)
    }

    /// `aclrtSynchronizeStreamWithTimeout`: in milliseconds, −1 for ever. After a timeout the work goes on.
    fn sim_aclrtSynchronizeStreamWithTimeout(stream: usize, timeout: i32) {
        let stream = usable(stream, "aclrtSynchronizeStreamWithTimeout")?;
        synchronize(&stream, patience(timeout)?)
    }

    /// `aclrtStreamQuery`: 0 complete, 1 not ready.
    fn sim_aclrtStreamQuery(stream: usize, status: Out<u32>) {
        let stream = usable(stream, "aclrtStreamQuery")?;
        let idle = stream.queue.is_idle();
        status.set(u32::from(!idle))?;
        if idle { outcome(&stream, stream.queue.peek_error()) } else { Ok(()) }
    }

    /// `aclrtStreamAbort`: leaves out what has not begun; synchronizing then returns STREAM_ABORT.
    fn sim_aclrtStreamAbort(stream: usize) {
        find(stream)?.queue.abort(code::RT_STREAM_ABORT);
        Ok(())
    }

    /// `aclrtSetStreamFailureMode`: 0 goes on after a failure, 1 stops.
    fn sim_aclrtSetStreamFailureMode(stream: usize, mode: u64) {
        ensure(mode <= 1, code::RT_PARAM_INVALID, || format!("failure mode {mode}"))?;
        ensure(stream != 0, code::RT_PARAM_INVALID, || "the default stream has no failure mode".to_owned())?;
        find(stream)?.queue.stop_on_failure(mode == 1);
        Ok(())
    }

    /// `aclrtGetStreamAvailableNum`.
    fn sim_aclrtGetStreamAvailableNum(count: Out<u32>) {
        count.set(available(&*context::current()?) as u32)
    }

    /// `aclrtStreamGetId`.
    fn sim_aclrtStreamGetId(stream: usize, id: Out<i32>) {
        id.set(find(stream)?.id)
    }

    /// `aclrtDeviceGetStreamPriorityRange`: 7 is the least, 0 the greatest.
    fn sim_aclrtDeviceGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        context::current()?;
        least.set(7)?;
        greatest.set(0)
    }
}
