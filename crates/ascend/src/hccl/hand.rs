//! A link's hand: the thread that makes its native calls, each of which may never return. Who asks for one waits for a time,
//! not for its end.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use ropeway_core::{Error, ErrorKind, Result};

use crate::device::{Bound, Device};

type Job = Box<dyn FnOnce(&Bound<'_>) + Send>;

/// Ends with its last call: a call that hangs keeps its thread, and nothing else.
pub(super) struct Hand {
    jobs: Sender<Job>,
    hangs: Cell<bool>,
}

/// A call that has not returned. What it does, and when it ends, is not known: what it was given is to be leaked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hung {
    what: &'static str,
    waited: Duration,
}

impl Hung {
    /// As an error of a link that is being made: the library may only wait for the other rank, for longer than the link had.
    pub(super) fn in_set_up(self) -> Error {
        let Self { what, waited } = self;
        let text = format!(
            "{what} has not returned for {waited:.1?}, and until it does this NPU makes no other communicator; CANN lets it \
             wait for the other rank for HCCL_CONNECT_TIMEOUT and 20 s; if it stays away for longer, restart the process"
        );
        Error::new(ErrorKind::TimedOut, "link over HCCL", text)
    }

    /// As an error of a link that had copies under way.
    pub(super) fn error(self, operation: &'static str) -> Error {
        let Self { what, waited } = self;
        let text = format!(
            "fatal: {what} has not returned for {waited:.1?}: the communicator is given up, and what it may touch is withheld \
             until this process ends; restart it"
        );
        Error::new(ErrorKind::LinkLost, operation, text)
    }
}

/// A call's result, and whether anybody waits for it.
enum Call<R> {
    Under,
    Over(R),
    /// It panicked, or was never begun.
    Lost,
    GivenUp,
}

struct Slot<R> {
    call: Mutex<Call<R>>,
    bell: Condvar,
}

impl<R> Slot<R> {
    /// Puts the end of a call in its place. Gives it back when nobody waits any more.
    fn end(&self, end: Call<R>) -> Option<Call<R>> {
        let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*call, Call::GivenUp) {
            return Some(end);
        }
        *call = end;
        self.bell.notify_one();
        None
    }

    /// The call's result, if it comes by then. `None`: it does not, and nobody waits any more.
    fn wait(&self, until: Instant) -> Option<R> {
        let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match std::mem::replace(&mut *call, Call::GivenUp) {
                Call::Over(result) => return Some(result),
                Call::Under if !left.is_zero() => *call = Call::Under,
                _ => return None,
            }
            call = self.bell.wait_timeout(call, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Tells who waits that the job was dropped.
struct Telling<R>(Arc<Slot<R>>);

impl<R> Drop for Telling<R> {
    fn drop(&mut self) {
        let mut call = self.0.call.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*call, Call::Under) {
            *call = Call::Lost;
            self.0.bell.notify_one();
        }
    }
}

impl Hand {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread is to be had.
    pub(super) fn start(device: &Arc<Device>) -> Result<Self> {
        let (jobs, given) = unbounded::<Job>();
        let device = Arc::clone(device);
        let name = format!("npu{}-hccl-call", device.user_id());
        let work = move || match device.enter() {
            Err(error) => tracing::error!(%error, "a link by HCCL has no thread for its calls"),
            Ok(on) => {
                for job in given {
                    // The job tells who waits for it.
                    if catch_unwind(AssertUnwindSafe(|| job(&on))).is_err() {
                        tracing::error!("a panic in a call of HCCL");
                    }
                }
            }
        };
        let spawned = std::thread::Builder::new().name(name).spawn(work);
        spawned.map_err(|error| Error::os("link over HCCL", "its thread cannot be started", error))?;
        Ok(Self { jobs, hangs: Cell::new(false) })
    }

    /// Makes a call, and waits for it until then. Whether it is begun at all after an earlier one hung is not known either.
    /// `late` is given a result for which nobody waits any more.
    ///
    /// # Errors
    /// It has not returned.
    pub(super) fn call<R: Send + 'static>(
        &self,
        what: &'static str,
        until: Instant,
        call: impl FnOnce(&Bound<'_>) -> R + Send + 'static,
        late: impl FnOnce(&Bound<'_>, R) + Send + 'static,
    ) -> Result<R, Hung> {
        let asked = Instant::now();
        let slot = Arc::new(Slot { call: Mutex::new(Call::Under), bell: Condvar::new() });
        let telling = Telling(Arc::clone(&slot));
        let job: Job = Box::new(move |on| {
            let result = call(on);
            if let Some(Call::Over(result)) = telling.0.end(Call::Over(result)) {
                tracing::warn!(what, "a call of HCCL that was given up has returned after all");
                late(on, result);
            }
        });
        let result = if self.hangs.get() || self.jobs.send(job).is_err() { None } else { slot.wait(until) };
        result.ok_or_else(|| {
            self.hangs.set(true);
            let hung = Hung { what, waited: asked.elapsed() };
            tracing::error!(what, waited = ?hung.waited, "a call of HCCL has not returned in its time");
            hung
        })
    }
}
