//! Nothing under test may hang for ever, and no test asserts how long something takes.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long a call of the engine may take in a test before it counts as hanging.
pub const WAIT: Duration = Duration::from_secs(60);

/// After this the whole test process is ended: a hang.
const HANGS_AFTER: Duration = Duration::from_secs(150);

/// Runs a test. One that hangs ends the process with its name, so that its run ends at all.
pub fn bounded<T>(name: &str, test: impl FnOnce() -> T) -> T {
    let (done, watch) = channel::<()>();
    let name = name.to_owned();
    let watcher = std::thread::spawn(move || {
        if watch.recv_timeout(HANGS_AFTER) == Err(RecvTimeoutError::Timeout) {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{name} hangs: no end after {HANGS_AFTER:?}");
            std::process::abort();
        }
    });
    let value = test();
    drop(done);
    let _ = watcher.join();
    value
}

/// Waits until something holds that nobody tells of.
///
/// # Panics
/// When it does not hold after [`WAIT`]; `what` says what was waited for.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "{what}: not so after {WAIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
