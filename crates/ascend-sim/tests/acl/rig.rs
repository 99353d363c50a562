//! What the tests share: a simulated machine of this test process's own, children on the same one, short names.

use std::ffi::{CStr, CString};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use ascend_sim::acl::{copy, device, event, init, kernel, memory, notify, stream};
use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::runtime::{ropeway_sim_configure, ropeway_sim_faults};

pub(crate) const OK: i32 = 0;
pub(crate) const HUGE_FIRST: u32 = 0;
pub(crate) const HUGE_ONLY: u32 = 1;
pub(crate) const NORMAL_ONLY: u32 = 2;
pub(crate) const H2H: u32 = 0;
pub(crate) const H2D: u32 = 1;
pub(crate) const D2H: u32 = 2;
pub(crate) const D2D: u32 = 3;
pub(crate) const MIB: usize = 1 << 20;

const STATE: &str = "ROPEWAY_SIM_TEST_STATE";
const ROLE: &str = "ROPEWAY_SIM_TEST_ROLE";

/// Configures this process once: one A2 machine with nine devices, 1 GiB each but the first. Tests that count
/// memory have one of their own: 2, 6 and 8.
pub(crate) fn machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let state = std::env::var_os(STATE).map_or_else(fresh, PathBuf::from);
        let devices: Vec<String> = (0..9)
            .map(|id| format!(r#"{{"physical":{id},"hbm_mib":{}}}"#, if id == 0 { 65_536 } else { 1024 }))
            .collect();
        let json = format!(
            r#"{{"topology":{{"version":1,"chip":"a2","nodes":[{{"name":"n","devices":[{}]}}]}},"state":{:?}}}"#,
            devices.join(","),
            state
        );
        let json = CString::new(json).unwrap();
        assert_eq!(ropeway_sim_configure(Text::from(json.as_c_str())), OK);
        assert_eq!(init::sim_aclInit(In::null()), OK);
    });
}

/// Binds the calling thread to a device.
pub(crate) fn on(device: i32) {
    machine();
    assert_eq!(device::sim_aclrtSetDevice(device), OK);
}

/// A folder for this process, after those of earlier ones were removed.
fn fresh() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("acl");
    for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    root.join(std::process::id().to_string())
}

fn state() -> PathBuf {
    std::env::var_os(STATE).map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("acl").join(std::process::id().to_string()),
        PathBuf::from,
    )
}

/// Another process on the same machine, that runs the test `role` and is spoken to by lines.
pub(crate) struct Other {
    child: Child,
    say: Option<ChildStdin>,
    hear: Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub(crate) fn start(role: &str) -> Self {
        machine();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", role, "--nocapture", "--test-threads=1"])
            .env(STATE, state())
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, hear) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, say, hear }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.say.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line of its own; the harness's are passed over.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let line = self.hear.next().expect("the other process still runs").unwrap();
            if let Some((_, word)) = line.split_once('@') {
                return word.to_owned();
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What else it said, and how it ended.
    pub(crate) fn end(&mut self) -> (Vec<String>, std::process::ExitStatus) {
        let rest = self.hear.by_ref().map_while(Result::ok).collect();
        (rest, self.child.wait().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.say = None;
        let _ = self.child.wait();
    }
}

/// What a child says and hears; `None` in the run of the tests themselves.
pub(crate) fn as_child(role: &str) -> Option<Lines<std::io::StdinLock<'static>>> {
    (std::env::var(ROLE).as_deref() == Ok(role)).then(|| std::io::stdin().lines())
}

pub(crate) fn tell(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// Puts a script in force until it is dropped; one at a time. Devices 3 and 4 are used under it only.
pub(crate) fn script(text: &str) -> Script {
    static ONE: Mutex<()> = Mutex::new(());
    machine();
    let held = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    put(text);
    Script { _held: held }
}

pub(crate) struct Script {
    _held: MutexGuard<'static, ()>,
}

impl Script {
    /// Puts another one in force.
    pub(crate) fn put(&self, text: &str) {
        put(text);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        put("");
    }
}

fn put(text: &str) {
    let text = CString::new(text).unwrap();
    assert_eq!(ropeway_sim_faults(Text::from(text.as_c_str())), OK);
}

pub(crate) fn malloc(size: usize, policy: u32) -> Result<usize, i32> {
    let mut at = 0;
    let code = memory::sim_aclrtMalloc(Out::from(&mut at), size, policy);
    if code == OK { Ok(at) } else { Err(code) }
}

pub(crate) fn free(at: usize) -> i32 {
    memory::sim_aclrtFree(at)
}

pub(crate) fn stream() -> usize {
    let mut handle = 0;
    assert_eq!(stream::sim_aclrtCreateStream(Out::from(&mut handle)), OK);
    handle
}

pub(crate) fn sync(handle: usize) -> i32 {
    stream::sim_aclrtSynchronizeStreamWithTimeout(handle, 60_000)
}

pub(crate) fn event(flag: u32) -> usize {
    let mut handle = 0;
    assert_eq!(event::sim_aclrtCreateEventExWithFlag(Out::from(&mut handle), flag), OK);
    handle
}

/// 0 not ready, 1 complete.
pub(crate) fn status(event: usize) -> u32 {
    let mut status = 9;
    assert_eq!(event::sim_aclrtQueryEventStatus(event, Out::from(&mut status)), OK);
    status
}

pub(crate) fn memcpy(dst: usize, max: usize, src: usize, count: usize, kind: u32) -> i32 {
    // SAFETY: the tests pass device addresses, or memory of their own that is long enough.
    unsafe { copy::sim_aclrtMemcpy(dst, max, src, count, kind) }
}

pub(crate) fn memcpy_async(dst: usize, src: usize, count: usize, kind: u32, stream: usize) -> i32 {
    // SAFETY: as above; the tests synchronize before they end.
    unsafe { copy::sim_aclrtMemcpyAsync(dst, count, src, count, kind, stream) }
}

pub(crate) fn put_bytes(at: usize, bytes: &[u8]) {
    assert_eq!(memcpy(at, bytes.len(), bytes.as_ptr() as usize, bytes.len(), H2D), OK);
}

pub(crate) fn get_bytes(at: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len];
    assert_eq!(memcpy(bytes.as_mut_ptr() as usize, len, at, len, D2H), OK);
    bytes
}

/// Fills device memory after a while.
pub(crate) fn late_fill(stream: usize, at: usize, len: usize, value: u8, ms: u32) {
    assert_eq!(kernel::ropeway_sim_kernel_fill(stream, at, len, value, ms), OK);
}

/// Holds what is submitted to a stream from now on, however long, until it is let go.
pub(crate) struct Held {
    notify: usize,
}

pub(crate) fn hold(stream: usize) -> Held {
    let mut notify = 0;
    assert_eq!(notify::sim_aclrtCreateNotify(Out::from(&mut notify), 0), OK);
    assert_eq!(notify::sim_aclrtWaitAndResetNotify(notify, stream, 0), OK);
    Held { notify }
}

impl Held {
    pub(crate) fn let_go(self) {
        assert_eq!(notify::sim_aclrtRecordNotify(self.notify, stream()), OK);
    }
}

/// The pending error text of this thread.
pub(crate) fn text() -> Option<String> {
    let text = init::sim_aclGetRecentErrMsg();
    // SAFETY: valid until the next call on this thread.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned())
}
