//! The file behind one device's memory, and maps of it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

use crate::fail::{Done, Fail, code};

/// A device's memory, mapped whole and for ever.
#[derive(Debug)]
pub(super) struct DeviceFile {
    file: File,
    base: NonNull<u8>,
    len: u64,
}

// SAFETY: the map is never taken away, and its bytes are reached by raw pointers only.
unsafe impl Send for DeviceFile {}
// SAFETY: as above.
unsafe impl Sync for DeviceFile {}

impl DeviceFile {
    pub(super) fn open(path: &Path, len: u64) -> Done<Self> {
        let failed = |error: std::io::Error| Fail::system(path.display(), &error);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(failed)?;
        // Never shrinks: a map of another process would fault.
        if file.metadata().map_err(failed)?.len() < len {
            file.set_len(len).map_err(failed)?;
        }
        let base = map(std::ptr::null_mut(), len, libc::MAP_SHARED | libc::MAP_NORESERVE, Some((&file, 0)));
        Ok(Self { base: base.map_err(failed)?, file, len })
    }

    pub(super) fn at(&self, offset: u64, len: u64) -> Done<NonNull<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Fail::new(
                code::RT_PARAM_INVALID,
                format!("{len} bytes at {offset} pass the device's end"),
            ));
        }
        // SAFETY: within the map, as just checked.
        Ok(unsafe { self.base.add(offset as usize) })
    }

    /// Makes a part readable and writable for the host at `va`.
    pub(super) fn show(&self, va: u64, offset: u64, len: u64) -> Done {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let mapped = map(va as *mut libc::c_void, len, flags, Some((&self.file, offset)));
        mapped.map(drop).map_err(|error| Fail::system("map device memory for the host", &error))
    }

    pub(super) fn erase(&self, offset: u64, len: u64) -> Done {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (at, bytes) = (offset as libc::off_t, len as libc::off_t);
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, bytes) } == 0 {
            return Ok(());
        }
        Err(Fail::system("erase freed device memory", &std::io::Error::last_os_error()))
    }
}

/// Takes the host's access to a range of device addresses away.
pub(super) fn hide(va: u64, len: u64) -> Done {
    map(va as *mut libc::c_void, len, NOTHING | libc::MAP_FIXED, None)
        .map(drop)
        .map_err(|error| Fail::system("hide device memory", &error))
}

/// Reserves addresses that nobody may touch, at `hint` or, if that is taken, elsewhere.
pub(super) fn reserve(hint: u64, len: u64) -> Done<u64> {
    let at = |address: u64, flags| map(address as *mut libc::c_void, len, NOTHING | flags, None);
    let place = at(hint, libc::MAP_FIXED_NOREPLACE).or_else(|_| at(0, 0));
    place
        .map(|place| place.as_ptr() as u64)
        .map_err(|error| Fail::system("reserve a window of device addresses", &error))
}

const NOTHING: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Maps a file to read and write, or, without one, a place without any access.
fn map(
    at: *mut libc::c_void,
    len: u64,
    flags: libc::c_int,
    file: Option<(&File, u64)>,
) -> std::io::Result<NonNull<u8>> {
    let rights = if file.is_some() { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset as libc::off_t));
    // SAFETY: a fixed place is always inside a window of ours, where nothing else is mapped.
    let place = unsafe { libc::mmap(at, len as usize, rights, flags, fd, offset) };
    if place == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(place.cast()).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))
}
