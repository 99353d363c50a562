//! Which parts of a device's memory are taken, and by which processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Hbm, Page};
use crate::fail::{Done, Fail, code};
use crate::state::Process;
use crate::topology::DeviceKey;

const TABLE: &str = "hbm.json";

/// A run of a device's memory that was allocated as one. It is free when no process that holds it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Unique on its machine, never used again.
    pub id: u64,
    /// Where it starts.
    pub offset: u64,
    /// Bytes, whole pages.
    pub len: u64,
    /// Its pages.
    pub page: Page,
    /// Who holds it; a process may stand here several times.
    pub holders: Vec<Process>,
}

#[derive(Default, Serialize, Deserialize)]
struct Table {
    next: u64,
    devices: BTreeMap<u32, Vec<Block>>,
}

impl Table {
    /// Takes dead processes out; returns the blocks that are free by it.
    fn prune(&mut self) -> Vec<(u32, Block)> {
        let mut alive = BTreeMap::new();
        let mut freed = Vec::new();
        for (device, blocks) in &mut self.devices {
            for block in blocks.iter_mut() {
                block.holders.retain(|holder| *alive.entry(*holder).or_insert_with(|| holder.alive()));
            }
            freed.extend(
                blocks.extract_if(.., |block| block.holders.is_empty()).map(|block| (*device, block)),
            );
        }
        freed
    }
}

impl Hbm {
    /// Takes a block of a device's memory for this process.
    ///
    /// # Errors
    /// MEMORY_ALLOCATION when the device has no room for it.
    pub fn new_block(&self, key: DeviceKey, len: u64, page: Page) -> Done<Block> {
        let full = |free| {
            Fail::new(
                code::RT_MEMORY_ALLOCATION,
                format!(
                    "device {}: no room for {len} bytes in {page:?} pages; {free} bytes free",
                    key.physical
                ),
            )
        };
        let len = len.max(1).checked_next_multiple_of(page.bytes()).ok_or_else(|| full(0))?;
        let capacity = self.capacity(key)?;
        let folder = self.folder(key.server)?;
        let locked = folder.lock()?;
        let mut table: Table = locked.read(TABLE)?;
        self.erase(key.server, &table.prune())?;
        table.next += 1;
        let id = table.next;
        let blocks = table.devices.entry(key.physical).or_default();
        let mut at = 0_u64;
        let mut place = blocks.len();
        for (index, block) in blocks.iter().enumerate() {
            if at.next_multiple_of(page.bytes()) + len <= block.offset {
                place = index;
                break;
            }
            at = block.offset + block.len;
        }
        let offset = at.next_multiple_of(page.bytes());
        if offset + len > capacity {
            return Err(full(capacity - blocks.iter().map(|block| block.len).sum::<u64>().min(capacity)));
        }
        let block = Block { id, offset, len, page, holders: vec![self.me] };
        blocks.insert(place, block.clone());
        locked.write(TABLE, &table)?;
        Ok(block)
    }

    /// Holds a block that another process allocated.
    ///
    /// # Errors
    /// INVALID_PARAM when it is free.
    pub fn hold(&self, key: DeviceKey, id: u64) -> Done<Block> {
        let folder = self.folder(key.server)?;
        let locked = folder.lock()?;
        let mut table: Table = locked.read(TABLE)?;
        self.erase(key.server, &table.prune())?;
        let block =
            table.devices.get_mut(&key.physical).and_then(|blocks| blocks.iter_mut().find(|b| b.id == id));
        let block =
            block.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "the memory was freed".to_owned()))?;
        block.holders.push(self.me);
        let block = block.clone();
        locked.write(TABLE, &table)?;
        Ok(block)
    }

    /// Lets a block go, which is free if nobody else holds it.
    ///
    /// # Errors
    /// MEMORY_FREE when this process does not hold it.
    pub fn release(&self, key: DeviceKey, id: u64) -> Done {
        let folder = self.folder(key.server)?;
        let locked = folder.lock()?;
        let mut table: Table = locked.read(TABLE)?;
        let blocks = table.devices.get_mut(&key.physical);
        let block = blocks.and_then(|blocks| blocks.iter_mut().find(|block| block.id == id));
        let holder = block.and_then(|block| {
            let at = block.holders.iter().position(|holder| *holder == self.me)?;
            Some(block.holders.swap_remove(at))
        });
        holder.ok_or_else(|| Fail::new(code::RT_MEMORY_FREE, "not held by this process".to_owned()))?;
        self.erase(key.server, &table.prune())?;
        locked.write(TABLE, &table)
    }

    /// Free and total bytes of a device, after the memory of dead processes was taken back.
    ///
    /// # Errors
    /// INVALID_DEVICEID for a device that is not in the topology.
    pub fn room(&self, key: DeviceKey) -> Done<(u64, u64)> {
        let capacity = self.capacity(key)?;
        let folder = self.folder(key.server)?;
        let locked = folder.lock()?;
        let mut table: Table = locked.read(TABLE)?;
        let freed = table.prune();
        if !freed.is_empty() {
            self.erase(key.server, &freed)?;
            locked.write(TABLE, &table)?;
        }
        let taken: u64 = table.devices.get(&key.physical).into_iter().flatten().map(|block| block.len).sum();
        Ok((capacity.saturating_sub(taken), capacity))
    }

    fn capacity(&self, key: DeviceKey) -> Done<u64> {
        let device = self.topology.device(key).map(|(_, device)| device.hbm());
        device.ok_or_else(|| Fail::new(code::RT_INVALID_DEVICEID, format!("{key:?} is not in the topology")))
    }

    /// Freed memory reads as zeros and takes no room on the disk.
    fn erase(&self, server: u32, freed: &[(u32, Block)]) -> Done {
        for (physical, block) in freed {
            self.file(DeviceKey { server, physical: *physical })?.erase(block.offset, block.len)?;
        }
        Ok(())
    }
}
