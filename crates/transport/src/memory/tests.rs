use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

fn janitor() -> Janitor {
    Janitor::start().unwrap()
}

#[test]
fn bytes_written_to_a_memfd_are_seen_by_its_importer_and_back() {
    let janitor = janitor();
    let ours = Memory::shared(10_000, &janitor).unwrap();
    ours.write(9_000, b"from the owner").unwrap();
    let fd = ours.memfd().unwrap().try_clone_to_owned().unwrap();
    let theirs = Memory::map_peer(fd, 10_000, Rights::Write, &janitor).unwrap();
    let mut seen = [0; 14];
    theirs.read(9_000, &mut seen).unwrap();
    assert_eq!(&seen, b"from the owner");
    theirs.write(0, b"from the peer").unwrap();
    let mut seen = [0; 13];
    ours.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"from the peer");
}

#[test]
fn private_memory_is_zero_and_checked_at_its_end() {
    let memory = Memory::anonymous(3 << 20, &janitor()).unwrap();
    let mut bytes = [1; 100];
    memory.read((3 << 20) - 100, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
    for (at, len) in [(3 << 20, 1_u64), ((3 << 20) - 99, 100), (u64::MAX, 2)] {
        assert_eq!(memory.read(at, &mut bytes[..len as usize]).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(memory.write(at, &bytes[..len as usize]).unwrap_err().kind(), ErrorKind::OutOfBounds);
        assert_eq!(memory.fill(at, len, 1).unwrap_err().kind(), ErrorKind::OutOfBounds);
    }
    memory.fill(5, 3, 9).unwrap();
    memory.read(4, &mut bytes[..5]).unwrap();
    assert_eq!(bytes[..5], [0, 9, 9, 9, 0]);
}

struct Told(Arc<AtomicBool>, Vec<u8>);

impl Drop for Told {
    fn drop(&mut self) {
        assert_eq!(std::thread::current().name(), Some("ropeway-janitor"));
        self.0.store(true, Ordering::Release);
    }
}

impl AsMut<[u8]> for Told {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.1
    }
}

fn wait_for(flag: &AtomicBool) {
    let watchdog = Instant::now() + Duration::from_secs(60);
    while !flag.load(Ordering::Acquire) {
        assert!(Instant::now() < watchdog, "nothing was dropped in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_owner_is_dropped_by_the_janitor_after_the_last_handle() {
    let flag = Arc::new(AtomicBool::new(false));
    let memory = Memory::owner(Told(Arc::clone(&flag), vec![7; 64]), &janitor()).unwrap();
    let other = Arc::clone(&memory);
    drop(memory);
    assert!(!flag.load(Ordering::Acquire));
    let mut bytes = [0; 64];
    other.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 64]);
    drop(other);
    wait_for(&flag);
}

#[test]
fn a_failed_allocation_is_a_resource_error_with_its_errno() {
    use super::map::Step;
    use rustix::io::Errno;

    let janitor = janitor();
    for (step, errno) in [
        (Step::Create, Errno::MFILE),
        (Step::Size, Errno::NOMEM),
        (Step::Allocate, Errno::NOSPC),
        (Step::Allocate, Errno::NOMEM),
        (Step::Map, Errno::NOMEM),
        (Step::Populate, Errno::FAULT),
    ] {
        fault::inject(step, errno);
        let error = Memory::shared(1 << 20, &janitor).unwrap_err();
        assert_eq!(
            (error.kind(), error.native()),
            (ErrorKind::Resource, Some(errno.raw_os_error())),
            "{step:?}"
        );
        assert!(error.message().contains("1048576 bytes"), "{error}");
    }
    for step in [Step::Map, Step::Populate] {
        fault::inject(step, Errno::NOMEM);
        assert_eq!(Memory::anonymous(1 << 20, &janitor).unwrap_err().kind(), ErrorKind::Resource);
    }
    Memory::shared(1 << 20, &janitor).unwrap();
}
