//! Failures of the system on demand, for the tests of this crate.

use std::cell::Cell;

use rustix::io::Errno;

use super::map::Step;

thread_local! {
    static NEXT: Cell<Option<(Step, Errno)>> = const { Cell::new(None) };
}

/// The next time this thread gets to `step`, it fails with `errno`.
pub(super) fn inject(step: Step, errno: Errno) {
    NEXT.set(Some((step, errno)));
}

pub(super) fn check(step: Step) -> Result<(), Errno> {
    match NEXT.get() {
        Some((at, errno)) if at == step => {
            NEXT.set(None);
            Err(errno)
        }
        _ => Ok(()),
    }
}
