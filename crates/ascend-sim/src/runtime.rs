//! The one simulated CANN of a process: opened by the first call that needs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

use crate::config::{Config, Settings};
use crate::fail::{Done, Fail, code, ensure};
use crate::fault::Faults;
use crate::ffi::{Text, call};
use crate::hbm::Hbm;
use crate::state::Process;
use crate::topology::{Chip, Device, DeviceKey, Node, Topology};
use crate::work::Work;

/// Threads that run asynchronous work.
const WORKERS: usize = 2;

/// Everything a process knows of the simulated machines.
pub struct Runtime {
    /// The settings.
    pub config: Config,
    /// The machines.
    pub topology: Arc<Topology>,
    /// Device memory.
    pub hbm: Hbm,
    /// Asynchronous work.
    pub work: Work,
    /// Scripted faults.
    pub faults: Faults,
    /// This process.
    pub me: Process,
    /// Logical ids by user id.
    visible: Vec<u32>,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static SETTINGS: Mutex<Option<Settings>> = Mutex::new(None);
/// Set in a forked child, which has neither the threads nor the locks of its parent.
static FORKED: AtomicBool = AtomicBool::new(false);

/// The simulated CANN of this process, opened if need be.
///
/// # Errors
/// INVALID_FILE without a topology; INTERNAL in a forked child.
pub fn runtime() -> Done<&'static Runtime> {
    not_forked()?;
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let opened = Runtime::open(settings.clone().unwrap_or_default().resolve()?)?;
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        extern "C" fn forked() {
            FORKED.store(true, Ordering::Relaxed);
        }
        // SAFETY: the handler only stores to an atomic, which is allowed in a forked child.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    });
    Ok(RUNTIME.get_or_init(|| opened))
}

/// Refuses in a child that was forked from a process that uses devices: locks may be held there by threads that it
/// does not have.
///
/// # Errors
/// INTERNAL.
pub fn not_forked() -> Done {
    ensure(!FORKED.load(Ordering::Relaxed), code::INTERNAL, || {
        "this process was forked from one that uses the devices; start a new program instead".to_owned()
    })
}

/// The simulated CANN of this process, if it was opened.
#[must_use]
pub fn opened() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// Whether this process was forked from one that uses the devices: none of their threads is here, and any lock may be
/// held for ever.
#[must_use]
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

impl Runtime {
    fn open(config: Config) -> Done<Self> {
        let topology = Arc::new(config.topology.clone());
        Ok(Self {
            hbm: Hbm::new(config.state.clone(), topology.clone(), config.host_visible),
            work: Work::new(WORKERS),
            faults: Faults::parse(&config.faults)?,
            me: Process::this(),
            visible: config.visible(),
            topology,
            config,
        })
    }

    /// This process's node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.topology.nodes[self.config.node]
    }

    /// The chip of this process's devices.
    #[must_use]
    pub fn chip(&self) -> Chip {
        self.node().chip()
    }

    /// How many devices this process may use.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.visible.len()
    }

    /// Logical id of a device that this process may use.
    ///
    /// # Errors
    /// INVALID_DEVICEID when there is none of this user id.
    pub fn logical(&self, user: i32) -> Done<u32> {
        let found = usize::try_from(user).ok().and_then(|user| self.visible.get(user));
        found.copied().ok_or_else(|| {
            let count = self.visible.len();
            Fail::new(code::RT_INVALID_DEVICEID, format!("device {user}: this process has {count} devices"))
        })
    }

    /// The device with this user id.
    ///
    /// # Errors
    /// INVALID_DEVICEID when there is none.
    pub fn device(&self, user: i32) -> Done<&Device> {
        Ok(&self.node().devices[self.logical(user)? as usize])
    }

    /// The key of the device with this user id.
    ///
    /// # Errors
    /// INVALID_DEVICEID when there is none.
    pub fn key(&self, user: i32) -> Done<DeviceKey> {
        Ok(self.node().key(self.device(user)?))
    }

    /// The user id of a device with this physical id, if this process may use it.
    #[must_use]
    pub fn user(&self, physical: u32) -> Option<i32> {
        let devices = &self.node().devices;
        let at = self.visible.iter().position(|logical| devices[*logical as usize].physical == physical)?;
        i32::try_from(at).ok()
    }
}

/// Settings as JSON, before the first call that needs them; the fault script also later. Returns 0, or AscendCL's
/// number for what was wrong.
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_sim_configure(json: Text) -> i32 {
    call("ropeway_sim_configure", || {
        let new = Settings::parse(&json.to_text()?)?;
        if let Some(runtime) = RUNTIME.get() {
            let late = Settings { faults: None, ..new.clone() };
            ensure(
                format!("{late:?}") == format!("{:?}", Settings::default()),
                code::REPEAT_INITIALIZE,
                || "the simulator runs already: only the fault script can still be changed".to_owned(),
            )?;
            return new.faults.map_or(Ok(()), |script| runtime.faults.replace(&script));
        }
        SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().update(new);
        Ok(())
    })
}

/// Puts another fault script in place of the one in force. Returns 0, or AscendCL's number for what was wrong.
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_sim_faults(script: Text) -> i32 {
    call("ropeway_sim_faults", || runtime()?.faults.replace(&script.to_text()?))
}
