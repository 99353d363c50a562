//! The sixteen functions of HIXL's C API.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::abi::{CommMem, Layout, OneSideOpDesc, client_wish, resources, server_wish};
use super::client::Client;
use super::server::Server;
use crate::anchor;
use crate::ffi::{In, Out, Text};
use crate::handles::Handles;
use crate::hixl::batch::{Op, SimHixlDesc};
use crate::hixl::status::{FAILED, Outcome, PARAM_INVALID, number};
use crate::runtime::is_forked;

static SERVERS: Handles<Server> = Handles::new("HIXL server", 0xE2);
static CLIENTS: Handles<Client> = Handles::new("HIXL client", 0xE3);

fn guard(body: impl FnOnce() -> Outcome) -> u32 {
    if is_forked() {
        return FAILED;
    }
    if crate::runtime::not_forked().is_err() {
        return number(Err(FAILED));
    }
    number(catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(FAILED)))
}

/// Before 9.1 structures have another layout.
fn old() -> Outcome<bool> {
    anchor::played_release().map(|release| release < (9, 1)).ok_or(FAILED)
}

fn set<T>(out: Out<T>, value: T) -> Outcome {
    out.set(value).map_err(|_| PARAM_INVALID)
}

fn stale<T>(_: crate::Fail) -> Outcome<T> {
    Err(PARAM_INVALID)
}

/// Makes a server.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSServerCreate(desc: Layout, config: Layout, handle: Out<usize>) -> u32 {
    guard(|| {
        let old = old()?;
        let resources = resources(config, old)?;
        handle.check().or_else(stale)?;
        let server = Server::new(server_wish(desc, old)?, resources.as_deref())?;
        let mut made = 0;
        let _kept = SERVERS.add(|number| {
            made = number;
            server
        });
        set(handle, made)
    })
}

/// Registers memory with a server.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSServerRegMem(
    server: usize,
    tag: Text,
    mem: In<CommMem>,
    handle: Out<usize>,
) -> u32 {
    guard(|| {
        let server = SERVERS.get(server).or_else(stale)?;
        handle.check().or_else(stale)?;
        let tag = if tag.is_null() { String::new() } else { tag.to_text().or_else(stale)? };
        set(handle, server.register(tag, &mem.get().or_else(stale)?)?)
    })
}

/// Lets clients in.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSServerListen(server: usize, _backlog: u32) -> u32 {
    guard(|| SERVERS.get(server).or_else(stale)?.listen())
}

/// Takes a region of a server's back.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSServerUnregMem(server: usize, memory: usize) -> u32 {
    guard(|| SERVERS.get(server).or_else(stale)?.unregister(memory))
}

/// Ends a server.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSServerDestroy(server: usize) -> u32 {
    guard(|| SERVERS.remove(server).map(drop).or_else(stale))
}

/// Makes a client.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientCreate(desc: Layout, config: Layout, handle: Out<usize>) -> u32 {
    guard(|| {
        let old = old()?;
        resources(config, old)?;
        handle.check().or_else(stale)?;
        let client = Client::new(client_wish(desc, old)?)?;
        let mut made = 0;
        let _kept = CLIENTS.add(|number| {
            made = number;
            client
        });
        set(handle, made)
    })
}

/// Links a client to its server, and learns its regions.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientConnect(client: usize, timeout_ms: u32) -> u32 {
    guard(|| CLIENTS.get(client).or_else(stale)?.connect(timeout_ms))
}

/// Learns the server's regions anew. The lists are the library's, until the next call or the client's end.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientGetRemoteMem(
    client: usize,
    memory: Out<usize>,
    tags: Out<usize>,
    count: Out<u32>,
    timeout_ms: u32,
) -> u32 {
    guard(|| {
        let (at, tags_at, length) = CLIENTS.get(client).or_else(stale)?.remote_memory(timeout_ms)?;
        set(memory, at)?;
        set(tags, tags_at)?;
        set(count, length)
    })
}

/// Registers memory with a client.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientRegMem(
    client: usize,
    _tag: Text,
    mem: In<CommMem>,
    handle: Out<usize>,
) -> u32 {
    guard(|| {
        let client = CLIENTS.get(client).or_else(stale)?;
        handle.check().or_else(stale)?;
        set(handle, client.register(&mem.get().or_else(stale)?)?)
    })
}

/// Takes a region of a client's back.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientUnregMem(client: usize, memory: usize) -> u32 {
    guard(|| CLIENTS.get(client).or_else(stale)?.unregister(memory))
}

fn descriptors(list: In<OneSideOpDesc>, count: u32) -> Outcome<Vec<SimHixlDesc>> {
    if count == 0 {
        return Err(PARAM_INVALID);
    }
    let list = list.to_vec(count as usize).or_else(stale)?;
    Ok(list.iter().map(|one| SimHixlDesc { local: one.local, remote: one.remote, len: one.len }).collect())
}

fn post(client: usize, op: Op, count: u32, list: In<OneSideOpDesc>, handle: Out<usize>) -> u32 {
    guard(|| {
        let client = CLIENTS.get(client).or_else(stale)?;
        handle.check().or_else(stale)?;
        set(handle, client.post(op, &descriptors(list, count)?)?)
    })
}

fn run(client: usize, op: Op, count: u32, list: In<OneSideOpDesc>, timeout_ms: u32) -> u32 {
    guard(|| CLIENTS.get(client).or_else(stale)?.run(op, &descriptors(list, count)?, timeout_ms))
}

/// Posts a batch to the server's memory.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientBatchPutAsync(
    client: usize,
    count: u32,
    list: In<OneSideOpDesc>,
    handle: Out<usize>,
) -> u32 {
    post(client, Op::Write, count, list, handle)
}

/// Posts a batch from the server's memory.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientBatchGetAsync(
    client: usize,
    count: u32,
    list: In<OneSideOpDesc>,
    handle: Out<usize>,
) -> u32 {
    post(client, Op::Read, count, list, handle)
}

/// Runs a batch to the server's memory.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientBatchPutSync(
    client: usize,
    count: u32,
    list: In<OneSideOpDesc>,
    timeout_ms: u32,
) -> u32 {
    run(client, Op::Write, count, list, timeout_ms)
}

/// Runs a batch from the server's memory.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientBatchGetSync(
    client: usize,
    count: u32,
    list: In<OneSideOpDesc>,
    timeout_ms: u32,
) -> u32 {
    run(client, Op::Read, count, list, timeout_ms)
}

/// How a posted batch is; its end is told once.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientQueryCompleteStatus(client: usize, handle: usize, status: Out<u32>) -> u32 {
    guard(|| {
        let client = CLIENTS.get(client).or_else(stale)?;
        status.check().or_else(stale)?;
        set(status, client.status(handle)?)
    })
}

/// Ends a client.
#[unsafe(no_mangle)]
pub extern "C" fn sim_HixlCSClientDestroy(client: usize) -> u32 {
    guard(|| {
        CLIENTS.remove(client).or_else(stale)?.close();
        Ok(())
    })
}
