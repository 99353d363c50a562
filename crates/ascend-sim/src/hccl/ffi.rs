//! HCCL's functions.

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::abi::{Config, RootInfo, SendRecvItem};
use super::comm::Comm;
use super::post::post;
use super::result::*;
use super::{Outcome, rendezvous};
use crate::anchor::{self, Anchor};
use crate::context;
use crate::fault::Site;
use crate::ffi::{In, Out, Text};
use crate::handles::Handles;
use crate::runtime::is_forked;
use crate::topology::Chip;

static COMMS: Handles<Comm> = Handles::new("communicator", 0xE4);

/// Runs the body of the exported function `name`, unless the fault script has other plans.
fn guard(name: &str, body: impl FnOnce() -> Outcome) -> u32 {
    if is_forked() {
        return INTERNAL;
    }
    let body = || scripted(name).and_then(|()| body());
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(INTERNAL)).err().unwrap_or(SUCCESS)
}

/// The faults that any call may meet: `hang`, `stall`, `device_lost`, `refuse`.
fn scripted(name: &str) -> Outcome {
    let Some(runtime) = crate::runtime::opened() else { return Ok(()) };
    let device = context::current().ok().map(|context| context.key.physical);
    let site = Site { op: name, device, remote: None };
    runtime.faults.hang(site);
    if let Some(hit) = runtime.faults.hit("stall", site) {
        std::thread::sleep(hit.ms(100));
    }
    if runtime.faults.hit("device_lost", site).is_some() {
        return Err(RUNTIME);
    }
    let refused = runtime.faults.hit("refuse", site);
    refused.map_or(Ok(()), |hit| Err(hit.code(INTERNAL.cast_signed()).cast_unsigned()))
}

fn set<T>(out: Out<T>, value: T) -> Outcome {
    out.set(value).map_err(|_| PTR)
}

fn comm(handle: usize) -> Outcome<Arc<Comm>> {
    if handle == 0 {
        return Err(PTR);
    }
    COMMS.get(handle).map_err(|_| PARA)
}

fn open(ranks: u32, root: In<RootInfo>, rank: u32, config: Config, handle: Out<usize>) -> Outcome {
    handle.check().map_err(|_| PTR)?;
    let opened = Comm::open(ranks, &root.get().map_err(|_| PTR)?, rank, config)?;
    let mut made = 0;
    let _kept = COMMS.add(|number| {
        made = number;
        opened
    });
    set(handle, made)
}

/// Makes what all ranks of a communicator start from.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetRootInfo(root: Out<RootInfo>) -> u32 {
    guard("HcclGetRootInfo", || {
        root.check().map_err(|_| PTR)?;
        Anchor::of_thread().ok_or(RUNTIME)?;
        set(root, rendezvous::open()?)
    })
}

/// Makes a communicator; waits for all ranks.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitRootInfo(
    ranks: u32,
    root: In<RootInfo>,
    rank: u32,
    handle: Out<usize>,
) -> u32 {
    guard("HcclCommInitRootInfo", || open(ranks, root, rank, Config::default(), handle))
}

/// Makes a communicator with a configuration; waits for all ranks.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitRootInfoConfig(
    ranks: u32,
    root: In<RootInfo>,
    rank: u32,
    config: In<u8>,
    handle: Out<usize>,
) -> u32 {
    guard("HcclCommInitRootInfoConfig", || {
        let release = anchor::played_release().ok_or(RUNTIME)?;
        open(ranks, root, rank, Config::read(config, release)?, handle)
    })
}

/// Ends a communicator; AGAIN while operations are under way.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommDestroy(handle: usize) -> u32 {
    guard("HcclCommDestroy", || {
        if comm(handle)?.is_busy() {
            return Err(AGAIN);
        }
        COMMS.remove(handle).map(drop).map_err(|_| PARA)
    })
}

/// How many ranks there are.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetRankSize(handle: usize, size: Out<u32>) -> u32 {
    guard("HcclGetRankSize", || set(size, comm(handle)?.members.len() as u32))
}

/// Which rank this is.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetRankId(handle: usize, rank: Out<u32>) -> u32 {
    guard("HcclGetRankId", || set(rank, comm(handle)?.rank))
}

/// What it is called; room for 128 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetCommName(handle: usize, name: Out<c_char>) -> u32 {
    guard("HcclGetCommName", || name.set_text(&comm(handle)?.name, 128).map_err(|_| PTR))
}

/// 0, or REMOTE when another rank cannot be reached. Not on a 950.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetCommAsyncError(handle: usize, error: Out<u32>) -> u32 {
    guard("HcclGetCommAsyncError", || {
        let comm = comm(handle)?;
        if comm.anchor.chip() == Chip::A950 {
            return Err(NOT_SUPPORT);
        }
        set(error, if comm.matcher.has_lost() { REMOTE } else { SUCCESS })
    })
}

/// A text for a result; lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetErrorString(result: u32) -> *const c_char {
    let text = match result {
        SUCCESS => c"no error",
        PARA => c"parameter error",
        PTR => c"empty pointer",
        MEMORY => c"memory error",
        INTERNAL => c"internal error",
        NOT_SUPPORT => c"feature not supported",
        UNAVAIL => c"resource unavailable",
        TIMEOUT => c"timeout",
        TCP_CONNECT => c"tcp connect failed",
        RUNTIME => c"call of the runtime failed",
        NETWORK => c"network error",
        AGAIN => c"busy, try again",
        REMOTE => c"error of a remote rank",
        SUSPENDING => c"communicator is suspended",
        _ => c"unknown error",
    };
    text.as_ptr()
}

/// How many fields of a configuration are read.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclGetCommConfigCapability() -> u32 {
    if anchor::played_release().is_some_and(|release| release < (9, 0)) { 11 } else { 12 }
}

fn one(kind: u32, buffer: u64, count: u64, data_type: u32, rank: u32, handle: usize, stream: usize) -> u32 {
    let name = if kind == 0 { "HcclSend" } else { "HcclRecv" };
    guard(name, || post(&comm(handle)?, &[SendRecvItem { kind, buffer, count, data_type, rank }], stream))
}

/// Sends, in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclSend(
    buffer: u64,
    count: u64,
    data_type: u32,
    to: u32,
    handle: usize,
    stream: usize,
) -> u32 {
    one(0, buffer, count, data_type, to, handle, stream)
}

/// Receives, in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclRecv(
    buffer: u64,
    count: u64,
    data_type: u32,
    from: u32,
    handle: usize,
    stream: usize,
) -> u32 {
    one(1, buffer, count, data_type, from, handle, stream)
}

/// Sends and receives side by side, in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclBatchSendRecv(
    items: In<SendRecvItem>,
    count: u32,
    handle: usize,
    stream: usize,
) -> u32 {
    guard("HcclBatchSendRecv", || {
        let comm = comm(handle)?;
        let items = items.to_vec(count as usize).map_err(|_| PTR)?;
        if items.is_empty() { Err(PARA) } else { post(&comm, &items, stream) }
    })
}

/// Takes no operations until it is resumed.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommSuspend(handle: usize) -> u32 {
    guard("HcclCommSuspend", || {
        comm(handle)?.suspend(true);
        Ok(())
    })
}

/// Takes operations again.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommResume(handle: usize) -> u32 {
    guard("HcclCommResume", || {
        comm(handle)?.suspend(false);
        Ok(())
    })
}

/// Not played.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclBarrier(handle: usize, _stream: usize) -> u32 {
    guard("HcclBarrier", || comm(handle).and(Err(NOT_SUPPORT)))
}

/// Not played: rank tables.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitClusterInfo(_file: Text, _rank: u32, _handle: Out<usize>) -> u32 {
    NOT_SUPPORT
}

/// Not played: rank tables.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitClusterInfoConfig(
    _file: Text,
    _rank: u32,
    _config: In<u8>,
    _handle: Out<usize>,
) -> u32 {
    NOT_SUPPORT
}

/// Not played: rank tables.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitClusterInfoMemConfig(
    _table: Text,
    _rank: u32,
    _config: In<u8>,
    _handle: Out<usize>,
) -> u32 {
    NOT_SUPPORT
}

/// Not played: all devices in one process.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCommInitAll(_count: u32, _devices: In<i32>, _handles: Out<usize>) -> u32 {
    NOT_SUPPORT
}

/// Not played: parts of a communicator.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HcclCreateSubCommConfig(
    _handle: In<usize>,
    _ranks: u32,
    _rank_ids: In<u32>,
    _id: u64,
    _rank: u32,
    _config: In<u8>,
    _made: Out<usize>,
) -> u32 {
    NOT_SUPPORT
}
