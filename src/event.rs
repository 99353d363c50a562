//! When a transfer may begin.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropeway_core::{Error, Result};

/// When a submitted plan may begin.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Start {
    /// At once.
    #[default]
    Now,
    /// When the event has fired: the blocks are complete only then.
    AfterEvent(Event),
}

/// A one-shot event that a program fires from any thread; or one of a device, made by
/// [`Engine::npu_event`](crate::Engine::npu_event).
///
/// No thread of the engine blocks on it: what waits for it is posted by the thread that fires it.
///
/// ```
/// let event = ropeway::Event::new();
/// assert!(!event.has_fired());
/// event.fire();
/// event.fire(); // firing twice is firing once
/// assert!(event.has_fired());
/// ```
#[derive(Clone, Default)]
pub struct Event(Arc<Mutex<EventState>>);

/// Told once whether the event fired or failed.
type Waiting = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
struct EventState {
    /// How it ended, if it has; the first end counts.
    ended: Option<Result<()>>,
    waiting: Vec<Waiting>,
}

impl Event {
    /// An event that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires it. Transfers that waited for it begin.
    pub fn fire(&self) {
        self.end(Ok(()));
    }

    /// It will never fire: the work that it stands for failed. Transfers that waited for it end with this error, and
    /// leases are revoked.
    pub fn fail(&self, error: Error) {
        self.end(Err(error));
    }

    fn end(&self, how: Result<()>) {
        let waiting = {
            let mut state = self.lock();
            if state.ended.is_some() {
                return;
            }
            state.ended = Some(how.clone());
            std::mem::take(&mut state.waiting)
        };
        for told in waiting {
            told(how.clone());
        }
    }

    /// Whether it has fired.
    pub fn has_fired(&self) -> bool {
        matches!(self.lock().ended, Some(Ok(())))
    }

    /// Why it never will, if it failed.
    pub fn failure(&self) -> Option<Error> {
        self.lock().ended.as_ref()?.as_ref().err().cloned()
    }

    /// Runs `told` when it ends; at once if it has.
    pub(crate) fn when_ended(&self, told: impl FnOnce(Result<()>) + Send + 'static) {
        let ended = {
            let mut state = self.lock();
            match state.ended.clone() {
                None => {
                    state.waiting.push(Box::new(told));
                    return;
                }
                Some(ended) => ended,
            }
        };
        told(ended);
    }

    fn lock(&self) -> MutexGuard<'_, EventState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("ended", &self.lock().ended).finish()
    }
}
