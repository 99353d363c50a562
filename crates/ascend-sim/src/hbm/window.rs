//! Device addresses: one window a device and process, reserved without access.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use super::file;
use crate::fail::{Done, Fail, code};
use crate::topology::DeviceKey;

/// Where windows start, much as on hardware. The same in every process, so that an address of one means something
/// else in another.
const FIRST: u64 = 0x1240_0000_0000;
/// Bytes of a window: more than any device has, since addresses are not used again soon.
const WINDOW: u64 = 1 << 40;
/// Devices that a process may use.
const WINDOWS_MAX: usize = 64;

/// Starts of the windows in use, for [`contains`]; zero for none.
static STARTS: [AtomicU64; WINDOWS_MAX] = [const { AtomicU64::new(0) }; WINDOWS_MAX];

/// Whether an address lies in a window of this process.
pub(super) fn contains(va: u64) -> bool {
    let starts = STARTS.iter().map(|start| start.load(Ordering::Acquire)).take_while(|start| *start != 0);
    starts.into_iter().any(|start| va.wrapping_sub(start) < WINDOW)
}

#[derive(Debug, Default)]
pub(super) struct Windows {
    windows: HashMap<DeviceKey, Window>,
    /// Window and length of each reservation.
    reserved: BTreeMap<u64, (DeviceKey, u64)>,
}

#[derive(Debug)]
struct Window {
    start: u64,
    cursor: u64,
}

impl Windows {
    pub(super) fn reserve(&mut self, key: DeviceKey, len: u64, align: u64) -> Done<u64> {
        let align = align.max(1);
        let full = || Fail::new(code::RT_MEMORY_ALLOCATION, format!("no {len} addresses left for {key:?}"));
        if !self.windows.contains_key(&key) {
            self.open(key)?;
        }
        let window = self.windows.get_mut(&key).ok_or_else(full)?;
        let end = window.start + WINDOW;
        // From where the last one ended; once around.
        for from in [window.cursor, window.start] {
            let mut at = from.next_multiple_of(align);
            while at.checked_add(len).is_some_and(|last| last <= end) {
                let before = self.reserved.range(..at + len).next_back();
                match before.filter(|(start, (_, taken))| *start + taken > at) {
                    None => {
                        window.cursor = at + len;
                        self.reserved.insert(at, (key, len));
                        return Ok(at);
                    }
                    Some((start, (_, taken))) => at = (start + taken).next_multiple_of(align),
                }
            }
        }
        Err(full())
    }

    pub(super) fn release(&mut self, va: u64) {
        self.reserved.remove(&va);
    }

    fn open(&mut self, key: DeviceKey) -> Done {
        // Several memories may live in one process, each with windows of its own; the slots are the process's.
        let hint = FIRST + u64::from(key.physical) * WINDOW;
        let start = file::reserve(hint, WINDOW)?;
        let claimed = STARTS
            .iter()
            .any(|slot| slot.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if !claimed {
            return Err(Fail::new(
                code::RT_RESOURCE_ALLOC_FAIL,
                format!("more than {WINDOWS_MAX} devices in use"),
            ));
        }
        self.windows.insert(key, Window { start, cursor: start });
        Ok(())
    }
}
