use ascend_sim::acl::kernel::{pattern, ropeway_sim_kernel_late_write};

use crate::rig::*;

/// With this code the harness ends when a test failed.
const TEST_FAILED: i32 = 101;

#[test]
fn a_child_reads_device_memory_as_if_it_were_its_own() {
    if as_child("processes::a_child_reads_device_memory_as_if_it_were_its_own").is_none() {
        return;
    }
    on(0);
    let at = malloc(64, NORMAL_ONLY).unwrap();
    tell("reads");
    // SAFETY: not sound, and meant so: the read faults, which ends this child.
    let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    tell(format!("read {byte}"));
}

#[test]
fn a_stray_host_access_to_device_memory_faults() {
    let mut other = Other::start("processes::a_child_reads_device_memory_as_if_it_were_its_own");
    assert_eq!(other.hear(), "reads");
    // A sanitizer turns the signal into an exit of its own.
    let (rest, end) = other.end();
    assert!(!end.success() && end.code() != Some(TEST_FAILED), "{end}");
    assert!(!rest.iter().any(|line| line.contains("@read ")), "{rest:?}");
}

#[test]
fn a_forked_child_is_refused_and_does_not_hang() {
    on(0);
    let at = malloc(64, NORMAL_ONLY).unwrap();
    // SAFETY: the child makes refused calls and ends without running anything of its parent's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = malloc(64, NORMAL_ONLY) == Err(500_000) && free(at) == 500_000;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = -1;
    // SAFETY: `status` has room for the answer.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0));
    assert_eq!(free(at), OK, "the parent goes on");
}

/// Writes late into memory of its own, and is killed before.
#[test]
fn a_child_writes_late() {
    let Some(mut hear) = as_child("processes::a_child_writes_late") else { return };
    on(5);
    let at = malloc(4096, NORMAL_ONLY).unwrap();
    assert_eq!(ropeway_sim_kernel_late_write(stream(), at, 64, 1, 2000), OK);
    tell("launched");
    let _ = hear.next();
}

#[test]
fn what_a_killed_process_had_launched_is_never_written() {
    let mut other = Other::start("processes::a_child_writes_late");
    assert_eq!(other.hear(), "launched");
    other.kill();
    on(5);
    let at = malloc(4096, NORMAL_ONLY).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_ne!(pattern(1, 0), 0);
    assert_eq!(get_bytes(at, 64), [0; 64]);
    assert_eq!(free(at), OK);
}

#[test]
fn threads_of_one_process_allocate_copy_and_free_side_by_side() {
    on(0);
    let threads = (0..8_u8).map(|id| {
        std::thread::spawn(move || {
            on(i32::from(id % 2));
            let stream = stream();
            for round in 0..20 {
                let (a, b) = (malloc(5000, NORMAL_ONLY).unwrap(), malloc(5000, NORMAL_ONLY).unwrap());
                put_bytes(a, &[id ^ round; 5000]);
                assert_eq!(memcpy_async(b, a, 5000, D2D, stream), OK);
                assert_eq!(sync(stream), OK);
                assert_eq!(get_bytes(b, 5000), [id ^ round; 5000]);
                assert_eq!((free(a), free(b)), (OK, OK));
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}
