//! What this machine can do at best: the C reference alone, without the engine.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::{Limits, Op};
use crate::output;
use crate::pool::Pool;
use crate::reference::{self, Crew, Desc, Routine, Wake};
use crate::stats::{Quartiles, gb};
use crate::usage;
use crate::workload::{self, Draw};

/// Larger than any cache: both sides of a copy are cold.
const COLD_POOL: u64 = 256 << 20;
/// Stays in the last cache of most machines, with its destination.
const HOT_POOL: u64 = 2 << 20;

/// One figure: a way of moving bytes, and how fast it was.
#[derive(Serialize)]
struct Speed {
    limit: &'static str,
    memory: &'static str,
    how: &'static str,
    block_bytes: u64,
    threads: u32,
    gbps_best: f64,
    gbps_median: f64,
    gb_per_cpu_s: f64,
}

/// Round trips of one kind.
#[derive(Serialize)]
struct RoundTrip {
    limit: &'static str,
    how: &'static str,
    p50_us: f64,
    p99_us: f64,
}

pub(crate) fn run(options: &Limits) -> io::Result<()> {
    let machine = Machine::new(options)?;
    let mut speeds = Vec::new();
    let bar = output::progress(machine.steps(), "limits");
    for (memory, pools) in [("private", &machine.private), ("memfd", &machine.shared)] {
        for &(temperature, size) in &[("hot", HOT_POOL), ("cold", COLD_POOL)] {
            for &block in &machine.blocks {
                for threads in machine.threads() {
                    for routine in Routine::ALL {
                        let how = (temperature, routine);
                        speeds.push(machine.copy(memory, pools, how, size.max(block), block, threads)?);
                        bar.inc(1);
                    }
                }
            }
        }
        for &block in &machine.blocks {
            for threads in machine.threads() {
                speeds.push(machine.kernel(memory, pools, block, threads)?);
                bar.inc(1);
            }
        }
    }
    for &block in &machine.blocks {
        for streams in machine.threads() {
            speeds.push(machine.sockets(block, streams)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let trips = machine.round_trips()?;
    print(options, &speeds, &trips)
}

struct Machine {
    blocks: Vec<u64>,
    rounds: usize,
    private: [Pool; 2],
    shared: [Pool; 2],
}

impl Machine {
    fn new(options: &Limits) -> io::Result<Self> {
        let blocks = if options.quick {
            vec![4 << 10, 128 << 10]
        } else {
            vec![4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20]
        };
        let machine = Self {
            blocks,
            rounds: if options.quick { 3 } else { 9 },
            private: [Pool::private(COLD_POOL as usize)?, Pool::private(COLD_POOL as usize)?],
            shared: [Pool::shared(COLD_POOL as usize)?, Pool::shared(COLD_POOL as usize)?],
        };
        for pool in machine.private.iter().chain(&machine.shared) {
            crate::pattern::fill(pool, 1);
        }
        Ok(machine)
    }

    fn threads(&self) -> Vec<u32> {
        let mut threads = vec![1, usage::cores()];
        threads.dedup();
        threads
    }

    fn steps(&self) -> u64 {
        (self.blocks.len() * self.threads().len() * (2 * (2 * Routine::ALL.len() + 1) + 1)) as u64
    }

    fn copy(
        &self,
        memory: &'static str,
        [local, remote]: &[Pool; 2],
        (temperature, routine): (&'static str, Routine),
        size: u64,
        block: u64,
        threads: u32,
    ) -> io::Result<Speed> {
        let mut crew = Crew::open(threads)?;
        let list = list(block, size);
        let how = match (temperature, routine) {
            ("hot", Routine::Plain) => "copy hot plain",
            ("hot", Routine::Streaming) => "copy hot streaming",
            (_, Routine::Plain) => "copy cold plain",
            (_, Routine::Streaming) => "copy cold streaming",
        };
        // A hot batch is over in 100 us: several make one repetition.
        let again = if temperature == "hot" { 32 } else { 1 };
        let taken = self.measure(|| {
            for _ in 0..again {
                crew.copy(Op::Read, routine, local, remote, &list)?;
            }
            Ok(())
        })?;
        Ok(taken.speed(memory, how, &list, again, (block, threads)))
    }

    fn kernel(
        &self,
        memory: &'static str,
        [local, remote]: &[Pool; 2],
        block: u64,
        threads: u32,
    ) -> io::Result<Speed> {
        let mut crew = Crew::open(threads)?;
        let list = list(block, COLD_POOL);
        let pid = std::process::id() as i32;
        let taken = self.measure(|| crew.cma(Op::Read, pid, local, remote.base() as u64, &list))?;
        Ok(taken.speed(memory, "cma (process_vm_readv)", &list, 1, (block, threads)))
    }

    fn sockets(&self, block: u64, streams: u32) -> io::Result<Speed> {
        let mut crew = Crew::open(streams)?;
        let list = list(block, COLD_POOL);
        let [local, remote] = &self.private;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let taken = std::thread::scope(|scope| {
            let mut sockets = Vec::new();
            for share in 0..streams {
                let ours = TcpStream::connect(listener.local_addr()?)?;
                let (theirs, _) = listener.accept()?;
                reference::tune(&ours);
                reference::tune(&theirs);
                sockets.push(ours);
                let list = &list;
                scope.spawn(move || reference::serve(&theirs, share, streams, remote, list));
            }
            // The sockets are dropped here, which ends the serving threads.
            self.measure(|| crew.stream(Op::Read, &sockets, local, &list))
        })?;
        Ok(taken.speed("private", "tcp (loopback)", &list, 1, (block, streams)))
    }

    fn round_trips(&self) -> io::Result<Vec<RoundTrip>> {
        let rounds = self.rounds * 300;
        let mut trips = Vec::new();
        for (how, wake) in [
            ("spin (two threads)", Wake::Spin),
            ("futex (two threads)", Wake::Futex),
            ("eventfd (two threads)", Wake::EventFd),
        ] {
            // Where both threads have to share a core, every round of spinning costs a scheduler slice.
            let rounds = if wake == Wake::Spin { 200 } else { rounds };
            trips.push(RoundTrip::of(how, &reference::wake(wake, rounds)?));
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let (other, _) = listener.accept()?;
        let pinged = std::thread::scope(|scope| {
            reference::tune(&socket);
            reference::tune(&other);
            scope.spawn(move || reference::pong(&other));
            let pinged = reference::ping(&socket, rounds);
            drop(socket);
            pinged
        })?;
        trips.push(RoundTrip::of("tcp, blocking", &pinged));
        Ok(trips)
    }

    /// One round to warm up, then those that count: wall and CPU seconds.
    fn measure(&self, mut go: impl FnMut() -> io::Result<()>) -> io::Result<Taken> {
        go()?;
        let mut taken = Taken { seconds: Vec::new(), cpu: 0.0 };
        let cpu = usage::cpu_seconds(None)?;
        for _ in 0..self.rounds {
            let start = Instant::now();
            go()?;
            taken.seconds.push(start.elapsed().as_secs_f64());
        }
        taken.cpu = usage::cpu_seconds(None)? - cpu;
        Ok(taken)
    }
}

struct Taken {
    seconds: Vec<f64>,
    cpu: f64,
}

impl Taken {
    fn speed(
        &self,
        memory: &'static str,
        how: &'static str,
        list: &[Desc],
        again: u64,
        (block_bytes, threads): (u64, u32),
    ) -> Speed {
        let amount = gb(workload::bytes(list) * again);
        Speed {
            limit: "speed",
            memory,
            how,
            block_bytes,
            threads,
            gbps_best: amount / self.seconds.iter().copied().fold(f64::INFINITY, f64::min),
            gbps_median: amount / Quartiles::of(self.seconds.iter().copied()).median,
            gb_per_cpu_s: amount * self.seconds.len() as f64 / self.cpu.max(1e-9),
        }
    }
}

impl RoundTrip {
    fn of(how: &'static str, ns: &[u64]) -> Self {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
        for &ns in ns {
            histogram.record(ns).expect("the histogram grows as needed");
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self { limit: "round trip", how, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// Blocks scattered over `size` bytes of both pools, all of them named once.
fn list(block: u64, size: u64) -> Vec<Desc> {
    workload::scattered(block, (size / block) as usize, size, &mut Draw::new(1))
}

/// What the engine makes of this machine.
#[derive(Serialize)]
struct Chosen {
    limit: &'static str,
    threads: u32,
    cold_from_bytes: u64,
    words: String,
}

fn print(options: &Limits, speeds: &[Speed], trips: &[RoundTrip]) -> io::Result<()> {
    let calibration = ropeway::Calibration::of_this_machine();
    if options.json {
        speeds.iter().try_for_each(output::json_line)?;
        trips.iter().try_for_each(output::json_line)?;
        return output::json_line(&Chosen {
            limit: "calibration",
            threads: calibration.threads(),
            cold_from_bytes: calibration.cold_from(),
            words: calibration.to_string(),
        });
    }
    let rows: Vec<Vec<String>> = speeds
        .iter()
        .map(|speed| {
            vec![
                speed.how.to_owned(),
                speed.memory.to_owned(),
                output::block(speed.block_bytes),
                speed.threads.to_string(),
                format!("{:.2}", speed.gbps_best),
                format!("{:.2}", speed.gbps_median),
                format!("{:.2}", speed.gb_per_cpu_s),
            ]
        })
        .collect();
    output::table(
        "Moving scattered blocks, C reference (GB = 10^9 bytes; hot: 2 MiB pools, cold: 256 MiB pools)",
        &["how", "memory", "block", "threads", "GB/s best", "GB/s median", "GB per CPU s"],
        &rows,
    )?;
    let rows: Vec<Vec<String>> = trips
        .iter()
        .map(|trip| vec![trip.how.to_owned(), format!("{:.2}", trip.p50_us), format!("{:.2}", trip.p99_us)])
        .collect();
    output::table("Round trips of 8 bytes", &["how", "p50 µs", "p99 µs"], &rows)?;
    output::line(format_args!("\nThe engine's calibration chose: {calibration}"))
}
