//! Descriptors that come from elsewhere: an inference engine's memfd, a peer's.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

const LEN: u64 = 1 << 20;

fn memfd(len: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    fd
}

fn sealed(len: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd(len);
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn all() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

/// Another descriptor of the same file, opened to read and write through `/proc`.
fn reopened(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    File::options().read(true).write(true).open(path).map(OwnedFd::from)
}

#[test]
fn an_adopted_memfd_is_sealed_and_shows_what_its_other_maps_write() {
    let fd = memfd(LEN);
    let elsewhere = memmap2::MmapOptions::new().map_raw(&fd).unwrap();
    let memory = Memory::adopt(fd.try_clone().unwrap(), &janitor()).unwrap();
    assert_eq!((memory.len(), memory.is_writable(), memory.peer_rights()), (LEN, true, Rights::Write));
    assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(rustix::io::Errno::PERM));
    // SAFETY: within the map, which no reference points into.
    unsafe { copy::fill(elsewhere.as_mut_ptr().wrapping_add(5000), 8, 10) };
    let mut bytes = [0; 10];
    memory.read(5000, &mut bytes).unwrap();
    assert_eq!(bytes, [8; 10]);
}

#[test]
fn a_memfd_sealed_against_writing_is_adopted_to_read() {
    let memory = Memory::adopt(sealed(LEN, all() | SealFlags::FUTURE_WRITE), &janitor()).unwrap();
    assert_eq!((memory.is_writable(), memory.peer_rights()), (false, Rights::Read));
    memory.read(0, &mut [0; 10]).unwrap();
    assert_eq!(memory.write(0, &[1]).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(memory.fill(0, 1, 1).unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn what_cannot_be_sealed_is_not_adopted_and_the_error_says_what_to_do() {
    let janitor = janitor();
    let unsealable = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&unsealable, LEN).unwrap();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let disk = File::open("/proc/self/exe").unwrap();
    let read_only = File::open(format!("/proc/self/fd/{}", memfd(LEN).as_raw_fd()));
    let half_sealed = sealed(LEN, SealFlags::GROW | SealFlags::SEAL);
    let mut cases = vec![
        (unsealable, "MFD_ALLOW_SEALING"),
        (pipe, "memfd_create"),
        (disk.into(), "memfd_create"),
        (memfd(0), "ftruncate"),
        (half_sealed, "SHRINK"),
    ];
    if let Ok(file) = read_only {
        cases.push((file.into(), "open to write"));
    }
    for (fd, advice) in cases {
        let error = Memory::adopt(fd, &janitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
        assert!(error.message().contains(advice), "{error}");
    }
}

#[test]
fn a_peers_memfd_that_is_unsealed_or_short_is_not_mapped() {
    let janitor = janitor();
    let map = |fd, len, rights| Memory::map_peer(fd, len, rights, &janitor).map_err(|error| error.kind());
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::SHRINK | SealFlags::GROW] {
        assert_eq!(map(sealed(LEN, seals), LEN, Rights::Read).unwrap_err(), ErrorKind::Denied, "{seals:?}");
    }
    assert_eq!(map(sealed(LEN, all()), LEN + 1, Rights::Read).unwrap_err(), ErrorKind::Mismatch);
    assert_eq!(map(sealed(LEN, all()), 0, Rights::Read).unwrap_err(), ErrorKind::Mismatch);
    assert_eq!(map(sealed(LEN, all()), u64::MAX, Rights::Read).unwrap_err(), ErrorKind::Mismatch);
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert_eq!(map(pipe, LEN, Rights::Read).unwrap_err(), ErrorKind::Denied);
    map(sealed(LEN, all()), LEN, Rights::Read).unwrap();
}

#[test]
fn memory_mapped_to_read_refuses_to_be_written() {
    let janitor = janitor();
    let ours = Memory::shared(LEN, &janitor).unwrap();
    let fd = ours.memfd().unwrap().try_clone_to_owned().unwrap();
    let theirs = Memory::map_peer(fd, LEN, Rights::Read, &janitor).unwrap();
    assert_eq!(theirs.write(0, &[1]).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!((theirs.peer_rights(), theirs.memfd().is_none()), (Rights::Read, true));
}

#[test]
fn memory_that_peers_may_only_read_cannot_be_mapped_to_write_by_any_way() {
    let janitor = janitor();
    let ours = Memory::shared_read_only(LEN, &janitor).unwrap();
    assert_eq!(ours.peer_rights(), Rights::Read);
    let fd = || ours.memfd().unwrap().try_clone_to_owned().unwrap();
    let refused = Memory::map_peer(fd(), LEN, Rights::Write, &janitor).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(memmap2::MmapOptions::new().map_raw(&fd()).is_err());
    // A read-only descriptor would be no right: it reopens through /proc. The seal holds there, too.
    if let Ok(again) = reopened(fd()) {
        assert!(memmap2::MmapOptions::new().map_raw(&again).is_err());
        assert!(File::from(again).write_all(&[1]).is_err());
    }
    let theirs = Memory::map_peer(fd(), LEN, Rights::Read, &janitor).unwrap();
    ours.write(77, b"still").unwrap();
    let mut seen = [0; 5];
    theirs.read(77, &mut seen).unwrap();
    assert_eq!(&seen, b"still");
}

#[test]
fn shared_memory_cannot_be_cut_or_unsealed() {
    let ours = Memory::shared(LEN, &janitor()).unwrap();
    let fd = ours.memfd().unwrap();
    for len in [0, LEN - 4096, LEN + 4096] {
        assert_eq!(rustix::fs::ftruncate(fd, len), Err(rustix::io::Errno::PERM));
    }
    assert!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE).is_err());
}

#[test]
fn a_map_outlives_its_owners_descriptor_and_memory() {
    let janitor = janitor();
    let ours = Memory::shared(LEN, &janitor).unwrap();
    ours.write(0, b"kept").unwrap();
    let fd = ours.memfd().unwrap().try_clone_to_owned().unwrap();
    let theirs = Memory::map_peer(fd, LEN, Rights::Read, &janitor).unwrap();
    drop(ours);
    let mut seen = [0; 4];
    theirs.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"kept");
}
