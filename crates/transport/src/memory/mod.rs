//! Memory and who owns it.
//!
//! A [`Memory`] lives in an [`Arc`] and is never dereferenced: no `&[u8]` or `&mut [u8]` is made over bytes that a peer
//! may touch. Bytes go in and out through checked copies. What backs it is let go on the [`Janitor`]'s thread, after
//! the last `Arc` is gone, and never in a forked child.

mod cgroup;
mod device;
#[cfg(test)]
mod fault;
pub mod fork;
#[cfg(any(test, feature = "sim"))]
pub mod guard;
mod map;
mod populate;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;
use ropeway_core::{Error, ErrorKind, Result, Rights};

use crate::copy::{self, Routine};
use crate::janitor::Janitor;
pub use device::{DeviceMemory, Place};
use fork::Origin;

/// A range of memory that transfers may read and write.
///
/// It is only to be had in an `Arc`: whoever holds one may hand `base()` to a copy or to the kernel, and the bytes stay
/// mapped until the last one is dropped.
///
/// # Fork
/// Memory that the engine mapped is not inherited by forked children (`MADV_DONTFORK`); there, calls return `Forked` and
/// drops do nothing.
pub struct Memory {
    base: NonNull<u8>,
    len: u64,
    writable: bool,
    origin: Origin,
    janitor: ManuallyDrop<Janitor>,
    backing: ManuallyDrop<Backing>,
}

/// What keeps the bytes mapped.
enum Backing {
    /// Anonymous and private to this process.
    Private(#[expect(dead_code, reason = "held for its drop")] MmapRaw),
    /// A sealed memfd, ours or adopted, that peers may map.
    Shared {
        #[expect(dead_code, reason = "held for its drop")]
        map: MmapRaw,
        fd: OwnedFd,
        peers: Rights,
    },
    /// A peer's memfd.
    Peer(#[expect(dead_code, reason = "held for its drop")] MmapRaw),
    /// The caller's, mapped until this is dropped.
    Foreign(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send>),
    /// An owner that was boxed and asked once for its slice.
    Owner(#[expect(dead_code, reason = "held for its drop")] Owner),
    /// A device's; `base` means nothing.
    Device(Arc<dyn DeviceMemory>),
}

/// A boxed owner, as a raw pointer: a `Box` that moves would claim its contents for itself alone.
struct Owner(*mut (dyn Any + Send));

// SAFETY: it owns a `dyn Send` and gives no access to it but by dropping it.
unsafe impl Send for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and given up once, here.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

// SAFETY: `base` is a number to this type: the bytes behind it are only touched by the asm kernels and the kernel, for
// which concurrent access is no race. `fd` and the maps are `Sync`; keep-alives and owners (`Send`) are never accessed
// through a shared `Memory`, only moved to the janitor by the exclusive `drop`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of the caller that stays mapped until `keep_alive` is dropped.
    ///
    /// # Errors
    /// `ApiMisuse` for a null base, no bytes, or a range that wraps around.
    ///
    /// # Safety
    /// Until `keep_alive` is dropped, `base..base + len` stays mapped, readable and writable, with the same physical
    /// backing (no `munmap`, `mremap`, `madvise(DONTNEED)`, resize or sleep mode), and no Rust reference to any of its
    /// bytes is used: peers may read and write them at any time.
    pub unsafe fn raw(
        base: *mut u8,
        len: u64,
        keep_alive: Box<dyn Any + Send>,
        janitor: &Janitor,
    ) -> Result<Arc<Self>> {
        if let Err(error) = janitor.origin().check("register memory") {
            janitor.drop_later(keep_alive);
            return Err(error);
        }
        let base = match NonNull::new(base) {
            Some(base) if len > 0 && (base.addr().get() as u64).checked_add(len).is_some() => base,
            _ => {
                janitor.drop_later(keep_alive);
                return Err(Error::new(
                    ErrorKind::ApiMisuse,
                    "register memory",
                    format!(
                        "{len} bytes at {base:p} are no range of memory; give a base that is not null and a length"
                    ),
                ));
            }
        };
        Ok(Self::assemble(base, len, true, Backing::Foreign(keep_alive), janitor))
    }

    /// Memory that an owner gives up until the last `Arc` is dropped: a `Vec<u8>`, a `Box<[u8]>`, a map.
    ///
    /// The owner is boxed, asked for its slice once, and not touched again until it is dropped on the janitor's thread.
    ///
    /// # Errors
    /// `ApiMisuse` when the slice is empty.
    pub fn owner(owner: impl AsMut<[u8]> + Send + 'static, janitor: &Janitor) -> Result<Arc<Self>> {
        janitor.origin().check("register memory")?;
        let raw = Box::into_raw(Box::new(owner));
        let owner = Owner(raw);
        // SAFETY: from `into_raw` just now; this borrow is the only one there will be until `Owner` drops the box.
        let slice = unsafe { (*raw).as_mut() };
        let len = slice.len() as u64;
        let base = NonNull::new(slice.as_mut_ptr()).filter(|_| len > 0);
        match base {
            Some(base) => Ok(Self::assemble(base, len, true, Backing::Owner(owner), janitor)),
            None => {
                janitor.drop_later(owner);
                Err(Error::new(
                    ErrorKind::ApiMisuse,
                    "register memory",
                    "the owner's slice has no bytes; size it before it is registered",
                ))
            }
        }
    }

    fn assemble(
        base: NonNull<u8>,
        len: u64,
        writable: bool,
        backing: Backing,
        janitor: &Janitor,
    ) -> Arc<Self> {
        Arc::new(Self {
            base,
            len,
            writable,
            origin: janitor.origin(),
            janitor: ManuallyDrop::new(janitor.clone()),
            backing: ManuallyDrop::new(backing),
        })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes. Never true: an empty range is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte, unless it is a device's. Making a reference from it is never sound: peers may write at any time.
    pub fn base(&self) -> Option<NonNull<u8>> {
        self.range(0, 0)
    }

    /// Whether this process may write it. Not so for a peer's memory that was mapped to read, and for a memfd that was
    /// sealed against writing before it was adopted.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Where `len` bytes from `at` on begin, if they lie within. Fit for a hot path. `None` for a device's memory: the
    /// host cannot touch it.
    #[inline]
    pub fn range(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        let end = at.checked_add(len)?;
        if end > self.len || matches!(*self.backing, Backing::Device(_)) {
            return None;
        }
        // SAFETY: within the mapped range, or one past its end.
        Some(unsafe { self.base.add(at as usize) })
    }

    /// The memfd behind it, to be exported to peers of this host; `None` for memory that has none.
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        match &*self.backing {
            Backing::Shared { fd, .. } => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// What peers can do with [`Self::memfd`]: `Read` when it is sealed so that no peer, whatever its lease, can map it
    /// to write. A seal holds for every peer; what one lease allows is the fence's matter.
    pub fn peer_rights(&self) -> Rights {
        match &*self.backing {
            Backing::Shared { peers, .. } => *peers,
            _ if self.writable => Rights::Write,
            _ => Rights::Read,
        }
    }

    /// The process that made it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Copies `into.len()` bytes out, from byte `at` on.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the end; `Forked` in a forked child.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        if let Some(range) = self.device_checked("read", at, into.len() as u64)? {
            return range.read(at, into);
        }
        let from = self.checked("read", at, into.len() as u64)?;
        // SAFETY: `checked`: mapped while `self` lives. `into` is the caller's alone, so it does not overlap.
        unsafe { copy::copy(into.as_mut_ptr(), from.as_ptr(), into.len(), Routine::Plain) };
        Ok(())
    }

    /// Copies `from` in, from byte `at` on. Returns after its bytes are visible to peers.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the end; `Denied` when it was mapped to read; `Forked` in a forked child.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        if let Some(range) = self.device_checked("write", at, from.len() as u64)? {
            return range.write(at, from);
        }
        let to = self.checked_mut("write", at, from.len() as u64)?;
        // SAFETY: `checked_mut`: mapped and writable while `self` lives. `from` is a live slice, so it does not overlap.
        unsafe { copy::copy(to.as_ptr(), from.as_ptr(), from.len(), Routine::Plain) };
        copy::store_fence();
        Ok(())
    }

    /// Sets `len` bytes from `at` on to `byte`. Returns after they are visible to peers.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        if let Some(range) = self.device_checked("fill", at, len)? {
            return range.fill(at, len, byte);
        }
        let to = self.checked_mut("fill", at, len)?;
        // SAFETY: `checked_mut`: mapped and writable while `self` lives.
        unsafe { copy::fill(to.as_ptr(), byte, len as usize) };
        copy::store_fence();
        Ok(())
    }

    fn checked_mut(&self, operation: &'static str, at: u64, len: u64) -> Result<NonNull<u8>> {
        if !self.writable {
            return Err(Error::new(
                ErrorKind::Denied,
                operation,
                "this memory is mapped to be read only; its owner sealed it or gave no right to write",
            ));
        }
        self.checked(operation, at, len)
    }

    fn checked(&self, operation: &'static str, at: u64, len: u64) -> Result<NonNull<u8>> {
        self.origin.check(operation)?;
        self.range(at, len).ok_or_else(|| self.beyond(operation, at, len))
    }

    /// The device's range, if it is a device's, once the bytes are known to lie within.
    fn device_checked(
        &self,
        operation: &'static str,
        at: u64,
        len: u64,
    ) -> Result<Option<&dyn DeviceMemory>> {
        let Some(range) = self.device() else { return Ok(None) };
        self.origin.check(operation)?;
        match at.checked_add(len).is_some_and(|end| end <= self.len) {
            true => Ok(Some(&**range)),
            false => Err(self.beyond(operation, at, len)),
        }
    }

    #[cold]
    fn beyond(&self, operation: &'static str, at: u64, len: u64) -> Error {
        Error::new(
            ErrorKind::OutOfBounds,
            operation,
            format!("{len} bytes at {at} pass the end of the region ({})", self.len),
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.origin.is_foreign() {
            // The parent's: its maps are not here, its keep-alives are not ours to drop.
            return;
        }
        // SAFETY: taken once, here, and not used after.
        let backing = unsafe { ManuallyDrop::take(&mut self.backing) };
        // SAFETY: as above.
        let janitor = unsafe { ManuallyDrop::take(&mut self.janitor) };
        janitor.drop_later(backing);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.backing {
            Backing::Private(_) => "private",
            Backing::Shared { .. } => "shared",
            Backing::Peer(_) => "peer",
            Backing::Foreign(_) => "raw",
            Backing::Owner(_) => "owner",
            Backing::Device(_) => "device",
        };
        f.debug_struct("Memory")
            .field("kind", &kind)
            .field("base", &self.base)
            .field("len", &self.len)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}
