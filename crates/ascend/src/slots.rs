//! Streams for copies, shared by all links of one native way: each with an event that tells its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ropeway_core::{Error, Result};

use crate::device::{Bound, Device, Work};
use crate::event::Event;
use crate::stream::{Stream, has_passed};

/// Streams of one engine, at most: more copies at a time only share the same copy engines.
const SLOTS_MAX: usize = 16;
/// Streams that are left to others: the device has 1,984 in all.
const LEFT_TO_OTHERS: u32 = 64;

/// A stream with nothing on it, and the event of its next request.
pub(crate) struct Slot {
    pub(crate) stream: Stream,
    pub(crate) event: Event,
}

impl Slot {
    /// Waits for what is on the stream, and ends it by force if it does not end well. Whether it is proven over.
    pub(crate) fn drain(&self, on: &Bound<'_>, timeout: Duration) -> bool {
        if self.stream.wait(on, timeout).is_ok() {
            return true;
        }
        self.stream.abort(on).is_ok() && has_passed(&self.stream.wait(on, timeout))
    }
}

/// See the module.
pub(crate) struct Slots {
    device: Arc<Device>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: Vec<Slot>,
    /// Free and in use.
    made: usize,
    /// Another one is being made.
    making: bool,
}

impl Slots {
    pub(crate) fn new(device: Arc<Device>) -> Arc<Self> {
        Arc::new(Self { device, state: Mutex::default() })
    }

    /// Makes two more, up to the most. On a slow thread.
    ///
    /// # Errors
    /// None is there, and none is to be had.
    pub(crate) fn stock(&self, on: &Bound<'_>) -> Result<()> {
        for _ in 0..2 {
            let enough = { self.lock().made >= SLOTS_MAX };
            if enough {
                return Ok(());
            }
            match self.make(on) {
                Ok(slot) => {
                    let mut state = self.lock();
                    state.made += 1;
                    state.free.push(slot);
                }
                Err(error) if self.lock().made == 0 => return Err(error),
                Err(error) => {
                    tracing::info!(%error, "the streams that there are have to do");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn make(&self, on: &Bound<'_>) -> Result<Slot> {
        if let Some(streams) = &on.acl().streams {
            let mut left = u32::MAX;
            // SAFETY: writes one integer to a local.
            let code = unsafe { (streams.aclrtGetStreamAvailableNum)(&mut left) };
            if code == 0 && left <= LEFT_TO_OTHERS && self.lock().made > 0 {
                let text = format!("{left} streams are left on device {}", on.user_id());
                return Err(Error::new(ropeway_core::ErrorKind::Full, "create stream", text));
            }
        }
        Ok(Slot { stream: Stream::create(&self.device, on)?, event: Event::create(&self.device, on)? })
    }

    /// One that is free. `None`: all are in use, or broken ones are being replaced.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.lock();
        let slot = state.free.pop();
        if slot.is_none() && state.made == 0 && !std::mem::replace(&mut state.making, true) {
            drop(state);
            let me = self.clone();
            let made = self.device.run(Work::Slow, "create stream", move |on| {
                let stocked = me.stock(on);
                me.lock().making = false;
                if let Err(error) = stocked {
                    tracing::warn!(%error, "no stream for copies");
                }
            });
            if made.is_err() {
                self.lock().making = false;
            }
            return None;
        }
        slot
    }

    /// Nothing is on the stream any more.
    pub(crate) fn give(&self, slot: Slot) {
        self.lock().free.push(slot);
    }

    /// The stream failed; what was on it is over.
    pub(crate) fn retire(&self, slot: Slot) {
        self.lock().made -= 1;
        drop(slot);
    }

    /// What is on the stream may go on: it is never destroyed.
    pub(crate) fn lose(&self, slot: Slot) {
        self.lock().made -= 1;
        std::mem::forget(slot);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
