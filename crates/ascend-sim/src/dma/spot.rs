//! One end of a copy, and the copy.

/// A place whose bytes a link can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Device memory, mapped in this process for as long as it runs.
    Mapped(usize),
    /// Of a process, by its own address; may be unmapped by now, which the kernel tells.
    Host(i32, u64),
}

/// A copy to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Whence.
    pub(crate) from: Spot,
    /// Whereto.
    pub(crate) to: Spot,
    /// Bytes.
    pub(crate) length: u64,
}

impl Move {
    /// A part of it.
    pub(crate) fn part(&self, offset: u64, length: u64) -> Self {
        Self { from: self.from.plus(offset), to: self.to.plus(offset), length }
    }

    /// Copies.
    ///
    /// # Safety
    /// At mapped spots `length` bytes are mapped.
    pub(crate) unsafe fn run(&self) -> std::io::Result<()> {
        let this = std::process::id() as i32;
        let length = usize::try_from(self.length).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        match (self.from, self.to) {
            (Spot::Mapped(from), Spot::Mapped(to)) => {
                // SAFETY: both are mapped, says the caller. A foreign function, so that the compiler assumes nothing of
                // bytes that other processes may write meanwhile.
                unsafe { libc::memmove(to as *mut _, from as *const _, length) };
                Ok(())
            }
            (Spot::Host(process, far), Spot::Mapped(near)) => across(process, far, near, length, false),
            (Spot::Mapped(near), Spot::Host(process, far)) => across(process, far, near, length, true),
            (Spot::Host(process, far), Spot::Host(own, near)) if own == this => {
                across(process, far, near as usize, length, false)
            }
            (Spot::Host(own, near), Spot::Host(process, far)) if own == this => {
                across(process, far, near as usize, length, true)
            }
            // A link has one end in the process that posts to it.
            (Spot::Host(..), Spot::Host(..)) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Spot {
    fn plus(self, offset: u64) -> Self {
        match self {
            Self::Mapped(at) => Self::Mapped(at + offset as usize),
            Self::Host(process, at) => Self::Host(process, at + offset),
        }
    }
}

/// Copies between an address here and one of a process (this one, too): addresses that are no longer mapped come out as
/// an error, not as a fault.
fn across(process: i32, far: u64, near: usize, length: usize, write: bool) -> std::io::Result<()> {
    let mut done = 0;
    while done < length {
        let here = libc::iovec { iov_base: (near + done) as *mut _, iov_len: length - done };
        let there = libc::iovec { iov_base: (far as usize + done) as *mut _, iov_len: length - done };
        let count = if write {
            // SAFETY: the kernel checks both ranges, and reports what is not mapped.
            unsafe { libc::process_vm_writev(process, &raw const here, 1, &raw const there, 1, 0) }
        } else {
            // SAFETY: as above.
            unsafe { libc::process_vm_readv(process, &raw const here, 1, &raw const there, 1, 0) }
        };
        match usize::try_from(count) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(_) => return Err(std::io::Error::last_os_error()),
        }
    }
    Ok(())
}
