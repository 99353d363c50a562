//! Contexts: what a thread is bound to. Nearly every call needs one, and a new thread has none.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Site;
use crate::handles::Handles;
use crate::runtime::{Runtime, runtime};
use crate::topology::DeviceKey;

/// A context on a device.
#[derive(Debug)]
pub struct Context {
    /// Its handle.
    pub handle: usize,
    /// Its device's user id.
    pub user: i32,
    /// Its device.
    pub key: DeviceKey,
    /// Handle of its default stream; 0 until it is used.
    pub stream: AtomicUsize,
    alive: AtomicBool,
    default: bool,
}

/// The live contexts.
pub static CONTEXTS: Handles<Context> = Handles::new("context", 0xC0);

/// The default context of each device, and how often it was set less how often it was reset.
static DEFAULTS: Mutex<Option<Defaults>> = Mutex::new(None);

type Defaults = HashMap<i32, (Arc<Context>, u64)>;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Context>>> = const { RefCell::new(None) };
}

impl Context {
    /// Whether it was not destroyed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    fn new(runtime: &Runtime, user: i32, default: bool) -> Done<Arc<Self>> {
        let key = runtime.key(user)?;
        lost(runtime, key, "aclrtSetDevice")?;
        Ok(CONTEXTS.add(|handle| Self {
            handle,
            user,
            key,
            stream: AtomicUsize::new(0),
            alive: AtomicBool::new(true),
            default,
        }))
    }

    fn end(&self) {
        self.alive.store(false, Ordering::Release);
        let _ = CONTEXTS.remove(self.handle);
    }
}

/// Refuses if the script says that the device is lost.
///
/// # Errors
/// LOST_HEARTBEAT, or the script's code.
pub fn lost(runtime: &Runtime, key: DeviceKey, op: &str) -> Done {
    let site = Site { op, device: Some(key.physical), remote: None };
    match runtime.faults.hit("device_lost", site) {
        Some(hit) => {
            Err(Fail::new(hit.code(code::RT_LOST_HEARTBEAT), format!("device {} is lost", key.physical)))
        }
        None => Ok(()),
    }
}

/// The calling thread's context.
///
/// # Errors
/// CONTEXT_NULL when it has none, or it was destroyed.
pub fn current() -> Done<Arc<Context>> {
    let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    current.filter(|context| context.is_alive()).ok_or_else(|| {
        Fail::new(
            code::RT_CONTEXT_NULL,
            "this thread has no context: aclrtSetDevice or aclrtSetCurrentContext first",
        )
    })
}

/// The calling thread's context, on a device that is not lost.
///
/// # Errors
/// CONTEXT_NULL without one; LOST_HEARTBEAT, or the script's code, for a lost device.
pub fn usable(op: &str) -> Done<(Arc<Context>, &'static Runtime)> {
    let (context, runtime) = (current()?, runtime()?);
    lost(runtime, context.key, op)?;
    Ok((context, runtime))
}

/// Binds the calling thread, or lets it loose. Returns what it was bound to.
pub fn bind(context: Option<Arc<Context>>) -> Option<Arc<Context>> {
    CURRENT.try_with(|current| current.replace(context)).ok().flatten()
}

/// Binds the calling thread to the device's default context, which is made if it is not there.
///
/// # Errors
/// INVALID_DEVICEID; LOST_HEARTBEAT for a lost device.
pub fn set_device(user: i32) -> Done {
    let runtime = runtime()?;
    let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let defaults = defaults.get_or_insert_default();
    let context = match defaults.get_mut(&user) {
        Some((context, count)) => {
            lost(runtime, context.key, "aclrtSetDevice")?;
            *count += 1;
            context.clone()
        }
        None => {
            let context = Context::new(runtime, user, true)?;
            defaults.insert(user, (context.clone(), 1));
            context
        }
    };
    bind(Some(context));
    Ok(())
}

/// Counts down what [`set_device`] counted up; at zero, or if forced, the default context ends.
///
/// # Errors
/// INVALID_DEVICEID for a device that is not there, CONTEXT_NULL for one that is not set.
pub fn reset_device(user: i32, force: bool) -> Done {
    runtime()?.key(user)?;
    let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let defaults = defaults.get_or_insert_default();
    let (context, count) = defaults
        .get_mut(&user)
        .ok_or_else(|| Fail::new(code::RT_CONTEXT_NULL, format!("device {user} is not set")))?;
    *count -= 1;
    if force || *count == 0 {
        context.end();
        defaults.remove(&user);
    }
    Ok(())
}

/// Whether a device's default context is there.
#[must_use]
pub fn is_set(user: i32) -> bool {
    let defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    defaults.as_ref().is_some_and(|defaults| defaults.contains_key(&user))
}

/// Makes a context and binds the calling thread to it.
///
/// # Errors
/// INVALID_DEVICEID; LOST_HEARTBEAT for a lost device.
pub fn create(user: i32) -> Done<usize> {
    let context = Context::new(runtime()?, user, false)?;
    let handle = context.handle;
    bind(Some(context));
    Ok(handle)
}

/// Ends a context that [`create`] made.
///
/// # Errors
/// INVALID_HANDLE for a stale one; INVALID_PARAM for a device's default context.
pub fn destroy(handle: usize) -> Done {
    let context = CONTEXTS.get(handle)?;
    ensure(!context.default, code::RT_PARAM_INVALID, || {
        "a device's default context ends with aclrtResetDevice".to_owned()
    })?;
    context.end();
    Ok(())
}
