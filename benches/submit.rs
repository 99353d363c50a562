//! What the engine costs beside the copy: one small read, and bookkeeping per merged run with a routine that copies
//! nothing.

#![expect(missing_docs, reason = "criterion's macros")]

mod pair;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pair::{Pair, run};
use ropeway::{Calibration, TransportKind};
use ropeway_transport::copy::Routine;

fn small_reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_4k");
    let (from, mut to) = (vec![1_u8; 4096], vec![0_u8; 4096]);
    group.bench_function("bare_copy", |b| {
        b.iter(|| {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        });
    });
    for kind in [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp] {
        let pair = Pair::new(kind, 4096, 16, 0, None);
        let plan = pair.read(1);
        group.bench_function(kind.name(), |b| b.iter(|| run(&plan)));
    }
    group.finish();
}

fn bookkeeping(c: &mut Criterion) {
    const RUNS: u32 = 65_536;
    let nothing = Calibration::of_this_machine().with_routine(Routine::Null);
    // 64 bytes apart, so that no two blocks merge; small blocks keep the regions small.
    let pair = Pair::new(TransportKind::Loopback, 4096, RUNS, 64, Some(nothing));
    let plan = pair.read(RUNS);
    assert_eq!(plan.runs(), u64::from(RUNS));
    let mut group = c.benchmark_group("bookkeeping");
    group.throughput(Throughput::Elements(RUNS.into()));
    group.bench_function("submit_to_completion_null_copy", |b| b.iter(|| run(&plan)));
    group.finish();
}

criterion_group!(benches, small_reads, bookkeeping);
criterion_main!(benches);
