mod adoption;
mod device;
mod forked;
mod limits;

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

#[test]
fn a_keep_alive_that_panics_does_not_stop_the_janitor() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("a keep-alive that panics, on purpose");
        }
    }
    let janitor = janitor();
    janitor.drop_later(Panics);
    // Twice: a thread that dies drops what is in its queue, and only that.
    for _ in 0..2 {
        let flag = Arc::new(AtomicBool::new(false));
        janitor.drop_later(Told(Arc::clone(&flag), Vec::new()));
        wait_for(&flag);
    }
}

#[test]
fn what_is_no_range_is_refused_and_its_keep_alive_dropped() {
    let janitor = janitor();
    let mut byte = 0_u8;
    for (base, len) in [(std::ptr::null_mut(), 1), (&raw mut byte, 0), (&raw mut byte, u64::MAX)] {
        let flag = Arc::new(AtomicBool::new(false));
        let keep_alive = Box::new(Told(Arc::clone(&flag), Vec::new()));
        // SAFETY: refused, so nothing is accessed.
        let error = unsafe { Memory::raw(base, len, keep_alive, &janitor) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse);
        wait_for(&flag);
    }
    let flag = Arc::new(AtomicBool::new(false));
    let error = Memory::owner(Told(Arc::clone(&flag), Vec::new()), &janitor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
    wait_for(&flag);
    for error in [Memory::anonymous(0, &janitor), Memory::shared(0, &janitor)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::ApiMisuse);
    }
}

/// Its slice is inside of it: it must not move between the call of `as_mut` and its drop.
#[test]
fn an_owner_whose_bytes_are_inside_of_it_stays_where_it_is() {
    let memory = Memory::owner([5_u8; 4096], &janitor()).unwrap();
    memory.fill(4000, 96, 6).unwrap();
    let mut bytes = [0; 4096];
    memory.read(0, &mut bytes).unwrap();
    assert!(bytes[..4000].iter().all(|byte| *byte == 5));
    assert!(bytes[4000..].iter().all(|byte| *byte == 6));
}

#[test]
fn raw_memory_lives_as_long_as_its_keep_alive() {
    let pages = guard::Guarded::new(8192).unwrap();
    let base = pages.base().as_ptr();
    // SAFETY: the keep-alive holds the map, and nobody makes references into it.
    let memory = unsafe { Memory::raw(base, 8192, Box::new(pages), &janitor()) }.unwrap();
    memory.write(8000, &[3; 192]).unwrap();
    let mut bytes = [0; 192];
    memory.read(8000, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 192]);
    assert!(memory.memfd().is_none());
}

/// Whether all pages are present, as the kernel says.
fn present(memory: &Memory) -> bool {
    let page = 4096;
    let mut vector = vec![0_u8; (memory.len() as usize).div_ceil(page)];
    // SAFETY: the range is mapped and page-aligned; the vector has a byte for each page.
    let done = unsafe {
        libc::mincore(memory.base().unwrap().as_ptr().cast(), memory.len() as usize, vector.as_mut_ptr())
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    vector.iter().all(|byte| *byte & 1 == 1)
}

/// Emulators take the advice to populate, and do nothing.
fn is_emulated(test: &str) -> bool {
    let map = MmapRaw::from(memmap2::MmapMut::map_anon(4096).unwrap());
    let populated = map.advise(memmap2::Advice::PopulateWrite).is_ok();
    let base = NonNull::new(map.as_mut_ptr()).unwrap();
    let memory = Memory::assemble(base, 4096, true, Backing::Private(map), &janitor());
    let emulated = populated && !present(&memory);
    if emulated {
        ropeway_testkit::cannot_run(
            test,
            "MADV_POPULATE_WRITE succeeds here and populates nothing: an emulator",
        );
    }
    emulated
}

#[test]
fn memory_is_present_before_it_is_handed_out() {
    if is_emulated("memory_is_present_before_it_is_handed_out") {
        return;
    }
    let janitor = janitor();
    assert!(present(&Memory::anonymous(40 << 20, &janitor).unwrap()));
    assert!(present(&Memory::shared(40 << 20, &janitor).unwrap()));
}

#[test]
fn kernels_that_cannot_populate_get_their_pages_touched() {
    use super::populate::{Touch, populate_by_touch};

    let pages = guard::Guarded::new(8 << 20).unwrap();
    let base = pages.base();
    // SAFETY: within the pages.
    unsafe { copy::fill(base.as_ptr().wrapping_add(4096), 9, 100) };
    populate_by_touch(base, pages.len(), Touch::Write);
    populate_by_touch(base, pages.len(), Touch::Read);
    // SAFETY: the keep-alive holds the map, and nobody makes references into it.
    let memory = unsafe { Memory::raw(base.as_ptr(), 8 << 20, Box::new(pages), &janitor()) }.unwrap();
    let mut bytes = [0; 100];
    memory.read(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 100]);
    assert!(present(&memory));
}

/// The kernel's own word: it answers EFAULT where a load would crash.
fn readable(at: *const u8) -> bool {
    let (_read, write) = rustix::pipe::pipe().unwrap();
    // SAFETY: the kernel checks the address; nothing of ours is written.
    let written = unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&write), at.cast(), 1) };
    written == 1
}

#[test]
fn pages_made_quiet_cannot_be_touched_until_they_are_opened_again() {
    let pages = guard::Guarded::new(4 << 16).unwrap();
    let base = pages.base().as_ptr();
    let at = |offset: usize| base.wrapping_add(offset).cast_const();
    assert!(!readable(at(0).wrapping_sub(1)));
    assert!(!readable(at(pages.len())));
    pages.protect(1 << 16..2 << 16, guard::Protection::None).unwrap();
    assert!(readable(at((1 << 16) - 1)) && !readable(at(1 << 16)));
    assert!(!readable(at((2 << 16) - 1)) && readable(at(2 << 16)));
    pages.protect(1 << 16..2 << 16, guard::Protection::ReadWrite).unwrap();
    assert!(readable(at(1 << 16)));
    assert!(pages.protect(0..pages.len() + 1, guard::Protection::Read).is_err());
}
