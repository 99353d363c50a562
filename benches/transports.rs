//! A prompt's worth of blocks over each transport, between two engines of one process.

#![expect(missing_docs, reason = "criterion's macros")]

mod pair;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use pair::{Pair, run};
use ropeway::TransportKind;

fn transports(c: &mut Criterion) {
    for (name, block, blocks) in [("4k", 4 << 10, 4_096), ("16k", 16 << 10, 2_048), ("128k", 128 << 10, 512)]
    {
        let mut group = c.benchmark_group(format!("read_{name}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.throughput(Throughput::Bytes(block * u64::from(blocks)));
        for kind in [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp] {
            let pair = Pair::new(kind, block, blocks, 64, None);
            let plan = pair.read(blocks);
            group.bench_function(kind.name(), |b| b.iter(|| run(&plan)));
        }
        group.finish();
    }
}

criterion_group!(benches, transports);
criterion_main!(benches);
