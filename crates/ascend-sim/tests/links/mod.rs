//! What the tests of the links share: a node of simulated NPUs, memory on them, engines by their flat functions.

#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::ffi::{CStr, CString};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::hbm::{Page, Range};
pub(crate) use ascend_sim::hixl::batch::SimHixlDesc;
use ascend_sim::hixl::ffi::*;
use ascend_sim::runtime::{ropeway_sim_configure, ropeway_sim_faults, runtime};

pub(crate) const SUCCESS: u32 = 0;
pub(crate) const PARAM_INVALID: u32 = 103_900;
pub(crate) const TIMEOUT: u32 = 103_901;
pub(crate) const NOT_CONNECTED: u32 = 103_902;
pub(crate) const ALREADY_CONNECTED: u32 = 103_903;
pub(crate) const NOTIFY_FAILED: u32 = 103_904;
pub(crate) const UNSUPPORTED: u32 = 103_905;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 203_900;
pub(crate) const FAILED: u32 = 503_900;

pub(crate) const READ: u32 = 0;
pub(crate) const WRITE: u32 = 1;

pub(crate) const WAITING: u32 = 0;
pub(crate) const COMPLETED: u32 = 1;
pub(crate) const REQUEST_FAILED: u32 = 3;

/// How long a call may take that should succeed.
pub(crate) const PATIENCE: i32 = 30_000;

/// The state folder of this test's processes; a child gets its parent's.
pub(crate) fn state() -> PathBuf {
    let inherited = std::env::var_os("ROPEWAY_SIM_STATE").map(PathBuf::from);
    inherited
        .unwrap_or_else(|| std::env::temp_dir().join(format!("ropeway-sim-links-{}", std::process::id())))
}

/// Two machines of eight NPUs; this process is on the first unless `LINKS_NODE` says otherwise.
pub(crate) fn machine(chip: &str, extra: &str) {
    machine_of(chip, "9.1.0", extra);
}

/// The same with libraries of a release.
pub(crate) fn machine_of(chip: &str, release: &str, extra: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        extern "C" fn clean() {
            let _ = std::fs::remove_dir_all(state());
        }
        if part().is_none() {
            // SAFETY: the handler runs once, at the end of the process, and needs nothing of it.
            unsafe { libc::atexit(clean) };
        }
        let devices: Vec<String> = (0..8).map(|id| format!(r#"{{"physical":{id}}}"#)).collect();
        let devices = devices.join(",");
        let node = std::env::var("LINKS_NODE").unwrap_or_else(|_| "one".to_owned());
        let json = format!(
            r#"{{"node":"{node}","topology":{{"version":1,"release":"{release}","chip":"{chip}","nodes":[{{"name":"one","devices":[{devices}]}},
                {{"name":"two","super_pod":1,"devices":[{devices}]}}]}},"state":{:?}{extra}}}"#,
            state()
        );
        let json = CString::new(json).unwrap();
        assert_eq!(ropeway_sim_configure(Text::from(json.as_c_str())), 0);
    });
}

/// Binds this thread to a device.
pub(crate) fn on(device: i32) {
    ascend_sim::context::set_device(device).unwrap();
}

/// Device memory in 2 MiB pages.
pub(crate) fn hbm(device: i32, bytes: u64) -> Range {
    let runtime = runtime().unwrap();
    let bytes = bytes.next_multiple_of(Page::Huge.bytes());
    runtime.hbm.alloc(runtime.key(device).unwrap(), bytes, bytes, Page::Huge).unwrap()
}

/// Pinned host memory, all zeros.
pub(crate) fn pinned(bytes: u64) -> u64 {
    let mut at = 0;
    assert_eq!(ascend_sim::acl::host::sim_aclrtMallocHost(Out::from(&mut at), bytes as usize), 0);
    at as u64
}

/// Writes a pattern that `seed` tells apart.
pub(crate) fn fill(at: u64, len: u64, seed: u8) {
    let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    // SAFETY: the slice is as long as the copy, and tests pass live device memory or their own buffers.
    unsafe { runtime().unwrap().hbm.copy(at, bytes.as_ptr() as u64, len) }.unwrap();
}

/// Reads memory, a device's or the host's.
pub(crate) fn bytes(at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    // SAFETY: as above.
    unsafe { runtime().unwrap().hbm.copy(bytes.as_mut_ptr() as u64, at, len) }.unwrap();
    bytes
}

/// An engine that is initialised, and finalised when dropped.
pub(crate) struct Engine {
    pub(crate) handle: usize,
    pub(crate) name: CString,
}

pub(crate) const CLIENT_SERVER: (&str, &str) = ("LocalCommRes", r#"{"version":"1.3"}"#);

/// A port that nobody listens on. Below those that the kernel hands to outgoing connections, which may take one
/// between this and its use; each is given once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let own = (std::process::id() % 100) as u16 * 200;
        let port = 12_000 + own + NEXT.fetch_add(1, Ordering::Relaxed) % 200;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A port of an NPU's own that no other engine of this state folder takes.
pub(crate) fn device_port() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 500) as u16 * 100;
    let port = 2000 + own + NEXT.fetch_add(1, Ordering::Relaxed);
    format!(r#"{{"comm_resource_config.listen_port":"{port}"}}"#)
}

pub(crate) fn initialize(handle: usize, name: &CStr, options: &[(&str, &str)]) -> u32 {
    let strings = |all: Vec<&str>| all.into_iter().map(|one| CString::new(one).unwrap()).collect::<Vec<_>>();
    let keys = strings(options.iter().map(|pair| pair.0).collect());
    let values = strings(options.iter().map(|pair| pair.1).collect());
    let keys: Vec<Text> = keys.iter().map(|one| Text::from(one.as_c_str())).collect();
    let values: Vec<Text> = values.iter().map(|one| Text::from(one.as_c_str())).collect();
    sim_hixl_initialize(handle, Text::from(name), In::from(&keys[..]), In::from(&values[..]), options.len())
}

impl Engine {
    /// A listening engine on the device that this thread is bound to.
    pub(crate) fn new(options: &[(&str, &str)]) -> Self {
        let port = device_port();
        let mut options = options.to_vec();
        if !options.iter().any(|(key, _)| *key == "GlobalResourceConfig") {
            options.push(("GlobalResourceConfig", &port));
        }
        Self::try_new(&format!("127.0.0.1:{}", free_port()), &options).unwrap()
    }

    /// A client/server engine.
    pub(crate) fn cs() -> Self {
        Self::new(&[CLIENT_SERVER])
    }

    pub(crate) fn try_new(name: &str, options: &[(&str, &str)]) -> Result<Self, u32> {
        let engine = Self { handle: sim_hixl_create(), name: CString::new(name).unwrap() };
        match initialize(engine.handle, &engine.name, options) {
            SUCCESS => Ok(engine),
            other => Err(other),
        }
    }

    pub(crate) fn name(&self) -> Text {
        Text::from(self.name.as_c_str())
    }

    pub(crate) fn register(&self, at: u64, len: u64, host: bool) -> Result<usize, u32> {
        let mut handle = 0;
        match sim_hixl_register_mem(self.handle, at, len, u32::from(host), Out::from(&mut handle)) {
            SUCCESS => Ok(handle),
            other => Err(other),
        }
    }

    pub(crate) fn device(&self, range: &Range) -> usize {
        self.register(range.va, range.len, false).unwrap()
    }

    pub(crate) fn deregister(&self, handle: usize) -> u32 {
        sim_hixl_deregister_mem(self.handle, handle)
    }

    pub(crate) fn connect(&self, to: &Engine) -> u32 {
        sim_hixl_connect(self.handle, to.name(), PATIENCE)
    }

    pub(crate) fn disconnect(&self, to: &Engine) -> u32 {
        sim_hixl_disconnect(self.handle, to.name(), PATIENCE)
    }

    pub(crate) fn sync(&self, to: &Engine, op: u32, descs: &[SimHixlDesc], ms: i32) -> u32 {
        sim_hixl_transfer_sync(self.handle, to.name(), op, In::from(descs), descs.len(), ms)
    }

    pub(crate) fn post(
        &self,
        to: &Engine,
        op: u32,
        descs: &[SimHixlDesc],
        user_data: usize,
    ) -> Result<usize, u32> {
        let mut request = 0;
        let descs_in = In::from(descs);
        let out = Out::from(&mut request);
        match sim_hixl_transfer_async(self.handle, to.name(), op, descs_in, descs.len(), user_data, out) {
            SUCCESS => Ok(request),
            other => Err(other),
        }
    }

    pub(crate) fn status(&self, request: usize) -> (u32, u32) {
        let mut status = 99;
        let code = sim_hixl_transfer_status(self.handle, request, Out::from(&mut status));
        (code, status)
    }

    /// Polls a request to its end.
    pub(crate) fn end(&self, request: usize) -> u32 {
        let mut end = WAITING;
        eventually(|| {
            let (code, status) = self.status(request);
            assert_eq!(code, SUCCESS);
            end = status;
            status != WAITING
        });
        end
    }

    pub(crate) fn async_status(&self, to: &Engine) -> u32 {
        let mut status = 99;
        assert_eq!(sim_hixl_async_status(self.handle, to.name(), Out::from(&mut status)), SUCCESS);
        status
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        sim_hixl_destroy(self.handle);
    }
}

/// Waits for what nobody tells of.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "not so after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A fault script that is in force until this is dropped; one at a time.
pub(crate) struct Faults {
    _alone: MutexGuard<'static, ()>,
}

pub(crate) fn faults(script: &str) -> Faults {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let script = CString::new(script).unwrap();
    assert_eq!(ropeway_sim_faults(Text::from(script.as_c_str())), 0);
    Faults { _alone: alone }
}

impl Drop for Faults {
    fn drop(&mut self) {
        ropeway_sim_faults(Text::from(c""));
    }
}

/// Two client/server engines on devices 0 and 1 with 4 MiB of device memory registered on each.
pub(crate) struct Two {
    pub(crate) near: Engine,
    pub(crate) far: Engine,
    pub(crate) here: Range,
    pub(crate) there: Range,
}

impl Two {
    /// Not linked; this thread ends up bound to the near side's device.
    pub(crate) fn apart(options: &[(&str, &str)]) -> Self {
        machine("a2", "");
        let (here, there) = (hbm(0, 4 << 20), hbm(1, 4 << 20));
        on(1);
        let far = Engine::new(options);
        far.device(&there);
        on(0);
        let near = Engine::new(options);
        near.device(&here);
        Self { near, far, here, there }
    }

    /// Linked from near to far.
    pub(crate) fn linked(options: &[(&str, &str)]) -> Self {
        let two = Self::apart(options);
        assert_eq!(two.near.connect(&two.far), SUCCESS);
        two
    }

    pub(crate) fn desc(&self, offset: u64, len: u64) -> SimHixlDesc {
        SimHixlDesc { local: self.here.va + offset, remote: self.there.va + offset, len }
    }
}

/// A test in a process of its own: `--exact` it with this set, and it plays its part; without, it is over at once.
pub(crate) fn part() -> Option<String> {
    std::env::var("LINKS_PART").ok()
}

/// A process that plays a part.
pub(crate) struct Child {
    process: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    over: Option<std::sync::mpsc::Sender<()>>,
}

impl Child {
    /// Starts the test `test` of this binary in the part `part` on a node.
    pub(crate) fn new(test: &str, part: &str, node: &str) -> Self {
        Self::with(test, part, node, &[])
    }

    /// The same with more variables.
    pub(crate) fn with(test: &str, part: &str, node: &str, variables: &[(&str, &str)]) -> Self {
        use std::io::BufRead;
        use std::process::{Command, Stdio};
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("LINKS_PART", part)
            .env("LINKS_NODE", node)
            .envs(variables.iter().copied())
            .env("ROPEWAY_SIM_STATE", state())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(process.stdout.take().unwrap()).lines();
        // A child that hangs is ended, and whoever listens to it hears that.
        let (over, watch) = std::sync::mpsc::channel::<()>();
        let pid = process.id() as i32;
        std::thread::spawn(move || {
            if watch.recv_timeout(Duration::from_secs(120)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                // SAFETY: a plain call; the child is not waited for before the other end of the channel is gone.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        Self { process, lines, over: Some(over) }
    }

    /// The next line that it said, as words.
    pub(crate) fn hear(&mut self) -> Vec<String> {
        loop {
            let line = self.lines.next().expect("the child ended early").unwrap();
            if let Some((_, said)) = line.split_once("child: ") {
                return said.split(' ').map(str::to_owned).collect();
            }
        }
    }

    /// Says a line to it, and hears the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Vec<String> {
        use std::io::Write;
        let to = self.process.stdin.as_mut().unwrap();
        writeln!(to, "{line}").unwrap();
        to.flush().unwrap();
        self.hear()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a plain call with the number of a child that was not waited for.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
    }

    /// Kills it and waits for it.
    pub(crate) fn kill(&mut self) {
        self.over = None;
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.over = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says a line to the parent.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "child: {line}").unwrap();
    out.flush().unwrap();
}

/// The next line of the parent, as words; nothing when it is gone.
pub(crate) fn listen() -> Option<Vec<String>> {
    let mut line = String::new();
    let count = std::io::stdin().read_line(&mut line).unwrap();
    (count > 0).then(|| line.trim().split(' ').map(str::to_owned).collect())
}
