//! A forked child of a process that uses an NPU.

mod common;

use common::{npu, simulator};
use ropeway_ascend::Work;
use ropeway_core::ErrorKind;

#[test]
fn a_forked_child_gets_errors_and_its_drops_do_nothing() {
    let Some(simulator) = simulator("fork") else { return };
    let npu = npu(simulator, 0);
    let memory = npu.alloc(4096).unwrap();
    let pinned = npu.alloc_pinned(4096).unwrap();
    memory.write(0, b"parent").unwrap();
    // SAFETY: the child calls this crate only, which allocates nothing under a lock of another thread's, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let forked =
            |outcome: ropeway_core::Result<()>| outcome.is_err_and(|error| error.kind() == ErrorKind::Forked);
        let calls = forked(npu.device().run(Work::Post, "post", |_| ()))
            && forked(npu.device().enter().map(drop))
            && forked(npu.alloc(4096).map(drop))
            && forked(npu.arrival().map(drop))
            && forked(memory.write(0, b"child"));
        drop((memory, pinned, npu));
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(if calls { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child; writes one integer to a local.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status), "the child died: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 7);
    let mut back = [0; 6];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"parent");
}
