//! Memory of a device: bytes that the host cannot touch.

use std::any::Any;
use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Result};

use super::{Backing, Memory, NonNull};
use crate::janitor::Janitor;

/// Where memory lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// In the host's memory.
    Host,
    /// In the memory of the device of this number, as the process numbers its devices.
    Device(u32),
}

/// A range of a device's memory, and how the host gets bytes in and out. Dropped on the janitor's thread.
///
/// Offsets and lengths have been checked before a method is called. Calls may come from any thread and may block; a
/// transport moves bytes by its own means instead.
pub trait DeviceMemory: Send + Sync {
    /// The device's number in this process.
    fn device(&self) -> u32;

    /// The first byte, in the device's address space. Not an address of the host.
    fn address(&self) -> u64;

    /// Bytes.
    fn bytes(&self) -> u64;

    /// Copies `into.len()` bytes out, from byte `at` on.
    ///
    /// # Errors
    /// What the device said, or that the memory is suspended.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;

    /// Copies `from` in, from byte `at` on. Returns after the device has it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn write(&self, at: u64, from: &[u8]) -> Result<()>;

    /// Sets `len` bytes from `at` on to `byte`. Returns after the device has it.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()>;

    /// Itself, for the links of the same device family.
    fn as_any(&self) -> &dyn Any;
}

impl Memory {
    /// Memory of a device.
    ///
    /// # Errors
    /// `ApiMisuse` for no bytes, or a range that wraps around.
    pub fn of_device(range: Arc<dyn DeviceMemory>, janitor: &Janitor) -> Result<Arc<Self>> {
        janitor.origin().check("register device memory")?;
        let (address, len) = (range.address(), range.bytes());
        if len == 0 || address == 0 || address.checked_add(len).is_none() {
            return Err(Error::new(
                ErrorKind::ApiMisuse,
                "register device memory",
                format!("{len} bytes at device address {address:#x} are no range of memory"),
            ));
        }
        Ok(Self::assemble(NonNull::dangling(), len, true, Backing::Device(range), janitor))
    }

    /// Where it lives.
    pub fn place(&self) -> Place {
        self.device().map_or(Place::Host, |range| Place::Device(range.device()))
    }

    /// The device's range, if it is a device's.
    pub fn device(&self) -> Option<&Arc<dyn DeviceMemory>> {
        match &*self.backing {
            Backing::Device(range) => Some(range),
            _ => None,
        }
    }
}
