//! Words that processes of one machine share: what IPC events and notifies are made of.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use crate::fail::{Done, Fail, code};
use crate::runtime::Runtime;
use crate::state::Process;

const TABLE: &str = "cells.json";
const CELLS: usize = 4096;
const WORDS: usize = 8;
const BYTES: usize = CELLS * WORDS * 8;

/// A few words that other processes see.
#[derive(Debug)]
pub struct Cell {
    index: usize,
    base: Base,
    owned: bool,
}

/// Who has which cell: owner and generation by index.
#[derive(Default, Serialize, Deserialize)]
struct Table {
    generation: u64,
    taken: std::collections::BTreeMap<usize, (Process, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Base(NonNull<u64>);

// SAFETY: a shared map that is never taken away, reached as atomics only.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Cell {
    /// A cell of this process's own, zeroed.
    ///
    /// # Errors
    /// RESOURCE_ALLOC_FAIL when all are taken.
    pub fn new(runtime: &Runtime) -> Done<Self> {
        let base = map(runtime)?;
        let folder = runtime.hbm.folder(runtime.node().server())?;
        let locked = folder.lock()?;
        let mut table: Table = locked.read(TABLE)?;
        let free = (0..CELLS).find(|index| table.taken.get(index).is_none_or(|(owner, _)| !owner.alive()));
        let index = free.ok_or_else(|| Fail::new(code::RT_RESOURCE_ALLOC_FAIL, "no shared word left"))?;
        table.generation += 1;
        table.taken.insert(index, (runtime.me, table.generation));
        locked.write(TABLE, &table)?;
        let cell = Self { index, base, owned: true };
        for word in 0..WORDS {
            cell.word(word).store(0, std::sync::atomic::Ordering::Release);
        }
        Ok(cell)
    }

    /// Its name for other processes.
    ///
    /// # Errors
    /// INTERNAL when the table cannot be read.
    pub fn name(&self, runtime: &Runtime) -> Done<(usize, u64)> {
        let folder = runtime.hbm.folder(runtime.node().server())?;
        let table: Table = folder.lock()?.read(TABLE)?;
        let generation = table.taken.get(&self.index).map_or(0, |(_, generation)| *generation);
        Ok((self.index, generation))
    }

    /// The cell that another process named.
    ///
    /// # Errors
    /// INVALID_HANDLE when its owner is gone, or has given it back.
    pub fn open(runtime: &Runtime, (index, generation): (usize, u64)) -> Done<Self> {
        let base = map(runtime)?;
        let folder = runtime.hbm.folder(runtime.node().server())?;
        let table: Table = folder.lock()?.read(TABLE)?;
        let owner = table.taken.get(&index).filter(|(_, now)| *now == generation);
        if !owner.is_some_and(|(owner, _)| owner.alive()) {
            return Err(Fail::new(code::RT_INVALID_HANDLE, "the process that made it is gone"));
        }
        Ok(Self { index, base, owned: false })
    }

    /// One of its words.
    #[must_use]
    pub fn word(&self, word: usize) -> &AtomicU64 {
        let at = self.index % CELLS * WORDS + word % WORDS;
        // SAFETY: within the map, as the index was just brought into range.
        let at = unsafe { self.base.0.add(at) };
        // SAFETY: aligned, mapped for the rest of the process, and reached as atomics by everybody.
        unsafe { AtomicU64::from_ptr(at.as_ptr()) }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let give_back = || -> Done {
            let runtime = crate::runtime::runtime()?;
            let folder = runtime.hbm.folder(runtime.node().server())?;
            let locked = folder.lock()?;
            let mut table: Table = locked.read(TABLE)?;
            table.taken.remove(&self.index);
            locked.write(TABLE, &table)
        };
        // What cannot be given back is taken back when this process is gone.
        let _ = give_back();
    }
}

fn map(runtime: &Runtime) -> Done<Base> {
    static MAP: OnceLock<Base> = OnceLock::new();
    if let Some(base) = MAP.get() {
        return Ok(*base);
    }
    let path = runtime.hbm.folder(runtime.node().server())?.path().join("cells");
    let failed = |error: std::io::Error| Fail::system(path.display(), &error);
    let file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    file.set_len(BYTES as u64).map_err(failed)?;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new shared map of a file that is long enough and never shrinks.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), BYTES, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(failed(std::io::Error::last_os_error()));
    }
    let base = NonNull::new(at.cast()).ok_or_else(|| Fail::new(code::INTERNAL, "mapped at zero"))?;
    Ok(*MAP.get_or_init(|| Base(base)))
}
