//! Events: marks in a stream that others wait for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cells::Cell;
use super::device::POLL;
use super::stream::{self, patience};
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Site;
use crate::ffi::Out;
use crate::handles::Handles;
use crate::work::Gate;

const TIME_LINE: u32 = 8;
/// Flag of events that other processes may open.
pub const IPC: u32 = 0x40;
/// Event ids that plain events may hold at a time.
const IDS: u32 = 65_536;

/// An event.
pub struct Event {
    /// Its handle.
    pub handle: usize,
    flags: u32,
    /// Holds an id from its record to its reset.
    plain: bool,
    /// Waits that were submitted and have not passed.
    waits: AtomicU32,
    /// What other processes see of it.
    pub cell: Option<Cell>,
    /// Opened from another process: only waited for here.
    pub foreign: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Records submitted and passed.
    submitted: u64,
    passed: u64,
    /// Why a record will never pass.
    failed: i32,
    at: Option<Instant>,
    holds_id: bool,
}

/// The live events.
pub static EVENTS: Handles<Event> = Handles::new("event", 0xC2);
static IDS_TAKEN: AtomicU64 = AtomicU64::new(0);

impl Event {
    /// One with a place in shared memory or without.
    pub fn new(handle: usize, flags: u32, plain: bool, cell: Option<Cell>, foreign: bool) -> Self {
        Self {
            handle,
            flags,
            plain,
            waits: AtomicU32::new(0),
            cell,
            foreign,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records submitted and passed, wherever they were made.
    fn counts(&self) -> (u64, u64) {
        match self.cell.as_ref().filter(|_| self.foreign) {
            Some(cell) => (cell.word(0).load(Ordering::Acquire), cell.word(1).load(Ordering::Acquire)),
            None => {
                let state = self.state();
                (state.submitted, state.passed)
            }
        }
    }

    fn publish(&self, state: &State) {
        if let Some(cell) = &self.cell {
            cell.word(0).store(state.submitted, Ordering::Release);
            cell.word(1).store(state.passed, Ordering::Release);
        }
    }

    /// Whether it was recorded and its last record has passed.
    fn complete(&self) -> Done<bool> {
        let failed = self.state().failed;
        ensure(failed == 0, failed, || "the stream was aborted before the event's record".to_owned())?;
        let (submitted, passed) = self.counts();
        Ok(submitted > 0 && passed >= submitted)
    }

    /// When its last record passed.
    fn passed_at(&self) -> Option<Instant> {
        let state = self.state();
        state.at.filter(|_| state.passed >= state.submitted)
    }

    fn give_id_back(&self, state: &mut State) {
        if std::mem::take(&mut state.holds_id) {
            IDS_TAKEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A record on its way through a stream; dropped before it passed, it fails the event.
struct Record {
    event: Arc<Event>,
    number: u64,
    passed: bool,
}

impl Record {
    fn pass(mut self) {
        self.passed = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut state = self.event.state();
        if self.passed {
            state.passed = state.passed.max(self.number);
            state.at = Some(Instant::now());
        } else if state.submitted == self.number {
            state.failed = code::RT_STREAM_ABORT;
        }
        self.event.publish(&state);
        self.event.changed.notify_all();
    }
}

fn create(event: Out<usize>, flags: u32, plain: bool) -> Done {
    event.check()?;
    let (context, runtime) = context::usable("aclrtCreateEvent")?;
    ensure(flags < 0x80, code::RT_PARAM_INVALID, || format!("unknown flags {flags:#x}"))?;
    let site = Site { op: "aclrtCreateEvent", device: Some(context.key.physical), remote: None };
    let full = runtime.faults.hit("out_of_events", site).is_some();
    ensure(!full, code::RT_NO_EVENT_RESOURCE, || "no event left".to_owned())?;
    let cell = if flags & IPC != 0 { Some(Cell::new(runtime)?) } else { None };
    event.set(EVENTS.add(|handle| Event::new(handle, flags, plain, cell, false)).handle)
}

fn record(event: usize, handle: usize) -> Done {
    let (event, stream) = (EVENTS.get(event)?, stream::usable(handle, "aclrtRecordEvent")?);
    ensure(!event.foreign, code::RT_PARAM_INVALID, || {
        "an opened event is recorded where it was made".to_owned()
    })?;
    let number = {
        let mut state = event.state();
        if event.plain && !state.holds_id {
            let taken = IDS_TAKEN.fetch_add(1, Ordering::Relaxed);
            if taken >= u64::from(IDS) {
                IDS_TAKEN.fetch_sub(1, Ordering::Relaxed);
                return Err(Fail::new(
                    code::RT_NO_EVENT_RESOURCE,
                    "plain events hold ids until they are reset",
                ));
            }
            state.holds_id = true;
        }
        state.submitted += 1;
        state.failed = 0;
        event.publish(&state);
        state.submitted
    };
    let record = Record { event, number, passed: false };
    stream.queue.mark(move || record.pass());
    Ok(())
}

fn wait_on_stream(handle: usize, event: usize, timeout: Option<Duration>) -> Done {
    let (event, stream) = (EVENTS.get(event)?, stream::usable(handle, "aclrtStreamWaitEvent")?);
    let (target, _) = event.counts();
    // A plain event that was not recorded yet is waited for; of one made with Ex there is nothing to wait for.
    let target = if event.plain { target.max(1) } else { target };
    event.waits.fetch_add(1, Ordering::AcqRel);
    let mut until = None;
    stream.queue.gate(move || {
        let until = *until.get_or_insert_with(|| timeout.map(|timeout| Instant::now() + timeout));
        let failed = event.state().failed;
        let late = until.is_some_and(|until| Instant::now() >= until);
        let verdict = if event.counts().1 >= target {
            Gate::Open
        } else if failed != 0 {
            Gate::Fail(failed)
        } else if late {
            Gate::Fail(code::RT_WAIT_TIMEOUT)
        } else if event.foreign || until.is_some() {
            Gate::Poll(POLL)
        } else {
            Gate::Shut
        };
        if matches!(verdict, Gate::Open | Gate::Fail(_)) {
            event.waits.fetch_sub(1, Ordering::AcqRel);
        }
        verdict
    });
    Ok(())
}

fn synchronize(handle: usize, timeout: Option<Duration>) -> Done {
    context::usable("aclrtSynchronizeEvent")?;
    let event = EVENTS.get(handle)?;
    let (target, _) = event.counts();
    ensure(target > 0, code::RT_PARAM_INVALID, || "the event was never recorded".to_owned())?;
    let until = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        if event.counts().1 >= target || event.complete()? {
            return Ok(());
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        ensure(left != Some(Duration::ZERO), code::RT_EVENT_SYNC_TIMEOUT, || {
            format!("the event had not passed after {timeout:?}")
        })?;
        let step = if event.foreign { POLL } else { Duration::from_millis(50) };
        let state = event.state();
        if event.foreign || state.passed < target {
            let wait = event.changed.wait_timeout(state, left.map_or(step, |left| left.min(step)));
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

crate::export! {
    /// `aclrtCreateEvent`: a plain event.
    fn sim_aclrtCreateEvent(event: Out<usize>) {
        create(event, 0, true)
    }

    /// `aclrtCreateEventWithFlag`: a plain event, which holds an event id from record to reset.
    fn sim_aclrtCreateEventWithFlag(event: Out<usize>, flag: u32) {
        create(event, flag, true)
    }

    /// `aclrtCreateEventExWithFlag`: one that can be recorded again and again.
    fn sim_aclrtCreateEventExWithFlag(event: Out<usize>, flag: u32) {
        create(event, flag, false)
    }

    /// `aclrtDestroyEvent`.
    fn sim_aclrtDestroyEvent(event: usize) {
        let event = EVENTS.remove(event)?;
        event.give_id_back(&mut event.state());
        Ok(())
    }

    /// `aclrtRecordEvent`.
    fn sim_aclrtRecordEvent(event: usize, stream: usize) {
        record(event, stream)
    }

    /// `aclrtResetEvent`: in the stream's order.
    fn sim_aclrtResetEvent(event: usize, stream: usize) {
        let (event, stream) = (EVENTS.get(event)?, stream::usable(stream, "aclrtResetEvent")?);
        stream.queue.mark(move || {
            let mut state = event.state();
            (state.submitted, state.passed, state.failed, state.at) = (0, 0, 0, None);
            event.give_id_back(&mut state);
            event.publish(&state);
        });
        Ok(())
    }

    /// `aclrtQueryEventStatus`: 0 not ready, 1 complete.
    fn sim_aclrtQueryEventStatus(event: usize, status: Out<u32>) {
        status.set(u32::from(EVENTS.get(event)?.complete()?))
    }

    /// `aclrtQueryEvent`, deprecated: the other way round, 0 complete, 1 not ready.
    fn sim_aclrtQueryEvent(event: usize, status: Out<u32>) {
        status.set(u32::from(!EVENTS.get(event)?.complete()?))
    }

    /// `aclrtQueryEventWaitStatus`: 0 when every wait has passed, else 1.
    fn sim_aclrtQueryEventWaitStatus(event: usize, status: Out<u32>) {
        status.set(u32::from(EVENTS.get(event)?.waits.load(Ordering::Acquire) > 0))
    }

    /// `aclrtStreamWaitEvent`.
    fn sim_aclrtStreamWaitEvent(stream: usize, event: usize) {
        wait_on_stream(stream, event, None)
    }

    /// `aclrtStreamWaitEventWithTimeout`: in milliseconds; 0 for ever.
    fn sim_aclrtStreamWaitEventWithTimeout(stream: usize, event: usize, timeout: i32) {
        let timeout = patience(timeout)?.filter(|timeout| !timeout.is_zero());
        wait_on_stream(stream, event, timeout)
    }

    /// `aclrtSynchronizeEvent`.
    fn sim_aclrtSynchronizeEvent(event: usize) {
        synchronize(event, None)
    }

    /// `aclrtSynchronizeEventWithTimeout`: in milliseconds, −1 for ever.
    fn sim_aclrtSynchronizeEventWithTimeout(event: usize, timeout: i32) {
        synchronize(event, patience(timeout)?)
    }

    /// `aclrtGetEventAvailNum`: event ids that plain events have left.
    fn sim_aclrtGetEventAvailNum(count: Out<u32>) {
        context::current()?;
        count.set(IDS.saturating_sub(IDS_TAKEN.load(Ordering::Relaxed) as u32))
    }

    /// `aclrtEventElapsedTime`: needs TIME_LINE on both, and both complete.
    fn sim_aclrtEventElapsedTime(ms: Out<f32>, start: usize, end: usize) {
        let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
        let timed = start.flags & end.flags & TIME_LINE != 0;
        ensure(timed, code::RT_EVENT_TIMESTAMP_INVALID, || "both events need the flag TIME_LINE".to_owned())?;
        let (Some(from), Some(to)) = (start.passed_at(), end.passed_at()) else {
            return Err(Fail::new(code::RT_EVENT_TIMESTAMP_INVALID, "an event has not passed yet"));
        };
        let elapsed = to.checked_duration_since(from);
        let elapsed = elapsed.ok_or_else(|| Fail::new(code::RT_EVENT_TIMESTAMP_REVERSAL, "the end passed first"))?;
        ms.set(elapsed.as_secs_f32() * 1e3)
    }
}
