//! What a descriptor costs through `hixl`, over the library's own call. On the software CANN, which completes at once: the
//! figures say what we add, nothing of a real library or NPU.
#![expect(clippy::print_stdout, reason = "it reports on stdout")]

#[path = "../tests/posting/mod.rs"]
mod posting;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use posting::{BLOCK, BLOCKS, Pair, STRIDE, run};
use ropeway_ascend::link::Desc;
use ropeway_ascend::{Npu, NpuConfig};
use ropeway_core::Limits;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::Janitor;

const ROUNDS: usize = 60;
/// Descriptors of one request, as the transport cuts them.
const REQUEST: usize = 1_920;

fn main() {
    let simulator = match Simulator::start(&SimCann::default().optimised()) {
        Ok(simulator) => simulator,
        Err(why) => {
            println!("cannot run: {why}");
            return;
        }
    };
    let own = library(simulator);
    println!("simulated, {BLOCKS} descriptors of {BLOCK} bytes, best of {ROUNDS}");
    println!("the library's own calls     {own:8.1} ns/descriptor");
    for (name, c_api) in [("hixl by the class", false), ("hixl by the C functions", true)] {
        let pair = Pair::new(simulator, c_api);
        let plan = pair.read(BLOCKS);
        let ours = best(|| run(&plan)).as_nanos() as f64 / f64::from(BLOCKS);
        println!("{name:27} {ours:8.1} ns/descriptor, {:+.1} over the library", ours - own);
    }
}

fn best(mut work: impl FnMut()) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    times.min().unwrap_or_default()
}

/// The simulator's functions under the class, called with the same descriptors: nanoseconds for each.
fn library(simulator: &Simulator) -> f64 {
    let path = CString::new(simulator.root().join("lib64/libascend_sim.so").display().to_string()).unwrap();
    // SAFETY: opened already; never closed.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    let sim = Sim(handle);
    let open = |device: u32, port: u16| {
        let config = NpuConfig::new(device).with_cann_path(simulator.root()).with_node("node0");
        let npu = Npu::open(config, &Limits::default(), &Janitor::start().unwrap()).unwrap();
        let memory = npu.alloc(u64::from(BLOCKS) * STRIDE).unwrap();
        std::mem::forget(npu.device().enter().unwrap());
        let address = memory.device().unwrap().address();
        let engine = sim.start(&CString::new(format!("127.0.0.1:{port}")).unwrap(), device, address);
        (npu, memory, address, engine)
    };
    let (_one, _theirs, theirs, _served) = open(0, 17_001);
    let (_two, _ours, ours, engine) = open(1, 17_002);
    let remote = c"127.0.0.1:17001";
    sim.connect(engine, remote);
    let descs: Vec<_> = (0..u64::from(BLOCKS))
        .map(|at| Desc { local: ours + at * STRIDE, remote: theirs + at * STRIDE, len: BLOCK })
        .collect();
    let time = best(|| descs.chunks(REQUEST).for_each(|request| sim.read(engine, remote, request)));
    time.as_nanos() as f64 / f64::from(BLOCKS)
}

/// Functions of the simulator, by name.
struct Sim(*mut c_void);

type Engine = *mut c_void;

impl Sim {
    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: a handle that is never closed.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    fn start(&self, name: &CStr, device: u32, address: u64) -> Engine {
        type Create = extern "C" fn() -> Engine;
        type Initialize =
            extern "C" fn(Engine, *const c_char, *const *const c_char, *const *const c_char, usize) -> u32;
        type Register = extern "C" fn(Engine, u64, u64, u32, *mut *mut c_void) -> u32;
        // SAFETY: the signature of the simulator's header.
        let create = unsafe { std::mem::transmute::<*mut c_void, Create>(self.symbol(c"sim_hixl_create")) };
        // SAFETY: as above.
        let initialize =
            unsafe { std::mem::transmute::<*mut c_void, Initialize>(self.symbol(c"sim_hixl_initialize")) };
        // SAFETY: as above.
        let register =
            unsafe { std::mem::transmute::<*mut c_void, Register>(self.symbol(c"sim_hixl_register_mem")) };
        let engine = create();
        let comm = CString::new(format!(
            r#"{{"version":"1.3","net_instance_id":"n","endpoint_list":[{{"protocol":"hccs","comm_id":"{device}","placement":"device"}}]}}"#
        ))
        .unwrap();
        let resources = c"{\"comm_resource_config.listen_port\":\"15999\"}";
        let keys = [c"BufferPool".as_ptr(), c"GlobalResourceConfig".as_ptr(), c"LocalCommRes".as_ptr()];
        let values = [c"0:0".as_ptr(), resources.as_ptr(), comm.as_ptr()];
        assert_eq!(initialize(engine, name.as_ptr(), keys.as_ptr(), values.as_ptr(), 3), 0);
        assert_eq!(register(engine, address, u64::from(BLOCKS) * STRIDE, 0, &mut null_mut()), 0);
        engine
    }

    fn connect(&self, engine: Engine, remote: &CStr) {
        type Connect = extern "C" fn(Engine, *const c_char, i32) -> u32;
        // SAFETY: the signature of the simulator's header.
        let connect =
            unsafe { std::mem::transmute::<*mut c_void, Connect>(self.symbol(c"sim_hixl_connect")) };
        assert_eq!(connect(engine, remote.as_ptr(), 5_000), 0);
    }

    fn read(&self, engine: Engine, remote: &CStr, descs: &[Desc]) {
        type Transfer = extern "C" fn(
            Engine,
            *const c_char,
            u32,
            *const Desc,
            usize,
            *mut c_void,
            *mut *mut c_void,
        ) -> u32;
        type Status = extern "C" fn(Engine, *mut c_void, *mut u32) -> u32;
        // SAFETY: the signature of the simulator's header.
        let transfer =
            unsafe { std::mem::transmute::<*mut c_void, Transfer>(self.symbol(c"sim_hixl_transfer_async")) };
        // SAFETY: as above.
        let status =
            unsafe { std::mem::transmute::<*mut c_void, Status>(self.symbol(c"sim_hixl_transfer_status")) };
        let (mut request, mut state) = (null_mut(), 0);
        let code =
            transfer(engine, remote.as_ptr(), 0, descs.as_ptr(), descs.len(), null_mut(), &mut request);
        assert_eq!(code, 0);
        while state == 0 {
            assert_eq!(status(engine, request, &mut state), 0);
        }
        assert_eq!(state, 1);
    }
}
