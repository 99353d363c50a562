//! Named points at which a test can hold the threads that move chunks under a grant. Not in ordinary builds.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use ropeway_core::GrantId;

/// Where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Point {
    /// The fence was asked and said yes; no byte has moved.
    Entered = 1,
    /// The bytes have moved; the grant was not yet asked again, the cell still names it.
    Copied = 2,
}

static ARMED: AtomicU8 = AtomicU8::new(0);
static GRANT: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);

/// From now on the threads that come to `point` under `grant` stay there until [`release`]. One hold at a time.
pub fn hold(point: Point, grant: GrantId) {
    HELD.store(0, Ordering::SeqCst);
    GRANT.store(grant.to_bits(), Ordering::SeqCst);
    ARMED.store(point as u8, Ordering::SeqCst);
}

/// Lets all go on.
pub fn release() {
    ARMED.store(0, Ordering::SeqCst);
}

/// How many threads came to the point since [`hold`].
pub fn held() -> u64 {
    HELD.load(Ordering::SeqCst)
}

pub(crate) fn point(point: Point, grant: GrantId) {
    let here =
        || ARMED.load(Ordering::SeqCst) == point as u8 && GRANT.load(Ordering::SeqCst) == grant.to_bits();
    if here() {
        HELD.fetch_add(1, Ordering::SeqCst);
        while here() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
