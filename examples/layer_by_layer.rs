//! A prefill pushes each layer as soon as it is computed; the decode side counts arrivals, one bit a layer.
//!
//! `cargo run --release --example layer_by_layer`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::time::Duration;

use ropeway::{BlockId, Engine, Event, Host, LeaseOptions, Op, Rights, Start, Strided, Submit};

const WAIT: Duration = Duration::from_secs(30);
const LAYERS: u32 = 8;
const BLOCK: u64 = 128 << 10;
const BLOCKS: u32 = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (prefill, decode) = (Engine::builder().open()?, Engine::builder().open()?);
    let publish = |engine: &Engine| {
        let region = engine.alloc(Host::private(u64::from(LAYERS * BLOCKS) * BLOCK))?;
        let mut cache = engine.cache("kv").group("g0", 1);
        for layer in 0..LAYERS {
            let offset = u64::from(layer * BLOCKS) * BLOCK;
            cache = cache.part(format!("layers.{layer}.kv"), &region, Strided::dense(offset, BLOCK, BLOCKS));
        }
        Ok::<_, ropeway::Error>((region, cache.publish()?))
    };
    let ((computed, source), (arrived, target)) = (publish(&prefill)?, publish(&decode)?);

    // The decode side opens its blocks for writing; the prefill side claims them.
    let ids: Vec<BlockId> = (0..BLOCKS).map(BlockId).collect();
    let lease = target.lease(&[&ids], Rights::Write, LeaseOptions::default())?;
    let peer = prefill.connect(&decode.descriptor(), WAIT)?.wait()?;
    let grant = peer.claim(&lease.token(), WAIT)?.wait()?;
    let route = peer.route(&source, "kv", WAIT)?.wait()?;

    let mut transfers = Vec::new();
    for layer in 0..LAYERS {
        // Submitted before the layer is computed; it starts when the event fires (on an NPU, a stream's event).
        let done = Event::new();
        let part = layer as usize;
        let plan = route.plan(Op::Write, &grant, Some(part..part + 1), &[&ids], &[&ids])?;
        let submit = Submit::default().start(Start::AfterEvent(done.clone())).notify(layer);
        transfers.push(plan.submit(submit)?);
        computed.fill(u64::from(layer * BLOCKS) * BLOCK, u64::from(BLOCKS) * BLOCK, layer as u8 + 1)?;
        done.fire();
    }
    for transfer in &transfers {
        transfer.wait(WAIT).ok_or("not done in time")??;
    }
    assert!(lease.wait_arrivals(LAYERS, WAIT));
    for layer in 0..LAYERS {
        let mut byte = [0];
        arrived.read(u64::from(layer * BLOCKS) * BLOCK, &mut byte)?;
        println!("layer {layer}: arrived {}, first byte {}", lease.arrived(layer), byte[0]);
        assert_eq!(byte[0], layer as u8 + 1);
    }
    Ok(())
}
