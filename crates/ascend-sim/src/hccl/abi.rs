//! The structures that cross HCCL's interface.

use super::Outcome;
use super::result::{PARA, PTR};
use crate::ffi::In;

/// `HcclRootInfo`: 4108 bytes, opaque to everybody but this library.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RootInfo {
    /// Here: text that ends in zeros.
    pub internal: [u8; 4108],
}

/// `HcclSendRecvItem`: 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SendRecvItem {
    /// 0 send, 1 receive.
    pub kind: u32,
    /// Device memory.
    pub buffer: u64,
    /// Elements.
    pub count: u64,
    /// Their type.
    pub data_type: u32,
    /// The other rank.
    pub rank: u32,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RootInfo>() == 4108 && size_of::<SendRecvItem>() == 32);
    assert!(offset_of!(SendRecvItem, buffer) == 8 && offset_of!(SendRecvItem, data_type) == 24);
};

/// Bytes of one element.
pub(super) fn element(data_type: u32) -> Outcome<u64> {
    match data_type {
        0 | 7 | 14..=17 => Ok(1),
        1 | 3 | 8 | 11 => Ok(2),
        2 | 4 | 9 => Ok(4),
        5 | 6 | 10 => Ok(8),
        12 => Ok(16),
        _ => Err(PARA),
    }
}

/// What a communicator's configuration comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// Megabytes of each of its two buffers, if said.
    pub(super) buffer_mb: Option<u32>,
    /// Its name, if said.
    pub(super) name: Option<String>,
    /// Seconds that an operation may wait for the other rank, if said.
    pub(super) exec_timeout_s: Option<u32>,
}

const HEADER_MAGIC: u32 = 0xF0F0_F0F0;
const NOT_SET: u32 = u32::MAX;
/// Where fields start.
const BUFFER_SIZE: usize = 24;
const NAME: usize = 32;
const EXEC_TIMEOUT: usize = 316;
/// Sizes of the structure by its version.
const SIZES: [(u32, u64); 3] = [(8, 2104), (10, 2240), (11, 2248)];

impl Config {
    /// Reads a configuration: as much of it as its header declares, and no newer version than the release knows.
    pub(super) fn read(at: In<u8>, release: (u32, u32)) -> Outcome<Self> {
        if at.is_null() {
            return Err(PTR);
        }
        let bytes = |from: usize, count: usize| -> Outcome<Vec<u8>> {
            (from..from + count).map(|index| at.get_at(index).map_err(|_| PTR)).collect()
        };
        let word = |from| -> Outcome<u32> {
            let bytes = bytes(from, 4)?;
            bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(PTR)
        };
        let size = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        let (magic, version) = (word(8)?, word(12)?);
        let newest = if release < (9, 0) { 8 } else { 10 };
        let known = SIZES.contains(&(version, size)) && version <= newest;
        if magic != HEADER_MAGIC || !known {
            tracing::warn!(magic, version, size, newest, "refused a communicator's configuration");
            return Err(PARA);
        }
        let set = |value: u32| (value != NOT_SET).then_some(value);
        let name: Vec<u8> = bytes(NAME, 128)?.into_iter().take_while(|byte| *byte != 0).collect();
        let name = String::from_utf8(name).map_err(|_| PARA)?;
        let config = Self {
            buffer_mb: set(word(BUFFER_SIZE)?),
            name: (!name.is_empty()).then_some(name),
            exec_timeout_s: set(word(EXEC_TIMEOUT)?),
        };
        if config.buffer_mb == Some(0) { Err(PARA) } else { Ok(config) }
    }
}
