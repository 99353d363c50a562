//! Device memory: one sparse file a device, shared between processes, and the addresses that stand for it.
//!
//! Each process maps a device's file somewhere of its own and never gives that place away. What programs get are
//! addresses in a window that is reserved without access, so that a stray host access faults. [`Hbm::translate`]
//! leads from such an address to the bytes; [`Hbm::at`] from (device, offset), which is how links reach the memory
//! of other processes.

mod blocks;
mod file;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

pub use blocks::Block;
use file::DeviceFile;
use window::Windows;

use crate::fail::{Done, Fail, code, ensure};
use crate::state::{Folder, Process};
use crate::topology::{DeviceKey, Topology};

/// The page kinds of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Page {
    /// 4 KiB.
    Normal,
    /// 2 MiB.
    Huge,
    /// 1 GiB.
    Huge1G,
}

impl Page {
    /// Bytes of one page.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Normal => 4 << 10,
            Self::Huge => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// How a range of addresses came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `aclrtMalloc`.
    Malloc,
    /// Memory of another process, opened by its key.
    Imported(String),
    /// `aclrtMapMem` of the physical handle with this number.
    Mapped(u64),
    /// A device's view of registered host memory: no copy may name it.
    HostView(u64),
}

/// A range of device addresses that is alive in this process.
#[derive(Clone, Debug)]
pub struct Range {
    /// Its first address.
    pub va: u64,
    /// Bytes.
    pub len: u64,
    /// What the program asked for, which may be less than `len`.
    pub asked: u64,
    /// Its pages.
    pub page: Page,
    /// Whose memory it is.
    pub key: DeviceKey,
    /// Where in that memory it starts.
    pub offset: u64,
    /// The block that it belongs to.
    pub block: u64,
    /// How it came to be.
    pub kind: Kind,
}

/// A part of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Whose.
    pub key: DeviceKey,
    /// Where it starts.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The device memory that this process knows of.
#[derive(Debug)]
pub struct Hbm {
    state: PathBuf,
    topology: Arc<Topology>,
    host_visible: bool,
    me: Process,
    folders: Mutex<HashMap<u32, Arc<Folder>>>,
    files: RwLock<HashMap<DeviceKey, Arc<DeviceFile>>>,
    windows: Mutex<Windows>,
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Hbm {
    /// The memory of a topology's devices, shared through the folder `state`.
    #[must_use]
    pub fn new(state: PathBuf, topology: Arc<Topology>, host_visible: bool) -> Self {
        Self {
            state,
            topology,
            host_visible,
            me: Process::this(),
            folders: Mutex::default(),
            files: RwLock::default(),
            windows: Mutex::default(),
            ranges: RwLock::default(),
        }
    }

    /// The shared folder of a machine.
    ///
    /// # Errors
    /// INTERNAL when it cannot be made.
    pub fn folder(&self, server: u32) -> Done<Arc<Folder>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get(&server) {
            return Ok(folder.clone());
        }
        let folder = Arc::new(Folder::open(&self.state, server)?);
        folders.insert(server, folder.clone());
        Ok(folder)
    }

    /// Allocates `len` bytes of a device's memory, rounded up to whole pages, and gives them an address.
    ///
    /// # Errors
    /// MEMORY_ALLOCATION when the device has no room.
    pub fn alloc(&self, key: DeviceKey, len: u64, asked: u64, page: Page) -> Done<Range> {
        let block = self.new_block(key, len, page)?;
        self.map(key, key, &block, asked, Kind::Malloc).inspect_err(|_| drop(self.release(key, block.id)))
    }

    /// Gives a block an address in `window`'s window. The caller holds the block.
    ///
    /// # Errors
    /// MEMORY_ALLOCATION when the window is full.
    pub fn map(
        &self,
        window: DeviceKey,
        key: DeviceKey,
        block: &Block,
        asked: u64,
        kind: Kind,
    ) -> Done<Range> {
        let va = self.reserve(window, block.len, block.page.bytes())?;
        let range = Range {
            va,
            len: block.len,
            asked,
            page: block.page,
            key,
            offset: block.offset,
            block: block.id,
            kind,
        };
        self.map_at(range.clone()).inspect_err(|_| self.unreserve(va))?;
        Ok(range)
    }

    /// Brings a range to life at addresses that were reserved.
    ///
    /// # Errors
    /// INVALID_PARAM when something is alive there already.
    pub fn map_at(&self, range: Range) -> Done {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.range(..range.va + range.len).next_back();
        let taken = before.is_some_and(|(_, other)| other.va + other.len > range.va);
        ensure(!taken, code::RT_PARAM_INVALID, || format!("{:#x} is mapped already", range.va))?;
        if !matches!(range.kind, Kind::HostView(_)) {
            let file = self.file(range.key)?;
            if self.host_visible {
                file.show(range.va, range.offset, range.len)?;
            }
        }
        ranges.insert(range.va, range);
        Ok(())
    }

    /// Ends a range that starts at `va`, if `fits` says it is of the kind wanted. Its block stays held, and its
    /// addresses stay reserved.
    ///
    /// # Errors
    /// INVALID_PARAM when none starts there or it does not fit.
    pub fn unmap(&self, va: u64, fits: impl FnOnce(&Kind) -> bool) -> Done<Range> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let range = ranges.get(&va).filter(|range| fits(&range.kind)).cloned();
        let range = range.ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("no such allocation starts at device address {va:#x}"))
        })?;
        ranges.remove(&va);
        if self.host_visible && !matches!(range.kind, Kind::HostView(_)) {
            file::hide(range.va, range.len)?;
        }
        Ok(range)
    }

    /// Frees what [`Hbm::alloc`] gave.
    ///
    /// # Errors
    /// INVALID_PARAM when it was not, or is free already.
    pub fn free(&self, va: u64) -> Done {
        let range = self.unmap(va, |kind| *kind == Kind::Malloc)?;
        self.unreserve(va);
        self.release(range.key, range.block)
    }

    /// Reserves addresses in a device's window.
    ///
    /// # Errors
    /// MEMORY_ALLOCATION when there is no room.
    pub fn reserve(&self, window: DeviceKey, len: u64, align: u64) -> Done<u64> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).reserve(window, len, align)
    }

    /// Gives reserved addresses back.
    pub fn unreserve(&self, va: u64) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).release(va);
    }

    /// Whether an address lies in some device's window, alive or not.
    #[must_use]
    pub fn is_device_address(&self, va: u64) -> bool {
        window::contains(va)
    }

    /// The live range that holds an address.
    #[must_use]
    pub fn range(&self, va: u64) -> Option<Range> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (_, range) = ranges.range(..=va).next_back()?;
        (va - range.va < range.len).then(|| range.clone())
    }

    /// Which parts of which devices' memory stand behind a range of addresses. Neighbouring mappings may follow one
    /// another in it.
    ///
    /// # Errors
    /// INVALID_PARAM when part of it is not alive in this process.
    pub fn pieces(&self, va: u64, len: u64) -> Done<Vec<Piece>> {
        let mut pieces = Vec::new();
        self.each_piece(va, len, |piece| pieces.push(piece))?;
        Ok(pieces)
    }

    fn each_piece(&self, va: u64, len: u64, mut take: impl FnMut(Piece)) -> Done {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let dead = |at: u64| {
            Fail::new(
                code::RT_PARAM_INVALID,
                format!("device address {at:#x} (in {len} bytes at {va:#x}) is not alive"),
            )
        };
        let end = va.checked_add(len).ok_or_else(|| dead(va))?;
        let mut at = va;
        while at < end {
            let (_, range) = ranges.range(..=at).next_back().ok_or_else(|| dead(at))?;
            let into = at - range.va;
            if into >= range.len || matches!(range.kind, Kind::HostView(_)) {
                return Err(dead(at));
            }
            let here = (range.len - into).min(end - at);
            take(Piece { key: range.key, offset: range.offset + into, len: here });
            at += here;
        }
        Ok(())
    }

    /// The bytes behind device addresses that are alive in this process and follow one another in memory.
    ///
    /// # Errors
    /// INVALID_PARAM when they are not.
    pub fn translate(&self, va: u64, len: u64) -> Done<NonNull<u8>> {
        let mut pieces = Vec::new();
        self.each_piece(va, len.max(1), |piece| pieces.push(piece))?;
        match pieces.as_slice() {
            [piece] => self.at(piece.key, piece.offset, len),
            _ => Err(Fail::new(
                code::RT_PARAM_INVALID,
                format!("{len} bytes at {va:#x} span {} mappings", pieces.len()),
            )),
        }
    }

    /// The bytes of a device's memory, whoever's they are. They are mapped for the rest of the process.
    ///
    /// # Errors
    /// INVALID_PARAM past the device's end or for a device that is not in the topology.
    pub fn at(&self, key: DeviceKey, offset: u64, len: u64) -> Done<NonNull<u8>> {
        self.file(key)?.at(offset, len)
    }

    fn file(&self, key: DeviceKey) -> Done<Arc<DeviceFile>> {
        if let Some(file) = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(file.clone());
        }
        let (_, device) = self
            .topology
            .device(key)
            .ok_or_else(|| Fail::new(code::RT_INVALID_DEVICEID, format!("{key:?} is not in the topology")))?;
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&key) {
            return Ok(file.clone());
        }
        let path = self.folder(key.server)?.path().join(format!("dev{}.mem", key.physical));
        let file = Arc::new(DeviceFile::open(&path, device.hbm())?);
        files.insert(key, file.clone());
        Ok(file)
    }

    /// Copies `len` bytes; each end may be device memory or the host's. The two must not overlap.
    ///
    /// # Safety
    /// Ends that are no device addresses must be host memory that is readable, or writable, for `len` bytes.
    ///
    /// # Errors
    /// INVALID_PARAM when a device end is not alive.
    pub unsafe fn copy(&self, dst: u64, src: u64, len: u64) -> Done {
        let (to, from) = (self.ends(dst, len)?, self.ends(src, len)?);
        let (mut to, mut from) = (to.into_iter(), from.into_iter());
        let (mut a, mut b) = (to.next(), from.next());
        while let (Some((d, d_len)), Some((s, s_len))) = (a, b) {
            let len = d_len.min(s_len);
            // SAFETY: both are mapped for `len` bytes: device memory for the rest of the process, the host's by the
            // caller's promise. A call into the C library, as other processes may write there meanwhile.
            unsafe { libc::memmove(d as *mut libc::c_void, s as *const libc::c_void, len as usize) };
            a = if d_len > len { Some((d + len, d_len - len)) } else { to.next() };
            b = if s_len > len { Some((s + len, s_len - len)) } else { from.next() };
        }
        Ok(())
    }

    /// Fills `len` bytes of device memory.
    ///
    /// # Errors
    /// INVALID_PARAM when they are not alive.
    pub fn fill(&self, dst: u64, value: u8, len: u64) -> Done {
        for piece in self.pieces(dst, len)? {
            let at = self.at(piece.key, piece.offset, piece.len)?;
            // SAFETY: mapped for the rest of the process.
            unsafe { libc::memset(at.as_ptr().cast(), i32::from(value), piece.len as usize) };
        }
        Ok(())
    }

    /// Where in this process's maps the bytes of one end are.
    fn ends(&self, va: u64, len: u64) -> Done<Vec<(u64, u64)>> {
        if !self.is_device_address(va) {
            return Ok(vec![(va, len)]);
        }
        let pieces = self.pieces(va, len)?;
        pieces
            .into_iter()
            .map(|piece| Ok((self.at(piece.key, piece.offset, piece.len)?.as_ptr() as u64, piece.len)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
