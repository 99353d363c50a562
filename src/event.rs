//! When a transfer may begin.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

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

/// A one-shot event that a program fires from any thread.
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

#[derive(Default)]
struct EventState {
    fired: bool,
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

impl Event {
    /// An event that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires it. Transfers that waited for it begin.
    pub fn fire(&self) {
        let waiting = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.fired = true;
            std::mem::take(&mut state.waiting)
        };
        for begin in waiting {
            begin();
        }
    }

    /// Whether it has fired.
    pub fn has_fired(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fired
    }

    /// Runs `begin` when it fires; at once if it has.
    pub(crate) fn when_fired(&self, begin: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.fired {
                state.waiting.push(Box::new(begin));
                return;
            }
        }
        begin();
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("fired", &self.has_fired()).finish()
    }
}
