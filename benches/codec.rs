//! Control messages: a heartbeat, a claim's answer on a long prompt, a cache of 234 parts.

#![expect(missing_docs, reason = "criterion's macros")]

use std::sync::Arc;

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use ropeway::{BlockId, CacheId, CacheLayout, GrantId, Limits, RegionId, Rights, Strided};
use ropeway_core::BlockSet;
use ropeway_core::wire::message::ClaimInfo;
use ropeway_core::wire::{BlockSpans, FrameDecoder, Message, decode_layout, encode_frame, encode_layout};

fn layout(parts: u64) -> CacheLayout {
    let region = RegionId { slot: 0, generation: 1 };
    let mut spec = CacheLayout::builder("kv").group("full", 1);
    for part in 0..parts {
        spec = spec.part(format!("layers.{part}.kv"), region, Strided::dense(part << 30, 131_072, 8_192));
    }
    spec.build(|_| Some(1 << 40), &Limits::default()).expect("a layout")
}

fn codec(c: &mut Criterion) {
    let limits = Limits::default();
    // Every other block: the worst case, one span a block.
    let ids: Vec<BlockId> = (0..4_096).step_by(2).map(BlockId).collect();
    let set = BlockSet::new(&layout(1), &[&ids], &limits).expect("a set");
    let claimed = Message::Claimed {
        request: 1,
        info: ClaimInfo {
            grant: GrantId { slot: 1, generation: 1 },
            cache: CacheId { slot: 0, generation: 1 },
            rights: Rights::Read,
            ttl_ms: 30_000,
            blocks: Arc::new(BlockSpans::from(&set)),
        },
    };
    for (name, message) in
        [("heartbeat", Message::Heartbeat { sequence: 7 }), ("claimed_2048_spans", claimed)]
    {
        let mut frame = BytesMut::new();
        c.bench_function(&format!("encode_{name}"), |b| {
            b.iter(|| {
                frame.clear();
                encode_frame(&message, 1, &mut frame);
            });
        });
        c.bench_function(&format!("decode_{name}"), |b| {
            b.iter(|| {
                let mut decoder = FrameDecoder::new(limits.control_frame_bytes());
                decoder.set_version(1);
                decoder.push(&frame).expect("a frame");
                decoder.next_message().expect("a message").expect("whole")
            });
        });
    }
    let big = layout(234);
    let bytes = encode_layout(big.spec());
    c.bench_function("encode_layout_234_parts", |b| b.iter(|| encode_layout(big.spec())));
    c.bench_function("decode_layout_234_parts", |b| {
        b.iter(|| decode_layout(&bytes, &limits).expect("a layout"))
    });
}

criterion_group!(benches, codec);
criterion_main!(benches);
