//! What a peer that swallows connects costs the transfers to another peer. Needs a fault, so the software CANN.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ropeway::{Descriptor, Engine};
use ropeway_ascend::Cann;
use serde::Serialize;

use crate::Failure;
use crate::cli::{self, Auth, Npu, Op, Targets, Transport};
use crate::control::{Answer, Ask, Memory};
use crate::engine::{self, Connection, Published};
use crate::far::Far;
use crate::pd;
use crate::pool::Pool;
use crate::stats::Quartiles;
use crate::work::{Spec, Work};

/// Turns of each kind.
const ROUNDS: usize = 8;
/// Transfers of a turn.
const EACH: usize = 250;
/// Bytes of a block, and blocks of a transfer.
const BLOCK: u64 = 16 << 10;
const BLOCKS: u64 = 16;
/// How long the library keeps a connect to itself: longer than a turn takes.
const SWALLOWED_MS: u32 = 4_000;
/// Longer than that.
const CONNECT: Duration = Duration::from_secs(60);

/// Both kinds of turns; the names are those of the JSON line.
#[derive(Serialize)]
pub(super) struct Figures {
    command: &'static str,
    what: &'static str,
    /// Always true: a real library cannot be told to swallow connects.
    simulated: bool,
    transport: &'static str,
    transfers: usize,
    alone_p50_us: f64,
    alone_p99_us: f64,
    beside_p50_us: f64,
    beside_p99_us: f64,
    /// p99 beside over p99 alone, turn by turn.
    p99_ratio: Quartiles,
}

pub(super) fn run(options: &Targets) -> Result<Figures, Failure> {
    let transport = options.transport.unwrap_or(Transport::Hixl);
    let cann = Cann::open(options.npu.cann.as_deref())?;
    let simulator = Simulator::of(cann)?;
    let near = with_device(options, transport, 0);
    let consumer = engine::open(&near, None, &Auth::default())?;
    let mut quick = Peer::start(&with_device(options, transport, 1), Op::Read)?;
    let mut swallowed = Peer::start(&with_device(options, transport, 2), Op::Read)?;
    let work = Work::new(&spec())?;
    let pool = Arc::new(Pool::of(Memory::Device, work.pool_bytes)?);
    let published = Published::new(&consumer, &pool, Memory::Device, &work.groups)?;
    let connection = Connection::new(&consumer, &quick.descriptor, &published)?;
    let (mut alone, mut beside, mut ratios) = (histogram(), histogram(), Vec::new());
    turn(&mut quick, &connection, &work, &mut histogram())?;
    for _ in 0..ROUNDS {
        let before = turn(&mut quick, &connection, &work, &mut alone)?;
        simulator.faults(&format!("blackhole_connect ms={SWALLOWED_MS}"))?;
        let attempt = Attempt::start(&consumer, &swallowed.descriptor)?;
        let during = turn(&mut quick, &connection, &work, &mut beside)?;
        let outcome = attempt.end(&simulator)?;
        if outcome {
            return Err("the connect that was to be swallowed got through".into());
        }
        ratios.push(during / before);
        swallowed = Peer::start(&with_device(options, transport, 2), Op::Read)?;
    }
    let at = |times: &Histogram<u64>, quantile| pd::at(times, quantile) / 1e3;
    Ok(Figures {
        command: "targets",
        what: "transfers to a peer while another swallows connects",
        simulated: cann.sys().is_simulated(),
        transport: connection.transport(),
        transfers: ROUNDS * EACH,
        alone_p50_us: at(&alone, 0.5),
        alone_p99_us: at(&alone, 0.99),
        beside_p50_us: at(&beside, 0.5),
        beside_p99_us: at(&beside, 0.99),
        p99_ratio: Quartiles::of(ratios),
    })
}

fn with_device(options: &Targets, transport: Transport, device: u32) -> cli::Engine {
    let npu = Npu { devices: vec![device], ..options.npu.clone() };
    cli::Engine { npu, ..cli::Engine::new(transport, 1, 1) }
}

fn spec() -> Spec {
    Spec::Scattered { block: BLOCK, bytes: BLOCK * BLOCKS, pool: 2 << 20, seed: 1 }
}

/// A producer in a process of its own.
struct Peer {
    far: Far,
    descriptor: Descriptor,
}

impl Peer {
    fn start(options: &cli::Engine, op: Op) -> Result<Self, Failure> {
        let mut far = Far::spawn(options)?;
        let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
            return Err("the producer did not say who it is".into());
        };
        far.ask(Ask::Pool { spec: spec(), memory: Memory::Device, op })?;
        far.tell(Ask::Publish)?;
        Ok(Self { far, descriptor: descriptor.parse()? })
    }
}

/// Transfers one after the other; gives their p99 in ns.
fn turn(
    peer: &mut Peer,
    connection: &Connection,
    work: &Work,
    times: &mut Histogram<u64>,
) -> Result<f64, Failure> {
    let Answer::Lease { token } = peer.far.ask(Ask::Lease { request: 0 })? else {
        return Err("the producer gave no lease".into());
    };
    let grant = connection.claim(&token)?;
    let plan = connection.plan(&grant, &work.requests[0], Op::Read)?;
    let mut own = histogram();
    for _ in 0..EACH {
        let start = Instant::now();
        engine::wait(&engine::submit(connection, &plan)?)?;
        own.record(start.elapsed().as_nanos() as u64)?;
    }
    times.add(&own)?;
    drop((plan, grant));
    peer.far.tell(Ask::Settle)?;
    Ok(pd::at(&own, 0.99))
}

/// A connect that does not get through, on a thread of its own.
struct Attempt {
    thread: std::thread::JoinHandle<bool>,
}

impl Attempt {
    fn start(engine: &Engine, descriptor: &Descriptor) -> Result<Self, Failure> {
        let connecting = engine.connect(descriptor, CONNECT)?;
        let thread = std::thread::spawn(move || connecting.wait().is_ok());
        // Until the library has the connect.
        std::thread::sleep(Duration::from_millis(200));
        Ok(Self { thread })
    }

    /// Whether it ended while it was to be swallowed, or got through.
    fn end(self, simulator: &Simulator) -> Result<bool, Failure> {
        let over = self.thread.is_finished();
        let through = self.thread.join().map_err(|_| "the connecting thread panicked")?;
        simulator.faults("")?;
        Ok(over || through)
    }
}

/// The software CANN's own switches.
struct Simulator {
    faults: extern "C" fn(*const c_char) -> c_int,
}

impl Simulator {
    fn of(cann: &Cann) -> Result<Self, Failure> {
        if !cann.sys().is_simulated() {
            return Err(
                "only the software CANN can be told to swallow connects (cargo xtask sim-cann)".into()
            );
        }
        let file: PathBuf = cann.sys().root().join("lib64/libascend_sim.so");
        let name = CString::new(file.as_os_str().as_bytes())?;
        // SAFETY: the library is loaded already, by its dependants; nothing runs for opening it again.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return Err(format!("{} is not loaded", file.display()).into());
        }
        // SAFETY: a handle that is never closed, and a C string.
        let symbol: *mut c_void = unsafe { libc::dlsym(handle, c"ropeway_sim_faults".as_ptr()) };
        if symbol.is_null() {
            return Err("this software CANN takes no faults".into());
        }
        // SAFETY: the simulator exports it with this signature.
        let faults =
            unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(symbol) };
        Ok(Self { faults })
    }

    /// Puts another script in place of the one in force.
    fn faults(&self, script: &str) -> Result<(), Failure> {
        let script = CString::new(script)?;
        match (self.faults)(script.as_ptr()) {
            0 => Ok(()),
            code => Err(format!("the simulator refuses the script with {code}").into()),
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}
