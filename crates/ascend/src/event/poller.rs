//! One thread per device that asks after watched events. Nobody waits inside CANN: a native wait for an event is known
//! to hang, and cannot be given up.

use std::any::Any;
use std::collections::HashSet;
use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::Janitor;
use ropeway_transport::memory::fork::Origin;

use super::has_fired;
use crate::device::Device;
use crate::error::{Code, Library};

/// The first pause after an event was found not to have fired, and the shortest.
const PAUSE_MIN: Duration = Duration::from_micros(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// How often the device is asked whether it is well, while an event has not fired for as long: a query of an event may go
/// on saying "not yet" on a device that will never get there.
const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// A pause is this part of the time for which the youngest event has been watched: it is noticed late by an eighth.
const PAUSE_PART: u32 = 8;

/// Names a watched event until it has fired.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WatchId(u64);

/// Runs a callback when an event has fired. Its thread is started with the first event and sleeps while there is none.
///
/// When it is dropped, events that have not fired end with `Closed`.
pub struct EventPoller {
    shared: ManuallyDrop<Arc<Shared>>,
    device: Arc<Device>,
    watched_max: usize,
    origin: Origin,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    janitor: Janitor,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Added since the thread last looked.
    added: Vec<Watch>,
    /// How many the thread has taken.
    taken: usize,
    given_up: HashSet<u64>,
    running: bool,
    closed: bool,
}

type Done = Box<dyn FnOnce(Result<()>) + Send>;

struct Watch {
    id: u64,
    event: usize,
    keep_alive: Box<dyn Any + Send>,
    done: Done,
    since: Instant,
}

impl EventPoller {
    /// A poller for events of `device`, at most so many at a time. Starts no thread yet.
    pub fn new(device: Arc<Device>, watched_max: usize, janitor: &Janitor) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), janitor: janitor.clone() };
        let origin = device.origin();
        Self { shared: ManuallyDrop::new(Arc::new(shared)), device, watched_max, origin }
    }

    /// Calls `done` once, on the poller's thread, after `event` has fired, or with the error that asking after it gave.
    /// `done` must not block. `keep_alive` is dropped on the janitor's thread after it.
    ///
    /// # Errors
    /// `Full`: too many are watched. `Resource`: no thread. `Forked`. `done` is dropped uncalled then.
    ///
    /// # Safety
    /// `event` is an `aclrtEvent` of this process, recorded on a stream before, and stays one until `keep_alive` is
    /// dropped.
    pub unsafe fn watch(
        &self,
        event: *mut c_void,
        keep_alive: Box<dyn Any + Send>,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<WatchId> {
        if let Err(error) = self.origin.check("watch event") {
            self.shared.janitor.drop_later(keep_alive);
            return Err(error);
        }
        let mut state = self.shared.lock();
        let refused = if state.taken + state.added.len() >= self.watched_max {
            Some(Error::new(
                ErrorKind::Full,
                "watch event",
                format!("{} events are watched already; wait for some to fire", self.watched_max),
            ))
        } else {
            self.start(&mut state).err()
        };
        if let Some(error) = refused {
            drop(state);
            self.shared.janitor.drop_later(keep_alive);
            return Err(error);
        }
        let id = state.next;
        state.next += 1;
        let done = Box::new(done);
        state.added.push(Watch { id, event: event as usize, keep_alive, done, since: Instant::now() });
        drop(state);
        self.shared.changed.notify_one();
        Ok(WatchId(id))
    }

    /// Watches an event no longer: its callback gets `Cancelled`, soon, unless it was called already.
    pub fn give_up(&self, id: WatchId) {
        if self.origin.is_foreign() {
            return;
        }
        let mut state = self.shared.lock();
        if state.running {
            state.given_up.insert(id.0);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// How many events are watched.
    pub fn watched(&self) -> usize {
        let state = self.shared.lock();
        state.taken + state.added.len()
    }

    fn start(&self, state: &mut State) -> Result<()> {
        if state.running {
            return Ok(());
        }
        let (shared, device) = (Arc::clone(&self.shared), self.device.clone());
        let name = format!("npu{}-events", device.user_id());
        std::thread::Builder::new().name(name).spawn(move || shared.poll(&device)).map_err(|error| {
            Error::os("watch event", "cannot start a thread; check RLIMIT_NPROC and pids.max", error)
        })?;
        state.running = true;
        Ok(())
    }
}

impl Drop for EventPoller {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that does not exist here.
        if self.origin.is_foreign() {
            return;
        }
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.shared) };
    }
}

impl fmt::Debug for EventPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPoller").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under it, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, device: &Device) {
        let mut watched: Vec<Watch> = Vec::new();
        let mut well = Instant::now();
        while let Some(given_up) = self.next(&mut watched) {
            self.ask(device, &mut watched, &given_up);
            let old = watched.iter().any(|watch| watch.since.elapsed() >= HEALTH_EVERY);
            if old && well.elapsed() >= HEALTH_EVERY {
                well = Instant::now();
                if device.is_well() == Some(false) {
                    watched.drain(..).for_each(|watch| self.end(watch, Err(lost(device))));
                }
            }
        }
        for watch in watched {
            self.end(watch, Err(closed()));
        }
    }

    /// Pauses if there is nothing new, takes what was added, says what was given up; `None` when it is all over.
    fn next(&self, watched: &mut Vec<Watch>) -> Option<HashSet<u64>> {
        let mut state = self.lock();
        state.taken = watched.len();
        while !state.closed && state.added.is_empty() && state.given_up.is_empty() {
            let youngest = watched.iter().map(|watch| watch.since).max();
            let Some(youngest) = youngest else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let pause = (youngest.elapsed() / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX);
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            break;
        }
        watched.append(&mut state.added);
        state.taken = watched.len();
        let given_up = std::mem::take(&mut state.given_up);
        (!state.closed).then_some(given_up)
    }

    /// Asks after each event once, without a lock.
    fn ask(&self, device: &Device, watched: &mut Vec<Watch>, given_up: &HashSet<u64>) {
        let bound = device.adopt_thread();
        let mut at = 0;
        while at < watched.len() {
            let outcome = match &bound {
                _ if given_up.contains(&watched[at].id) => Some(Err(cancelled())),
                Err(error) => Some(Err(error.clone())),
                // SAFETY: whoever had it watched vouched for it until the keep-alive is dropped, which is below.
                Ok(on) => match unsafe { has_fired(on, watched[at].event as *mut c_void) } {
                    Ok(false) => None,
                    Ok(true) => Some(Ok(())),
                    Err(error) => Some(Err(error)),
                },
            };
            match outcome {
                Some(outcome) => self.end(watched.swap_remove(at), outcome),
                None => at += 1,
            }
        }
    }

    fn end(&self, watch: Watch, outcome: Result<()>) {
        let done = watch.done;
        if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
            tracing::error!("the callback of an event panicked");
        }
        self.janitor.drop_later(watch.keep_alive);
    }
}

#[cold]
fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "watch event", "nobody waits for it any more")
}

#[cold]
fn lost(device: &Device) -> Error {
    let number = acl::ACL_ERROR_RT_LOST_HEARTBEAT;
    let what = format!("device {} says that it is not well, and an event has not fired", device.user_id());
    Code::of(Library::Acl, number).error("watch event", &what, None)
}

#[cold]
fn closed() -> Error {
    Error::new(ErrorKind::Closed, "watch event", "the NPU was closed before the event had fired")
}
