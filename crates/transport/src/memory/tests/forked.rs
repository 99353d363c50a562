//! What a forked child may and may not do with its parent's memory.

use std::sync::atomic::AtomicU32;

use super::*;

/// Runs `check` in a forked child and gives its answer; the parent waits with a watchdog.
pub(super) fn in_forked_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `check`, which takes no lock that another thread of the test binary can hold, and exits.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_or(false);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let watchdog = Instant::now() + Duration::from_secs(60);
    loop {
        let mut status = 0;
        // SAFETY: our own child; the status is ours.
        let done = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if done == pid {
            return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        }
        if Instant::now() > watchdog {
            // SAFETY: our own child, not yet waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("the child gave no answer in a minute");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn calls_in_a_child_say_forked_and_the_parent_works_on() {
    let janitor = janitor();
    let memory = Memory::anonymous(1 << 20, &janitor).unwrap();
    memory.write(0, b"parent").unwrap();
    let forked = |error: Error| error.kind() == ErrorKind::Forked;
    assert!(!fork::in_child());
    assert!(in_forked_child(|| {
        fork::in_child()
            && memory.read(0, &mut [0; 6]).is_err_and(forked)
            && memory.write(0, &[1]).is_err_and(forked)
            && memory.fill(0, 1, 1).is_err_and(forked)
            && Memory::anonymous(4096, &janitor).is_err_and(forked)
            && Memory::owner(vec![1], &janitor).is_err_and(forked)
    }));
    assert!(!fork::in_child());
    let mut bytes = [0; 6];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"parent");
}

/// Counts its drops where parent and child both see them.
struct Counted(Arc<Memory>);

impl Drop for Counted {
    fn drop(&mut self) {
        // SAFETY: within the map, aligned, and only used as an atomic.
        unsafe { AtomicU32::from_ptr(self.0.base().unwrap().as_ptr().cast()) }.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn drops_in_a_child_do_nothing() {
    // A plain map: engine memory would not be there in the child.
    let counter = guard::Guarded::new(4096).unwrap();
    let base = counter.base().as_ptr();
    let janitor = janitor();
    // SAFETY: the keep-alive holds the map, and it is only used as an atomic.
    let counter = unsafe { Memory::raw(base, 4096, Box::new(counter), &janitor) }.unwrap();
    let keep_alive = Box::new(Counted(Arc::clone(&counter)));
    let mut byte = 0_u8;
    // SAFETY: nothing is accessed.
    let memory = unsafe { Memory::raw(&raw mut byte, 1, keep_alive, &janitor) }.unwrap();
    let private = Memory::anonymous(1 << 20, &janitor).unwrap();
    // SAFETY: within the map, aligned, and only used as an atomic.
    let count = unsafe { AtomicU32::from_ptr(base.cast()) };
    let mut given = Some((memory, private, janitor));
    assert!(in_forked_child(|| {
        drop(given.take());
        std::thread::sleep(Duration::from_millis(20));
        count.load(Ordering::SeqCst) == 0
    }));
    drop(given.take());
    let watchdog = Instant::now() + Duration::from_secs(60);
    while count.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < watchdog, "the parent's keep-alive was not dropped in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_child_can_use_memory_of_its_own() {
    let parents = janitor();
    assert!(in_forked_child(|| {
        let Ok(janitor) = Janitor::start() else { return false };
        let Ok(memory) = Memory::shared(1 << 20, &janitor) else { return false };
        let mut bytes = [0; 2];
        memory.write(9, &[4, 5]).is_ok() && memory.read(9, &mut bytes).is_ok() && bytes == [4, 5]
    }));
    drop(parents);
}
