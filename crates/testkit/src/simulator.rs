//! The simulator of the software CANN within this process: a state folder of its own, and faults on demand.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::cann::{SimCann, target_folder};

/// The software CANN that this process runs: one, since settings hold from the first native call on.
#[derive(Debug)]
pub struct Simulator {
    root: PathBuf,
    state: PathBuf,
    faults: extern "C" fn(*const c_char) -> c_int,
    late_write: LateWrite,
    pattern: extern "C" fn(u64, u64) -> u8,
}

/// Stream, address, length, seed, milliseconds.
type LateWrite = extern "C" fn(usize, usize, usize, u64, u32) -> c_int;

static RUNNING: OnceLock<Result<Simulator, String>> = OnceLock::new();

/// Faults hold for the whole process: whoever scripts one runs alone.
static USERS: RwLock<()> = RwLock::new(());

/// Tests that hold it share the simulator, with no faults.
#[must_use]
pub struct Shared(#[expect(dead_code, reason = "held for its drop")] RwLockReadGuard<'static, ()>);

/// The test that holds it has the simulator for itself and may script faults; they end with it.
#[must_use]
pub struct Alone {
    simulator: &'static Simulator,
    #[expect(dead_code, reason = "held for its drop")]
    guard: RwLockWriteGuard<'static, ()>,
}

impl Simulator {
    /// Starts the simulator that `cann` describes, with a state folder that no other process has. Later calls give the
    /// same, whatever they ask for.
    ///
    /// # Errors
    /// It cannot be built here, or not be loaded.
    pub fn start(cann: &SimCann) -> Result<&'static Self, String> {
        RUNNING.get_or_init(|| Self::load(cann)).as_ref().map_err(Clone::clone)
    }

    fn load(cann: &SimCann) -> Result<Self, String> {
        let root = cann.root()?;
        let states = target_folder().join("states");
        forget_the_dead(&states);
        let state = states.join(std::process::id().to_string());
        let library = root.join("lib64/libascend_sim.so");
        let name = CString::new(library.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: runs the initialisers of the simulator, which is ours; never closed.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(format!("{} cannot be opened", library.display()));
        }
        // SAFETY: the simulator's functions have these types.
        let configure: extern "C" fn(*const c_char) -> c_int =
            unsafe { symbol(handle, c"ropeway_sim_configure") }?;
        // SAFETY: as above.
        let faults = unsafe { symbol(handle, c"ropeway_sim_faults") }?;
        // SAFETY: as above.
        let late_write = unsafe { symbol(handle, c"ropeway_sim_kernel_late_write") }?;
        // SAFETY: as above.
        let pattern = unsafe { symbol(handle, c"ropeway_sim_kernel_pattern") }?;
        let settings = CString::new(format!(r#"{{"state":{:?}}}"#, state.display().to_string()))
            .map_err(|error| error.to_string())?;
        match configure(settings.as_ptr()) {
            0 => Ok(Self { root, state, faults, late_write, pattern }),
            code => Err(format!("the simulator refuses its settings: {code}")),
        }
    }

    /// The installation's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that processes share which run on the same simulated machines: for `ROPEWAY_SIM_STATE`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What a model's last layer does to its KV blocks: `len` bytes of device memory at `to` get [`Self::pattern`], `late_ms`
    /// after the kernel has come to the head of its stream. On a thread with the stream's context.
    ///
    /// # Panics
    /// The simulator refuses it.
    pub fn late_write(&self, stream: *mut c_void, to: u64, len: usize, seed: u64, late_ms: u32) {
        let code = (self.late_write)(stream as usize, to as usize, len, seed, late_ms);
        assert_eq!(code, 0, "the simulator does not launch the kernel");
    }

    /// The bytes that a late write with this seed leaves.
    pub fn pattern(&self, seed: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|at| (self.pattern)(seed, at)).collect()
    }

    /// For tests that meet no faults.
    pub fn shared(&'static self) -> Shared {
        Shared(USERS.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// For a test that scripts faults.
    pub fn alone(&'static self) -> Alone {
        Alone { simulator: self, guard: USERS.write().unwrap_or_else(PoisonError::into_inner) }
    }

    fn script(&self, faults: &str) -> c_int {
        let script = CString::new(faults).expect("a script has no zero byte");
        (self.faults)(script.as_ptr())
    }
}

impl Alone {
    /// Puts this script in force, instead of the last one.
    ///
    /// # Panics
    /// The simulator does not understand it.
    pub fn faults(&self, script: &str) {
        let code = self.simulator.script(script);
        assert_eq!(code, 0, "the simulator does not take the faults {script:?}");
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.simulator.script("");
    }
}

/// # Safety
/// The function of that name has the type `F`, a function pointer.
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: a handle that is never closed; the address is checked before it is used.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("the simulator has no {}", name.to_string_lossy()));
    }
    // SAFETY: of one size; the caller vouches for the type.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
}

/// Removes state folders whose processes have ended.
fn forget_the_dead(states: &Path) {
    let folders = std::fs::read_dir(states).into_iter().flatten().flatten();
    for folder in folders {
        let alive = folder.file_name().to_str().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            // Another test process may be doing the same.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}
