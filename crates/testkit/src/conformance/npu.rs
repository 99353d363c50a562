//! NPUs under the facts: the software CANN's, or real ones.

use std::ops::RangeInclusive;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ropeway::{Engine, NpuConfig, Region};

use crate::cann::SimCann;
use crate::simulator::Simulator;

/// Set to the two devices to use (`0,1`) where the facts are to run on real NPUs.
const HARDWARE: &str = "ROPEWAY_CONFORMANCE_DEVICES";

/// The chip that is simulated, for the owner in another process.
const CHIP: &str = "ROPEWAY_TEST_CHIP";

/// The chip that this process simulates, unless it is an A3.
static PLAYED: OnceLock<&'static str> = OnceLock::new();

/// The simulated node that a process is on.
const NODE: &str = "ROPEWAY_SIM_NODE";

/// Which interface of HIXL, where it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    /// The C++ class, through the shim.
    Class,
    /// The C functions.
    C,
}

/// What tells that a region's memory was let go of.
pub(super) type Held = Arc<()>;

impl Api {
    /// How a side's engine opens its NPU: importers on the first device, owners on the second.
    ///
    /// # Panics
    /// There is neither hardware nor a way to build the software CANN.
    pub fn config(self, owner: bool) -> NpuConfig {
        let config = match std::env::var(HARDWARE) {
            // Shorter than what is safe to rely on: a fact waits for several ends in a row, and bytes that come later than
            // this are what `ropeway-bench experiment destroy` is there to find.
            Ok(devices) => NpuConfig::new(device(&devices, owner)).with_hold(Duration::from_secs(5)),
            Err(_) => simulated(u32::from(owner)),
        };
        config.with_c_api(self == Self::C)
    }
}

/// The environment for an owner in another process: it sees the same simulated machine.
pub(super) fn prepare(command: &mut Command, across: bool) {
    if std::env::var_os(HARDWARE).is_none() {
        command.env("ROPEWAY_SIM_STATE", simulator().state());
        if across {
            command.env(NODE, "node1");
        }
        if let Some(chip) = PLAYED.get() {
            command.env(CHIP, chip);
        }
    }
}

/// Whether this process plays with the simulator rather than with hardware.
pub fn is_simulated() -> bool {
    std::env::var_os(HARDWARE).is_none()
}

/// Simulates this chip in this process, `a2` or `a3`: to be said before the first engine.
pub fn play(chip: &'static str) {
    PLAYED.get_or_init(|| chip);
}

fn cann() -> SimCann {
    let told = std::env::var(CHIP).is_ok_and(|chip| chip == "a2").then_some("a2");
    match PLAYED.get().copied().or(told) {
        Some(chip) => SimCann::default().chip(chip),
        None => SimCann::default(),
    }
}

fn simulator() -> &'static Simulator {
    Simulator::start(&cann()).unwrap_or_else(|why| panic!("no software CANN: {why}"))
}

fn simulated(device: u32) -> NpuConfig {
    // An owner in another process has the state folder of whoever started it.
    let root = match std::env::var_os("ROPEWAY_SIM_STATE") {
        Some(_) => cann().root().unwrap_or_else(|why| panic!("no software CANN: {why}")),
        None => simulator().root().to_owned(),
    };
    let node = std::env::var(NODE).unwrap_or_else(|_| "node0".to_owned());
    // Simulated hardware has nothing in flight after a link was destroyed, unless a fault says otherwise.
    NpuConfig::new(device)
        .with_hccn_conf(root.join(format!("etc/{node}/hccn.conf")))
        .with_cann_path(root)
        .with_ports(ports())
        .with_node(node)
        .with_address([127, 0, 0, 1].into())
        .with_hold(Duration::from_millis(50))
}

/// Of this process, most likely: processes with many engines each run side by side. Below what the system gives out.
fn ports() -> RangeInclusive<u16> {
    const EACH: u16 = 128;
    let first = 18_000 + (std::process::id() % 100) as u16 * EACH;
    first..=first + EACH - 1
}

fn device(devices: &str, owner: bool) -> u32 {
    let mut named = devices.split(',').map(|device| device.trim().parse().expect("a device's number"));
    named.nth(usize::from(owner)).expect("two devices, as 0,1")
}

/// A region in HBM, and what tells that its memory was let go of. Registered as somebody else's, as torch's is.
pub(super) fn region(engine: &Engine, bytes: u64) -> (Region, Held) {
    let memory = engine.npu().expect("an NPU").alloc(bytes).expect("memory of the device");
    let address = memory.device().expect("a device's").address();
    let held = Arc::new(());
    let keep_alive = Box::new((Arc::clone(&held), memory));
    // SAFETY: the keep-alive holds the memory that the address is of.
    let region = unsafe { engine.register_npu(address, bytes, keep_alive) }.expect("registered");
    (region, held)
}
