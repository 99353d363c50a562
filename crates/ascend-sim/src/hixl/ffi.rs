//! The flat C functions behind `hixl::Hixl`: see `cxx/sim_hixl.h`.

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use super::batch::{Op, SimHixlDesc};
use super::connects::state;
use super::engine::{Engine, deadline};
use super::options::Options;
use super::status::{ALREADY_CONNECTED, FAILED, Outcome, PARAM_INVALID, number, transfer};
use crate::anchor;
use crate::ffi::{In, Out, Text};
use crate::handles::Handles;
use crate::runtime::is_forked;

/// What a C++ object holds: an engine from `Initialize` to `Finalize`.
#[derive(Default)]
struct Shell {
    engine: RwLock<Option<Arc<Engine>>>,
}

static SHELLS: Handles<Shell> = Handles::new("hixl engine", 0xE1);

/// One answer to a query of many: as in `sim_hixl.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SimHixlResult {
    /// The request.
    pub request: usize,
    /// What the caller gave with it.
    pub user_data: usize,
    /// How it is.
    pub status: u32,
}

/// Called for each notify: name and message with their lengths.
pub type EachNotify = extern "C" fn(*mut c_void, *const c_char, usize, *const c_char, usize);
/// Called for each asynchronous connection.
pub type EachLink = extern "C" fn(*mut c_void, *const c_char, u32);

/// Runs the body of an exported function; a panic becomes FAILED.
fn guard(body: impl FnOnce() -> Outcome) -> u32 {
    if is_forked() {
        return FAILED;
    }
    if crate::runtime::not_forked().is_err() {
        return number(Err(FAILED));
    }
    number(catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(FAILED)))
}

/// The engine behind a handle; FAILED before `Initialize` and after `Finalize`.
fn engine(shell: usize) -> Outcome<Arc<Engine>> {
    let shell = SHELLS.get(shell).map_err(|_| PARAM_INVALID)?;
    let engine = shell.engine.read().unwrap_or_else(PoisonError::into_inner);
    engine.clone().ok_or(FAILED)
}

fn text(given: Text) -> Outcome<String> {
    given.to_text().map_err(|_| PARAM_INVALID)
}

fn set<T>(out: Out<T>, value: T) -> Outcome {
    out.set(value).map_err(|_| PARAM_INVALID)
}

/// Bytes that need not end in NUL.
fn bytes(given: In<u8>, length: usize) -> Outcome<Vec<u8>> {
    given.to_vec(length).map_err(|_| PARAM_INVALID)
}

/// Makes an engine that is not initialised; 0, which no other call takes, in a forked process.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_create() -> usize {
    let mut made = 0;
    guard(|| {
        let _kept = SHELLS.add(|handle| {
            made = handle;
            Shell::default()
        });
        Ok(())
    });
    made
}

/// Ends an engine; finalises it if need be.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_destroy(shell: usize) {
    sim_hixl_finalize(shell);
    guard(|| SHELLS.remove(shell).map(drop).map_err(|_| PARAM_INVALID));
}

/// `Initialize`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_initialize(
    shell: usize,
    local_engine: Text,
    keys: In<Text>,
    values: In<Text>,
    count: usize,
) -> u32 {
    guard(|| {
        let shell = SHELLS.get(shell).map_err(|_| PARAM_INVALID)?;
        let mut slot = shell.engine.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Err(FAILED);
        }
        let strings = |list: In<Text>| -> Outcome<Vec<String>> {
            list.to_vec(count).map_err(|_| PARAM_INVALID)?.into_iter().map(text).collect()
        };
        let (keys, values) = (strings(keys)?, strings(values)?);
        let pairs = keys.iter().zip(&values).map(|(key, value)| (key.as_str(), value.as_str()));
        *slot = Some(Arc::new(Engine::open(&text(local_engine)?, Options::parse(pairs)?)?));
        Ok(())
    })
}

/// `Finalize`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_finalize(shell: usize) {
    guard(|| {
        let Ok(shell) = SHELLS.get(shell) else { return Ok(()) };
        let engine = shell.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(engine) = engine {
            engine.close();
        }
        Ok(())
    });
}

/// `RegisterMem`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_register_mem(
    shell: usize,
    address: u64,
    length: u64,
    kind: u32,
    handle: Out<usize>,
) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        if kind > 1 {
            return Err(PARAM_INVALID);
        }
        set(handle, engine.register(address, length, kind == 1)?)
    })
}

/// `DeregisterMem`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_deregister_mem(shell: usize, handle: usize) -> u32 {
    guard(|| engine(shell)?.deregister(handle))
}

/// `Connect`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_connect(shell: usize, remote: Text, timeout_ms: i32) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        let deadline = deadline(timeout_ms)?;
        engine.check_context()?;
        engine.connect(&text(remote)?, deadline)
    })
}

/// `Disconnect`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_disconnect(shell: usize, remote: Text, timeout_ms: i32) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        deadline(timeout_ms)?;
        let remote = text(remote)?;
        engine.disconnect(&remote)?;
        engine.connects.forget(&remote);
        Ok(())
    })
}

/// `ConnectAsync`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_connect_async(shell: usize, remote: Text, timeout_ms: i32) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        let limit = deadline(timeout_ms)?;
        engine.check_context()?;
        let remote = text(remote)?;
        let (worker, name) = (Arc::downgrade(&engine), remote.clone());
        engine.connects.queue(
            &remote,
            true,
            Box::new(move || {
                let done = worker.upgrade().map(|engine| engine.connect(&name, limit));
                matches!(done, Some(Ok(()) | Err(ALREADY_CONNECTED)))
            }),
        )
    })
}

/// `DisconnectAsync`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_disconnect_async(shell: usize, remote: Text, timeout_ms: i32) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        deadline(timeout_ms)?;
        let remote = text(remote)?;
        let (worker, name) = (Arc::downgrade(&engine), remote.clone());
        engine.connects.queue(
            &remote,
            false,
            Box::new(move || {
                let _ = worker.upgrade().map(|engine| engine.disconnect(&name));
                false
            }),
        )
    })
}

/// `GetAsyncConnectStatus` of one peer.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_async_status(shell: usize, remote: Text, status: Out<u32>) -> u32 {
    guard(|| set(status, engine(shell)?.connects.status(&text(remote)?)))
}

/// `GetAsyncConnectStatus` of all peers.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_async_statuses(shell: usize, each: Option<EachLink>, context: *mut c_void) -> u32 {
    guard(|| {
        let each = each.ok_or(PARAM_INVALID)?;
        let statuses = engine(shell)?.async_statuses();
        for (remote, status) in statuses.into_iter().filter(|(_, status)| *status != state::NOT_CONNECT) {
            let remote = CString::new(remote).map_err(|_| FAILED)?;
            each(context, remote.as_ptr(), status);
        }
        Ok(())
    })
}

/// The descriptors of a caller, read where they are.
fn descriptors<'a>(given: In<SimHixlDesc>, count: usize) -> Outcome<&'a [SimHixlDesc]> {
    if given.is_null() || count == 0 {
        return Err(PARAM_INVALID);
    }
    // SAFETY: not null, so valid for reads of `count` descriptors for as long as the call, by the type's invariant; the
    // slice does not outlive the call.
    Ok(unsafe { std::slice::from_raw_parts(given.as_ptr(), count) })
}

/// `TransferSync`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_transfer_sync(
    shell: usize,
    remote: Text,
    op: u32,
    given: In<SimHixlDesc>,
    count: usize,
    timeout_ms: i32,
) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        engine.transfer_sync(&text(remote)?, Op::parse(op)?, descriptors(given, count)?, timeout_ms)
    })
}

/// `TransferAsync`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_transfer_async(
    shell: usize,
    remote: Text,
    op: u32,
    given: In<SimHixlDesc>,
    count: usize,
    user_data: usize,
    request: Out<usize>,
) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        if request.is_null() {
            return Err(PARAM_INVALID);
        }
        let descs = descriptors(given, count)?;
        set(request, engine.transfer_async(&text(remote)?, Op::parse(op)?, descs, user_data)?)
    })
}

/// `GetTransferStatus` of one request.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_transfer_status(shell: usize, request: usize, status: Out<u32>) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        let told = engine.requests.lock().unwrap_or_else(PoisonError::into_inner).status(request);
        set(status, told.unwrap_or(transfer::FAILED))?;
        told.map(drop)
    })
}

/// `GetTransferStatus` of many requests.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_transfer_results(
    shell: usize,
    most: u32,
    skip_waiting: u32,
    results: Out<SimHixlResult>,
    room: usize,
    count: Out<usize>,
) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        let most = if most == 0 { room } else { room.min(most as usize) };
        let mut requests = engine.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = requests.statuses(most, skip_waiting != 0);
        drop(requests);
        set(count, answers.len())?;
        for (index, answer) in answers.into_iter().enumerate() {
            let result =
                SimHixlResult { request: answer.request, user_data: answer.user_data, status: answer.status };
            results.set_at(index, result).map_err(|_| PARAM_INVALID)?;
        }
        Ok(())
    })
}

/// Requests that could be told of.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_transfer_open(shell: usize) -> usize {
    let open =
        engine(shell).map(|engine| engine.requests.lock().unwrap_or_else(PoisonError::into_inner).len());
    open.unwrap_or(0)
}

/// `SendNotify`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_send_notify(
    shell: usize,
    remote: Text,
    name: In<u8>,
    name_len: usize,
    message: In<u8>,
    message_len: usize,
    timeout_ms: i32,
) -> u32 {
    guard(|| {
        let engine = engine(shell)?;
        // Too long is too long, before anything is read.
        let fits = |length| length <= super::passive::NOTIFY_BYTES_MAX;
        if !fits(name_len) || !fits(message_len) {
            return Err(PARAM_INVALID);
        }
        engine.notify(&text(remote)?, &bytes(name, name_len)?, &bytes(message, message_len)?, timeout_ms)
    })
}

/// `GetNotifies`.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_get_notifies(shell: usize, each: Option<EachNotify>, context: *mut c_void) -> u32 {
    guard(|| {
        let each = each.ok_or(PARAM_INVALID)?;
        for (name, message) in engine(shell)?.passive.take_notifies() {
            each(context, name.as_ptr().cast(), name.len(), message.as_ptr().cast(), message.len());
        }
        Ok(())
    })
}

/// `GetCapability`: links on demand (0) always, the client/server engine (1) from 9.1 on.
#[unsafe(no_mangle)]
pub extern "C" fn sim_hixl_capability(feature: u32, value: Out<i32>) -> u32 {
    guard(|| {
        let client_server = anchor::played_release().is_none_or(|release| release >= (9, 1));
        match feature {
            0 => set(value, 1),
            1 => set(value, i32::from(client_server)),
            _ => Err(PARAM_INVALID),
        }
    })
}
