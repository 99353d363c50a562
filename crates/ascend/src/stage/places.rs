//! The stage of one native way: a fixed piece of our device's memory and as much pinned memory, in places of one size.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropeway_core::Result;
use ropeway_transport::Memory;

use crate::device::{Bound, Device};
use crate::npu::Npu;
use crate::slots::Slots;

/// Bytes of one place: what the posting thread copies at a time.
pub(super) const PLACE: u64 = 512 << 10;
/// Places of one engine and way, all peers together: 8 MiB of each kind of memory.
pub(super) const PLACES: u64 = 16;

/// See the module. Shared by the movers of a way.
pub(crate) struct Stages {
    npu: Arc<Npu>,
    slots: Arc<Slots>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Allocated when it is first needed.
    room: Option<Room>,
    free: Vec<u64>,
}

/// The memory of all places.
#[derive(Clone)]
pub(super) struct Room {
    pub(super) device: Arc<Memory>,
    pub(super) pinned: Arc<Memory>,
}

impl Room {
    pub(super) fn device_at(&self, at: u64) -> u64 {
        self.device.device().map_or(0, |range| range.address()) + at
    }

    pub(super) fn pinned_at(&self, at: u64) -> u64 {
        self.pinned.range(at, 0).map_or(0, |byte| byte.addr().get() as u64)
    }
}

/// A place that nobody else uses: the offset of its first byte in both memories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(pub(super) u64);

impl Stages {
    pub(crate) fn new(npu: &Arc<Npu>, slots: Arc<Slots>) -> Arc<Self> {
        Arc::new(Self { npu: Arc::clone(npu), slots, state: Mutex::default() })
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        self.npu.device()
    }

    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The memory, allocated by the first one that asks, and streams for it. On a slow thread.
    ///
    /// # Errors
    /// There is not so much memory, or no stream.
    pub(super) fn open(&self, on: &Bound<'_>) -> Result<Room> {
        self.slots.stock(on)?;
        if let Some(room) = &self.lock().room {
            return Ok(room.clone());
        }
        // Not under the lock, which the posting thread takes. Of two that come at once, one allocates for nothing.
        let bytes = PLACE * PLACES;
        let made = Room { device: self.npu.alloc(bytes)?, pinned: self.npu.alloc_pinned(bytes)? };
        let mut state = self.lock();
        if let Some(room) = &state.room {
            return Ok(room.clone());
        }
        state.free = (0..PLACES).rev().map(|place| place * PLACE).collect();
        Ok(state.room.insert(made).clone())
    }

    /// A free place.
    pub(super) fn take(&self) -> Option<Place> {
        self.lock().free.pop().map(Place)
    }

    /// Nothing touches the place any more.
    pub(super) fn give(&self, place: Place) {
        self.lock().free.push(place.0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
